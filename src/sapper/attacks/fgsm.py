"""Fast gradient method: one step of the whole budget, steepest in the threat's norm.

On a linear model, in linf, no legal input is worse.
Differs from the paper: clipped into the box (give infinite bounds for the paper's unclipped step), and not only in linf.
"""

import math
from dataclasses import dataclass

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.oracle import GradientOracle

PAPER = Paper(
    title="Explaining and Harnessing Adversarial Examples",
    authors="I. J. Goodfellow, J. Shlens, C. Szegedy",
    year=2015,
    url="https://arxiv.org/abs/1412.6572",
    venue="International Conference on Learning Representations",
)


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack, norms={0, 1, 2, math.inf}, paper=PAPER):
    """Moves once, by the whole budget, against the gradient of the loss."""

    def limit(self, budget: float) -> int:
        return 1

    def start(self, case: Case, oracle: GradientOracle) -> State:
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent("cross_entropy", logits))
        x_adv = case.threat.descend(state.x_adv, gradient, case.budget)
        return State(x_adv=case.threat.project(x_adv, case.x))
