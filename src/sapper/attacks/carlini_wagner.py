"""Carlini and Wagner's L2 attack: the smallest change that fools, sought as a minimum without constraints.

Adam lowers |x' − x|² + c·max(margin, −confidence) over a variable that is free of the box, x' = tanh(w). Which c is the
smallest that still succeeds, and so gives the nearest success, is searched for each sample (section VI.A).

Differs from the authors' code: the tanh is stretched, so that black and white pixels can move (`tanh_variable`). The
constant weighs the margin in units of its own first gradient (`constant_search`). The search goes down tenfold too, and
it ends with its last attempt, without one more at the best constant. Steps are short where the constant is small, as the
minimum is then near: with steps of 0.01 alone, distances on linear models of 100 features were a fifth too large. Samples
move on to their next attempt, and abort one, each for itself.
"""

import math
from dataclasses import dataclass

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.constant_search import ConstantSearch
from sapper.descent import Moments, adam
from sapper.errors import require_not_negative, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.tanh_variable import bounded, boxed, freed, slope
from sapper.tensors import Batch, per_row

PAPER = Paper(
    title="Towards Evaluating the Robustness of Neural Networks",
    authors="N. Carlini, D. Wagner",
    year=2017,
    url="https://arxiv.org/abs/1608.04644",
    venue="IEEE Symposium on Security and Privacy",
)


_SHARE = 0.2
"""Of the distance at which a constant's minimum lies on a linear model: a step goes no further."""


@dataclass(frozen=True, kw_only=True)
class Descending(State):
    free: Batch
    """The paper's w."""
    moments: Moments
    search: ConstantSearch


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack, norms={2}, paper=PAPER, minimal=True):
    """Lowers distance and margin together, in the weights that serve each sample best."""

    steps: int = 1000
    """Most steps with one constant."""
    search_steps: int = 9
    """Constants tried."""
    step_size: float = 0.01
    """Adam's step in the free variable; a pixel moves by about as large a share of the box."""
    constant: float = 1e-3
    """The first constant. Under a budget no less than twice that, with which a linear model's minimum lies there."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits (the paper's kappa)."""
    abort_early: bool = True
    """End an attempt that has lowered its objective by less than a hundredth in a fortieth of its steps, 10 at least."""

    def __post_init__(self) -> None:
        for name in ("steps", "search_steps", "step_size", "constant"):
            require_positive(name, getattr(self, name))
        require_not_negative("confidence", self.confidence)

    def limit(self, budget: float) -> int:
        return self.steps * self.search_steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: GradientOracle) -> Descending:
        first = self.constant if case.threat.eps is None else max(self.constant, 2 * case.budget / case.threat.unit)
        search = ConstantSearch.begun(first, case.x)
        free = freed(case.x, case.threat)
        return Descending(x_adv=case.x, free=free, moments=Moments.none(free), search=search, done=search.succeeded)

    def step(self, case: Case, oracle: GradientOracle, state: Descending) -> Descending:
        unit = case.threat.unit
        logits, pull = oracle.vjp(state.x_adv)
        push = pull(case.goal.cotangent("margin", logits)) * unit
        reached = case.goal.reached(logits.argmax(1), logits)
        search = state.search.seeing(push, p=2)

        change = (state.x_adv - case.x) / unit
        loss = search.weigh(case.goal.margin(logits)).masked_fill(reached, 0)
        gradient = 2 * change + search.weigh(push * per_row(~reached, push))
        reach = _SHARE * search.constant / 2 / math.sqrt(case.x[0].numel())
        rate = reach.clamp_max(self.step_size)
        step, moments = adam(gradient * slope(state.free, case.threat), state.moments, rate)

        objective = change.flatten(1).square().sum(1) + loss
        search, over = search.after(objective, reached, self.steps, abort_early=self.abort_early)
        free = bounded(state.free + step, case.threat)
        free[over] = freed(case.x[over], case.threat).to(free.dtype)
        return Descending(
            x_adv=boxed(free, case.threat),
            free=free,
            moments=moments.cleared(over),
            search=search,
            done=search.attempts >= self.search_steps,
        )
