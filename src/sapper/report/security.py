"""The security curve of a norm: robust accuracy against the size of the change (Biggio and Roli 2018).

Minimal distances give the whole curve from one run; an attack with a fixed budget gives a point of it.
"""

from dataclasses import dataclass
from fractions import Fraction

import altair as alt
import numpy as np
from markupsafe import Markup

from sapper.report import charts
from sapper.report.charts import DASHES, INK, LINES
from sapper.report.facts import Facts, Trial
from sapper.report.words import NORMS, Budget, percent, plural
from sapper.statistics import breaking_distance

WORST = "worst case"
POINTS = 200  # of a curve


@dataclass(frozen=True)
class SecurityCurve:
    title: str
    wide: Markup
    narrow: Markup
    note: str


def security_curves(facts: Facts, wide: int, narrow: int) -> list[SecurityCurve]:
    """One for each norm with a minimal distance or several budgets."""
    shown = []
    for norm in dict.fromkeys(trial.budget.norm for trial in facts.trials):
        trials = [trial for trial in facts.trials if trial.budget.norm == norm]
        threats = {trial.result.threat for trial in trials}
        if any(trial.budget.is_minimal for trial in trials) or len(threats) > 1:
            distances = {trial: breaking_distance(facts.samples, trial.cases, norm) for trial in trials}
            title = f"Robust accuracy by the size of the change, {NORMS[norm]}"
            large, small = (_chart(facts, norm, distances, width, title) for width in (wide, narrow))
            shown.append(SecurityCurve(title, large, small, _note(distances)))
    return shown


def _note(distances: dict[Trial, np.ndarray]) -> str:
    least = np.min(list(distances.values()), axis=0)
    never = int(np.isinf(least).sum())
    if not never:
        return "Every sample was broken at some size."
    of = f"{plural(never, 'sample')} ({percent(never / len(least))})"
    return f"{of} were not broken at any size tried: they count as infinitely far, and the curve does not reach 0."


def _chart(facts: Facts, norm: str, distances: dict[Trial, np.ndarray], width: int, title: str) -> Markup:
    ends = [float(values[np.isfinite(values)].max(initial=0.0)) for values in distances.values()]
    budgets = {trial: eps for trial in distances if (eps := budget_of(trial.budget, facts.features)) is not None}
    end = 1.03 * max([*ends, *budgets.values(), 1e-12])
    steps = {trial.result.attack: values for trial, values in distances.items() if trial.budget.is_minimal}
    if len(distances) > 1:
        steps[WORST] = np.min(list(distances.values()), axis=0)
    rows = [row for name, values in steps.items() for row in _steps(name, values, end)]
    dots = [
        {"attack": trial.result.attack, "size": eps, "left": trial.result.robust_accuracy}
        for trial, eps in budgets.items()
    ]
    names = list(dict.fromkeys([trial.result.attack for trial in distances] + list(steps)))
    colours = [INK if name == WORST else LINES[i % 7] for i, name in enumerate(names)]
    colour = alt.Color("attack:N", title=None).scale(domain=names, range=colours)
    dashes = [DASHES[i % 7] for i in range(len(names))]
    dash = alt.StrokeDash("attack:N", title=None, legend=None).scale(domain=names, range=dashes)
    legend = charts.legend(names, width, 110)
    size = alt.X("size:Q", title=f"size of the change, {Budget(norm, '').unit}").axis(format="~r", tickCount=6)
    share = alt.Y("left:Q", title="robust accuracy").axis(format="%").scale(domain=[0, 1])
    base = alt.Chart(alt.InlineData(values=rows), width=width - 60, height=220)
    line = base.mark_line(interpolate="step-after", strokeWidth=2.2).encode(
        x=size.scale(nice=False, domain=[0, end]), y=share, color=colour.legend(legend), strokeDash=dash
    )
    dot = (
        alt.Chart(alt.InlineData(values=dots))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x="size:Q", y="left:Q", color=colour.legend(legend))
    )
    return charts.drawn(alt.layer(line, dot), f"{title}, {width}")


def _steps(name: str, distances: np.ndarray, end: float) -> list[dict[str, float | str]]:
    reached = np.sort(distances[np.isfinite(distances)])
    left = 1 - np.searchsorted(reached, reached, side="right") / len(distances)
    kept = np.unique(np.linspace(0, len(reached) - 1, POINTS).astype(int)) if len(reached) else []
    last = float(left[-1]) if len(reached) else 1.0
    start = 1 - float((distances <= 0).mean())
    points = [(0.0, start), *((float(reached[i]), float(left[i])) for i in kept), (end, last)]
    return [{"attack": name, "size": size, "left": share} for size, share in points]


def budget_of(budget: Budget, features: int) -> float | None:
    """The budget as a number; None for the smallest change."""
    if budget.is_minimal:
        return None
    if budget.amount.endswith("%"):
        return float(Fraction(budget.amount.removesuffix("%"))) / 100 * features
    return float(Fraction(budget.amount))
