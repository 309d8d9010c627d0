"""Auto-PGD: projected descent with momentum that finds its own step size and goes back to the best point.

It begins with steps of 2·eps. At checkpoints, ever closer to each other, a row whose loss no longer falls (at fewer than
three quarters of the steps since the last one), or which found nothing better while its step stayed as it was, halves its
step and starts again from its best point (Croce and Hein 2020, Algorithm 1). With `rival` it goes for one class, the
likeliest wrong one on the clean sample, the second likeliest …: the targeted DLR loss of Eq. 7 with ranks 1 to 9 is
AutoAttack's `apgd-t`.

In l1 it is l1-APGD (Croce and Hein 2021, "Mind the Box", Algorithm 1): a step moves the features of largest derivative by the
same amount each, as many as the best point's changed features tell; no momentum. Differs from the authors' code there:
the budget is the threat's from the start, not three times and twice it for the first steps.

Differs from the authors' code: the start is uniform in the ball, not on its surface; of two points with the same loss the
later one is the best, so that a loss which rounding has flattened does not bring a row back to its start.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, Mask, Scalars, choose

PAPER = Paper(
    title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
    authors="F. Croce, M. Hein",
    year=2020,
    url="https://arxiv.org/abs/2003.01690",
    venue="International Conference on Machine Learning",
)


@dataclass(frozen=True)
class Point:
    """A candidate and what the model said of it."""

    x: Batch
    gradient: Batch
    loss: Scalars


@dataclass(frozen=True, kw_only=True)
class Descending(State):
    goal: Goal
    """The case's own, or the rival's class."""
    previous: Batch
    """Where the last step began."""
    loss: Scalars
    """At the candidate before."""
    best: Point
    size: Scalars
    """Length of a step."""
    credit: Scalars
    """Since the last checkpoint: the steps at which the loss fell, less three quarters of all steps."""
    known: Scalars
    """At the last checkpoint: the best loss, or in l1 how many features the best point changed."""
    halved: Mask
    """At the last checkpoint."""
    share: Scalars
    """In l1: of the features, how many a step moves."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack, norms={1, 2, math.inf}, paper=PAPER):
    """Steps with momentum, halves its step where that does not help, and goes back to its best point."""

    steps: int = 100
    """Number of steps."""
    loss: Literal["cross_entropy", "dlr", "margin"] = "cross_entropy"
    """What to descend; dlr is the margin in units of the logits' own spread."""
    rival: int = 0
    """Go for the class of this rank among the likeliest wrong ones of the clean sample; 0 for any. Ends at once where there
    are fewer."""
    random_start: bool = True
    """Start uniformly in the ball rather than at the sample."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        if self.rival < 0:
            raise UsageError(
                f"expected rival to be the rank of a wrong class, 1 for the likeliest, or 0, got {self.rival}."
            )

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: GradientOracle) -> Descending:
        x = case.threat.sample(case.x, case.key, case.age) if self.random_start else case.x
        goal, none = case.goal, torch.zeros_like(case.age, dtype=torch.bool)
        done = none
        if self.rival:
            rivals = case.goal.rivals(oracle.logits(case.x), self.rival)
            goal, done = case.goal.through(rivals[:, -1]), none | (rivals.shape[1] < self.rival)
        one = torch.ones_like(case.age, dtype=x.dtype)
        return Descending(
            x_adv=x,
            done=done,
            goal=goal,
            previous=x,
            loss=one * math.inf,
            best=Point(x, torch.zeros_like(x), one * math.inf),
            size=one * (1 if case.threat.p == 1 else 2) * case.budget,
            credit=torch.zeros_like(one),
            known=one * (x[0].numel() if case.threat.p == 1 else math.inf),
            halved=none,
            share=one * 0.2,
        )

    def step(self, case: Case, oracle: GradientOracle, state: Descending) -> Descending:
        logits, pull = oracle.vjp(state.x_adv)
        loss: Scalars = getattr(state.goal, self.loss)(logits)
        here = Point(state.x_adv, pull(state.goal.cotangent(self.loss, logits)), loss)
        best = choose(loss <= state.best.loss, here, state.best)
        state = replace(state, best=best, credit=state.credit + (loss < state.loss).to(loss.dtype) - 0.75, loss=loss)
        look_back, move = (_sparser, _sparse_step) if case.threat.p == 1 else (_halve, _momentum_step)
        state, back = look_back(case, state, self.steps)
        here = choose(back, best, here)
        return replace(state, x_adv=move(case, state, here), previous=here.x)


def _halve(case: Case, state: Descending, steps: int) -> tuple[Descending, Mask]:
    """Algorithm 1, lines 12 to 15. At age 0 nothing is known yet, and the count begins."""
    at = torch.isin(case.age, torch.tensor(checkpoints(steps), device=case.age.device))
    stuck = ~state.halved & (state.best.loss == state.known)
    back = at & (case.age > 0) & ((state.credit < 0) | stuck)
    return replace(
        state,
        size=torch.where(back, state.size / 2, state.size),
        credit=torch.where(at, 0, state.credit),
        known=torch.where(at, state.best.loss, state.known),
        halved=torch.where(at, back, state.halved),
    ), back


def _momentum_step(case: Case, state: Descending, here: Point) -> Batch:
    """Algorithm 1, lines 7 and 8; the first step has no momentum."""
    towards = case.threat.project(case.threat.descend(here.x, here.gradient, state.size), case.x)
    inertia = here.x - state.previous
    moved = here.x + 0.75 * (towards - here.x) + 0.25 * inertia
    return case.threat.project(choose(case.age == 0, towards, moved), case.x)


def _sparser(case: Case, state: Descending, steps: int) -> tuple[Descending, Mask]:
    """Every 25th of the steps: as few features as the best point tells, a full step where they became fewer."""
    at = (case.age > 0) & (case.age % max(1, steps // 25) == 0)
    changed = (state.best.x != case.x).flatten(1).sum(1).to(state.known.dtype)
    fewer = at & (changed < 0.95 * state.known)
    shorter = (state.size / 1.5).clamp_min(case.budget / 10)
    return replace(
        state,
        size=torch.where(fewer, case.budget, torch.where(at, shorter, state.size)),
        known=torch.where(at, changed, state.known),
        share=torch.where(at, changed / (1.5 * case.x[0].numel()), state.share),
    ), fewer


def _sparse_step(case: Case, state: Descending, here: Point) -> Batch:
    slope = here.gradient.flatten(1)
    count = (state.share * slope.shape[1]).long().clamp(1, slope.shape[1])
    least = slope.abs().sort(1, descending=True).values.gather(1, count[:, None] - 1)
    sign = torch.where(slope.abs() >= least, slope.sign(), 0)
    step = sign * (state.size / sign.abs().sum(1).clamp_min(1))[:, None]
    return case.threat.project(here.x - step.reshape(here.x.shape), case.x)


@cache
def checkpoints(steps: int) -> tuple[int, ...]:
    """When a row looks back: at 0, 22, 41, 57 % … of the steps, the distance shrinking by 3 down to 6 % (section 3.3)."""
    marks, distance = [0.0, 0.22], 0.22
    while marks[-1] < 1:
        distance = max(distance - 0.03, 0.06)
        marks.append(marks[-1] + distance)
    return tuple(math.ceil(round(mark * steps, 9)) for mark in marks)
