"""One judge for all: what a library returns is re-predicted, its legality checked, its model calls counted."""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

TOLERANCE = 1e-6
"""By which a box or a norm may be exceeded before an input counts as illegal."""


@dataclass(frozen=True)
class Budget:
    """What every library is granted."""

    norm: float
    """0, 1, 2 or infinity."""
    size: float
    """The most that may change: features for norm 0, distance otherwise; infinite where the smallest is sought."""
    steps: int
    step_size: float = 0.0


@dataclass(frozen=True)
class Task:
    x: Tensor
    labels: Tensor
    targets: Tensor | None
    """None: any other class than the label is a success."""
    budget: Budget

    def __len__(self) -> int:
        return len(self.x)

    def first(self, count: int) -> "Task":
        return self._rows(slice(count))

    def split(self, size: int) -> Iterator["Task"]:
        return (self._rows(slice(start, start + size)) for start in range(0, len(self), size))

    def _rows(self, rows: slice) -> "Task":
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, x=self.x[rows], labels=self.labels[rows], targets=targets)


@dataclass(frozen=True)
class Verdict:
    successes: int
    illegal: int
    mean_distance: float | None
    """Over the successes, in features for norm 0; None without any."""
    median_distance: float | None
    """Over all samples, where a failure is infinitely far; None where that is the median."""


class Count:
    """How many samples have passed; copies of a model share it, and threads may add to it at once."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> "Count":
        return self

    def add(self, *, forwards: int = 0, backwards: int = 0) -> None:
        with self._lock:
            self.forwards += forwards
            self.backwards += backwards


class Counted(nn.Module):
    """The model that everyone attacks: counts the samples that pass forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.count = Count()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.count.add(forwards=len(x))
        if logits.requires_grad:
            logits.register_hook(self._count_backwards)
        return logits

    def restart(self) -> None:
        self.count = Count()

    def _count_backwards(self, gradient: Tensor) -> None:
        self.count.add(backwards=len(gradient))


def judge(model: nn.Module, task: Task, x_adv: Tensor) -> Verdict:
    """Success is a legal input of the target class or, without targets, of another class than the label."""
    assert x_adv.shape == task.x.shape, (x_adv.shape, task.x.shape)
    distance = distances(x_adv - task.x, task.budget.norm)
    legal = (distance <= task.budget.size + TOLERANCE) & in_box(x_adv)
    predicted = predictions(model, x_adv)
    reached = predicted != task.labels if task.targets is None else predicted == task.targets
    found = legal & reached
    median = float(distance.where(found, math.inf).median())
    return Verdict(
        successes=int(found.sum()),
        illegal=int((~legal).sum()),
        mean_distance=float(distance[found].mean()) if found.any() else None,
        median_distance=median if math.isfinite(median) else None,
    )


def distances(change: Tensor, norm: float) -> Tensor:
    if norm == 0:
        return (change != 0).flatten(1).sum(dim=1).double()
    return torch.linalg.vector_norm(change.flatten(1).double(), ord=norm, dim=1)


def in_box(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat.isfinite().all(dim=1) & (flat >= -TOLERANCE).all(dim=1) & (flat <= 1 + TOLERANCE).all(dim=1)


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(dim=1) for part in x.split(256)])
