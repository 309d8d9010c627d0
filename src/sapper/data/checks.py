"""From arrays to checked `Data`: everything that can be wrong with samples and labels is found here."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sapper.data.dataset import Data
from sapper.errors import DataError
from sapper.names import slug

Bounds = tuple[float, float]

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Arrays:
    """Samples and labels as they were read, unchecked; images as bytes where the source has bytes."""

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] | None = None


def check(name: str, arrays: Arrays, bounds: Bounds) -> Data:
    """Raises `DataError` unless the arrays are a set of labelled, finite samples in their bounds."""
    x, (low, high) = arrays.x, bounds
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(f"expected bounds as two finite numbers, the lower first, got {low}, {high}.")
    labels = _labels(name, arrays.y)
    if len(x) != len(labels):
        raise DataError(f"{name}: expected one label for each sample, got {len(x)} samples and {len(labels)} labels.")
    if len(x) == 0:
        raise DataError(f"{name}: expected at least one sample, got an empty set.")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(
            f"{name}: expected samples as (n, features) or (n, channels, height, width), got shape {x.shape}; "
            "one sample alone needs a first dimension of 1: x[None]."
        )
    names = arrays.classes or tuple(map(str, range(int(labels.max()) + 1)))
    if int(labels.max()) >= len(names):
        raise DataError(f"{name}: expected labels 0 to {len(names) - 1}, one a class name, got {int(labels.max())}.")
    return Data(
        slug(name) or "data", _samples(name, x, bounds), torch.from_numpy(labels), names, (float(low), float(high))
    )


def _labels(name: str, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        hint = "; one-hot labels become numbers by y.argmax(1)" if y.ndim == 2 else ""
        raise DataError(f"{name}: expected labels of shape (n,), got {y.shape}{hint}.")
    if y.dtype.kind not in "iu":
        raise DataError(
            f"{name}: expected whole numbers as labels, got {y.dtype}: convert them with y.astype('int64')."
        )
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{name}: expected labels from 0 up, got {int(y.min())}: drop or renumber those samples.")
    return y.astype(np.int64)


def _samples(name: str, x: np.ndarray, bounds: Bounds) -> Tensor:
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected samples as numbers, got {x.dtype}.")
    if x.dtype.kind in "iu":
        x = scaled(channels_first(x), bounds)
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x.reshape(len(x), -1))).any(1).sum())
        raise DataError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad} of {len(x)} samples: drop or mend them."
        )
    low, high = bounds
    least, greatest = (float(x.min()), float(x.max())) if x.size else bounds
    slack = 1e-6 * (high - low)  # float rounding of data that were scaled elsewhere
    if least < low - slack or greatest > high + slack:
        raise DataError(
            f"{name}: expected values in [{low:g}, {high:g}], got [{least:g}, {greatest:g}]. "
            "If these are the data's own units, declare them (--bounds LOW HIGH); if the data were standardised, "
            "give them before that, and the mean and standard deviation to the model (--mean, --std)."
        )
    return torch.from_numpy(np.clip(x, low, high).astype(np.float32, order="C"))


def channels_first(x: np.ndarray) -> np.ndarray:
    """Integer images (n, H, W) and (n, H, W, C) as (n, C, H, W).

    The last dimension is taken for channels if it is 1, 3 or 4 and the second is not; three dimensions are grey
    images. Floats are never rearranged: whoever made floats for a network has put them in the network's order.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS:
        return x.transpose(0, 3, 1, 2)
    return x


def scaled(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Bytes, and wider integers whose values are those of bytes and samples images, from 0..255 to the bounds."""
    image = x.ndim == 4 and x.size and int(x.min()) >= 0 and int(x.max()) <= 255
    if x.dtype != np.uint8 and not image:
        return x
    low, high = bounds
    return (low + (high - low) * (x.astype(np.float32) / np.float32(255))).astype(np.float32)
