"""Runs contenders in turn, A B C A B C …, on one model and the same samples; measures the model's own time as well."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from contenders import Contender
from judge import Counted, Task, Verdict, judge
from torch import Tensor, nn

from sapper.workers import side_by_side

Tell = Callable[[str], None]

FLOOR_BATCHES = (32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class Setting:
    """What a contender is run with: the fastest of those tried."""

    batch_size: int
    """0: the library's own."""
    frozen: bool
    """Whether the weights' `requires_grad` is off, which a user of the library would have to do."""


@dataclass(frozen=True)
class Entry:
    contender: Contender
    samples: int
    """It is given the first so many."""


@dataclass(frozen=True)
class Floor:
    """The model's own time for one sample at its best batch size, weights frozen."""

    batch_size: int
    workers: int
    """Batches at once."""
    forward: float
    backward: float

    def total(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True)
class Measurement:
    seconds: float
    cpu_seconds: float
    """Of all threads; says more than `seconds` on a machine that does other work too."""
    forwards: int
    backwards: int
    floor: Floor
    verdict: Verdict

    @property
    def floor_seconds(self) -> float:
        return self.forwards * self.floor.forward + self.backwards * self.floor.backward


@dataclass(frozen=True)
class Result:
    entry: Entry
    setting: Setting
    measurements: tuple[Measurement, ...]


def race(module: nn.Module, task: Task, trial: Task, entries: Sequence[Entry], rounds: int, tell: Tell) -> list[Result]:
    """Measures every entry once a round; `trial` is a small task on which the settings are chosen."""
    model = Counted(module).eval()
    settings = {name: fastest_setting(model, trial, one, tell) for name, one in by_name(entries).items()}
    floor_batch = best_floor(model, task.x).batch_size
    measured: list[list[Measurement]] = [[] for _ in entries]
    for number in range(rounds):
        for entry, measurements in zip(entries, measured, strict=True):
            floor = model_time(model, task.x[:floor_batch])
            one = measure(
                model, task.first(entry.samples), entry.contender, settings[entry.contender.name], floor, number
            )
            measurements.append(one)
            tell(f"round {number + 1}: {entry.contender.name}, {entry.samples} samples: {one.seconds:.2f} s")
    return [
        Result(entry, settings[entry.contender.name], tuple(measurements))
        for entry, measurements in zip(entries, measured, strict=True)
    ]


def by_name(entries: Sequence[Entry]) -> dict[str, Contender]:
    return {entry.contender.name: entry.contender for entry in entries}


def fastest_setting(model: Counted, trial: Task, contender: Contender, tell: Tell) -> Setting:
    if contender.package == "sapper":
        return Setting(batch_size=0, frozen=False)  # it freezes and chooses by itself, within its time
    trial = trial.first(contender.trial_samples)
    sizes = [size for size in contender.batch_sizes if size <= len(trial)] or [min(contender.batch_sizes)]
    settings = [Setting(size, frozen) for size in sizes for frozen in (False, True)]
    seconds = dict.fromkeys(settings, 0.0)
    for _ in range(2):
        for setting in settings:
            seconds[setting] += timed(model, trial, contender, setting, seed=0)[1]
    best = min(settings, key=seconds.__getitem__)
    tell(f"{contender.name}: best of {len(settings)} settings is {best}")
    return best


def measure(model: Counted, task: Task, contender: Contender, setting: Setting, floor: Floor, seed: int) -> Measurement:
    model.restart()
    x_adv, seconds, cpu_seconds = timed(model, task, contender, setting, seed)
    forwards, backwards = model.count.forwards, model.count.backwards
    return Measurement(seconds, cpu_seconds, forwards, backwards, floor, judge(model, task, x_adv))


def timed(model: Counted, task: Task, contender: Contender, setting: Setting, seed: int) -> tuple[Tensor, float, float]:
    """The adversarial inputs, the seconds and the CPU seconds they took."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    with weights(model, frozen=setting.frozen):
        started, cpu_started = time.perf_counter(), time.process_time()
        x_adv = contender.craft(model, task, setting.batch_size)
        return x_adv, time.perf_counter() - started, time.process_time() - cpu_started


@contextmanager
def weights(model: nn.Module, *, frozen: bool) -> Iterator[None]:
    model.requires_grad_(not frozen)
    try:
        yield
    finally:
        model.requires_grad_(True)
        model.zero_grad(set_to_none=True)


def best_floor(model: nn.Module, x: Tensor) -> Floor:
    sizes = [size for size in FLOOR_BATCHES if size <= len(x)] or [len(x)]
    return min((model_time(model, x[:size]) for size in sizes), key=Floor.total)


def model_time(model: nn.Module, x: Tensor) -> Floor:
    """Half a second of forward and input-gradient passes: on one batch with all threads, or on a batch for each thread side
    by side, as Sapper works on a CPU; whichever is faster."""
    with weights(model, frozen=True):
        return min((_model_time(model, x, workers) for workers in (1, torch.get_num_threads())), key=Floor.total)


def _model_time(model: nn.Module, x: Tensor, workers: int) -> Floor:
    medians: list[tuple[float, float]] = []

    def work(number: int, tell: Callable[[int, int], None]) -> None:
        passes, deadline = [input_gradient(model, x)], time.perf_counter() + 0.5
        while time.perf_counter() < deadline:
            passes.append(input_gradient(model, x))
        forwards, backwards = zip(*passes[1:] or passes, strict=True)
        medians.append((statistics.median(forwards), statistics.median(backwards)))

    side_by_side(work, workers, None)
    forward, backward = (statistics.mean(part) / len(x) / workers for part in zip(*medians, strict=True))
    return Floor(len(x), workers, forward, backward)


def input_gradient(model: nn.Module, x: Tensor) -> tuple[float, float]:
    leaf = x.detach().clone().requires_grad_(True)
    started = time.perf_counter()
    logits = model(leaf)
    between = time.perf_counter()
    torch.autograd.grad(logits, leaf, torch.ones_like(logits))
    return between - started, time.perf_counter() - between


def paired_ratio(result: Result, other: Result, clock: Callable[[Measurement], float]) -> float:
    """Median over the rounds of this one's time per sample over the other's in the same round."""
    ratios = [clock(a) / clock(b) for a, b in zip(result.measurements, other.measurements, strict=True)]
    return statistics.median(ratios) * other.entry.samples / result.entry.samples


def small(task: Task, samples: int, steps: int) -> Task:
    return replace(task.first(samples), budget=replace(task.budget, steps=steps))
