"""Figures for pages and documents: arrays in, SVG text or PNG bytes out.

Each is one file that needs no other, on white, legible in print and without colour: numbers stand in their cells,
lines differ in dash and shape, and light to dark is one hue.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from sapper.report import pictures
from sapper.report.charts import BLUE, DASHES, INK, LINES, RULE, SOFT, heading, standalone
from sapper.report.picture_grid import image_grid
from sapper.report.surfaces import Mark, saliency, surface

__all__ = ["Mark", "image_grid", "lines", "matrix", "saliency", "scatter", "surface"]

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right")
POINTS = 600  # of a line: more than the pixels it is drawn on
LETTER = 7.2  # width of one at 12 px in a wide font
TITLE = 12.5  # size of the axes' titles

Range = tuple[float, float]


def matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    row_title: str,
    column_title: str,
    digits: int,
    unit: str = "",
    means: bool = False,
    limits: Range | None = None,
) -> str:
    """A heat map with the number in every cell; nan is an empty cell.

    Args:
        values: (rows, columns).
        rows: Their names, from the top.
        columns: Their names.
        title: What the numbers are.
        row_title: What the rows are.
        column_title: What the columns are.
        digits: Decimals.
        unit: Stands after the title.
        means: Adds the mean of each row's and each column's cells, and of all.
        limits: The values drawn lightest and darkest; by default the least and the greatest.
    """
    assert values.shape == (len(rows), len(columns)), f"{values.shape} for {len(rows)} × {len(columns)} names"
    values = values.astype(np.float64)
    low, high = limits or _limits(values)
    cells = [
        _cell((i, j), value, digits, (value - low) / ((high - low) or 1))
        for (i, j), value in np.ndenumerate(values)
        if np.isfinite(value)
    ]
    edges = [_cell(pair, value, digits, None) for pair, value in _means(values)] if means else []
    width = max(34.0, LETTER * max((len(cell["text"]) for cell in cells + edges), default=0) + 12)
    text = alt.Chart(alt.InlineData(values=cells + edges)).mark_text(fontSize=12, aria=False)
    squares = alt.Chart(alt.InlineData(values=cells)).mark_rect(aria=False)
    turned = LETTER * max(map(len, columns), default=0) > width
    chart = alt.layer(squares.encode(color=_own("fill")), text.encode(text="text:N", color=_own("ink"))).encode(
        x=_names(alt.X, [*columns, "mean"] if means else columns, column_title, -40 if turned else 0),
        y=_names(alt.Y, [*rows, "mean"] if means else rows, row_title, 0),
    )
    span = f"lightest {_text(low, digits)}, darkest {_text(high, digits)}" if cells else "no values"
    head = heading(title + (f", {unit}" if unit else ""), width * (len(columns) + means) + 80, span)
    return standalone(chart.properties(width=alt.Step(width), height=alt.Step(29), title=head))


def lines(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    x_format: str = "",
    y_format: str = "",
    diagonal: bool = False,
    markers: bool = False,
    size: tuple[int, int] = (460, 300),
) -> str:
    """Lines, each with a dash of its own; points that are not finite are left out.

    Args:
        series: x and y by name; one line has no legend.
        title: Stands above.
        x_title: With its unit.
        y_title: With its unit.
        x_range: Where the axis begins and ends.
        y_range: Where the axis begins and ends.
        x_format: Of d3, such as "%" for shares.
        y_format: Of d3.
        diagonal: A thin line from (0, 0) to (1, 1), for ROC curves.
        markers: A shape at every point.
        size: Of the plot in pixels.
    """
    names, (width, height) = list(series), size
    legend = _legend(names, width) if len(names) > 1 else None
    rows = [row for place, name in enumerate(names) for row in _points(place, name, *series[name])]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=_axis(alt.X, x_title, x_range, x_format), y=_axis(alt.Y, y_title, y_range, y_format)
    )
    layers = [_diagonal()] if diagonal else []
    drawn = base.mark_line(strokeWidth=2.2, clip=True, aria=False).encode(
        color=alt.Color("name:N", scale=_kinds(names, LINES, 0), legend=legend),
        strokeDash=alt.StrokeDash("name:N", scale=_kinds(names, DASHES, 1), legend=legend),
        order=alt.Order("order:Q"),
    )
    layers.append(drawn)
    if markers:
        dots = base.mark_point(size=52, filled=True, opacity=1, aria=False)
        layers.append(dots.encode(color=_own("colour"), shape=alt.Shape("shape:N").scale(None)))
    return standalone(alt.layer(*layers).properties(width=width, height=height, title=heading(title, width + 50)))


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_format: str = "",
    y_format: str = "",
    size: tuple[int, int] = (460, 360),
) -> str:
    """Points; pairs with a value that is not finite are left out.

    Args:
        x: Of each point.
        y: Of each point.
        labels: Of each point; shown where there is room, points far from the middle first.
        title: Stands above, with the coefficient of correlation if there is one.
        x_title: With its unit.
        y_title: With its unit.
        x_format: Of d3.
        y_format: Of d3.
        size: Of the plot in pixels.
    """
    kept, (width, height) = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist(), size
    spans = _wider(x[kept]), _wider(y[kept])
    places = np.column_stack([(v[kept] - a) / (b - a) for v, (a, b) in zip((x, y), spans, strict=True)]) * size
    texts = _sparse(places, [labels[i] for i in kept]) if labels else [""] * len(kept)
    rows = [{"x": float(x[i]), "y": float(y[i]), "text": text} for i, text in zip(kept, texts, strict=True)]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=_axis(alt.X, x_title, spans[0], x_format), y=_axis(alt.Y, y_title, spans[1], y_format)
    )
    dots = base.mark_circle(size=34, color=BLUE, opacity=0.75, aria=False)
    names = base.mark_text(align="left", dx=6, fontSize=10.5, color=INK, aria=False).encode(text="text:N")
    return standalone(alt.layer(dots, names).properties(width=width, height=height, title=heading(title, width + 50)))


def _limits(values: np.ndarray) -> Range:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _cell(pair: tuple[int, int], value: float, digits: int, share: float | None) -> dict[str, Any]:
    """At row and column, with its colours; without a fill where `share` (of the way to the darkest) is None."""
    fill, ink = ("#ffffff", SOFT) if share is None else _colours(min(max(share, 0.0), 1.0))
    return {"row": pair[0], "column": pair[1], "text": _text(value, digits), "fill": fill, "ink": ink}


def _colours(share: float) -> tuple[str, str]:
    """Of a cell and of the number in it: dark or white, whichever stands out more."""
    fill = pictures.sequential(np.asarray(share)).tolist()
    linear = [(channel / 255) ** 2.2 for channel in fill]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#{:02x}{:02x}{:02x}".format(*fill), "#ffffff" if luminance < 0.2 else INK


def _means(values: np.ndarray) -> list[tuple[tuple[int, int], float]]:
    rows, columns = values.shape
    parts = [((i, columns), values[i]) for i in range(rows)] + [((rows, j), values[:, j]) for j in range(columns)]
    parts.append(((rows, columns), values.ravel()))
    return [(place, float(np.nanmean(part))) for place, part in parts if np.isfinite(part).any()]


def _text(value: float, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")  # no −0.0


def _names(channel: type[alt.X] | type[alt.Y], names: Sequence[str], title: str, angle: int) -> Any:
    """An axis of names by their place, as two may be the same."""
    field, side = ("column", "top") if channel is alt.X else ("row", "left")
    axis = alt.Axis(
        orient=side, labelExpr=f"{json.dumps(list(names))}[datum.value]", labelAngle=angle, labelLimit=150,
        labelColor=INK, labelPadding=5, labelOverlap=False, ticks=False, domain=False, titleFontSize=TITLE,
    )  # fmt: skip
    scale = alt.Scale(domain=list(range(len(names))), paddingInner=0.04, paddingOuter=0)
    return channel(f"{field}:O", title=title, scale=scale, axis=axis)


def _own(field: str) -> alt.Color:
    """The colour that the row names."""
    return alt.Color(f"{field}:N").scale(None)


def _points(place: int, name: str, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    kept = finite[np.unique(np.linspace(0, len(finite) - 1, POINTS).astype(int))] if len(finite) > POINTS else finite
    same = {"name": name, "colour": _kind(LINES, place, 0), "shape": _kind(SHAPES, place, 1)}
    return [same | {"x": float(x[i]), "y": float(y[i]), "order": order} for order, i in enumerate(kept)]


def _axis(channel: type[alt.X] | type[alt.Y], title: str, span: Range | None, form: str) -> Any:
    scale = alt.Scale(domain=list(span), nice=False) if span else alt.Scale(zero=False)
    field = "x" if channel is alt.X else "y"
    axis = alt.Axis(
        format=form or alt.Undefined, tickCount=6, domainColor=RULE, tickColor=RULE, titleFontSize=TITLE, titlePadding=8
    )
    return channel(f"{field}:Q", title=title, scale=scale, axis=axis)


def _kind(kinds: Sequence[Any], place: int, shift: int) -> Any:
    """One for each place; those who come round again shifted, so that colour and dash pair anew."""
    return kinds[(place + shift * (place // len(kinds))) % len(kinds)]


def _kinds(names: Sequence[str], kinds: Sequence[Any], shift: int) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[_kind(kinds, place, shift) for place in range(len(names))])


def _legend(names: Sequence[str], width: int) -> alt.Legend:
    columns = max(1, int(width / (1.1 * LETTER * max(map(len, names)) + 46)))
    return alt.Legend(
        title=None, orient="top", columns=columns, symbolType="stroke", symbolStrokeWidth=2.4, symbolSize=300,
        labelFontSize=13, labelLimit=width - 40, columnPadding=14,
    )  # fmt: skip


def _diagonal() -> alt.Chart:
    ends = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    return ends.mark_line(color=SOFT, strokeWidth=1, strokeDash=[2, 3], aria=False).encode(x="x:Q", y="y:Q")


def _wider(values: np.ndarray) -> Range:
    """From the least to the greatest, with room for the marks."""
    low, high = _limits(values)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _sparse(places: np.ndarray, labels: Sequence[str]) -> list[str]:
    """The labels that run neither into each other nor into a point, those far from the middle first; else empty."""
    x, y = places.T
    boxes = np.column_stack([x + 4, y - 7, x + 8 + np.array([LETTER * len(label) for label in labels]), y + 7])
    far = np.abs(places - np.median(places, axis=0)).sum(1) if len(places) else np.empty(0)
    shown: list[int] = []
    for i in np.argsort(-far, kind="stable"):
        left, bottom, right, top = boxes[i]
        covered = (x > left) & (x < right + 3) & (y > bottom - 3) & (y < top + 3)
        other = boxes[shown]
        meets = (left < other[:, 2]) & (other[:, 0] < right) & (bottom < other[:, 3]) & (other[:, 1] < top)
        if not covered.any() and not meets.any():
            shown.append(int(i))
    return [label if i in shown else "" for i, label in enumerate(labels)]
