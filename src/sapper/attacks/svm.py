"""Closed form for linear models (support vector machines, logistic regression): one step along their weights.

The paper moves a sample by the whole budget against the weights of its own class, x − ε·w[k]/|w[k]|, whatever the others'
are. The nearest input of another class lies across the boundary to one of them, along the difference of two classes'
weights: the closed form for each rival within the box, of which the nearest is taken, is the smallest change there is. It is
exact for any number of classes. With two classes, whose weights are opposite, the paper's step has the same direction, and
without a box no step of its length does more in l2.

Differs from the paper, unless `step_to` is paper: the step leads to the nearest boundary, a thousandth of the way beyond it.
The paper's is clipped into the box here, and in l1 and linf goes the steepest way of that norm. A goal that names a class
leads towards its weights, or to where it overtakes the class that is ahead, which is exact with two classes only. Where
inputs are rounded, the exact step is rounded away from the sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError
from sapper.learners import Linear
from sapper.oracle import LearnerOracle
from sapper.projections import Boundary
from sapper.tensors import Batch, choose
from sapper.threat import Threat

PAPER = Paper(
    title="Transferability in Machine Learning: from Phenomena to Black-Box Attacks using Adversarial Samples",
    authors="N. Papernot, P. McDaniel, I. Goodfellow",
    year=2016,
    url="https://arxiv.org/abs/1605.07277",
)

_OVERSHOOT = 1e-3
"""How far beyond a boundary, as a share of the way."""


@dataclass(frozen=True, kw_only=True)
class SVM(Attack, norms={1, 2, math.inf}, paper=PAPER, minimal=True):
    """Takes the one step that is known in closed form to leave the sample's class, where the model is linear."""

    step_to: Literal["nearest", "paper"] = "nearest"
    """The nearest boundary of all classes, which is exact, or the paper's step against the own class's weights."""

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        if self.step_to == "paper" and threat.eps is None:
            raise UsageError(
                f"{self} is as long as the budget: give one, or step_to=nearest for the smallest distance."
            )

    def limit(self, budget: float) -> int:
        return 1

    def start(self, case: Case, oracle: LearnerOracle[Linear]) -> State:
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: LearnerOracle[Linear], state: State) -> State:
        oracle.labels(state.x_adv)  # what is misclassified as it is, is found so
        move = _against_own if self.step_to == "paper" else _across_nearest
        return State(x_adv=move(case, oracle.learner()))


def _against_own(case: Case, model: Linear) -> Batch:
    """X − ε·w[k]/|w[k]|, or x + ε·w[t]/|w[t]| to a class t."""
    rising, falling = case.goal.directions(model.scores(case.x))
    weights = model.pull(falling if case.goal.targets() is None else -rising, case.x)
    return case.threat.project(case.threat.descend(case.x, weights, case.budget), case.x)


def _across_nearest(case: Case, model: Linear) -> Batch:
    """Across the boundary to each rival in turn; the shortest way that leads there within the box."""
    scores = model.scores(case.x)
    best, least = case.x, torch.full_like(scores[:, 0], math.inf)
    for number, rival in enumerate(case.goal.rivals(scores, scores.shape[1] - 1).unbind(1)):
        cotangent = case.goal.lead(scores, rival)
        lead = (cotangent * scores).sum(1) + case.goal.confidence
        change = Boundary(case.x, lead, model.pull(cotangent, case.x), rival).change(case.x, case.threat, _OVERSHOOT)
        moved = case.threat.clip(case.x + change)
        moved = torch.where(change > 0, case.threat.at_least(moved), case.threat.at_most(moved))
        is_across = (cotangent * model.scores(moved)).sum(1) + case.goal.confidence < 0
        away = torch.where(is_across, case.threat.distance(moved, case.x), math.inf)
        best = choose((away < least) | (number == 0), moved, best)
        least = torch.minimum(away, least)
    return best
