"""How a network's numbers lie in memory, which decides how fast it is."""

import torch
from torch import nn


def channels_last(module: nn.Module) -> nn.Module:
    """Lays out the weights of convolutions with the channels last, which the layers' outputs then follow.

    Poolings are then vectorised over channels, which on a CPU are a good part of a small network's time. Torch's own
    `module.to(memory_format=torch.channels_last)` leaves a weight of one channel as it is, since both layouts are the
    same bytes; the strides must say it, so that the layer's output has the layout.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach()
            _, channels, height, width = weight.shape
            strides = (channels * height * width, 1, channels * width, channels)
            laid_out = torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device)
            layer.weight = nn.Parameter(laid_out.copy_(weight))
    return module
