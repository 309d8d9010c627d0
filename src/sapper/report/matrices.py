"""Source × target: which class becomes which, how often and at what cost."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from sapper.report.facts import Facts, Trial
from sapper.report.words import NONE, class_name, number, percent, plural
from sapper.statistics import PairMatrix, pair_matrix

LARGEST = 20  # classes; of more, only the pairs that stand out are listed
LISTED = 8


@dataclass(frozen=True)
class Cell:
    text: str
    heat: float
    """0 to 1: how dark."""
    title: str


@dataclass(frozen=True)
class Grid:
    caption: str
    column: str
    """What the columns are: target or prediction."""
    names: list[str]
    rows: list[list[Cell]]
    edge: str
    """What the last column and the last row hold: mean or sum."""
    right: list[str]
    foot: list[str]


@dataclass(frozen=True)
class Pairs:
    """For many classes: the pairs that stand out."""

    caption: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Matrices:
    attack: str
    threat: str
    goal: str
    leads: bool
    grids: list[Grid]
    pairs: Pairs | None


def matrices(facts: Facts, trial: Trial) -> Matrices | None:
    """None where no case ran, or nothing was found that could be shown."""
    ran = trial.cases.filter(pl.col("error").is_null())
    found = ran.filter(pl.col("found"))
    if ran.is_empty() or (found.is_empty() and not trial.is_targeted):
        return None
    few = facts.classes <= LARGEST
    result, grids, pairs = trial.result, [], None
    if not few:
        pairs = _pairs(facts, trial, found)
    elif trial.is_targeted:
        grids = _targeted(facts, trial, ran)
    else:
        grids = [_predicted(facts, found)]
    return Matrices(result.attack, result.threat, result.goal, facts.leads(trial), grids, pairs)


def _targeted(facts: Facts, trial: Trial, ran: pl.DataFrame) -> list[Grid]:
    success = pair_matrix(ran["label"], ran["target"], ran["found"], facts.classes)
    found = ran.filter(pl.col("found"))
    share = facts.features if trial.budget.in_features else 1
    size = pair_matrix(found["label"], found["target"], found["distance"] / share, facts.classes)
    unit, show = ("% of the features", tenths) if trial.budget.in_features else (trial.budget.unit, number)
    return [
        grid(facts, "Success rate, %", "target", success, 1.0, _whole),
        grid(facts, f"Mean distortion of successes, {unit}", "target", size, float(np.nanmax(size.mean)), show)
        if not found.is_empty()
        else grid(facts, "Mean distortion of successes: nothing was found", "target", size, 1.0, show),
    ]


def _predicted(facts: Facts, found: pl.DataFrame) -> Grid:
    ones = pl.Series([1.0] * len(found))
    count = pair_matrix(found["label"], found["prediction"], ones, facts.classes).count
    cells = _cells(facts, "prediction", count.astype(float), count, float(count.max()), number)
    right, foot = ([str(n) for n in count.sum(axis)] for axis in (1, 0))
    return Grid("What the broken samples are taken for, cases", "prediction", _names(facts), cells, "sum", right, foot)


def grid(
    facts: Facts, caption: str, column: str, matrix: PairMatrix, top: float, show: Callable[[float], str],
    low: float = 0.0,
) -> Grid:  # fmt: skip
    """A table of the means, dark at `top` and light at `low`, with the means of its rows and columns."""
    cells = _cells(facts, column, matrix.mean, matrix.count, top, show, low)
    total = np.nan_to_num(matrix.mean) * matrix.count
    right, foot = (
        [show(value / n) if n else NONE for value, n in zip(total.sum(axis), matrix.count.sum(axis), strict=True)]
        for axis in (1, 0)
    )
    return Grid(caption, column, _names(facts), cells, "mean", right, foot)


def _cells(
    facts: Facts, column: str, values: np.ndarray, counts: np.ndarray, top: float, show: Callable[[float], str],
    low: float = 0.0,
) -> list[list[Cell]]:  # fmt: skip
    rows = []
    for i, (row, numbers) in enumerate(zip(values, counts, strict=True)):
        pairs = enumerate(zip(row, numbers, strict=True))
        rows.append(
            [
                _cell(facts, (i, j), column, show(v) if n else "", (v - low) / ((top - low) or 1), int(n))
                for j, (v, n) in pairs
            ]
        )
    return rows


def _cell(facts: Facts, pair: tuple[int, int], column: str, text: str, heat: float, count: int) -> Cell:
    source, other = (class_name(i, facts.environment.classes) for i in pair)
    return Cell(
        text, round(float(heat), 3) if count else 0.0, f"source {source}, {column} {other}: {plural(count, 'case')}"
    )


def _pairs(facts: Facts, trial: Trial, found: pl.DataFrame) -> Pairs:
    other = "target" if trial.is_targeted else "prediction"
    table = (
        found.group_by("label", other)
        .agg(pl.len().alias("cases"), pl.col("distance").mean())
        .sort(["cases", "distance", "label", other], descending=[True, False, False, False])
        .head(LISTED)
    )
    names = facts.environment.classes
    share = facts.features if trial.budget.in_features else None
    rows = [
        [
            class_name(row["label"], names),
            class_name(row[other], names),
            number(row["cases"]),
            number(row["distance"]) if share is None else percent(row["distance"] / share),
        ]
        for row in table.iter_rows(named=True)
    ]
    caption = f"{number(facts.classes)} classes are too many for a matrix; the most frequent pairs, then the nearest."
    unit = trial.budget.unit if share is None else "% of the features"
    return Pairs(caption, ["source", other, "found", f"mean distance, {unit}"], rows)


def _names(facts: Facts) -> list[str]:
    return [class_name(i, facts.environment.classes) for i in range(facts.classes)]


def _whole(share: float) -> str:
    """Per cent without decimals; 100 only if all."""
    return f"{min(100 * share, 99) if share < 1 else 100:.0f}"


def tenths(share: float) -> str:
    return f"{100 * share:.1f}"
