"""Networks that a study trains in a way that `sapper train` has no option for: any loss, Adam; kept in its folder."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.disk import write_bytes
from sapper.lab import Lab
from sapper.models.weights import fill, read_safetensors
from sapper.tensors import Batch, Labels

Loss = Callable[[nn.Module, Batch, Labels], Tensor]
"""Of the network on a batch; one number."""


def cross_entropy(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    return F.cross_entropy(module(x), y)


@dataclass(frozen=True)
class Lesson:
    """What is learned and how: by Adam, at a rate that falls linearly to nought."""

    data: Data
    epochs: int
    rate: float = 1e-3
    loss: Loss = cross_entropy
    batch_size: int = 100

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.rate)

    def pace(self, optimiser: torch.optim.Optimizer, passed: float) -> None:
        """Called before each step, with the share of the lesson that is over."""
        optimiser.param_groups[0]["lr"] = self.rate * (1 - passed)


@dataclass(frozen=True)
class Halved(Lesson):
    """Stochastic gradient descent; its rate and its momentum are halved once."""

    momentum: float = 0.9
    after: int = 5
    """Epochs at the first rate and momentum."""

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.rate, momentum=self.momentum)

    def pace(self, optimiser: torch.optim.Optimizer, passed: float) -> None:
        share = 0.5 if passed >= self.after / self.epochs else 1.0
        optimiser.param_groups[0].update(lr=share * self.rate, momentum=share * self.momentum)


def taught(lab: Lab, name: str, build: Callable[[], nn.Module], *lessons: Lesson) -> nn.Module:
    """The network of that name from the study's folder; built and taught there if need be, in evaluation mode.

    First weights, the order of samples and dropout follow from the study's seed and the name alone.
    """
    path = lab.out / "models" / f"{name}.safetensors"
    seed = np.random.SeedSequence((lab.seed, zlib.crc32(name.encode()))).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):  # torch initialises weights and drops units by its global generator
        torch.default_generator.manual_seed(int(seed[0]))
        module = build()
        if path.exists():
            fill(module, read_safetensors(path)[0], str(path))
            return module.eval()
        lab.console.print(f"   training {name}", style="dim", highlight=False)
        for lesson in lessons:
            _teach(module, lesson)
    write_bytes(path, save({key: value.contiguous() for key, value in module.state_dict().items()}))
    return module


def _teach(module: nn.Module, lesson: Lesson) -> None:
    optimiser = lesson.optimiser(p for p in module.parameters() if p.requires_grad)
    data, steps = lesson.data, lesson.epochs * -(-len(lesson.data) // lesson.batch_size)
    rows = (part for _ in range(lesson.epochs) for part in torch.randperm(len(data)).split(lesson.batch_size))
    module.train()
    for step, part in enumerate(rows):
        lesson.pace(optimiser, step / steps)
        loss = lesson.loss(module, data.x[part], data.y[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.eval()


def samples(lab: Lab, split: str, limit: int | None = None) -> Data:
    """As `lab.samples`, but kept: parts share few sets, and unpacking one takes longer than many a part."""
    return _samples(lab.data, split, limit)


@lru_cache(maxsize=8)
def _samples(reference: str, split: str, limit: int | None) -> Data:
    return load_data(reference, split=split, limit=limit)


def share(value: float | None, digits: int = 2) -> float | None:
    """A share in percent."""
    return None if value is None else round(100 * value, digits)
