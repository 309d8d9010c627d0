"""Stand-ins for the three services of the black-box study, and oracles with defences. Each tells labels only."""

import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models import lenet, mlp, softmax
from sapper.models.estimators import from_estimator
from sapper.studies._learners_common import fitted, learner
from sapper.studies._teaching import Lesson, Loss, cross_entropy, samples, taught
from sapper.studies._theft_common import LabelsOnly, Victim, stepped
from sapper.tensors import Batch, Labels

TEMPERATURE = 100.0
HARD = 0.15
"""eps that one oracle is trained against, half of what it is attacked with."""


def learned(lab: Lab) -> Data:
    """What the services were given."""
    return samples(lab, split(lab))


def split(lab: Lab) -> str:
    return "train[:50000]" if lab.scale == "paper" else "train[:500]"


def victim(lab: Lab, name: str, module: nn.Module) -> Victim:
    """Behind the door of labels, with the test samples of this scale."""
    test = samples(lab, "test", None if lab.scale == "paper" else 100)
    return Victim(name, LabelsOnly(module), test.x, test.y)


def metamind(lab: Lab) -> Victim:
    """A deep network of about 95 %: LeNet, for one epoch, at a rate that leaves it there."""
    data = learned(lab)
    lesson = Lesson(data, 1, 3e-4 if lab.scale == "paper" else 2e-3, batch_size=lab.size(paper=100, smoke=20))
    return victim(lab, "metamind", taught(lab, "metamind", lambda: lenet.build(data.shape, 10), lesson))


def amazon(lab: Lab) -> Victim:
    """Multinomial logistic regression, which Amazon said it trains: that of the transferability paper."""
    return victim(lab, "amazon", learner(lab, "LR", split(lab)))


def google(lab: Lab) -> Victim:
    """A random forest held to depth 10: without gradients, and of neither substitute's kind."""
    return victim(lab, "google", _forest(lab, "google", learned(lab)))


def others(lab: Lab) -> dict[str, Victim]:
    """What else an unknown model of about that accuracy might be, each of too few samples to be better."""
    few = {count: _first(learned(lab), lab.size(paper=count, smoke=300)) for count in (2000, 3000)}
    machine = fitted(lab, "kernel", SVC(random_state=lab.seed), few[2000])
    points = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
    points.fit(few[3000].x.flatten(1).numpy(), few[3000].y.numpy())
    nearest = from_estimator(points, "nearest", b"nearest").module
    return {"an RBF machine of 2 000 samples": victim(lab, "kernel", machine),
            "the nearest of 3 000 samples": victim(lab, "nearest", nearest)}  # fmt: skip


def retrained(lab: Lab, oracle: str, substitute: nn.Module, eps: float) -> Victim:
    """Google's or Amazon's stand-in, given adversarial samples as well, rightly labelled: one for every five.

    They were crafted on a substitute that somebody had stolen of it.
    """
    data = learned(lab)
    few = _first(data, len(data) // 5)
    x_adv = stepped(lab, substitute, few.x, few.y, eps)
    more = Data(data.name, torch.cat([data.x, x_adv]), torch.cat([data.y, few.y]), data.classes, data.bounds)
    name = f"{oracle}-retrained"
    return victim(lab, name, _forest(lab, name, more) if oracle == "google" else _softmax(lab, name, more))


def distilled(lab: Lab) -> tuple[Victim, nn.Module]:
    """A network taught by another's probabilities, both at the temperature of 100; asked at that of 1."""

    def soft(module: nn.Module, x: Batch, y: Labels) -> Tensor:
        with torch.no_grad():
            wanted = (teacher(x) / TEMPERATURE).softmax(1)
        return F.cross_entropy(module(x) / TEMPERATURE, wanted)

    teacher = _network(lab, "teacher", lambda module, x, y: F.cross_entropy(module(x) / TEMPERATURE, y))
    student = _network(lab, "distilled", soft)
    return victim(lab, "distilled", student), student


def hardened(lab: Lab) -> tuple[Victim, nn.Module]:
    """Half of what it learns are steps of `HARD` against the weights of the moment."""

    def against(module: nn.Module, x: Batch, y: Labels) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(module, leaf, y), leaf)
        x_adv = (x + HARD * gradient.sign()).clamp(0, 1)
        return (cross_entropy(module, x, y) + cross_entropy(module, x_adv, y)) / 2

    module = _network(lab, "hardened", against)
    return victim(lab, "hardened", module), module


def plain(lab: Lab) -> tuple[Victim, nn.Module]:
    """The same network with neither."""
    module = _network(lab, "plain", cross_entropy)
    return victim(lab, "plain", module), module


def own_step(module: nn.Module, x: Batch, y: Labels, eps: float) -> tuple[Batch, float]:
    """FGSM as anyone writes it who has the weights: the cross-entropy's gradient in single precision, not rescued.

    Returns:
        The samples, and the share of them whose gradient is exactly nought everywhere.
    """
    parts, still = [], 0
    for rows, wanted in zip(x.split(1000), y.split(1000), strict=True):
        leaf = rows.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(module(leaf), wanted, reduction="sum"), leaf)
        still += int((gradient.flatten(1) == 0).all(1).sum())
        parts.append((rows + eps * gradient.sign()).clamp(0, 1))
    return torch.cat(parts), still / len(x)


def _network(lab: Lab, name: str, loss: Loss) -> nn.Module:
    data = learned(lab)
    return taught(lab, name, lambda: mlp.build(data.shape, 10), Lesson(data, lab.size(paper=10, smoke=3), 1e-3, loss))


def _forest(lab: Lab, name: str, data: Data) -> nn.Module:
    return fitted(lab, name, RandomForestClassifier(50, max_depth=10, random_state=lab.seed), data)


def _softmax(lab: Lab, name: str, data: Data) -> nn.Module:
    return taught(lab, name, lambda: softmax.build(data.shape, 10), Lesson(data, lab.size(paper=10, smoke=3), 1e-3))


def _first(data: Data, count: int) -> Data:
    return Data(data.name, data.x[:count], data.y[:count], data.classes, data.bounds)
