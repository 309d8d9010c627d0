"""The forward derivative by the paper's own recursion: layer by layer from the input, no backward pass.

Papernot et al. (2016), Eq. 5 and 6: the derivative of a hidden layer by one input feature is
    ∂H_k/∂x_i = f'_k(W_k·H_(k−1) + b_k) · (W_k · ∂H_(k−1)/∂x_i),
so all columns together are a matrix that every layer multiplies.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.tensors import Batch

Jacobian = Float[Tensor, "rows classes features"]


def forward_derivative(network: nn.Sequential, x: Batch) -> Jacobian:
    """∂F/∂x of a feed-forward network: linear layers, flattening, and elementwise activations.

    Raises:
        ModelError: A layer of another kind.
    """
    values = x
    features = x[0].numel()
    derivative = torch.eye(features, dtype=x.dtype, device=x.device).expand(len(x), features, features)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Linear):
                derivative, values = layer.weight @ derivative, layer(values)
            elif isinstance(layer, nn.Flatten):
                values = layer(values)
            else:
                slope, values = _slope(layer, values)
                derivative = slope[:, :, None] * derivative
    return derivative.detach()


def _slope(activation: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    """f'(z) and f(z) of an elementwise activation."""
    result = activation(values)
    match activation:
        case nn.Sigmoid():
            return result * (1 - result), result
        case nn.Tanh():
            return 1 - result.square(), result
        case nn.ReLU():
            return (values > 0).to(values.dtype), result
        case nn.Identity():
            return torch.ones_like(values), result
    raise ModelError(
        f"the paper's recursion is for linear layers with sigmoid, tanh or ReLU, got {type(activation).__name__}: "
        "use torch.func.jacrev for other networks."
    )
