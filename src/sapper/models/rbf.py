"""A shallow network of radial basis functions: each class has a centre, and is the less likely the farther from it.

p(class | x) = exp(−(x − μ)ᵀ β (x − μ)), with a diagonal β for each class (Goodfellow, Shlens and Szegedy 2015, section 7).
Its answers are log p: exp of an answer is the network's own confidence, which need not sum to 1 over the classes.
"""

import math
from math import prod

import torch
from torch import Tensor, nn

from sapper.models.architecture import Recipe

RECIPE = Recipe(epochs=15, learning_rate=0.01)
_FAR = 16
"""Minus log p at a distance of 1 in every feature, before training."""


class RBF(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(classes, features))
        self.log_beta = nn.Parameter(torch.full((classes, features), math.log(_FAR / features)))

    def forward(self, x: Tensor) -> Tensor:
        x, beta = x.flatten(1), self.log_beta.exp()
        # The square multiplied out, which needs no rows × classes × features; what rounding leaves below 0 is 0.
        spread = x.square() @ beta.T - 2 * x @ (beta * self.centre).T + (beta * self.centre.square()).sum(1)
        return -spread.clamp_min(0)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return RBF(prod(input_shape), classes)
