"""DeepFool: steps to the nearest of the classes' linearised boundaries, until one is crossed.

On a linear model one step suffices and reaches (1 + overshoot) times the exact distance.

Differs from the paper, which knows no box: steps are clipped. Where the box holds features back, clipped steps only creep
up to the boundary; so the last bit is projected within the box. (Projected so from the start, steps are long and the
distances larger: measured on LeNet, 1.80 instead of 1.46.) As in the authors' code the boundaries are linearised at
x + (1 + overshoot)·Σr, the overshoot applied once to the whole change. A goal that names a class goes to that class's
boundary only, and a sample that is misclassified to begin with is found as it is.
"""

import math
from dataclasses import dataclass

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.oracle import GradientOracle
from sapper.projections import nearest_boundary
from sapper.tensors import per_row
from sapper.threat import norm

PAPER = Paper(
    title="DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks",
    authors="S.-M. Moosavi-Dezfooli, A. Fawzi, P. Frossard",
    year=2016,
    url="https://arxiv.org/abs/1511.04599",
    venue="IEEE Conference on Computer Vision and Pattern Recognition",
)


_NEAR = 0.1
"""The last bit: this share of the way come. Half and twice of it change distances by a thousandth."""


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack, norms={2, math.inf}, paper=PAPER, minimal=True):
    """Steps to the nearest linearised boundary of a class, until it is crossed."""

    steps: int = 50
    """Most steps."""
    overshoot: float = 0.02
    """How far beyond the boundary, as a share of the way (the paper's eta)."""
    classes: int = 10
    """How many of the likeliest classes are looked at, the sample's own included; each costs a backward pass."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        if not 0 < self.overshoot < math.inf:
            raise UsageError(f"expected an overshoot above 0, got {self.overshoot}.")
        if self.classes < 2:
            raise UsageError(f"expected classes of 2 or more, the sample's own among them, got {self.classes}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> State:
        return State(x_adv=case.x, done=torch.zeros_like(case.age, dtype=torch.bool))

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        rivals = case.goal.rivals(logits, self.classes - 1)
        boundary = nearest_boundary(case.goal, state.x_adv, logits, pull, rivals, case.threat.p)
        step = boundary.step(case.threat.p, self.overshoot)
        last = boundary.change(state.x_adv, case.threat, self.overshoot)
        come = case.threat.distance(state.x_adv, case.x)
        step = torch.where(per_row(norm(last, case.threat.p) <= _NEAR * come, step), last, step)
        reached = case.goal.reached(logits.argmax(1), logits)
        x_adv = torch.where(per_row(reached, step), state.x_adv, case.threat.clip(state.x_adv + step))
        return State(x_adv=x_adv, done=reached | (step == 0).flatten(1).all(1))
