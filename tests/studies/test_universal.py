"""The study of universal perturbations at its smoke scale."""

from pathlib import Path

import pytest
import torch

from labs import lab, needs_mnist
from sapper.studies.universal import fooling_rate, random_change
from sapper.study_run import run_study
from toys import network, samples


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("universal", lab(tmp_path), "sapper study universal")
    assert len(outcome.parts) == 4
    table = outcome.parts[0].tables[0]
    assert [row[0] for row in table.rows] == ["linf:0.2"] * 3 + ["l2:3"] * 3
    assert all(isinstance(rate, float) and 0 <= rate <= 100 for row in table.rows for rate in row[2:])
    published = [claim for claim in outcome.parts[0].claims if "validation" in claim.what]
    assert len(published) == 12
    assert {claim.verdict for claim in published} == {"not comparable"}
    assert all(
        (tmp_path / "figures" / figure.file).stat().st_size > 500 for part in outcome.parts for figure in part.figures
    )


def test_what_is_fooled_is_counted_against_the_networks_own_answers() -> None:
    model = network()
    x, _ = samples(model, rows=30)
    assert fooling_rate(model, x, torch.zeros_like(x[0]), "linf:0.2") == 0


@pytest.mark.parametrize(("threat", "norm", "eps"), [("linf:0.2", float("inf"), 0.2), ("l2:3", 2, 3.0)])
def test_a_random_change_is_as_large_as_the_ball_allows(threat: str, norm: float, eps: float) -> None:
    change = random_change((1, 28, 28), threat, 0)
    assert float(torch.linalg.vector_norm(change, norm)) == pytest.approx(eps)
