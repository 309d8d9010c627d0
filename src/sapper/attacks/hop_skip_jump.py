"""HopSkipJump: asks for labels around a point at the boundary, which tells its normal, jumps that way and comes back.

A round halves the way from a point that reaches the goal to the sample until the boundary is found, asks about points a
little to all sides of it, whose answers give an estimate of the normal, and jumps along it (in linf along its signs) by
distance/√round, halved until the goal is reached (Chen et al. 2020, Algorithm 2). Each step is one question; where no start
is found (see `label_search`) the case fails.

Differs from the authors' code: in images the probes are smooth (`frequencies`), which on LeNet for MNIST brought the median
after 1 000 questions from 2.22 to 1.70 (20 images); rounds begin with half as many probes, and the last one gets the
questions that are left. The probes' distance is a share of the change, 0.01 where theirs is 1/features, in its l2 norm in
linf too: so the boundary need not be found as finely. A jump that has shrunk to that ends, and the next round probes the
same point.
"""

import math
from dataclasses import dataclass, replace

from sapper.attack import Attack, Case
from sapper.boundary_normal import GOING, Estimating, Rounds
from sapper.citation import Paper
from sapper.label_search import by_phase, draw_on, entering, turn_back
from sapper.oracle import LabelOracle
from sapper.tensors import Mask, choose

PAPER = Paper(
    title="HopSkipJumpAttack: A Query-Efficient Decision-Based Attack",
    authors="J. Chen, M. I. Jordan, M. J. Wainwright",
    year=2020,
    url="https://arxiv.org/abs/1904.02144",
    venue="IEEE Symposium on Security and Privacy",
)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack, norms={2, math.inf}, paper=PAPER, minimal=True):
    """Estimates the boundary's normal from labels, jumps along it and returns to the boundary."""

    steps: int = 5000
    """Number of questions; the rounds are laid out for them."""
    first_probes: int = 50
    """Questions for the first round's normal (the paper's B_0); in round t √t times as many."""
    radius: float = 0.01
    """How far from the boundary's point they are, as a share of its distance from the sample."""
    frequencies: float = 0.5
    """Share of an image's frequencies, in height and in width, that probes are made of; 1: white noise, as in the paper."""

    def __post_init__(self) -> None:
        self._rounds().check()

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: LabelOracle) -> Estimating:
        return self._rounds().begun(case)

    def step(self, case: Case, oracle: LabelOracle, state: Estimating) -> Estimating:
        reached = case.goal.reached(oracle.labels(state.x_adv))
        return by_phase((draw_on, self._rounds().halved, self._probed, self._jumped), case, state, reached)

    def _probed(self, case: Case, state: Estimating, reached: Mask) -> Estimating:
        state, over = self._rounds().probed(case, state, reached)
        if not bool(over.any()):
            return state
        size = case.threat.distance(state.probes.here, case.x) / state.round.to(case.x.dtype).sqrt()
        return choose(over, self._jump(case, entering(GOING, replace(state, size=size))), state)

    def _jump(self, case: Case, state: Estimating) -> Estimating:
        return replace(state, x_adv=case.threat.descend(state.probes.here, -state.probes.normal(), state.size))

    def _jumped(self, case: Case, state: Estimating, reached: Mask) -> Estimating:
        shorter = self._jump(case, replace(state, size=state.size / 2))
        stuck = shorter.size < self.radius * case.threat.distance(state.probes.here, case.x)
        if bool(stuck.any()):
            shorter = choose(stuck, self._rounds().next(case, state, state.probes.here), shorter)
        return choose(reached, turn_back(case, state), shorter)

    def _rounds(self) -> Rounds:
        return Rounds(self.steps, self.first_probes, self.radius, self.frequencies)
