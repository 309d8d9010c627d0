"""What the parts of the FGSM study share: networks with their losses, the paper's step, error and confidence.

The step is the attack's own, without a box, on every sample: the paper counts those that are misclassified as they are
too, and they may come right. An attack that is run as usual leaves these as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models import maxout as maxout_network
from sapper.models import rbf as rbf_network
from sapper.oracle import TorchOracle, frozen
from sapper.studies._teaching import Lesson, samples, taught
from sapper.tensors import Batch, Labels, Logits, Mask, Scalars
from sapper.threat import Threat

EPS = 0.25
"""The paper's, of pixels in [0, 1]."""


@dataclass(frozen=True)
class Head:
    """What a network's answers mean."""

    probability: Callable[[Logits], Logits]
    loss: Callable[[Logits, Labels], Scalars]


@dataclass(frozen=True)
class Net:
    module: nn.Module
    head: Head


@dataclass(frozen=True)
class Seen:
    """How a network answers to a batch."""

    logits: Logits
    wrong: Mask
    confidence: Scalars
    """The likeliest class's probability."""

    @property
    def error(self) -> float:
        return float(self.wrong.double().mean())

    @property
    def confidence_of_errors(self) -> float:
        """Mean over the wrong answers; nan without any."""
        return float(self.confidence[self.wrong].double().mean())


def _each_class(log_p: Tensor, y: Labels) -> Scalars:
    """Every class by itself: yes for the label's, no for the others."""
    label, log_p = F.one_hot(y, log_p.shape[1]).bool(), log_p.clamp_max(-1e-6)
    return -torch.where(label, log_p, torch.log1p(-log_p.exp())).sum(1)


def _each_score(logits: Tensor, y: Labels) -> Scalars:
    label = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, label, reduction="none").sum(1)


SOFTMAX = Head(lambda logits: logits.softmax(1), lambda logits, y: F.cross_entropy(logits, y, reduction="none"))
SIGMOIDS = Head(lambda logits: logits.sigmoid(), _each_score)
DENSITIES = Head(lambda logits: logits.exp(), _each_class)


def stepped(net: Net, x: Batch, y: Labels, eps: float = EPS) -> Batch:
    """X + ε·sign(∇J), the loss's gradient at the network in evaluation mode; not clipped, as in the paper."""
    threat = Threat.parse(f"linf:{eps:g}", lower=-math.inf, upper=math.inf)
    with frozen(net.module):
        parts = [_stepped(net, *rows, threat, eps) for rows in zip(x.split(1000), y.split(1000), strict=True)]
    return torch.cat(parts)


def _stepped(net: Net, x: Batch, y: Labels, threat: Threat, eps: float) -> Batch:
    logits, pull = TorchOracle(net.module).vjp(x)
    with torch.enable_grad():  # in float64, where a sure softmax is not yet 1
        leaf = logits.double().requires_grad_()
        (cotangent,) = torch.autograd.grad(-net.head.loss(leaf, y).sum(), leaf)
    return threat.descend(x, pull(cotangent.to(x.dtype)), eps)


def seen(net: Net, x: Batch, y: Labels) -> Seen:
    with frozen(net.module):
        logits = torch.cat([TorchOracle(net.module).logits(part) for part in x.split(1000)])
    return Seen(logits, logits.argmax(1) != y, net.head.probability(logits).amax(1))


def attacked(net: Net, data: Data, eps: float = EPS) -> Seen:
    return seen(net, stepped(net, data.x, data.y, eps), data.y)


def loss_of(head: Head) -> Callable[[nn.Module, Batch, Labels], Tensor]:
    """For training."""
    return lambda module, x, y: head.loss(module(x), y).mean()


def train_set(lab: Lab) -> Data:
    return samples(lab, "train", lab.size(paper=30_000, smoke=1000))


def test_set(lab: Lab) -> Data:
    return samples(lab, "test", None if lab.scale == "paper" else 200)


def softmax(lab: Lab) -> Net:
    if lab.scale == "paper":
        return Net(lab.model("softmax", "train").module, SOFTMAX)
    return Net(lab.model("softmax", "train[:2000]", epochs=5).module, SOFTMAX)


def maxout(lab: Lab, name: str = "maxout", loss: Callable[..., Tensor] | None = None, head: Head = SOFTMAX) -> Net:
    """By this name; trained with the head's own loss by default."""
    data = train_set(lab)
    lesson = Lesson(data, lab.size(paper=12, smoke=2), loss=loss or loss_of(head))
    module = taught(lab, name, lambda: maxout_network.build(data.shape, len(data.classes)), lesson)
    return Net(module, head)


def rbf(lab: Lab) -> Net:
    data = train_set(lab)
    lesson = Lesson(data, lab.size(paper=10, smoke=3), rate=0.03, loss=loss_of(DENSITIES))
    module = taught(lab, "rbf", lambda: rbf_network.build(data.shape, len(data.classes)), lesson)
    return Net(module, DENSITIES)
