"""Query curves on the page: the numbers are those of the rows, and stand where a reader looks for them."""

import re
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from fake_run import Plan, write_fake_run
from sapper import disk, log
from sapper.report import facts
from sapper.report.page import write_report
from sapper.report.queries import queries
from sapper.report.words import percent

BLIND = (
    Plan(attack="square", threat="linf:0.1", strength=0.9, gradients=False),
    Plan(attack="nes", threat="linf:0.1", strength=0.0, gradients=False),
    Plan(attack="pgd", threat="linf:0.1", strength=0.9),
)


def test_the_table_and_the_curve_are_the_rows(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", plans=BLIND)
    known = facts.read(run)
    shown = queries(known, 490, 340)
    assert shown is not None
    (chart,), (table,) = shown.charts, shown.tables
    cases = known.trials[0].cases
    soon = cases.filter(pl.col("found") & (pl.col("question") <= 10))
    assert (table.columns, table.is_minimal) == (["10"], False)
    square, nes = table.lines
    assert square.reached == [percent(len(soon) / len(cases)), percent(known.trials[0].result.success_rate)]
    assert nes.reached == ["0\u202f%", "0\u202f%"]
    assert (nes.median, nes.mean) == ("–", "–")
    found = cases.filter("found")["question"].to_numpy()
    assert float(square.mean) == float(f"{np.mean(found):.3g}")
    assert "budget 50" in chart.wide
    assert "pgd" not in chart.wide


def test_the_page_has_it_only_where_attacks_followed_no_gradient(tmp_path: Path) -> None:
    for name, plans, there in (("blind", BLIND, True), ("seeing", BLIND[2:], False)):
        page = write_report(write_fake_run(tmp_path / name, plans=plans)).read_text()
        assert ("How many questions it takes" in page) == there


def test_medians_of_the_smallest_distance_are_a_curve_on_a_logarithmic_scale(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", plans=(Plan(attack="boundary", threat="l2:min", gradients=False),))
    summary = log.read_summary(run)
    told = log.QueryCurve("boundary", "l2:min", None, [1, 2, 5, 20], [0, 0.5, 1, 1], [None, 3.0, 0.7, 0.7], None, None)
    disk.write_json(run / "summary.json", msgspec.structs.replace(summary, query_curves=[told]))
    shown = queries(facts.read(run), 490, 340)
    assert shown is not None
    assert shown.tables[0].lines[0].reached == ["0.7", "0.7"]
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", str(shown.charts[0].wide))
    assert {"1", "2", "5", "10", "20", "median distance, L2"} <= set(labels)
    assert "NaN" not in shown.charts[0].wide
    assert "How many questions it takes" in write_report(run).read_text()


def test_where_half_of_the_cases_were_never_reached_there_is_a_table_and_no_chart(tmp_path: Path) -> None:
    plans = (Plan(attack="boundary", threat="l2:min", strength=0.2, gradients=False),)
    run = write_fake_run(tmp_path / "run", plans=plans)
    shown = queries(facts.read(run), 490, 340)
    assert shown is not None
    assert shown.charts == []
    assert shown.tables[0].lines[0].reached == ["–", "–"]
    assert "Median distance within so many questions" in write_report(run).read_text()


def test_medians_that_hardly_differ_have_ticks_too(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", plans=(Plan(attack="boundary", threat="l2:min", gradients=False),))
    told = log.QueryCurve("boundary", "l2:min", None, [1, 12], [1, 1], [0.66, 0.64], None, None)
    disk.write_json(run / "summary.json", msgspec.structs.replace(log.read_summary(run), query_curves=[told]))
    shown = queries(facts.read(run), 490, 340)
    assert shown is not None
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", str(shown.charts[0].wide))
    assert [label for label in labels if label.startswith("0.6")]
