"""Szegedy's study: its measures, and the whole at its smoke scale."""

from pathlib import Path

import pytest
import torch
from torch import nn

from labs import lab, needs_mnist
from sapper.data.dataset import Data
from sapper.studies._szegedy_common import Distorted, decaying, distorted, magnified, noisy, sigmoids
from sapper.study_run import find, run_study


def pictures(rows: int) -> Data:
    x = torch.rand(rows, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return Data(name="noise", x=x, y=torch.arange(rows) % 10, classes=tuple("0123456789"))


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("szegedy", lab(tmp_path), "sapper study szegedy")
    assert len(outcome.parts) == len(find("szegedy")().parts())
    claims = {claim.what: claim for part in outcome.parts for claim in part.claims}
    for name in ("FC10(1e-4)", "FC10(1)", "FC200", "AE400"):
        assert claims[f"{name} shown to {name}"].measured == 100
    assert claims["greatest movement of the logits, of what the bound allows"].verdict == "met"
    assert claims["AlexNet, layer 1: bound on its norm"].verdict == "not comparable"
    for part in outcome.parts:
        for figure in part.figures:
            assert (tmp_path / "figures" / figure.file).stat().st_size > 500


def test_magnified_changes_have_the_rms_exactly_and_the_direction() -> None:
    data = pictures(5)
    made = Distorted(data.x, data.x + 0.01 * torch.rand(5, 1, 28, 28), data.y, 1.0)
    large = magnified(made, 0.1)
    change = (large.x_adv - large.x).flatten(1)
    assert torch.allclose(change.square().mean(1).sqrt(), torch.full((5,), 0.1), rtol=1e-5)
    assert float(torch.cosine_similarity(change, (made.x_adv - made.x).flatten(1)).amin()) > 0.9999
    assert large.rms == pytest.approx(0.1, rel=1e-5)


def test_noise_has_its_deviation_and_is_the_same_every_time(tmp_path: Path) -> None:
    first, again = (noisy(lab(tmp_path), pictures(50), 0.3) for _ in range(2))
    assert torch.equal(first.x_adv, again.x_adv)
    assert first.rms == pytest.approx(0.3, rel=0.01)


def test_the_decay_is_divided_by_the_units_of_the_layer() -> None:
    module = sigmoids(4)
    data = pictures(3)
    with torch.no_grad():
        plain, more = (decaying(*strengths)(module, data.x, data.y) for strengths in ((0, 0), (0.5, 2.0)))
        first, last = (part.weight for part in module if isinstance(part, nn.Linear))
        assert torch.allclose(more - plain, 0.5 * first.square().sum() / 4 + 2 * last.square().sum() / 10, rtol=1e-4)


def test_what_is_found_is_another_class_within_the_box(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = sigmoids(20)
    data = pictures(6)
    with torch.no_grad():
        data.y[:] = module(data.x).argmax(1)
    made = distorted(lab(tmp_path), module, data)
    assert made.found == len(made.x) / 6 > 0
    assert bool((module(made.x_adv).argmax(1) != made.y).all())
    assert 0 <= float(made.x_adv.min()) <= float(made.x_adv.max()) <= 1
