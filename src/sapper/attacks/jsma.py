"""Jacobian-based saliency map attack: few features, changed a lot.

The forward derivative says how each feature moves each output. The pair of features that does most to raise the target
while lowering all other classes together is changed, until the target is reached or the budget is spent (Algorithm 2 and
3, Eq. 8 and 9).

Differs from the paper: two vector-Jacobian products stand for the Jacobian, since only the target's row and the sum of the
others are used; the search over all pairs is exact without visiting them (`saliency_pair`). For goals that name no
target, all classes but the label rise together and the label falls (Wiyatno and Xu, arXiv 1808.07945).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError
from sapper.oracle import GradientOracle
from sapper.saliency import roughness_rise, saliency_pair, saliency_single
from sapper.tensors import Batch, Flags, Flat, Logits
from sapper.threat import Threat

PAPER = Paper(
    title="The Limitations of Deep Learning in Adversarial Settings",
    authors="N. Papernot, P. McDaniel, S. Jha, M. Fredrikson, Z. B. Celik, A. Swami",
    year=2016,
    url="https://arxiv.org/abs/1511.07528",
    venue="IEEE European Symposium on Security and Privacy",
)


@dataclass(frozen=True, kw_only=True)
class Searching(State):
    domain: Flags
    """The paper's Γ, a flag a feature: which may still be changed."""


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack, norms={0}, paper=PAPER, minimal=True):
    """Raises (or lowers) the features of greatest saliency, two at a time, until the goal is reached."""

    theta: float = 1.0
    """Change made to a chosen feature per step, in the data's units; negative to decrease."""
    features: Literal["pair", "single"] = "pair"
    """Whether a step changes the best pair of features or the best single one."""
    saliency: Literal["logits", "probabilities"] = "logits"
    """Derivatives of the logits, or of the softmax: there the other classes' sum is minus the target's, and says nothing."""
    room: float = 0.0
    """Leave out features that can move by less than this share of theta; 0 is the paper's, which may also choose a feature
    that is saturated from the start, to no effect. Other libraries start with about 0.01."""
    roughness: float | None = None
    """Change only pixels whose own change raises the sum of squared differences of neighbouring pixels by no more than this,
    to evade the detector the paper sketches; by default any."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.theta) and self.theta != 0):
            raise UsageError(f"expected theta to be a number other than 0, got {self.theta}.")
        if self.roughness is not None and math.isnan(self.roughness):
            raise UsageError("expected roughness to be a number, got nan.")
        if not 0 <= self.room <= 1:
            raise UsageError(f"expected room from 0 to 1, got {self.room}.")

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        if self.roughness is not None and len(shape) != 3:
            raise UsageError(f"roughness is for images (channels, height, width), got samples of shape {tuple(shape)}.")

    def limit(self, budget: float) -> int:
        return math.floor(budget / (2 if self.features == "pair" else 1))

    def start(self, case: Case, oracle: GradientOracle) -> Searching:
        domain = self._room(case, case.x.flatten(1)) >= self.room * abs(self.theta)
        return Searching(x_adv=case.x, domain=domain, done=torch.zeros_like(case.age, dtype=torch.bool))

    def step(self, case: Case, oracle: GradientOracle, state: Searching) -> Searching:
        logits, pull = oracle.vjp(state.x_adv)
        target, others = self._forward_derivative(case, logits, pull)
        sign = math.copysign(1.0, self.theta)  # Eq. 9 is Eq. 8 with both signs turned
        search = saliency_pair if self.features == "pair" else saliency_single
        domain = (
            state.domain if self.roughness is None else state.domain & self._smooth(case, state.x_adv, self.roughness)
        )
        chosen, admissible = search(sign * target, -sign * others, domain)

        x = state.x_adv.flatten(1)
        changed = case.threat.clip(x.gather(1, chosen) + self.theta)
        changed = torch.where(admissible[:, None], changed, x.gather(1, chosen))
        free = self._room(case, changed) > self.room * abs(self.theta)
        reached = case.goal.reached(logits.argmax(1), logits)
        return Searching(
            x_adv=x.scatter(1, chosen, changed).reshape(case.x.shape),
            domain=state.domain.scatter(1, chosen, free),
            done=reached | ~admissible,
        )

    def _room(self, case: Case, values: Flat) -> Flat:
        """How far each value is from saturating."""
        return case.threat.upper - values if self.theta > 0 else values - case.threat.lower

    def _smooth(self, case: Case, x_adv: Batch, most: float) -> Flags:
        return (roughness_rise(x_adv, case.threat.clip(x_adv + self.theta) - x_adv) <= most).flatten(1)

    def _forward_derivative(self, case: Case, logits: Logits, pull: Callable[[Logits], Batch]) -> tuple[Flat, Flat]:
        """∂F_target/∂x and Σ ∂F_other/∂x, flat."""
        rising, falling = case.goal.directions(logits)
        if self.saliency == "probabilities":
            p = logits.softmax(1)
            rising, falling = (p * (c - (p * c).sum(1, keepdim=True)) for c in (rising, falling))
        return pull(rising).flatten(1), pull(falling).flatten(1)
