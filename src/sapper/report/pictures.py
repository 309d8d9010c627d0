"""Arrays as PNG data URIs."""

import base64
import io

import numpy as np
from PIL import Image

LIMITS = (224, 160, 112)  # pixels a side that larger pictures are reduced to: the first that the file has room for
NEGATIVE, ZERO, POSITIVE = (5, 90, 160), (247, 247, 245), (196, 82, 8)  # blue and orange: safe for the colour-blind
LIGHT, DARK = (244, 246, 248), (8, 64, 122)  # from nothing to the most


def photograph(x: np.ndarray, bounds: tuple[float, float], limit: int) -> str:
    """A grey (H, W) or (1, H, W) or a colour (3, H, W) input as a data URI, black at the lower bound."""
    image = picture(x, bounds)
    image.thumbnail((limit, limit), Image.Resampling.BOX)
    return _uri(image)


def picture(x: np.ndarray, bounds: tuple[float, float]) -> Image.Image:
    """The same at its own size, as an image."""
    lower, upper = bounds
    scaled = np.nan_to_num((_channels_last(x) - lower) / max(upper - lower, 1e-12))
    levels = np.round(scaled.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def change_map(change: np.ndarray, scale: float, limit: int) -> str:
    """A change on a diverging scale around zero; of colours, the one that changes most."""
    values = _channels_last(change)
    strongest = np.abs(values).argmax(-1, keepdims=True)
    flat = pool(np.take_along_axis(values, strongest, -1)[..., 0], limit)
    levels = np.round(flat / max(scale, 1e-12) * 127).clip(-127, 127) + 128
    image = Image.fromarray(levels.astype(np.uint8))
    image.putpalette(_palette())
    return _uri(image)


def cost(shape: tuple[int, ...], limit: int) -> float:
    """Bytes in the file of an original, a map and an adversarial, as measured on photographs; base64 adds a third."""
    side = min(max(shape[-2:]), limit)
    colours = 3 if len(shape) == 3 and shape[0] == 3 else 1
    return (2 * 0.7 * colours + 0.6) * 4 / 3 * side * side


def _channels_last(x: np.ndarray) -> np.ndarray:
    values = x.astype(np.float64)
    return values[..., None] if values.ndim == 2 else np.moveaxis(values, 0, -1)


def pool(values: np.ndarray, limit: int) -> np.ndarray:
    """Reduced by keeping the largest change of each block: averaging would hide a single changed pixel."""
    factor = -(-max(values.shape) // limit)
    if factor <= 1:
        return values
    padded = np.pad(values, [(0, -size % factor) for size in values.shape])
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    blocks = padded.reshape(rows, factor, columns, factor).swapaxes(1, 2).reshape(rows, columns, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)[..., 0]


def diverging(shares: np.ndarray) -> np.ndarray:
    """Colours (…, 3) for shares from -1 to 1. Mixed with a root, so that small changes can be seen."""
    shares = np.asarray(shares)[..., None]
    end = np.where(shares < 0, NEGATIVE, POSITIVE)
    mixed = np.asarray(ZERO) + (end - np.asarray(ZERO)) * np.abs(shares) ** 0.7
    return np.round(mixed).clip(0, 255).astype(int)


def sequential(shares: np.ndarray) -> np.ndarray:
    """Colours (…, 3) for shares from 0 to 1: one hue, light to dark."""
    mixed = np.asarray(LIGHT) + (np.asarray(DARK) - np.asarray(LIGHT)) * np.asarray(shares)[..., None]
    return np.round(mixed).astype(int)


def _palette() -> list[int]:
    """Index 128 is zero."""
    return diverging((np.arange(256) - 128) / 127).ravel().tolist()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _uri(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
