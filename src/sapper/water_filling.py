"""Water-filling: how high a level has to be for what it fills to add up to a given total.

The exact ways into balls and to hyperplanes within the box come down to it. Every feature takes more as the level changes
until it is full; the level is found by Newton's method on that piecewise linear sum, exact after a few rounds of whole
rows, where sorting the joints would take most of an attack's time.
"""

import torch

from sapper.tensors import Flat, Scalars, nonzero


def rising(speed: Flat, most: Flat, total: Scalars) -> Scalars:
    """The λ >= 0 at which Σ min(λ·speed, most) is the total; the largest number if there is none.

    What is full at one λ is full at any larger, so each round has more full features than the last, or is the last.
    """
    limit = torch.finfo(speed.dtype).max
    most = most.clamp_max(limit)
    level = (total / nonzero(speed.sum(1))).clamp_max(limit)
    while True:
        free = _above(most, speed * level[:, None])
        left = (total - (most - most * free).sum(1)).clamp_min(0)
        rest = (speed * free).sum(1)
        higher = torch.where(rest > 0, left / nonzero(rest), limit).clamp_max(limit)
        if not bool((higher > level).any()):
            return level
        level = torch.maximum(level, higher)


def sinking(height: Flat, most: Flat, total: Scalars) -> Scalars:
    """The λ >= 0 at which Σ clamp(height − λ, 0, most) is the total; 0 where the sum never reaches it.

    The sum falls with λ, steeply here and gently there. Newton's step is exact on its piece, so none is met twice; where
    the step leaves the bounds found so far, they are halved.
    """
    low, high = torch.zeros_like(total), height.amax(1)
    level, close = low, 16 * torch.finfo(total.dtype).eps * total
    while True:
        size = torch.minimum((height - level[:, None]).clamp_min(0), most)
        over = size.sum(1) - total
        low, high = torch.where(over >= 0, level, low), torch.where(over < 0, level, high)
        newton = level + over / (size.sign() * _above(most, size)).sum(1)
        following = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        done = ~(over.abs() > close) | (following == level) | ((over <= 0) & (level == 0))
        if bool(done.all()):
            return level
        level = torch.where(done, level, following)


def _above(first: Flat, second: Flat) -> Flat:
    """1 where the first is above the second, else 0: on a CPU several times as fast as a comparison and a choice."""
    return torch.maximum(first, second).sub_(second).sign_()
