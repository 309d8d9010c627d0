"""The study of momentum at its smoke scale."""

from pathlib import Path

import torch

from labs import lab, needs_mnist
from sapper.claims import Outcome
from sapper.studies._momentum_common import crafted
from sapper.studies.momentum import MeanProbability
from sapper.study_run import run_study
from toys import network, predict, samples


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome: Outcome = run_study("momentum", lab(tmp_path), "sapper study momentum")
    parts = {part.title: part for part in outcome.parts}
    assert len(parts) == 6
    table = outcome.parts[0].tables[0]
    assert len(table.rows) == 3 * (len(table.columns) - 2)
    for row in table.rows:
        assert all(isinstance(rate, float) and 0 <= rate <= 100 for rate in row[2:])
    published = [claim for claim in outcome.parts[0].claims if "Inc-v3 to" in claim.what]
    assert len(published) == 21
    assert {claim.verdict for claim in published} == {"not comparable"}
    assert all(
        (tmp_path / "figures" / figure.file).stat().st_size > 500 for part in outcome.parts for figure in part.figures
    )


def test_all_steps_are_taken_after_the_first_success(tmp_path: Path) -> None:
    """A sample that has just crossed its own network's boundary would say nothing of transfer."""
    model = network()
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    x_adv = crafted(lab(tmp_path), model, (x, y), 10, 1.0, 0.3)
    assert ((x_adv - x).abs().flatten(1).amax(1) > 0.2).all()


def test_probabilities_are_averaged_and_given_as_logits() -> None:
    models = [network(seed=seed) for seed in (0, 1)]
    x, _ = samples(models[0], rows=5)
    mean = (models[0](x).softmax(1) + models[1](x).softmax(1)) / 2
    torch.testing.assert_close(MeanProbability(models)(x).softmax(1), mean)
