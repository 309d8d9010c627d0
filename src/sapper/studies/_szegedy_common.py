"""What the parts of Szegedy's study share: its networks, the least distortion towards a random class, magnification."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper import catalogue, noise
from sapper.data.dataset import Data
from sapper.goal import Targeted
from sapper.lab import Lab
from sapper.models.softmax import build as softmax
from sapper.oracle import TorchOracle, frozen
from sapper.scheduler import craft_cases
from sapper.studies._teaching import Lesson, Loss, samples, taught
from sapper.tensors import Batch, Labels, nonzero
from sapper.threat import Threat, norm

PIXELS = 784
SPARSE = 0.05
"""Mean activity that the autoencoder's units are held to."""


@dataclass(frozen=True)
class Distorted:
    """Samples and what became of them; those for which nothing was found are left out."""

    x: Batch
    x_adv: Batch
    y: Labels
    found: float
    """The share for which something was."""

    @property
    def rms(self) -> float:
        """The mean over samples of √(Σ(x' − x)² / 784), the paper's distortion."""
        return float((norm(self.x_adv - self.x, 2) / math.sqrt(PIXELS)).double().mean())


def sigmoids(*units: int) -> nn.Sequential:
    """Layers of sigmoid units, and ten outputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip((PIXELS, *units), units, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(units[-1], 10))


def decaying(*strengths: float) -> Loss:
    """Cross-entropy with the paper's weight decay: λΣw²/k for each layer, of k units."""

    def loss(module: nn.Module, x: Batch, y: Labels) -> Tensor:
        layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
        decay = [s * one.weight.square().sum() / one.out_features for s, one in zip(strengths, layers, strict=True)]
        return F.cross_entropy(module(x), y) + torch.stack(decay).sum()

    return loss


def reconstruction(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    """A sparse autoencoder's, of the first layer and its transpose; knows no labels."""
    _, layer, squash, _ = module.children()
    assert isinstance(layer, nn.Linear)
    hidden = squash(layer(x.flatten(1)))
    activity = hidden.mean(0)
    again = F.binary_cross_entropy_with_logits(hidden @ layer.weight, x.flatten(1), reduction="none").sum(1).mean()
    return again + F.binary_cross_entropy(activity, torch.full_like(activity, SPARSE), reduction="sum")


def _on_top(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    """Of the last layer; the code below it stays as it is."""
    flat, layer, squash, last = module.children()
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        code = squash(layer(flat(x)))
    return F.cross_entropy(last(code), y) + 1e-6 * last.weight.square().sum() / last.out_features


def learned(lab: Lab) -> Data:
    return samples(lab, "train", None if lab.scale == "paper" else 1000)


def network(lab: Lab, name: str, build: Callable[[], nn.Module], loss: Loss, data: Data | None = None) -> nn.Module:
    return taught(lab, name, build, Lesson(data or learned(lab), lab.size(paper=20, smoke=4), 2e-3, loss))


def networks(lab: Lab) -> dict[str, nn.Module]:
    """Table 1's."""
    made = {
        f"FC10({strength})": network(lab, f"FC10-{strength}", lambda: softmax((1, 28, 28), 10), decaying(float(strength)))
        for strength in ("1e-4", "1e-2", "1")
    }  # fmt: skip
    for units in (100, 200):
        made[f"FC{units}"] = network(
            lab, f"FC{units}", lambda units=units: sigmoids(units, units), decaying(1e-5, 1e-5, 1e-6)
        )
    data = learned(lab)
    codes, top = (Lesson(data, lab.size(paper=10, smoke=2), 1e-3, loss) for loss in (reconstruction, _on_top))
    made["AE400"] = taught(lab, "AE400", lambda: sigmoids(400), codes, top)
    return made


def attack(lab: Lab) -> str:
    return "lbfgs:loss=cross_entropy" if lab.scale == "paper" else "lbfgs:loss=cross_entropy,steps=15,search_steps=3"


def distorted(lab: Lab, module: nn.Module, data: Data) -> Distorted:
    """The least change, within [0, 1], that makes each sample a random other class."""
    index = torch.arange(len(data))
    key = noise.keys(lab.seed, index)
    step = noise.uniform(key, torch.zeros_like(index), 1, torch.float64)[:, 0]
    goal = Targeted(data.y, (data.y + 1 + (step * 9).long()) % 10)
    with frozen(module):
        made = craft_cases(
            TorchOracle(module), catalogue.attack(attack(lab)), data.x, goal, Threat.parse("l2:min"), key
        )
    kept = made.found
    return Distorted(data.x[kept], made.x_adv[kept], data.y[kept], float(kept.double().mean()))


def noisy(lab: Lab, data: Data, deviation: float) -> Distorted:
    """Gaussian noise instead; not clipped."""
    key = noise.keys(lab.seed, torch.arange(len(data)))
    change = deviation * noise.normal(key, torch.zeros_like(key), PIXELS, data.x.dtype)
    return Distorted(data.x, data.x + change.reshape(data.x.shape), data.y, 1.0)


def magnified(made: Distorted, rms: float) -> Distorted:
    """Every change stretched or shrunk to this RMS; not clipped.

    The paper prints x + 0.1 (x' − x) / ‖x' − x‖, which is √784 times smaller than the deviation of 0.1 it speaks of.
    """
    change = made.x_adv - made.x
    size = nonzero(norm(change, 2))[:, None, None, None]
    return Distorted(made.x, made.x + rms * math.sqrt(PIXELS) * change / size, made.y, made.found)


def error(module: nn.Module, x: Batch, y: Labels) -> float:
    with torch.no_grad():
        return float((torch.cat([module(part) for part in x.split(1000)]).argmax(1) != y).double().mean())
