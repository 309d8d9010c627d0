"""Counting and comparing: intervals, medians with failures, source-target matrices, paired tests. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """The 95 % score interval of a proportion; honest at 0 and at n. None of nothing."""
    if n == 0:
        return None
    assert 0 <= successes <= n, f"{successes} successes of {n}"
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the formula is exact only up to rounding.
    lower = 0.0 if successes == 0 else max(0.0, middle - half)
    upper = 1.0 if successes == n else min(1.0, middle + half)
    return lower, upper


def difference_interval(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float] | None:
    """The 95 % interval of second minus first for two independent (successes, n): Newcombe's, from both Wilsons."""
    one, two = wilson(*first), wilson(*second)
    if one is None or two is None:
        return None
    p, q = first[0] / first[1], second[0] / second[1]
    down = math.hypot(q - two[0], one[1] - p)
    up = math.hypot(two[1] - q, p - one[0])
    return q - p - down, q - p + up


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two paired rates are equal, from the pairs that disagree."""
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def mean_or_none(values: pl.Series) -> float | None:
    """Mean of what is there (neither null nor nan); None of nothing."""
    kept = values.cast(pl.Float64).drop_nulls().drop_nans().to_numpy()
    return float(kept.mean()) if kept.size else None


def median_with_failures(distances: pl.Series) -> float | None:
    """Median where null is a failure, infinitely far. None if that is the median, or of nothing."""
    reached = np.sort(distances.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy())
    n = len(distances)
    if n == 0 or len(reached) <= n // 2:
        return None
    return float((reached[(n - 1) // 2] + reached[n // 2]) / 2)


def unbroken(samples: pl.DataFrame, cases: pl.DataFrame) -> pl.Series:
    """For every row of `samples` (SAMPLE): right when clean, and in every one of its `cases` (CASE).

    A case breaks its sample if its goal was found, if the input it ended at is taken for another class (a targeted
    attack that hits the wrong target), or if it could not be run: a claim of robustness needs an attack that ran.
    Several attacks' cases may be given together: the worst case over them.
    """
    breaks = pl.col("error").is_not_null() | pl.col("found").fill_null(True) | (pl.col("prediction") != pl.col("label"))
    broken = cases.filter(breaks.fill_null(True))["sample"].unique()
    right = samples["label"] == samples["clean_prediction"]
    return (right & ~samples["sample"].is_in(broken.implode())).alias("robust")


def breaking_distance(samples: pl.DataFrame, cases: pl.DataFrame, norm: str) -> np.ndarray:
    """For every row of `samples`: the size of the smallest change that breaks it, as `unbroken` understands breaking.

    0 where it is wrong when clean or a case of it could not be run, infinite where nothing broke it.
    """
    broken = pl.col("found").fill_null(True) | (pl.col("prediction") != pl.col("label"))
    size = pl.when(pl.col("error").is_not_null()).then(0.0).when(broken).then(pl.col(norm)).otherwise(np.inf)
    least = cases.group_by("sample").agg(size.min().alias("size"))
    joined = samples.join(least, on="sample", how="left", maintain_order="left")
    wrong = (joined["label"] != joined["clean_prediction"]).to_numpy()
    return np.where(wrong, 0.0, joined["size"].fill_null(np.inf).to_numpy())


@dataclass(frozen=True, eq=False)
class PairMatrix:
    """Row = source, column = target."""

    count: np.ndarray
    """How many values each cell has, int64."""
    mean: np.ndarray
    """Their mean; nan where there is none."""


def pair_matrix(source: pl.Series, target: pl.Series, value: pl.Series, classes: int) -> PairMatrix:
    """Mean of `value` for each (source, target); rows with a null in any of the three are left out."""
    table = pl.DataFrame({"s": source, "t": target, "v": value.cast(pl.Float64)}).fill_nan(None).drop_nulls()
    cell = (table["s"] * classes + table["t"]).to_numpy()
    size = classes * classes
    count = np.bincount(cell, minlength=size).reshape(classes, classes)
    total = np.bincount(cell, weights=table["v"].to_numpy(), minlength=size).reshape(classes, classes)
    return PairMatrix(count, np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Rank correlation, and the two-sided p-value that there is none. None where x or y does not vary."""
    from scipy.stats import spearmanr  # takes a second, and few reports ask for it

    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return None
    rho, p = spearmanr(x, y)
    return float(rho), float(p)  # pyright: ignore[reportArgumentType]


def class_count(columns: Sequence[pl.Series], names: Sequence[str] | None) -> int:
    """How many classes there are: as many as have names, else as the labels and predictions show."""
    seen = [int(top) for column in columns if isinstance(top := column.max(), int)]
    return max([len(names or ()), *(top + 1 for top in seen)])
