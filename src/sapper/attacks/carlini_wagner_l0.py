"""Carlini and Wagner's L0 attack: a descent on ever fewer features, those that matter least being given up.

Adam lowers |x' − x|² + c·max(margin, −confidence) over the features still allowed. Once that succeeds, those of least
|derivative · change| go back to the sample for good, and the descent goes on from there (section VI.B).

Differs from the authors' code, which gives up 0.3·√n features at a time and stops at the first attempt that fails: here it
is half of them at first, and a failure goes back to the last success and gives up half as many, down to one. c weighs the
margin in units of its gradient's length on the allowed features; an attempt ends with its first success. Changes are
clipped into the box; there is no tanh.
"""

from dataclasses import dataclass

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.constant_search import length
from sapper.descent import Moments, adam
from sapper.errors import require_not_negative, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, Counts, Flags, Scalars, choose, nonzero, per_row

PAPER = Paper(
    title="Towards Evaluating the Robustness of Neural Networks",
    authors="N. Carlini, D. Wagner",
    year=2017,
    url="https://arxiv.org/abs/1608.04644",
    venue="IEEE Symposium on Security and Privacy",
)


@dataclass(frozen=True)
class Success:
    """The last one; before the first, the sample, with every feature as good as the other."""

    x: Batch
    score: Batch
    """|derivative · change| of each feature it changed; -1 of the others."""


@dataclass(frozen=True, kw_only=True)
class Dropping(State):
    allowed: Flags
    """Flags of the features that may change."""
    success: Success
    share: Scalars
    """Of the features that the last success changed, those that the present attempt gave up; 1 before there was one."""
    since: Counts
    """Steps of the present attempt."""
    attempts: Counts
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerL0(Attack, norms={0}, paper=PAPER, minimal=True):
    """Succeeds with all features, then with half of them, and so on with those that matter most."""

    steps: int = 50
    """Most steps of an attempt."""
    search_steps: int = 30
    """Attempts, each with fewer features than the last that succeeded."""
    step_size: float = 0.3
    """Adam's step, in widths of the box."""
    constant: float = 1000.0
    """Weight of the margin, in units of its gradient's length, against the squared length of the change."""
    confidence: float = 0.0
    """By how much the wanted class must lead, in logits (the paper's kappa)."""

    def __post_init__(self) -> None:
        for name in ("steps", "search_steps", "step_size", "constant"):
            require_positive(name, getattr(self, name))
        require_not_negative("confidence", self.confidence)

    def limit(self, budget: float) -> int:
        return self.steps * self.search_steps

    def aim(self, goal: Goal) -> Goal:
        return goal.surer(self.confidence)

    def start(self, case: Case, oracle: GradientOracle) -> Dropping:
        none, one = torch.zeros_like(case.age), torch.ones_like(case.age, dtype=case.x.dtype)
        return Dropping(
            x_adv=case.x, allowed=torch.ones_like(case.x.flatten(1), dtype=torch.bool), share=one, since=none, attempts=none,
            success=Success(case.x, torch.zeros_like(case.x)), moments=Moments.none(case.x), done=none > 0,
        )  # fmt: skip

    def step(self, case: Case, oracle: GradientOracle, state: Dropping) -> Dropping:
        unit, free = case.threat.unit, state.allowed.reshape(case.x.shape)
        logits, pull = oracle.vjp(state.x_adv)
        push = pull(case.goal.cotangent("margin", logits)) * unit * free
        push = push / per_row(nonzero(length(push, 2)), push)
        reached = case.goal.reached(logits.argmax(1), logits)
        change = (state.x_adv - case.x) / unit

        step, moments = adam(2 * change + self.constant * push, state.moments, self.step_size)
        moved = case.threat.clip(state.x_adv + unit * step * free)

        over = reached | (state.since + 1 >= self.steps)
        score = torch.where(change != 0, (push * change).abs(), -1)
        success = choose(reached, Success(state.x_adv, score), state.success)
        share = torch.where(reached, state.share.clamp_max(0.5), state.share.where(~over, state.share / 2))
        allowed = torch.where(over[:, None], _most_important(success.score, share), state.allowed)
        back = torch.where(allowed.reshape(case.x.shape), success.x, case.x)
        attempts = state.attempts + over
        count = _counting(success.score)
        hopeless = over & ~reached & ((state.share == 1) | (state.share * count < 2))  # with all, or without one
        return Dropping(
            x_adv=torch.where(per_row(over, moved), back, moved),
            allowed=allowed,
            success=success,
            share=share,
            since=(state.since + 1).masked_fill(over, 0),
            attempts=attempts,
            moments=moments.cleared(over),
            done=(attempts >= self.search_steps) | hopeless | (reached & (count < 2)),
        )


def _counting(score: Batch) -> Counts:
    return (score >= 0).flatten(1).sum(1)


def _most_important(score: Batch, share: Scalars) -> Flags:
    """Flags of the features that are left when this share of those that count is given up, one at least."""
    count = _counting(score)
    given_up = (share * count).long().clamp_min(1)
    rank = score.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return rank >= (rank.shape[1] - count + given_up)[:, None]
