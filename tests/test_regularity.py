"""The neighbour-difference detector, and the attack that keeps its score low."""

import numpy as np
import pytest
import torch
from torch import nn

import sapper
import sapper.errors
from sapper.regularity import detection, roughness
from sapper.saliency import roughness_rise


def test_roughness_sums_squared_differences_of_neighbours() -> None:
    image = np.array([[[[0.0, 1.0], [0.5, 0.0]]]])
    assert roughness(image)[0] == pytest.approx(1 + 0.25 + 0.25 + 1)


def test_the_rise_of_each_pixel_is_what_changing_it_alone_adds() -> None:
    x = torch.rand(2, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    rise = roughness_rise(x, change).flatten(1)
    before = roughness(x.numpy())
    for pixel in range(rise.shape[1]):
        moved = x.flatten(1).clone()
        moved[:, pixel] += change.flatten(1)[:, pixel]
        added = roughness(moved.reshape(x.shape).numpy()) - before
        np.testing.assert_allclose(rise[:, pixel].numpy(), added, atol=1e-12)


def test_detection_of_scores_that_separate_and_that_do_not() -> None:
    clean = np.array([1.0, 2.0, 3.0])
    perfect = detection(clean, clean + 10, np.arange(3))
    assert (perfect.paired, perfect.auc, perfect.at(0.0)) == (1.0, 1.0, 1.0)
    same = detection(clean, clean, np.arange(3))
    assert (same.paired, same.auc) == (0.0, 0.5)


def test_the_adaptive_attack_changes_only_what_does_not_roughen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.rand(20, 1, 8, 8)
    y = model(x).argmax(1)
    plain = sapper.craft(model, x, y, attack="jsma:features=single", threat="l0:1")
    smooth = sapper.craft(model, x, y, attack="jsma:features=single,roughness=0", threat="l0:1")
    changed = (smooth.x_adv != x).flatten(1).any(1)
    assert changed.any()
    assert (roughness(smooth.x_adv.numpy()) <= roughness(x.numpy()) + 1e-6).all()
    assert (roughness(plain.x_adv.numpy()) > roughness(x.numpy()) + 1e-6).any()


def test_roughness_needs_images() -> None:
    model = nn.Linear(6, 3)
    with pytest.raises(sapper.errors.UsageError, match="images"):
        sapper.craft(model, torch.rand(2, 6), torch.tensor([0, 1]), attack="jsma:roughness=0", threat="l0:2")
