import copy

import pytest
import torch
from torch import nn

from sapper.models.architecture import architecture
from sapper.models.layout import channels_last


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_have_the_layout_and_the_same_values(channels):
    plain = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    laid_out = channels_last(copy.deepcopy(plain))
    x = torch.rand(2, channels, 9, 9)
    y = laid_out(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y, plain(x), atol=1e-6)


def test_the_layout_outlives_copies_weights_and_double():
    net = architecture("lenet").build((1, 28, 28), 10)
    net.load_state_dict({key: value.contiguous().clone() for key, value in net.state_dict().items()})
    for other in (net, copy.deepcopy(net), copy.deepcopy(net).double().float()):
        inner = other.get_submodule("conv1")(torch.rand(2, 1, 28, 28))
        assert inner.is_contiguous(memory_format=torch.channels_last)


def test_double_works():
    net = architecture("lenet").build((1, 28, 28), 10)
    x = torch.rand(2, 1, 28, 28)
    assert torch.allclose(copy.deepcopy(net).double()(x.double()).float(), net(x), atol=1e-5)
