"""Fig. 6 and 7 of the DeepFool paper: what training on its samples, or on FGSM's, does to robustness."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from sapper.claims import Claim, Part, Table
from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models.training import accuracy
from sapper.studies._deepfool_common import added, deepfooled, fast_gradient, networks, ratio
from sapper.studies._teaching import Lesson, samples, share, taught

EPOCHS, RATE = 5, 5e-4
"""Half of the rate that the fully connected network begins with."""
PUBLISHED = {"LeNet": (0.8, 4.4, 1.0), "FC500-150-10": (1.5, 4.9, 1.7)}
"""Test errors in % after training on DeepFool's samples, on FGSM's, and as it was."""
WAYS = ("DeepFool", "FGSM", "clean", "DeepFool × 2", "DeepFool × 3")

Found = dict[tuple[str, str], tuple[float, float]]
"""Mean relative distance and test error, by network and by what it was tuned on."""


def tuning(lab: Lab) -> Part:
    """Five more epochs on perturbed training samples alone."""
    data = samples(lab, "train", lab.size(paper=10_000, smoke=100))
    test, few = samples(lab, "test", None if lab.scale == "paper" else 200), lab.size(paper=500, smoke=10)
    found: Found = {}
    for name, module in networks(lab).items():
        found[name, "as it was"] = _measured(lab, module, test, few)
        for way, learned in _perturbed(lab, module, data).items():
            tuned = taught(lab, f"{name}-{way}".replace(" × ", "-"), lambda base=module: _unfrozen(base),
                           Lesson(learned, EPOCHS, RATE))  # fmt: skip
            found[name, way] = _measured(lab, tuned, test, few)
    return Part(
        title="Fig. 6 and 7: training on what fools",
        text=f"Each network is trained for {EPOCHS} more epochs on {len(data)} perturbed training samples only, all made "
        "once, for the network as it was; clean samples are the control. FGSM's ε is the one of Table 1. Perturbations "
        f"stretched twofold and threefold are the paper's Fig. 7. Distances are DeepFool's on {few} test samples.",
        claims=_claims(found),
        tables=[
            Table(
                title="after five more epochs",
                columns=["network", "trained on", "ρ", "gain %", "test error %"],
                rows=[[name, way, round(rho, 3), share(rho / found[name, "as it was"][0] - 1, 1), share(error)]
                      for (name, way), (rho, error) in found.items()],
            )
        ],
    )  # fmt: skip


def _unfrozen(module: nn.Module) -> nn.Module:
    return deepcopy(module).requires_grad_(requires_grad=True)


def _perturbed(lab: Lab, module: nn.Module, data: Data) -> Mapping[str, Data]:
    x_adv = deepfooled(lab, module, data.x, "l2:min").x_adv
    few = data.x[: lab.size(paper=1000, smoke=20)]
    _, eps, _ = fast_gradient(module, few)
    change = x_adv - data.x
    kinds = (x_adv, fast_gradient(module, data.x, eps)[0], data.x, data.x + 2 * change, data.x + 3 * change)
    return {way: replace(data, x=x) for way, x in zip(WAYS, kinds, strict=True)}


def _measured(lab: Lab, module: nn.Module, test: Data, few: int) -> tuple[float, float]:
    x = test.x[:few]
    with torch.no_grad():
        return ratio(added(deepfooled(lab, module, x, "l2:min"), x), x, 2), 1 - accuracy(module, test)


def _claims(found: Found) -> list[Claim]:
    claims = []
    for name, published in PUBLISHED.items():
        rho = {way: found[name, way][0] / found[name, "as it was"][0] - 1 for way in WAYS}
        claims += [
            Claim(what=f"{name}: gain of ρ by training on DeepFool's samples", where="Fig. 6", sure="stated", paper=50,
                  within=(20, 200), measured=share(rho["DeepFool"], 1), unit="%", note="about one half in the paper"),
            Claim(what=f"{name}: gain of ρ by training on FGSM's samples", where="Fig. 6", sure="stated", within=(-100, 0),
                  measured=share(rho["FGSM"], 1), unit="%", note="the paper: robustness falls"),
            Claim(what=f"{name}: gain of ρ with threefold perturbations less that with DeepFool's", where="Fig. 7",
                  sure="stated", within=(-1000, 0), measured=share(rho["DeepFool × 3"] - rho["DeepFool"], 1), unit="%",
                  note="the paper: overly perturbed images decrease robustness"),
        ]  # fmt: skip
        for way, paper in zip(WAYS[:2], published[:2], strict=True):
            claims.append(Claim(what=f"{name}: test error after training on {way}'s samples", where="Table 3", sure="stated",
                                paper=paper, measured=share(found[name, way][1]), unit="%",
                                note="by a sixth of the training set here"))  # fmt: skip
        claims.append(
            Claim(what=f"{name}: test error with DeepFool's less that with FGSM's", where="Table 3", sure="derived",
                  paper=round(published[0] - published[1], 1), within=(-100, 0),
                  measured=share(found[name, "DeepFool"][1] - found[name, "FGSM"][1]), unit="%")
        )  # fmt: skip
    others = {"NIN (CIFAR)": (11.2, 21.2), "LeNet (CIFAR)": (20.0, 28.6)}
    for name, published in others.items():
        for way, paper in zip(WAYS[:2], published, strict=True):
            claims.append(Claim(what=f"{name}: test error after training on {way}'s samples", where="Table 3", sure="stated",
                                paper=paper, unit="%", note="not run"))  # fmt: skip
    return claims
