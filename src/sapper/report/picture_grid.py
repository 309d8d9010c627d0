"""Many small inputs side by side: one PNG."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sapper.report import pictures

GAP, MARGIN = 3, 10  # pixels between pictures, and around all
GROUND, INK, SOFT, FRAME = (255, 255, 255), (27, 31, 36), (92, 102, 112), (213, 94, 0)
SIZE = 15  # of letters in pixels


def image_grid(
    images: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str = "",
    column_title: str = "",
    scale: int = 2,
    framed: np.ndarray | None = None,
) -> bytes:
    """A grid of pictures with a name for each row and column, such as source and target.

    Args:
        images: (rows, columns, 1 or 3, height, width) in [0, 1]; a picture with a nan is missing and stays blank.
        rows: Names, from the top.
        columns: Names.
        row_title: What the rows are.
        column_title: What the columns are.
        scale: Screen pixels a pixel.
        framed: (rows, columns), bool: those to be picked out, such as the originals among the adversarial.

    Returns:
        A PNG.
    """
    asked = (len(rows), len(columns))
    assert images.shape[:-3] == asked, f"{images.shape} is no grid of {asked[0]} × {asked[1]} pictures"
    height, width = (side * scale for side in images.shape[3:])
    font = ImageFont.load_default(SIZE)
    left = MARGIN + (SIZE + 8) * bool(row_title) + _longest(font, rows) + 8
    top = MARGIN + (SIZE + 8) * bool(column_title) + SIZE + 8
    corners = (left + len(columns) * (width + GAP) - GAP, top + len(rows) * (height + GAP) - GAP)
    canvas = Image.new("RGB", (corners[0] + MARGIN, corners[1] + MARGIN), GROUND)
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(rows):
        draw.text((left - 8, top + i * (height + GAP) + height // 2), name, INK, font, anchor="rm")
    for j, name in enumerate(columns):
        draw.text((left + j * (width + GAP) + width // 2, top - 8), name, INK, font, anchor="ms")
    for i, j in np.ndindex(len(rows), len(columns)):
        place = (left + j * (width + GAP), top + i * (height + GAP))
        _paste(canvas, images[i, j], place, (width, height), framed=framed is not None and bool(framed[i, j]))
    _titles(canvas, font, (left, top), corners, row_title, column_title)
    return pictures.png(canvas)


def _paste(
    canvas: Image.Image, image: np.ndarray, place: tuple[int, int], size: tuple[int, int], *, framed: bool
) -> None:
    if np.isnan(image).any():
        return
    canvas.paste(pictures.picture(image, (0.0, 1.0)).resize(size, Image.Resampling.NEAREST), place)
    if framed:
        (x, y), (width, height) = place, size
        ImageDraw.Draw(canvas).rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=FRAME, width=3)


def _longest(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, names: Sequence[str]) -> int:
    return int(max((font.getbbox(name)[2] for name in names), default=0)) + 1


def _titles(
    canvas: Image.Image,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    start: tuple[int, int],
    end: tuple[int, int],
    rows: str,
    columns: str,
) -> None:
    """Along the top and, turned, along the left."""
    if columns:
        ImageDraw.Draw(canvas).text(((start[0] + end[0]) // 2, MARGIN), columns, SOFT, font, anchor="mt")
    if rows:
        width = _longest(font, [rows])
        strip = Image.new("RGB", (width, SIZE + 8), GROUND)
        ImageDraw.Draw(strip).text((width // 2, 0), rows, SOFT, font, anchor="mt")
        turned = strip.rotate(90, expand=True)
        canvas.paste(turned, (MARGIN, (start[1] + end[1] - turned.height) // 2))
