"""RAND+FGSM: a small random step, then one gradient step with what is left of the budget.

The random step leaves the sample's own neighbourhood, where single-step adversarial training masks the gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError
from sapper.oracle import GradientOracle
from sapper.threat import Threat

PAPER = Paper(
    title="Ensemble Adversarial Training: Attacks and Defenses",
    authors="F. Tramèr, A. Kurakin, N. Papernot, I. Goodfellow, D. Boneh, P. McDaniel",
    year=2018,
    url="https://arxiv.org/abs/1705.07204",
    venue="International Conference on Learning Representations",
)


@dataclass(frozen=True, kw_only=True)
class RandFGSM(Attack, norms={math.inf}, paper=PAPER):
    """Steps by alpha·sign(normal noise), then once by eps − alpha against the gradient."""

    alpha: float | None = None
    """Length of the random step, in the data's units, below eps; by default half of eps (the paper's on ImageNet)."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha >= 0:
            raise UsageError(f"expected alpha of 0 or more, got {self.alpha}.")

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        if self.alpha is not None and self.alpha > (budget := threat.budget(math.prod(shape))):
            raise UsageError(f"expected alpha below the budget {budget:g}, got {self.alpha:g}.")

    def limit(self, budget: float) -> int:
        return 1

    def start(self, case: Case, oracle: GradientOracle) -> State:
        draws = noise.normal(case.key, case.age, case.x[0].numel(), case.x.dtype)
        return State(x_adv=case.threat.clip(case.x + self._alpha(case) * draws.sign().reshape(case.x.shape)))

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent("cross_entropy", logits))
        x_adv = case.threat.descend(state.x_adv, gradient, case.budget - self._alpha(case))
        return State(x_adv=case.threat.project(x_adv, case.x))

    def _alpha(self, case: Case) -> float:
        return case.budget / 2 if self.alpha is None else self.alpha
