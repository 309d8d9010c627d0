"""The FGSM study's trained maxout networks: adversarial training, noise instead, weight decay (sections 6 and 7)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sapper.claims import Claim, Part, Table, percent
from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models.maxout import Maxout
from sapper.studies._fgsm_common import (
    EPS,
    SOFTMAX,
    Net,
    Seen,
    attacked,
    maxout,
    seen,
    stepped,
    test_set,
    train_set,
)
from sapper.studies._teaching import cross_entropy, share
from sapper.tensors import Batch, Labels

DECAY = 0.0025
"""The paper's L1 coefficient on the first layer."""


def adversarial(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    """Half the loss of the samples, half that of the step on them, made by the weights of the moment."""
    x_adv = stepped(Net(module, SOFTMAX), x, y)
    return (cross_entropy(module, x, y) + cross_entropy(module, x_adv, y)) / 2


def random_signs(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    """±ε in each pixel; with the samples themselves, as in adversarial training."""
    return _noisy(module, x, y, EPS * (2 * torch.randint_like(x, 2) - 1))


def uniform(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    return _noisy(module, x, y, EPS * (2 * torch.rand_like(x) - 1))


def _noisy(module: nn.Module, x: Batch, y: Labels, change: Batch) -> Tensor:
    return (cross_entropy(module, x, y) + cross_entropy(module, x + change, y)) / 2


def decayed(module: nn.Module, x: Batch, y: Labels) -> Tensor:
    first = next(part for part in module.modules() if isinstance(part, Maxout))
    return cross_entropy(module, x, y) + DECAY * first.pieces.weight.abs().sum()


WAYS: dict[str, Callable[[nn.Module, Batch, Labels], Tensor] | None] = {
    "maxout": None,
    "maxout-adversarial": adversarial,
    "maxout-signs": random_signs,
    "maxout-uniform": uniform,
    "maxout-decay": decayed,
}


def training(lab: Lab) -> Part:
    """Adversarial training, its controls, and transfer between the plain and the adversarially trained network."""
    test, learned = test_set(lab), train_set(lab)
    nets = {name: maxout(lab, name, loss) for name, loss in WAYS.items()}
    clean = {name: seen(net, test.x, test.y) for name, net in nets.items()}
    broken = {name: attacked(net, test) for name, net in nets.items()}
    plain, hard = nets["maxout"], nets["maxout-adversarial"]
    onto_hard, onto_plain = _transfer(plain, hard, test), _transfer(hard, plain, test)
    stuck = seen(nets["maxout-decay"], learned.x, learned.y).error
    return Part(
        title="Section 6: adversarial training and its controls",
        text=f"Maxout networks of 2 × 240 units, {len(learned)} samples and {lab.size(paper=12, smoke=2)} epochs each: the "
        "paper trains on all 60 000 with early stopping, and its most robust network has 1 600 units. The step inside "
        "the training is made in evaluation mode, without dropout. The controls replace it by noise of the same size.",
        claims=_claims(lab, clean, broken, onto_hard, onto_plain, stuck),
        tables=[
            Table(
                title="errors in %",
                columns=["network", "clean", "FGSM, ε = 0.25", "confidence of these"],
                rows=[
                    [name, share(clean[name].error), share(broken[name].error),
                     share(broken[name].confidence_of_errors) if bool(broken[name].wrong.any()) else None]
                    for name in nets
                ],
            ),
            Table(title="transfer, error in %", columns=["made for", "shown to", "error"],
                  rows=[["plain", "adversarially trained", share(onto_hard)],
                        ["adversarially trained", "plain", share(onto_plain)]]),
        ],
    )  # fmt: skip


def _transfer(source: Net, victim: Net, test: Data) -> float:
    return seen(victim, stepped(source, test.x, test.y), test.y).error


def _claims(
    lab: Lab, clean: dict[str, Seen], broken: dict[str, Seen], onto_hard: float, onto_plain: float, stuck: float
) -> list[Claim]:
    plain, hard = broken["maxout"].error, broken["maxout-adversarial"].error
    where = "section 6"
    scaled = "240 units, fewer epochs and samples here"
    return [
        percent("error under FGSM after adversarial training", where, "second hand", 17.9, hard, (0.0, 30.0), scaled),
        percent("confidence of these errors", where, "second hand", 81.4, broken["maxout-adversarial"].confidence_of_errors),
        percent("what adversarial training takes from the error under FGSM", where, "derived", 71.5, plain - hard,
                (50.0, 100.0), "89.4 to 17.9"),
        percent("clean error, plain", where, "second hand", 0.94, clean["maxout"].error, None, scaled),
        percent("clean error, adversarially trained", where, "second hand", 0.84, clean["maxout-adversarial"].error, None,
                scaled),
        percent("what adversarial training adds to the clean error", where, "derived", -0.10,
                clean["maxout-adversarial"].error - clean["maxout"].error, (-2.0, 0.1),
                "0.94 to 0.84, after training until it helps no more; here the epochs are fixed"),
        Claim(what="clean error, 1 600 units, adversarially trained (mean of 5 seeds)", where=where, sure="second hand",
              paper=0.782, unit="%", note="not run: hours a seed"),
        percent("transfer: made for the plain, shown to the hardened", where, "second hand", 19.6, onto_hard, None, scaled),
        percent("transfer: made for the hardened, shown to the plain", where, "second hand", 40.9, onto_plain, None, scaled),
        percent("transfer from the hardened less transfer to it", where, "derived", 21.3, onto_plain - onto_hard,
                (0.0, 100.0), "40.9 less 19.6"),
        percent("error under FGSM, trained with ±ε noise", where, "second hand", 86.2, broken["maxout-signs"].error,
                (75.0, 100.0)),
        percent("confidence of these errors, ±ε noise", where, "memory", 97.3, broken["maxout-signs"].confidence_of_errors),
        percent("error under FGSM, trained with uniform noise", where, "second hand", 90.4, broken["maxout-uniform"].error,
                (75.0, 100.0)),
        percent("confidence of these errors, uniform noise", where, "memory", 97.8,
                broken["maxout-uniform"].confidence_of_errors),
        percent(f"training error with L1 decay of {DECAY} on the first layer", "section 5", "second hand", 5.0, stuck,
                (5.0, 100.0) if lab.scale == "paper" else None, "the paper: stuck above 5 %"),
    ]  # fmt: skip
