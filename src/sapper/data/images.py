"""Images: decoding, and a folder of them by class."""

import io
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sapper.data.checks import Arrays
from sapper.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
GREY = {"1", "L", "LA"}


def read_folder(folder: Path, limit: int | None, resize: tuple[int, int] | None) -> Arrays:
    """One subfolder a class, in alphabetical order.

    The samples take turns, the first of every class before the second of any, so that a limit keeps all classes.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: expected one subfolder of images for each class, got no subfolder.")
    columns = [[(path, label) for path in _images(folder / name)] for label, name in enumerate(classes)]
    turns = [pair for pair in chain.from_iterable(zip_longest(*columns)) if pair is not None][:limit]
    if not turns:
        raise DataError(f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}) in its subfolders, got none.")
    x = decode([(str(path), path.read_bytes()) for path, _ in turns], resize)
    return Arrays(x, np.array([label for _, label in turns]), tuple(classes))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def decode(files: Sequence[tuple[str, bytes]], resize: tuple[int, int] | None = None) -> np.ndarray:
    """Images as bytes (n, channels, height, width): grey if all of them are, else colour.

    Args:
        files: A name for error messages and the encoded image.
        resize: Height and width; without it all must be of one size.
    """
    images = [_open(name, content) for name, content in files]
    mode = "L" if all(image.mode in GREY for image in images) else "RGB"
    if resize is not None:
        height, width = resize
        images = [image.convert(mode).resize((width, height), Image.Resampling.BILINEAR) for image in images]
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        (w1, h1), (w2, h2) = sorted(sizes)[:: len(sizes) - 1]
        raise DataError(
            f"expected images of one size, got {len(sizes)} sizes from {w1}×{h1} to {w2}×{h2}: "
            "bring them to one size first (load_data of Python takes resize=(height, width))."
        )
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images])
    return arrays[:, None] if mode == "L" else arrays.transpose(0, 3, 1, 2)


def _open(name: str, content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: expected an image, got a file that does not decode ({error}).") from error
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{name}: expected 8 bits a channel, got mode {image.mode}: give such images as a .npz of floats."
        )
    return image
