"""Hyperplanes, and the shortest way to one within the box, which DeepFool and FAB share.

Where a model is linear, the inputs at which it is undecided between two classes lie on a hyperplane. The shortest change
that takes a row there moves every feature the way its derivative says, no further than the box allows: in linf all by
the same amount, in l2 in proportion to their derivatives, in l1 one after the other, the steepest first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sapper.goal import Goal
from sapper.tensors import Batch, Flat, Labels, LabelSets, Logits, Scalars, nonzero, per_row, scaled
from sapper.threat import Threat, norm
from sapper.water_filling import rising


@dataclass(frozen=True)
class Boundary:
    """Where each row's linearised lead (of one class over another, and what the goal asks beyond it) is 0."""

    point: Batch
    """Where it is linearised."""
    lead: Scalars
    """Its value there, in logits."""
    gradient: Batch
    """Its derivative by the input."""
    rival: Labels
    """The class whose logit is subtracted."""

    def distance(self, p: float) -> Scalars:
        """From the point it is linearised at, with no box; infinite without a gradient."""
        slope, scale = self._slope()
        length = norm(slope, {1: math.inf, 2: 2, math.inf: 1}[p])  # the dual norm
        return torch.where(length > 0, self.lead.abs() / scale / length, torch.inf)

    def step(self, p: float, overshoot: float) -> Batch:
        """The smallest change that takes that point there in l2 or linf, with no box; see `change`."""
        slope, scale = self._slope()
        length = nonzero(norm(slope, {2: 2, math.inf: 1}[p]))
        way = slope.sign() if p == math.inf else slope / length[:, None]
        rise = _beyond(self.lead / scale, self.point.flatten(1), slope, overshoot)
        far = self.lead.sign() * (rise / length).clamp_max(torch.finfo(rise.dtype).max)  # 0 times infinity is nan
        return (-way * far[:, None]).reshape(self.point.shape)

    def change(self, x: Batch, threat: Threat, overshoot: float = 0.0) -> Batch:
        """The smallest change, in the threat's norm and within its box, of `x` that takes it there.

        Or as far towards it as the box allows; none without a gradient. With an `overshoot`, a share of the lead, and a
        rounding error of every feature more, so that a row does not come to rest on it.
        """
        slope, scale = self._slope()
        lead = self.lead / scale + ((x - self.point).flatten(1) * slope).sum(1)
        start, fall = x.flatten(1), -slope * torch.where(lead >= 0, 1.0, -1.0).to(slope.dtype)[:, None]
        size = _reaching[threat.p](slope.abs(), threat.room(start, fall), _beyond(lead, start, slope, overshoot))
        return (fall.sign() * size).reshape(x.shape)

    def _slope(self) -> tuple[Flat, Scalars]:
        """The gradient in units of its largest entry, so that nothing underflows, and that unit."""
        return scaled(self.gradient.flatten(1))


def _beyond(lead: Scalars, x: Flat, slope: Flat, overshoot: float) -> Scalars:
    """How much of the lead to make up for."""
    unit = torch.finfo(x.dtype).eps if overshoot else 0.0
    return (1 + overshoot) * lead.abs() + unit * x.abs().amax(1) * slope.abs().sum(1)


def nearest_boundary(
    goal: Goal, point: Batch, logits: Logits, pull: Callable[[Logits], Batch], rivals: LabelSets, p: float
) -> Boundary:
    """Of the boundaries to these rivals, linearised at `point`, the nearest in lp (disregarding the box). One pull each."""
    best, nearest = None, torch.empty(0)
    for rival in rivals.unbind(1):
        cotangent = goal.lead(logits, rival)
        one = Boundary(point, (cotangent * logits).sum(1) + goal.confidence, pull(cotangent), rival)
        distance = one.distance(p)
        if best is None:
            best, nearest = one, distance
        else:
            closer = distance < nearest
            best, nearest = _either(closer, one, best), torch.where(closer, distance, nearest)
    assert best is not None
    return best


def _either(which: torch.Tensor, first: Boundary, second: Boundary) -> Boundary:
    return Boundary(
        first.point,
        torch.where(which, first.lead, second.lead),
        torch.where(per_row(which, first.gradient), first.gradient, second.gradient),
        torch.where(which, first.rival, second.rival),
    )


def _linf_reaching(slope: Flat, room: Flat, rise: Scalars) -> Flat:
    """min(λ, room) with the λ at which Σ slope·size is the rise: piecewise linear, with its joints at the rooms."""
    level = rising(slope, slope * room, rise)
    return torch.minimum(level[:, None], room)


def _l2_reaching(slope: Flat, room: Flat, rise: Scalars) -> Flat:
    """min(λ·slope, room) with the λ at which Σ slope·size is the rise: the Lagrangian's solution."""
    level = rising(slope.square(), slope * room, rise)
    return torch.minimum(level[:, None] * slope, room)


def _l1_reaching(slope: Flat, room: Flat, rise: Scalars) -> Flat:
    """The steepest features up to the box, and so much of the next that Σ slope·size is the rise."""
    steepest, order = slope.sort(1, descending=True)
    room = room.gather(1, order)
    gain = steepest * room
    left = (rise[:, None] - gain.cumsum(1) + gain).clamp_min(0)
    size = torch.minimum(left / nonzero(steepest), room)
    return torch.zeros_like(slope).scatter(1, order, size)


_reaching = {1.0: _l1_reaching, 2.0: _l2_reaching, math.inf: _linf_reaching}
