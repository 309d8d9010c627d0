"""Training an architecture on a data set, into a model folder.

After each epoch all that the next one depends on is written to `checkpoint.safetensors`; whatever is random in an epoch
follows from the seed and the epoch's number. So a run that was killed goes on, and ends with the same weights.
"""

import json
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.disk import write_bytes
from sapper.errors import ModelError, RunError, UsageError
from sapper.models.architecture import Architecture, Loss, architecture
from sapper.models.folder import DESCRIPTION, write_folder
from sapper.models.weights import read_safetensors

CHECKPOINT = "checkpoint.safetensors"
Schedule = Literal["linear", "constant"]
"""Of the learning rate: it falls linearly to nought, or stays."""
LEAST_STEPS = 1000
"""A small set is gone through more often, until the weights have had this many steps."""


@dataclass(frozen=True)
class Plan:
    """All that decides the weights."""

    architecture: str
    data: str
    split: str
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    schedule: Schedule = "linear"


def train(
    model: str,
    data: str,
    out: Path,
    *,
    split: str = "train",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    schedule: Schedule = "linear",
    seed: int = 0,
    console: Console | None = None,
) -> Path:
    """Trains a network and writes it to the folder `out`, which `load_model` reads; returns `out`.

    A folder with the finished network of the same plan is returned as it is; an interrupted training of the same plan
    goes on, and gives to the bit what an uninterrupted one gives (on the same machine and number of threads).

    Args:
        model: An architecture, such as "lenet".
        data: What `load_data` takes; its test split is measured.
        split: What is learned, "train" or a range of it.
        out: The folder to make.
        epochs: How often the samples are gone through; this and the next three are the architecture's recipe if None.
        batch_size: Samples a step.
        learning_rate: At the start.
        momentum: From 0 to below 1.
        schedule: Whether the learning rate falls linearly to nought or stays constant.
        seed: Of the first weights and the order of samples.
        console: Where progress is shown; None shows none.

    Raises:
        RunError: `out` holds a model of another plan or cannot be written, or the loss became infinite.
    """
    architecture(model)  # an unknown one is refused before the data are loaded
    samples, test = load_data(data, split=split), load_data(data, split="test")
    return learn(
        model, samples, out, data=data, split=split, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        momentum=momentum, schedule=schedule, seed=seed, test=test, console=console,
    )  # fmt: skip


def learn(
    model: str,
    samples: Data,
    out: Path,
    *,
    data: str,
    split: str = "train",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    schedule: Schedule = "linear",
    seed: int = 0,
    test: Data | None = None,
    checkpoints: bool = True,
    console: Console | None = None,
) -> Path:
    """`train` on samples in memory.

    Args:
        model: As for `train`, like what is not said here.
        samples: What is learned.
        out: The folder to make.
        data: What the samples are to be known as.
        split: Likewise.
        epochs: As for `train`, like the next five.
        batch_size: Samples a step.
        learning_rate: At the start.
        momentum: From 0 to below 1.
        schedule: Of the learning rate.
        seed: Of the first weights and the order of samples.
        test: What the accuracy is measured on, if it is.
        checkpoints: Whether to write what an interrupted training goes on from.
        console: Where progress is shown.
    """
    chosen = architecture(model)
    usual = chosen.recipe
    size = usual.batch_size if batch_size is None else batch_size
    rate = usual.learning_rate if learning_rate is None else learning_rate
    usual_epochs = max(usual.epochs, math.ceil(LEAST_STEPS / math.ceil(len(samples) / max(size, 1))))
    plan = Plan(
        architecture=model,
        data=data,
        split=split,
        epochs=usual_epochs if epochs is None else epochs,
        batch_size=size,
        learning_rate=rate,
        momentum=usual.momentum if momentum is None else momentum,
        seed=seed,
        schedule=schedule,
    )
    _check(plan)
    if _finished(out, plan):
        return out
    with _seeded(plan, 0):
        module = chosen.build(samples.shape, len(samples.classes))
    try:
        out.mkdir(parents=True, exist_ok=True)
        _fit(module, chosen, samples, plan, out, console, checkpoints=checkpoints)
        measured = {} if test is None else {"test_accuracy": accuracy(module, test)}
        more = {**measured, "recipe": asdict(plan)}
        write_folder(out, module, model, samples.shape, samples.classes, more)
        (out / CHECKPOINT).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}. Free some space, or choose another folder (--out).") from error
    return out


def accuracy(module: nn.Module, data: Data) -> float:
    """The share of samples whose greatest logit is that of their label."""
    with torch.inference_mode():
        right = [(module(x).argmax(1) == y).sum() for x, y in zip(data.x.split(500), data.y.split(500), strict=True)]
    return int(torch.stack(right).sum()) / len(data)


def _check(plan: Plan) -> None:
    if min(plan.epochs, plan.batch_size) < 1:
        raise UsageError(f"expected at least 1 epoch and 1 sample a batch, got {plan.epochs} and {plan.batch_size}.")
    if not 0 < plan.learning_rate < math.inf:
        raise UsageError(f"expected a learning rate above 0, got {plan.learning_rate}.")
    if not 0 <= plan.momentum < 1:
        raise UsageError(f"expected a momentum from 0 to below 1, got {plan.momentum}.")
    if plan.schedule not in get_args(Schedule):
        raise UsageError(f"expected a schedule of {' or '.join(get_args(Schedule))}, got {plan.schedule!r}.")
    if plan.seed < 0:
        raise UsageError(f"expected a seed of 0 or more, got {plan.seed}.")


def _finished(out: Path, plan: Plan) -> bool:
    """Whether `out` holds the finished model of this plan; an error if it holds another."""
    if out.exists() and not out.is_dir():
        raise RunError(f"expected a folder to write the model to, got the file {out}: choose another (--out).")
    path = out / DESCRIPTION
    if not path.is_file():
        return False
    try:
        found = tomllib.loads(path.read_text()).get("recipe", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: expected the description of a model, got {error}: choose another --out.") from error
    _same(out, found, plan)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return True


def _same(out: Path, found: dict[str, Any], plan: Plan) -> None:
    found = {"schedule": "linear"} | found  # which earlier versions did not write
    differences = [
        f"{name} is {found.get(name)} there and {value} here"
        for name, value in asdict(plan).items()
        if found.get(name) != value
    ]
    if differences:
        raise RunError(
            f"{out} holds a model trained otherwise: {'; '.join(differences)}. "
            "Choose another folder (--out), or delete this one."
        )


@contextmanager
def _seeded(plan: Plan, number: int) -> Iterator[None]:
    """Torch initialises weights and drops units by its global generator: lend it a seed, then put back what it was."""
    seed = np.random.SeedSequence((plan.seed, number)).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed[0]))
        yield


def _fit(
    module: nn.Module, chosen: Architecture, samples: Data, plan: Plan, out: Path, console: Console | None, *,
    checkpoints: bool,
) -> None:  # fmt: skip
    optimiser = torch.optim.SGD(
        module.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=chosen.recipe.weight_decay
    )
    first = _resume(module, optimiser, plan, out)
    with _Display(console, plan, len(samples), first) as display:
        for epoch in range(first, plan.epochs):
            _epoch(module, chosen.loss, optimiser, samples, plan, epoch, display)
            if checkpoints:
                _save(module, optimiser, plan, epoch + 1, out)
    module.eval()


def _epoch(
    module: nn.Module, descended: Loss, optimiser: torch.optim.SGD, samples: Data, plan: Plan, epoch: int,
    display: "_Display",
) -> None:  # fmt: skip
    module.train()
    with _seeded(plan, epoch + 1):
        batches = torch.randperm(len(samples)).split(plan.batch_size)
        for number, rows in enumerate(batches):
            if plan.schedule == "linear":
                passed = (epoch + number / len(batches)) / plan.epochs
                optimiser.param_groups[0]["lr"] = plan.learning_rate * (1 - passed)
            x, y = samples.x[rows], samples.y[rows]
            logits = module(x)
            loss = descended(logits, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            display.advance(epoch, loss.item(), (logits.argmax(1) == y).float().mean().item(), len(rows))


def _save(module: nn.Module, optimiser: torch.optim.SGD, plan: Plan, epochs: int, out: Path) -> None:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        buffer: Tensor | None = optimiser.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer.contiguous()
    write_bytes(out / CHECKPOINT, save(tensors, {"plan": json.dumps(asdict(plan)), "epochs": str(epochs)}))


def _resume(module: nn.Module, optimiser: torch.optim.SGD, plan: Plan, out: Path) -> int:
    """Puts back what the checkpoint holds, if there is one, and returns how many epochs are done."""
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    try:
        tensors, metadata = read_safetensors(path)
        found, epochs = json.loads(metadata["plan"]), int(metadata["epochs"])
    except (ModelError, KeyError, ValueError) as error:
        raise RunError(f"{path}: expected a checkpoint of this training, got {error}: delete it.") from error
    _same(out, found, plan)
    module.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for name, parameter in module.named_parameters():
        if f"momentum.{name}" in tensors:
            optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"]
    return epochs


class _Display:
    """A bar with the epoch, loss and accuracy on the samples learned (running means), rate and time left."""

    def __init__(self, console: Console | None, plan: Plan, samples: int, first: int) -> None:
        self.epochs, self.loss, self.accuracy = plan.epochs, math.nan, math.nan
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=console is None)
        self.task = self.progress.add_task("", total=plan.epochs * samples, completed=first * samples)

    def __enter__(self) -> "_Display":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, epoch: int, loss: float, accuracy: float, samples: int) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"training diverged in epoch {epoch + 1} (the loss became {loss}): give a lower --learning-rate."
            )
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
        self.accuracy = accuracy if math.isnan(self.accuracy) else 0.98 * self.accuracy + 0.02 * accuracy
        rate = self.progress.tasks[0].speed or 0
        learned = f"loss {self.loss:.4f}  accuracy {self.accuracy:.2%}"
        text = f"epoch {epoch + 1}/{self.epochs}  {learned}  {rate:,.0f} samples/s"
        self.progress.update(self.task, advance=samples, description=text)
