"""What the studies of substitutes share: one theft of an oracle, and what each round's substitute is worth.

    victim = Victim("amazon", LabelsOnly(module), test.x, test.y)
    rounds = robbed(lab, victim, Plan("softmax", rounds=3))
    rounds[-1].agreement, rounds[-1].queries, fooled(lab, rounds[-1], victim, 0.3).oracle

A theft is `sapper steal` in the study's folder: what was asked and learned is not asked and learned again.
"""

import json
import zlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sapper.foreign import Foreign
from sapper.lab import Lab, answers
from sapper.models.folder import read_folder
from sapper.questions import Schedule
from sapper.scheduler import craft
from sapper.tensors import Batch, Labels
from sapper.theft import steal
from sapper.theft_spec import Round

SEEDS, HELD_OUT = 100, 50
"""The paper's: 150 test images, of which a third only measures."""


class LabelsOnly(Foreign):
    """A network behind an endpoint that tells nothing but labels, a batch at a time."""

    def __init__(self, module: nn.Module, classes: int = 10) -> None:
        super().__init__(lambda x: answers(module, torch.from_numpy(x)).numpy(), "labels", classes)
        self.hidden = module  # so that its weights tell one oracle from another


@dataclass(frozen=True)
class Victim:
    """An oracle, and the test samples that all is measured on; the first of them are the seeds, as in the papers."""

    name: str
    module: nn.Module
    x: Batch = field(repr=False)
    y: Labels = field(repr=False)
    seeds: Tensor | None = field(default=None, repr=False)
    """Instead of the first test samples; those held out stand behind them. Another name goes with it."""

    @cached_property
    def said(self) -> Labels:
        """Its answers to them."""
        return answers(self.module, self.x)

    @property
    def accuracy(self) -> float:
        return float((self.said == self.y).double().mean())


@dataclass(frozen=True)
class Plan:
    """How substitutes are trained: by default as the papers say, where they do."""

    architecture: str
    rounds: int
    period: int = 0
    """tau of the periodic step; 0 is the vanilla method."""
    sigma: int | None = None
    """Rounds before reservoir sampling; None is without."""
    kappa: int = 400
    step_size: float | None = None
    """lambda; None is 0.1, or that a feature for "svm"."""
    epochs: int | None = 10
    batch_size: int | None = 100
    learning_rate: float | None = 0.01
    momentum: float | None = 0.9
    rate_schedule: Literal["linear", "constant"] = "constant"
    seeds: int = SEEDS
    bounds: tuple[float, float] = (0.0, 1.0)
    """Of the inputs that are asked about."""

    @property
    def questions(self) -> int:
        """All that the last round's substitute has learned from, if no two inputs coincide."""
        schedule = Schedule(step_size=1.0, period=self.period, sigma=self.sigma, kappa=self.kappa)
        return schedule.questions(self.seeds, self.rounds)

    @property
    def name(self) -> str:
        """Short, and of no other plan."""
        return f"{self.architecture}-{zlib.crc32(json.dumps(asdict(self)).encode()):08x}"


@dataclass(frozen=True)
class Substitute:
    """One round's."""

    round: Round
    module: nn.Module = field(repr=False)
    victim: Victim

    @property
    def queries(self) -> int:
        """Questions it has learned from; those about held-out samples are not counted, as in the papers."""
        return self.round.samples

    @property
    def agreement(self) -> float:
        """Share of the test samples that it takes for what the oracle takes them for."""
        return _share(self._said == self.victim.said)

    @property
    def accuracy(self) -> float:
        """Share of them that it has right."""
        return _share(self._said == self.victim.y)

    @cached_property
    def _said(self) -> Labels:
        return answers(self.module, self.victim.x)


@dataclass(frozen=True)
class Fooled:
    """What became of every test sample."""

    x_adv: Batch = field(repr=False)
    said: Labels = field(repr=False)
    """The oracle's answers."""
    oracle: float
    """Share that the oracle has wrong, those it had wrong before among them, as in the papers."""
    substitute: float
    """The same of the substitute."""
    carried: float
    """Of those that the substitute has wrong, the share that the oracle has wrong too."""
    changed: float
    """Share that the oracle takes for something else than before."""


def robbed(lab: Lab, victim: Victim, plan: Plan) -> list[Substitute]:
    """Every round's substitute, the seeds' first."""
    out = theft_folder(lab, victim, plan)
    seeds = victim.x[: plan.seeds + HELD_OUT] if victim.seeds is None else victim.seeds
    lab.console.print(f"   stealing {victim.name} into {plan.name}", style="dim", highlight=False)
    stolen = steal(
        victim.module, seeds, out=out, architecture=plan.architecture, rounds=plan.rounds, seeds=plan.seeds,
        held_out=HELD_OUT, period=plan.period, sigma=plan.sigma, kappa=plan.kappa, step_size=plan.step_size,
        epochs=plan.epochs, batch_size=plan.batch_size, learning_rate=plan.learning_rate, momentum=plan.momentum,
        rate_schedule=plan.rate_schedule, bounds=plan.bounds, seed=lab.seed, at_once=512,
    )  # fmt: skip
    return [
        Substitute(one, read_folder(out / "rounds" / f"{one.number:02}" / "model").module.eval(), victim)
        for one in stolen.spoils.rounds
    ]


def theft_folder(lab: Lab, victim: Victim, plan: Plan) -> Path:
    return lab.out / "thefts" / victim.name / plan.name


def fooled(lab: Lab, substitute: nn.Module, victim: Victim, eps: float, steps: int = 1) -> Fooled:
    """FGSM on the substitute, of every sample, within [0, 1]; with more `steps` the basic iterative method."""
    return judged(victim, substitute, stepped(lab, substitute, victim.x, victim.y, eps, steps))


def judged(victim: Victim, substitute: nn.Module, x_adv: Batch) -> Fooled:
    """What was made of every test sample, by any means, shown to both."""
    said, guessed = answers(victim.module, x_adv), answers(substitute, x_adv)
    mine = guessed != victim.y
    return Fooled(
        x_adv=x_adv,
        said=said,
        oracle=_share(said != victim.y),
        substitute=_share(mine),
        carried=_share((said != victim.y)[mine]),
        changed=_share(said != victim.said),
    )


def stepped(
    lab: Lab, module: nn.Module, x: Batch, y: Labels, eps: float, steps: int = 1, loss: str = "cross_entropy"
) -> Batch:
    """Steps of eps/steps along the sign of the gradient, also of samples that are misclassified as they are."""
    attack = f"mifgsm:steps={steps},decay=0,loss={loss},confidence=1e9"
    return craft(module, x, y, attack=attack, threat=f"linf:{eps:g}", seed=lab.seed).x_adv


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
