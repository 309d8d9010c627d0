"""Gradients of losses that can only be asked about: differences across a point, along random directions.

An estimate takes 1 + 2·pairs questions, one a step: at the point, which is a candidate, then in pairs on opposite sides of
it, which are candidates too, as they stay legal. On a linear model the sum of difference × direction is on average the
gradient (Spall 1992; Ilyas et al. 2018, Eq. 1), shorter where the box or the budget lets a feature move to one side only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sapper import noise
from sapper.attack import Case
from sapper.tensors import Batch, Counts, Flat, Scalars, per_row

Draw = Callable[[Counts, Counts, int, torch.dtype], Flat]
"""Of directions, by key, age, number of features and type."""


@dataclass(frozen=True)
class Estimate:
    """Of each row's gradient, as far as it has got."""

    point: Batch
    """Where."""
    direction: Batch
    """Of the present pair."""
    heard: Scalars
    """The loss that was answered last."""
    slope: Batch
    """Σ (loss on the direction's side - loss on the other) × direction."""

    @classmethod
    def at(cls, point: Batch) -> "Estimate":
        """Before the first question."""
        zero = torch.zeros_like(point)
        return cls(point=point, direction=zero, heard=zero.flatten(1).sum(1), slope=zero)

    def hearing(self, loss: Scalars, turn: Counts) -> "Estimate":
        """Takes the answer to the question of this number, the point's own being number 0."""
        second = (turn > 0) & (turn % 2 == 0)
        difference = (self.heard - loss) * second
        return replace(self, heard=loss, slope=self.slope + per_row(difference, self.direction) * self.direction)

    def asking(self, case: Case, turn: Counts, size: float, draw: Draw) -> tuple["Estimate", Batch]:
        """The question of this number: the estimate that goes with it, and the input to ask about."""
        first = turn % 2 == 1
        estimate = self
        if bool(first.any()):
            drawn = draw(case.key, case.age, self.point[0].numel(), self.point.dtype).reshape(self.point.shape)
            estimate = replace(
                self, direction=drawn if bool(first.all()) else drawn.where(per_row(first, drawn), self.direction)
            )
        side = (turn > 0) * (2 * first.to(case.x.dtype) - 1)
        return estimate, case.threat.project(self.point + per_row(side * size, case.x) * estimate.direction, case.x)


def least_size(case: Case, size: float) -> float:
    """A distance in widths of the box, in the data's units; where inputs are rounded, one level at least."""
    return max(size * case.threat.unit, case.threat.least)


def signs(key: Counts, age: Counts, count: int, dtype: torch.dtype) -> Flat:
    """1 or -1, a fair coin a feature (Rademacher)."""
    return (noise.uniform(key, age, count, dtype) - 0.5).sign()
