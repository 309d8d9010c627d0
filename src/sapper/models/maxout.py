"""A maxout network: two layers of 240 units, each the greatest of five linear pieces, with dropout, then a linear layer.

Goodfellow, Warde-Farley, Mirza, Courville, Bengio, "Maxout Networks", ICML 2013; with these sizes the
permutation-invariant network of Goodfellow, Shlens and Szegedy 2015.
"""

from math import prod

from torch import Tensor, nn

from sapper.models.architecture import Recipe

UNITS, PIECES = 240, 5
RECIPE = Recipe(epochs=15, learning_rate=0.02)


class Maxout(nn.Module):
    """A layer: of each unit's linear pieces the greatest."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.pieces = nn.Linear(inputs, units * PIECES)

    def forward(self, x: Tensor) -> Tensor:
        return self.pieces(x).unflatten(1, (-1, PIECES)).amax(2)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2),
        Maxout(prod(input_shape), UNITS),
        nn.Dropout(0.5),
        Maxout(UNITS, UNITS),
        nn.Dropout(0.5),
        nn.Linear(UNITS, classes),
    )
