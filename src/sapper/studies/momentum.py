"""The MI-FGSM paper: momentum makes an iterated attack transfer, "Boosting Adversarial Attacks with Momentum".

Every attack is `mifgsm`: one step is FGSM, a decay of 0 is I-FGSM. All their steps are taken (`confidence`), lest a sample
that just fools its own network count for the attack. Networks of four architectures on MNIST stand in for the paper's four
of ImageNet; where the photos are there, two real networks of ImageNet come nearer.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sapper.attacks.mifgsm import PAPER
from sapper.claims import Claim, Part, Table
from sapper.data import imagenet
from sapper.data.files import provided
from sapper.data.loading import load_data
from sapper.ensembles import ensemble
from sapper.lab import Lab
from sapper.models.loading import load_model
from sapper.report.figures import lines
from sapper.studies._momentum_common import (
    EPS,
    KINDS,
    METHODS,
    SIZES,
    STEPS,
    crafted,
    mean_black,
    mean_white,
    published_cells,
    published_mean,
    published_ratio,
    ratio_claims,
    right_in_all,
    subjects,
    success,
    success_matrix,
    white_and_black,
)
from sapper.studies._transfer_common import accuracies
from sapper.study import Study


class MomentumStudy(
    Study,
    paper=PAPER,
    title="MI-FGSM: momentum and transfer",
    reproduces="Table 1 and the curves over the decay and the number of iterations, scaled; ensembles in logits",
    takes={"smoke": "under half a minute", "paper": "about eighteen minutes"},
    data="mnist",
    shape=(1, 28, 28),
):
    """Success on the network attacked and on others."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return (
            ("transfer", transfer),
            ("sizes", sizes),
            ("iterations", iterations),
            ("decay", decay),
            ("ensembles", ensembles),
            ("photos", photos),
        )


class MeanProbability(nn.Module):
    """Several models as one by their probabilities, the alternative to logits that the paper compares with."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.stack([model(x).softmax(1) for model in self.models]).mean(0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def transfer(lab: Lab) -> Part:
    """Table 1."""
    models, samples = subjects(lab)
    matrices = {name: success_matrix(lab, models, samples, *method, EPS) for name, method in METHODS.items()}
    white, black = ({name: mean(m) for name, m in matrices.items()} for mean in (mean_white, mean_black))
    rows: list[list[str | float | int | None]] = [
        [name, source, *(round(float(value), 1) for value in matrix[i])]
        for name, matrix in matrices.items()
        for i, source in enumerate(models)
    ]
    return Part(
        title="Table 1: success on the network attacked and on others",
        text=f"{len(samples[1])} test samples that all {len(models)} networks have right, eps {EPS}, {STEPS} iterations of "
        f"eps/{STEPS}. {accuracies(lab, models)} Adversarially trained targets are not among them.",
        claims=[*ratio_claims(white, black, "Table 1"), *published_cells()],
        tables=[
            Table(title="success in %, by attack, source and target", columns=["attack", "source", *models], rows=rows)
        ],
    )


def sizes(lab: Lab) -> Part:
    """How the ratio hangs on eps."""
    models, samples = subjects(lab)
    rows: list[list[str | float | int | None]] = []
    for eps in SIZES if lab.scale == "paper" else SIZES[1:4:2]:
        black = [mean_black(success_matrix(lab, models, samples, *method, eps)) for method in METHODS.values()]
        rows.append([eps, *(round(value, 1) for value in black), round(black[2] / black[1], 2) if black[1] else None])
    ratios = [row[-1] for row in rows if isinstance(row[-1], float)]
    return Part(
        title="The size of the change",
        text="Mean success on other networks by eps; the ratio is that of MI-FGSM to I-FGSM.",
        claims=[
            Claim(what="greatest ratio of transfer over eps, MI-FGSM to I-FGSM", where="Table 1", sure="derived",
                  paper=round(published_ratio(), 2), measured=max(ratios, default=None),
                  note="over other eps than the paper's one")
        ],
        tables=[Table(title="success on other networks in %", columns=["eps", *METHODS, "ratio"], rows=rows)],
    )  # fmt: skip


def iterations(lab: Lab) -> Part:
    """Success as the iterations grow, at the same eps."""
    models, samples = subjects(lab)
    counts = (1, 2, 3, 5, 7, 10, 15, 20, 30) if lab.scale == "paper" else (1, STEPS)
    curves = {
        name: np.array([white_and_black(success_matrix(lab, models, samples, steps, keep, EPS)) for steps in counts])
        for name, keep in (("I-FGSM", 0.0), ("MI-FGSM", 1.0))
    }
    ten = counts.index(STEPS)
    gains = {name: float(curve[ten, 1] - curve[0, 1]) for name, curve in curves.items()}
    lost = float(curves["MI-FGSM"][:, 1].max() - curves["MI-FGSM"][-1, 1])
    chart = lines(
        {f"{name}, {of}": (np.array(counts, float), c[:, i]) for name, c in curves.items() for i, of in enumerate(KINDS)},
        title="Success by iterations", x_title="iterations", y_title="success in %", markers=True,
    )  # fmt: skip
    return Part(
        title="The number of iterations",
        text=f"Steps of eps/T, mean over all sources; other networks are all but the source. {_best(counts, curves)}",
        claims=[
            *(Claim(what=f"transfer of {name} with {STEPS} iterations less that with one (points)", where="Table 1",
                    sure="derived", paper=round(published_mean(name) - published_mean("FGSM"), 1), within=within,
                    measured=round(gains[name], 1), unit="%", note=note)
              for name, within, note in (("I-FGSM", (-100, -0.1), "the paper: it decays"), ("MI-FGSM", (0.1, 100), ""))),
            Claim(what=f"transfer that MI-FGSM loses from its best to {counts[-1]} iterations (points)", where="section 4",
                  sure="memory", within=(0, 3), measured=round(lost, 1), unit="%", note="the paper: it stays"),
        ],
        figures=[lab.figure("iterations.svg", chart, "Success of both attacks as the iterations grow")],
    )  # fmt: skip


def decay(lab: Lab) -> Part:
    """Success by the decay mu."""
    models, samples = subjects(lab)
    keeps = np.arange(0, 2.01, 0.25) if lab.scale == "paper" else np.array([0.0, 1.0, 2.0])
    curve = np.array([white_and_black(success_matrix(lab, models, samples, STEPS, float(keep), EPS)) for keep in keeps])
    chart = lines(
        {of: (keeps, curve[:, i]) for i, of in enumerate(KINDS)}, title="Success by decay", x_title="decay (mu)",
        y_title="success in %", markers=True,
    )  # fmt: skip
    return Part(
        title="The decay",
        text=f"{STEPS} iterations at eps {EPS}; 0 is I-FGSM. On other networks from {curve[:, 1].min():.1f} to "
        f"{curve[:, 1].max():.1f} %.",
        claims=[
            Claim(what="decay with the greatest success on other networks", where="section 4", sure="memory", paper=1.0,
                  within=(0.75, 1.25), measured=float(keeps[curve[:, 1].argmax()])),
        ],
        figures=[lab.figure("decay.svg", chart, "Success of MI-FGSM by its decay")],
    )  # fmt: skip


def ensembles(lab: Lab) -> Part:
    """Success on each network left out, of what was crafted on all the others."""
    models, samples = subjects(lab)
    rows: list[list[str | float | int | None]] = []
    gains = []
    for held in models:
        others = [model for name, model in models.items() if name != held]
        sources = (*others, MeanProbability(others), ensemble(others))
        rates = [success(models[held], crafted(lab, one, samples, STEPS, 1.0, EPS), samples[1]) for one in sources]
        single, probability, logits = max(rates[:-2]), rates[-2], rates[-1]
        rows.append([held, *(round(rate, 1) for rate in (single, probability, logits))])
        gains.append((logits - single, logits - probability))
    over_single, over_probability = (round(float(value), 1) for value in np.mean(gains, 0))
    return Part(
        title="Ensembles",
        text="MI-FGSM on the mean logits, or the mean probabilities, of all networks but one, which is then attacked; beside "
        "it the best of the others alone.",
        claims=[
            Claim(what="ensemble in logits less the best single source (points)", where="section 4", sure="memory",
                  within=(0.1, 100), measured=over_single, unit="%"),
            Claim(what="ensemble in logits less that in probabilities (points)", where="section 4", sure="memory",
                  within=(0.1, 100), measured=over_probability, unit="%"),
            Claim(what="ensemble in logits less that in losses (points)", where="section 4", sure="memory", unit="%",
                  note="not made here: one model's logits have no loss that is the mean of several models'"),
        ],
        tables=[Table(title="success on the network left out in %", rows=rows,
                      columns=["left out", "best single source", "in probabilities", "in logits"])],
    )  # fmt: skip


def photos(lab: Lab) -> Part:
    """MobileNetV2 and SqueezeNet on photos, at the paper's eps."""
    matrices, count = _photo_matrices(lab)
    white, black = ({name: mean(m) for name, m in matrices.items()} for mean in (mean_white, mean_black))
    told = "Not measured: $SAPPER_DATA has no imagenet/, or no photo that both networks have right."
    if count:
        told = f"{count} photos that both networks have right, eps 16/255; mean of both directions."
    rows: list[list[str | float | int | None]] = [
        [name, *(round(rate[name], 1) if rate else None for rate in (white, black))] for name in METHODS
    ]
    return Part(
        title="Photos: MobileNetV2 and SqueezeNet",
        text=told,
        claims=ratio_claims(white, black, "Table 1, on photos"),
        tables=[Table(title="success in %", columns=["attack", *KINDS], rows=rows)],
    )


class _Shifted(nn.Module):
    """A network of the 1 000 classes that answers for 1 001: the background comes first, and never."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(self.model(x), (1, 0), value=-1e4)


def _photo_matrices(lab: Lab) -> tuple[dict[str, np.ndarray], int]:
    """Of each attack, and over how many photos; nothing where there are none."""
    if provided("imagenet") is None:
        return {}, 0
    models = _photo_networks()
    samples = right_in_all(models, load_data("imagenet", limit=lab.size(paper=50, smoke=2)))
    if not len(samples[1]):
        return {}, 0
    matrices = {name: success_matrix(lab, models, samples, *way, 16 / 255) for name, way in METHODS.items()}
    return matrices, len(samples[1])


def _photo_networks() -> dict[str, nn.Module]:
    folder = imagenet.find()
    squeezenet = load_model(str(folder / "squeezenet1_0.safetensors"), resize=(227, 227)).module
    return {
        "mobilenet_v2": load_model(str(imagenet.mobilenet_weights())).module,
        "squeezenet": _Shifted(squeezenet),
    }


def _best(counts: Sequence[int], curves: dict[str, np.ndarray]) -> str:
    told = (
        f"{name} {c[:, 1].max():.1f} % with {counts[int(c[:, 1].argmax())]} iterations" for name, c in curves.items()
    )
    return f"Best on other networks: {', '.join(told)}."
