"""Steps downhill on rows: Adam (Kingma and Ba 2015, Algorithm 1), where each row has its own moments and its own count of
steps, and the shrinkage of FISTA (Beck and Teboulle 2009).
"""

import math
from dataclasses import dataclass, replace

import torch

from sapper.tensors import Batch, Counts, Mask, Scalars, at_least_single, per_row

_KEPT_MEAN, _KEPT_SQUARE = 0.9, 0.999
_FLOOR = 1e-8


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What Adam remembers of a row's gradients."""

    mean: Batch
    square: Batch
    count: Counts

    @classmethod
    def none(cls, like: Batch) -> "Moments":
        count = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        zeros = torch.zeros_like(like, dtype=at_least_single(like.dtype))
        return cls(mean=zeros, square=zeros.clone(), count=count)

    def cleared(self, rows: Mask) -> "Moments":
        """Forgets what these rows remember."""
        kept = per_row(~rows, self.mean)
        return replace(self, mean=self.mean * kept, square=self.square * kept, count=self.count * ~rows)


def adam(gradient: Batch, moments: Moments, rate: float | Scalars) -> tuple[Batch, Moments]:
    """The step to add, at most about `rate` a feature (a row each, if given so), and what is remembered after it."""
    count, dtype = moments.count + 1, moments.mean.dtype
    now = gradient.to(dtype)
    mean = torch.lerp(now, moments.mean, _KEPT_MEAN)
    square = torch.lerp(now.square(), moments.square, _KEPT_SQUARE)
    seen = per_row((1 - _KEPT_SQUARE ** count.double()).to(dtype), now)
    size = per_row((-rate / (1 - _KEPT_MEAN ** count.double())).to(dtype), now)
    step = mean / (square / seen).sqrt_().add_(_FLOOR) * size
    return step.to(gradient.dtype), Moments(mean=mean, square=square, count=count)


def half_cosine(age: Counts, steps: int, first: float, last: float, dtype: torch.dtype) -> Scalars:
    """A schedule by each row's age: from first to last along half a cosine (Loshchilov and Hutter 2017)."""
    return (last + (first - last) * (1 + (age.double() * (math.pi / steps)).cos()) / 2).to(dtype)


def shrunk(change: Batch, by: Scalars) -> Batch:
    """Every change nearer to 0 by so much, or 0 (soft-thresholding): the proximal step of L1."""
    return change - change.clamp(-per_row(by, change), per_row(by, change))
