"""Elastic-net attack: the smallest change in L1, with a little L2, by iterative shrinkage.

FISTA lowers c·max(margin, −confidence) + |x' − x|² + λ|x' − x|₁: a gradient step for the first two, then every change is
drawn towards 0, and small ones become 0 (Algorithm 1). Which c is the smallest that still succeeds is searched for each
sample, as in Carlini and Wagner's attack, which this is without the L1.

As in the authors' code the steps shorten while what changes are drawn by stays, so in the end the L1 outweighs all else.
Differs from it: the model is asked about the point with momentum, y(k), alone, so a step is one forward and one backward
pass. The constant weighs the margin in units of its own first gradient (`constant_search`) and is sought above λ, as nothing
moves below. Steps are short where the boundary is near. Every attempt goes on to its end: on the robust MNIST network
(30 samples) that halved the speed and took a twentieth off the median distance.
"""

import math
from dataclasses import dataclass, replace

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.constant_search import ConstantSearch
from sapper.descent import shrunk
from sapper.errors import require_not_negative, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, Scalars, per_row
from sapper.threat import norm

PAPER = Paper(
    title="EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples",
    authors="P.-Y. Chen, Y. Sharma, H. Zhang, J. Yi, C.-J. Hsieh",
    year=2018,
    url="https://arxiv.org/abs/1709.04114",
    venue="AAAI Conference on Artificial Intelligence",
)

_SHARE = 0.1
"""Of the distance at which the sample's own gradient sees the boundary: a step is no larger."""


@dataclass(frozen=True, kw_only=True)
class Shrinking(State):
    iterate: Batch
    """The paper's x(k); what is asked about is its y(k)."""
    reach: Scalars
    """Where the sample's own gradient sees the boundary, in widths of the box."""
    search: ConstantSearch


@dataclass(frozen=True, kw_only=True)
class EAD(Attack, norms={1}, paper=PAPER, minimal=True):
    """Lowers margin, L1 and L2 together by iterative shrinkage, so that few features change."""

    steps: int = 100
    """Most steps with one constant."""
    search_steps: int = 9
    """Constants tried."""
    step_size: float = 0.01
    """The first step, as a factor of the gradient (the paper's alpha); it falls with the root of the steps left."""
    beta: float = 0.02
    """What a change is drawn towards 0 by at every step; over `step_size` it is the weight of the L1, so the more, the fewer
    features change. The paper's are 0.001 to 0.1; on linear models more came nearer to the exact distance, on the robust
    MNIST network less."""
    constant: float = 2.0
    """The first constant, as a multiple of the weight of the L1."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits (the paper's kappa)."""
    abort_early: bool = False
    """End an attempt that has lowered its objective by less than a hundredth in a fortieth of its steps, 10 at least."""

    def __post_init__(self) -> None:
        for name in ("steps", "search_steps", "step_size", "beta", "constant"):
            require_positive(name, getattr(self, name))
        require_not_negative("confidence", self.confidence)

    def limit(self, budget: float) -> int:
        return self.steps * self.search_steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: GradientOracle) -> Shrinking:
        weight = self.beta / self.step_size
        search = ConstantSearch.begun(self.constant * weight, case.x)
        search = replace(search, lower=search.lower + min(1.0, self.constant) * weight)
        return Shrinking(x_adv=case.x, iterate=case.x, reach=search.slope, search=search, done=search.succeeded)

    def step(self, case: Case, oracle: GradientOracle, state: Shrinking) -> Shrinking:
        unit, weight = case.threat.unit, self.beta / self.step_size
        logits, pull = oracle.vjp(state.x_adv)
        push = pull(case.goal.cotangent("margin", logits)) * unit
        reached = case.goal.reached(logits.argmax(1), logits)
        search = state.search.seeing(push, p=math.inf)

        change = (state.x_adv - case.x) / unit
        loss = search.weigh(case.goal.margin(logits)).masked_fill(reached, 0)
        reach = torch.where(case.age == 0, loss / search.constant, state.reach)
        gradient = 2 * change + search.weigh(push * per_row(~reached, push))
        first = (_SHARE * reach).clamp_max(self.step_size)
        rate = first * (1 - search.since.to(reach.dtype) / self.steps).sqrt()
        change_next = shrunk(change - per_row(rate, change) * gradient, first * weight)
        iterate = case.threat.clip(case.x + unit * change_next)
        since = search.since.to(iterate.dtype)
        momentum = per_row(since / (since + 3), iterate)
        asked = case.threat.clip(iterate + momentum * (iterate - state.iterate))

        objective = loss + change.flatten(1).square().sum(1) + weight * norm(change, 1)
        search, over = search.after(objective, reached, self.steps, abort_early=self.abort_early)
        back = per_row(over, iterate)
        return Shrinking(
            x_adv=case.x.where(back, asked),
            iterate=case.x.where(back, iterate),
            reach=reach,
            search=search,
            done=search.attempts >= self.search_steps,
        )
