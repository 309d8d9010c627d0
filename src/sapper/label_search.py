"""What attacks share that are answered with labels only: a start that reaches the goal, and the way back to the boundary.

A start is drawn, as nothing is known of other samples: noise in blocks whose side doubles from draw to draw up to the whole
image. Fine noise mostly falls into one class, coarse noise into every class of MNIST. Where no draw reaches the goal the
attack draws to its end, and the case has failed. Between the start and the sample lies the boundary, found by halving.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import torch

from sapper import noise
from sapper.attack import Case, State
from sapper.tensors import Batch, Counts, Mask, Scalars, choose, join, per_row, take
from sapper.windows import features_of, image

_STARTS = 900
"""The stream of random numbers that starts are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Two balls around each sample: on the way to a point that reaches the goal, the boundary lies between them."""

    far: Batch
    """Reaches the goal."""
    low: Scalars
    """A radius at which the goal is not reached."""
    high: Scalars
    """One at which it is."""

    @classmethod
    def around(cls, case: Case, far: Batch) -> "Bracket":
        """Between the samples themselves and points that reach the goal."""
        high = case.threat.distance(far, case.x)
        return cls(far=far, low=torch.zeros_like(high), high=high)

    def middle(self, case: Case) -> Batch:
        return case.threat.within(self.far, case.x, (self.low + self.high) / 2)

    def boundary(self, case: Case) -> Batch:
        """The nearest point known to reach the goal: in l2 on the straight way, in linf what of `far` is in the ball."""
        return case.threat.within(self.far, case.x, self.high)

    def halved(self, reached: Mask) -> "Bracket":
        """After the answer about the middle."""
        middle = (self.low + self.high) / 2
        return replace(self, low=torch.where(reached, self.low, middle), high=torch.where(reached, middle, self.high))

    def is_narrow(self, tolerance: float) -> Mask:
        """To this share of the radius, or as far as its type can tell."""
        least = 4 * torch.finfo(self.high.dtype).eps
        return self.high - self.low <= max(tolerance, least) * self.high


@dataclass(frozen=True, kw_only=True)
class Searching(State):
    """Of an attack that asks one question at a time, each row in a phase of its own: drawing, halving, then the attack's."""

    phase: Counts
    bracket: Bracket


Phased = TypeVar("Phased", bound=Searching)

DRAWING, HALVING = range(2)


def by_phase(
    answered: Sequence[Callable[[Case, Phased, Mask], Phased]], case: Case, state: Phased, reached: Mask
) -> Phased:
    """Calls for the rows of each phase what it does with their answers."""
    parts, places = [], []
    for number, answer in enumerate(answered):
        rows = (state.phase == number).nonzero()[:, 0]
        if len(rows) == len(reached):
            return answer(case, state, reached)
        if len(rows):
            parts.append(answer(take(case, rows), take(state, rows), reached[rows]))
            places.append(rows)
    return take(reduce(join, parts), torch.cat(places).argsort())


def entering(phase: int, state: Phased) -> Phased:
    """All rows in this phase."""
    return replace(state, phase=torch.full_like(state.phase, phase))


def begun(case: Case) -> Searching:
    """With the first draw."""
    none = torch.zeros_like(case.age)
    x_adv = drawn(case, none)
    return Searching(x_adv=x_adv, phase=none + DRAWING, bracket=Bracket.around(case, x_adv))


def draw_on(case: Case, state: Phased, reached: Mask) -> Phased:
    """After the answer about a draw: to the boundary, or the next."""
    return choose(reached, turn_back(case, state), replace(state, x_adv=drawn(case, case.age + 1)))


def turn_back(case: Case, state: Phased) -> Phased:
    """To the boundary, from a question that has reached the goal."""
    bracket = Bracket.around(case, state.x_adv)
    return entering(HALVING, replace(state, bracket=bracket, x_adv=bracket.middle(case)))


def halve_on(case: Case, state: Phased, reached: Mask) -> Phased:
    """After the answer about the middle."""
    bracket = state.bracket.halved(reached)
    return replace(state, bracket=bracket, x_adv=bracket.middle(case))


def drawn(case: Case, number: Counts) -> Batch:
    """A start to try, each row's draw of this number: blocks at either end of the box, a share of them at the upper.

    Where the box has no ends, above and below the sample, farther from draw to draw.
    """
    x = image(case.x)
    height, width = x.shape[2:]
    sizes = 1 + math.ceil(math.log2(max(height, width)))
    draws = noise.uniform(case.key, number, 1 + x[0].numel(), x.dtype, stream=_STARTS)
    share, draws = draws[:, 0], draws[:, 1:].reshape(x.shape)
    side = 2 ** (number % sizes)[:, None]
    down, across = (torch.arange(size, device=x.device) // side * side for size in (height, width))
    corner = (down[:, None, :, None] * width + across[:, None, None, :]).flatten(2).expand(*x.shape[:2], -1)
    blocks = draws.flatten(2).gather(2, corner).reshape(x.shape)
    bright = features_of((per_row(share, x) - blocks).sign(), case.x)
    far = 2.0 ** (number // sizes).clamp_max(60).to(x.dtype) * case.threat.unit
    return case.threat.clip(case.x + bright * per_row(far, case.x))
