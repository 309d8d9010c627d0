"""SqueezeNet 1.0: fire modules, which squeeze to few channels and expand them by 1×1 and 3×3 convolutions.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
<0.5MB model size", 2016. Layers carry the names of the authors' Caffe model (fire2/conv1x1_1), which takes BGR: the
channels of an RGB input are reversed inside. The last convolution has a padding of 1, as theirs.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.models.architecture import Published
from sapper.models.layout import channels_last

# Means of R, G, B on 0..255; Caffe neither scales nor divides by a deviation.
PUBLISHED = Published((3, 227, 227), 1000, mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,))

SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
POOLED = {4, 8}


class SqueezeNet(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.add_module("conv1", nn.Conv2d(channels, 96, 7, stride=2))
        into = 96
        for number, squeeze in SQUEEZE.items():
            self.add_module(f"fire{number}/conv1x1_1", nn.Conv2d(into, squeeze, 1))
            self.add_module(f"fire{number}/conv1x1_2", nn.Conv2d(squeeze, 4 * squeeze, 1))
            self.add_module(f"fire{number}/conv3x3_2", nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1))
            into = 8 * squeeze
        self.add_module("conv_final", nn.Conv2d(into, classes, 1, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = _pool(self._relu("conv1", x.flip(1)))
        for number in SQUEEZE:
            x = self._relu(f"fire{number}/conv1x1_1", x)
            parts = [self._relu(f"fire{number}/{expand}", x) for expand in ("conv1x1_2", "conv3x3_2")]
            x = torch.cat(parts, 1)
            x = _pool(x) if number in POOLED else x
        return self._relu("conv_final", x).mean((2, 3))

    def _relu(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(name)(x))


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3:
        raise ModelError(f"squeezenet expects images (channels, height, width), got shape {input_shape}.")
    return channels_last(SqueezeNet(input_shape[0], classes))
