"""Projected gradient descent: from a random point of the ball, step and project.

Restarts are a wrapper: `5*pgd`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import require_positive
from sapper.oracle import GradientOracle

PAPER = Paper(
    title="Towards Deep Learning Models Resistant to Adversarial Attacks",
    authors="A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu",
    year=2018,
    url="https://arxiv.org/abs/1706.06083",
    venue="International Conference on Learning Representations",
)


@dataclass(frozen=True, kw_only=True)
class PGD(Attack, norms={0, 1, 2, math.inf}, paper=PAPER):
    """Steps against the gradient and projects, from a random point of the ball."""

    steps: int = 40
    """Number of steps."""
    step_size: float | None = None
    """Length of a step in the threat's norm; by default 2.5·eps/steps (the paper's rule of thumb), at most eps."""
    random_start: bool = True
    """Start uniformly in the ball rather than at the sample."""
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    """What to descend."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        require_positive("step_size", self.step_size)

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> State:
        return State(x_adv=case.threat.sample(case.x, case.key, case.age) if self.random_start else case.x)

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent(self.loss, logits))
        size = min(2.5 / self.steps, 1) * case.budget if self.step_size is None else self.step_size
        x_adv = case.threat.descend(state.x_adv, gradient, size)
        return State(x_adv=case.threat.project(x_adv, case.x))
