"""Carlini and Wagner's L∞ attack: what features change by beyond tau is penalised, and tau falls as long as it succeeds.

Adam lowers c·max(margin, −confidence) + Σ max(|x' − x| − tau, 0): unlike the largest change itself, every feature that is
beyond tau feels it (section VI.C). After a success tau becomes 0.9 of itself, or of the largest change if that is less,
and the descent goes on from there.

Differs from the authors' code: the first tau is the budget, or twice where the sample's gradient sees the boundary, not
the width of the box; after the first failure tau is halved between what failed and what succeeded, as the factor alone
leaves a tenth. The margin's gradient counts in units of its largest entry, so that a constant below 1 never pushes a
feature beyond tau, and theirs, which doubles until it succeeds, need not be searched for. Steps are a share of tau, falling
to 0. Changes are clipped into the box; there is no tanh.
"""

import math
from dataclasses import dataclass

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.descent import Moments, adam
from sapper.errors import UsageError, require_not_negative, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.tensors import Counts, Scalars, per_row, scaled
from sapper.threat import norm

PAPER = Paper(
    title="Towards Evaluating the Robustness of Neural Networks",
    authors="N. Carlini, D. Wagner",
    year=2017,
    url="https://arxiv.org/abs/1608.04644",
    venue="IEEE Symposium on Security and Privacy",
)

_SLACK = 0.005
"""A largest change beyond tau by this share is within it: Adam comes near and does not stay."""
_LEAST = 1e-4
"""The first tau is no less; one that fails is doubled until one succeeds."""


@dataclass(frozen=True, kw_only=True)
class Tightening(State):
    tau: Scalars
    """In widths of the box; 0 before the first step."""
    failed: Scalars
    """The largest tau that failed; 0 before."""
    won: Scalars
    """The smallest that succeeded, as the largest change it took; infinite before."""
    since: Counts
    """Steps with the present one."""
    rounds: Counts
    """Those behind."""
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(Attack, norms={math.inf}, paper=PAPER, minimal=True):
    """Lowers the margin and what changes exceed a tolerance, which tightens as long as it succeeds."""

    steps: int = 40
    """Most steps with one tau."""
    search_steps: int = 12
    """Values of tau tried."""
    step_size: float = 0.1
    """Adam's first step, as a share of tau."""
    factor: float = 0.9
    """By which tau falls after a success, until the first failure."""
    constant: float = 0.5
    """Weight of the margin's gradient, in units of its largest entry, between 0 and 1."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits (the paper's kappa)."""

    def __post_init__(self) -> None:
        for name in ("steps", "search_steps", "step_size"):
            require_positive(name, getattr(self, name))
        for name in ("factor", "constant"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"expected {name} between 0 and 1, got {getattr(self, name)}.")
        require_not_negative("confidence", self.confidence)

    def limit(self, budget: float) -> int:
        return self.steps * self.search_steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: GradientOracle) -> Tightening:
        none, zero = torch.zeros_like(case.age), torch.zeros_like(case.age, dtype=case.x.dtype)
        return Tightening(
            x_adv=case.x, tau=zero, failed=zero, won=zero + math.inf, since=none, rounds=none,
            moments=Moments.none(case.x), done=none > 0,
        )  # fmt: skip

    def step(self, case: Case, oracle: GradientOracle, state: Tightening) -> Tightening:
        unit = case.threat.unit
        logits, pull = oracle.vjp(state.x_adv)
        push = pull(case.goal.cotangent("margin", logits)) * unit
        reached = case.goal.reached(logits.argmax(1), logits)
        way, largest = scaled(push)
        tau = torch.where(
            case.age == 0, self._first(case, case.goal.margin(logits) / largest / norm(way, 1)), state.tau
        )

        change = (state.x_adv - case.x) / unit
        size = norm(change, math.inf)
        within = reached & (size <= tau * (1 + _SLACK))
        beyond = change.sign() * (change.abs() > per_row(tau, change))
        gradient = beyond + self.constant * way * per_row(~reached, way)
        rate = self.step_size * tau * (1 - state.since / self.steps)
        step, moments = adam(gradient, state.moments, rate)

        over = within | (state.since + 1 >= self.steps)
        won = torch.where(within, torch.minimum(state.won, size), state.won)
        failed = torch.where(over & ~within, tau, state.failed)
        rounds = state.rounds + over
        return Tightening(
            x_adv=case.threat.clip(state.x_adv + unit * step * per_row(~over, step)),
            tau=torch.where(over, self._next(case, failed, won), tau),
            failed=failed,
            won=won,
            since=(state.since + 1).masked_fill(over, 0),
            rounds=rounds,
            moments=moments.cleared(over),
            done=(rounds >= self.search_steps) | (won == 0),
        )

    def _first(self, case: Case, seen: Scalars) -> Scalars:
        """Twice where the boundary is seen to be; the budget, if there is one."""
        if case.threat.eps is not None:
            return torch.full_like(seen, case.budget / case.threat.unit)
        return torch.where(seen.isfinite(), 2 * seen, 1.0).clamp(_LEAST, 1.0)

    def _next(self, case: Case, failed: Scalars, won: Scalars) -> Scalars:
        between = torch.where(failed > 0, (failed + won) / 2, self.factor * won)
        return torch.where(won.isinf(), (2 * failed).clamp_max(min(1.0, case.budget / case.threat.unit)), between)
