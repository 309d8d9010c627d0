"""The DeepFool study: its measures on linear models, and the whole at its smoke scale."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from labs import lab, needs_mnist
from sapper.studies._deepfool_common import FOOLED, added, deepfooled, fast_gradient, ratio
from sapper.study_run import find, run_study


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("deepfool", lab(tmp_path), "sapper study deepfool")
    assert len(outcome.parts) == len(find("deepfool")().parts())
    claims = {claim.what: claim for part in outcome.parts for claim in part.claims}
    for name in ("LeNet", "FC500-150-10"):
        assert claims[f"{name}: how many times DeepFool's distance FGSM's is"].measured > 1
        assert claims[f"{name}: ρ of L-BFGS"].measured > 0
        assert f"{name}: gain of ρ by training on DeepFool's samples" in claims
    assert claims["NIN (CIFAR): ρ of DeepFool"].paper == 0.023
    assert claims["NIN (CIFAR): ρ of DeepFool"].verdict == "not comparable"
    for part in outcome.parts:
        for figure in part.figures:
            assert (tmp_path / "figures" / figure.file).stat().st_size > 500


def two_classes() -> tuple[nn.Module, torch.Tensor]:
    """The second class ahead by w·x + b with w = (3, 4), b = −1."""
    module = nn.Linear(2, 2)
    module.weight.data, module.bias.data = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0.0, -1.0])
    return module, torch.tensor([3.0, 4.0])


def test_the_distance_of_a_linear_model_is_exact_and_knows_no_box(tmp_path: Path) -> None:
    module, w = two_classes()
    x = torch.tensor([[1.0, 1.0], [5.0, 0.2], [0.0, 0.1]])
    found = deepfooled(lab(tmp_path), module, x, "l2:min")
    exact = (x @ w - 1).abs() / 5
    assert bool(found.found.all())
    assert torch.allclose(found.distance, 1.02 * exact, rtol=1e-4)
    assert ratio(found.x_adv - x, x, 2) == pytest.approx(float((1.02 * exact / x.norm(dim=1)).mean()), rel=1e-4)


def test_what_was_not_fooled_is_infinitely_far_and_not_where_the_attack_gave_up(tmp_path: Path) -> None:
    module, _ = two_classes()
    module.weight.data *= torch.tensor([[1.0], [0.0]])  # whatever the input, the first class
    x = torch.tensor([[1.0, 1.0], [5.0, 0.2]])
    made = deepfooled(lab(tmp_path), module, x, "l2:min")
    assert not bool(made.found.any())
    assert torch.equal(made.x_adv, x)
    assert ratio(added(made, x), x, 2) == math.inf


def test_fgsm_gets_the_smallest_eps_that_fools_nine_tenths() -> None:
    module, w = two_classes()
    x = 2 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    x_adv, eps, share = fast_gradient(module, x)
    needed = ((x @ w - 1).abs() / 7).sort().values
    assert eps == pytest.approx(float(needed[899]), abs=1e-3)
    assert share >= FOOLED
    assert float((x_adv - x).abs().amax()) == pytest.approx(eps, rel=1e-5)


def test_the_ratio_in_linf_is_of_greatest_values() -> None:
    assert ratio(torch.tensor([[0.1, -0.3]]), torch.tensor([[0.5, 1.0]]), math.inf) == pytest.approx(0.3)
