"""Asking a model about inputs, each once: questions lie on the disk before they are asked, answers as soon as they come.

FOLDER/inputs.safetensors              tensor "x", "source", which of what was known before each row was made of, and "among",
                                       how many there were to choose from
FOLDER/answers/0000100.safetensors     what was said of its rows from 100 on: "labels", and "classes", of which they are
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from sapper import disk
from sapper.errors import ModelError, RunError
from sapper.oracle import TorchOracle
from sapper.progress import CaseProgress
from sapper.tensors import Batch, Counts, Labels, join

_NAME = "inputs.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What is to be asked."""

    x: Batch
    source: Counts
    """Which of what was known before each was made of; where nothing was, its own place."""

    @classmethod
    def of(cls, x: Batch) -> "Inputs":
        """Made of nothing."""
        return cls(x, torch.arange(len(x)))


def unlike(x: Batch, asked: torch.Tensor) -> list[int]:
    """The places of rows that are none of those asked, and none of those before them."""
    seen, places = set(_rows(asked)), list[int]()
    for place, row in enumerate(_rows(x)):
        if row not in seen:
            seen.add(row)
            places.append(place)
    return places


def _rows(x: torch.Tensor) -> Iterator[bytes]:
    """What tells them apart; a zero has no sign."""
    return (hashlib.sha256(row.tobytes()).digest() for row in (x + 0.0).numpy())


def kept(folder: Path, most: int, make: Callable[[Counts], tuple[Inputs, int]]) -> tuple[Inputs, int]:
    """The inputs of a folder, and among how many they were chosen; those that are there stay, in their places.

    Args:
        folder: Where they lie.
        most: How many there are to be, if there are so many to choose from.
        make: Given the sources of those that are there, makes the others, and says among how many it chose all of them.
    """
    path = folder / _NAME
    there = _read(path) if path.exists() else {}
    found = Inputs(there["x"], there.get("source", torch.arange(len(there["x"])))) if there else None
    among = int(there.get("among", most))
    if found and len(found.x) >= min(most, among):
        return found, among
    more, among = make(found.source if found else torch.zeros(0, dtype=torch.int64))
    found = join(found, more) if found else more
    record = {"x": found.x.contiguous(), "source": found.source, "among": torch.tensor(among)}
    disk.write_bytes(path, safetensors.torch.save(record))
    return found, among


class Endpoint:
    """A model that gives labels, whatever else it could give."""

    def __init__(self, module: nn.Module, progress: CaseProgress, at_once: int) -> None:
        weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
        self._device, self._dtype = weight.device, weight.dtype
        self._oracle = TorchOracle(module)
        self._progress, self._at_once = progress, at_once
        self.classes = 0
        """How many it has; known with the first answer."""

    def labels(self, x: Batch, folder: Path) -> Labels:
        """Its answers, from the folder as far as they are there, else asked for and written."""
        self._progress.begin(f"asking: {folder.parent.name}/{folder.name}", len(x), found=False)
        parts, done = [torch.zeros(0, dtype=torch.int64)], 0
        while done < len(x):
            path = folder / "answers" / f"{done:07}.safetensors"
            if not path.exists():
                self._ask(x[done : done + self._at_once], path)
            answer = _read(path)
            self._agree(int(answer["classes"]), path)
            parts.append(answer["labels"])
            done += len(parts[-1])
            self._progress.step(done, 0)
        return torch.cat(parts)

    def _ask(self, x: Batch, path: Path) -> None:
        logits = self._oracle.logits(x.to(self._device, self._dtype))
        if not bool(logits.isfinite().all()):
            raise ModelError(
                "expected finite answers, got nan or infinity: mend the endpoint and run the same command, which goes on."
            )
        self._agree(logits.shape[1], path)
        answer = {"labels": logits.argmax(1).cpu(), "classes": torch.tensor(logits.shape[1])}
        disk.write_bytes(path, safetensors.torch.save(answer))

    def _agree(self, classes: int, path: Path) -> None:
        if self.classes and classes != self.classes:
            raise ModelError(
                f"the endpoint has {classes} classes in {path} and had {self.classes} before: it is another model now; give "
                "another --out to begin anew."
            )
        self.classes = classes


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete it and run the same command again.") from error
