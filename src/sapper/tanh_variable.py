"""Inputs through a variable that is free of the box's bounds: the tanh of Carlini and Wagner (2017, section V.B).

Their code shrinks inputs by 0.999999, lest a black pixel become minus infinity. At 7 from the middle of the tanh it is
frozen all the same: hundreds of steps of 0.01 change it by nothing. Here the tanh is stretched, so that the box ends
where the curve still rises, and what would go beyond stops there.
"""

import math

import torch

from sapper.tensors import Batch
from sapper.threat import Threat

STRETCH = 0.5
"""The tanh at the box's bounds: near 1 pixels freeze there, near 0 it is no tanh but a line."""


def freed(x: Batch, threat: Threat) -> Batch:
    """The free variable of inputs; the inputs themselves where the box has no bounds."""
    if not math.isfinite(threat.width):
        return x
    middle = (threat.lower + threat.upper) / 2
    return torch.atanh(((x - middle) * (2 * STRETCH / threat.width)).clamp_(-STRETCH, STRETCH))


def boxed(free: Batch, threat: Threat) -> Batch:
    """The inputs."""
    if not math.isfinite(threat.width):
        return threat.clip(free)
    middle = (threat.lower + threat.upper) / 2
    return threat.clip(middle + free.tanh() * (threat.width / (2 * STRETCH)))


def slope(free: Batch, threat: Threat) -> Batch:
    """The derivative of the inputs, in widths of the box."""
    return (1 - free.tanh().square()) / (2 * STRETCH) if math.isfinite(threat.width) else torch.ones_like(free)


def bounded(free: Batch, threat: Threat) -> Batch:
    """The free variable, stopped at the box's bounds."""
    if not math.isfinite(threat.width):
        return threat.clip(free)
    end = math.atanh(STRETCH)
    return free.clamp(-end, end)
