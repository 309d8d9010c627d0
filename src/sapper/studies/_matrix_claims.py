"""The transfer matrix's claims: every cell beside the published one, and what the matrices say as a whole."""

from collections.abc import Sequence

import numpy as np

from sapper.claims import Claim
from sapper.statistics import spearman
from sapper.studies._learners_common import KINDS
from sapper.studies._matrix_common import COLUMNS, IN_THE_TEXT, PUBLISHED

LITTLE, NEAR = 3.0, 10.0
"""Points within which a cell counts as reproduced, a third of it but from little to near: the paper's learners were trained
once, with other libraries."""
LEAST = {"DNN": 49.0, "LR": 94.0}
"""What the paper says of all cells within a technique."""
SIZES = dict.fromkeys(KINDS, 11.5) | {"DT": 1.05}
"""The mean change of a feature in %."""


def cells(ours: np.ndarray) -> list[Claim]:
    """Each cell beside the published one."""
    pairs = [(kind, column) for kind in KINDS for column in COLUMNS]
    return [
        Claim(
            what=f"{kind} to {column}", where="Figure 3", unit="%", paper=paper, measured=round(measured, 2),
            sure="stated" if (kind, column) in IN_THE_TEXT else "second hand",
            within=_like(paper), note=f"{measured - paper:+.2f} points",
        )
        for (kind, column), paper, measured in zip(pairs, PUBLISHED.ravel().tolist(), ours.ravel().tolist(), strict=True)
    ]  # fmt: skip


def sums(ours: np.ndarray) -> list[Claim]:
    """What the matrix says as a whole."""
    own = np.eye(*ours.shape, dtype=bool)
    means = [np.where(own, 0, matrix).sum(0)[:5] / 4 for matrix in (PUBLISHED, ours)]  # of the other learners' samples
    gaps = [float(min(mean[[2, 3]]) - max(mean[[0, 4]])) for mean in means]
    best = [KINDS[int(matrix[:, -1].argmax())] for matrix in (PUBLISHED, ours)]
    return [
        Claim(what="rank correlation of the 30 cells with the published", where="Figure 3", sure="derived", paper=1.0,
              within=(0.7, 1.0), measured=_correlation(ours)),
        far("mean distance of the 30 cells from the published (points)", ours),
        Claim(what="success of others on SVM and DT, the lesser, less that on DNN and kNN, the greater (points)",
              where="text", sure="derived", paper=round(gaps[0], 2), within=(0.1, 100), measured=round(gaps[1], 2),
              unit="%", note="the paper: DNN and kNN are the most resilient"),
        Claim(what="success on the ensemble of what was crafted for LR, less the greatest of the others (points)",
              where="text", sure="derived", paper=round(_lead(PUBLISHED), 2), within=(0.1, 100),
              measured=round(_lead(ours), 2), unit="%", note=f"most from {best[0]} there, from {best[1]} here"),
    ]  # fmt: skip


def far(what: str, ours: np.ndarray) -> Claim:
    """How far a matrix is from the published one."""
    return Claim(
        what=what, where="Figure 3", sure="derived", paper=0.0, within=(0, NEAR), measured=distance(ours), unit="%"
    )


def distance(ours: np.ndarray) -> float:
    """Mean, in points."""
    return round(float(np.abs(ours - PUBLISHED).mean()), 2)


def _correlation(ours: np.ndarray) -> float | None:
    found = spearman(PUBLISHED.ravel(), ours.ravel())
    return None if found is None else round(found[0], 3)


def _lead(matrix: np.ndarray) -> float:
    """How far LR is ahead of the others on the ensemble."""
    column, place = matrix[:, -1], KINDS.index("LR")
    return float(column[place] - np.delete(column, place).max())


def sizes_like(sizes: Sequence[float]) -> list[Claim]:
    """How much each attack changes."""
    return [
        Claim(what=f"mean change of what is crafted for {kind}", where="text", sure="stated", paper=SIZES[kind],
              within=_around(SIZES[kind], 0.25 * SIZES[kind]), measured=round(change, 2), unit="%",
              note="the paper says it of all but DT together" if kind != "DT" else "")
        for kind, change in zip(KINDS, sizes, strict=True)
    ]  # fmt: skip


def inside(kind: str, ours: np.ndarray, lead: float) -> Claim:
    """What the paper says of a technique; `lead` is that of a learner's samples on itself over those on the others."""
    if kind in LEAST:
        return Claim(what=f"least success within {kind}", where="Figure 2", sure="stated", paper=LEAST[kind], unit="%",
                     within=(LEAST[kind], 100), measured=round(float(ours.min()), 2))  # fmt: skip
    return Claim(what=f"success of {kind} on itself less that on others of its kind (points)", where="Figure 2", unit="%",
                 sure="stated", within=(5, 100), measured=round(lead, 2), note="the paper: clearly diagonal")  # fmt: skip


def near(what: str, paper: float, measured: float, note: str) -> Claim:
    """A cell made otherwise than in the matrix."""
    return Claim(what=what, where="Figure 3", sure="second hand", paper=paper, within=_like(paper), unit="%",
                 measured=round(measured, 2), note=note)  # fmt: skip


def to_the_letter_claims(row: Sequence[float], change: float) -> list[Claim]:
    """The row of the tree by the letter of Algorithm 2."""
    published = PUBLISHED[KINDS.index("DT")].tolist()
    return [
        *(near(f"success on {column} of DT's algorithm to the letter", paper, ours, "all of the way set from the leaf up")
          for column, paper, ours in zip(COLUMNS, published, row, strict=True)),
        Claim(what="mean change by DT's algorithm to the letter", where="text", sure="stated", paper=SIZES["DT"],
              within=_around(SIZES["DT"], 0.25 * SIZES["DT"]), measured=round(change, 2), unit="%"),
    ]  # fmt: skip


def _like(cell: float) -> tuple[float, float]:
    return _around(cell, min(NEAR, max(LITTLE, cell / 3)))


def _around(value: float, room: float) -> tuple[float, float]:
    return round(max(0.0, value - room), 2), round(min(100.0, value + room), 2)
