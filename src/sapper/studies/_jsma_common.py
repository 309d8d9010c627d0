"""What the parts of the JSMA study share: the network, the attacked sets, claims in percent, matrices of class pairs."""

from pathlib import Path

import numpy as np
import polars as pl

from sapper import log
from sapper.claims import Figure
from sapper.lab import Lab
from sapper.models.model import Model
from sapper.report.figures import matrix
from sapper.statistics import mean_or_none

DIGITS = [str(digit) for digit in range(10)]
GAMMA = "l0:14.5%"
"""The paper's budget: at most 56 iterations of two features, 112 of 784."""

Cells = list[list[str | float | int | None]]


def lenet(lab: Lab) -> Model:
    if lab.scale == "paper":
        return lab.model("lenet", "train[:50000]")
    return lab.model("lenet", "train[:3000]", epochs=4)


def attacked(lab: Lab) -> dict[str, tuple[str, int]]:
    """The three sets: their part of the data, and how many."""
    if lab.scale == "paper":
        return {
            "training": ("train[:10000]", 10_000),
            "validation": ("train[50000:]", 10_000),
            "test": ("test", 10_000),
        }
    return {"training": ("train[:3000]", 3), "validation": ("train[50000:]", 3), "test": ("test", 10)}


def whole(lab: Lab, name: str) -> Path:
    """The run of Fig. 11 on one of the three sets."""
    split, limit = attacked(lab)[name]
    return lab.audit(name, lenet(lab), split, limit=limit, goal="targeted:every", threat=GAMMA, attack="jsma")


def cases_of(run: Path) -> pl.DataFrame:
    (folder,) = (path.name for path in (run / "shards").iterdir())
    return log.read_cases(run, folder)


def distortion(cases: pl.DataFrame, *, failed: bool = False) -> float | None:
    """Mean share of the features changed, over the successes or over all."""
    mean = mean_or_none((cases if failed else cases.filter(pl.col("found")))["l0"])
    return None if mean is None else mean / 784


def share(cases: pl.DataFrame) -> float:
    """Of the cases that succeeded."""
    return float(cases["found"].to_numpy().mean())


def pair_figure(lab: Lab, file: str, values: np.ndarray, caption: str, digits: int, unit: str) -> Figure:
    svg = matrix(values, DIGITS, DIGITS, title=caption, row_title="source", column_title="target", digits=digits,
                 unit=unit, means=True)  # fmt: skip
    return lab.figure(file, svg, caption)


def listed(numbers: np.ndarray) -> str:
    return ", ".join(str(number) for number in numbers)


def hundred(*shares: float | None) -> list[float | None]:
    """Shares in percent."""
    return [None if value is None else 100 * value for value in shares]


def tidy(rows: Cells) -> Cells:
    """With two decimals."""
    return [[round(value, 2) if isinstance(value, float) else value for value in row] for row in rows]
