"""A quick stand-in for a model, so that the doctor can see whether what fools it fools the model too.

A network of one hidden layer, on inputs shrunk to at most 32 by 32, learns the model's own answers to the clean samples and
to noisy copies of them. Whatever hides the model's gradients does not hide the stand-in's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapper.oracle import LabelOracle
from sapper.tensors import Batch

_ROWS, _HIDDEN, _STEPS, _BATCH, _SIDE = 1024, 256, 200, 128, 32


class Shrunk(nn.Module):
    """Pictures made smaller, by means of blocks; standardised."""

    def __init__(self, x: Batch) -> None:
        super().__init__()
        self.mean, self.std = float(x.mean()), max(float(x.std()), 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        if x.ndim == 4 and max(x.shape[2:]) > _SIDE:
            x = functional.adaptive_avg_pool2d(x, (min(x.shape[2], _SIDE), min(x.shape[3], _SIDE)))
        return x.flatten(1)


def surrogate(model: LabelOracle, x: Batch, classes: int, size: int) -> nn.Module:
    """A network trained on the model's labels of `x`; the same every time, and no global state is touched.

    Args:
        model: Asked for labels only, twice for each of up to 1024 samples.
        x: Clean samples.
        classes: How many the model has.
        size: Rows at once.
    """
    draws = torch.Generator().manual_seed(0)
    clean = x[:_ROWS].float()
    spread = 0.1 * float(clean.max() - clean.min())
    noisy = clean + spread * torch.randn(clean.shape, generator=draws).to(clean.device)
    inputs = torch.cat([clean, noisy.clamp(clean.min(), clean.max())])
    labels = torch.cat([model.labels(part.to(x.dtype)) for part in inputs.split(size)])
    shrink = Shrunk(clean)
    module = _network(shrink, shrink(clean[:1]).shape[1], classes, draws).to(x.device)
    with torch.enable_grad():
        optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
        for _ in range(_STEPS):
            rows = torch.randint(len(inputs), (_BATCH,), generator=draws).to(x.device)
            optimiser.zero_grad()
            functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    return module.to(x.dtype).eval().requires_grad_(requires_grad=False)


def _network(shrink: nn.Module, features: int, classes: int, draws: torch.Generator) -> nn.Module:
    return nn.Sequential(shrink, _layer(features, _HIDDEN, draws), nn.ReLU(), _layer(_HIDDEN, classes, draws))


def _layer(inputs: int, outputs: int, draws: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # without torch's global generator
    layer.weight.data.normal_(0, math.sqrt(2 / inputs), generator=draws)
    layer.bias.data.zero_()
    return layer
