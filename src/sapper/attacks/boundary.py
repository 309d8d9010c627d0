"""Boundary attack: walks at random along the boundary, from a point that reaches the goal, and ever nearer to the sample.

A step goes in a random direction on the sphere around the sample, then towards it, and is taken if the goal is still
reached (Brendel, Rauber and Bethge 2018, Algorithm 2). The walk begins at the boundary, on the way from the start to the
sample. Each step is one question; where no start is found (see `label_search`) the case fails.

Differs from the authors' code: one step size, learned from every answer, where theirs are two, changed after some hundred
questions. On a flat boundary the best step δ along the sphere goes with δ²/2 towards the sample, whatever the dimension, and
one question in eight then succeeds: so many are aimed at. In images the directions are smooth (`frequencies`).
"""

import math
from dataclasses import dataclass, replace

import torch

from sapper.attack import Attack, Case
from sapper.boundary_normal import directions, require_share
from sapper.citation import Paper
from sapper.errors import require_positive
from sapper.label_search import HALVING, Searching, begun, by_phase, draw_on, entering, halve_on
from sapper.oracle import LabelOracle
from sapper.tensors import Batch, Mask, Scalars, choose, nonzero, per_row
from sapper.threat import norm

PAPER = Paper(
    title="Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning Models",
    authors="W. Brendel, J. Rauber, M. Bethge",
    year=2018,
    url="https://arxiv.org/abs/1712.04248",
    venue="International Conference on Learning Representations",
)

WALKING = HALVING + 1

_LEAST = 1e-4
"""Step along the sphere, as a share of its radius; smaller ones would not be found again."""
_NEAR = 0.01
"""To what share of the distance the boundary is looked for before the walk."""


@dataclass(frozen=True, kw_only=True)
class Walking(Searching):
    here: Batch
    """The nearest point that reaches the goal."""
    size: Scalars
    """Of the step along the sphere, as a share of its radius (the paper's delta)."""


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack, norms={2}, paper=PAPER, minimal=True):
    """Walks along the boundary at random, and towards the sample."""

    steps: int = 5000
    """Number of questions."""
    first_size: float = 0.1
    """The first step along the sphere, as a share of the distance from the sample."""
    success: float = 0.125
    """Share of the questions that shall succeed: the step grows where it is more, and shrinks where it is less."""
    adaptation: float = 0.1
    """How much of it a single answer changes."""
    frequencies: float = 0.5
    """Share of an image's frequencies, in height and in width, that steps are made of; 1: white noise, as in the paper."""

    def __post_init__(self) -> None:
        for name in ("steps", "first_size"):
            require_positive(name, getattr(self, name))
        for name in ("success", "adaptation", "frequencies"):
            require_share(name, getattr(self, name))

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: LabelOracle) -> Walking:
        first = begun(case)
        return Walking(**vars(first), here=first.x_adv, size=torch.full_like(first.bracket.low, self.first_size))

    def step(self, case: Case, oracle: LabelOracle, state: Walking) -> Walking:
        reached = case.goal.reached(oracle.labels(state.x_adv))
        return by_phase((draw_on, self._halved, self._walked), case, state, reached)

    def _halved(self, case: Case, state: Walking, reached: Mask) -> Walking:
        state = halve_on(case, state, reached)
        walking = entering(WALKING, replace(state, here=state.bracket.boundary(case)))
        walking = replace(walking, x_adv=self._proposed(case, walking))
        return choose(state.bracket.is_narrow(_NEAR), walking, state)

    def _walked(self, case: Case, state: Walking, reached: Mask) -> Walking:
        nearer = norm(state.x_adv - case.x, 2) < norm(state.here - case.x, 2)
        taken = (reached & nearer).to(state.size.dtype)
        here = torch.lerp(state.here, state.x_adv, per_row(taken, state.here))
        size = state.size * (self.adaptation * (taken - self.success) / math.sqrt(self.success)).exp()
        state = replace(state, here=here, size=size.clamp(_LEAST, 1.0))
        return replace(state, x_adv=self._proposed(case, state))

    def _proposed(self, case: Case, state: Walking) -> Batch:
        """Orthogonally to the way from the sample, back to the sphere, and towards the sample."""
        out = state.here - case.x
        radius = norm(out, 2)
        away = out / per_row(nonzero(radius), out)
        way = directions(case, self.frequencies)
        way = way - away * per_row((way * away).flatten(1).sum(1), way)
        way = away + way * per_row(state.size / nonzero(norm(way, 2)), way)
        nearer = radius * (1 - state.size.square() / 2)
        return case.threat.clip(case.x + way * per_row(nearer / norm(way, 2), way))
