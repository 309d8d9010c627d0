"""MobileNetV2 1.0: inverted residuals with linear bottlenecks; batch normalisation is folded into the convolutions.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. Layers are
named by the number of their output (n0, n1, …; an addition takes a number too), as in the weights that circulate from
TensorFlow Lite; class 0 is "background". Padding is TensorFlow's "same": of an odd number the greater half goes to the
bottom and right.
"""

from collections.abc import Iterator

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.models.architecture import Published
from sapper.models.layout import channels_last

PUBLISHED = Published(input_shape=(3, 224, 224), classes=1001, mean=(0.5,), std=(0.5,))

# Table 2 of the paper: expansion, channels, repetitions, stride of the first.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Layer(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding; ReLU6 after it unless it is linear."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, groups: int, *, linear: bool = False) -> None:
        super().__init__(into, out, kernel, stride, groups=groups)
        self.linear = linear

    def forward(self, input: Tensor) -> Tensor:
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, kernel, stride in zip(input.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        padding = (height // 2, width // 2)
        if height % 2 or width % 2:  # the convolution itself pads both ends alike, and without a copy
            input = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
            padding = (0, 0)
        output = F.conv2d(input, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return output if self.linear else F.relu6(output)


def bottleneck(into: int, out: int, expansion: int, stride: int) -> list[Layer]:
    wide = into * expansion
    expand = [Layer(into, wide, 1, 1, 1)] if expansion > 1 else []
    return [*expand, Layer(wide, wide, 3, stride, wide), Layer(wide, out, 1, 1, 1, linear=True)]


def blocks(channels: int) -> Iterator[tuple[list[Layer], bool]]:
    """The layers of each block, and whether its input is added to its output."""
    yield [Layer(channels, 32, 3, 2, 1)], False
    into = 32
    for expansion, out, repetitions, first in BLOCKS:
        for stride in (first, *(1,) * (repetitions - 1)):
            yield bottleneck(into, out, expansion, stride), stride == 1 and into == out
            into = out
    yield [Layer(into, 1280, 1, 1, 1)], False


class MobileNetV2(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.blocks: list[tuple[list[str], bool]] = []
        number = 0
        for layers, add in blocks(channels):
            names = [f"n{number + i}" for i in range(len(layers))]
            for name, layer in zip(names, layers, strict=True):
                self.add_module(name, layer)
            self.blocks.append((names, add))
            number += len(layers) + add
        self.head = f"n{number + 1}"  # the mean takes a number
        self.add_module(self.head, Layer(1280, classes, 1, 1, 1, linear=True))

    def forward(self, x: Tensor) -> Tensor:
        for names, add in self.blocks:
            y = x
            for name in names:
                y = self.get_submodule(name)(y)
            x = x + y if add else y
        return self.get_submodule(self.head)(x.mean((2, 3), keepdim=True)).flatten(1)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3:
        raise ModelError(f"mobilenet_v2 expects images (channels, height, width), got shape {input_shape}.")
    return channels_last(MobileNetV2(input_shape[0], classes))
