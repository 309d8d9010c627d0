"""What the parts of the transfer matrix share: the published numbers, the attack on each learner, who is fooled by what."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sapper import catalogue, noise
from sapper.data.dataset import Data
from sapper.goal import Untargeted
from sapper.lab import Lab, answers
from sapper.oracle import TorchOracle, frozen
from sapper.scheduler import craft_cases
from sapper.studies._learners_common import ENSEMBLE, KINDS, voted
from sapper.studies._teaching import samples
from sapper.tensors import Batch, Labels
from sapper.threat import Threat

COLUMNS = (*KINDS, ENSEMBLE)
PUBLISHED = np.array(
    [
        [38.27, 23.02, 64.32, 79.31, 8.36, 20.72],
        [6.31, 91.64, 91.43, 87.42, 11.29, 44.14],
        [2.51, 36.56, 100.0, 80.03, 5.19, 15.67],
        [0.82, 12.22, 8.85, 89.29, 3.31, 5.11],
        [11.75, 42.89, 82.16, 82.95, 41.65, 31.92],
    ]
)
"""Figure 3: success in %, a row for the learner that the samples were crafted for, a column for the attacked."""
IN_THE_TEXT = (("DNN", "DNN"), ("DT", "DNN"), ("LR", ENSEMBLE), ("LR", "SVM"), ("LR", "DT"), ("DT", "DT"))
"""The cells that the paper's text has as well."""
ATTACKS = {
    "DNN": "fgsm",
    "LR": "fgsm",
    "SVM": "svm:step_to=paper",
    "DT": "decision_tree:search=paper",
    "kNN": "nearest_neighbour:form=paper",
}
_ANY = "linf:1"
"""No budget: every input is within it."""
ACROSS = {"DNN": "linf:0.25", "LR": "linf:0.25", "SVM": "l2:5", "DT": _ANY, "kNN": "linf:0.25"}
WITHIN = {"DNN": "linf:0.3", "LR": "linf:0.3", "SVM": "l2:1.5", "DT": _ANY, "kNN": "linf:0.3"}
"""The threats of the two experiments, across techniques and within one."""
TRAINED = "train[:50000]"


def tested(lab: Lab, count: int) -> Data:
    """The first samples of the test split."""
    return samples(lab, "test", lab.size(paper=count, smoke=40))


def whole(lab: Lab) -> str:
    """What the learners of the matrix learn."""
    return TRAINED if lab.scale == "paper" else "train[:500]"


def subsets(lab: Lab) -> dict[str, str]:
    """Disjoint, by the order of samples."""
    size = lab.size(paper=10_000, smoke=100)
    return {name: f"train[{i * size}:{(i + 1) * size}]" for i, name in enumerate("ABCDE")}


def moved(lab: Lab, model: nn.Module, data: Data, attack: str, threat: str) -> Batch:
    """What an attack makes of every sample; also of one that the model has wrong as it is, which `craft` would leave.

    The attack on trees leads away from the leaf's class, the others from the true one.
    """
    label = answers(model, data.x) if attack.startswith("decision_tree") else data.y
    key = noise.keys(lab.seed, torch.arange(len(data)))
    with frozen(model):
        made = craft_cases(
            TorchOracle(model), catalogue.attack(attack), data.x, Untargeted(label), Threat.parse(threat), key,
            transfer=True,
        )  # fmt: skip
    return made.x_adv


def crossed(
    lab: Lab, models: Mapping[str, nn.Module], data: Data, threats: Mapping[str, str]
) -> tuple[dict[str, Batch], np.ndarray]:
    """What is crafted for each learner, and the matrix in %."""
    made = {kind: moved(lab, models[kind], data, ATTACKS[kind], threats[kind]) for kind in KINDS}
    return made, np.array([wrong(models, x_adv, data.y) for x_adv in made.values()])


def wrong(models: Mapping[str, nn.Module], x: Batch, y: Labels) -> list[float]:
    """The share of samples in % that each model, and last their ensemble, takes for another class than theirs."""
    given = np.stack([answers(model, x).numpy() for model in models.values()])
    return [100 * float((labels != y.numpy()).mean()) for labels in (*given, voted(given))]


def size(x_adv: Batch, x: Batch) -> float:
    """The mean change of a feature, in % of its range."""
    return 100 * float((x_adv - x).abs().double().mean())


def stepped(x: Batch, rise: Tensor, eps: float) -> Batch:
    """By eps along the signs, within [0, 1]; no step where there is no number."""
    return (x + eps * rise.nan_to_num(0.0).sign().reshape(x.shape)).clamp(0, 1)


def rounded(values: Iterable[float], digits: int = 2) -> list[float]:
    return [round(float(value), digits) for value in values]
