"""The nearest neighbour's row: what becomes of it by the way in which the published derivative is computed.

The soft-min 1-NN is f_c(x) = Σ exp(−|z − x|²) [z is of class c] / Σ exp(−|z − x|²), and the attack descends f_y. Its
derivative is f_y (1 − f_y) times a difference of two means, of the points of other classes and of those of class y; where
f_y rounds to 1 in float32, a sum of single terms gives what rounding has left of it.
"""

import math

import torch
from torch import Tensor

from sapper.learners import Neighbours
from sapper.tensors import Batch, Flat, Labels, Mask, Scalars

_ROWS = 200


def point_by_point(known: Neighbours, x: Batch, y: Labels) -> tuple[Flat, Mask]:
    """The published formula as it stands, in float32, and its derivative by reverse mode.

    Returns:
        The way in which f_y falls, and whether f_y rounds to 1 or more.
    """
    points, falls, certain = known.points.float(), [], []
    for rows, label in zip(x.flatten(1).float().split(_ROWS), y.split(_ROWS), strict=True):
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            weight = (-_squared(rows, points)).exp()
            share = (weight * (known.labels == label[:, None])).sum(1) / weight.sum(1)
            (gradient,) = torch.autograd.grad(share.sum(), rows)
        falls.append(-gradient)
        certain.append(share.detach() >= 1)
    return torch.cat(falls), torch.cat(certain)


def towards_others(known: Neighbours, x: Batch, y: Labels) -> Flat:
    """From the sample to the mean of the other classes' points: all that a sum of terms keeps where f_y rounds to 1."""
    mass, mean = known.soft(x)
    own = torch.arange(mass.shape[1]) == y[:, None]
    share = mass.masked_fill(own, -math.inf).softmax(1)
    return torch.einsum("rc,rcf->rf", share, mean) - x.flatten(1)


def nearest_other(known: Neighbours, x: Batch, y: Labels) -> Scalars:
    """The squared distance of the nearest point of another class."""
    points, least = known.points.float(), []
    for rows, label in zip(x.flatten(1).float().split(_ROWS), y.split(_ROWS), strict=True):
        least.append(_squared(rows, points).masked_fill(known.labels == label[:, None], math.inf).amin(1))
    return torch.cat(least)


def _squared(x: Flat, points: Tensor) -> Tensor:
    """(rows, points)."""
    return x.square().sum(1, keepdim=True) + points.square().sum(1) - 2 * x @ points.T
