"""Files that a kill leaves whole or not there: written beside their place, synced and renamed. Imports no torch."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import safetensors.numpy
import tomli_w

from sapper.errors import RunError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside `path`, syncs, renames: after a kill the file is whole or not there.

    Raises:
        RunError: The disk is full or the folder cannot be written; nothing half-written stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. Make room or give another --out, then run the same "
            "command: it goes on where it was."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what processes that were killed had half written."""
    for part in folder.rglob(".*.part"):
        if not Path("/proc", part.name.split(".")[-2]).exists():
            part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    write_whole(path, lambda part: part.write_bytes(text + b"\n"))


def write_toml(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, lambda part: part.write_text(tomli_w.dumps(value), encoding="utf-8"))


def write_table(path: Path, table: pl.DataFrame) -> None:
    def write(part: Path) -> None:
        memory = io.BytesIO()  # polars' own writing of files hides a full disk among its errors
        table.write_parquet(memory)
        part.write_bytes(memory.getbuffer())

    write_whole(path, write)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    write_bytes(path, safetensors.numpy.save(tensors))


def write_bytes(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Damaged and missing files become an error that says which."""
    try:
        yield
    except (OSError, ValueError, safetensors.SafetensorError, pl.exceptions.PolarsError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error})"
        raise RunError(
            f"{path.parent} is not whole, {path.name} is lost or damaged: {reason}. Delete the file and run the same "
            "command again."
        ) from error


def read_table(path: Path) -> pl.DataFrame:
    with whole(path):
        return pl.read_parquet(path, glob=False)  # a folder may be called [old]


def read_row(path: Path, name: str, row: int) -> np.ndarray:
    """One row of a tensor in a safetensors file, the rest left on the disk."""
    with whole(path), safetensors.safe_open(path, framework="np") as file:
        return np.asarray(file.get_slice(name)[row])


def read_rows(path: Path, name: str, start: int, stop: int) -> np.ndarray:
    """Some rows of a tensor in a safetensors file, the rest left on the disk."""
    with whole(path), safetensors.safe_open(path, framework="np") as file:
        rows = file.get_slice(name)
        return np.asarray(rows[start : min(stop, rows.get_shape()[0])])


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of a tensor in a safetensors file."""
    with whole(path), safetensors.safe_open(path, framework="np") as file:
        return tuple(file.get_slice(name).get_shape())
