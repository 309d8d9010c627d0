"""The search for the smallest constant with which an attack still succeeds, each row at its own place in it.

Carlini and Wagner (2017, section V.C): tenfold until one succeeds, then the middle of the largest that failed and the
smallest that succeeded. Constants weigh the model's loss against a distance in widths of the box. So that neither a
model's temperature nor the data's units matter, they count in a loss whose first gradient has length 1: there the
margin of a linear model is the distance to its border, and the constant that succeeds is twice that.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapper.tensors import Batch, Counts, Mask, Scalars, at_least_single, per_row, scaled

_FACTOR = 10
_CHECKS, _LEAST, _PROGRESS = 40, 10, 0.99
"""An attempt is looked at so many times, after no fewer steps, and ends if its objective has not fallen to that share.
On the robust MNIST network (Carlini and Wagner's L2, 25 samples) 20 looks took 1.5 times the steps
for a mean distance 2 % smaller."""


@dataclass(frozen=True, kw_only=True)
class ConstantSearch:
    """What is known of the constants, and the attempt with the present one."""

    constant: Scalars
    """The one being tried."""
    lower: Scalars
    """The largest that failed; 0 before."""
    upper: Scalars
    """The smallest that succeeded; infinite before."""
    attempts: Counts
    """Constants tried to the end."""
    since: Counts
    """Steps with the present one."""
    succeeded: Mask
    """Whether one of them reached the goal."""
    best: Scalars
    """The smallest objective with the present one."""
    checked: Scalars
    """What that was at the last look for progress."""
    slope: Scalars
    """The length of the first gradient that was not 0; 0 before."""

    @classmethod
    def begun(cls, first: float, like: Batch) -> "ConstantSearch":
        """For rows like these, with the first constant."""
        zero = torch.zeros(len(like), dtype=at_least_single(like.dtype), device=like.device)
        none, inf = zero.long(), zero + math.inf
        return cls(
            constant=zero + first, lower=zero, upper=inf, attempts=none, since=none, succeeded=none > 0, best=inf,
            checked=inf, slope=zero,
        )  # fmt: skip

    def seeing(self, gradient: Batch, p: float) -> "ConstantSearch":
        """Takes the loss's unit, if it has none yet, from its gradient, measured in lp."""
        unknown = self.slope == 0
        return (
            replace(self, slope=torch.where(unknown, length(gradient, p), self.slope)) if bool(unknown.any()) else self
        )

    def weigh(self, loss: Tensor) -> Tensor:
        """A loss of each row, or its gradient, times the constant, in the loss's unit; 0 while that is not known."""
        slope = torch.where(self.slope > 0, self.slope, math.inf)
        return loss / per_row(slope, loss) * per_row(self.constant, loss)

    def after(
        self, objective: Scalars, success: Mask, steps: int, *, abort_early: bool
    ) -> tuple["ConstantSearch", Mask]:
        """One step on: the search, and the rows whose attempt is over, which begin the next.

        Args:
            objective: What the attempt lowers.
            success: Whether the goal is reached.
            steps: Most steps of an attempt.
            abort_early: Whether an attempt is over that has not lowered it by a hundredth in a fortieth of them.
        """
        since, best = self.since + 1, torch.minimum(self.best, objective)
        over = since >= steps
        if abort_early:
            look = since % max(math.ceil(steps / _CHECKS), _LEAST) == 0
            over, checked = over | (look & (best > _PROGRESS * self.checked)), torch.where(look, best, self.checked)
            best = best.masked_fill(look, math.inf)
        else:
            checked = self.checked
        now = replace(self, since=since, best=best, checked=checked, succeeded=self.succeeded | success)
        return now._next(over), over

    def _next(self, over: Mask) -> "ConstantSearch":
        """The next constant where an attempt is over."""
        upper = torch.where(over & self.succeeded, self.constant, self.upper)
        lower = torch.where(over & ~self.succeeded, self.constant, self.lower)
        between = torch.where(lower > 0, (lower + upper) / 2, upper / _FACTOR)
        constant = torch.where(upper.isinf(), self.constant * _FACTOR, between)
        return replace(
            self,
            constant=torch.where(over, constant, self.constant),
            lower=lower,
            upper=upper,
            attempts=self.attempts + over,
            since=self.since.masked_fill(over, 0),
            succeeded=self.succeeded & ~over,
            best=self.best.masked_fill(over, math.inf),
            checked=self.checked.masked_fill(over, math.inf),
        )


def length(gradient: Batch, p: float) -> Scalars:
    """Each row's lp norm, without underflow."""
    way, largest = scaled(gradient)
    return torch.linalg.vector_norm(way.flatten(1), ord=p, dim=1) * largest
