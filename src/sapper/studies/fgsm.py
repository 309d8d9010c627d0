"""The FGSM paper: "Explaining and Harnessing Adversarial Examples", its MNIST half.

Networks are small or trained for less than the paper's; where that decides a number, its claim says so. The convolutional
maxout network on CIFAR-10, the 1 600 units and the ensemble of twelve are not run.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sapper import noise
from sapper.attacks.fgsm import PAPER
from sapper.claims import Claim, Part, Table, percent
from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.report.figures import lines
from sapper.scheduler import craft
from sapper.studies._fgsm_common import (
    EPS,
    SIGMOIDS,
    Net,
    Seen,
    attacked,
    maxout,
    rbf,
    seen,
    softmax,
    stepped,
    test_set,
)
from sapper.studies._fgsm_logistic import logistic
from sapper.studies._fgsm_training import training
from sapper.studies._teaching import share
from sapper.study import Study

DIGIT = 4
"""The class of Fig. 4's sample."""


class FGSMStudy(
    Study,
    paper=PAPER,
    title="FGSM: explaining and harnessing adversarial examples",
    reproduces="section 4's errors, Fig. 2 (3 against 7), sections 5 to 8 on MNIST, Fig. 4, rubbish inputs",
    takes={"smoke": "under half a minute", "paper": "about ten minutes, most of it the training of seven networks"},
    data="mnist",
    shape=(1, 28, 28),
):
    """What one step does to linear, maxout and radial networks, and what training on it does against that."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return (
            ("errors", errors),
            ("logistic", logistic),
            ("training", training),
            ("agreement", agreement),
            ("rubbish", rubbish),
            ("linearity", linearity),
        )


def errors(lab: Lab) -> Part:
    """Section 4: a softmax regression, a maxout and an RBF network under one step."""
    test, nets = test_set(lab), {"softmax": softmax(lab), "maxout": maxout(lab), "RBF": rbf(lab)}
    clean = {name: seen(net, test.x, test.y) for name, net in nets.items()}
    broken = {name: attacked(net, test) for name, net in nets.items()}
    rows: list[list[str | float | int | None]] = [
        [name, share(clean[name].error), share(float(clean[name].confidence.mean())), share(broken[name].error),
         share(broken[name].confidence_of_errors), *(share(_in_the_box(net, test, eps)) for eps in (0.1, EPS))]
        for name, net in nets.items()
    ]  # fmt: skip
    norm = float(next(nets["softmax"].module.parameters()).detach().norm())
    return Part(
        title="Section 4: one step, three networks",
        text=f"Errors over all {len(test)} samples, confidence over the errors, both without a box as in the paper; the last "
        f"two columns are the attack as an audit runs it, in [0, 1]. The confidence of a softmax regression grows with its "
        f"weights, so with how long it was trained: here their Frobenius norm is {norm:.1f}, the paper's is not known. The "
        "RBF network's β is diagonal; its step follows the loss it is trained by, that of each class by itself.",
        claims=_errors_claims(clean, broken),
        tables=[Table(title="errors and confidence in %", rows=rows,
                      columns=["network", "clean error", "clean confidence", "error, ε = 0.25", "confidence of these",
                               "error in the box, ε = 0.1", "error in the box, ε = 0.25"])],
    )  # fmt: skip


def _in_the_box(net: Net, test: Data, eps: float) -> float:
    found = craft(net.module, test.x, test.y, attack="fgsm", threat=f"linf:{eps}").found
    return float(found.double().mean())


def _errors_claims(clean: dict[str, Seen], broken: dict[str, Seen]) -> list[Claim]:
    where = "section 4"
    linear, deep, radial = broken["softmax"], broken["maxout"], broken["RBF"]
    return [
        percent("softmax: error, ε = 0.25", where, "second hand", 99.9, linear.error, (99.0, 100.0)),
        percent("softmax: confidence of errors", where, "second hand", 79.3, linear.confidence_of_errors, None,
                "grows with the weights' norm"),
        percent("maxout: error, ε = 0.25", where, "second hand", 89.4, deep.error, (80.0, 100.0), "trained for less here"),
        percent("maxout: confidence of errors", where, "second hand", 97.6, deep.confidence_of_errors, (80.0, 100.0)),
        percent("RBF: error, ε = 0.25", "section 7", "second hand", 55.4, radial.error, None,
                "depends on the radii that training finds"),
        percent("RBF: confidence of errors", "section 7", "second hand", 1.2, radial.confidence_of_errors, (0.0, 10.0),
                "it has low confidence where it does not understand"),
        percent("RBF: confidence on clean samples", "section 7", "second hand", 60.6,
                float(clean["RBF"].confidence.mean()), (40.0, 80.0)),
        Claim(what="CIFAR-10, convolutional maxout: error at ε = 0.1", where=where, sure="second hand", paper=87.15, unit="%",
              note="not run"),
        Claim(what="CIFAR-10, convolutional maxout: confidence of errors", where=where, sure="second hand", paper=96.6,
              unit="%", note="not run"),
        Claim(what="error of 12 maxout networks together, step made for all", where="section 10", sure="memory", paper=91.1,
              unit="%", note="not run"),
        Claim(what="error of 12 maxout networks together, step made for one", where="section 10", sure="memory", paper=87.9,
              unit="%", note="not run"),
    ]  # fmt: skip


def agreement(lab: Lab) -> Part:
    """Section 8: whether other networks err alike on what was made for maxout."""
    test, source = test_set(lab), maxout(lab)
    x_adv = stepped(source, test.x, test.y)
    wrong = seen(source, x_adv, test.y)
    told = {name: seen(net, x_adv, test.y) for name, net in {"softmax": softmax(lab), "RBF": rbf(lab)}.items()}
    answers = {name: one.logits.argmax(1) for name, one in told.items()} | {"maxout": wrong.logits.argmax(1)}

    def alike(first: str, second: str) -> float:
        """Among the samples that maxout and the first get wrong."""
        both = wrong.wrong & told[first].wrong
        return float((answers[first] == answers[second])[both].double().mean())

    both = [float((one.wrong & wrong.wrong).double().mean()) for one in told.values()]
    return Part(
        title="Section 8: networks that err alike",
        text="Samples made for the maxout network and misclassified by it. Agreement is counted among those that the other "
        f"network misclassifies too: {both[0]:.1%} of all samples for the softmax, {both[1]:.1%} for the RBF network.",
        claims=[
            percent("softmax says maxout's wrong class", "section 8", "memory", 84.6, alike("softmax", "maxout"), (60, 100)),
            percent("RBF says maxout's wrong class", "section 8", "memory", 54.3, alike("RBF", "maxout"), None,
                    "the RBF network has another recipe"),
            percent("RBF says softmax's class", "section 8", "memory", 53.6, alike("RBF", "softmax"), None,
                    "the RBF network has another recipe"),
            percent("what softmax agrees more than RBF does", "section 8", "derived", 30.3,
                    alike("softmax", "maxout") - alike("RBF", "maxout"), (0, 100), "84.6 less 54.3"),
        ],
    )  # fmt: skip


def rubbish(lab: Lab) -> Part:
    """Appendix: how sure networks are of noise."""
    count = lab.size(paper=10_000, smoke=500)
    key = noise.keys(lab.seed, torch.arange(count))
    x = noise.normal(key, torch.zeros_like(key), 784, torch.float32).reshape(-1, 1, 28, 28)
    published = {"maxout": (98.35, 92.8), "softmax": (59.8, 70.8), "maxout, sigmoids": (68.0, 87.9), "RBF": (0.0, None)}
    nets = {"maxout": maxout(lab), "softmax": softmax(lab), "RBF": rbf(lab),
            "maxout, sigmoids": maxout(lab, "maxout-sigmoids", head=SIGMOIDS)}  # fmt: skip
    within = {"RBF": (0.0, 0.5), "maxout": (80.0, 100.0)}
    rows: list[list[str | float | int | None]] = []
    claims = []
    for name, (rate, confidence) in published.items():
        sure = seen(nets[name], x, torch.zeros_like(key)).confidence
        error = float((sure > 0.5).double().mean())
        of_these = float(sure[sure > 0.5].double().mean()) if error else None
        rows.append([name, share(error), rate, share(of_these), confidence])
        claims.append(
            percent(f"{name}: noise taken for a digit", "section 7", "second hand", rate, error, within.get(name))
        )
        if confidence is not None:
            claims.append(percent(f"{name}: confidence of these", "section 7", "second hand", confidence, of_these))
    return Part(
        title="Rubbish inputs",
        text=f"{count} inputs of independent normal noise, N(0, I). An error is a probability above one half for any class.",
        claims=claims,
        tables=[Table(title="taken for a digit, in %", rows=rows,
                      columns=["network", "errors", "paper", "confidence", "paper"])],
    )  # fmt: skip


def linearity(lab: Lab) -> Part:
    """Fig. 4: the answers along the step's direction."""
    net, test = maxout(lab), test_set(lab)
    rows = (seen(net, test.x, test.y).logits.argmax(1) == test.y).nonzero()[:, 0]
    first = rows[test.y[rows] == DIGIT][:1]
    rows = torch.cat([first, rows[rows != first][: lab.size(paper=99, smoke=9)]])
    eps = torch.linspace(-10, 10, 401)
    x, y = test.x[rows], test.y[rows]
    direction = stepped(net, x, y, 1.0) - x
    curves = torch.stack([seen(net, x + e * direction, y).logits for e in eps])  # eps × samples × classes
    fits = np.array(
        [[_r2(curves[side, i].double().numpy()) for side in (eps <= 0, eps >= 0)] for i in range(len(rows))]
    )
    right = (curves.argmax(2) == y).double().sum(0) * float(eps[1] - eps[0])
    top = curves.amax(2)
    rises = torch.cat([top[eps >= 1].diff(dim=0), top.flip(0)[eps >= 1].diff(dim=0)]) > 0
    shown = curves[:, 0].numpy()
    series = {str(digit): (eps.numpy(), shown[:, digit]) for digit in range(10)}
    chart = lines(series, title=f"Logits of a {int(y[0])} along the step", x_title="eps", y_title="logit")
    return Part(
        title="Fig. 4: how linear the network is",
        text=f"The ten logits of the maxout network along x + ε·sign(∇J) for ε from −10 to 10, on {len(rows)} samples; the "
        "figure shows one. In the paper each logit is nearly a line away from the sample, the label is the answer only in a "
        "thin interval, and on both sides the greatest logit climbs without end.",
        claims=[
            Claim(what="R² of a line through each logit on each side (median)", where="Fig. 4", sure="memory",
                  within=(0.99, 1), measured=round(float(np.median(fits)), 4), note="the paper shows curves"),
            Claim(what="width of the interval in which the label is the answer (median, ε from −10 to 10)", where="Fig. 4",
                  sure="memory", within=(0, 5), measured=round(float(right.median()), 3),
                  note="the paper shows a thin one; 10 if the label lasts all the way against the step"),
            percent("steps outward from |ε| = 1 that raise the greatest logit", "Fig. 4", "memory", None,
                    float(rises.double().mean()), (95, 100)),
        ],
        figures=[lab.figure("linearity.svg", chart, "Fig. 4: logits along the step")],
    )  # fmt: skip


def _r2(logits: np.ndarray) -> list[float]:
    """Of a line through each class's logits, at equal distances."""
    place = np.linspace(-1, 1, len(logits))
    return [float(np.corrcoef(place, column)[0, 1] ** 2) for column in logits.T]
