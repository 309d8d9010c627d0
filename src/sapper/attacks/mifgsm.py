"""Momentum iterative fast gradient method: accumulates the direction, so that it transfers between models.

Each sample's gradient is divided by its own l1 norm *before* it enters the momentum.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, per_row

PAPER = Paper(
    title="Boosting Adversarial Attacks with Momentum",
    authors="Y. Dong, F. Liao, T. Pang, H. Su, J. Zhu, X. Hu, J. Li",
    year=2018,
    url="https://arxiv.org/abs/1710.06081",
    venue="IEEE Conference on Computer Vision and Pattern Recognition",
)


@dataclass(frozen=True, kw_only=True)
class Moving(State):
    momentum: Batch


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack, norms={2, math.inf}, paper=PAPER):
    """Steps along the accumulated gradient and projects, from the sample itself."""

    steps: int = 10
    """Number of steps."""
    step_size: float | None = None
    """Length of a step in the threat's norm; by default eps/steps."""
    decay: float = 1.0
    """How much of the momentum is kept (the paper's mu)."""
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    """What to descend."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("step_size", self.step_size)
        if not 0 <= self.decay < math.inf:
            raise UsageError(f"expected decay of 0 or more, got {self.decay}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Moving:
        return Moving(x_adv=case.x, momentum=torch.zeros_like(case.x))

    def step(self, case: Case, oracle: GradientOracle, state: Moving) -> Moving:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent(self.loss, logits))
        length = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = self.decay * state.momentum + gradient / per_row(length, gradient)
        size = case.budget / self.steps if self.step_size is None else self.step_size
        x_adv = case.threat.descend(state.x_adv, momentum, size)
        return Moving(x_adv=case.threat.project(x_adv, case.x), momentum=momentum)
