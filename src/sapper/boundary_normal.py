"""The normal of a boundary that can only be asked which side a point is on (Chen et al. 2020, Eq. 16).

Points are asked about that lie a little to all sides of one at the boundary: the mean of their directions, with the sign
of the answers, points across it. In images the directions are smooth, made of the lower frequencies only, in which most of
a classifier's gradient lies: so there are fewer directions to tell apart.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Case
from sapper.errors import UsageError, require_positive
from sapper.label_search import HALVING, Searching, begun, entering, halve_on
from sapper.tensors import Batch, Counts, Mask, Scalars, choose, nonzero, per_row
from sapper.threat import norm

_LEAST_SIDE = 16
"""Features are an image, in which neighbours are alike, from this height and width."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What is known of the normal at a point."""

    here: Batch
    """At the boundary; reaches the goal."""
    planned: Counts
    """Questions to ask."""
    asked: Counts
    answers: Scalars
    """Their sum, 1 where the goal was reached and -1 elsewhere."""
    ways: Batch
    """The sum of their directions."""
    pushes: Batch
    """The sum of their directions times the answers."""

    @classmethod
    def around(cls, here: Batch, planned: Counts) -> "Probes":
        none = torch.zeros_like(here)
        return cls(
            here=here, planned=planned, asked=torch.zeros_like(planned), ways=none, pushes=none,
            answers=torch.zeros(len(here), dtype=here.dtype, device=here.device),
        )  # fmt: skip

    def question(self, case: Case, radius: float, frequencies: float) -> Batch:
        """At this share of the point's distance from the sample, as far as the box allows."""
        way = directions(case, frequencies)
        return case.threat.clip(self.here + way * per_row(self._reach(case, radius), way))

    def told(self, case: Case, x_adv: Batch, reached: Mask, radius: float) -> "Probes":
        """After the answer to a question."""
        way = (x_adv - self.here) / per_row(nonzero(self._reach(case, radius)), x_adv)
        sign = 2 * reached.to(way.dtype) - 1
        return replace(
            self, asked=self.asked + 1, answers=self.answers + sign, ways=self.ways + way,
            pushes=self.pushes + way * per_row(sign, way),
        )  # fmt: skip

    def normal(self) -> Batch:
        """Not of length 1, but the longer the more it can be trusted. The answers' mean is taken from each, unless all were
        alike (section III.C of the paper): points on a curved boundary mostly have one side around them.
        """
        mean = self.answers / self.asked.to(self.answers.dtype)
        return self.pushes - self.ways * per_row(mean * (mean.abs() < 1), self.ways)

    def _reach(self, case: Case, radius: float) -> Scalars:
        share = max(radius, 8 * torch.finfo(case.x.dtype).eps)
        return norm(self.here - case.x, 2) * share


@dataclass(frozen=True, kw_only=True)
class Estimating(Searching):
    probes: Probes
    round: Counts
    """Rounds whose probes have begun."""
    size: Scalars
    """How far to go along the normal, in the threat's norm."""


Estimator = TypeVar("Estimator", bound=Estimating)

PROBING, GOING = range(HALVING + 1, HALVING + 3)


@dataclass(frozen=True)
class Rounds:
    """What attacks that follow an estimated normal do in a round: find the boundary, probe it, and go."""

    steps: int
    """Questions altogether."""
    first_probes: int
    """Questions for the first normal; in round t √t times as many, and in the last all that are left."""
    radius: float
    """The probes' distance, as a share of the distance from the sample."""
    frequencies: float

    def check(self) -> None:
        """Raises:
        UsageError: A number that makes no sense.
        """
        for name in ("steps", "first_probes"):
            require_positive(name, getattr(self, name))
        for name in ("radius", "frequencies"):
            require_share(name, getattr(self, name))

    def begun(self, case: Case) -> Estimating:
        first = begun(case)
        none = torch.zeros_like(case.age)
        return Estimating(**vars(first), probes=Probes.around(first.x_adv, none), round=none, size=first.bracket.low)

    def halved(self, case: Case, state: Estimator, reached: Mask) -> Estimator:
        """After the answer about the middle: on, or the next round, at the boundary."""
        state = halve_on(case, state, reached)
        narrow = state.bracket.is_narrow(self.tolerance(case))
        return (
            choose(narrow, self.next(case, state, state.bracket.boundary(case)), state) if bool(narrow.any()) else state
        )

    def next(self, case: Case, state: Estimator, here: Batch) -> Estimator:
        """The next round, around this point."""
        probes = Probes.around(here, self.planned(case, state.round))
        x_adv = probes.question(case, self.radius, self.frequencies)
        return entering(PROBING, replace(state, probes=probes, round=state.round + 1, x_adv=x_adv))

    def probed(self, case: Case, state: Estimator, reached: Mask) -> tuple[Estimator, Mask]:
        """After the answer to a probe: with the next one, and which rows have asked all that were planned."""
        probes = state.probes.told(case, state.x_adv, reached, self.radius)
        x_adv = probes.question(case, self.radius, self.frequencies)
        return replace(state, probes=probes, x_adv=x_adv), probes.asked >= probes.planned

    def tolerance(self, case: Case) -> float:
        """How finely to look for the boundary, as a share of the distance: twice what a probe of random direction goes along
        the normal, which is 1/√features of its length. A start finer than that made no difference on MNIST.
        """
        return 2 * self.radius / math.sqrt(case.x[0].numel())

    def planned(self, case: Case, round: Counts) -> Counts:
        """Probes of this round (from 0)."""
        now, then = ((self.first_probes * (round + ahead).to(torch.float64).sqrt()).long() for ahead in (1, 2))
        spare = 3 + math.ceil(-math.log2(self.tolerance(case)))  # to go, and to find the boundary
        left = self.steps - 1 - case.age
        return torch.where(left < now + then // 2 + 2 * spare, left - spare, now).clamp_min(1)


def directions(case: Case, frequencies: float) -> Batch:
    """Each row's direction of its age, of length 1: smooth in images, if `frequencies` is less than 1."""
    if case.x.ndim not in (3, 4) or min(case.x.shape[-2:]) < _LEAST_SIDE or frequencies == 1:
        way = noise.normal(case.key, case.age, case.x[0].numel(), case.x.dtype).reshape(case.x.shape)
    else:
        down, across = (_cosines(side, math.ceil(frequencies * side), case.x) for side in case.x.shape[-2:])
        shape = (*case.x.shape[:-2], len(down), len(across))
        heights = noise.normal(case.key, case.age, math.prod(shape[1:]), case.x.dtype)
        way = down.mT @ heights.reshape(shape) @ across
    return way / per_row(nonzero(norm(way, 2)), way)


def _cosines(side: int, count: int, like: Tensor) -> Tensor:
    """The lowest waves of the discrete cosine transform, orthonormal, a row each."""
    place = torch.arange(side, device=like.device, dtype=torch.float64)
    wave = torch.arange(count, device=like.device, dtype=torch.float64)[:, None]
    height = torch.where(wave == 0, 1.0, math.sqrt(2.0)) / math.sqrt(side)
    return (height * (math.pi / side * (place + 0.5) * wave).cos()).to(like.dtype)


def require_share(name: str, value: float) -> None:
    """Raises:
    UsageError: Not above 0 and up to 1.
    """
    if not 0 < value <= 1:
        raise UsageError(f"expected {name} above 0 and up to 1, got {value}.")
