"""What the studies of transfer share: networks of several architectures on MNIST, what they answer, what it costs."""

from torch import nn

from sapper.lab import Lab, answers
from sapper.models.model import Model
from sapper.tensors import Mask

LARGE, SMALL = ("lenet", "wong_kolter", "mlp", "maxout"), ("wong_kolter", "mlp", "softmax")
"""Architectures of the two scales."""


def networks(lab: Lab) -> dict[str, Model]:
    """One of each architecture, all taught the same samples."""
    if lab.scale == "paper":
        return {name: lab.model(name, "train", 4) for name in LARGE}
    return {name: lab.model(name, "train[:2000]", 2, batch_size=20) for name in SMALL}


def percent(mask: Mask) -> float:
    """How many are true."""
    return 100 * float(mask.double().mean())


def accuracies(lab: Lab, models: dict[str, nn.Module]) -> str:
    """In words, over test samples."""
    data = lab.samples("test", lab.size(paper=10_000, smoke=200))
    told = (f"{name} {percent(answers(model, data.x) == data.y):.1f} %" for name, model in models.items())
    return f"Accuracy on {len(data)} test samples: {', '.join(told)}."
