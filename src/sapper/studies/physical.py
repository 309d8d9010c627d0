"""The digital half of "Adversarial Examples in the Physical World": photos of ImageNet under FGSM, BIM and the least
likely class, and, from the JSMA paper's side, a photo of 150 528 features under JSMA.

MobileNetV2 stands in for the paper's Inception v3. Attacks end as soon as they succeed, so accuracy in the five best
classes has attacks of its own, whose goal it is that the label is not among these.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sapper import catalogue, noise
from sapper.attacks.bim import PAPER
from sapper.claims import Claim, Figure, Part, Table
from sapper.data import imagenet
from sapper.data.dataset import Data
from sapper.goal import Goal, Targeted, Untargeted
from sapper.lab import Lab
from sapper.models.loading import load_model
from sapper.models.model import Model
from sapper.oracle import TorchOracle, frozen
from sapper.report import pictures
from sapper.report.figures import image_grid, lines
from sapper.scheduler import Crafted, craft, craft_cases
from sapper.study import Study
from sapper.tensors import Batch, Logits
from sapper.threat import Threat

LEVELS = (2, 4, 8, 12, 16)
"""eps, in levels of 255."""
PUBLISHED = {  # Inception v3 on the source images of the average case, top 1 and top 5
    ("fgsm", 8): (30.4, 57.8), ("fgsm", 16): (36.3, 58.8), ("bim", 8): (26.5, 31.4), ("bim", 16): (28.4, 31.4),
    ("least likely", 8): (0.0, 6.9), ("least likely", 16): (1.0, 1.0),
}  # fmt: skip
PENGUIN, TOASTER = 146, 860
"""Classes of the 1 001."""

Shares = dict[tuple[str, int], tuple[float, ...]]
"""Top-1 and top-5 accuracy of each method at each eps."""


class PhysicalStudy(
    Study,
    paper=PAPER,
    title="Photos of ImageNet: FGSM, BIM, the least likely class, JSMA",
    reproduces="Fig. 2 and the digital columns of the tables; a photo under JSMA",
    takes={"smoke": "under a minute", "paper": "about ten minutes"},
    data="imagenet",
    shape=(3, 224, 224),
):
    """Accuracy against eps, and what the changes look like."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return ("accuracy", accuracy), ("jsma", jsma)


def mobilenet() -> Model:
    return load_model(str(imagenet.mobilenet_weights()))


def attack_of(method: str, level: int) -> str:
    """The paper's: steps of one level, min(eps + 4, 1.25 eps) of them."""
    return "fgsm" if method == "fgsm" else f"bim:steps={round(min(level + 4, 1.25 * level))},step_size={1 / 255}"


def accuracy(lab: Lab) -> Part:
    """Fig. 2, and how the photos look."""
    data, model = lab.samples("test", None if lab.scale == "paper" else 2), mobilenet()
    share: Shares = {}
    shown: list[Batch] = [data.x]
    with frozen(model.module):
        clean = _answers(model, data.x)
        share["clean", 0] = _right(clean, data)
        for level in LEVELS:
            for method in ("fgsm", "bim", "least likely"):
                results = [_attacked(lab, model, data, clean, method, level, top) for top in (1, 5)]
                share[method, level] = tuple(
                    _right(_answers(model, result.x_adv), data)[place] for place, result in enumerate(results)
                )
                shown += [results[0].x_adv] if level == LEVELS[-1] else []
    return Part(
        title="Fig. 2: accuracy against eps",
        text=f"{len(data)} photos, of which MobileNetV2 has {share['clean', 0][0]:.0%} right, and {share['clean', 0][1]:.0%} "
        "among its five best classes. BIM takes min(ε + 4, 1.25 ε) steps of one level of 255, as in the paper; images keep "
        "to the 255 levels. The attack against the five best classes ends when the label is not among them; the one towards "
        "the least likely class when that is the answer.",
        claims=_claims(share),
        tables=[_table(share)],
        figures=[_curves(lab, share), _photos(lab, shown)],
    )


def _attacked(lab: Lab, model: Model, data: Data, clean: Logits, method: str, level: int, top: int) -> Crafted:
    goal: Goal = Untargeted(data.y, top=top)
    if method == "least likely":
        goal = Targeted(data.y, clean.scatter(1, data.y[:, None], torch.inf).argmin(1))
    attack = catalogue.attack(attack_of(method, level))
    threat = Threat.parse(f"linf:{level}/255", quantize=8)
    key = noise.keys(lab.seed, torch.arange(len(data)))
    return craft_cases(TorchOracle(model.module), attack, data.x, goal, threat, key)


def _answers(model: Model, x: Batch) -> Logits:
    return torch.cat([TorchOracle(model.module).logits(part) for part in x.split(16)])


def _right(logits: Logits, data: Data) -> tuple[float, float]:
    """Accuracy, top 1 and top 5."""
    best = logits.topk(5, dim=1).indices == data.y[:, None]
    return float(best[:, 0].double().mean()), float(best.any(1).double().mean())


def _claims(share: Shares) -> list[Claim]:
    gap = max(share["bim", level][0] - share["fgsm", level][0] for level in LEVELS)
    claims = [
        Claim(what="top-1 accuracy after FGSM at ε = 2, of what it was", where="Fig. 2", sure="second hand", paper=0.5,
              within=(0, 0.6), measured=round(share["fgsm", 2][0] / share["clean", 0][0], 3),
              note="the paper: reduced by a factor of two even at the smallest ε"),
        Claim(what="most that BIM leaves above FGSM (points, top 1, ε up to 16)", where="Fig. 2", sure="second hand",
              within=(-100, 0), measured=round(100 * gap, 1), unit="%", note="BIM is the stronger below ε = 48"),
        Claim(what="top-1 accuracy after the least likely class, ε = 16", where="Fig. 2", sure="second hand", paper=1.0,
              within=(0, 5), measured=round(100 * share["least likely", 16][0], 1), unit="%"),
    ]  # fmt: skip
    for (method, level), paper in PUBLISHED.items():
        for name, published, measured in zip(("top 1", "top 5"), paper, share[method, level], strict=True):
            claims.append(
                Claim(what=f"{method}, ε = {level}, {name} accuracy", where="average case, source images",
                      sure="second hand", paper=published, measured=round(100 * measured, 1), unit="%",
                      note="Inception v3 and other photos there")
            )  # fmt: skip
    return claims


def _table(share: Shares) -> Table:
    return Table(
        title="accuracy in %",
        columns=["attack", "ε / 255", "top 1", "top 5"],
        rows=[[method, level, *(round(100 * value, 1) for value in pair)] for (method, level), pair in share.items()],
    )


def _curves(lab: Lab, share: Shares) -> Figure:
    series = {}
    for method in ("fgsm", "bim", "least likely"):
        for place, name in enumerate(("top 1", "top 5")):
            levels = [0, *(level for other, level in share if other == method)]
            values = [share["clean", 0][place], *(share[method, level][place] for level in levels[1:])]
            series[f"{method}, {name}"] = (np.array(levels, float), np.array(values))
    chart = lines(series, title="Accuracy against eps", x_title="eps, levels of 255", y_title="accuracy", y_range=(0, 1),
                  y_format=".0%", markers=True)  # fmt: skip
    return lab.figure("accuracy.svg", chart, "Fig. 2: accuracy of MobileNetV2 on the photos")


def _photos(lab: Lab, shown: list[Batch]) -> Figure:
    """The first photos, clean and under each attack."""
    few = torch.stack([x[:4] for x in shown], dim=1).numpy()
    columns = ["clean", "FGSM", "BIM", "least likely"]
    png = image_grid(few, [""] * len(few), columns, scale=1)
    return lab.figure("photos.png", png, f"Photos at ε = {LEVELS[-1]}/255")


def jsma(lab: Lab) -> Part:
    """A photo of a king penguin becomes a toaster, by as few features as JSMA needs."""
    data, model = lab.samples("test"), mobilenet()
    row = (data.y == PENGUIN).nonzero()[:, 0]
    x, y = data.x[row], data.y[row]
    threat = "l0:2%" if lab.scale == "paper" else "l0:10"
    target = torch.full_like(y, TOASTER)
    results = {
        attack: craft(model.module, x, y, attack=attack, threat=threat, targets=target, seed=lab.seed)
        for attack in ("jsma", "jsma:theta=-1", "jsma:saliency=probabilities,theta=-1")
    }
    best = min(results, key=lambda attack: float(results[attack].distance.nan_to_num(torch.inf)))
    return Part(
        title="JSMA on a photo",
        text=f"A {_name(data, PENGUIN)} is to become a {_name(data, TOASTER)}. JSMA searches all pairs of {x.numel()} "
        "features exactly. Over logits it wants the sum of the other thousand to fall, most of which are no rivals; over "
        "probabilities that sum says nothing of its own, and the target alone decides.",
        claims=[
            Claim(what=f"{attack}: a {_name(data, PENGUIN)} becomes a {_name(data, TOASTER)} within 2 % of its features "
                  "(1: yes)", where="not in the paper", sure="derived", within=(1, 1),
                  measured=float(result.found[0]) if lab.scale == "paper" else None)
            for attack, result in results.items()
        ],
        tables=[_attempts(results, x.numel())],
        figures=[_before_and_after(lab, model, data, x, best, results[best])],
    )  # fmt: skip


def _name(data: Data, label: int) -> str:
    return data.classes[label].split(",")[0]


def _attempts(results: dict[str, Crafted], features: int) -> Table:
    rows: list[list[str | float | int | None]] = []
    for attack, result in results.items():
        found = bool(result.found[0])
        changed = int(result.distance[0]) if found else None
        share = round(100 * changed / features, 3) if changed else None
        seconds = float(result.seconds[0])
        rows.append([attack, "yes" if found else "no", changed, share, int(result.steps[0]), round(seconds, 1)])
    columns = ["attack", "found", "features changed", "% of them", "iterations", "seconds"]
    return Table(title="three ways", columns=columns, rows=rows)


def _before_and_after(lab: Lab, model: Model, data: Data, x: Batch, attack: str, result: Crafted) -> Figure:
    with frozen(model.module):
        before, after = (_answers(model, part).softmax(1)[0] for part in (x, result.x_adv))
    change = (result.x_adv - x)[0]
    strongest = change.gather(0, change.abs().argmax(0, keepdim=True))[0].numpy()
    coloured = pictures.diverging(strongest).transpose(2, 0, 1) / 255
    images = np.stack([x[0].numpy(), coloured, result.x_adv[0].numpy()])[None]
    answers = [f"{_name(data, int(p.argmax()))}, {float(p.max()):.0%}" for p in (before, after)]
    png = image_grid(images, [""], [answers[0], "the change", answers[1]], scale=1)
    changed = int((change != 0).sum())
    return lab.figure("jsma.png", png, f"{attack}: {changed} of {x.numel()} features changed")
