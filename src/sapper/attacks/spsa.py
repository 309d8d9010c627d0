"""Simultaneous perturbation stochastic approximation: Adam down a gradient that is estimated from scores alone.

Each estimate is the mean, over random directions of signs, of the margin's difference across the point (Algorithm 1).

Differs from the paper: the point itself is asked about once an estimate, and the points beside it stay within budget and
box, so that every question is a candidate. Gradients are divided by their largest entry.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import Moments, adam
from sapper.errors import require_positive
from sapper.finite_differences import Estimate, least_size, signs
from sapper.oracle import ScoreOracle
from sapper.tensors import choose, scaled

PAPER = Paper(
    title="Adversarial Risk and the Dangers of Evaluating Against Weak Attacks",
    authors="J. Uesato, B. O'Donoghue, A. van den Oord, P. Kohli",
    year=2018,
    url="https://arxiv.org/abs/1802.05666",
    venue="International Conference on Machine Learning",
)


@dataclass(frozen=True, kw_only=True)
class Descending(State):
    estimate: Estimate
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class SPSA(Attack, norms={2, math.inf}, paper=PAPER):
    """Descends an estimated gradient by Adam: differences of scores along random signs."""

    steps: int = 100
    """Number of updates, each from 1 + 2·pairs questions."""
    pairs: int = 32
    """Directions an estimate, two questions each."""
    delta: float = 0.01
    """How far to each side of the point a question is, a feature, in widths of the box."""
    step_size: float | None = None
    """Adam's step, a feature; by default a quarter of the budget (in l2 of the budget spread over all features)."""
    loss: Literal["margin", "cross_entropy"] = "margin"
    """What to descend."""

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "delta", "step_size"):
            require_positive(name, getattr(self, name))

    def limit(self, budget: float) -> int:
        return self.steps * (1 + 2 * self.pairs)

    def start(self, case: Case, oracle: ScoreOracle) -> Descending:
        return Descending(x_adv=case.x, estimate=Estimate.at(case.x), moments=Moments.none(case.x))

    def step(self, case: Case, oracle: ScoreOracle, state: Descending) -> Descending:
        questions = 1 + 2 * self.pairs
        turn = case.age % questions
        loss = getattr(case.goal, self.loss)(oracle.logits(state.x_adv))
        estimate, moments = state.estimate.hearing(loss, turn), state.moments
        complete = turn == questions - 1
        if bool(complete.any()):
            step, after = adam(scaled(estimate.slope)[0], moments, self._rate(case))
            moved = Estimate.at(case.threat.project(estimate.point + step, case.x))
            estimate, moments = choose(complete, moved, estimate), choose(complete, after, moments)
        size = least_size(case, self.delta)
        estimate, x_adv = estimate.asking(case, (turn + 1) % questions, size, signs)
        return Descending(x_adv=x_adv, estimate=estimate, moments=moments)

    def _rate(self, case: Case) -> float:
        if self.step_size is not None:
            return self.step_size
        return 0.25 * case.budget / case.x[0].numel() ** (1 / case.threat.p)
