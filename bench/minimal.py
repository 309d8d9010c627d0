"""The contenders for the smallest distance, by the method they all implement.

Steps are equal; what a library does not let one set is left as it is. Each returns its own idea of the best input.
"""

import math
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import CarliniL2Method, DeepFool, ElasticNet
from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
from contenders import Contender, art_classifier, in_batches
from judge import Task
from torch import Tensor, nn

import sapper

for absent in ("torchvision", "torchvision.models", "visdom"):  # adv-lib imports them for what is not used here
    sys.modules.setdefault(absent, types.ModuleType(absent))
sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import adv_lib.attacks as adv_lib

BATCHES = (32, 100, 256)
NORMS = {0.0: "l0", 1.0: "l1", 2.0: "l2", math.inf: "linf"}


@dataclass(frozen=True)
class Race:
    """A method in a norm: who runs it, and for how many steps."""

    name: str
    norm: float
    steps: int
    contenders: tuple[Contender, ...]


def ours(attack: str, name: str = "Sapper") -> Contender:
    """`attack` may say where the number of steps goes: {steps}."""
    return Contender(name, "sapper", partial(sapper_attack, attack))


def sapper_attack(attack: str, model: nn.Module, task: Task, batch_size: int) -> Tensor:
    size = "min" if math.isinf(task.budget.size) else str(task.budget.size)
    written = attack.format(steps=task.budget.steps)
    threat, seed = f"{NORMS[task.budget.norm]}:{size}", torch.initial_seed()
    return sapper.craft(model, task.x, task.labels, attack=written, threat=threat, seed=seed).x_adv


def batched(name: str, package: str, craft: Callable[[nn.Module, Task], Tensor]) -> Contender:
    return Contender(name, package, partial(in_batches, craft), BATCHES)


def foolbox_with(make: Callable[[int], Any]) -> Contender:
    """An attack of Foolbox, made for a number of steps."""

    def craft(model: nn.Module, task: Task) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=task.x.device)
        return make(task.budget.steps)(wrapped, task.x, task.labels, epsilons=None)[0].detach()

    return batched("Foolbox", "foolbox", craft)


def torchattacks_with(make: Callable[[nn.Module, int], Any]) -> Contender:
    def craft(model: nn.Module, task: Task) -> Tensor:
        return make(model, task.budget.steps)(task.x, task.labels).detach()

    return batched("torchattacks", "torchattacks", craft)


def adv_lib_with(attack: Callable[..., Tensor], **options: Any) -> Contender:
    def craft(model: nn.Module, task: Task) -> Tensor:
        steps = options.get("_steps", "steps")
        given = {name: value for name, value in options.items() if name != "_steps"}
        return attack(model, task.x, task.labels, **{steps: task.budget.steps}, **given).detach()

    return batched("adv-lib", "adv-lib", craft)


def art_with(make: Callable[[Any, int, int], Any], most_samples: int = 1000) -> Contender:
    def craft(model: nn.Module, task: Task, batch_size: int) -> Tensor:
        attack = make(art_classifier(model, task), task.budget.steps, batch_size)
        labels = np.eye(10, dtype=np.float32)[task.labels.numpy()]
        return torch.from_numpy(attack.generate(task.x.numpy(), y=labels))

    return Contender("ART", "adversarial-robustness-toolbox", craft, (32, 100), 32, most_samples)


def cleverhans_carlini_wagner(model: nn.Module, task: Task) -> Tensor:
    return carlini_wagner_l2(
        model, task.x, 10, y=task.labels, lr=0.01, initial_const=1e-3, binary_search_steps=9,
        max_iterations=task.budget.steps,
    ).detach()  # fmt: skip


FOOLBOX = foolbox.attacks
RACES = (
    Race("DeepFool", 2.0, 50, (
        ours("deepfool:steps={steps}"),
        foolbox_with(lambda steps: FOOLBOX.L2DeepFoolAttack(steps=steps)),
        torchattacks_with(lambda model, steps: torchattacks.DeepFool(model, steps=steps)),
        adv_lib_with(adv_lib.df, norm=2),
        art_with(lambda model, steps, size: DeepFool(model, steps, 0.02, 10, size, verbose=False)),
    )),
    Race("DeepFool", math.inf, 50, (
        ours("deepfool:steps={steps}"),
        foolbox_with(lambda steps: FOOLBOX.LinfDeepFoolAttack(steps=steps)),
        adv_lib_with(adv_lib.df, norm=math.inf),
    )),
    Race("Carlini-Wagner", 2.0, 200, (
        ours("carlini_wagner:steps={steps}"),
        foolbox_with(lambda steps: FOOLBOX.L2CarliniWagnerAttack(steps=steps)),
        Contender("CleverHans", "cleverhans", partial(in_batches, cleverhans_carlini_wagner), BATCHES, trial_samples=100),
        adv_lib_with(adv_lib.carlini_wagner_l2, _steps="max_iterations"),
        art_with(lambda model, steps, size: CarliniL2Method(
            model, learning_rate=0.01, binary_search_steps=9, max_iter=steps, initial_const=1e-3, batch_size=size,
            verbose=False), most_samples=10),
    )),
    Race("DDN", 2.0, 100, (
        ours("ddn:steps={steps}"),
        foolbox_with(lambda steps: FOOLBOX.DDNAttack(steps=steps)),
        adv_lib_with(adv_lib.ddn, levels=None),
    )),
    *(
        Race("FMN", norm, 100, (
            ours("fmn:steps={steps}"),
            foolbox_with(lambda steps, kind=kind: kind(steps=steps)),
            adv_lib_with(adv_lib.fmn, norm=norm),
        ))
        for norm, kind in (
            (0.0, FOOLBOX.L0FMNAttack), (1.0, FOOLBOX.L1FMNAttack),
            (2.0, FOOLBOX.L2FMNAttack), (math.inf, FOOLBOX.LInfFMNAttack)
        )
    ),
    Race("sigma-zero", 0.0, 100, (ours("sigma_zero:steps={steps}"), adv_lib_with(adv_lib.sigma_zero, _steps="num_steps"))),
    *(
        Race("FAB", norm, 100, (
            ours("fab:steps={steps}"),
            torchattacks_with(lambda model, steps, norm=norm: torchattacks.FAB(
                model, norm="L2" if norm == 2 else "Linf", eps=1e9, steps=steps)),
            adv_lib_with(adv_lib.fab, norm=norm, _steps="n_iter"),
        ))
        for norm in (2.0, math.inf)
    ),
    Race("EAD", 1.0, 100, (
        ours("ead:steps={steps}"),
        foolbox_with(lambda steps: FOOLBOX.EADAttack(steps=steps, decision_rule="L1", regularization=1e-2)),
        art_with(lambda model, steps, size: ElasticNet(
            model, learning_rate=0.01, max_iter=steps, beta=1e-2, decision_rule="L1", batch_size=size, verbose=False),
            most_samples=10),
    )),
)  # fmt: skip
