"""Which inputs an attacker may submit: a ball around the sample in some norm, within the input's box.

Written `linf:8/255`, `l2:0.5`, `l0:112`, `l0:14.5%` (a share of the features) or `linf:min` (the smallest distance
that succeeds). Units are the data's own.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from sapper import noise
from sapper.errors import UsageError, unknown
from sapper.tensors import Batch, Counts, Flat, Mask, Scalars, at_least_single, nonzero, per_row, scaled
from sapper.water_filling import rising, sinking

NORMS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": math.inf}


def norm_name(p: float) -> str:
    return next(name for name, value in NORMS.items() if value == p)


def norm(change: Batch, p: float) -> Scalars:
    """The size of each row in one norm; l0 counts features, so each colour of a pixel for itself."""
    flat = change.flatten(1)
    match p:  # on a CPU several times as fast as torch's own norms
        case math.inf:
            return flat.abs().amax(1)
        case 1:
            return flat.abs().sum(1)
        case 0:
            return flat.sign().abs_().sum(1, dtype=at_least_single(flat.dtype))  # half precision cannot count
        case _:
            return torch.linalg.vector_norm(flat, ord=p, dim=1)


@dataclass(frozen=True, kw_only=True)
class Threat:
    """A budget in a norm and the box that inputs lie in."""

    p: float
    eps: Fraction | None
    """The budget in the data's units, or a share of the features; None: the smallest that succeeds."""
    share: bool = False
    lower: float = 0.0
    upper: float = 1.0
    quantize: int | None = None
    """Bits a feature: only inputs on this grid can be submitted (an 8-bit picture)."""

    @classmethod
    def parse(cls, text: str, *, lower: float = 0.0, upper: float = 1.0, quantize: int | None = None) -> "Threat":
        """Reads `linf:8/255`, `l0:14.5%`, `l2:min`.

        Raises:
            UsageError: Not of that form, a norm that is not there, or a budget that is not above 0.
        """
        name, _, amount = text.strip().lower().partition(":")
        if amount and name not in NORMS:
            raise unknown("norm", name, NORMS)
        if not amount:
            raise UsageError(
                f"expected a threat like linf:8/255, l2:0.5, l1:10, l0:14.5% or l2:min, got '{text}': "
                f"the norm is one of {', '.join(NORMS)}, then a colon and the budget."
            )
        _check_box(name, lower, upper, quantize)
        eps, share = (None, False) if amount == "min" else _amount(text, name, amount)
        return cls(p=NORMS[name], eps=eps, share=share, lower=lower, upper=upper, quantize=quantize)

    def __str__(self) -> str:
        if self.eps is None:
            return f"{norm_name(self.p)}:min"
        return f"{norm_name(self.p)}:{_write(self.eps * 100) + '%' if self.share else _write(self.eps)}"

    @property
    def width(self) -> float:
        """The width of the box."""
        return self.upper - self.lower

    @property
    def unit(self) -> float:
        """What changes are large or small compared to: the width of the box, or 1 where it has no bounds."""
        return self.width if math.isfinite(self.width) else 1.0

    def budget(self, features: int) -> float:
        """The budget for an input of so many features; without one, infinite (in l0: every feature)."""
        if self.eps is None:
            return float(features) if self.p == 0 else math.inf
        return float(self.eps * features if self.share else self.eps)

    @property
    def least(self) -> float:
        """The smallest change there is: of one feature in l0, of one level where inputs are rounded."""
        if self.p == 0:
            return 1.0
        return 0.0 if self.quantize is None else (1 - 1e-5) * self.width / (2**self.quantize - 1)

    def distance(self, x_adv: Batch, x: Batch) -> Scalars:
        return norm(x_adv - x, self.p)

    def legal(self, x_adv: Batch, x: Batch) -> Mask:
        """Finite, in the box, within the budget.

        Up to rounding: a hundred thousandth of the budget or, if more, four units in the last place of the row's
        largest value (in l1, which adds up n roundings, √n times that). In l0 there is nothing to round.
        """
        n, budget = x[0].numel(), self.budget(x[0].numel())
        unit = torch.finfo(x.dtype).eps * x.flatten(1).abs().amax(1)
        slack = (4 * unit * (math.sqrt(n) if self.p == 1 else 1)).clamp_min(1e-5 * budget)
        flat = x_adv.flatten(1)
        inside = (flat.amin(1) >= self.lower) & (flat.amax(1) <= self.upper)
        return inside & (self.distance(x_adv, x) <= (budget + slack if self.p else budget))

    def clip(self, x: Batch) -> Batch:
        """Into the box."""
        return x.clamp(self.lower, self.upper)

    def rounded(self, x: Batch) -> Batch:
        """The nearest input that can be submitted: with `quantize`, on the grid; else `x` itself."""
        return x if self.quantize is None else self._from_levels(self._levels(x).round())

    def at_least(self, values: Tensor) -> Tensor:
        """The least inputs that can be submitted and are no less than these; the values themselves without `quantize`."""
        return values if self.quantize is None else self._from_levels(self._level_from(values))

    def at_most(self, values: Tensor) -> Tensor:
        """The greatest that are no greater."""
        if self.quantize is None:
            return values
        level = self._level_from(values)
        return torch.where(self._from_levels(level) > values, self._from_levels(level - 1), self._from_levels(level))

    def _level_from(self, values: Tensor) -> Tensor:
        """The least level, a whole number, that is no less than these values when computed in their type."""
        level = self._levels(values).ceil()
        level = torch.where(self._from_levels(level - 1) >= values, level - 1, level)
        return torch.where(self._from_levels(level) < values, level + 1, level)

    def submit(self, x_adv: Batch, x: Batch) -> Batch:
        """What really reaches the model: with `quantize`, rounded to the grid towards the sample, so still legal."""
        if self.quantize is None:
            return x_adv
        levels, origin = self._levels(x_adv), self._levels(x).round()
        unit = torch.finfo(x.dtype).eps * max(abs(self.lower), abs(self.upper)) / self.width * 2**self.quantize
        slack = max(1e-4, 4 * unit)  # so that rounding does not cost a whole level
        inward = torch.where(levels > origin, (levels + slack).floor(), (levels - slack).ceil())
        return self.clip(self._from_levels(inward))

    def project(self, x_adv: Batch, x: Batch) -> Batch:
        """The nearest point (Euclidean) of ball and box together."""
        return self.within(x_adv, x, self.budget(x[0].numel()))

    def within(self, x_adv: Batch, x: Batch, radius: float | Scalars) -> Batch:
        """`project` for a ball of another radius, which may be each row's own."""
        each = per_row(radius, x) if isinstance(radius, Tensor) else radius
        if self.p == math.inf:
            return (x - each).clamp_(min=x_adv).clamp_(max=x + each).clamp_(self.lower, self.upper)
        if not isinstance(radius, Tensor) and radius == math.inf:
            return self.clip(x_adv)
        clipped = self.clip(x_adv)
        over = self.distance(clipped, x) > radius
        if not bool(over.any()):
            return clipped
        start = x.flatten(1)
        wanted = x_adv.flatten(1) - start
        dtype = x.dtype if self.p else torch.float64  # a count of features
        budget = torch.as_tensor(radius, dtype=dtype, device=x.device).expand(len(x))
        size = _within[self.p](wanted.abs(), self.room(start, wanted), budget)
        if self.p:  # what rounding left over
            size = size * (budget / nonzero(norm(size, self.p).clamp_min(budget)))[:, None]
        inside = self.clip((start + wanted.sign() * size).reshape(x.shape))
        return torch.where(per_row(over, x), inside, clipped)

    def farthest(self, x: Batch) -> Scalars:
        """How far from each row the box reaches; without bounds, infinite."""
        return norm(torch.maximum(x - self.lower, self.upper - x), self.p)

    def room(self, x: Batch, way: Batch) -> Batch:
        """How far each feature can move the way that `way` points before it meets the box; 0 where that is 0."""
        beyond = min(2 * self.width, torch.finfo(x.dtype).max / 4)
        return self.clip(x + way.sign() * beyond).sub_(x).abs_()

    def descend(self, x: Batch, gradient: Batch, size: float | Scalars) -> Batch:
        """The step of length `size` (a row each, if not l0) from `x` along which a linear function falls most, in this norm.

        linf and l2: the textbook step, then clipped. l1 and l0, where that step would leave the box at once, fill the
        features of steepest fall up to the box until the length is spent; in l0 that is one feature at least. A row
        without a gradient stays.
        """
        if isinstance(size, Tensor):
            size = per_row(size, x if self.p in (2, math.inf) else x.flatten(1))
        if self.p == math.inf:
            return torch.sub(x, gradient.sign() * size).clamp_(self.lower, self.upper)
        g = gradient.flatten(1)
        g, _ = scaled(g)
        if self.p == 2:
            unit = g / g.norm(dim=1, keepdim=True).clamp_min(0.5)  # at least 1 wherever there is a gradient
            return self.clip(x - size * unit.reshape(x.shape))
        start = x.flatten(1)
        room = self.room(start, -g)
        order = (g.abs() * room if self.p == 0 else g.abs() * (room > 0)).argsort(dim=1, descending=True)
        room = room.gather(1, order)
        if self.p == 0:
            room = room * (torch.arange(room.shape[1], device=x.device) < max(1, math.floor(size)))
        else:
            room = torch.minimum(room, (size - room.cumsum(1) + room).clamp_min(0))
        moved = torch.zeros_like(g).scatter(1, order, room)
        return self.clip((start - g.sign() * moved).reshape(x.shape))

    def sample(self, x: Batch, key: Counts, age: Counts) -> Batch:
        """Uniform in the ball around each row, then clipped into the box."""
        n, budget = x[0].numel(), self.budget(x[0].numel())
        first = noise.uniform(key, age, n, x.dtype)
        if self.p == math.inf:
            change = (2 * first - 1) * budget
        elif self.p == 2:
            direction = noise.normal(key, age, n, x.dtype, stream=1)
            change = _unit(direction) * budget * first[:, :1] ** (1 / n)
        elif self.p == 1:  # n of n + 1 exponentials over their sum are uniform in the simplex
            waits = -noise.uniform(key, age, n + 1, x.dtype, stream=1).log()
            change = waits[:, :n] / waits.sum(1, keepdim=True) * budget * (first - 0.5).sign()
        else:
            ranks = noise.uniform(key, age, n, x.dtype, stream=1).argsort(1).argsort(1)
            change = torch.where(ranks < math.floor(budget), self.lower + first * self.width - x.flatten(1), 0)
        return self.clip(x + change.reshape(x.shape))

    def _levels(self, x: Batch) -> Batch:
        return (x - self.lower) / self.width * (2 ** (self.quantize or 0) - 1)

    def _from_levels(self, levels: Batch) -> Batch:
        return levels / (2 ** (self.quantize or 0) - 1) * self.width + self.lower


def _unit(direction: Flat) -> Flat:
    return direction / direction.norm(dim=1, keepdim=True)


def _l2_within(wanted: Flat, room: Flat, budget: Scalars) -> Flat:
    """min(s·wanted, room) with the s <= 1 that spends the budget: the nearest point of l2 ball and box.

    From the Lagrangian: the nearest point is clip(x + wanted / (1 + λ)).
    """
    unit = nonzero(wanted.amax(1))[:, None]  # squares of tiny numbers would underflow
    s = rising((wanted / unit).square(), (room / unit).square(), (budget / unit[:, 0]).square()).sqrt()
    return torch.minimum(s.clamp_max(1)[:, None] * wanted, room)


def _l1_within(wanted: Flat, room: Flat, budget: Scalars) -> Flat:
    """clamp(wanted − λ, 0, room) with the λ that spends the budget: the nearest point of l1 ball and box."""
    return torch.minimum((wanted - sinking(wanted, room, budget)[:, None]).clamp_min(0), room)


def _l0_within(wanted: Flat, room: Flat, budget: Scalars) -> Flat:
    """Keeps the features whose loss would move the point most."""
    kept = torch.minimum(wanted, room)
    gain = wanted.square() - (wanted - kept).square()
    most = min(int(budget.amax()), wanted.shape[1])
    top = gain.topk(most, dim=1).indices
    rank = torch.arange(most, device=wanted.device)
    return torch.zeros_like(kept).scatter(1, top, kept.gather(1, top) * (rank < budget.floor()[:, None]))


_within = {0.0: _l0_within, 1.0: _l1_within, 2.0: _l2_within}


def _amount(text: str, name: str, amount: str) -> tuple[Fraction, bool]:
    share = amount.endswith("%")
    try:
        eps = Fraction(re.sub(r"\s", "", amount.removesuffix("%"))) / (100 if share else 1)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"expected the budget in '{text}' to be a number, a fraction, N% or min, got '{amount}'."
        ) from error
    if eps <= 0:
        raise UsageError(f"expected a budget above 0 in '{text}', got {amount}.")
    if not 1e-30 < eps < 1e30:
        raise UsageError(f"expected a budget between 1e-30 and 1e30 in '{text}', got {amount}.")
    if name == "l0" and not share and eps < 1:
        raise UsageError(f"expected at least one feature, or a share like l0:14.5%, in '{text}', got {amount}.")
    if share and (name != "l0" or eps > 1):
        raise UsageError(f"expected a share of the features, l0:N% with N up to 100, got '{text}'.")
    return eps, share


def _write(value: Fraction) -> str:
    """A decimal where that is exact, else a fraction."""
    decimal = f"{float(value):.12g}"
    return decimal if Fraction(decimal) == value else str(value)


def _check_box(name: str, lower: float, upper: float, quantize: int | None) -> None:
    if not lower < upper:
        raise UsageError(f"expected bounds with lower < upper, got {lower} and {upper}.")
    if (name in ("l0", "l1") or quantize is not None) and not (math.isfinite(lower) and math.isfinite(upper)):
        raise UsageError(f"{name if quantize is None else 'quantize'} needs finite bounds, got {lower} and {upper}.")
    if quantize is not None and not 1 <= quantize <= 16:
        raise UsageError(f"expected quantize to be 1 to 16 bits, got {quantize}.")
