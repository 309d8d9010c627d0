"""The study of black boxes at its smoke scale, and the theft that studies share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labs import lab, needs_mnist
from sapper.claims import Outcome
from sapper.data.loading import load_data
from sapper.foreign import access
from sapper.lab import answers
from sapper.models.loading import load_model
from sapper.models.training import train
from sapper.studies._black_box_common import logistic, network, refined
from sapper.studies._black_box_oracles import Binned, own_step
from sapper.studies._theft_common import LabelsOnly, Plan, Victim, fooled, judged, robbed, stepped
from sapper.study_run import run_study

SMALL = Plan("softmax", 2, epochs=5, batch_size=10, learning_rate=0.05, seeds=40)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Softmax regression on the digits."""
    return load_model(str(train("softmax", "digits", tmp_path_factory.mktemp("oracle") / "softmax"))).module


@pytest.fixture
def victim(module: nn.Module) -> Victim:
    data = load_data("digits")
    return Victim("digits", LabelsOnly(module), data.x, data.y)


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome: Outcome = run_study("black_box", lab(tmp_path), "sapper study black_box")
    metamind, amazon, google, retrained, masked, drawn, training = outcome.parts
    assert [row[1] for row in metamind.tables[0].rows] == [40, 80]
    claims = {claim.what: claim for part in outcome.parts for claim in part.claims}
    assert claims["amazon: transfer from LR, 80 questions"].paper == 96.19
    assert claims["google: transfer from LR, 80 questions"].paper == 88.94
    assert claims["transfer at eps 0.4 after 6 400 questions"].paper == 84.24
    assert claims["accuracy of the substitute after 6400 questions"].measured is None
    assert len(amazon.tables[0].rows) == 5
    assert (len(google.tables), len(retrained.tables), len(training.tables)) == (2, 3, 3)
    assert masked.tables[0].rows[0][0] == "plain"
    assert len(drawn.tables[0].rows) == 2
    assert len(training.tables[0].rows) == 7
    for figure in metamind.figures:
        assert (tmp_path / "figures" / figure.file).stat().st_size > 500


def test_the_questions_are_the_papers(tmp_path: Path) -> None:
    here = replace(lab(tmp_path), scale="paper")
    assert (network(here).questions, logistic(here).questions) == (6400, 800)
    assert refined(logistic(here)).questions == refined(network(here)).questions == 2000


def test_an_oracle_tells_labels_only(module: nn.Module, victim: Victim) -> None:
    assert access(victim.module) == "labels"
    with torch.no_grad():
        assert set(np.unique(victim.module(victim.x[:50]).numpy())) == {0.0, 1.0}
    assert answers(module, victim.x).equal(victim.said)


def test_a_theft_counts_what_it_asks_and_is_not_made_twice(victim: Victim, tmp_path: Path) -> None:
    here = lab(tmp_path, "digits")
    rounds = robbed(here, victim, SMALL)
    assert [one.queries for one in rounds] == [40, 80, 159]  # two inputs coincide
    assert rounds[-1].queries == SMALL.questions - 1
    last = answers(rounds[-1].module, victim.x)
    assert rounds[-1].agreement == pytest.approx(float((last == victim.said).double().mean()))
    assert rounds[-1].accuracy == pytest.approx(float((last == victim.y).double().mean()))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("rounds/**/*.safetensors")}
    again = robbed(here, victim, SMALL)
    assert [one.agreement for one in again] == [one.agreement for one in rounds]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    other = robbed(here, victim, replace(SMALL, period=1))
    assert other[0].agreement == rounds[0].agreement
    assert len(list((tmp_path / "thefts" / "digits").iterdir())) == 2


def test_other_seeds_may_be_brought(victim: Victim, tmp_path: Path) -> None:
    here = lab(tmp_path, "digits")
    theirs = replace(victim, name="theirs", seeds=load_data("digits", split="train").x[:90])
    one, two = (robbed(here, who, replace(SMALL, rounds=0))[0] for who in (victim, theirs))
    assert not torch.equal(*(next(sub.module.parameters()) for sub in (one, two)))


def test_every_sample_is_moved_also_a_wrong_one_and_stays_in_the_box(victim: Victim, tmp_path: Path) -> None:
    here = lab(tmp_path, "digits")
    substitute = robbed(here, victim, SMALL)[-1].module
    seen = fooled(here, substitute, victim, 0.2)
    moved = (seen.x_adv - victim.x).abs().flatten(1)
    torch.testing.assert_close(moved.amax(1), torch.full((len(moved),), 0.2))
    assert 0 <= float(seen.x_adv.min()) <= float(seen.x_adv.max()) <= 1
    assert seen.oracle == pytest.approx(float((answers(victim.module, seen.x_adv) != victim.y).double().mean()))
    clean = judged(victim, substitute, victim.x)
    assert clean.oracle == pytest.approx(1 - victim.accuracy)
    assert clean.changed == 0
    assert seen.oracle > clean.oracle


class Sure(nn.Module):
    """Another network, a thousand times as sure."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1000 * self.module(x)


def test_a_sure_network_masks_its_gradient_but_not_its_margin(
    module: nn.Module, victim: Victim, tmp_path: Path
) -> None:
    right = victim.said == victim.y
    x, y = victim.x[right], victim.y[right]
    x_adv, still = own_step(Sure(module), x, y, 0.2)
    assert still > 0.9
    assert (answers(module, x_adv) == y).double().mean() > 0.9
    here = lab(tmp_path, "digits")
    freed = stepped(here, Sure(module), x, y, 0.2, loss="margin")
    assert (answers(module, freed) == y).double().mean() < 0.5
    exact, still = own_step(module, x, y, 0.2)
    assert still == 0
    torch.testing.assert_close(exact, stepped(here, module, x, y, 0.2))


def test_bins_see_which_a_pixel_is_in_and_no_more() -> None:
    module = Binned(3, pixels=2)
    alike = module(torch.tensor([[[[0.1, 0.6]]], [[[0.24, 0.74]]]]))
    assert torch.equal(*alike)
    assert not torch.equal(alike[0], module(torch.tensor([[[[0.0, 0.6]]]]))[0])
