"""Static charts as SVG. Colours are of Okabe and Ito's set, and every mark also differs in shape or dash."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert
from markupsafe import Markup

from sapper import statistics
from sapper.report.facts import Facts, Trial
from sapper.report.words import percent

INK, SOFT, RULE = "#1b1f24", "#5c6670", "#d9dde2"  # the style sheet exchanges these three in the dark
BLUE, VERMILION, GREEN, BLACK = "#0072b2", "#d55e00", "#009e73", "#4a5159"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4a5159")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 3], [1, 3])
KINDS = {
    "clean": ("square", BLACK),
    "attack": ("circle", BLUE),
    "worst case": ("diamond", VERMILION),
    "certified": ("triangle-right", GREEN),
}
POINTS = 160  # of a curve


def accuracy(facts: Facts, width: int) -> Markup:
    """Clean, robust and certified accuracy with intervals, a panel for each threat."""
    summary = facts.summary
    clean = _bar("clean", "clean", summary.clean_accuracy, statistics.wilson(facts.right, len(facts.samples)))
    panels = [("no attack", [clean])]
    for worst in summary.worst_case:
        bars = [
            _bar(r.attack, "attack", r.robust_accuracy, r.ci95) for r in summary.results if r.threat == worst.threat
        ]
        if len(bars) > 1:
            bars.append(_bar("worst case", "worst case", worst.robust_accuracy, worst.ci95))
        proved = [c for c in summary.certified if c.threat == worst.threat]
        bars += [_bar(c.certifier, "certified", c.verified_accuracy, None) for c in proved]
        panels.append((worst.threat, bars))
    charts = [_panel(title, bars, width, last=i == len(panels) - 1) for i, (title, bars) in enumerate(panels)]
    return drawn(alt.vconcat(*charts, spacing=10), f"Accuracy, clean and under attack, {width}")


def _bar(name: str, kind: str, value: float | None, ends: tuple[float, float] | None) -> dict[str, Any]:
    low, high = ends or (value, value)
    return {"name": name, "kind": kind, "value": value, "low": low, "high": high, "text": percent(value)}


def _panel(title: str, bars: list[dict[str, Any]], width: int, *, last: bool) -> alt.LayerChart | alt.FacetChart:
    label = 96 if width < 500 else 150
    axis = alt.Axis(format="%", tickCount=5, labels=last, ticks=False, domain=False, title=None)
    names = alt.Y("name:N", sort=None, title=None).axis(
        labelAlign="left", labelPadding=label, labelLimit=label - 14, ticks=False, domain=False, labelFontSize=13
    )
    share = alt.X("value:Q", axis=axis, scale=alt.Scale(domain=[0, 1], nice=False))
    shapes, colours = zip(*KINDS.values(), strict=True)
    base = alt.Chart(alt.InlineData(values=bars)).encode(y=names)
    kind = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(KINDS), range=list(colours)))
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=list(KINDS), range=list(shapes)))
    ends = base.mark_rule(strokeWidth=5, opacity=0.28, strokeCap="round").encode(x="low:Q", x2="high:Q", color=kind)
    dots = base.mark_point(filled=True, size=95, opacity=1).encode(x=share, color=kind, shape=shape)
    right = width - label - 70
    text = base.mark_text(align="right", fontSize=13, color=INK).encode(text="text:N", x=alt.value(right + 66))
    panel = alt.layer(ends, dots, text).properties(width=right, height=alt.Step(25))
    return panel.properties(title=alt.Title(title, anchor="start", fontSize=12, color=SOFT, frame="bounds", offset=4))


def curves(facts: Facts, threat: str, width: int) -> Markup | None:
    """Share of cases not yet broken at each size of change; None where the distances hardly differ."""
    trials = [t for t in facts.trials if t.result.threat == threat]
    reached = pl.concat([t.cases["distance"] for t in trials]).drop_nulls().to_numpy() if trials else np.empty(0)
    if len(reached) < 10 or np.quantile(reached, 0.9) < 1.2 * max(np.quantile(reached, 0.1), 1e-12):
        return None
    rows = [row for trial in trials for row in _curve(trial, 1.03 * float(reached.max()))]
    names = [t.result.attack for t in trials]
    colour = alt.Color("attack:N", title=None).scale(domain=names, range=[LINES[i % 7] for i in range(len(names))])
    dash = alt.StrokeDash("attack:N", title=None).scale(domain=names, range=[DASHES[i % 7] for i in range(len(names))])
    unit, step = trials[0].budget.unit, 1 if trials[0].budget.in_features else 0
    size = alt.X("distance:Q", title=f"size of the change, {unit}", scale=alt.Scale(nice=False))
    chart = (
        alt.Chart(alt.InlineData(values=rows), width=width - 60, height=190)
        .mark_line(interpolate="step-after", strokeWidth=2.2)
        .encode(
            x=size.axis(format="~r", tickCount=6, tickMinStep=step),
            y=alt.Y("left:Q", title="cases not broken yet", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=colour.legend(legend(names, width)),
            strokeDash=dash,
        )
    )
    return drawn(chart, f"Cases not yet broken by the size of the change, {threat}, {width}")


def _curve(trial: Trial, end: float) -> Iterable[dict[str, Any]]:
    ran = trial.cases.filter(pl.col("error").is_null())
    reached = np.sort(ran["distance"].drop_nulls().to_numpy())
    left = 1 - np.arange(1, len(reached) + 1) / max(len(ran), 1)
    kept = np.unique(np.linspace(0, len(reached) - 1, POINTS).astype(int)) if len(reached) else []
    last = float(left[-1]) if len(reached) else 1.0
    points = [(0.0, 1.0), *((float(reached[i]), float(left[i])) for i in kept), (end, last)]
    return [{"attack": trial.result.attack, "distance": d, "left": share} for d, share in points]


def legend(names: Sequence[str], width: float, symbol: int = 300) -> alt.Legend:
    """Above a chart, in as many columns as surely fit, with room between them: SVG moves nothing, and fonts differ."""
    columns = max(1, int(width / (8.5 * max(map(len, names), default=1) + 60)))
    return alt.Legend(
        orient="top", symbolStrokeWidth=2.5, symbolSize=symbol, labelFontSize=13, columns=columns, columnPadding=24,
        labelLimit=width - 60,
    )  # fmt: skip


def standalone(chart: alt.TopLevelMixin) -> str:
    """A picture for a file of its own: of fixed size, on white, as the page that shows it may be dark."""
    return _drawn(chart, "#fff", 12)


def heading(title: str, width: float, below: str = "") -> alt.Title:
    """In lines that fit the width, as SVG breaks none; with room to spare, as fonts differ."""
    lines, under = textwrap.wrap(title, max(16, int(width / 9))), textwrap.wrap(below, max(16, int(width / 7.4)))
    return alt.Title(
        lines, anchor="start", frame="bounds", fontSize=14, color=INK, offset=12,
        subtitle=under or alt.Undefined, subtitleFontSize=12, subtitleColor=SOFT, subtitlePadding=5,
    )  # fmt: skip


def drawn(chart: alt.TopLevelMixin, label: str) -> Markup:
    """As SVG for a page, with a name of its own."""
    return Markup(_fluid(_drawn(chart, "transparent", 5), label))


def _drawn(chart: alt.TopLevelMixin, background: str, padding: int) -> str:
    alt_chart: Any = chart
    spec = (
        alt_chart.configure(background=background, font="system-ui, sans-serif", padding=padding)
        .configure_view(stroke=None)
        .configure_axis(gridColor=RULE, labelColor=SOFT, titleColor=SOFT, titleFontWeight="normal", labelFontSize=12)
        .configure_axisY(labelColor=INK, titlePadding=8)
        .configure_legend(labelColor=INK)
        .to_dict(validate=False)
    )
    return _renumbered(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))


def _renumbered(svg: str) -> str:
    """The renderer counts its ids on from one chart to the next; the same chart is to be the same text."""
    numbers = {name: f"clip{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'\bid="(\w+)"', svg)))}
    return re.sub(r'(?<=\bid=")\w+(?=")|(?<=url\(#)\w+', lambda found: numbers.get(found[0], found[0]), svg)


def _fluid(svg: str, label: str) -> str:
    """Scales with the page; ids made the chart's own, as several share one document."""
    stem = re.sub(r"\W+", "-", label)
    svg = re.sub(r'\bid="(\w+)"', rf'id="{stem}-\1"', svg)
    svg = re.sub(r"url\(#(\w+)\)", rf"url(#{stem}-\1)", svg)
    return re.sub(r'(<svg[^>]*?) width="([\d.]+)" height="[\d.]+"', r'\1 style="max-width:\2px"', svg, count=1)


def of_threats(facts: Facts) -> list[str]:
    """The threats of the run, each once, in order."""
    return list(dict.fromkeys(result.threat for result in facts.summary.results))
