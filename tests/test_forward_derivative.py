"""The paper's forward recursion gives what automatic differentiation gives."""

import pytest
import torch
from torch import nn

from sapper.errors import ModelError
from sapper.forward_derivative import forward_derivative


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU])
def test_the_recursion_equals_automatic_differentiation(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, 3)
    ).double()
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    automatic = torch.func.vmap(torch.func.jacrev(lambda one: network(one[None])[0]))(x).flatten(2)
    torch.testing.assert_close(forward_derivative(network, x), automatic, rtol=1e-12, atol=1e-14)


def test_another_layer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="Softmax"):
        forward_derivative(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), torch.rand(1, 2))
