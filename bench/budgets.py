"""The contenders within a budget: AutoAttack, and by themselves those of its parts that other libraries have as well.

Steps are equal, or questions where an attack asks for scores only.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent
from contenders import Contender, art_classifier
from judge import Task
from minimal import adv_lib, batched, ours
from scores import SQUARE, one_hot
from torch import Tensor, nn


@dataclass(frozen=True)
class Race:
    """An attack in a norm: who runs it, for how many steps, and with which budgets on which network."""

    name: str
    norm: float
    steps: int
    contenders: tuple[Contender, ...]
    sizes: tuple[float, ...]
    robust_sizes: tuple[float, ...]


def torchattacks_apgd(loss: str, model: nn.Module, task: Task) -> Tensor:
    budget, seed = task.budget, torch.initial_seed() % 2**31
    attack = torchattacks.APGD(model, norm="Linf", eps=budget.size, steps=budget.steps, seed=seed, loss=loss)
    return attack(task.x, task.labels).detach()


def adv_lib_apgd(loss: str, model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    return adv_lib.apgd(
        model, task.x, task.labels, eps=budget.size, norm=budget.norm, n_iter=budget.steps, loss_function=loss
    ).detach()


def art_apgd(loss: str, model: nn.Module, task: Task, batch_size: int) -> Tensor:
    attack = AutoProjectedGradientDescent(
        art_classifier(model, task), norm=np.inf, eps=task.budget.size, eps_step=2 * task.budget.size,
        max_iter=task.budget.steps, nb_random_init=1, batch_size=batch_size, loss_type=loss, verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(task.x.numpy(), y=one_hot(task)))


def apgd(loss: str, short: str, of_art: str) -> tuple[Contender, ...]:
    package = "adversarial-robustness-toolbox"
    return (
        ours(f"apgd:steps={{steps}},loss={loss}"),
        batched("torchattacks", "torchattacks", partial(torchattacks_apgd, short)),
        batched("adv-lib", "adv-lib", partial(adv_lib_apgd, short)),
        Contender("ART", package, partial(art_apgd, of_art), (32, 100), trial_samples=32),
    )


def torchattacks_autoattack(model: nn.Module, task: Task) -> Tensor:
    """Its standard four, with the paper's 100 steps where the library takes 10."""
    wanted: dict[str, Any] = {"norm": "Linf", "eps": task.budget.size, "seed": torch.initial_seed() % 2**31}
    steps = task.budget.steps
    stages = [
        torchattacks.APGD(model, steps=steps, loss="ce", **wanted),
        torchattacks.APGDT(model, steps=steps, n_classes=10, **wanted),
        torchattacks.FAB(model, steps=steps, multi_targeted=True, n_classes=10, **wanted),
        torchattacks.Square(model, n_queries=50 * steps, **wanted),
    ]
    return torchattacks.MultiAttack(stages)(task.x, task.labels).detach()


AUTOATTACK = (ours("autoattack"), batched("torchattacks", "torchattacks", torchattacks_autoattack))
RACES = (
    Race("APGD on cross-entropy", math.inf, 100, apgd("cross_entropy", "ce", "cross_entropy"), (0.1,), (0.3,)),
    Race("APGD on DLR", math.inf, 100, apgd("dlr", "dlr", "difference_logits_ratio"), (0.1,), (0.3,)),
    Race("Square", math.inf, 1000, SQUARE, (0.1,), (0.3,)),
    Race("Square", 2.0, 1000, SQUARE, (1.5,), (2.0,)),
    Race("AutoAttack", math.inf, 100, AUTOATTACK, (0.1, 0.3), (0.3,)),
)  # fmt: skip
