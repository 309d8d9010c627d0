"""Hardness: one run at the largest budget gives every smaller one."""

import numpy as np
import polars as pl
import pytest
import torch

import sapper
from sapper import log
from sapper.hardness import Curve, hardness, truncate
from sapper.threat import NORMS, norm
from toys import network

FEATURES = 36


def run(budget: int) -> pl.DataFrame:
    """JSMA on a toy network as rows of a run."""
    model = network((FEATURES,), 4)
    x = torch.rand(60, FEATURES, generator=torch.Generator().manual_seed(3))
    y = model(x).argmax(1)
    target = (y + 1 + torch.arange(60) % 3) % 4
    crafted = sapper.craft(model, x, y, attack="jsma", threat=f"l0:{budget}", targets=target)
    l0 = norm(crafted.x_adv - x, NORMS["l0"])
    columns = {"found": crafted.found.tolist(), "steps": crafted.steps.tolist(), "l0": l0.tolist()}
    return pl.DataFrame(columns, schema={name: log.CASE[name] for name in columns})


def test_truncating_the_largest_run_equals_separate_runs() -> None:
    largest = run(24)
    assert 0 < largest["found"].sum() < 60
    curve = truncate(largest, FEATURES, [1, 3, 7, 12])
    for row, iterations in enumerate([1, 3, 7, 12]):
        separate = run(2 * iterations)
        assert curve.success[row].tolist() == separate["found"].to_list()
        changed = separate["l0"].to_numpy() / FEATURES
        found = separate["found"].to_numpy()
        np.testing.assert_allclose(curve.distortion[row][found], changed[found], rtol=1e-12)
        assert (curve.distortion[row][~found] == 2 * iterations / FEATURES).all()


def test_hardness_is_the_trapezoid_rule_over_success() -> None:
    success = np.array([[False, False], [True, False], [True, True]])
    distortion = np.array([[0.1, 0.1], [0.1, 0.3], [0.1, 0.5]])
    values = hardness(Curve(success, distortion), np.array([0, 0]), np.array([1, 1]), 2)
    # Rates 0, 1/2, 1; means 0.1, 0.2, 0.3.
    assert values[0, 1] == pytest.approx(0.5 * (0.1 + 0.2) / 2 + 0.5 * (0.2 + 0.3) / 2)
    assert np.isnan(values[0, 0])
    assert np.isnan(values[1]).all()
