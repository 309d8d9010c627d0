"""JSMA on one input of some size: prints, as JSON, the seconds of an iteration and the memory the attack took.

`sizes.py torchattacks 3 64`; a program of its own, since the peak of a process cannot be reset. The network is small and
random, so that what is seen is the attack's own.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import torch
from contenders import SAPPER_JSMA, TORCHATTACKS_JSMA
from judge import Budget, Counted, Task
from memory import peak_mib
from torch import nn

STEPS = 8
MOST_MEMORY = 16 << 30
"""Of addresses; beyond it an allocation fails, rather than the machine."""


@dataclass(frozen=True)
class Point:
    library: str
    shape: tuple[int, int, int]
    features: int
    iterations: int
    """Of one run; the seconds are the median of three."""
    seconds: float | None
    """Of an iteration; None where memory ran out."""
    added_mib: float | None
    """By which the attack raised the peak of the process."""


def measure(library: str, channels: int, side: int) -> Point:
    contender = {"sapper": SAPPER_JSMA, "torchattacks": TORCHATTACKS_JSMA}[library]
    model = Counted(network(channels)).eval().requires_grad_(False)
    x = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    order = model(x).argsort(1)
    task = Task(x, order[:, -1], order[:, 0], Budget(norm=0, size=2 * STEPS, steps=STEPS, step_size=1.0))
    x.requires_grad_(False)
    before, seconds = peak_mib(), []
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        for _ in range(3):
            model.restart()
            started = time.perf_counter()
            contender.craft(model, task, 1)
            seconds.append((time.perf_counter() - started) / STEPS)
            assert model.count.forwards >= STEPS, "the target was reached before the last iteration"
    except (RuntimeError, MemoryError) as error:  # torch has no class of its own for memory that a CPU lacks
        if "memory" not in str(error).lower():
            raise
        return Point(library, (channels, side, side), x.numel(), STEPS, None, None)
    added = peak_mib() - before
    return Point(library, (channels, side, side), x.numel(), STEPS, statistics.median(seconds), added)


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
