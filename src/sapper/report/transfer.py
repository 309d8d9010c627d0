"""What was crafted on substitutes: how much of it fooled them, and how much the model."""

from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
from markupsafe import Markup

from sapper.report import charts, security
from sapper.report.facts import Facts, Trial
from sapper.report.words import Budget


@dataclass(frozen=True)
class Line:
    """One attack under one threat."""

    attack: str
    threat: str
    submitted: int
    fooled: float | None
    """Share that fooled the substitute."""
    success: float | None
    """Share that fooled the model."""
    carried: float | None
    """The same of those that fooled the substitute."""


@dataclass(frozen=True)
class Transfer:
    lines: list[Line]
    curves: list[tuple[Markup, Markup]]
    """Of each norm with several budgets, wide and narrow."""
    questions: int
    """To the model, those about clean samples too."""


def transfer(known: Facts, wide: int, narrow: int) -> Transfer | None:
    """None where the attacks were shown the model itself."""
    trials = [t for t in known.trials if t.cases["fools_substitute"].is_not_null().any()]
    if not trials:
        return None
    norms = dict.fromkeys(trial.budget.norm for trial in trials)
    drawn = [(_curve(known, trials, norm, wide), _curve(known, trials, norm, narrow)) for norm in norms]
    asked = sum(int(trial.cases["forwards"].sum()) for trial in trials)
    return Transfer(
        [_line(trial) for trial in trials], [(a, b) for a, b in drawn if a and b], len(known.samples) + asked
    )


def _line(trial: Trial) -> Line:
    fooled = trial.cases.filter(pl.col("fools_substitute"))
    return Line(
        attack=trial.result.attack,
        threat=trial.result.threat,
        submitted=int(trial.cases["forwards"].sum()),
        fooled=len(fooled) / trial.result.cases if trial.result.cases else None,
        success=trial.result.success_rate,
        carried=int(fooled["found"].sum()) / len(fooled) if len(fooled) else None,
    )


def _curve(known: Facts, trials: list[Trial], norm: str, width: int) -> Markup | None:
    rows = [row for trial in trials if trial.budget.norm == norm for row in _points(known, trial)]
    if len({row["size"] for row in rows}) < 2:
        return None
    size = alt.X("size:Q", title=f"size of the change, {Budget(norm, '').unit}").axis(format="~r", tickCount=6)
    share = alt.Y("share:Q", title="fooled").axis(format="%").scale(domain=[0, 1])
    names = list(dict.fromkeys(row["who"] for row in rows))
    colour = alt.Color("who:N", title=None, legend=charts.legend(names, width)).scale(
        domain=names, range=[charts.LINES[i % 7] for i in range(len(names))]
    )
    chart = (
        alt.Chart(alt.InlineData(values=rows), width=width - 60, height=220)
        .mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=60))
        .encode(x=size, y=share, color=colour)
    )
    return charts.drawn(chart, f"Transfer against the size of the change, {norm}, {width}")


def _points(known: Facts, trial: Trial) -> list[dict[str, Any]]:
    """Of the substitute and of the model."""
    size, line = security.budget_of(trial.budget, known.features), _line(trial)
    if size is None:
        return []
    return [
        {"who": f"{line.attack}: the model", "size": size, "share": line.success},
        {"who": f"{line.attack}: the substitute", "size": size, "share": line.fooled},
    ]
