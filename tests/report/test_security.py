"""The security curve: from rows to robust accuracy at each size of change."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fake_run import Plan, write_fake_run
from sapper import statistics
from sapper.report import facts
from sapper.report.page import write_report
from sapper.report.security import budget_of, security_curves
from sapper.report.words import Budget

MINIMAL = (
    Plan(attack="ddn", threat="l2:min", strength=0.9),
    Plan(attack="fmn", threat="l2:min", strength=1.0),
    Plan(attack="pgd", threat="l2:1", strength=0.5),
)


def test_the_breaking_distance_is_the_least_over_a_samples_cases_and_a_failure_is_infinitely_far() -> None:
    samples = pl.DataFrame({"sample": range(6), "label": [0] * 6, "clean_prediction": [0, 0, 0, 0, 1, 0]})
    cases = pl.DataFrame(
        {
            "sample": [0, 0, 1, 2, 3, 4],
            "label": [0] * 6,
            "found": [True, True, False, False, None, True],
            "prediction": [1, 1, 0, 2, None, 1],
            "error": [None, None, None, None, "out of memory", None],
            "l2": [0.5, 0.3, 2.0, 0.7, None, 0.0],
        }
    )
    distances = [0.3, np.inf, 0.7, 0.0, 0.0, np.inf]  # the last has no case
    assert statistics.breaking_distance(samples, cases, "l2").tolist() == distances


def test_the_curve_ends_at_the_count_of_robust_samples(tmp_path: Path) -> None:
    known = facts.read(write_fake_run(tmp_path / "run", plans=MINIMAL))
    for trial in known.trials:
        least = statistics.breaking_distance(known.samples, trial.cases, "l2")
        assert np.isinf(least).sum() == statistics.unbroken(known.samples, trial.cases).sum()


def test_there_is_a_curve_for_a_minimal_distance_or_several_budgets(tmp_path: Path) -> None:
    for name, plans, count in (
        ("minimal", MINIMAL, 1),
        ("one", (Plan(attack="pgd", threat="linf:0.1"),), 0),
        ("several", (Plan(attack="pgd", threat="linf:0.1"), Plan(attack="pgd", threat="linf:8/255")), 1),
    ):
        run = write_fake_run(tmp_path / name, plans=plans)
        curves = security_curves(facts.read(run), 1000, 340)
        assert len(curves) == count
        assert ("Robust accuracy by the size of the change" in write_report(run).read_text()) == bool(count)
        for curve in curves:
            assert "robust accuracy" in curve.wide
            assert "broken" in curve.note


@pytest.mark.parametrize(
    ("threat", "eps"), [("linf:8/255", 8 / 255), ("l0:14.5%", 113.68), ("l2:min", None), ("l0:9", 9)]
)
def test_budgets_as_numbers(threat: str, eps: float | None) -> None:
    assert budget_of(Budget.parse(threat), 784) == (eps if eps is None else pytest.approx(eps))
