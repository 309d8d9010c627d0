"""A function of two variables, and a saliency map, as heat maps with a colour bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from sapper.report import charts, pictures
from sapper.report.charts import INK, RULE, standalone

BANDS = 20  # few enough to be told apart, so that their edges are contours
LARGEST = 64  # squares a side of a saliency map; larger ones are reduced
FRAME = alt.ViewBackground(stroke=RULE)


@dataclass(frozen=True)
class Mark:
    """A point of a surface that the text speaks of."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True)
class Shade:
    """Colours in bands from the least to the greatest value; around zero if there are both signs."""

    low: float
    high: float
    bands: int = BANDS

    @classmethod
    def of(cls, values: np.ndarray, bands: int = BANDS) -> "Shade":
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        if low < -0.02 * abs(high) and high > 0:
            low, high = -max(-low, high), max(-low, high)
        return cls(low, high, bands + (bands + 1) % 2 if low == -high else bands)

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, self.bands + 1)

    def band(self, values: np.ndarray) -> np.ndarray:
        """The band of each value; -1 where there is none."""
        shares = (values - self.low) / ((self.high - self.low) or 1)
        bands = np.floor(np.nan_to_num(shares) * self.bands).clip(0, self.bands - 1).astype(int)
        return np.where(np.isfinite(values), bands, -1)

    def colour(self, band: int) -> str:
        share = band / max(self.bands - 1, 1)
        around_zero = self.low == -self.high and self.high > 0
        mixed = pictures.diverging(np.array(2 * share - 1)) if around_zero else pictures.sequential(np.array(share))
        return "#{:02x}{:02x}{:02x}".format(*mixed.tolist())


def surface(
    values: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    title: str,
    x_title: str,
    y_title: str,
    value_title: str,
    marks: Sequence[Mark] = (),
    side: int = 330,
) -> str:
    """A function on a grid, in bands of equal colour as contours show them.

    Args:
        values: `values[i, j]` at `x[j]`, `y[i]`; nan is left white.
        x: Evenly spaced, rising.
        y: Evenly spaced, rising; drawn upwards.
        title: Stands above.
        x_title: Of the axis.
        y_title: Of the axis.
        value_title: Beside the colour bar.
        marks: Points with their names.
        side: Of the plot in pixels.
    """
    assert values.shape == (len(y), len(x)), f"{values.shape} for {len(y)} × {len(x)} points"
    values = values.astype(np.float64)
    shade, across, up = Shade.of(values), _edges(x), _edges(y)
    width, height = _crisp(len(x), side), _crisp(len(y), side)
    squares = _squares(_boxes(shade, values, across, up), _scale(across), _scale(up), (x_title, y_title))
    plot = alt.layer(squares, *_marks(marks, float(np.mean(x))), view=FRAME).properties(width=width, height=height)
    return _beside(plot, _bar(shade, value_title, height), title, width)


def saliency(values: np.ndarray, title: str, value_title: str = "saliency", side: int = 280) -> str:
    """A map (H, W) around zero: blue below, orange above, the strongest value in full colour. A large map is reduced
    so that the strongest of each block stays.
    """
    values = pictures.pool(values.astype(np.float64), LARGEST)
    top = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    shade = Shade(-top, top, 2 * 60 + 1)
    pixel = max(1, round(side / max(values.shape)))
    height, width = (pixel * n for n in values.shape)
    down, across = (np.arange(n + 1.0) for n in values.shape)
    squares = _squares(_boxes(shade, values, across, down), _scale(across), _scale(down, down=True), None)
    plot = alt.layer(squares, view=FRAME).properties(width=width, height=height)
    return _beside(plot, _bar(shade, value_title, height), title, width)


def _crisp(cells: int, side: int) -> int:
    """Near `side`, with whole pixels for each cell: part of a pixel shows as a stripe."""
    return cells * max(1, round(side / cells))


def _edges(centres: np.ndarray) -> np.ndarray:
    step = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) or 1.0
    return np.append(centres - step / 2, centres[-1] + step / 2)


def _boxes(shade: Shade, values: np.ndarray, across: np.ndarray, up: np.ndarray) -> list[dict[str, Any]]:
    """Rectangles of one band: neighbours in a row together, and the same stretch of rows above each other, as a file
    of single squares is large.
    """
    boxes: list[dict[str, Any]] = []
    below: dict[tuple[int, int, int], dict[str, Any]] = {}
    for i, bands in enumerate(shade.band(values)):
        starts = [0, *(np.flatnonzero(np.diff(bands)) + 1).tolist(), len(bands)]
        row: dict[tuple[int, int, int], dict[str, Any]] = {}
        for begin, end in pairwise(starts):
            key = (begin, end, int(bands[begin]))
            if key in below:
                row[key] = below[key]
            elif key[2] >= 0:
                box = {"x": across[begin], "x2": across[end], "y": up[i]}
                row[key] = {name: round(float(v), 5) for name, v in box.items()} | {"fill": shade.colour(key[2])}
                boxes.append(row[key])
            if key in row:
                row[key]["y2"] = round(float(up[i + 1]), 5)
        below = row
    return boxes


def _scale(edges: np.ndarray, *, down: bool = False) -> alt.Scale:
    return alt.Scale(domain=[float(edges[0]), float(edges[-1])], nice=False, zero=False, reverse=down)


def _squares(rows: list[dict[str, Any]], x: alt.Scale, y: alt.Scale, titles: tuple[str, str] | None) -> alt.Chart:
    def axis(title: str) -> alt.Axis:
        return alt.Axis(title=title, grid=False, tickCount=5, domain=False, tickColor=RULE, titleFontSize=12.5)

    below, left = (axis(titles[0]), axis(titles[1])) if titles else (None, None)
    return (
        alt.Chart(alt.InlineData(values=rows))
        .mark_rect(aria=False, strokeWidth=0.6)  # its own colour, against white seams
        .encode(
            x=alt.X("x:Q", scale=x, axis=below),
            x2="x2:Q",
            y=alt.Y("y:Q", scale=y, axis=left),
            y2="y2:Q",
            color=alt.Color("fill:N").scale(None),
            stroke=alt.Stroke("fill:N").scale(None),
        )
    )


def _marks(marks: Sequence[Mark], middle: float) -> list[alt.Chart]:
    """A ring, and a name on the side where there is room, with a light edge so that it reads on any colour."""
    layers = []
    for mark in marks:
        base = alt.Chart(alt.InlineData(values=[{"x": mark.x, "y": mark.y, "text": mark.label}]))
        right = mark.x > middle
        place: dict[str, Any] = {"align": "right" if right else "left", "dx": -9 if right else 9, "fontSize": 12.5}
        layers.append(
            base.mark_point(filled=True, size=64, fill="#fff", stroke=INK, strokeWidth=1.6, opacity=1, aria=False)
        )
        layers.append(
            base.mark_text(stroke="#fff", strokeWidth=3.5, strokeJoin="round", **place, aria=False).encode(
                text="text:N"
            )
        )
        layers.append(base.mark_text(color=INK, **place, aria=False).encode(text="text:N"))
    return [layer.encode(x="x:Q", y="y:Q") for layer in layers]


def _bar(shade: Shade, title: str, height: int) -> alt.Chart:
    edges = shade.edges
    rows = [{"y": float(edges[i]), "y2": float(edges[i + 1]), "fill": shade.colour(i)} for i in range(shade.bands)]
    axis = alt.Axis(
        orient="right", title=title, grid=False, tickCount=5, domain=False, tickColor=RULE, titleFontSize=12.5
    )
    scale = alt.Scale(domain=[shade.low, shade.high], nice=False, zero=False)
    return (
        alt.Chart(alt.InlineData(values=rows), width=16, height=height)
        .mark_rect(aria=False, strokeWidth=0.6)
        .encode(
            y=alt.Y("y:Q", scale=scale, axis=axis),
            y2="y2:Q",
            color=alt.Color("fill:N").scale(None),
            stroke=alt.Stroke("fill:N").scale(None),
        )
    )


def _beside(plot: alt.LayerChart | alt.FacetChart, bar: alt.Chart, title: str, width: int) -> str:
    return standalone(alt.hconcat(plot, bar, spacing=14, title=charts.heading(title, width + 60)))
