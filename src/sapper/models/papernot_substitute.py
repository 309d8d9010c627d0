"""The substitute that a network behind an endpoint is stolen into: two small convolutions, two layers of 200 units.

Papernot, McDaniel, Goodfellow, Jha, Celik, Swami, "Practical Black-Box Attacks against Machine Learning", 2017: 32 and 64
maps of 2×2, each with a pooling. First weights are drawn as the libraries of that time drew them (Glorot): torch's own are
so small that little is learned of a hundred samples.
"""

from torch import nn

from sapper.errors import ModelError
from sapper.models.architecture import Recipe
from sapper.models.layout import channels_last

RECIPE = Recipe(epochs=10, batch_size=10, learning_rate=0.01, momentum=0.9)
"""The paper says nothing of batches; small ones suit the few samples of the first rounds."""


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3 or min(input_shape[1:]) < 7:
        raise ModelError(
            f"papernot_substitute expects images (channels, height, width) of at least 7×7, got shape {input_shape}."
        )
    channels, *sides = input_shape
    height, width = (((side - 1) // 2 - 1) // 2 for side in sides)
    module = nn.Sequential(
        # The rectifier is monotone: after the pooling it gives the same values for a quarter of the work.
        *(nn.Conv2d(channels, 32, 2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 2), nn.MaxPool2d(2), nn.ReLU()),
        nn.Flatten(),
        *(nn.Linear(64 * height * width, 200), nn.ReLU()),
        *(nn.Linear(200, 200), nn.ReLU()),
        nn.Linear(200, classes),
    )
    for weight in module.parameters():
        nn.init.xavier_uniform_(weight) if weight.ndim > 1 else nn.init.zeros_(weight)
    return channels_last(module)
