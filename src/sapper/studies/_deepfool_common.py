"""What the parts of the DeepFool study share: networks, relative distances, the paper's three attacks without a box."""

import math

import torch
from torch import nn

from sapper.lab import Lab, answers
from sapper.scheduler import Crafted, craft
from sapper.studies._fgsm_common import SOFTMAX, Net, stepped
from sapper.studies._teaching import Lesson, samples, taught
from sapper.tensors import Batch, per_row
from sapper.threat import norm

FOOLED = 0.9
"""The share of samples that FGSM's ε must fool to be compared."""
_FARTHEST, _HALVINGS = 4.0, 16


def networks(lab: Lab) -> dict[str, nn.Module]:
    return {"LeNet": lenet(lab), "FC500-150-10": fully_connected(lab)}


def lenet(lab: Lab) -> nn.Module:
    if lab.scale == "paper":
        return lab.model("lenet", "train").module
    return lab.model("lenet", "train[:1000]", epochs=2).module


def fully_connected(lab: Lab) -> nn.Module:
    data = samples(lab, "train", None if lab.scale == "paper" else 1000)
    return taught(lab, "FC500-150-10", _fc, Lesson(data, lab.size(paper=12, smoke=4)))


def _fc() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 150), nn.ReLU(), nn.Linear(150, 10)
    )


def deepfooled(lab: Lab, module: nn.Module, x: Batch, threat: str) -> Crafted:
    """The attack without a box, away from the network's own answer, which may be wrong."""
    return craft(
        module, x, answers(module, x), attack="deepfool", threat=threat, bounds=(-math.inf, math.inf), seed=lab.seed
    )


def fast_gradient(
    module: nn.Module, x: Batch, eps: float | None = None, wanted: float = FOOLED
) -> tuple[Batch, float, float]:
    """FGSM without a box, with the smallest ε that fools a share of the samples, unless it is given.

    Returns:
        The samples, ε, and the share that is fooled.
    """
    y = answers(module, x)
    direction = stepped(Net(module, SOFTMAX), x, y, 1.0) - x

    def fooled(size: float) -> float:
        return float((answers(module, x + size * direction) != y).double().mean())

    if eps is None:
        low, eps = 0.0, _FARTHEST
        for _ in range(_HALVINGS):
            middle = (low + eps) / 2
            low, eps = (low, middle) if fooled(middle) >= wanted else (middle, eps)
    return x + eps * direction, eps, fooled(eps)


def added(made: Crafted, x: Batch) -> Batch:
    """What was added to each sample; infinite where nothing fools, as where an attack gave up is no distance."""
    return torch.where(per_row(made.found, x), made.x_adv - x, math.inf)


def ratio(change: Batch, x: Batch, p: float) -> float:
    """The paper's ρ: the mean of |r| / |x|."""
    return float((norm(change, p) / norm(x, p)).double().mean())
