"""Universal perturbation: one change, learned from some samples, that fools the model on most others too.

While samples keep their prediction, the shortest way from them, changed, to a boundary is added to the change, which is
then projected on the ball (Algorithm 1; the way is DeepFool's in l2, in a ball of linf too). So it learns before it
attacks: `sapper.fit` in Python; `sapper audit` does so on the other split than the one it attacks, keeps what was learned
in the run folder's `learned/`, and takes it from there, or from any run, by `universal:file=…`.

Differs from the paper: the change is learned from samples as they can be submitted, clipped into the box, lest it count
on what clipping takes away; the change itself is never clipped. The ways of a mini-batch are added at once, `batch=1` is
the paper's; the pass that fools most counts, not the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle, LabelOracle
from sapper.perturbation import Perturbation
from sapper.projections import nearest_boundary
from sapper.tensors import Batch, Counts, take
from sapper.threat import Threat

PAPER = Paper(
    title="Universal Adversarial Perturbations",
    authors="S.-M. Moosavi-Dezfooli, A. Fawzi, O. Fawzi, P. Frossard",
    year=2017,
    url="https://arxiv.org/abs/1610.08401",
    venue="IEEE Conference on Computer Vision and Pattern Recognition",
)

_WAY = 2.0
"""The norm of the ways to the boundary, whatever the ball's: the paper's. In linf every pixel would move as far as any."""


@dataclass(frozen=True, kw_only=True)
class Universal(Attack, norms={2, math.inf}, paper=PAPER):
    """Adds to every sample the same change, which it has learned before from others."""

    file: str | None = None
    """A change that was learned before; without, `sapper audit` learns one from the split that it does not attack."""
    samples: int = 500
    """How many samples an audit lets it learn from."""
    passes: int = 5
    """Most passes through these."""
    enough: float = 0.8
    """The share of them to fool, at which it ends (the paper's 1 - delta)."""
    batch: int = 50
    """Samples whose ways to the boundary are added at once; 1 is the paper's."""
    way: int = 10
    """Most steps to the boundary; a sample that needs more is left out in this pass."""
    overshoot: float = 0.02
    """How far beyond the boundary, as a share of the way."""
    classes: int = 10
    """How many of the likeliest classes are looked at, the sample's own included."""
    perturbation: Perturbation | None = field(default=None, init=False)
    """What was learned."""

    def __post_init__(self) -> None:
        for name in ("samples", "passes", "batch", "way", "overshoot"):
            require_positive(name, getattr(self, name))
        if not 0 < self.enough <= 1:
            raise UsageError(f"expected enough above 0 and up to 1, got {self.enough}.")
        if self.classes < 2:
            raise UsageError(f"expected classes of 2 or more, the sample's own among them, got {self.classes}.")
        if self.file is not None:
            object.__setattr__(self, "perturbation", Perturbation.load(Path(self.file)))

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        learned = self.perturbation
        if learned is None:
            return
        if learned.change.shape != torch.Size(shape):
            raise UsageError(f"{self} is for samples of {tuple(learned.change.shape)}, these are {tuple(shape)}.")
        if (norm := learned.threat.partition(":")[0]) != str(threat).partition(":")[0]:
            raise UsageError(
                f"{self} was learned in {norm}, where the ball is another than that of {threat}: learn it anew."
            )
        if learned.bounds != (threat.lower, threat.upper):
            raise UsageError(
                f"{self} is for values from {learned.bounds}, these are from {threat.lower, threat.upper}."
            )

    def limit(self, budget: float) -> int:
        return 1

    def start(self, case: Case, oracle: LabelOracle) -> State:
        if self.perturbation is None:
            raise UsageError(
                "universal learns before it attacks: attack=sapper.fit(model, samples, attack='universal', threat=…), "
                "or universal:file=… with what was learned before."
            )
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: LabelOracle, state: State) -> State:
        assert self.perturbation is not None
        oracle.labels(state.x_adv)
        return State(x_adv=self.perturbation.applied(case.x, case.threat))

    def fit(self, oracle: GradientOracle, x: Batch, goal: Goal, threat: Threat, key: Counts) -> "Universal":
        """Learns a change under which the samples x reach their goals: another class than the model's own answer, say."""
        change, best, most = torch.zeros_like(x[0]), torch.zeros_like(x[0]), -1.0
        for number in range(self.passes):
            order = noise.uniform(key, torch.full_like(key, number), 1, torch.float64, stream=13)[:, 0].argsort()
            for rows in order.split(self.batch):
                change = self._moved(oracle, x[rows], take(goal, rows), threat, change)
            fooled = _fooled(oracle, x, goal, threat, change)
            if fooled > most:
                best, most = change, fooled
            if fooled >= self.enough:
                break
        bounds = threat.lower, threat.upper
        return self.knowing(Perturbation(best, str(self), str(threat), bounds, len(x), most))

    def knowing(self, perturbation: Perturbation) -> "Universal":
        """The same attack with what was learned."""
        learned = replace(self)
        object.__setattr__(learned, "perturbation", perturbation)
        return learned

    def _moved(self, oracle: GradientOracle, x: Batch, goal: Goal, threat: Threat, change: Tensor) -> Tensor:
        """The change, and the shortest ways of those rows that it does not fool yet."""
        way, total = torch.zeros_like(x), torch.zeros_like(change)
        for step in range(self.way + 1):
            x_adv = threat.clip(x + change + way)
            logits, pull = oracle.vjp(x_adv)
            reached = goal.reached(logits.argmax(1), logits)
            total += way[reached].sum(0)
            if bool(reached.all()) or step == self.way:
                break
            boundary = nearest_boundary(goal, x_adv, logits, pull, goal.rivals(logits, self.classes - 1), _WAY)
            way, rows = way + boundary.step(_WAY, self.overshoot), ~reached
            x, way, goal = x[rows], way[rows], take(goal, rows)
        ball = replace(threat, lower=-math.inf, upper=math.inf, quantize=None)
        return ball.project((change + total)[None], torch.zeros_like(change)[None])[0]


def _fooled(oracle: GradientOracle, x: Batch, goal: Goal, threat: Threat, change: Tensor) -> float:
    """The share of the samples that reach their goals."""
    reached = 0
    for rows in torch.arange(len(x), device=x.device).split(256):
        logits = oracle.logits(threat.clip(x[rows] + change))
        reached += int(take(goal, rows).reached(logits.argmax(1), logits).sum())
    return reached / len(x)
