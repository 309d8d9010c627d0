"""Natural evolution strategies: projected gradient descent along a gradient that is estimated from scores alone.

The gradient of the loss's mean under normal noise is the mean of loss × noise, taken in opposite pairs; its momentum is
stepped along as in PGD (section 2.1 and 2.2, the query-limited setting).

Differs from the paper: the loss is the margin, which also serves goals without a target, and a model too sure for its
probabilities to move; the points beside the current one stay within budget and box, so that every question is a candidate.
Gradients are divided by their largest entry before they enter the momentum.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.finite_differences import Estimate, least_size
from sapper.oracle import ScoreOracle
from sapper.tensors import Batch, choose, scaled

PAPER = Paper(
    title="Black-box Adversarial Attacks with Limited Queries and Information",
    authors="A. Ilyas, L. Engstrom, A. Athalye, J. Lin",
    year=2018,
    url="https://arxiv.org/abs/1804.08598",
    venue="International Conference on Machine Learning",
)


@dataclass(frozen=True, kw_only=True)
class Descending(State):
    estimate: Estimate
    momentum: Batch


@dataclass(frozen=True, kw_only=True)
class NES(Attack, norms={2, math.inf}, paper=PAPER):
    """Steps along an estimated gradient and projects: scores times normal noise, in opposite pairs."""

    steps: int = 100
    """Number of updates, each from 1 + 2·pairs questions."""
    pairs: int = 50
    """Directions an estimate, two questions each."""
    sigma: float = 0.01
    """The noise's standard deviation, in widths of the box."""
    step_size: float | None = None
    """Length of a step in the threat's norm; by default a fifth of the budget."""
    decay: float = 0.9
    """How much of the momentum is kept."""
    loss: Literal["margin", "cross_entropy"] = "margin"
    """What to descend."""

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "sigma", "step_size"):
            require_positive(name, getattr(self, name))
        if not 0 <= self.decay < 1:
            raise UsageError(f"expected a decay from 0 to below 1, got {self.decay}.")

    def limit(self, budget: float) -> int:
        return self.steps * (1 + 2 * self.pairs)

    def start(self, case: Case, oracle: ScoreOracle) -> Descending:
        return Descending(x_adv=case.x, estimate=Estimate.at(case.x), momentum=torch.zeros_like(case.x))

    def step(self, case: Case, oracle: ScoreOracle, state: Descending) -> Descending:
        questions = 1 + 2 * self.pairs
        turn = case.age % questions
        loss = getattr(case.goal, self.loss)(oracle.logits(state.x_adv))
        estimate, momentum = state.estimate.hearing(loss, turn), state.momentum
        complete = turn == questions - 1
        if bool(complete.any()):
            after = self.decay * momentum + scaled(estimate.slope)[0]
            size = case.budget / 5 if self.step_size is None else self.step_size
            point = case.threat.project(case.threat.descend(estimate.point, after, size), case.x)
            estimate, momentum = choose(complete, Estimate.at(point), estimate), choose(complete, after, momentum)
        size = least_size(case, self.sigma)
        estimate, x_adv = estimate.asking(case, (turn + 1) % questions, size, noise.normal)
        return Descending(x_adv=x_adv, estimate=estimate, momentum=momentum)
