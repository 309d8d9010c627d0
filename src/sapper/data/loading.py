"""Named data sets, and the user's own files.

A named set is a module of this folder with `load(split, limit) -> Arrays`; there is no list to edit.
"""

import pkgutil
import re
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from sapper.data.checks import Arrays, check
from sapper.data.dataset import Data
from sapper.data.images import read_folder
from sapper.data.parquet import parquet_files, read_parquet
from sapper.errors import DataError, UsageError, unknown

SPLITS = ("train", "test")


def named_sets() -> tuple[str, ...]:
    """The names that `load_data` knows."""
    modules = (info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(name for name in modules if hasattr(import_module(f"sapper.data.{name}"), "load"))


def load_data(
    reference: str,
    *,
    split: str = "test",
    limit: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    resize: tuple[int, int] | None = None,
) -> Data:
    """Loads and checks a data set.

    Args:
        reference: `digits`, `mnist`, `cifar10`; or a path: an .npz file, a folder of images with one subfolder a
            class, a Parquet file or a folder of them in the Hugging Face layout.
        split: "train" or "test", or a range of one: "train[:50000]", "train[50000:]". Files that do not divide themselves
            are taken whole for either.
        limit: Keep the first so many samples.
        bounds: The legal range of every feature. Images of bytes are scaled to it; floats must lie in it.
        resize: Height and width for images of a folder or of Parquet.
    """
    split, start, stop = _range(split)
    if limit is not None and limit < 1:
        raise UsageError(f"expected a limit of at least 1 sample, got {limit}.")
    stop = min((end for end in (stop, None if limit is None else start + limit) if end is not None), default=None)
    whole = _load(reference, split, stop, bounds, resize)
    if start >= len(whole):
        raise DataError(f"{reference} has {len(whole)} samples in its {split} split, none from {start} on.")
    return replace(whole, x=whole.x[start:], y=whole.y[start:])


def _range(split: str) -> tuple[str, int, int | None]:
    """Reads `train`, `train[:50000]`, `train[50000:60000]`."""
    found = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", split)
    if not found or found[1] not in SPLITS:
        raise unknown("split", split, SPLITS)
    start, stop = int(found[2] or 0), int(found[3]) if found[3] else None
    if stop is not None and stop <= start:
        raise UsageError(f"expected a range with its end above its start, got '{split}'.")
    return found[1], start, stop


def _load(
    reference: str, split: str, limit: int | None, bounds: tuple[float, float], resize: tuple[int, int] | None
) -> Data:
    path = Path(reference).expanduser()
    if resize is not None and not (path.is_dir() or path.suffix == ".parquet"):
        raise UsageError(f"only images of a folder or of Parquet can be resized, {reference} is neither.")
    if reference in named_sets():
        arrays = import_module(f"sapper.data.{reference}").load(split, limit)
        return check(reference, arrays, bounds)
    if not path.exists():
        raise _not_there(reference, path)
    try:
        arrays = _read(path, split, limit, resize)
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return check(path.resolve().stem, arrays, bounds)


def _not_there(reference: str, path: Path) -> Exception:
    if path.suffix or len(path.parts) > 1:
        return DataError(f"{reference}: no such file or folder; the named sets are {', '.join(named_sets())}.")
    return unknown("data set", reference, named_sets())


def _read(path: Path, split: str, limit: int | None, resize: tuple[int, int] | None) -> Arrays:
    if path.is_dir():
        return _read_dir(path, split, limit, resize)
    if path.suffix == ".parquet":
        return read_parquet([path], limit, resize=resize)
    if path.suffix == ".npz":
        return read_npz(path, split, limit)
    raise DataError(f"{path}: expected an .npz file, a .parquet file or a folder, got a file of type '{path.suffix}'.")


def _read_dir(path: Path, split: str, limit: int | None, resize: tuple[int, int] | None) -> Arrays:
    if any(path.rglob("*.parquet")):
        files = parquet_files(path, split)
        if not files:
            raise DataError(f"{path}: expected a Parquet file with '{split}' in its name, got none.")
        return read_parquet(files, limit, resize=resize)
    return read_folder(path / split if (path / split).is_dir() else path, limit, resize)


def read_npz(path: Path, split: str, limit: int | None) -> Arrays:
    """Reads x_test and y_test (or x_train and y_train), x and y, or images and labels; `classes` may name them."""
    pairs = ((f"x_{split}", f"y_{split}"), ("x", "y"), ("images", "labels"))
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as arrays:
            found = next((pair for pair in pairs if set(pair) <= set(arrays.files)), None)
            if found is None:
                keys = ", ".join(arrays.files) or "nothing"
                raise DataError(f"{path}: expected x_{split} and y_{split}, x and y, or images and labels, got {keys}.")
            x, y = (arrays[key] for key in found)
            classes = tuple(map(str, arrays["classes"])) if "classes" in arrays.files else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected an .npz of plain numbers, got a file that cannot be read as one ({error}). "
            "Arrays of Python objects are pickles and are refused: save numbers with numpy.savez."
        ) from error
    if x.ndim == 0 or y.ndim == 0:
        raise DataError(f"{path}: expected arrays with one entry a sample, got shapes {x.shape} and {y.shape}.")
    if len(x) != len(y):
        raise DataError(f"{path}: expected one label for each sample, got {len(x)} samples and {len(y)} labels.")
    return Arrays(x[:limit], y[:limit], classes)
