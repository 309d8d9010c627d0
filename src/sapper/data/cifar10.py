"""CIFAR-10: 50 000 and 10 000 colour images of 32×32 pixels in ten classes, in the original order.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Read from Parquet in $SAPPER_DATA/cifar10,
else from the binary version of the original (its Python version is a pickle).

A Parquet copy may flag images that came through JPEG in a column `lossy` (21 of 10 000, about 6/255 off). They are
kept, so that the n-th sample is everybody's n-th; exact work drops them: `load("test", None, lossless=True)`.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from sapper.data.checks import Arrays
from sapper.data.files import find, provided
from sapper.data.parquet import parquet_files, read_parquet
from sapper.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(split: str, limit: int | None, *, lossless: bool = False) -> Arrays:
    """One split; `lossless` drops the images that a Parquet copy flags as having been through JPEG."""
    folder = provided("cifar10")
    files = parquet_files(folder, split) if folder else []
    if files:
        arrays = read_parquet(files, limit, drop="lossy" if lossless else None)
    else:
        arrays = read_binary(find("cifar10", URL, f"md5:{MD5}", "170 MB"), split, limit)
    return Arrays(arrays.x, arrays.y, CLASSES)


def read_binary(path: Path, split: str, limit: int | None) -> Arrays:
    """The original's binary archive: records of one label byte and 3×32×32 bytes."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    try:
        with tarfile.open(path, "r:gz") as tar:
            parts = {Path(m.name).name: tar.extractfile(m) for m in tar if Path(m.name).name in names}
            content = b"".join(part.read() for name in names if (part := parts[name]))
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)[:limit]
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{path}: expected CIFAR-10's binary archive with {names[0]}, got {error!r}: remove it."
        ) from error
    return Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64), CLASSES)
