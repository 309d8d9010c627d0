"""Query curves: what attacks that follow no gradient reached within so many questions about a case.

Under a threat with a budget that is the share of cases broken, which `question` tells to the question; where the smallest
distance is sought it is the median distance of the closest success so far, known at round numbers of questions.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from markupsafe import Markup

from sapper import log
from sapper.report import charts
from sapper.report.charts import BLACK, DASHES, INK, LINES
from sapper.report.facts import Facts
from sapper.report.words import Budget, number, percent

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Line:
    """One attack under one threat."""

    threat: str
    attack: str
    reached: list[str]
    """Success or median distance, a column each."""
    median: str
    mean: str


@dataclass(frozen=True)
class Table:
    is_minimal: bool
    columns: list[str]
    """Numbers of questions."""
    lines: list[Line]


@dataclass(frozen=True)
class QueryChart:
    threat: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Queries:
    charts: list[QueryChart]
    """One for each threat under which there is anything to draw: half of the cases may never have been reached."""
    tables: list[Table]
    """Of all threats with a budget, and of those without."""


def queries(facts: Facts, wide: int, narrow: int) -> Queries | None:
    """None where no attack was without gradients."""
    curves = facts.summary.query_curves
    by_threat = {one.threat: [other for other in curves if other.threat == one.threat] for one in curves}
    drawn = [
        QueryChart(threat, _chart(rows, some, wide), _chart(rows, some, narrow))
        for threat, some in by_threat.items()
        if (rows := [row for curve in some for row in _points(facts, curve)])
    ]
    kinds = [[one for one in curves if (one.median_distance is None) == with_budget] for with_budget in (True, False)]
    return Queries(drawn, [_table(some) for some in kinds if some]) if curves else None


def _table(curves: list[log.QueryCurve]) -> Table:
    most = max(curve.questions[-1] for curve in curves)
    columns = [10**power for power in range(1, len(str(most))) if 10**power < 0.9 * most]
    is_minimal = curves[0].median_distance is not None
    return Table(is_minimal, [number(column) for column in columns], [_line(curve, columns) for curve in curves])


def _line(curve: log.QueryCurve, columns: list[int]) -> Line:
    reached = [_told(curve, bisect_right(curve.questions, column) - 1) for column in columns]
    median, mean = number(curve.median_questions), number(curve.mean_questions_found)
    return Line(curve.threat, curve.attack, [*reached, _told(curve, -1)], median, mean)


def _told(curve: log.QueryCurve, index: int) -> str:
    far = curve.median_distance
    return percent(curve.success_rate[index]) if far is None else number(far[index])


def _chart(rows: list[dict[str, Any]], curves: list[log.QueryCurve], width: int) -> Markup:
    budget = Budget.parse(curves[0].threat)
    ends = [row for row in rows if row["last"]]
    allowed = next((curve.budget for curve in curves if curve.budget), None)
    end = max([*(curve.questions[-1] for curve in curves), allowed or 1])
    names = [curve.attack for curve in curves]
    colour = alt.Color("attack:N", title=None).scale(domain=names, range=[LINES[i % 7] for i in range(len(names))])
    dash = alt.StrokeDash("attack:N", title=None).scale(domain=names, range=[DASHES[i % 7] for i in range(len(names))])
    asked = alt.X("questions:Q", title="questions about a case").axis(format="~s", values=_ticks(1, end))
    asked = asked.scale(type="log", nice=False, domain=[1, 1.02 * end])
    base = alt.Chart(alt.InlineData(values=rows), width=width - 60, height=220)
    line = base.mark_line(strokeWidth=2.2, interpolate="linear" if budget.is_minimal else "step-after").encode(
        x=asked, y=_height(budget, rows), color=colour.legend(charts.legend(names, width)), strokeDash=dash
    )
    dots = alt.Chart(alt.InlineData(values=ends)).mark_point(filled=True, size=60, opacity=1)
    layers = [line, dots.encode(x="questions:Q", y="reached:Q", color=colour.legend(None))]
    return charts.drawn(alt.layer(*layers, *_mark(allowed)), f"Questions under {budget.norm}:{budget.amount}, {width}")


def _height(budget: Budget, rows: list[dict[str, Any]]) -> alt.Y:
    if not budget.is_minimal:
        return alt.Y("reached:Q", title="cases broken").axis(format="%").scale(domain=[0, 1])
    low, high = min(row["reached"] for row in rows) / 1.1, max(row["reached"] for row in rows) * 1.1
    ticks = _ticks(low, high)
    axis = alt.Axis(format="~r", tickCount=4, values=ticks if len(ticks) > 1 else alt.Undefined)
    return alt.Y("reached:Q", title=f"median distance, {budget.unit}", axis=axis).scale(
        type="log", nice=False, domain=[low, high]
    )


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for one in (1, 2, 5) if low <= (tick := one * 10.0**power) <= high]


def _mark(allowed: int | None) -> list[alt.Chart]:
    """Where the budget of questions ends."""
    if allowed is None:
        return []
    base = alt.Chart(alt.InlineData(values=[{"questions": allowed, "text": f"budget {number(allowed)}"}]))
    rule = base.mark_rule(color=BLACK, strokeDash=[3, 3], strokeWidth=1.4).encode(x="questions:Q")
    text = base.mark_text(align="right", dx=-5, fontSize=12, color=INK).encode(
        x="questions:Q", y=alt.value(8), text="text:N"
    )
    return [rule, text]


def _points(facts: Facts, curve: log.QueryCurve) -> list[dict[str, Any]]:
    if curve.median_distance is None:
        pairs = _successes(facts, curve)
    else:  # half of the samples wrong as they are have no place on a logarithmic scale
        pairs = [(asked, far) for asked, far in zip(curve.questions, curve.median_distance, strict=True) if far]
    return [
        {"attack": curve.attack, "questions": asked, "reached": value, "last": index == len(pairs) - 1}
        for index, (asked, value) in enumerate(pairs)
    ]


def _successes(facts: Facts, curve: log.QueryCurve) -> list[tuple[float, float]]:
    """The share broken after each question that broke a case, or after some of them."""
    cases = next(t.cases for t in facts.trials if (t.result.attack, t.result.threat) == (curve.attack, curve.threat))
    found = np.sort(cases.filter(pl.col("found"))["question"].to_numpy())
    at, above = np.unique(found, return_counts=True)
    share = above.cumsum() / len(cases)
    kept = np.unique(np.linspace(0, len(at) - 1, POINTS).astype(int)) if len(at) else []
    steps = [(float(at[i]), float(share[i])) for i in kept]
    first = [] if steps and steps[0][0] <= 1 else [(1.0, 0.0)]
    return [*first, *steps, (float(curve.questions[-1]), float(share[-1]) if len(share) else 0.0)]
