"""The ledger kept at the model's door: what each case cost, and its closest success.

Attacks are not trusted with either. Every input they ask about passes here: it is rounded as the threat demands,
counted, and remembered if it is legal, reaches the goal and is nearer than what was known. Beside that it notes what the
doctor asks for: whether the attack could see where to go, and whether it got nearer.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sapper.attack import Case
from sapper.learners import KnownLearner
from sapper.milestones import MILESTONES
from sapper.oracle import GradientOracle, LearnerOracle, silent
from sapper.tensors import Batch, Flat, Labels, Logits, Mask, Scalars, at_least_single, take


class Ledger:
    """One row a case of the whole job."""

    def __init__(
        self,
        oracle: GradientOracle,
        case: Case,
        queries: int | None = None,
        lead: float = 0.0,
        *,
        transfer: bool = False,
        trail: bool = False,
    ) -> None:
        """Args:
        oracle: The model.
        case: All cases.
        queries: Most questions about each.
        lead: Of the confidence that the cases' goals ask for, how much is wanted only; successes without it are kept until
            there is one with it.
        transfer: The cases are to fool another model. Under a budget they are then tried to the end, and what this model is
            surest of being wrong about is kept, not what is closest.
        trail: How near each case had come is noted along its questions.
        """
        rows, device = len(case.x), case.x.device
        self.oracle = oracle
        self.queries = queries
        self.lead = lead
        """Of the confidence that the cases' goals ask for, how much is wanted only; successes without it are kept until
        there is one with it."""
        self.forwards = torch.zeros(rows, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(rows, dtype=torch.int64, device=device)
        self.found = torch.zeros(rows, dtype=torch.bool, device=device)
        self.broken = torch.zeros(rows, dtype=torch.bool, device=device)
        """The model answered with something that is not a finite number."""
        self.silent = torch.zeros(rows, dtype=torch.bool, device=device)
        """The model gave no answer, and will give none in this run."""
        self.distance = torch.full((rows,), torch.inf, dtype=at_least_single(case.x.dtype), device=device)
        """Of the closest success; infinite as long as there is none with the lead."""
        self.x_adv = case.x.clone()
        """The closest success, where there is one; of those without the lead, the surest."""
        self.last = case.x.clone()
        """The last candidate."""
        self.surest = torch.full_like(self.distance, torch.inf) if transfer and case.threat.eps is not None else None
        """The goal's margin at what is kept, where that is the surest and not the closest."""
        self.steps = torch.zeros_like(self.forwards)
        """Steps behind the closest success, or all that were taken where there is none."""
        self.question = torch.zeros_like(self.forwards)
        """Which question `x_adv` was."""
        self._milestones = torch.tensor(MILESTONES if trail else (), device=device)
        self._nearest = self.distance[:, None].repeat(1, len(self._milestones))
        """The closest success of those that came after the milestone before."""
        self._taken = torch.zeros_like(self.forwards)
        self._margin = torch.full_like(self.distance, torch.inf)
        """Of the success that is kept."""
        self.seconds = torch.zeros(rows, dtype=torch.float64, device=device)
        """Each case's share of the time of its batches."""
        self.zero_gradients = torch.zeros_like(self.forwards)
        """Backward passes that gave nothing to follow: zero, or below the smallest number the type holds in full."""
        self.bad_gradients = torch.zeros_like(self.forwards)
        """Backward passes that gave nan or infinity."""
        self.first_margin = torch.full_like(self.distance, torch.nan)
        """The goal's margin at the first question, which is below 0 once it is reached."""
        self.best_margin = torch.full_like(self.distance, torch.nan)
        """The least margin of all that was asked."""

    def door(self, case: Case) -> "Door":
        """The door as these cases' attack sees it."""
        return Door(self, case)

    def closed(self, case: Case) -> Mask:
        """Which of these cases have nothing left to ask: no answer, no query left, or found, which a budget makes final."""
        closed = self.broken[case.index] | self.silent[case.index] | self._spent(case)
        distance = self.distance[case.index]
        return closed | (distance == 0 if case.threat.eps is None else distance < torch.inf)

    @property
    def kept(self) -> Mask:
        """Where `x_adv` is something that was asked about."""
        return self.found if self.surest is None else self.surest < torch.inf

    def approach(self) -> Flat:
        """The distance of the closest success within each milestone's number of questions, nan where there was none; without
        a trail there are no columns.
        """
        least = self._nearest.cummin(1).values if len(self._milestones) else self._nearest
        return least.where(least.isfinite(), torch.nan)

    def _spent(self, case: Case) -> Mask:
        if self.queries is None:
            return torch.zeros_like(case.index, dtype=torch.bool)
        return self.forwards[case.index] >= self.queries

    def record(self, case: Case, x_adv: Batch, logits: Logits) -> None:
        rows = case.index
        spent = self._spent(case)
        margin = case.goal.margin(logits).to(self.best_margin.dtype)
        self.first_margin[rows] = torch.where(self.forwards[rows] == 0, margin, self.first_margin[rows])
        self.best_margin[rows] = self.best_margin[rows].fmin(margin)
        unanswered = silent(self.oracle, logits)
        self.forwards[rows] += ~unanswered
        self.silent[rows] |= unanswered
        self.broken[rows] |= ~logits.isfinite().all(1) & ~unanswered
        if self.surest is not None:
            seen = ~(self.broken[rows] | unanswered | spent)
            self._keep_surest(self.surest, case, x_adv, margin.where(seen, torch.inf))
            return
        sure = case.goal.reached(logits.argmax(1), logits)
        reached = ((sure | (margin < self.lead)) & ~self.broken[rows] & ~unanswered & ~spent).nonzero()[:, 0]
        if not len(reached):
            return
        case, x_adv, margin = take(case, reached), take(x_adv, reached), margin[reached]
        distance, held = case.threat.distance(x_adv, case.x), self.distance[case.index]
        distance = torch.where(sure[reached], distance, torch.inf).to(held.dtype)
        surer = (distance == held) & (margin < self._margin[case.index]) & held.isinf()
        better = case.threat.legal(x_adv, case.x) & ((distance < held) | surer)
        rows = case.index[better]
        self.found[rows] = True
        self.distance[rows] = distance[better]
        self._margin[rows] = margin[better]
        self.x_adv[rows] = x_adv[better]
        self.steps[rows] = self._taken[rows] + case.age[better]
        self.question[rows] = asked = self.forwards[rows]
        if len(self._milestones):
            self._nearest[rows, torch.bucketize(asked, self._milestones[:-1])] = distance[better]

    def _keep_surest(self, surest: Tensor, case: Case, x_adv: Batch, margin: Scalars) -> None:
        """The legal input with the least margin; not the sample itself, which is no attempt."""
        rows, tried = case.index, case.threat.distance(x_adv, case.x) > 0
        better = tried & (margin < surest[rows]) & case.threat.legal(x_adv, case.x)
        rows = rows[better]
        surest[rows] = margin[better]
        self.x_adv[rows] = x_adv[better]
        self.question[rows] = self.forwards[rows]

    def look_at(self, case: Case, gradient: Batch) -> bool:
        """Counts a backward pass, and whether its gradient can be followed; says whether any entry is nan or infinite."""
        rows, tiny = case.index, torch.finfo(gradient.dtype).tiny
        largest = gradient.flatten(1).abs().amax(1)  # nan where there is one; ten times as fast as the norm
        self.backwards[rows] += 1
        self.zero_gradients[rows] += largest < tiny
        bad = ~largest.isfinite()
        self.bad_gradients[rows] += bad
        return bool(bad.any())

    def leave(self, case: Case, candidate: Batch) -> None:
        """Notes that these cases' attack has ended, and with what."""
        rows = case.index
        self.last[rows] = candidate.to(self.last.dtype)
        self._taken[rows] += case.age
        self.steps[rows] = torch.where(self.found[rows], self.steps[rows], self._taken[rows])


class Door:
    """A white-box oracle for one batch of cases, row for row, that keeps the ledger."""

    def __init__(self, ledger: Ledger, case: Case) -> None:
        self._ledger = ledger
        self._case = case

    def labels(self, x: Batch) -> Labels:
        return self.logits(x).argmax(1)

    def learner(self) -> KnownLearner:
        """Looked at, not asked: it costs no question."""
        assert isinstance(self._ledger.oracle, LearnerOracle)
        return self._ledger.oracle.learner()

    def logits(self, x: Batch) -> Logits:
        x = self._case.threat.submit(x.detach().to(self._case.x.dtype), self._case.x)
        logits = self._ledger.oracle.logits(x)
        self._ledger.record(self._case, x, logits)
        return logits

    def vjp(self, x: Batch) -> tuple[Logits, Callable[[Logits], Batch]]:
        x = self._case.threat.submit(x.detach().to(self._case.x.dtype), self._case.x)
        logits, pull = self._ledger.oracle.vjp(x)
        self._ledger.record(self._case, x, logits)
        return logits, partial(self._counted, pull)

    def _counted(self, pull: Callable[[Logits], Batch], cotangent: Logits) -> Batch:
        gradient = pull(cotangent)
        is_bad = self._ledger.look_at(self._case, gradient)
        return gradient.nan_to_num(0.0, 0.0, 0.0) if is_bad else gradient  # one such entry would spoil all that follows
