"""Several models as one, so that what is crafted on it fools others too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sapper.errors import ModelError, UsageError


class Ensemble(nn.Module):
    """Answers with the weighted mean of its models' logits."""

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def forward(self, x: Tensor) -> Tensor:
        answers = [model(x.clone()) for model in self.models]  # a model may change its input in place
        if len({answer.shape for answer in answers}) > 1:
            shapes = ", ".join(str(tuple(answer.shape)) for answer in answers)
            raise ModelError(f"expected models with the same classes, got logits of shapes {shapes}.")
        return torch.stack([weight * answer for weight, answer in zip(self.weights, answers, strict=True)]).sum(0)


def ensemble(models: Sequence[nn.Module], weights: Sequence[float] | None = None) -> nn.Module:
    """Several models as one, by the mean of their logits (Dong et al. 2018, Eq. 8): a module for `craft`, `fit` and audits.

        sapper.craft(sapper.ensemble([first, second]), x, y, attack="mifgsm:confidence=1000", threat="linf:8/255")

    Args:
        models: All for the same inputs and classes, on one device.
        weights: How much each counts; equal if not given.

    Raises:
        UsageError: No model, or weights that do not fit.
    """
    given = [1.0] * len(models) if weights is None else list(weights)
    if not models or len(given) != len(models) or not all(0 <= one < float("inf") for one in given) or not sum(given):
        raise UsageError(
            f"expected one weight of 0 or more for each of {len(models)} models, at least one, got {given}."
        )
    return Ensemble(models, given)
