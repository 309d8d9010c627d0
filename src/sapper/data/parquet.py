"""Parquet in the Hugging Face layout: a column of encoded images, {bytes, path}, and one of labels."""

import json
import re
from pathlib import Path

import polars as pl

from sapper.data.checks import Arrays
from sapper.data.images import decode
from sapper.errors import DataError

LABELS = ("label", "labels", "fine_label", "target", "y")


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files whose name, or whose folder's, says the split (test-00000-of-00001.parquet); all if none says any."""
    files = sorted(folder.rglob("*.parquet"))
    by_split = [path for path in files if split in re.split(r"[^a-z0-9]+", str(path.relative_to(folder)).lower())]
    named = any(re.search(r"train|test|valid", path.name.lower()) for path in files)
    return by_split if by_split or named else files


def read_parquet(
    files: list[Path], limit: int | None, drop: str | None = None, resize: tuple[int, int] | None = None
) -> Arrays:
    """Args: `drop` names a column of booleans whose true rows are left out, where there is one."""
    try:
        frame = pl.concat([pl.read_parquet(path) for path in files])
        metadata = pl.read_parquet_metadata(files[0])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{files[0]}: expected a Parquet file, got {error}.") from error
    if drop in frame.columns:
        frame = frame.filter(~pl.col(drop))
    frame = frame.head(limit) if limit is not None else frame
    image, label = _image_column(files[0], frame), _label_column(files[0], frame)
    x = decode([(f"{files[0]}, row {row}", content) for row, content in enumerate(image)], resize)
    return Arrays(x, frame[label].to_numpy(), _class_names(metadata, label))


def _image_column(path: Path, frame: pl.DataFrame) -> pl.Series:
    for name, dtype in frame.schema.items():
        if dtype == pl.Binary:
            column = frame[name]
        elif isinstance(dtype, pl.Struct) and any(f.name == "bytes" and f.dtype == pl.Binary for f in dtype.fields):
            column = frame[name].struct.field("bytes")
        else:
            continue
        if column.null_count():
            raise DataError(f"{path}: expected the images' bytes in '{name}', got {column.null_count()} rows without.")
        return column
    raise DataError(f"{path}: expected a column of encoded images ({{bytes, path}}), got columns {_columns(frame)}.")


def _label_column(path: Path, frame: pl.DataFrame) -> str:
    whole = [name for name, dtype in frame.schema.items() if dtype.is_integer()]
    named = [name for name in LABELS if name in whole]
    if not named and len(whole) != 1:
        raise DataError(f"{path}: expected a column 'label' of whole numbers, got columns {_columns(frame)}.")
    label = named[0] if named else whole[0]
    if frame[label].null_count():
        raise DataError(
            f"{path}: expected a label in each row, got {frame[label].null_count()} rows without: drop them."
        )
    return label


def _columns(frame: pl.DataFrame) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in frame.schema.items())


def _class_names(metadata: dict[str, str], label: str) -> tuple[str, ...] | None:
    """Hugging Face keeps a ClassLabel's names in the file's metadata."""
    try:
        names = json.loads(metadata["huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
    return tuple(map(str, names))
