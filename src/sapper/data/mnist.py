"""MNIST: 60 000 and 10 000 hand-written digits of 28×28 pixels, in the original order.

LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998; CC BY-SA 3.0. Read from the four IDX files.
"""

import gzip
from pathlib import Path

import numpy as np

from sapper.data.checks import Arrays
from sapper.data.files import find
from sapper.errors import DataError

URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
FILES = {  # MD5, and how much there is to download
    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "9.9 MB"),
    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", "29 kB"),
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", "1.6 MB"),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", "5 kB"),
}


def load(split: str, limit: int | None) -> Arrays:
    part = "train" if split == "train" else "t10k"
    images, labels = (
        read_idx(find("mnist", f"{URL}/{name}", f"md5:{FILES[name][0]}", FILES[name][1]))
        for name in (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
    )
    return Arrays(images[:limit], labels[:limit], tuple("0123456789"))


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes: two zero bytes, the type (8), the number of dimensions, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: expected a gzipped IDX file, got one that does not unpack ({error}).") from error
    header = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if header else ()
    if not header or len(content) - header != int(np.prod(shape)):
        raise DataError(
            f"{path}: expected an IDX file of bytes (magic 00 00 08), got {content[:4].hex(' ')} or a part of one."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
