"""How hard a class pair or a sample is to attack: hardness, adversarial distance, robustness. No torch.

Papernot et al. (2016), section V: hardness needs attacks at several budgets, which one run at the largest gives;
adversarial distance needs none, only the saliency map of the clean sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True, eq=False)
class Curve:
    """What an attack reaches within each budget: one row a budget, then one entry a case."""

    success: np.ndarray
    """bool."""
    distortion: np.ndarray
    """Share of the features changed; a failure counts with its whole cap."""


def truncate(cases: pl.DataFrame, features: int, iterations: Sequence[int], per_step: int = 2) -> Curve:
    """The curve of an attack that changes `per_step` features an iteration, from one run at the largest budget.

    A case is a success within k iterations if it succeeded in the run after at most k steps.

    Args:
        cases: Rows of a run (`log.CASE`) at least as long as the largest of `iterations`.
        features: Number of features of a sample.
        iterations: The caps.
        per_step: Features changed in one.
    """
    steps = np.where(cases["found"].fill_null(False).to_numpy(), cases["steps"].fill_null(0).to_numpy(), np.inf)
    changed = cases["l0"].fill_null(0).to_numpy() / features
    caps = np.asarray(iterations)[:, None]
    success = steps[None, :] <= caps
    return Curve(success, np.where(success, changed[None, :], caps * per_step / features))


def hardness(curve: Curve, source: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """H(s, t): mean distortion integrated over the success rate by the trapezoid rule; nan for pairs without cases.

    A case that the largest budget did not break counts with that budget's distortion: without it a pair that was never
    broken would be the easiest of all.
    """
    curve = Curve(
        np.vstack([curve.success, np.ones_like(curve.success[-1:])]),
        np.vstack([curve.distortion, curve.distortion[-1:]]),
    )
    result = np.full((classes, classes), np.nan)
    for s in range(classes):
        for t in range(classes):
            of_pair = (source == s) & (target == t)
            if of_pair.any():
                rate, mean = curve.success[:, of_pair].mean(1), curve.distortion[:, of_pair].mean(1)
                result[s, t] = float(((rate[1:] - rate[:-1]) * (mean[1:] + mean[:-1]) / 2).sum())
    return result
