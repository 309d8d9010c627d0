"""The paper of universal perturbations: one change for all samples, on held-out data, on other networks, learned from few.

Networks of four architectures on MNIST stand in for the paper's six of ImageNet; the change is learned from samples of the
training split, and judged on the test split against each network's own answers. Beside it stands what costs nothing: random
signs, or a random direction, of the same size.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sapper import disk
from sapper.attacks.universal import PAPER, Universal
from sapper.claims import Claim, Figure, Part, Table
from sapper.lab import Lab, answers
from sapper.learning import fit
from sapper.names import slug
from sapper.perturbation import Perturbation
from sapper.report.figures import lines, matrix
from sapper.report.picture_grid import image_grid
from sapper.studies._transfer_common import accuracies, networks, percent
from sapper.study import Study
from sapper.tensors import Batch, nonzero
from sapper.threat import Threat

THREATS = ("linf:0.2", "l2:3")
"""Scaled: the paper's 10 and 2000 are of 255 levels and 224×224 features."""
COUNTS = (10, 30, 100, 300, 1000)
"""How many samples it learns from."""
NETWORKS: tuple[str, ...] = ("VGG-F", "CaffeNet", "GoogLeNet", "VGG-16", "VGG-19", "ResNet-152")
PUBLISHED = {"linf": (93.7, 93.3, 78.9, 78.3, 77.8, 84.0), "l2": (87.0, 85.6, 82.0, 90.3, 84.5, 88.5)}
CROSSED = {("VGG-F", "CaffeNet"): 71.8, ("VGG-F", "GoogLeNet"): 48.4, ("VGG-16", "VGG-19"): 73.1}
DRAWS = 5
"""Random changes whose fooling rates are averaged."""
FEW = 500
"""Samples, of 1 000 classes, of which the paper says that they suffice for 30 %."""

Models = dict[str, nn.Module]


class UniversalStudy(
    Study,
    paper=PAPER,
    title="Universal perturbations: one change for all samples",
    reproduces="Table 1, the cross-model Table 2, the number of samples, the random control, scaled to MNIST",
    takes={"smoke": "under half a minute", "paper": "about twelve minutes"},
    data="mnist",
    shape=(1, 28, 28),
):
    """Fooling rates on samples that it never saw."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return ("fooling", fooling), ("cross-model", cross_model), ("samples", samples), ("retraining", retraining)


def learned(lab: Lab, name: str, model: nn.Module, threat: str, count: int) -> Perturbation:
    """From so many samples of the training split; from the study's folder if it was learned before."""
    path = lab.out / "learned" / f"{slug(f'{name} {threat} {count}')}.safetensors"
    if not path.exists():
        learner = Universal(passes=lab.size(paper=5, smoke=2))
        attack = fit(model, lab.samples("train", count).x, attack=learner, threat=threat, seed=lab.seed)
        assert isinstance(attack, Universal)
        assert attack.perturbation is not None
        disk.write_whole(path, attack.perturbation.save)
    return Perturbation.load(path)


def fooling_rate(model: nn.Module, x: Batch, change: Tensor, threat: str) -> float:
    """The share of samples in % whose answer the change turns into another."""
    x_adv = Threat.parse(threat).project(x + change, x)
    return percent(answers(model, x_adv) != answers(model, x))


def random_change(shape: tuple[int, ...], threat: str, seed: int) -> Tensor:
    """As large as the ball allows: signs in linf, a direction in l2."""
    ball = Threat.parse(threat)
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert ball.eps is not None
    return float(ball.eps) * (draw.sign() if ball.p == math.inf else draw / draw.norm())


def fooling(lab: Lab) -> Part:
    """Table 1 and the control."""
    models, x = _models(lab), _held_out(lab)
    rows: list[list[str | float | int | None]] = []
    changes = []
    for threat in THREATS:
        for name, model in models.items():
            told = learned(lab, name, model, threat, _count(lab))
            noise = np.mean(
                [fooling_rate(model, x, random_change(x.shape[1:], threat, i), threat) for i in range(DRAWS)]
            )
            rates = (100 * told.fooled, fooling_rate(model, x, told.change, threat), float(noise))
            rows.append([threat, name, *(round(rate, 1) for rate in rates)])
            changes.append(told.change)
    return Part(
        title="Table 1: fooling rates, and random changes of the same size",
        text=f"Learned from {_count(lab)} training samples, judged on {len(x)} test samples against the network's own "
        f"answers; a random change is the mean of {DRAWS}. {accuracies(lab, models)}",
        claims=[*_against_noise(rows), *_published()],
        tables=[Table(title="fooling rate in %", rows=rows,
                      columns=["threat", "network", "samples learned from", "held-out", "random change"])],
        figures=[_pictures(lab, models, torch.stack(changes))],
    )  # fmt: skip


def cross_model(lab: Lab) -> Part:
    """Table 2."""
    models, x, threat = _models(lab), _held_out(lab), THREATS[0]
    changes = [learned(lab, name, model, threat, _count(lab)).change for name, model in models.items()]
    rates = np.array([[fooling_rate(model, x, change, threat) for model in models.values()] for change in changes])
    noise = np.array([np.mean([fooling_rate(model, x, random_change(x.shape[1:], threat, i), threat)
                               for i in range(DRAWS)]) for model in models.values()])  # fmt: skip
    away = ~np.eye(len(models), dtype=bool)
    over = float((rates - noise)[away].min())
    kept = rates[away].mean() / rates.diagonal().mean() if rates.diagonal().any() else math.nan
    caption = "Table 2: fooling rate by the network learned on (row) and the network attacked (column)"
    svg = matrix(rates, list(models), list(models), title=caption, row_title="learned on", column_title="attacked",
                 digits=1, unit="%", means=True)  # fmt: skip
    return Part(
        title="Table 2: one change for other networks too",
        text=f"{threat}, judged on {len(x)} test samples.",
        claims=[
            Claim(what="least fooling rate on another network less that of random changes (points)", where="Table 2",
                  sure="memory", within=(0.1, 100), measured=round(over, 1), unit="%",
                  note="the paper: they generalise across networks"),
            Claim(what="share of its fooling rate that a change keeps on others (mean)", where="Table 2", sure="derived",
                  paper=round(_published_share(), 2), measured=round(float(kept), 2),
                  note="the paper's of the three cells that are known, of related networks"),
            *(Claim(what=f"fooling rate on {other}, learned on {source}", where="Table 2", sure="memory", paper=rate,
                    unit="%", note="these networks of ImageNet are not here")
              for (source, other), rate in CROSSED.items()),
        ],
        figures=[lab.figure("cross-model.svg", svg, caption)],
    )  # fmt: skip


def samples(lab: Lab) -> Part:
    """How few samples suffice."""
    name, model = next(iter(_models(lab).items()))
    x, threat = _held_out(lab), THREATS[0]
    counts = COUNTS if lab.scale == "paper" else COUNTS[:2]
    told = [learned(lab, name, model, threat, count) for count in counts]
    rates = np.array([fooling_rate(model, x, one.change, threat) for one in told])
    seen = np.array([100 * one.fooled for one in told])
    enough = next(count for count, rate in zip(counts, rates, strict=True) if rate >= rates.max() / 2)
    chart = lines(
        {"held-out": (np.log10(counts), rates), "learned from": (np.log10(counts), seen)},
        title="Fooling rate by samples", x_title="log10 of the samples learned from", y_title="fooling rate in %",
        markers=True,
    )  # fmt: skip
    rows: list[list[str | float | int | None]] = [
        [count, round(float(a), 1), round(float(b), 1)] for count, a, b in zip(counts, seen, rates, strict=True)
    ]
    return Part(
        title="How few samples suffice",
        text=f"{name}, {threat}. {enough} samples reach half of the greatest rate on samples never seen.",
        claims=[
            Claim(what=f"fooling rate of GoogLeNet from {FEW} samples, at least", where="section 3", sure="second hand",
                  paper=30, unit="%", note="fewer than one sample a class there"),
            Claim(what="share of the greatest rate that the fewest samples reach", where="section 3", sure="derived",
                  paper=round(30 / PUBLISHED["linf"][2], 2), within=(0.3, 1),
                  measured=round(float(rates[0] / rates.max()), 2) if rates.any() else None,
                  note=f"{counts[0]} samples here, {FEW} there; the paper's is at least that"),
        ],
        tables=[Table(title="fooling rate in %", columns=["samples", "on these", "held-out"], rows=rows)],
        figures=[lab.figure("samples.svg", chart, "Fooling rate by the number of samples learned from")],
    )  # fmt: skip


def retraining(lab: Lab) -> Part:
    """What the paper says of a defence that is not made here."""
    return Part(
        title="Fine-tuning against the change",
        text="The paper trains VGG-F for five more epochs, half of the samples changed, and learns a new change; that is a "
        "matter of defence and not made here.",
        claims=[
            Claim(what=f"fooling rate of VGG-F after {rounds}", where="section 3", sure="second hand", paper=rate, unit="%",
                  note="not made here")
            for rounds, rate in (("one fine-tuning", 76.2), ("two", 80.0))
        ],
    )  # fmt: skip


def _models(lab: Lab) -> Models:
    return {name: model.module for name, model in networks(lab).items()}


def _held_out(lab: Lab) -> Batch:
    return lab.samples("test", lab.size(paper=5000, smoke=100)).x


def _count(lab: Lab) -> int:
    return lab.size(paper=1000, smoke=30)


def _against_noise(rows: list[list[str | float | int | None]]) -> list[Claim]:
    """For each threat the worst of the networks."""
    claims = []
    for threat in THREATS:
        rates = np.array([row[2:] for row in rows if row[0] == threat], float)
        over, gap = (rates[:, 1] - rates[:, 2]).min(), np.abs(rates[:, 0] - rates[:, 1]).max()
        claims += [
            Claim(what=f"held-out fooling rate less that of random changes, least of the networks, {threat} (points)",
                  where="section 5", sure="memory", within=(0.1, 100), measured=round(float(over), 1), unit="%",
                  note="the paper: random changes of that size fool far fewer"),
            Claim(what=f"held-out fooling rate, greatest of the networks, {threat}", where="Table 1", sure="memory",
                  paper=max(PUBLISHED[threat.partition(":")[0]]), measured=float(rates[:, 1].max()), unit="%",
                  note="MNIST has margins that photos have not"),
            Claim(what=f"samples learned from against held-out, greatest difference, {threat} (points)", where="Table 1",
                  sure="memory", within=(0, 15), measured=round(float(gap), 1), unit="%",
                  note="the paper: both rates are close"),
        ]  # fmt: skip
    return claims


def _published() -> list[Claim]:
    return [
        Claim(what=f"validation fooling rate of {name}, {norm}", where="Table 1", sure="memory", paper=rate, unit="%",
              note="these networks of ImageNet are not here")
        for norm, rates in PUBLISHED.items()
        for name, rate in zip(NETWORKS, rates, strict=True)
    ]  # fmt: skip


def _published_share() -> float:
    own: dict[str, float] = dict(zip(NETWORKS, PUBLISHED["linf"], strict=True))
    return float(np.mean([rate / own[source] for (source, _), rate in CROSSED.items()]))


def _pictures(lab: Lab, models: Models, changes: Tensor) -> Figure:
    """The changes, grey where there is none."""
    size = nonzero(changes.flatten(1).abs().amax(1))[:, None, None, None]
    images = (0.5 + changes / (2 * size)).reshape(len(THREATS), len(models), *changes.shape[1:]).numpy()
    png = image_grid(images, THREATS, list(models), row_title="threat", column_title="learned on")
    return lab.figure("changes.png", png, "The changes; grey is none")
