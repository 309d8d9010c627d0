import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapper import statistics
from sapper.log import CASE


def test_wilson_known_values() -> None:
    # Newcombe (1998), Table I: 81/263, 15/148, 0/20, 1/29.
    assert statistics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert statistics.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert statistics.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert statistics.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert statistics.wilson(0, 0) is None


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_the_unit_interval(case: tuple[int, int]) -> None:
    interval = statistics.wilson(*case)
    assert interval is not None
    lower, upper = interval
    assert 0 <= lower <= case[0] / case[1] <= upper <= 1


def test_difference_interval_known_value() -> None:
    # Newcombe (1998), Statistics in Medicine 17:873, method 10, example (a): 56/70 - 48/80.
    assert statistics.difference_interval((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert statistics.difference_interval((0, 0), (1, 2)) is None


def test_mcnemar() -> None:
    assert statistics.mcnemar(0, 0) == 1
    assert statistics.mcnemar(5, 5) == 1
    assert statistics.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert statistics.mcnemar(1, 9) == statistics.mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)
    assert statistics.mcnemar(0, 5000) == 0.0  # below what a float holds, no overflow


@pytest.mark.parametrize(
    ("distances", "median"),
    [
        ([1.0, 2.0, None], 2.0),
        ([1.0, None, None], None),
        ([1.0, 3.0], 2.0),
        ([1.0, 2.0, None, None], None),  # between 2 and infinity
        ([3.0, 1.0, 2.0, None], 2.5),
        ([math.nan, 1.0, 1.0], 1.0),
        ([], None),
        ([None], None),
        ([0.0], 0.0),
    ],
)
def test_median_with_failures(distances: list[float | None], median: float | None) -> None:
    assert statistics.median_with_failures(pl.Series(distances, dtype=pl.Float64)) == median


def test_mean_or_none() -> None:
    assert statistics.mean_or_none(pl.Series([1.0, None, 3.0])) == 2
    assert statistics.mean_or_none(pl.Series([True, False])) == 0.5
    assert statistics.mean_or_none(pl.Series([None], dtype=pl.Float64)) is None


def case_rows(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame([dict.fromkeys(CASE) | row for row in rows], schema=CASE)


def test_unbroken() -> None:
    samples = pl.DataFrame({"sample": range(6), "label": [0] * 6, "clean_prediction": [0, 0, 0, 0, 1, 0]})
    cases = case_rows(
        [
            {"sample": 0, "label": 0, "found": False, "prediction": 0},
            {"sample": 0, "label": 0, "found": False, "prediction": 0},
            {"sample": 1, "label": 0, "found": True, "prediction": 2},
            {"sample": 1, "label": 0, "found": False, "prediction": 0},
            {"sample": 2, "label": 0, "error": "no memory"},
            {"sample": 3, "label": 0, "found": False, "prediction": 5},  # missed its target, yet wrong
            {"sample": 4, "label": 0, "found": False, "prediction": 0},  # wrong when clean
        ]
    )
    assert statistics.unbroken(samples, cases).to_list() == [True, False, False, False, False, True]


def test_pair_matrix() -> None:
    matrix = statistics.pair_matrix(
        pl.Series([0, 0, 1, 1, 2]),
        pl.Series([1, 1, 0, None, 0]),
        pl.Series([1.0, 0.0, 4.0, 9.0, None]),
        3,
    )
    assert matrix.count.tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]
    assert matrix.mean[0, 1] == 0.5
    assert matrix.mean[1, 0] == 4
    assert np.isnan(matrix.mean).sum() == 7


def test_spearman() -> None:
    rho, p = statistics.spearman(np.arange(6), np.array([1, 10, 100, 1000, 10_000, 0])) or (None, None)
    assert rho == pytest.approx(1 - 6 * (5 * 1 + 25) / (6 * 35))  # 1 - 6 Σd² / (n (n² - 1))
    assert p is not None
    assert 0 < p < 1
    assert statistics.spearman(np.arange(6), np.exp(np.arange(6))) == (pytest.approx(1), pytest.approx(0))
    assert statistics.spearman(np.arange(6), np.ones(6)) is None


def test_class_count() -> None:
    assert statistics.class_count([pl.Series([0, 3, None])], None) == 4
    assert statistics.class_count([pl.Series([0, 3])], ["a"] * 10) == 10
    assert statistics.class_count([pl.Series([], dtype=pl.Int64)], ["a"]) == 1
