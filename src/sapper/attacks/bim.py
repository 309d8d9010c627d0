"""Basic iterative method: the fast gradient step, small and often, kept inside the ball.

Differs from the paper: the step is eps/steps, so that it serves every norm and unit. Kurakin's own, one level of 255 and
min(eps + 4, 1.25·eps) steps with eps in levels, is `step_size` and `steps`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import require_positive
from sapper.oracle import GradientOracle

PAPER = Paper(
    title="Adversarial Examples in the Physical World",
    authors="A. Kurakin, I. Goodfellow, S. Bengio",
    year=2017,
    url="https://arxiv.org/abs/1607.02533",
    venue="International Conference on Learning Representations, Workshop",
)


@dataclass(frozen=True, kw_only=True)
class BIM(Attack, norms={0, 1, 2, math.inf}, paper=PAPER):
    """Steps against the gradient and projects, from the sample itself."""

    steps: int = 10
    """Number of steps."""
    step_size: float | None = None
    """Length of a step in the threat's norm; by default eps/steps."""
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    """What to descend."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("step_size", self.step_size)

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> State:
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent(self.loss, logits))
        size = case.budget / self.steps if self.step_size is None else self.step_size
        x_adv = case.threat.descend(state.x_adv, gradient, size)
        return State(x_adv=case.threat.project(x_adv, case.x))
