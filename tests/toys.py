"""Small models whose answers are known, and what the attack tests need around them."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from sapper import catalogue, noise
from sapper.attack import Attack, Case
from sapper.goal import Goal, Targeted, Untargeted
from sapper.learners import Linear, Neighbours, Tree, learner_of
from sapper.models.estimators import from_estimator
from sapper.threat import Threat

BUDGETS = {"l0": "l0:3", "l1": "l1:1.5", "l2": "l2:0.6", "linf": "linf:0.15"}
"""At which the toy network is fooled on some samples and not on others."""


WIDE = (-1.0, 2.0)
"""Bounds that are far from what `drawn` gives."""


def drawn(rows: int, features: int, seed: int = 0) -> Tensor:
    """Samples from 0.2 to 0.8."""
    return torch.rand(rows, features, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits weight·x + bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def saliency_model(a: list[float], b: list[float], gap: float = 100.0) -> nn.Module:
    """Linear, three classes: class 1, the target, has derivatives a, the two others together -b; 0 is ahead by `gap`."""
    target, others = torch.tensor(a), -torch.tensor(b)
    return linear(torch.stack([others / 2, target, others / 2]), torch.tensor([gap, 0.0, 0.0]))


def random_linear(features: int = 12, classes: int = 4, seed: int = 0) -> nn.Module:
    draws = torch.Generator().manual_seed(seed)
    return linear(torch.randn(classes, features, generator=draws), torch.randn(classes, generator=draws))


def network(shape: tuple[int, ...] = (1, 3, 4), classes: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A curved one, steep enough to be fooled."""
    draws = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 24), nn.Tanh(), nn.Linear(24, classes))
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draws) * 0.7)
    return model.to(dtype)


def model_for(
    method: type[Attack], dtype: torch.dtype = torch.float32, unit: float = 1.0, origin: float = 0.0
) -> nn.Module:
    """A model that the attack is for: the network or, if it asks for a learner, one of that kind.

    Its inputs are from the origin to a unit beyond it; in other units it is the same model.
    """
    kind = catalogue.learner(method)
    if kind is None:
        same = (unit, origin) == (1, 0)
        return network(dtype=dtype) if same else nn.Sequential(Measured(unit, origin), network(dtype=dtype))
    if kind is Linear:
        exact = exact_of(random_linear())
        return linear(exact.weight / unit, exact.bias - exact.weight.sum(1) * origin / unit).to(dtype)
    x = torch.rand(300, 12, generator=torch.Generator().manual_seed(3))
    y = predict(network(), x)
    return estimator_of(kind, x * unit + origin, y)


def constant_for(method: type[Attack]) -> nn.Module:
    """A model that the attack is for, which says 0 of every legal input, out of 3 classes."""
    kind = catalogue.learner(method)
    if kind in (None, Linear):
        return linear(torch.zeros(3, 12), torch.tensor([1.0, 0.0, 0.0]))
    return estimator_of(kind, torch.cat([drawn(20, 12), torch.full((2, 12), 100.0)]), torch.tensor([0] * 20 + [1, 2]))


def estimator_of(kind: type[Tree] | type[Neighbours], x: Tensor, y: Tensor) -> nn.Module:
    """Of scikit-learn, fitted."""
    estimator = {Tree: DecisionTreeClassifier(random_state=0), Neighbours: KNeighborsClassifier(1)}[kind]
    return from_estimator(estimator.fit(np.asarray(x, np.float64), np.asarray(y)), "toy").module


class Measured(nn.Module):
    """From other units."""

    def __init__(self, unit: float, origin: float) -> None:
        super().__init__()
        self.unit, self.origin = unit, origin

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.origin) / self.unit


def known(whole: nn.Module, model: nn.Module) -> nn.Module:
    """The whole, of which it is said that it is made of what the model in it is."""
    whole.learner = learner_of(model)
    return whole


def samples(model: nn.Module, rows: int = 20, shape: tuple[int, ...] = (1, 3, 4), seed: int = 1):
    """Inputs in [0, 1], with the model's own answers for labels, one in ten of them wrong."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    y[::10] = (y[::10] + 1) % logits.shape[1]
    return x, y


def case_of(x: Tensor, threat: Threat, goal: Goal | None = None, seed: int = 0) -> Case:
    index = torch.arange(len(x))
    goal = goal or Untargeted(torch.zeros_like(index))
    return Case(x, goal, threat, torch.zeros_like(index), noise.keys(seed, index), index)


def target_of(label: Tensor, target: Tensor) -> Targeted:
    return Targeted(label, target)


def predict(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


class Watched(nn.Module):
    """Counts, for each of the samples, the rows that go forwards and backwards.

    A row belongs to the sample with which it shares most features, and among those to the nearest: attacks change all
    features a little or a few of them a lot.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.learner = learner_of(model)
        self.x = x.flatten(1)
        self.forwards = torch.zeros(len(x), dtype=torch.int64)
        self.backwards = torch.zeros(len(x), dtype=torch.int64)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        apart = x.detach().flatten(1)[:, None] - self.x
        rows = (apart.norm(dim=2) - 100 * (apart == 0).sum(2)).argmin(1).bincount(minlength=len(self.x))
        self.forwards += rows
        self.batches.append(len(x))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(rows))
        return logits

    def _count(self, rows: Tensor) -> None:
        self.backwards += rows


def identical(first, second) -> bool:
    """Everything but the time is bit for bit the same."""
    names = set(vars(first)) - {"seconds"}
    return all(torch.equal(getattr(first, n).nan_to_num(-9), getattr(second, n).nan_to_num(-9)) for n in names)


def rows_of(record, rows: Tensor):
    return replace(record, **{name: value[rows] for name, value in vars(record).items()})


@dataclass(frozen=True)
class Exact:
    """The distance of a sample from the nearest input of another class, on a linear model."""

    weight: Tensor
    bias: Tensor

    def distance(self, x: Tensor, label: Tensor, threat: Threat) -> Tensor:
        x, rows = x.flatten(1), torch.arange(len(x))
        logits = x @ self.weight.T + self.bias
        margin = logits[rows, label][:, None] - logits
        slope = self.weight[None] - self.weight[label][:, None]  # of the other's lead, by each feature
        if threat.p == 0:
            gain = torch.maximum(
                slope * (threat.upper - x)[:, None], slope * (threat.lower - x)[:, None]
            )  # by one feature, at most
            best = gain.sort(2, descending=True).values.cumsum(2)
            needed = (best < margin[:, :, None]).sum(2) + 1.0
        else:
            dual = {1: math.inf, 2: 2, math.inf: 1}[threat.p]
            needed = margin / torch.linalg.vector_norm(slope, ord=dual, dim=2)
        needed[rows, label] = math.inf
        return torch.where((margin <= 0).sum(1) > 1, 0.0, needed.amin(1))


def exact_of(model: nn.Module) -> Exact:
    layer = model[1]
    return Exact(layer.weight.detach(), layer.bias.detach())


def pairs(n: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(n), 2))
