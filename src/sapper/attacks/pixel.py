"""One-pixel attack, for as many pixels as the budget has: differential evolution of places and colours, judged by scores.

A member of the population is a list of pixels, each a place and a colour. A child, one member and half the difference of
two others, takes a seat if it does better than who sits there (Su et al. 2019, Eq. 3; there is no crossover).

The budget counts features, so a pixel of a colour image costs as many as it has channels: l0:3 is one pixel of such an
image and three of a grey one. Features that are no image are folded into a grey one.

Differs from the paper, which is `around=random,population=400`: the best member is varied, not any, and there are 100, so
that a few thousand questions suffice. Fitness is the margin, not a probability, which a sure model rounds to 1; a child
takes its seat at once, not with its generation; places leave the image on one side and come back on the other. Where two
pixels of a member share a place, the larger value counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.errors import UsageError, require_positive
from sapper.oracle import ScoreOracle
from sapper.tensors import Batch, Counts, Flat
from sapper.threat import Threat
from sapper.windows import features_of, image

PAPER = Paper(
    title="One Pixel Attack for Fooling Deep Neural Networks",
    authors="J. Su, D. V. Vargas, K. Sakurai",
    year=2019,
    url="https://arxiv.org/abs/1710.08864",
    venue="IEEE Transactions on Evolutionary Computation",
)


@dataclass(frozen=True, kw_only=True)
class Evolving(State):
    child: Tensor
    """The one that is asked about: its pixels' rows, columns and colours, one after the other, each as a share of the
    image's height, its width, the box."""
    population: Tensor
    """rows x members x the same."""
    fitness: Tensor
    """A margin each; infinite before it is known."""


@dataclass(frozen=True, kw_only=True)
class Pixel(Attack, norms={0}, paper=PAPER):
    """Evolves the places and colours of a few pixels; whoever lowers the margin most breeds."""

    steps: int = 10_000
    """Number of children tried, each with one question."""
    population: int = 100
    """Members; the first ones are random."""
    around: Literal["best", "random"] = "best"
    """The member that two others' difference is added to: the best so far, or any (the paper's)."""
    difference: float = 0.5
    """Share of that difference (the paper's F)."""

    def __post_init__(self) -> None:
        for name in ("steps", "difference"):
            require_positive(name, getattr(self, name))
        if self.population < 3:
            raise UsageError(f"expected a population of 3 or more, got {self.population}.")

    def check(self, threat: Threat, shape: Sequence[int]) -> None:
        if len(shape) == 3 and threat.budget(math.prod(shape)) < shape[0]:
            raise UsageError(
                f"expected a budget of {shape[0]} features at least, one pixel of {shape[0]} channels, got {threat}."
            )

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: ScoreOracle) -> Evolving:
        x = image(case.x)
        pixels = int(case.budget) // x.shape[1]
        child = _random(case, case.age, pixels, x)
        population = torch.zeros_like(child)[:, None].expand(-1, self.population, -1)
        return Evolving(
            x_adv=_painted(case, x, child),
            child=child,
            population=population,
            fitness=torch.full_like(population[:, :, 0], math.inf),
        )

    def step(self, case: Case, oracle: ScoreOracle, state: Evolving) -> Evolving:
        margin = case.goal.margin(oracle.logits(state.x_adv))[:, None]
        seat = (case.age % self.population)[:, None]
        parent = state.fitness.gather(1, seat)
        better = margin < parent
        fitness = state.fitness.scatter(1, seat, torch.minimum(margin, parent))
        seats = seat[:, :, None].expand(-1, -1, state.child.shape[1])
        heir = state.child[:, None].where(better[:, :, None], state.population.gather(1, seats))
        population = state.population.scatter(1, seats, heir)

        x, age = image(case.x), case.age + 1
        first = age < self.population
        child = self._bred(case, age, population, fitness)
        if bool(first.any()):
            child = _random(case, age, child.shape[1] // (2 + x.shape[1]), x).where(first[:, None], child)
        return Evolving(x_adv=_painted(case, x, child), child=child, population=population, fitness=fitness)

    def _bred(self, case: Case, age: Counts, population: Tensor, fitness: Tensor) -> Flat:
        """One member and a share of the difference of two others."""
        draws = noise.uniform(case.key, age, 3, torch.float64)
        count = torch.tensor([self.population, self.population - 1, self.population - 2], device=draws.device)
        one, second, third = (draws * count).long().unbind(1)
        one = fitness.argmin(1) if self.around == "best" else one
        ahead = torch.stack(
            [torch.full_like(one, -1), second, third + (third >= second)], dim=1
        )  # three different seats
        chosen = (one[:, None] + 1 + ahead) % self.population
        one, plus, minus = population.gather(1, chosen[:, :, None].expand(-1, -1, population.shape[2])).unbind(1)
        return one + self.difference * (plus - minus)


def _random(case: Case, age: Counts, pixels: int, x: Tensor) -> Flat:
    """Places anywhere, colours normal around the middle of the box (section III.D)."""
    colours = x.shape[1] * pixels
    places = noise.uniform(case.key, age, 2 * pixels, x.dtype, stream=1)
    return torch.cat([places, 0.5 + 0.5 * noise.normal(case.key, age, colours, x.dtype, stream=2)], dim=1)


def _painted(case: Case, x: Tensor, child: Flat) -> Batch:
    """The samples with a child's pixels."""
    rows, channels, height, width = x.shape
    pixels = child.shape[1] // (2 + channels)
    down, across, colour = child.split([pixels, pixels, channels * pixels], dim=1)
    place = (down.remainder(1) * height).long().clamp_max(height - 1) * width
    place = place + (across.remainder(1) * width).long().clamp_max(width - 1)
    colour = (case.threat.lower + case.threat.width * colour.clamp(0, 1)).reshape(rows, channels, pixels)
    place = place[:, None].expand(-1, channels, -1)
    painted = x.flatten(2).scatter_reduce(2, place, colour, "amax", include_self=False)
    return features_of(painted.reshape(x.shape), case.x)
