"""Zeroth order optimisation: Carlini and Wagner's objective lowered a feature at a time, by differences of scores.

|x' − x|² + c·max(margin, −confidence) has a derivative by one feature that two questions tell, a little above its value and
a little below. Features are visited in random order; each visit moves one by Newton's step, or by Adam's with moments of
the feature's own (Chen et al. 2017, Algorithms 1 to 3).

Differs from the authors' code: only the margin is asked about, as the distance's derivatives are known. Newton's step goes
to the exact minimum for a margin that is straight along the feature, kink included, and is the default, as it needs fewer
questions than Adam. No feature comes again before all others have come. c is not searched nine times from the start, but
changed after each round of all features. Left out: the tanh (features are clipped into the box), and the reduced, growing
attack space and the importance sampling, which are for photos, where a round of all features costs too much.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import Moments, adam
from sapper.errors import require_not_negative, require_positive
from sapper.goal import Goal
from sapper.oracle import ScoreOracle
from sapper.tensors import Counts, LabelSets, Mask, Scalars, choose, nonzero

PAPER = Paper(
    title="ZOO: Zeroth Order Optimization Based Black-box Attacks to Deep Neural Networks without Training Substitute Models",
    authors="P.-Y. Chen, H. Zhang, Y. Sharma, J. Yi, C.-J. Hsieh",
    year=2017,
    url="https://arxiv.org/abs/1708.03999",
    venue="ACM Workshop on Artificial Intelligence and Security",
)

_MORE, _LESS = 1.5, 0.9
"""What the constant is multiplied by after a round without success, and after one with it."""


@dataclass(frozen=True, kw_only=True)
class Descending(State):
    point: Tensor
    """Where the descent has got, features flat."""
    order: LabelSets
    """Of the features in this round."""
    unit: Scalars
    """The margin at the sample, in which margins are counted."""
    heard: Scalars
    """The margin that was answered last."""
    squares: Scalars
    """Σ of the squared derivatives of the margin that have been seen."""
    constant: Scalars
    """In units of that with which a linear model's minimum lies at its border."""
    success: Mask
    """Whether the goal has been reached in this round."""
    mean: Tensor
    """Adam's moments, a feature each, and how often they were taken."""
    square: Tensor
    count: Tensor


@dataclass(frozen=True, kw_only=True)
class ZOO(Attack, norms={2}, paper=PAPER, minimal=True):
    """Lowers distance and margin together, one feature after the other, from two questions each."""

    steps: int = 10_000
    """Number of questions, two for each visit of a feature."""
    solver: Literal["newton", "adam"] = "newton"
    """How a feature moves: to where the objective is least, or by a step of Adam."""
    delta: float = 0.01
    """How far to each side of a feature's value the questions are, in widths of the box."""
    step_size: float = 0.05
    """Adam's step, in widths of the box; the paper's 0.01 is for many more questions."""
    constant: float = 1.1
    """The first c, in units of the one with which a linear model's minimum lies at its border."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits (the paper's kappa)."""

    def __post_init__(self) -> None:
        for name in ("steps", "delta", "step_size", "constant"):
            require_positive(name, getattr(self, name))
        require_not_negative("confidence", self.confidence)

    def limit(self, budget: float) -> int:
        return self.steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: ScoreOracle) -> Descending:
        point = case.x.flatten(1)
        zero, none = torch.zeros_like(point[:, 0]), torch.zeros_like(point)
        return Descending(
            x_adv=case.x, point=point, order=_order(case, case.age), unit=zero, heard=zero, squares=zero,
            constant=zero + self.constant, success=zero > 0, mean=none, square=none, count=none.long(),
        )  # fmt: skip

    def step(self, case: Case, oracle: ScoreOracle, state: Descending) -> Descending:
        logits = oracle.logits(state.x_adv)
        margin, age, features = case.goal.margin(logits), case.age, state.point.shape[1]
        rounding = torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        unit = torch.where(age == 0, nonzero(torch.maximum(margin, rounding)), state.unit)
        margin = margin / unit
        success = state.success | case.goal.reached(logits.argmax(1), logits)
        state = replace(state, unit=unit, success=success)

        second = (age > 0) & (age % 2 == 0)
        if bool(second.any()):
            moved = self._moved(case, state, margin, age // 2 - 1)
            state = moved if bool(second.all()) else choose(second, moved, state)
        visit, fresh = age // 2, (age % (2 * features) == 0) & (age > 0)
        if bool(fresh.any()):
            state = choose(fresh, replace(state, order=_order(case, age)), state)
        feature = state.order.gather(1, (visit % features)[:, None])
        side = torch.where(age % 2 == 0, *self._sides(case, state.point.gather(1, feature)[:, 0]))
        x_adv = state.point.scatter(1, feature, side[:, None]).reshape(case.x.shape)
        return replace(state, x_adv=x_adv, heard=margin)

    def _sides(self, case: Case, value: Scalars) -> tuple[Scalars, Scalars]:
        size = max(self.delta * case.threat.unit, case.threat.least)
        return case.threat.clip(value + size), case.threat.clip(value - size)

    def _moved(self, case: Case, state: Descending, margin: Scalars, visit: Counts) -> Descending:
        """After both questions of a visit."""
        features, width = state.point.shape[1], case.threat.unit
        feature = state.order.gather(1, (visit % features)[:, None])
        value = state.point.gather(1, feature)[:, 0]
        change = (value - case.x.flatten(1).gather(1, feature)[:, 0]) / width
        above, below = self._sides(case, value)
        derivative = (state.heard - margin) / nonzero((above - below) / width)
        here = margin + derivative * (value - below) / width

        squares = state.squares + derivative.square()
        within_reach = min(features, max(1, self.steps // 2))  # of the features
        slope = nonzero((squares / (visit + 1) * within_reach).sqrt())
        pull = 2 * state.constant * (derivative / slope) / slope  # its square may be too small to divide by
        if self.solver == "newton":
            step, moments = newton(change, pull, here, derivative), {}
        else:
            step, moments = self._adam(state, feature, 2 * change + pull * (here > 0))
        point = state.point.scatter(1, feature, case.threat.clip(value + step * width)[:, None])

        over = (visit + 1) % features == 0
        constant = state.constant * torch.where(over, torch.where(state.success, _LESS, _MORE), 1).to(slope.dtype)
        return replace(state, point=point, squares=squares, constant=constant, success=state.success & ~over, **moments)

    def _adam(self, state: Descending, feature: LabelSets, gradient: Scalars) -> tuple[Scalars, dict[str, Tensor]]:
        before = {name: getattr(state, name) for name in ("mean", "square", "count")}
        moments = Moments(**{name: value.gather(1, feature)[:, 0] for name, value in before.items()})
        step, after = adam(gradient, moments, self.step_size)
        return step, {name: value.scatter(1, feature, getattr(after, name)[:, None]) for name, value in before.items()}


def newton(change: Scalars, pull: Scalars, margin: Scalars, derivative: Scalars) -> Scalars:
    """The step of one feature to the minimum of change² + c·max(margin, 0), for a margin that is straight along it.

    That is where the distance balances the pull, c·derivative, while the margin counts; no change where it does not; or,
    if it lies between the two, the kink at which the margin is 0.
    """
    balance, back = -pull / 2 - change, -change
    kink = torch.where(derivative == 0, back, -margin / derivative)
    return torch.maximum(torch.minimum(balance, back), torch.minimum(torch.maximum(balance, back), kink))


def _order(case: Case, age: Counts) -> LabelSets:
    return noise.uniform(case.key, age, case.x[0].numel(), torch.float64).argsort(1)
