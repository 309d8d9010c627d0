"""Two runs side by side: what changed, and whether the difference is more than chance.

Like is compared with like only: the same data, threat and goal. Where both runs attacked the very same samples the
difference is tested per sample (McNemar, exact), else from the two intervals (Newcombe). Imports no torch.
"""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sapper import disk, log
from sapper.errors import RunError
from sapper.statistics import difference_interval, mcnemar, unbroken
from sapper.theft_spec import ROUNDS

SIGNIFICANT = 0.05
CHUNK = 256  # inputs read at once
BRIEF = 60  # letters of a value in the list of differences


class Pair(msgspec.Struct, frozen=True):
    """One number in both runs."""

    first: float | None
    second: float | None
    difference: float | None
    """Second minus first; null where either is."""


class Row(msgspec.Struct, frozen=True):
    """One attack under one threat. `refused` says why the two are not compared; then the numbers are null."""

    attack: str
    threat: str
    goal: str
    success_rate: Pair | None
    robust_accuracy: Pair | None
    median_distance: Pair | None
    refused: str | None


class Worst(msgspec.Struct, frozen=True):
    """The worst case under one threat, with what the difference is worth."""

    threat: str
    robust_accuracy: Pair | None
    method: str | None
    """`McNemar, exact` or `Newcombe interval`."""
    p_value: float | None
    interval: tuple[float, float] | None
    """95 %, of the difference; only where the samples could not be paired."""
    statement: str
    refused: str | None


class Comparison(msgspec.Struct, frozen=True):
    first: str
    second: str
    data: tuple[str, str]
    models: tuple[str, str]
    samples: tuple[int, int]
    paired: bool
    """Both runs attacked the same inputs with the same labels."""
    clean_accuracy: Pair | None
    rows: list[Row]
    worst_case: list[Worst]
    differences: list[str]
    """Lines of the two specs that differ."""
    via: tuple[list[str], list[str]] = ([], [])
    """The substitutes that what was submitted to the models was crafted on; nothing where attacks saw the model."""
    same_substitutes: bool = True
    """Whether these are the same, wherever they lie."""
    refused: str | None = None
    """Why no number of the two runs is compared, where none is."""
    version: int = 1


class _Run(msgspec.Struct, frozen=True):
    path: Path
    summary: log.Summary
    spec: dict[str, Any]
    samples: pl.DataFrame

    @property
    def via(self) -> list[str]:
        return list(self.spec.get("via") or [])


def compare(first: Path, second: Path) -> Comparison:
    """Compares two finished runs.

    Raises:
        RunError: One of them is not finished, or not the folder of an audit.
    """
    one, two = _read(first), _read(second)
    unlike = _unlike(one, two)
    paired = unlike is None and _same_samples(one, two)
    clean = None if unlike else _pair(one.summary.clean_accuracy, two.summary.clean_accuracy)
    threats = list(dict.fromkeys(w.threat for run in (one, two) for w in run.summary.worst_case))
    return Comparison(
        first=str(first),
        second=str(second),
        data=(one.summary.data, two.summary.data),
        models=(one.summary.model, two.summary.model),
        samples=(len(one.samples), len(two.samples)),
        paired=paired,
        clean_accuracy=clean,
        rows=_rows(one.summary, two.summary, unlike),
        worst_case=[_worst(one, two, threat, unlike, paired=paired) for threat in threats],
        differences=_differences(one.spec, two.spec),
        via=(one.via, two.via),
        same_substitutes=one.spec.get("via_digest") == two.spec.get("via_digest"),
        refused=unlike,
    )


def _read(path: Path) -> _Run:
    if (path / ROUNDS).is_file():
        raise RunError(f"{path} is a steal folder, which has nothing to compare: compare audits --via it.")
    if (path / "study.json").is_file():
        raise RunError(f"{path} is the folder of a study: compare the runs of audits.")
    return _Run(path, log.read_summary(path), log.read_spec(path), log.read_samples(path))


def _unlike(one: _Run, two: _Run) -> str | None:
    """What makes every number of the two runs incomparable."""
    reasons = [
        f"{name} differs: {a} against {b}"
        for name, a, b in (
            ("data", one.summary.data, two.summary.data),
            ("split", one.spec.get("split"), two.spec.get("split")),
            ("bounds", one.spec.get("bounds"), two.spec.get("bounds")),
            ("quantize", one.spec.get("quantize"), two.spec.get("quantize")),
            ("number of samples", len(one.samples), len(two.samples)),
            ("what attacks saw", *("a substitute" if run.via else "the model" for run in (one, two))),
        )
        if a != b
    ]
    return "; ".join(reasons) or None


def _same_samples(one: _Run, two: _Run) -> bool:
    keys = ("sample", "label")
    if not all(one.samples[key].equals(two.samples[key]) for key in keys):
        return False
    files = (one.path / "samples.safetensors", two.path / "samples.safetensors")
    if not all(file.exists() for file in files):
        return False
    shapes = {disk.read_shape(file, "x") for file in files}
    if len(shapes) > 1:
        return False
    starts = range(0, shapes.pop()[0], CHUNK)
    return all(_same_rows(*files, start) for start in starts)


def _same_rows(one: Path, two: Path, start: int) -> bool:
    rows = [disk.read_rows(file, "x", start, start + CHUNK) for file in (one, two)]
    return np.array_equal(rows[0], rows[1])


def _pair(first: float | None, second: float | None) -> Pair:
    return Pair(first, second, None if first is None or second is None else second - first)


def _rows(one: log.Summary, two: log.Summary, unlike: str | None) -> list[Row]:
    """Rows of both runs by attack, threat and goal; what only one has stands beside what comes nearest to it."""
    named = [{(r.attack, r.threat, r.goal): r for r in summary.results} for summary in (one, two)]
    rows = [_row(result, named[1][key], unlike) for key, result in named[0].items() if key in named[1]]
    only = [[r for key, r in mine.items() if key not in other] for mine, other in (named, named[::-1])]
    for attack in dict.fromkeys(result.attack for results in only for result in results):
        lone = [[result for result in results if result.attack == attack] for results in only]
        rows += [_refused(a, b) for a, b in zip_longest(*lone)]
    return rows


def _row(a: log.Result, b: log.Result, unlike: str | None) -> Row:
    if unlike:
        return Row(a.attack, a.threat, a.goal, None, None, None, unlike)
    return Row(
        a.attack,
        a.threat,
        a.goal,
        _pair(a.success_rate, b.success_rate),
        _pair(a.robust_accuracy, b.robust_accuracy),
        _pair(a.median_distance, b.median_distance),
        None,
    )


def _refused(a: log.Result | None, b: log.Result | None) -> Row:
    known = a or b
    assert known is not None
    if a is None or b is None:
        reason = f"only the {'first' if a else 'second'} run has it"
    else:
        facets = (("threat", a.threat, b.threat), ("goal", a.goal, b.goal))
        reason = "; ".join(f"{name} differs: {x} against {y}" for name, x, y in facets if x != y)
    return Row(known.attack, known.threat, known.goal, None, None, None, reason)


def _worst(one: _Run, two: _Run, threat: str, unlike: str | None, *, paired: bool) -> Worst:
    refused = unlike or _unlike_under(one.summary, two.summary, threat)
    if refused:
        return Worst(threat, None, None, None, None, f"not compared: {refused}", refused)
    accuracy = _pair(*(next(w.robust_accuracy for w in r.summary.worst_case if w.threat == threat) for r in (one, two)))
    robust = [_robust(run, threat) for run in (one, two)]
    if not all(len(samples) for samples in robust):
        return Worst(threat, accuracy, None, None, None, "no sample was attacked", None)
    if paired and robust[0]["sample"].equals(robust[1]["sample"]):
        return _by_sample(threat, accuracy, robust[0]["robust"], robust[1]["robust"])
    return _by_interval(threat, accuracy, *(_count(samples) for samples in robust))


def _unlike_under(one: log.Summary, two: log.Summary, threat: str) -> str | None:
    """A worst case is over attacks, so both runs must have made the same ones."""
    made = [sorted((r.attack, r.goal) for r in summary.results if r.threat == threat) for summary in (one, two)]
    if made[0] == made[1]:
        return None
    if not (made[0] and made[1]):
        return f"only the {'first' if made[0] else 'second'} run has it"
    goals = [sorted({goal for _, goal in rows}) for rows in made]
    name, which = ("goal", 1) if goals[0] != goals[1] else ("attacks", 0)
    told = [", ".join(dict.fromkeys(row[which] for row in rows)) for rows in made]
    return f"{name} differ: {told[0]} against {told[1]}"


def _robust(run: _Run, threat: str) -> pl.DataFrame:
    """Sample and whether it is right and unbroken, for the samples that were attacked under this threat."""
    attacks = dict.fromkeys(r.attack for r in run.summary.results if r.threat == threat)
    cases = pl.concat([log.read_cases(run.path, log.case_folder(attack, threat)) for attack in attacks])
    attacked = run.samples.filter(pl.col("sample").is_in(cases["sample"].unique().implode())).sort("sample")
    return attacked.select("sample", unbroken(attacked, cases))


def _count(robust: pl.DataFrame) -> tuple[int, int]:
    return int(robust["robust"].sum()), len(robust)


def _by_sample(threat: str, accuracy: Pair, first: pl.Series, second: pl.Series) -> Worst:
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    p = mcnemar(lost, gained)
    counts = f"{gained} samples became robust and {lost} ceased to be"
    statement = f"{_change(accuracy, p < SIGNIFICANT)}: {counts} (p = {p:.2g}, McNemar, exact)"
    return Worst(threat, accuracy, "McNemar, exact", p, None, statement, None)


def _by_interval(threat: str, accuracy: Pair, first: tuple[int, int], second: tuple[int, int]) -> Worst:
    ends = difference_interval(first, second)
    assert ends is not None
    told = f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f} points"
    change = _change(accuracy, not ends[0] <= 0 <= ends[1])
    statement = f"{change}: the difference is {told} (95 %, Newcombe; not the same inputs, so not paired)"
    return Worst(threat, accuracy, "Newcombe interval", None, ends, statement, None)


def _change(accuracy: Pair, certain: bool) -> str:
    if not certain:
        return "no significant difference"
    return f"significantly {'higher' if (accuracy.difference or 0) > 0 else 'lower'}"


def _differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    keys = dict.fromkeys([*one, *two])
    return [
        f"{key}: {_brief(one.get(key, '–'))} → {_brief(two.get(key, '–'))}"
        for key in keys
        if one.get(key) != two.get(key)
    ]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1]}…"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Tables for people. Names come from files, so none of them is read as markup."""
    heading = Text(f"{comparison.models[0]} ({comparison.first}) → {comparison.models[1]} ({comparison.second})")
    console.print(heading, soft_wrap=True)
    if comparison.clean_accuracy:
        console.print(Text(f"clean accuracy {_show(comparison.clean_accuracy, percent=True)}"))
    if words := _transfer(comparison):
        console.print(Text(words), soft_wrap=True)
    table = Table()
    for name in ("threat", "attack", "goal", "success", "robust accuracy", "median distance"):
        table.add_column(name)
    for row in comparison.rows:
        names = [Text(row.threat), Text(row.attack), Text(row.goal)]
        table.add_row(*names, *([Text(f"not compared: {row.refused}", "yellow")] if row.refused else _cells(row)))
    console.print(table)
    for worst in comparison.worst_case:
        shown = f"{_show(worst.robust_accuracy, percent=True)}, " if worst.robust_accuracy else ""
        console.print(Text.assemble((f"worst case {worst.threat}: ", "bold"), shown, worst.statement))
    for line in comparison.differences:
        console.print(Text(f"spec {line}", "dim"))


def _transfer(comparison: Comparison) -> str:
    """What the figures of runs by substitutes are of."""
    if not all(comparison.via):
        return ""
    first, second = (" and ".join(names) for names in comparison.via)
    made = (
        f"on {first} in both" if comparison.same_substitutes else f"on {first} in the first, on {second} in the second"
    )
    return f"all figures are of samples that were crafted on a substitute and submitted: {made}"


def _cells(row: Row) -> list[str]:
    return [
        _show(row.success_rate, percent=True),
        _show(row.robust_accuracy, percent=True),
        _show(row.median_distance, percent=False),
    ]


def _show(pair: Pair | None, *, percent: bool) -> str:
    if pair is None:
        return "–"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %" if percent else f"{value:.3g}"

    change = "" if pair.difference is None else f" ({100 * pair.difference if percent else pair.difference:+.3g})"
    return f"{number(pair.first)} → {number(pair.second)}{change}"
