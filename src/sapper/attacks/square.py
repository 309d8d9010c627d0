"""Square attack: squares of noise at random places, kept where the loss falls. It asks for scores, not for gradients.

It begins with vertical stripes at the ends of the budget, in l2 with a board of bumps. Every step proposes one square, its
side shrinking by a schedule: in linf each colour of it at one end of the budget, in l2 a bump beside its negative, which
gets what budget a second square gives up (Andriushchenko et al. 2020, Algorithms 1 to 3).

Differs from the authors' code: in l2 a change is made longer by what the box cuts off it (on a black background every second
bump); a square that would change nothing is turned to its opposite, not drawn again; the last row and column are drawn too;
each sample has squares of its own. Features that are no image are folded into one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.oracle import ScoreOracle
from sapper.tensors import Batch, Counts, Flat, Scalars, per_row
from sapper.windows import bump, features_of, image, inside, offsets, unit

PAPER = Paper(
    title="Square Attack: a Query-Efficient Black-Box Adversarial Attack via Random Search",
    authors="M. Andriushchenko, F. Croce, N. Flammarion, M. Hein",
    year=2020,
    url="https://arxiv.org/abs/1912.00049",
    venue="European Conference on Computer Vision",
)

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Questions, of 10 000, after which the squares' area is halved (section 3.2)."""

_CUT = 0.01
"""The least that the box is taken to leave of a change, in shares of the budget."""


@dataclass(frozen=True, kw_only=True)
class Searching(State):
    best: Batch
    loss: Scalars
    """At the best point."""


@dataclass(frozen=True, kw_only=True)
class Square(Attack, norms={2, math.inf}, paper=PAPER):
    """Tries squares of noise at random places and keeps those that help."""

    steps: int = 5000
    """Number of squares tried, each with one question."""
    share: float = 0.8
    """Of the image's area, what the first square covers (the paper's p)."""
    loss: Literal["paper", "margin", "cross_entropy"] = "paper"
    """What to lower; paper: the margin, or the cross-entropy where the goal names a target."""

    def __post_init__(self) -> None:
        require_positive("steps", self.steps)
        if not 0 < self.share <= 1:
            raise UsageError(f"expected share above 0 and up to 1, got {self.share}.")

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: ScoreOracle) -> Searching:
        x = image(case.x)
        begun = _stripes(case, x) if case.threat.p == math.inf else _board(case, x)
        x_adv = features_of(begun, case.x)
        return Searching(x_adv=x_adv, best=x_adv, loss=torch.full_like(x[:, 0, 0, 0], math.inf))

    def step(self, case: Case, oracle: ScoreOracle, state: Searching) -> Searching:
        logits = oracle.logits(state.x_adv)
        default = "margin" if case.goal.targets() is None else "cross_entropy"
        loss: Scalars = getattr(case.goal, default if self.loss == "paper" else self.loss)(logits)
        better = loss < state.loss
        best = torch.lerp(state.best, state.x_adv, per_row(better, case.x).to(case.x.dtype))
        propose = _square if case.threat.p == math.inf else _bump_for_bump
        x = image(case.x)
        x_adv = features_of(propose(case, x, image(best), self._area(case.age) * x[0, 0].numel()), case.x)
        return Searching(x_adv=x_adv, best=best, loss=torch.where(better, loss, state.loss))

    def _area(self, age: Counts) -> Scalars:
        """Of the next square, as a share of the image; the schedule is stretched to the number of steps."""
        asked = (age + 1) * 10_000 // self.steps
        return self.share / 2.0 ** torch.bucketize(asked, torch.tensor(_HALVINGS, device=age.device))


def _square(case: Case, x: Tensor, best: Tensor, area: Scalars) -> Tensor:
    """Algorithm 2."""
    colours, height, width = x.shape[1:]
    draws = noise.uniform(case.key, case.age, 2 + colours, x.dtype)
    side = area.sqrt().round().clamp(1, min(height, width)).long()
    window = inside(*offsets(draws[:, :2], side, (height, width)), side, x.dtype)
    sign = _signs(draws[:, 2:])
    moved = (case.threat.clip(x + case.budget * sign) - best) * window
    idle = per_row(moved.flatten(1).abs().amax(1) == 0, x)
    return torch.lerp(best, case.threat.clip(x + case.budget * sign * (1 - 2 * idle.to(x.dtype))), window)


def _bump_for_bump(case: Case, x: Tensor, best: Tensor, area: Scalars) -> Tensor:
    """Algorithm 3: the first square gets the budget that the second gives up, and what was left over."""
    colours, height, width = x.shape[1:]
    draws = noise.uniform(case.key, case.age, 5 + colours, x.dtype)
    side = area.sqrt().round().clamp_min(3).long()
    side = (side + (side + 1) % 2).clamp_max(min(height, width))  # odd, so that it has a middle
    down, across = offsets(draws[:, :2], side, (height, width))
    first = inside(down, across, side, x.dtype)
    second = inside(*offsets(draws[:, 2:4], side, (height, width)), side, x.dtype)

    change = (best - x) / case.budget
    held = (change * torch.maximum(first, second)).square().sum((2, 3), keepdim=True)
    unspent = (1 - change.square().sum((1, 2, 3), keepdim=True)).clamp_min(0) / colours
    pyramid = bump(down, across, side, first, per_row(draws[:, 4] < 0.5, x))
    fresh = unit(_signs(draws[:, 5:]) * pyramid + unit(change * first))
    change = torch.lerp(change * (1 - second), fresh * (held + unspent).sqrt(), first)
    return _spent(case, x, unit(change, (1, 2, 3)))


def _spent(case: Case, x: Tensor, way: Tensor) -> Tensor:
    """Along this way of length 1 by the budget and, where the box cuts that short, again by as much as it left. No further
    than the budget: a longer way is cut no less.
    """
    reach = torch.linalg.vector_norm(case.threat.clip(x + case.budget * way) - x, dim=(1, 2, 3), keepdim=True)
    return case.threat.clip(x + case.budget * way / (reach / case.budget).clamp(_CUT, 1))


def _stripes(case: Case, x: Tensor) -> Tensor:
    """At the ends of the budget, one sign a column and colour."""
    colours, _, width = x.shape[1:]
    draws = noise.uniform(case.key, case.age, colours * width, x.dtype, stream=1)
    return case.threat.clip(x + case.budget * _signs(draws).reshape(-1, colours, 1, width))


def _board(case: Case, x: Tensor) -> Tensor:
    """Bumps side by side, five in the shorter direction; the budget is spent on all alike."""
    rows, colours, height, width = x.shape
    side = max(1, min(height, width) // 5)
    high, wide = height // side, width // side
    draws = noise.uniform(case.key, case.age, (1 + colours) * high * wide, x.dtype, stream=1)
    down, across = (
        torch.arange(size, device=x.device) - (size - count * side) // 2
        for size, count in ((height, high), (width, wide))
    )
    tile = draws.reshape(rows, 1 + colours, high, wide)
    tile = tile[:, :, (down // side).clamp(0, high - 1)][..., (across // side).clamp(0, wide - 1)]
    down, across = down[None, None, :, None], across[None, None, None, :]
    covered = (down >= 0) & (down < high * side) & (across >= 0) & (across < wide * side)
    bumps = bump(
        down % side, across % side, torch.tensor([side], device=x.device), covered.to(x.dtype), tile[:, :1] < 0.5
    )
    return _spent(case, x, unit((tile[:, 1:] - 0.5).sign() * bumps, (1, 2, 3)))


def _signs(draws: Flat) -> Tensor:
    return (draws - 0.5).sign()[:, :, None, None]
