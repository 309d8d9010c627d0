"""Linear support vector machines, one against the rest for each class: squared hinge loss, and small weights.

What scikit-learn's `LinearSVC` learns, by gradient descent; the penalty is that of C = 1 on a thousand samples.
"""

from math import prod

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.models.architecture import Recipe

RECIPE = Recipe(learning_rate=0.01, weight_decay=1e-3)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), classes))


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each class falls short of a margin of 1 on its side, squared."""
    side = 2.0 * F.one_hot(labels, logits.shape[1]) - 1
    return (1 - side * logits).clamp_min(0).square().sum(1).mean()
