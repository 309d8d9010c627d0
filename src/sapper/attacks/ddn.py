"""Decoupled direction and norm: the gradient says where to go, and whether the last point fooled says how far.

Each step follows the gradient, then the change is scaled to a norm of its own, which shrinks by a factor after a success
and grows after a failure. So there is no weight between distance and loss to search for (Algorithm 1).

Differs from the authors' code: the cross-entropy is that of logits scaled to a range of 30, `loss=cross_entropy` takes
them as they are. Its gradient is 0 where a model is far too sure (logits x 100), and where all classes are about as likely
it follows all the wrong ones at once, away from the nearest. Where the gradient is zero the change keeps its direction and
only its norm adapts. Rounding is the threat's business. Under a budget the norm does not exceed it.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import half_cosine
from sapper.errors import UsageError, require_positive
from sapper.oracle import GradientOracle
from sapper.tensors import Logits, Scalars, nonzero, per_row, scaled
from sapper.threat import norm

PAPER = Paper(
    title="Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses",
    authors="J. Rony, L. G. Hafemann, L. S. Oliveira, I. Ben Ayed, R. Sabourin, E. Granger",
    year=2019,
    url="https://arxiv.org/abs/1811.09600",
    venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
)

_RANGE = 30.0
"""Of logits whose softmax is neither flat nor rounded; about a trained network's own."""


@dataclass(frozen=True, kw_only=True)
class Scaled(State):
    norm: Scalars
    """The paper's epsilon: how large the change was made, before the box cut it."""
    most: Scalars
    """The largest it may become."""


@dataclass(frozen=True, kw_only=True)
class DDN(Attack, norms={2}, paper=PAPER, minimal=True):
    """Follows the gradient on a sphere that shrinks after a success and grows after a failure."""

    steps: int = 100
    """Number of steps."""
    gamma: float = 0.05
    """By which share the norm shrinks or grows at a step."""
    first_norm: float = 1.0
    """The norm to begin with, in widths of the input's range."""
    loss: Literal["scaled", "cross_entropy", "margin"] = "scaled"
    """What to descend; scaled: the cross-entropy of logits scaled to a range of 30, whatever the model's own."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("first_norm", self.first_norm)
        if not 0 < self.gamma < 1:
            raise UsageError(f"expected gamma between 0 and 1, got {self.gamma}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Scaled:
        most = case.threat.farthest(case.x).clamp_max(case.budget)
        return Scaled(x_adv=case.x, norm=most.clamp_max(self.first_norm * case.threat.unit), most=most)

    def step(self, case: Case, oracle: GradientOracle, state: Scaled) -> Scaled:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(self._cotangent(case, logits))
        reached = case.goal.reached(logits.argmax(1), logits)

        way, _ = scaled(gradient)
        size = half_cosine(case.age, self.steps, 1.0, 0.01, case.x.dtype)
        change = (state.x_adv - case.x).sub_(way * per_row(size * case.threat.unit / norm(way, 2).clamp_min(1), way))
        grown = torch.where(reached, state.norm * (1 - self.gamma), state.norm * (1 + self.gamma))
        radius = torch.minimum(grown, state.most)
        x_adv = case.threat.clip(case.x + change / per_row(nonzero(norm(change, 2)), change) * per_row(radius, change))
        return Scaled(x_adv=x_adv, norm=radius, most=state.most)

    def _cotangent(self, case: Case, logits: Logits) -> Logits:
        """Up to a factor, which the length of a step does not depend on."""
        if self.loss != "scaled":
            return case.goal.cotangent(self.loss, logits)
        top = logits.amax(1, keepdim=True)
        return case.goal.cotangent(
            "cross_entropy", (logits - top) / nonzero(top - logits.amin(1, keepdim=True)) * _RANGE
        )
