import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sapper
from sapper.errors import UsageError
from sapper.models.model import digest, preprocessed


def test_without_preprocessing_the_network_is_itself():
    net = nn.Flatten()
    assert preprocessed(net, None, None, None) is net


def test_preprocessing_is_per_channel_and_differentiable():
    module = preprocessed(nn.Identity(), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0), None)
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    y = module(x)
    assert torch.allclose(y[:, 2], (x[:, 2] - 0.3) / 2)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 0, 0].tolist() == pytest.approx([2, 1, 0.5])


def test_one_value_serves_all_channels_and_features():
    module = preprocessed(nn.Identity(), (0.5,), None, None)
    assert module(torch.ones(2, 7)).tolist() == [[0.5] * 7] * 2
    assert module(torch.ones(2, 3, 4, 4)).mean() == 0.5


def test_resizing_comes_first():
    x = torch.rand(1, 1, 8, 8)
    expected = F.interpolate(x, (4, 6), mode="bilinear", antialias=True) - 1
    assert torch.equal(preprocessed(nn.Identity(), (1.0,), (1.0,), (4, 6))(x), expected)


def test_a_double_network_keeps_its_precision():
    module = preprocessed(nn.Linear(3, 2).double(), (0.1,), (0.2,), None)
    assert module(torch.rand(2, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("attack", ["pgd", "deepfool"])
def test_budgets_and_distances_are_in_the_datas_units_whatever_the_network_is_fed(attack):
    """As of a network without preprocessing whose first layer does the same."""
    mean, std = torch.tensor([-3.0, 0.2, 7.0]), torch.tensor([0.01, 0.5, 40.0])
    inner, whole = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    draws = torch.Generator().manual_seed(0)
    whole.weight.data = torch.randn(4, 3, generator=draws, dtype=torch.float64)
    whole.bias.data = -whole.weight.data.sum(1) / 2
    inner.weight.data, inner.bias.data = whole.weight.data * std, whole.bias.data + whole.weight.data @ mean.double()
    x = torch.rand(30, 3, generator=draws, dtype=torch.float64)
    y = whole(x).argmax(1)
    fed = preprocessed(inner, tuple(mean.tolist()), tuple(std.tolist()), None)
    plain, standardised = (sapper.craft(net, x, y, attack=attack, threat="linf:0.1") for net in (whole, fed))
    assert 3 < int(plain.found.sum()) < 30
    assert torch.equal(standardised.found, plain.found)
    torch.testing.assert_close(standardised.x_adv, plain.x_adv)
    assert (standardised.x_adv - x).abs().amax() <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("mean", "std", "resize"), [((0.0,), (0.0,), None), ((0.0,) * 2, (1.0,) * 3, None), (None, None, (0, 4))]
)
def test_impossible_preprocessing_is_refused(mean, std, resize):
    with pytest.raises(UsageError, match="expected"):
        preprocessed(nn.Identity(), mean, std, resize)


def test_the_digest_follows_weights_buffers_and_parts():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    first = digest(net)
    assert digest(net) == first
    assert digest(net, b"x") != first
    with torch.no_grad():
        net[0].weight[0, 0] += 1e-6
    second = digest(net)
    net[1].running_mean += 1
    assert len({first, second, digest(net)}) == 3


def test_the_digest_of_any_type():
    net = nn.Module()
    for i, dtype in enumerate((torch.bfloat16, torch.float64, torch.int64, torch.bool)):
        net.register_buffer(f"b{i}", torch.ones((), dtype=dtype))
    assert len(digest(net)) == 64
