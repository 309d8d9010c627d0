"""The quasi-Newton direction of L-BFGS on rows: each row remembers its own last steps.

Nocedal and Wright, "Numerical Optimization", Algorithm 7.4 (the two-loop recursion). What a row remembers is kept newest
first; a step that was not remembered, or not yet taken, has weight 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sapper.tensors import Flags, Flat, Mask, Scalars

_CURVED = 1e-8
"""Steps along which the gradient does not grow, by this share of what it could, are not remembered."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The last steps of each row, and by how much the gradient changed along them."""

    moved: Float[Tensor, "rows steps features"]
    turned: Float[Tensor, "rows steps features"]

    @classmethod
    def none(cls, like: Flat, steps: int) -> "Memory":
        zero = torch.zeros(len(like), steps, like.shape[1], dtype=like.dtype, device=like.device)
        return cls(moved=zero, turned=zero)

    def remembering(self, moved: Flat, turned: Flat, rows: Mask) -> "Memory":
        """One more step, in these rows, if the gradient grew along it; the oldest is forgotten."""
        curved = (moved * turned).sum(1) > _CURVED * moved.norm(dim=1) * turned.norm(dim=1)
        keep = (rows & curved)[:, None, None]
        return Memory(
            moved=torch.where(keep, torch.cat([moved[:, None], self.moved[:, :-1]], 1), self.moved),
            turned=torch.where(keep, torch.cat([turned[:, None], self.turned[:, :-1]], 1), self.turned),
        )

    def forgotten(self, rows: Mask) -> "Memory":
        """These rows remember nothing."""
        over = rows[:, None, None]
        return Memory(moved=self.moved.masked_fill(over, 0), turned=self.turned.masked_fill(over, 0))

    def direction(self, gradient: Flat, free: Flags, first: float) -> Flat:
        """Down, by the inverse Hessian that the steps tell of, among features that are free to move.

        Args:
            gradient: At the point.
            free: Features that may move; the others stay.
            first: The inverse Hessian of rows that remember nothing, a multiple of the identity.
        """
        moved, turned = self.moved * free[:, None], self.turned * free[:, None]
        curvature = (moved * turned).sum(2)
        known = curvature > 0
        inverse = torch.where(known, 1 / curvature.where(known, 1), 0)
        rest, weights = gradient * free, []
        for step in range(moved.shape[1]):
            weight = inverse[:, step] * (moved[:, step] * rest).sum(1)
            rest = rest - weight[:, None] * turned[:, step]
            weights.append(weight)
        rest = rest * _scale(curvature, turned, first)[:, None]
        for step in reversed(range(moved.shape[1])):
            weight = weights[step] - inverse[:, step] * (turned[:, step] * rest).sum(1)
            rest = rest + weight[:, None] * moved[:, step]
        rest = rest * free
        downhill = (rest * gradient).sum(1, keepdim=True) > 0
        return -torch.where(downhill, rest, gradient * free * first)


def _scale(
    curvature: Float[Tensor, "rows steps"], turned: Float[Tensor, "rows steps features"], first: float
) -> Scalars:
    """The inverse Hessian to begin with, by the newest step that tells (Eq. 7.20)."""
    known = curvature > 0
    newest = known.int().argmax(1, keepdim=True)
    size = curvature.gather(1, newest)[:, 0] / turned.square().sum(2).gather(1, newest)[:, 0].where(known.any(1), 1)
    return torch.where(known.any(1), size, first)
