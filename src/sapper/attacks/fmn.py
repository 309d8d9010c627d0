"""Fast minimum norm: steps along the gradient inside a ball that shrinks after a success and grows after a failure.

Before the first success the ball reaches to the boundary as the linearised margin sees it. How fast it changes and how far
a step goes fall along a cosine, so the search comes to rest at the boundary (Algorithm 1).

Differs from the authors' code: the projection is onto ball and box together, not onto one after the other. Before the first
success the ball reaches beyond the linearised boundary by gamma's share, or a linear model's would be approached for ever
and never crossed. Under a budget the ball does not exceed it.
"""

import math
from dataclasses import dataclass

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import half_cosine
from sapper.errors import UsageError, require_positive
from sapper.oracle import GradientOracle
from sapper.tensors import Mask, Scalars, per_row, scaled
from sapper.threat import norm

PAPER = Paper(
    title="Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints",
    authors="M. Pintor, F. Roli, W. Brendel, B. Biggio",
    year=2021,
    url="https://arxiv.org/abs/2102.12827",
    venue="Advances in Neural Information Processing Systems",
)

_DUAL = {1: math.inf, 2: 2, math.inf: 1}
_LEAST_GAMMA = 0.001


@dataclass(frozen=True, kw_only=True)
class Bounded(State):
    radius: Scalars
    """The paper's epsilon, the ball's."""
    best: Scalars
    """The distance of the nearest success; infinite before."""


@dataclass(frozen=True, kw_only=True)
class FMN(Attack, norms={0, 1, 2, math.inf}, paper=PAPER, minimal=True):
    """Follows the gradient in a ball that shrinks after a success and grows after a failure."""

    steps: int = 100
    """Number of steps."""
    step_size: float = 1.0
    """Euclidean length of the first step, in widths of the input's range; the last is a hundredth of it."""
    gamma: float = 0.05
    """By which share the ball first shrinks or grows at a step; in the end a thousandth."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("step_size", self.step_size)
        if not _LEAST_GAMMA <= self.gamma < 1:
            raise UsageError(f"expected gamma from {_LEAST_GAMMA} to below 1, got {self.gamma}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Bounded:
        endless = torch.full_like(case.age, math.inf, dtype=case.x.dtype)
        return Bounded(x_adv=case.x, radius=torch.ones_like(endless) if case.threat.p == 0 else endless, best=endless)

    def step(self, case: Case, oracle: GradientOracle, state: Bounded) -> Bounded:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent("margin", logits))
        reached, margin = case.goal.reached(logits.argmax(1), logits), case.goal.margin(logits)

        way, largest = scaled(gradient)
        come = case.threat.distance(state.x_adv, case.x)
        best = torch.where(reached, torch.minimum(state.best, come), state.best)
        radius = self._radius(case, state.radius, best, reached)
        if case.threat.p:  # a little beyond the linearised boundary
            ahead = come + margin.abs() / largest / norm(way, _DUAL[case.threat.p]).clamp_min(1)
            beyond = ahead * (1 + self._annealed(case, _LEAST_GAMMA, self.gamma))
            radius = torch.where(best.isinf(), beyond, radius)
        radius = radius.minimum(case.threat.farthest(case.x)).clamp_max(case.budget)

        size = self.step_size * case.threat.unit * self._annealed(case, 0.01, 1.0) / norm(way, 2).clamp_min(1)
        x_adv = case.threat.within(state.x_adv - way * per_row(size, way), case.x, radius)
        return Bounded(x_adv=x_adv, radius=radius, best=best)

    def _radius(self, case: Case, radius: Scalars, best: Scalars, reached: Mask) -> Scalars:
        """Of the ball after an answer; in l0 by a whole feature at least."""
        gamma = self._annealed(case, _LEAST_GAMMA, self.gamma)
        less, more = radius * (1 - gamma), radius * (1 + gamma)
        if case.threat.p == 0:
            less, more = less.floor().minimum(radius - 1).clamp_min(1), more.floor().maximum(radius + 1)
        return torch.where(reached, torch.minimum(less, best), more)

    def _annealed(self, case: Case, last: float, first: float) -> Scalars:
        """From first to last along half a cosine, by each row's age."""
        return half_cosine(case.age, self.steps, first, last, case.x.dtype)
