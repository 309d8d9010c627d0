"""From a run folder to one HTML file that needs nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from sapper import disk, log, meanings, statistics
from sapper.report import charts, facts, gallery, matrices, vulnerability, words
from sapper.report.facts import Facts, Trial
from sapper.report.queries import queries
from sapper.report.security import security_curves
from sapper.report.transfer import transfer
from sapper.report.verdict import nearest_median, verdict

FULL, HALF, NARROW = 1000, 490, 340  # widths of charts in CSS pixels: a page, two side by side, a phone
TILES = 4  # threats among the figures at the top; the table has them all


def write_report(run: Path) -> Path:
    """Writes `report.html` into a finished run's folder and returns its path.

    Raises:
        RunError: The run is not finished, is not whole, or the file cannot be written.
    """
    text = render(facts.read(run))
    path = run / "report.html"

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    disk.write_whole(path, write)
    return path


def render(known: Facts) -> str:
    loader = jinja2.PackageLoader("sapper.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "number": words.number,
        "plural": words.plural,
    }
    return environment.get_template("report.html.jinja").render(_content(known))


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Line:
    """One attack in the table of attacks."""

    result: log.Result
    mean_all: tuple[str, str]
    mean_found: tuple[str, str]
    median: tuple[str, str]
    forwards: float | None
    backwards: float | None
    errors: int


@dataclass(frozen=True)
class Failure:
    """Cases that could not be run, for one reason."""

    attack: str
    threat: str
    message: str
    count: int
    samples: str


@dataclass(frozen=True)
class Curve:
    threat: str
    wide: Markup
    narrow: Markup


def _content(known: Facts) -> dict[str, Any]:
    loader = jinja2.PackageLoader("sapper.report")
    style = loader.get_source(jinja2.Environment(autoescape=True), "style.css")[0]
    galleries = [shown for trial in known.trials if (shown := gallery.gallery(known, trial))]
    grids = [shown for trial in known.trials if (shown := matrices.matrices(known, trial))]
    return {
        "style": Markup(style),  # our own file
        "facts": known,
        "summary": known.summary,
        "environment": known.environment,
        "verdict": verdict(known),
        "clean_interval": statistics.wilson(known.right, len(known.samples)),
        "accuracy": (charts.accuracy(known, FULL), charts.accuracy(known, NARROW)),
        "security": security_curves(known, FULL, NARROW),
        "queries": queries(known, HALF, NARROW),
        "transfer": transfer(known, FULL, NARROW),
        "curves": _curves(known),
        "lines": [_line(known, trial) for trial in known.trials],
        "matrices": grids,
        "vulnerability": vulnerability.vulnerability(known),
        "galleries": galleries,
        "image": words.is_image(known.shape),
        "failures": [failure for trial in known.trials for failure in _failures(trial)],
        "tiles": _tiles(known),
        "findings": meanings.explain(known.summary.findings),
    }


def _tiles(known: Facts) -> list[Tile]:
    summary, n = known.summary, len(known.samples)
    clean = words.interval(statistics.wilson(known.right, n))
    tiles = [Tile("clean accuracy", words.percent(summary.clean_accuracy), clean)]
    for worst in summary.worst_case[:TILES]:
        budget = words.Budget.parse(worst.threat)
        if budget.is_minimal:
            nearest = nearest_median(known, worst.threat)
            tiles.append(Tile(f"median distance, {worst.threat}", words.number(nearest), "of the closest attack"))
        else:
            ends = words.interval(worst.ci95)
            tiles.append(Tile(f"robust, {worst.threat}", words.percent(worst.robust_accuracy), ends))
    cases = sum(trial.result.cases for trial in known.trials)
    seconds = words.number(sum(trial.result.seconds for trial in known.trials))
    detail = f"{'sample' if n == 1 else 'samples'} in {words.plural(cases, 'case')}, {seconds}{words.THIN}s"
    return [*tiles, Tile("attacked", words.number(n), detail)]


def _curves(known: Facts) -> list[Curve]:
    curves = []
    for threat in charts.of_threats(known):
        if words.Budget.parse(threat).is_minimal:  # the security curve has it
            continue
        wide, narrow = charts.curves(known, threat, HALF), charts.curves(known, threat, NARROW)
        if wide and narrow:
            curves.append(Curve(threat, wide, narrow))
    return curves


def _line(known: Facts, trial: Trial) -> Line:
    result = trial.result

    def size(value: float | None) -> tuple[str, str]:
        share = value / known.features if value is not None and trial.budget.in_features else None
        return words.number(value), "" if share is None else words.percent(share)

    return Line(
        result=result,
        mean_all=size(result.mean_distance_all),
        mean_found=size(result.mean_distance_found),
        median=size(result.median_distance),
        forwards=result.forwards / result.cases if result.cases else None,
        backwards=result.backwards / result.cases if result.cases else None,
        errors=int(trial.cases["error"].is_not_null().sum()),
    )


def _failures(trial: Trial) -> list[Failure]:
    table = (
        trial.cases.filter(pl.col("error").is_not_null())
        .group_by("error", maintain_order=True)
        .agg(pl.len().alias("count"), pl.col("sample").unique(maintain_order=True).head(10))
    )
    return [
        Failure(
            trial.result.attack, trial.result.threat, row["error"], row["count"], ", ".join(map(str, row["sample"]))
        )
        for row in table.iter_rows(named=True)
    ]
