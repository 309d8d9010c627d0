"""Each library's attack behind one signature, called the way its own documentation calls it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from judge import Task
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch, SaliencyMapMethod
    from art.estimators.classification import PyTorchClassifier
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

import sapper
from sapper.attacks.jsma import JSMA
from sapper.attacks.pgd import PGD

Craft = Callable[[nn.Module, Task, int], Tensor]
"""Model, task and batch size to adversarial inputs."""


@dataclass(frozen=True)
class Contender:
    name: str
    package: str
    craft: Craft
    batch_sizes: tuple[int, ...] = ()
    """Those to try, the fastest of which is used; none where the library leaves no choice."""

    trial_samples: int = 1000
    """The most on which its settings are compared."""
    most_samples: int = 1000
    """The most on which it is timed: fewer where it takes minutes."""

    @property
    def version(self) -> str:
        return version(self.package)


def sapper_pgd(model: nn.Module, task: Task, batch_size: int) -> Tensor:
    attack, threat = PGD(steps=task.budget.steps, step_size=task.budget.step_size), f"linf:{task.budget.size}"
    seed = torch.initial_seed()  # the round's
    return sapper.craft(model, task.x, task.labels, attack=attack, threat=threat, seed=seed).x_adv


def sapper_jsma(model: nn.Module, task: Task, batch_size: int, room: float = 0.0) -> Tensor:
    attack, threat = JSMA(theta=task.budget.step_size, room=room), f"l0:{round(task.budget.size)}"
    return sapper.craft(model, task.x, task.labels, attack=attack, threat=threat, targets=task.targets).x_adv


def in_batches(craft: Callable[[nn.Module, Task], Tensor], model: nn.Module, task: Task, batch_size: int) -> Tensor:
    """For libraries that take the whole input as one batch."""
    return torch.cat([craft(model, part) for part in task.split(batch_size)])


def foolbox_pgd(model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    attack = foolbox.attacks.LinfPGD(abs_stepsize=budget.step_size, steps=budget.steps, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=task.x.device)
    _, x_adv, _ = attack(wrapped, task.x, task.labels, epsilons=budget.size)
    return x_adv.detach()


def torchattacks_pgd(model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    attack = torchattacks.PGD(model, eps=budget.size, alpha=budget.step_size, steps=budget.steps, random_start=True)
    return attack(task.x, task.labels)


def cleverhans_pgd(model: nn.Module, task: Task) -> Tensor:
    budget = task.budget
    return projected_gradient_descent(
        model,
        task.x,
        eps=budget.size,
        eps_iter=budget.step_size,
        nb_iter=budget.steps,
        norm=np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=task.labels,
    ).detach()


def art_pgd(model: nn.Module, task: Task, batch_size: int) -> Tensor:
    budget = task.budget
    attack = ProjectedGradientDescentPyTorch(
        art_classifier(model, task),
        norm=np.inf,
        eps=budget.size,
        eps_step=budget.step_size,
        max_iter=budget.steps,
        num_random_init=1,
        batch_size=batch_size,
        verbose=False,
    )
    return torch.from_numpy(attack.generate(task.x.numpy(), y=task.labels.numpy()))


def art_jsma(model: nn.Module, task: Task, batch_size: int) -> Tensor:
    assert task.targets is not None
    attack = SaliencyMapMethod(
        art_classifier(model, task),
        theta=task.budget.step_size,
        gamma=gamma_within_budget(task),
        batch_size=batch_size,
        verbose=False,
    )
    return torch.from_numpy(attack.generate(task.x.numpy(), y=task.targets.numpy()))


def torchattacks_jsma(model: nn.Module, task: Task, batch_size: int) -> Tensor:
    attack = torchattacks.JSMA(model, theta=task.budget.step_size, gamma=gamma_within_budget(task))
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(task.x, task.targets).detach()


def gamma_within_budget(task: Task) -> float:
    """The gamma with which ART and torchattacks change at most as many features as the budget allows.

    With the paper's 14.5 % both exceed its 112 pixels by a pair: torchattacks rounds the number of steps up, ART
    tests after the step.
    """
    return (2 * task.budget.steps - 1) / task.x[0].numel()


def art_classifier(model: nn.Module, task: Task) -> PyTorchClassifier:
    shape = tuple(task.x.shape[1:])
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), shape, nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
    )


PGD_BATCHES = (64, 128, 256, 1000)
PGD_CONTENDERS = (
    Contender("Sapper", "sapper", sapper_pgd),
    Contender("Foolbox", "foolbox", partial(in_batches, foolbox_pgd), PGD_BATCHES),
    Contender("ART", "adversarial-robustness-toolbox", art_pgd, PGD_BATCHES),
    Contender("torchattacks", "torchattacks", partial(in_batches, torchattacks_pgd), PGD_BATCHES),
    Contender("CleverHans", "cleverhans", partial(in_batches, cleverhans_pgd), PGD_BATCHES),
)
SAPPER_JSMA = Contender("Sapper", "sapper", sapper_jsma)
SAPPER_ROOM_JSMA = Contender("Sapper, room=0.01", "sapper", partial(sapper_jsma, room=0.01))
"""Without features that are nearly saturated from the start, as torchattacks has it; the paper keeps them."""
ART_JSMA = Contender("ART", "adversarial-robustness-toolbox", art_jsma, (1, 16, 64, 256))
TORCHATTACKS_JSMA = Contender("torchattacks", "torchattacks", torchattacks_jsma, (1,), trial_samples=9)
