"""The architectures: every module of this folder that has a `build` function. There is no list to edit.

A file offers
    build(input_shape, classes) -> nn.Module   for inputs (C, H, W) or (features,); returns logits
and may offer
    RECIPE: Recipe                             its training, where the default does not suit
    PUBLISHED: Published                       what its published weights expect
    loss(logits, labels) -> Tensor             what its training descends, if not cross-entropy
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.errors import unknown

Build = Callable[[tuple[int, ...], int], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum; the learning rate falls linearly to nought."""

    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Published:
    """What an architecture's published weights expect: their files carry no description of their own."""

    input_shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Architecture:
    name: str
    build: Build
    recipe: Recipe
    published: Published | None
    loss: Loss = F.cross_entropy


def architectures() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = import_module(f"sapper.models.{info.name}")
        if hasattr(module, "build"):
            recipe, published = getattr(module, "RECIPE", Recipe()), getattr(module, "PUBLISHED", None)
            loss = getattr(module, "loss", F.cross_entropy)
            found[info.name] = Architecture(info.name, module.build, recipe, published, loss)
    return found


def architecture(name: str) -> Architecture:
    known = architectures()
    if name not in known:
        raise unknown("architecture", name, known)
    return known[name]
