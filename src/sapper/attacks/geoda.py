"""GeoDA: takes the boundary for flat, asks for labels around a point of it, and goes from the sample along its normal.

A round asks about points a little to all sides of one at the boundary, whose answers give an estimate of the normal, and
looks for the boundary from the sample along that (in linf along its signs): were it flat, its nearest point would lie there
(Rahmati et al. 2020, Algorithm 1). In images the points lie in the subspace of the lower frequencies, as in the paper. Each
step is one question; where no start is found (see `label_search`) the case fails.

Differs from the authors' code: estimates of earlier rounds count on with a share, not in full, as the boundary is not flat;
rounds grow with their square root rather than by a factor, and the last one gets the questions that are left; the subspace
is a share of the frequencies, not 75 of them. The answers' mean is taken from each, as in HopSkipJump.
"""

import math
from dataclasses import dataclass, replace

import torch

from sapper.attack import Attack, Case
from sapper.boundary_normal import GOING, Estimating, Rounds
from sapper.citation import Paper
from sapper.errors import UsageError
from sapper.label_search import by_phase, draw_on, entering, turn_back
from sapper.oracle import LabelOracle
from sapper.tensors import Batch, Mask, choose

PAPER = Paper(
    title="GeoDA: A Geometric Framework for Black-Box Adversarial Attacks",
    authors="A. Rahmati, S.-M. Moosavi-Dezfooli, P. Frossard, H. Dai",
    year=2020,
    url="https://arxiv.org/abs/2003.06468",
    venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
)

_LONGER, _FARTHEST = 1.5, 8.0
"""Times as far as before, where the goal is not reached along the normal; most times as far as the boundary's point."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Estimating):
    normal: Batch
    """What the rounds have estimated together."""


@dataclass(frozen=True, kw_only=True)
class GeoDA(Attack, norms={2, math.inf}, paper=PAPER, minimal=True):
    """Estimates the normal of a boundary taken for flat and meets it from the sample."""

    steps: int = 5000
    """Number of questions; the rounds are laid out for them."""
    first_probes: int = 50
    """Questions for the first round's normal; in round t √t times as many."""
    radius: float = 0.01
    """How far from the boundary's point they are, as a share of its distance from the sample."""
    frequencies: float = 0.5
    """Share of an image's frequencies, in height and in width, that span the subspace; 1: all of it."""
    memory: float = 0.8
    """Share of the earlier rounds' estimate that counts on, from 0 to 1."""

    def __post_init__(self) -> None:
        self._rounds().check()
        if not 0 <= self.memory <= 1:
            raise UsageError(f"expected memory from 0 to 1, got {self.memory}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: LabelOracle) -> Measuring:
        return Measuring(**vars(self._rounds().begun(case)), normal=torch.zeros_like(case.x))

    def step(self, case: Case, oracle: LabelOracle, state: Measuring) -> Measuring:
        reached = case.goal.reached(oracle.labels(state.x_adv))
        return by_phase((draw_on, self._rounds().halved, self._probed, self._left), case, state, reached)

    def _probed(self, case: Case, state: Measuring, reached: Mask) -> Measuring:
        state, over = self._rounds().probed(case, state, reached)
        if not bool(over.any()):
            return state
        normal = state.probes.normal() + self.memory * state.normal
        leaving = replace(state, normal=normal, size=case.threat.distance(state.probes.here, case.x))
        return choose(over, self._leave(case, entering(GOING, leaving)), state)

    def _leave(self, case: Case, state: Measuring) -> Measuring:
        return replace(state, x_adv=case.threat.descend(case.x, -state.normal, state.size))

    def _left(self, case: Case, state: Measuring, reached: Mask) -> Measuring:
        farther = self._leave(case, replace(state, size=_LONGER * state.size))
        lost = farther.size > _FARTHEST * case.threat.distance(state.probes.here, case.x)
        if bool(lost.any()):
            farther = choose(lost, self._rounds().next(case, state, state.probes.here), farther)
        return choose(reached, turn_back(case, state), farther)

    def _rounds(self) -> Rounds:
        return Rounds(self.steps, self.first_probes, self.radius, self.frequencies)
