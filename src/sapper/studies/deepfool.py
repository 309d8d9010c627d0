"""The DeepFool paper, its MNIST half: how far the nearest boundary is, and what training on the nearest samples does.

The networks are the paper's in size, not in training: LeNet is the JSMA paper's, with tanh. Its CIFAR and ImageNet
networks are not run; their numbers are listed.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from sapper.attacks.deepfool import PAPER
from sapper.claims import Claim, Figure, Part, Table
from sapper.lab import Lab, answers
from sapper.models.training import accuracy
from sapper.report.figures import lines
from sapper.report.picture_grid import image_grid
from sapper.scheduler import craft
from sapper.studies._deepfool_common import FOOLED, added, deepfooled, fast_gradient, networks, ratio
from sapper.studies._deepfool_tuning import tuning
from sapper.studies._teaching import samples, share
from sapper.study import Study
from sapper.tensors import Batch
from sapper.threat import norm

PUBLISHED: dict[str, tuple[float | None, ...]] = {
    # test error in %, ρ of DeepFool, FGSM and L-BFGS, ρ∞ of DeepFool and FGSM
    "LeNet": (1.0, 0.20, 1.0, 0.25, 0.10, 0.26),
    "FC500-150-10": (1.7, 0.11, 0.39, 0.12, 0.04, 0.11),
}
NOT_RUN: dict[str, tuple[float | None, ...]] = {
    "NIN (CIFAR)": (11.5, 0.023, 0.12, 0.024, 0.008, 0.024),
    "LeNet (CIFAR)": (22.6, 0.030, 0.13, 0.039, 0.015, 0.028),
    "CaffeNet (ImageNet)": (42.6, 0.0027, 0.035, None, None, None),
    "GoogLeNet (ImageNet)": (31.3, 0.0019, 0.047, None, None, None),
}
COLUMNS = ("test error", "ρ of DeepFool", "ρ of FGSM", "ρ of L-BFGS", "ρ∞ of DeepFool", "ρ∞ of FGSM")
WHERE = ("Table 1", "Table 1", "Table 1", "Table 1", "Table 4", "Table 4")

Changes = dict[str, Batch]


class DeepFoolStudy(
    Study,
    paper=PAPER,
    title="DeepFool: distances to the nearest boundary",
    reproduces="Table 1 and the distances in linf for the two MNIST networks; training on perturbed samples (Fig. 6 and 7)",
    takes={"smoke": "under half a minute", "paper": "about ten minutes"},
    data="mnist",
    shape=(1, 28, 28),
):
    """The mean relative distance of three attacks, and fine-tuning."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return ("distances", distances), ("tuning", tuning)


SHARES = (0.5, 0.8, 0.9, 0.95)
"""Of the samples, that FGSM is to fool."""
EXPLAINED = {
    "ρ of FGSM": "grows with the network's distances as a whole, and with the tail: see the second table",
    "ρ∞ of FGSM": "grows with the network's distances as a whole, and with the tail: see the second table",
    "ρ of L-BFGS": "below the paper's where the search for c, for each sample by itself, finds what the paper's did not",
}
"""Why a number may be another than the paper's."""


def searched(lab: Lab) -> str:
    return "lbfgs:loss=cross_entropy" if lab.scale == "paper" else "lbfgs:loss=cross_entropy,steps=15,search_steps=3"


def distances(lab: Lab) -> Part:
    """Table 1, and the distances in linf."""
    test = samples(lab, "test", None if lab.scale == "paper" else 200)
    x, few = test.x[: lab.size(paper=2000, smoke=20)], test.x[: lab.size(paper=200, smoke=2)]
    rows: list[list[str | float | int | None]] = []
    claims: list[Claim] = []
    curves, changes, spent, tail = {}, {}, [], []
    for name, module in networks(lab).items():
        made, exact = _changes(lab, module, x), _minimal(lab, module, few)
        measured = (
            share(1 - accuracy(module, test)), ratio(made["DeepFool"], x, 2), ratio(made["FGSM"], x, 2),
            ratio(exact, few, 2), ratio(made["DeepFool, linf"], x, math.inf), ratio(made["FGSM"], x, math.inf),
        )  # fmt: skip
        beside = ratio(made["DeepFool"][: len(few)], few, 2)
        rows += [[name, "here", *_rounded(measured)], [name, "paper", *PUBLISHED[name]]]
        claims += _claims(name, measured, beside)
        curves[name] = _left(made["DeepFool"], x)
        changes[name] = made
        tail.append([name, *(round(fast_gradient(module, x, wanted=wanted)[1], 3) for wanted in SHARES)])
        spent.append(float(deepfooled(lab, module, few, "l2:min").steps.double().mean()))
    claims.append(Claim(what="mean iterations of DeepFool (most of the networks)", where="section 4", sure="stated", paper=3,
                        within=(0, 3), measured=round(max(spent), 2), note="fewer than 3 in the paper"))  # fmt: skip
    return Part(
        title="Table 1: relative distance to the nearest boundary",
        text=f"ρ is the mean of ‖r‖₂ / ‖x‖₂ with pixels in [0, 1], ρ∞ the same in linf. DeepFool and FGSM run without a "
        f"box on {len(x)} test samples, away from the network's own answer; FGSM with the smallest ε that fools "
        f"{FOOLED:.0%}. L-BFGS ({searched(lab)}) keeps to [0, 1], on {len(few)} samples. The second table shows how much "
        "of FGSM's distance hangs on the last samples to be fooled.",
        claims=[*claims, *_not_run()],
        tables=[
            Table(title="Table 1", columns=["network", "", COLUMNS[0] + " %", *COLUMNS[1:]], rows=rows),
            Table(
                title="ε of FGSM, by the share it fools", columns=["network", *(f"{s:.0%}" for s in SHARES)], rows=tail
            ),
        ],
        figures=[_curves(lab, curves), _pictures(lab, x, changes["LeNet"])],
    )


def _changes(lab: Lab, module: nn.Module, x: Batch) -> Changes:
    return {
        "DeepFool": added(deepfooled(lab, module, x, "l2:min"), x),
        "DeepFool, linf": added(deepfooled(lab, module, x, "linf:min"), x),
        "FGSM": fast_gradient(module, x)[0] - x,
    }


def _minimal(lab: Lab, module: nn.Module, x: Batch) -> Batch:
    return added(craft(module, x, answers(module, x), attack=searched(lab), threat="l2:min", seed=lab.seed), x)


def _claims(name: str, measured: tuple[float | None, ...], beside: float) -> list[Claim]:
    claims = []
    for place, (what, where, paper, value) in enumerate(zip(COLUMNS, WHERE, PUBLISHED[name], measured, strict=True)):
        assert paper is not None
        assert value is not None
        near = (round(0.65 * paper, 3), round(1.35 * paper, 3))
        error = place == 0
        claims.append(
            Claim(what=f"{name}: {what}", where=where, sure="stated", paper=paper, unit="%" if error else "",
                  within=(round(paper - 0.7, 1), round(paper + 0.7, 1)) if error else near, measured=round(value, 3),
                  note=EXPLAINED.get(what, ""))
        )  # fmt: skip
    _, deep, fast, other, *_ = PUBLISHED[name]
    assert deep
    assert fast
    assert other
    _, here, by_sign, least, *_ = measured
    assert here
    assert by_sign
    assert least
    return [
        *claims,
        Claim(what=f"{name}: how many times DeepFool's distance FGSM's is", where="Table 1", sure="derived",
              paper=round(fast / deep, 1), within=(2, 10), measured=round(by_sign / here, 2)),
        Claim(what=f"{name}: how many times DeepFool's distance that of L-BFGS is, same samples", where="Table 1",
              sure="derived", paper=round(other / deep, 2), within=(1, 2), measured=round(least / beside, 3)),
    ]  # fmt: skip


def _not_run() -> list[Claim]:
    return [
        Claim(what=f"{name}: {what}", where=where, sure="stated", paper=paper, unit="%" if what == COLUMNS[0] else "",
              note="not run")
        for name, values in NOT_RUN.items()
        for what, where, paper in zip(COLUMNS, WHERE, values, strict=True)
        if paper is not None
    ]  # fmt: skip


def _rounded(values: tuple[float | None, ...]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]


def _left(change: Batch, x: Batch) -> tuple[np.ndarray, np.ndarray]:
    """The share of samples that are not fooled, against the relative distance."""
    far = (norm(change, 2) / norm(x, 2)).sort().values.double().numpy()
    fooled = far[np.isfinite(far)]
    return np.append(0.0, fooled), 1 - np.arange(len(fooled) + 1) / len(far)


def _curves(lab: Lab, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    title = "Samples that DeepFool leaves, by relative distance"
    chart = lines(curves, title=title, x_title="|r| / |x|", y_title="not fooled", y_range=(0, 1), y_format=".0%")
    return lab.figure("distances.svg", chart, title)


def _pictures(lab: Lab, x: Batch, changes: Changes) -> Figure:
    """The first samples; a change is shown on grey, stretched to its own greatest."""
    columns = ["clean", "DeepFool", "change", "FGSM", "change"]
    shown = [x]
    for name in ("DeepFool", "FGSM"):
        change = changes[name].masked_fill(changes[name].isinf(), 0)
        greatest = change.flatten(1).abs().amax(1).clamp_min(1e-12)[:, None, None, None]
        shown += [x + change, 0.5 + 0.5 * change / greatest]
    few = torch.stack([part[:5] for part in shown], 1).clamp(0, 1).numpy()
    png = image_grid(few, [""] * len(few), columns)
    return lab.figure("changes.png", png, f"Fig. 1: LeNet; FGSM with the ε that fools {FOOLED:.0%}")
