"""LeNet as in the JSMA paper: two convolutions with max-pooling and tanh, 500 hidden units, a linear layer.

Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, "The Limitations of Deep Learning in Adversarial Settings",
EuroS&P 2016; the network is that of the Theano deep-learning tutorial (20 and 50 maps of 5×5).

Images with a side below 16 (scikit-learn's 8×8 digits) leave nothing after two unpadded convolutions and poolings;
for those the convolutions are padded by 2, so that only the poolings shrink them.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.models.architecture import Recipe
from sapper.models.layout import channels_last

RECIPE = Recipe(epochs=5, batch_size=100, learning_rate=0.05, momentum=0.9)
"""Shorter than the paper's (batch 500, rate 0.1, no momentum, up to 200 epochs) for the same accuracy."""


class LeNet(nn.Module):
    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        padding = 0 if min(height, width) >= 16 else 2
        self.conv1 = nn.Conv2d(channels, 20, 5, padding=padding)
        self.conv2 = nn.Conv2d(20, 50, 5, padding=padding)
        self.hidden = nn.Linear(50 * _after(height, padding) * _after(width, padding), 500)
        self.output = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        # tanh is monotone: after the pooling it gives the same values for a quarter of the work.
        x = torch.tanh(F.max_pool2d(self.conv1(x), 2))
        x = torch.tanh(F.max_pool2d(self.conv2(x), 2))
        return self.output(torch.tanh(self.hidden(x.flatten(1))))


def _after(side: int, padding: int) -> int:
    """What two convolutions and poolings leave of a side."""
    for _ in range(2):
        side = (side + 2 * padding - 4) // 2
    return side


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ModelError(f"lenet expects images (channels, height, width) of at least 4×4, got shape {input_shape}.")
    return channels_last(LeNet(*input_shape, classes))
