"""The convolutional network that Papernot, McDaniel and Goodfellow craft on, "Transferability in Machine Learning" (2016).

Two convolutions of 32 maps of 3×3, two of 64, two layers of 100 rectified linear units with dropout. The paper says nothing
of poolings; as in the first author's paper on distillation, the greatest of 2×2 is taken after each pair of convolutions.

Images with a side below 16 leave nothing after four unpadded convolutions; for those they are padded by 1.
"""

from itertools import pairwise

from torch import nn

from sapper.errors import ModelError
from sapper.models.architecture import Recipe
from sapper.models.layout import channels_last

RECIPE = Recipe(epochs=10, batch_size=100, learning_rate=0.01, momentum=0.9)
"""The paper halves the rate once, after 5 epochs; here it falls linearly."""


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ModelError(f"papernot expects images (channels, height, width) of at least 4×4, got shape {input_shape}.")
    channels, height, width = input_shape
    padding = 0 if min(height, width) >= 16 else 1
    features = 64 * _after(height, padding) * _after(width, padding)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise((channels, 32, 32, 64, 64))):
        layers += [nn.Conv2d(before, after, 3, padding=padding), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number % 2 else []
    layers.append(nn.Flatten())
    for before, after in pairwise((features, 100, 100)):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout()]
    return channels_last(_drawn(nn.Sequential(*layers, nn.Linear(100, classes))))


def _drawn(module: nn.Module) -> nn.Module:
    """First weights as libraries of that time drew them (Glorot); torch's are so small that seven layers learn late."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return module


def _after(side: int, padding: int) -> int:
    """What two pairs of convolutions, each with a pooling, leave of a side."""
    for _ in range(2):
        side = (side - 4 + 4 * padding) // 2
    return side
