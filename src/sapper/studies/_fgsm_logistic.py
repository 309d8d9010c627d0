"""3 against 7 by logistic regression, where the worst case has a closed form and adversarial training is exact."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sapper.claims import Claim, Part, Table, percent
from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models import softmax as linear
from sapper.report.picture_grid import image_grid
from sapper.studies._fgsm_common import EPS, SOFTMAX, Net, Seen, seen, stepped
from sapper.studies._teaching import Lesson, samples, share, taught
from sapper.tensors import Batch, Flat, Labels, Scalars

Weights = tuple[Tensor, Tensor]


def three_or_seven(data: Data) -> Data:
    """Class 0 is the 3, class 1 the 7."""
    rows = (data.y == 3) | (data.y == 7)
    return replace(data, x=data.x[rows], y=(data.y[rows] == 7).long(), classes=("3", "7"))


def regression(lab: Lab, name: str, loss: Callable[[nn.Module, Batch, Labels], Tensor]) -> Net:
    data = three_or_seven(samples(lab, "train", None if lab.scale == "paper" else 4000))
    lesson = Lesson(data, lab.size(paper=20, smoke=5), loss=loss)
    return Net(taught(lab, name, lambda: linear.build(data.shape, 2), lesson), SOFTMAX)


def weights(module: nn.Module) -> Weights:
    """W and b of the logit of "7": of two softmax outputs only the difference counts."""
    (layer,) = (part for part in module.modules() if isinstance(part, nn.Linear))
    return layer.weight[1] - layer.weight[0], layer.bias[1] - layer.bias[0]


def margin(module: nn.Module, x: Batch, y: Labels, eps: float = 0.0) -> Scalars:
    """y(wᵀx + b) − ε‖w‖₁ with y = ±1: the least logit that is left within ε of x."""
    w, b = weights(module)
    return (2 * y - 1) * (x.flatten(1) @ w + b) - eps * w.abs().sum()


def adversarial(eps: float) -> Callable[[nn.Module, Batch, Labels], Tensor]:
    """The logistic loss of the worst case within ε, where the paper's text places the penalty: inside."""
    return lambda module, x, y: F.softplus(-margin(module, x, y, eps)).mean()


def decayed(strength: float) -> Callable[[nn.Module, Batch, Labels], Tensor]:
    """L1 weight decay: the penalty outside."""
    return lambda module, x, y: F.softplus(-margin(module, x, y)).mean() + strength * weights(module)[0].abs().sum()


WAYS = {
    "plain": adversarial(0.0),
    f"adversarial, ε = {EPS}": adversarial(EPS),
    "adversarial, ε = 0.1": adversarial(0.1),
    f"L1 decay, {EPS}": decayed(EPS),
    "L1 decay, 0.1": decayed(0.1),
    "L1 decay, 0.0025": decayed(0.0025),
}


def logistic(lab: Lab) -> Part:
    """Fig. 2, and section 5's comparison with weight decay."""
    learned = three_or_seven(samples(lab, "train", None if lab.scale == "paper" else 4000))
    test = three_or_seven(samples(lab, "test", None if lab.scale == "paper" else 1000))
    nets = {name: regression(lab, f"logistic-{place}", loss) for place, (name, loss) in enumerate(WAYS.items())}
    plain = nets["plain"]
    x_adv = stepped(plain, test.x, test.y)
    clean, attacked = seen(plain, test.x, test.y), seen(plain, x_adv, test.y)
    with torch.no_grad():
        closed, measured = margin(plain.module, test.x, test.y, EPS), margin(plain.module, x_adv, test.y)
        gap = float(((closed - measured).abs() / closed.abs().amax()).amax())
        errors = {name: [*_errors(net.module, learned, test)] for name, net in nets.items()}
    return Part(
        title="Fig. 2: logistic regression, 3 against 7",
        text="The gradient's sign is that of w for every sample, so the FGSM step is the worst there is, and lowers every "
        "margin by ε‖w‖₁. The adversarial objective is the loss of that worst case, E ζ(ε‖w‖₁ − y(wᵀx + b)): the penalty "
        "stands inside the loss and ends for samples that are far enough from the boundary. L1 decay of the same "
        "coefficient stands outside and never ends. The adversarial errors in the table are the closed form's.",
        claims=_claims(clean, attacked, gap, errors),
        tables=[Table(title="training, and errors in %", rows=[[name, *row] for name, row in errors.items()],
                      columns=["training", "‖w‖₁", "training error", "test error", "adversarial error, ε = 0.1",
                               f"adversarial error, ε = {EPS}"])],
        figures=[lab.figure("logistic.png", _pictures(plain.module, test, x_adv), "Fig. 2: 3 against 7")],
    )  # fmt: skip


def _errors(module: nn.Module, learned: Data, test: Data) -> list[float | None]:
    shares = [margin(module, learned.x, learned.y), *(margin(module, test.x, test.y, eps) for eps in (0.0, 0.1, EPS))]
    size = float(weights(module)[0].abs().sum())
    return [round(size, 2), *(share(float((left < 0).double().mean())) for left in shares)]


def _claims(clean: Seen, attacked: Seen, gap: float, errors: dict[str, list[float | None]]) -> list[Claim]:
    exact, penalty = errors[f"adversarial, ε = {EPS}"], errors[f"L1 decay, {EPS}"]
    assert exact[1] is not None
    assert penalty[1] is not None
    return [
        percent("clean test error, 3 against 7", "section 5", "second hand", 1.6, clean.error, (1.0, 2.5)),
        percent("error under FGSM, ε = 0.25", "section 5", "second hand", 99.0, attacked.error, (97.0, 100.0)),
        Claim(what="largest difference of the margin after FGSM and its closed form, of the largest margin",
              where="section 5", sure="derived", paper=0, within=(0, 1e-4), measured=gap),
        Claim(what="training error with L1 decay of 0.25 less that with the adversarial objective", where="section 5",
              sure="memory", within=(0, 100), measured=round(penalty[1] - exact[1], 2), unit="%",
              note="the paper: weight decay overestimates the damage an adversary can do"),
    ]  # fmt: skip


def _pictures(module: nn.Module, test: Data, x_adv: Batch) -> bytes:
    """Weights, their sign, and some samples before and after."""
    with torch.no_grad():
        w = weights(module)[0]
    maps = torch.stack([w / w.abs().amax(), w.sign()]) / 2 + 0.5
    few = torch.cat([(test.y == label).nonzero()[:2, 0] for label in (0, 1)])
    rows: list[Flat] = [maps.flatten(1), test.x[few].flatten(1), x_adv[few].clamp(0, 1).flatten(1)]
    grid = np.full((3, 4, 1, 28, 28), np.nan)
    for place, row in enumerate(rows):
        grid[place, : len(row), 0] = row.reshape(-1, 28, 28).numpy()
    return image_grid(grid, ["w, its sign", "clean", f"eps = {EPS}"], [""] * 4)
