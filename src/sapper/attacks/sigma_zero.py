"""σ-zero: few features by gradient descent, on a smooth stand-in for their number and a threshold that adapts.

The number of changed features is approximated by Σ x²/(x² + sigma), which has a slope; it is lowered together with the
margin, and after each step changes below a threshold are dropped. The threshold rises while the sample fools and falls
while it does not (Algorithm 1).

Differs from the authors' code: the margin's gradient is divided by its largest entry before the surrogate's is added, so
that a model's temperature does not matter. Under a budget nothing changes: the nearest is sought all the same.
"""

from dataclasses import dataclass

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import Moments, adam, half_cosine
from sapper.errors import UsageError, require_not_negative, require_positive
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, Scalars, per_row, scaled

PAPER = Paper(
    title="σ-zero: Gradient-based Optimization of ℓ0-norm Adversarial Examples",
    authors="A. E. Cinà, F. Villani, M. Pintor, L. Schönherr, B. Biggio, M. Pelillo",
    year=2024,
    url="https://arxiv.org/abs/2402.01879",
    venue="International Conference on Learning Representations",
)


@dataclass(frozen=True, kw_only=True)
class Thinning(State):
    threshold: Scalars
    """The paper's tau, in widths of the input's range: smaller changes are dropped."""
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack, norms={0}, paper=PAPER, minimal=True):
    """Lowers the margin and a smooth count of the changed features, and drops the changes below a threshold."""

    steps: int = 100
    """Number of steps."""
    step_size: float = 1.0
    """Adam's first step, in widths of the input's range; the last is a tenth of it."""
    sigma: float = 1e-3
    """The smaller, the nearer the smooth count is to the true one and the flatter."""
    threshold: float = 0.3
    """First threshold (the paper's tau), in widths of the input's range."""
    threshold_step: float = 0.01
    """By how much the threshold rises or falls (the paper's t), times the step size of the moment."""

    def __post_init__(self) -> None:
        for name in ("steps", "step_size", "sigma"):
            require_positive(name, getattr(self, name))
        require_not_negative("threshold_step", self.threshold_step)
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"expected a threshold from 0 to 1, got {self.threshold}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Thinning:
        threshold = torch.full_like(case.age, 1, dtype=case.x.dtype) * self.threshold
        return Thinning(x_adv=case.x, threshold=threshold, moments=Moments.none(case.x))

    def step(self, case: Case, oracle: GradientOracle, state: Thinning) -> Thinning:
        logits, pull = oracle.vjp(state.x_adv)
        push, _ = scaled(pull(case.goal.cotangent("margin", logits)))
        reached = case.goal.reached(logits.argmax(1), logits)

        change = (state.x_adv - case.x) / case.threat.unit
        gradient = push * per_row(~reached, push) + self._count_slope(change)
        rate = half_cosine(case.age, self.steps, 1.0, 0.1, case.x.dtype)
        step, moments = adam(scaled(gradient)[0], state.moments, self.step_size)
        x_adv = case.threat.clip(state.x_adv + step * per_row(rate * case.threat.unit, step))

        rise = torch.where(reached, self.threshold_step, -self.threshold_step) * self.step_size * rate
        threshold = (state.threshold + rise).clamp(0, 1)
        small = (x_adv - case.x).abs() < per_row(threshold * case.threat.unit, x_adv)
        return Thinning(x_adv=x_adv.where(~small, case.x), threshold=threshold, moments=moments)

    def _count_slope(self, change: Batch) -> Batch:
        """The derivative of Σ x²/(x² + sigma), a share of all features."""
        square = change.square()
        return 2 * self.sigma * change / (square + self.sigma).square() / change[0].numel()
