"""The FGSM study: its closed forms, and the whole at its smoke scale."""

from pathlib import Path

import pytest
import torch
from torch import nn

from labs import lab, needs_mnist
from sapper.attacks.fgsm import FGSM
from sapper.models import maxout, rbf
from sapper.scheduler import craft
from sapper.studies._fgsm_common import DENSITIES, SIGMOIDS, SOFTMAX, Net, seen, stepped
from sapper.studies._fgsm_logistic import adversarial, decayed, margin
from sapper.study_run import find, run_study


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("fgsm", lab(tmp_path), "sapper study fgsm")
    assert len(outcome.parts) == len(find("fgsm")().parts())
    claims = {claim.what: claim for part in outcome.parts for claim in part.claims}
    assert claims["softmax: error, ε = 0.25"].verdict == "met"
    assert claims["error under FGSM, ε = 0.25"].measured == pytest.approx(99, abs=1)
    assert claims["CIFAR-10, convolutional maxout: error at ε = 0.1"].verdict == "not comparable"
    exact = next(claim for what, claim in claims.items() if "closed form" in what)
    assert exact.verdict == "met"
    for part in outcome.parts:
        assert part.claims
        for figure in part.figures:
            assert (tmp_path / "figures" / figure.file).stat().st_size > 500


def linear(features: int = 6, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOIDS, DENSITIES])
def test_the_step_is_of_the_whole_eps_in_every_feature_and_raises_the_loss(head) -> None:
    x, y = torch.rand(20, 6), torch.arange(20) % 3
    module = nn.Sequential(linear(), nn.LogSigmoid()) if head is DENSITIES else linear()
    x_adv = stepped(Net(module, head), x, y, 0.01)
    assert torch.allclose((x_adv - x).abs(), torch.full_like(x, 0.01), atol=1e-6)
    assert bool((head.loss(module(x_adv), y) > head.loss(module(x), y)).all())


def test_the_step_is_the_attacks_own_where_there_is_no_box() -> None:
    module, x = linear(), torch.rand(30, 6)
    y = module(x).argmax(1)
    result = craft(module, x, y, attack=FGSM(), threat="linf:0.6", bounds=(-torch.inf, torch.inf))
    assert bool(result.found.any())
    assert torch.allclose(result.x_adv, stepped(Net(module, SOFTMAX), x, y, 0.6), atol=1e-6)


def test_a_sure_softmax_has_its_gradient_still() -> None:
    module, x = nn.Sequential(nn.Linear(2, 2, bias=False)), torch.tensor([[1.0, 0.0]])
    module[0].weight.data = torch.tensor([[30.0, 1.0], [0.0, 2.0]])
    assert stepped(Net(module, SOFTMAX), x, torch.tensor([0]), 0.5).tolist() == [[0.5, 0.5]]


def test_the_closed_form_is_the_worst_corner() -> None:
    module, x, y = linear(4, 2), torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])
    corners = 0.1 * (2 * torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4) - 1)
    worst = torch.stack([margin(module, x + corner, y) for corner in corners]).amin(0)
    assert torch.allclose(margin(module, x, y, 0.1), worst, atol=1e-6)


def test_the_adversarial_objective_is_the_loss_of_the_stepped_samples() -> None:
    module, x, y = linear(4, 2), torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])
    x_adv = stepped(Net(module, SOFTMAX), x, y, 0.2)
    with torch.no_grad():
        assert torch.allclose(adversarial(0.2)(module, x, y), SOFTMAX.loss(module(x_adv), y).mean())
        assert torch.allclose(decayed(0.0)(module, x, y), SOFTMAX.loss(module(x), y).mean())


def test_confidence_is_over_the_errors_only() -> None:
    net = Net(nn.Identity(), SOFTMAX)
    logits = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    found = seen(net, logits, torch.tensor([0, 0]))
    assert found.error == 0.5
    assert found.confidence_of_errors == pytest.approx(float(torch.tensor(1.0).sigmoid()))


def test_a_radial_unit_is_sure_at_its_centre_and_of_nothing_far_away() -> None:
    module = rbf.build((1, 3, 3), 4).requires_grad_(requires_grad=False)
    module.centre[:] = torch.rand(4, 9)
    answers = module(module.centre.reshape(4, 1, 3, 3))
    assert torch.allclose(answers.diagonal(), torch.zeros(4), atol=1e-5)
    assert float(module(10 * torch.ones(1, 1, 3, 3)).exp().amax()) < 1e-6
    by_hand = -(module.log_beta.exp() * (1 - module.centre).square()).sum(1)
    assert torch.allclose(module(torch.ones(1, 1, 3, 3))[0], by_hand, rtol=1e-4)


def test_a_maxout_unit_is_the_greatest_of_its_pieces() -> None:
    layer = maxout.Maxout(3, 2)
    x = torch.rand(4, 3)
    pieces = layer.pieces(x)
    assert torch.equal(layer(x)[:, 1], pieces[:, 5:].amax(1))
