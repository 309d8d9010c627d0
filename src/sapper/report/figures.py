"""Figures for pages and documents: arrays in, SVG text or PNG bytes out.

Each is one file that needs no other, on white, legible in print and without colour: numbers stand in their cells,
lines differ in dash and shape, and light to dark is one hue.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from sapper.report.charts import BLUE, DASHES, INK, LINES, RULE, SOFT, standalone
from sapper.report.picture_grid import image_grid
from sapper.report.surfaces import Mark, saliency, surface

__all__ = ["Mark", "image_grid", "lines", "matrix", "saliency", "scatter", "surface"]

LIGHT, DARK = (244, 246, 248), (8, 64, 122)
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right")
POINTS = 600  # of a line: more than the pixels it is drawn on
LETTER = 6.6  # width of one at 12 px, about

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
    across = _names([*columns, "mean"] if means else columns, alt.X, column_title).axis(
        orient="top", labelAngle=-40 if LETTER * max(map(len, columns), default=0) > width else 0
    )
    chart = alt.layer(
        squares.encode(color=alt.Color("fill:N").scale(None)), text.encode(text="text:N", color=_own("ink"))
    ).encode(x=across, y=_names([*rows, "mean"] if means else rows, alt.Y, row_title))
    span = f"lightest {_text(low, digits)}, darkest {_text(high, digits)}"
    head = _title(title + (f", {unit}" if unit else ""), span if cells else "no values")
    return standalone(chart.properties(width=alt.Step(width), height=alt.Step(29), title=head))


def lines(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    x_format: str = "~g",
    y_format: str = "~g",
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
    names = list(series)
    data = alt.InlineData(values=[row for name, points in series.items() for row in _points(name, *points)])
    encoding: dict[str, Any] = {"x": _axis(alt.X, x_title, x_range, x_format)}
    encoding |= {"y": _axis(alt.Y, y_title, y_range, y_format), "order": alt.Order("order:Q")}
    encoding |= {"color": _told(alt.Color, names, LINES), "strokeDash": _told(alt.StrokeDash, names, DASHES)}
    if markers:
        encoding["shape"] = _told(alt.Shape, names, SHAPES)
    layers: list[alt.Chart] = [_diagonal()] if diagonal else []
    base = alt.Chart(data).encode(**encoding)
    layers += [base.mark_line(strokeWidth=2.2, clip=True, aria=False)]
    if markers:
        layers.append(base.encode(strokeDash=alt.value([1, 0])).mark_point(size=52, filled=True, opacity=1, aria=False))
    width, height = size
    return standalone(alt.layer(*layers).properties(width=width, height=height, title=_title(title)))


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_format: str = "~g",
    y_format: str = "~g",
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
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    texts = _sparse(x[kept], y[kept], [labels[i] for i in kept], size) if labels else [""] * len(kept)
    rows = [{"x": float(x[i]), "y": float(y[i]), "text": text} for i, text in zip(kept, texts, strict=True)]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=_axis(alt.X, x_title, None, x_format), y=_axis(alt.Y, y_title, None, y_format)
    )
    dots = base.mark_circle(size=34, color=BLUE, opacity=0.75, aria=False)
    names = base.mark_text(align="left", dx=6, fontSize=10.5, color=INK, aria=False).encode(text="text:N")
    width, height = size
    return standalone(alt.layer(dots, names).properties(width=width, height=height, title=_title(title)))


def _title(title: str, below: str = "") -> alt.Title:
    """Wrapped by hand where a line is long, as SVG does not."""
    return alt.Title(
        title, subtitle=below, anchor="start", frame="bounds", fontSize=14, color=INK, offset=12,
        subtitleFontSize=12, subtitleColor=SOFT, subtitlePadding=5,
    )  # fmt: skip


def _limits(values: np.ndarray) -> Range:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _cell(pair: tuple[int, int], value: float, digits: int, share: float | None) -> dict[str, Any]:
    """At row and column, with its colours; without a fill where `share` (of the way to the darkest) is None."""
    fill, ink = ("#ffffff", SOFT) if share is None else _colours(min(max(share, 0.0), 1.0))
    return {"row": pair[0], "column": pair[1], "text": _text(value, digits), "fill": fill, "ink": ink}


def _colours(share: float) -> tuple[str, str]:
    """Of a cell and of the number in it: dark or white, whichever stands out more."""
    fill = [round(a + (b - a) * share) for a, b in zip(LIGHT, DARK, strict=True)]
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


def _names(names: Sequence[str], channel: type[alt.X] | type[alt.Y], title: str) -> Any:
    """An axis of names by their place, as two may be the same."""
    field = "column" if channel is alt.X else "row"
    scale = alt.Scale(domain=list(range(len(names))), paddingInner=0.04, paddingOuter=0)
    axis = channel(f"{field}:O", title=title, scale=scale)
    return axis.axis(
        labelExpr=f"{json.dumps(list(names))}[datum.value]", ticks=False, domain=False, labelColor=INK, labelLimit=150,
        labelAngle=0,
    )  # fmt: skip


def _own(field: str) -> alt.Color:
    """The colour that the row names."""
    return alt.Color(f"{field}:N").scale(None)


def _points(name: str, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    kept = finite[np.unique(np.linspace(0, len(finite) - 1, POINTS).astype(int))] if len(finite) > POINTS else finite
    return [{"name": name, "x": float(x[i]), "y": float(y[i]), "order": order} for order, i in enumerate(kept)]


def _axis(channel: type[alt.X] | type[alt.Y], title: str, span: Range | None, form: str) -> Any:
    scale = alt.Scale(domain=list(span), nice=False) if span else alt.Scale(zero=False)
    field = "x" if channel is alt.X else "y"
    axis = alt.Axis(format=form, tickCount=6, domainColor=RULE, tickColor=RULE)
    return channel(f"{field}:Q", title=title, scale=scale, axis=axis)


def _told(channel: Any, names: Sequence[str], kinds: Sequence[Any]) -> Any:
    """One kind for each name; the second time round shifted, so that colour and dash pair anew."""
    shift = 0 if channel is alt.Color else 1
    kept = [kinds[(i + shift * (i // len(kinds))) % len(kinds)] for i in range(len(names))]
    legend = alt.Legend(orient="top", symbolStrokeWidth=2.4, symbolSize=260, labelFontSize=13, columns=3, labelLimit=260)
    return channel("name:N", title=None, scale=alt.Scale(domain=list(names), range=kept)).legend(
        legend if len(names) > 1 else None
    )


def _diagonal() -> alt.Chart:
    ends = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    return ends.mark_line(color=SOFT, strokeWidth=1, strokeDash=[2, 3], aria=False).encode(x="x:Q", y="y:Q")


def _sparse(x: np.ndarray, y: np.ndarray, labels: Sequence[str], size: tuple[int, int]) -> list[str]:
    """The labels that do not run into each other or into a point; the others empty."""
    across = (x - x.min()) / (np.ptp(x) or 1) * size[0]
    up = (y - y.min()) / (np.ptp(y) or 1) * size[1]
    far = np.hypot(across - np.median(across), up - np.median(up))
    boxes = [(a + 4, b - 6, a + 6 + LETTER * len(label), b + 6) for a, b, label in zip(across, up, labels, strict=True)]
    shown: list[int] = []
    for i in np.argsort(-far, kind="stable"):
        left, bottom, right, top = boxes[i]
        covered = ((across > left) & (across < right + 3) & (up > bottom) & (up < top)).any()
        meets = any(left < boxes[j][2] and boxes[j][0] < right and bottom < boxes[j][3] and boxes[j][1] < top for j in shown)
        if not covered and not meets:
            shown.append(int(i))
    return [label if i in shown else "" for i, label in enumerate(labels)]
