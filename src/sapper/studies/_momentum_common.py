"""What the parts of the momentum study share: networks and samples, the three attacks, the published table, its claims."""

from itertools import permutations

import numpy as np
import torch
from torch import nn

from sapper.claims import Claim
from sapper.data.dataset import Data
from sapper.lab import Lab, answers
from sapper.scheduler import craft
from sapper.studies._transfer_common import networks, percent
from sapper.tensors import Batch, Labels

EPS, STEPS = 0.2, 10
"""eps on MNIST, where it leaves room above and below; the paper's is 16/255 on photos."""
SIZES = (0.1, 0.15, 0.2, 0.25, 0.3)
METHODS = {"FGSM": (1, 0.0), "I-FGSM": (STEPS, 0.0), "MI-FGSM": (STEPS, 1.0)}
"""Steps and decay."""
TARGETS = ("Inc-v3", "Inc-v4", "IncRes-v2", "Res-152", "Inc-v3ens3", "Inc-v3ens4", "IncRes-v2ens")
PUBLISHED = {  # success in %, crafted on Inc-v3, the first of the targets
    "FGSM": (72.3, 28.2, 26.2, 25.3, 11.3, 10.9, 4.8),
    "I-FGSM": (100.0, 22.8, 19.9, 16.2, 7.5, 6.4, 4.1),
    "MI-FGSM": (100.0, 48.8, 48.0, 35.6, 15.1, 15.2, 7.8),
}
KINDS = ("on the network attacked", "on others")
UNDEFENDED = slice(1, 4)
"""Of the targets, those that are neither the source nor adversarially trained."""

Samples = tuple[Batch, Labels]


def subjects(lab: Lab) -> tuple[dict[str, nn.Module], Samples]:
    """The networks, and the first test samples that all of them have right, as in the paper."""
    models = {name: model.module for name, model in networks(lab).items()}
    count = lab.size(paper=1000, smoke=30)
    data = lab.samples("test", 2 * count)
    x, y = right_in_all(models, data)
    return models, (x[:count], y[:count])


def right_in_all(models: dict[str, nn.Module], data: Data) -> Samples:
    right = torch.stack([answers(model, data.x) == data.y for model in models.values()]).all(0)
    return data.x[right], data.y[right]


def crafted(lab: Lab, model: nn.Module, samples: Samples, steps: int, keep: float, eps: float) -> Batch:
    """The last candidates, all steps taken; `keep` is the decay."""
    attack = f"mifgsm:steps={steps},decay={keep},confidence=1e9"
    return craft(model, *samples, attack=attack, threat=f"linf:{eps}", seed=lab.seed).x_adv


def success_matrix(
    lab: Lab, models: dict[str, nn.Module], samples: Samples, steps: int, keep: float, eps: float
) -> np.ndarray:
    """Success in % by source and target."""
    made = [crafted(lab, source, samples, steps, keep, eps) for source in models.values()]
    return np.array([[success(model, x_adv, samples[1]) for model in models.values()] for x_adv in made])


def success(model: nn.Module, x_adv: Batch, label: Labels) -> float:
    return percent(answers(model, x_adv) != label)


def mean_white(matrix: np.ndarray) -> float:
    return float(matrix.diagonal().mean())


def mean_black(matrix: np.ndarray) -> float:
    return float(np.mean([matrix[pair] for pair in permutations(range(len(matrix)), 2)]))


def white_and_black(matrix: np.ndarray) -> tuple[float, float]:
    return mean_white(matrix), mean_black(matrix)


def published_mean(method: str) -> float:
    """The published success on the undefended others."""
    return float(np.mean(PUBLISHED[method][UNDEFENDED]))


def published_ratio() -> float:
    return published_mean("MI-FGSM") / published_mean("I-FGSM")


def ratio_claims(white: dict[str, float], black: dict[str, float], where: str) -> list[Claim]:
    """What the paper makes of the table; without measurements where there are none."""
    known = bool(white)
    same = round(white["MI-FGSM"] - white["I-FGSM"], 1) if known else None
    ratio = round(black["MI-FGSM"] / black["I-FGSM"], 2) if known and black["I-FGSM"] else None
    over = round(black["MI-FGSM"] - black["FGSM"], 1) if known else None
    return [
        Claim(what="MI-FGSM less I-FGSM on the network attacked (points)", where=where, sure="memory", paper=0.0,
              within=(-2, 2), measured=same, unit="%"),
        Claim(what="transfer of MI-FGSM, times that of I-FGSM", where=where, sure="derived",
              paper=round(published_ratio(), 2), within=(1.5, 3), measured=ratio,
              note="the paper: about twice, over three undefended networks"),
        Claim(what="transfer of MI-FGSM less that of FGSM (points)", where=where, sure="derived",
              paper=round(published_mean("MI-FGSM") - published_mean("FGSM"), 1), within=(0.1, 100), measured=over, unit="%"),
    ]  # fmt: skip


def published_cells() -> list[Claim]:
    """The cells themselves: other networks, other data."""
    return [
        Claim(what=f"{method} from Inc-v3 to {target}", where="Table 1", sure="memory", paper=rate, unit="%",
              note="these networks of ImageNet are not here")
        for method, rates in PUBLISHED.items()
        for target, rate in zip(TARGETS, rates, strict=True)
    ]  # fmt: skip
