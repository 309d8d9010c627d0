"""The contenders that ask for scores alone, with as many questions a sample as each other.

A race is in a norm, for a budget or for the smallest distance. What a library does not stop by itself is given the most
iterations that keep within the questions; its other settings are its own or, where those fail, the best of those tried.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import PixelAttack, SquareAttack, ZooAttack
from cleverhans.torch.attacks.spsa import spsa
from contenders import Contender, art_classifier, in_batches
from judge import Task
from minimal import NORMS
from torch import Tensor, nn

import sapper


@dataclass(frozen=True)
class Race:
    """A kind of attack: who runs it, and with how many questions a sample."""

    name: str
    norm: float
    size: float
    """The budget; infinite where the smallest distance is sought."""
    queries: int
    contenders: tuple[Contender, ...]
    targeted: bool = False
    """The next class is to be reached."""

    @property
    def threat(self) -> str:
        return f"{NORMS[self.norm]} {'smallest' if math.isinf(self.size) else format(self.size, 'g')}"


def ours(attack: str, name: str = "Sapper") -> Contender:
    """`attack` may say where the number of questions goes: {queries}."""
    return Contender(name, "sapper", partial(sapper_attack, attack))


def sapper_attack(attack: str, model: nn.Module, task: Task, batch_size: int) -> Tensor:
    budget = task.budget
    threat = f"{NORMS[budget.norm]}:{'min' if math.isinf(budget.size) else format(budget.size, 'g')}"
    return sapper.craft(
        model, task.x, task.labels, attack=attack.format(queries=budget.steps), threat=threat, targets=task.targets,
        queries=budget.steps, seed=torch.initial_seed(),
    ).x_adv  # fmt: skip


def batched(name: str, package: str, craft: Callable[[nn.Module, Task], Tensor]) -> Contender:
    return Contender(name, package, partial(in_batches, craft), (100,), trial_samples=4)


def art(craft: Callable[[nn.Module, Task], np.ndarray]) -> Contender:
    def run(model: nn.Module, task: Task, batch_size: int) -> Tensor:
        return torch.from_numpy(craft(model, task))

    return Contender("ART", "adversarial-robustness-toolbox", run, (100,), trial_samples=4)


def one_hot(task: Task) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[task.labels.numpy()]


def art_square(model: nn.Module, task: Task) -> np.ndarray:
    budget = task.budget
    rounds = budget.steps // 3  # it asks three times a round
    attack = SquareAttack(
        art_classifier(model, task), norm=budget.norm, eps=budget.size, max_iter=rounds, verbose=False
    )
    return attack.generate(task.x.numpy(), y=one_hot(task))


def torchattacks_square(model: nn.Module, task: Task) -> Tensor:
    budget, norm = task.budget, {2.0: "L2", math.inf: "Linf"}[task.budget.norm]
    seed = torch.initial_seed() % 2**31
    attack = torchattacks.Square(model, norm=norm, eps=budget.size, n_queries=budget.steps, seed=seed)
    if task.targets is None:
        return attack(task.x, task.labels).detach()
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(task.x, task.targets).detach()


PAIRS = 32
"""Of questions for an estimate of a gradient: the libraries' 128 are too many for a few thousand questions."""


def torchattacks_spsa(model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    updates = max(1, budget.steps // (2 * PAIRS))
    attack = torchattacks.SPSA(model, eps=budget.size, lr=budget.size / 4, nb_sample=PAIRS, nb_iter=updates)
    return attack(task.x, task.labels).detach()


def cleverhans_spsa(model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    return spsa(
        model, task.x, budget.size, max(1, budget.steps // (2 * PAIRS + 1)), clip_min=0.0, clip_max=1.0, y=task.labels,
        learning_rate=budget.size / 4, spsa_samples=PAIRS, sanity_checks=False,
    ).detach()  # fmt: skip


def art_zoo(model: nn.Module, task: Task) -> np.ndarray:
    """Its own settings end before anything has moved. These reach more samples than others that were tried."""
    attack = ZooAttack(
        art_classifier(model, task), learning_rate=0.01, initial_const=10.0, nb_parallel=128, abort_early=False,
        max_iter=max(1, task.budget.steps // 257), use_resize=False, use_importance=False, verbose=False,
    )  # fmt: skip
    return attack.generate(task.x.numpy(), y=one_hot(task))


def art_pixel(model: nn.Module, task: Task) -> np.ndarray:
    pixels = round(task.budget.size)
    members = max(1, 400 // (3 * pixels)) * 3 * pixels
    attack = PixelAttack(art_classifier(model, task), th=pixels, max_iter=max(1, task.budget.steps // members - 1))
    return attack.generate(task.x.numpy(), y=one_hot(task))


def torchattacks_pixel(model: nn.Module, task: Task) -> Tensor:
    pixels = round(task.budget.size)
    generations = max(1, task.budget.steps // max(5, 3 * pixels) - 1)
    return torchattacks.OnePixel(model, pixels=pixels, steps=generations)(task.x, task.labels).detach()


def foolbox_genetic(model: nn.Module, task: Task) -> Tensor:
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=task.x.device)
    goal = foolbox.criteria.TargetedMisclassification(task.targets)
    attack = foolbox.attacks.GenAttack(steps=max(1, task.budget.steps // 10), population=10)
    return attack(wrapped, task.x, goal, epsilons=task.budget.size)[1].detach()


SQUARE = (ours("square:steps={queries}"), batched("torchattacks", "torchattacks", torchattacks_square), art(art_square))
RACES = (
    Race("gradient estimates", math.inf, 0.15, 2000, (
        ours("spsa:steps={queries}"),
        ours("nes:steps={queries}", "Sapper, nes"),
        batched("torchattacks", "torchattacks", torchattacks_spsa),
        batched("CleverHans", "cleverhans", cleverhans_spsa),
    )),
    Race("targeted", math.inf, 0.2, 2000, (
        ours("nes:steps={queries}"),
        ours("square:steps={queries}", "Sapper, square"),
        batched("Foolbox", "foolbox", foolbox_genetic),
        batched("torchattacks", "torchattacks", torchattacks_square),
    ), targeted=True),
    Race("ZOO", 2.0, math.inf, 4000, (ours("zoo:steps={queries}"), art(art_zoo))),
    Race("pixels", 0.0, 20, 2000, (
        ours("pixel:steps={queries}"),
        art(art_pixel),
        batched("torchattacks", "torchattacks", torchattacks_pixel),
    )),
)  # fmt: skip
