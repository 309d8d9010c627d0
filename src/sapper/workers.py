"""A CPU's cores side by side, each with cases and a copy of the model of its own.

A core that has a batch to itself waits for no other, which the cores that share a small batch do at every operation.
"""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch
from torch import nn

from sapper.oracle import GradientOracle, TorchOracle, access_of
from sapper.tensors import Batch

Progress = Callable[[int, int], None]
"""Told (cases done, cases found)."""

_FEWEST_ROWS = 32
"""A worker with fewer rows than this is not worth its thread."""


def doors(oracle: GradientOracle, x: Batch, size: int) -> list[GradientOracle]:
    """The same model for as many workers as torch has threads: one each, or the one there is.

    One it is on other devices, for few rows, and for a model that cannot be shared: that is no torch network, has hooks,
    keeps something of its last call, or cannot be copied. Copies share the weights.
    """
    count = min(torch.get_num_threads(), len(x) // _FEWEST_ROWS, size // _FEWEST_ROWS)
    if count < 2 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):  # autocast holds for its thread alone
        return [oracle]
    if not isinstance(oracle, TorchOracle) or access_of(oracle) != "gradients":
        return [oracle]
    if _has_hooks(oracle.module) or _remembers(oracle, x[:1]):
        return [oracle]
    try:
        return [oracle, *(TorchOracle(_twin(oracle.module)) for _ in range(count - 1))]
    except Exception:  # whatever the user's own classes raise when they are copied
        return [oracle]


def side_by_side(work: Callable[[int, Progress], None], count: int, progress: Progress | None) -> None:
    """Calls work(0, tell) … work(count - 1, tell), a thread each, with torch's threads shared out among them.

    `tell` sums up what the workers report. The first error, or Ctrl-C, ends them all at their next report.
    """
    if count == 1:
        work(0, progress or (lambda done, found: None))
        return
    threads = torch.get_num_threads()
    seen, lock, stop = [(0, 0)] * count, threading.Lock(), threading.Event()

    def one(number: int) -> None:
        def tell(done: int, found: int) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                seen[number] = (done, found)
                if progress:
                    progress(sum(done for done, _ in seen), sum(found for _, found in seen))

        torch.set_num_threads(threads // count)
        work(number, tell)

    try:
        with ThreadPoolExecutor(count, thread_name_prefix="sapper") as pool:
            futures = [pool.submit(one, number) for number in range(count)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # all are done, or shall be
    finally:
        torch.set_num_threads(threads)
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise next(error for error in errors if not isinstance(error, _Stopped))


class _Stopped(Exception):  # noqa: N818 (not an error: another worker's end)
    """Another worker has failed, or the user has interrupted."""


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same weights, so that what a call leaves in the module's attributes meets no other call."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind, None) for part in module.modules() for kind in kinds)


def _remembers(oracle: TorchOracle, x: Batch) -> bool:
    """Whether a call changes the module's attributes: then a copy is not the same model any more."""
    before = [dict(vars(part)) for part in oracle.module.modules()]
    oracle.logits(x)
    after = [vars(part) for part in oracle.module.modules()]
    return any(
        was.keys() != now.keys() or any(was[name] is not now[name] for name in was)
        for was, now in zip(before, after, strict=True)
    )
