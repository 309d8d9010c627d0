"""Fast adaptive boundary attack: steps to the linearised boundary, drawn towards the sample, and back when it is crossed.

A step joins the projections onto the boundary, linearised where it stands, of that point and of the sample itself; both
are exact within the box. After a success it goes on from nearer the sample, so it walks along the boundary to where that
is closest.

Differs from the authors' code: after a success the boundary is the one linearised at the success, a little beyond, which
saves asking the model again at the point gone back to; the overshoot is part of the projection and so keeps to the box; a
random start is within half the distance of the sample's own linearised boundary. Without the final search of the paper's
Algorithm 1, like their code. Restarts are a wrapper: `5*fab:random_start=true`.
"""

import math
from dataclasses import dataclass, replace

import torch

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.oracle import GradientOracle
from sapper.projections import Boundary, nearest_boundary
from sapper.tensors import Batch, Labels, Mask, nonzero, per_row
from sapper.threat import norm

PAPER = Paper(
    title="Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
    authors="F. Croce, M. Hein",
    year=2020,
    url="https://arxiv.org/abs/1907.02044",
    venue="International Conference on Machine Learning",
)


@dataclass(frozen=True, kw_only=True)
class Walking(State):
    rival: Labels
    """With the option `rival`, the class to go for."""


@dataclass(frozen=True, kw_only=True)
class FAB(Attack, norms={1, 2, math.inf}, paper=PAPER, minimal=True):
    """Steps to the linearised boundary, drawn towards the sample, and back when it is crossed."""

    steps: int = 100
    """Number of steps."""
    alpha_max: float = 0.1
    """Most weight of the sample's own projection, from 0 to 1."""
    overshoot: float = 0.05
    """How far beyond the boundary, as a share of the way (the paper's eta, 1.05, less 1)."""
    beta: float = 0.9
    """After a success, go on at this share of the way from the sample to it."""
    classes: int = 10
    """How many of the likeliest classes are looked at, the sample's own included; each costs a backward pass."""
    rival: int = 0
    """Go for one class only, the likeliest wrong one of the sample (1), the second likeliest (2) … (FAB-T); 0: for all. Ends
    at once where there are fewer."""
    random_start: bool = False
    """Start at a random point near the sample rather than at it."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        if not 0 < self.overshoot < math.inf:
            raise UsageError(f"expected an overshoot above 0, got {self.overshoot}.")
        for name in ("alpha_max", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"expected {name} from 0 to 1, got {getattr(self, name)}.")
        if self.classes < 2:
            raise UsageError(f"expected classes of 2 or more, the sample's own among them, got {self.classes}.")
        if self.rival < 0:
            raise UsageError(f"expected rival to be a rank from 1, or 0 for all classes, got {self.rival}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Walking:
        none = torch.zeros_like(case.age)
        return Walking(x_adv=case.x, rival=none, done=none.bool())

    def step(self, case: Case, oracle: GradientOracle, state: Walking) -> Walking:
        logits, pull = oracle.vjp(state.x_adv)
        rivals = case.goal.rivals(logits, self.rival or self.classes - 1)
        if rivals.shape[1] < self.rival:
            return replace(state, done=torch.ones_like(state.rival, dtype=torch.bool))
        if self.rival:
            rivals = torch.where(case.age == 0, rivals[:, -1], state.rival)[:, None]
        boundary = nearest_boundary(case.goal, state.x_adv, logits, pull, rivals, case.threat.p)
        reached = case.goal.reached(logits.argmax(1), logits)
        x_adv = self._towards(case, boundary, state.x_adv, reached)
        if self.random_start:
            x_adv = torch.where(per_row(case.age == 0, x_adv), self._random(case, boundary), x_adv)
        return replace(state, x_adv=x_adv, rival=rivals[:, 0])

    def _towards(self, case: Case, boundary: Boundary, x_adv: Batch, reached: Mask) -> Batch:
        """Eq. 9 and 10: both projections, weighted by how near the boundary is to the iterate and to the sample."""
        here = torch.where(per_row(reached, x_adv), case.x + self.beta * (x_adv - case.x), x_adv)
        from_here, from_x = (boundary.change(x, case.threat, self.overshoot) for x in (here, case.x))
        near, far = norm(from_here, case.threat.p), norm(from_x, case.threat.p)
        alpha = (near / nonzero(near + far)).clamp_max(self.alpha_max)
        return case.threat.clip(torch.lerp(here + from_here, case.x + from_x, per_row(alpha, here)))

    def _random(self, case: Case, boundary: Boundary) -> Batch:
        """In a random direction from the sample, half as far as its own boundary or the budget."""
        n, p = case.x[0].numel(), case.threat.p
        if p == math.inf:
            way = 2 * noise.uniform(case.key, case.age, n, case.x.dtype) - 1
        else:
            way = noise.normal(case.key, case.age, n, case.x.dtype)
        size = norm(boundary.change(case.x, case.threat), p).clamp_max(case.budget)
        return case.threat.clip(case.x + (way * (size / norm(way, p) / 2)[:, None]).reshape(case.x.shape))
