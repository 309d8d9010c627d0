"""What a model of a simple kind is made of, where that is known: weights, a tree's nodes, or the points it has stored.

Attacks on such learners need neither scores nor gradients, but these parts. A module says what it is made of by an
attribute `learner` (`Foreign` has one), in the units of its inputs and numbering classes as its outputs do; a torch network
of one linear layer is a linear model.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sapper.tensors import Batch, Flat, Labels, Logits, nonzero

_ELEMENTS = 1 << 22
"""Of the largest tensor that is made beside the samples and the model."""


@dataclass(frozen=True)
class Linear:
    """Predicts the class whose score, weight·x + bias, is the greatest."""

    kind: ClassVar[str] = "a linear model"

    weight: Tensor
    """(classes, features)."""
    bias: Tensor
    """(classes,)."""

    def scores(self, x: Batch) -> Logits:
        return x.flatten(1) @ self.weight.to(x).T + self.bias.to(x)

    def pull(self, cotangent: Logits, x: Batch) -> Batch:
        """The gradient by x of the scores, weighed by a cotangent."""
        return (cotangent @ self.weight.to(x)).reshape(x.shape)


@dataclass(frozen=True)
class Tree:
    """Predicts the class of the leaf that a sample falls into. One entry a node, the root first; a leaf's child is -1.

    Features are compared with thresholds in float32, as scikit-learn does.
    """

    kind: ClassVar[str] = "a decision tree"

    feature: Tensor
    """What an inner node looks at, a place in the flat sample."""
    threshold: Tensor
    """Up to it, and with it, a sample goes left; float64."""
    left: Tensor
    right: Tensor
    label: Tensor
    """The node's own majority; a leaf's is predicted."""

    def leaves(self, x: Batch) -> Labels:
        """Where samples fall, all at once, a level a round."""
        tree, flat = self.to(x.device), seen(x.flatten(1))
        below, _ = tree.sides(flat.dtype)
        node = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        while bool((inner := tree.left[node] >= 0).any()):
            value = flat.gather(1, tree.feature[node].clamp_min(0)[:, None])[:, 0]
            child = torch.where(value <= below[node], tree.left[node], tree.right[node])
            node = torch.where(inner, child, node)
        return node

    def sides(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """For each node, the greatest number of a type that goes left and the least that goes right.

        In float64 those of float32, to which samples are rounded before they are compared.
        """
        narrow = torch.float32 if dtype == torch.float64 else dtype
        below = self.threshold.to(narrow)
        below = torch.where(below.double() > self.threshold, _next(below, -math.inf), below)
        return below.to(dtype), _next(below, math.inf).to(dtype)

    def to(self, device: torch.device) -> "Tree":
        return Tree(*(part.to(device) for part in vars(self).values()))


@dataclass(frozen=True)
class Neighbours:
    """Predicts the class of the nearest of its points, in the Euclidean distance, or of most of the nearest few."""

    kind: ClassVar[str] = "nearest neighbours"

    points: Tensor
    """(points, features)."""
    labels: Tensor
    """(points,)."""

    def soft(self, x: Batch, unit: float = 1.0) -> tuple[Logits, Tensor]:
        """The soft-min of the distances to the points, class by class (Papernot et al. 2016).

        A point z weighs exp(−|z − x|²). By matrix products, a part of the points at a time: nothing is made of the size
        samples x points x features.

        Args:
            x: Samples.
            unit: Of the distances.

        Returns:
            For each class the logarithm of its points' weight, up to a number for each sample, and (rows, classes,
            features) its points' mean by weight; -inf and zeros for a class without points.
        """
        flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
        means = [_soft(flat / unit, self.points[self.labels == c], unit) for c in range(int(self.labels.max()) + 1)]
        return torch.stack([mass for mass, _ in means], 1), torch.stack([mean for _, mean in means], 1)


KnownLearner = Linear | Tree | Neighbours
KINDS = " or ".join(one.kind for one in (Linear, Tree, Neighbours))


def learner_of(module: nn.Module) -> KnownLearner | None:
    """What a module is made of, if that is known."""
    known = getattr(module, "learner", None)
    if isinstance(known, KnownLearner):
        return known
    parts = list(module) if type(module) is nn.Sequential else [module]
    layers = [part for part in parts if type(part) is not nn.Flatten]
    if len(layers) != 1 or not isinstance(layer := layers[0], nn.Linear) or type(layer) is not nn.Linear:
        return None
    bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
    return Linear(layer.weight.detach(), bias.detach())


def seen(x: Tensor) -> Tensor:
    """Samples as a tree sees them: rounded to float32, in the type they have."""
    return x.float().double() if x.dtype == torch.float64 else x


def _next(values: Tensor, towards: float) -> Tensor:
    """The next number of their type."""
    return torch.nextafter(values, torch.full_like(values, towards))


def _soft(x: Flat, points: Tensor, unit: float) -> tuple[Tensor, Flat]:
    """One class: log Σ exp(2 x·z − |z|²), which is −|z − x|² but for |x|², and the mean of z so weighed.

    Sums are kept in units of the largest weight so far.
    """
    top = torch.full_like(x[:, :1], -math.inf)
    total, mean = torch.zeros_like(top), torch.zeros_like(x)
    for part in points.split(max(1, _ELEMENTS // max(len(x), points.shape[1]))) if len(points) else ():
        z = part.to(x) / unit
        score = 2 * x @ z.T - z.square().sum(1)
        higher = torch.maximum(top, score.amax(1, keepdim=True))
        weight, fade = (score - higher).exp(), (top - higher).exp()
        total, mean, top = total * fade + weight.sum(1, keepdim=True), mean * fade + weight @ z, higher
    return (top + total.log())[:, 0], mean / nonzero(total) * unit
