"""Momentum iterative fast gradient method: accumulates the direction, so that it transfers between models.

Each sample's gradient is divided by its own l1 norm *before* it enters the momentum. Options bring what later papers add,
for samples that shall fool other models too: looking ahead along the momentum (`nesterov`, Lin et al. 2020, with which it
is NI-FGSM), a picture resized anew at each step (`diversity`, Xie et al. 2019), a smoothed gradient (`smoothing`, Dong et
al. 2019), going on after the first success (`confidence`); several models at once are `sapper.ensemble`.

Differs from the papers: NI-FGSM looks ahead as its authors' code does, by the momentum of gradients divided by their mean
(the paper's norm, a sum, would make it vanish), and stays in the box; a resized picture keeps its size, with an empty
margin of the box's lower bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_not_negative, require_positive
from sapper.goal import Goal
from sapper.input_diversity import normalised, resized, smoothed
from sapper.oracle import GradientOracle
from sapper.tensors import Batch
from sapper.threat import Threat

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
    nesterov: bool = False
    """Take the gradient where the momentum alone would lead (NI-FGSM)."""
    diversity: float = 0.0
    """The probability that a step sees the picture made smaller, somewhere on an empty one (DI-FGSM; 0.5 there)."""
    smallest: float = 0.9
    """How small the pictures of `diversity` become at most, as a share of their height and width."""
    smoothing: int = 0
    """Width of the Gaussian kernel over the gradient, odd (TI-FGSM; 15 there, for pictures of 299 pixels); 0 for none."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits; 1000, say, takes all steps, for samples that fool other models."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("step_size", self.step_size)
        require_not_negative("decay", self.decay)
        require_not_negative("confidence", self.confidence)
        if not 0 <= self.diversity <= 1:
            raise UsageError(f"expected diversity from 0 to 1, got {self.diversity}.")
        if not 0 < self.smallest <= 1:
            raise UsageError(f"expected smallest above 0 and up to 1, got {self.smallest}.")
        if self.smoothing < 0 or (self.smoothing and self.smoothing % 2 == 0):
            raise UsageError(f"expected smoothing to be 0 or odd, got {self.smoothing}.")

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        if (self.diversity or self.smoothing) and len(shape) != 3:
            raise UsageError(
                f"diversity and smoothing are for images (channels, height, width), got samples of shape {tuple(shape)}."
            )

    def limit(self, budget: float) -> int:
        return self.steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: GradientOracle) -> Moving:
        if self.diversity or self.nesterov:
            oracle.logits(case.x)  # else never asked about: the steps ask about other views of it
        return Moving(x_adv=case.x, momentum=torch.zeros_like(case.x))

    def step(self, case: Case, oracle: GradientOracle, state: Moving) -> Moving:
        size = case.budget / self.steps if self.step_size is None else self.step_size
        gradient = self._gradient(case, oracle, self._ahead(case, state, size) if self.nesterov else state.x_adv)
        momentum = self.decay * state.momentum + normalised(gradient)
        x_adv = case.threat.descend(state.x_adv, momentum, size)
        return Moving(x_adv=case.threat.project(x_adv, case.x), momentum=momentum)

    def _ahead(self, case: Case, state: Moving, size: float) -> Batch:
        """A gradient of equal entries, alone in the momentum, leads as far as a step."""
        scale = case.x[0].numel() ** (1 - 1 / case.threat.p)
        return case.threat.clip(state.x_adv - size * self.decay * scale * state.momentum)

    def _gradient(self, case: Case, oracle: GradientOracle, x_adv: Batch) -> Batch:
        view = resized(x_adv, case.key, case.age, self.diversity, self.smallest) if self.diversity else None
        empty = case.threat.lower if math.isfinite(case.threat.lower) else 0.0
        logits, pull = oracle.vjp(view.apply(x_adv, empty) if view else x_adv)
        gradient = pull(case.goal.cotangent(self.loss, logits))
        gradient = view.pull(gradient) if view else gradient
        return smoothed(gradient, self.smoothing) if self.smoothing else gradient
