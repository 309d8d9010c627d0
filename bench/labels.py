"""The contenders that are answered with labels only, at an equal number of questions a sample.

Peers count in steps of their own, if at all. So each is given one sample at a time by a model that answers so many
questions and no more; what counts is the nearest success among all that it asked about, whatever it would have returned.
"""

import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import chdir, suppress
from typing import Any

import foolbox
import numpy as np
import torch
from art.attacks.evasion import BoundaryAttack, GeoDA, HopSkipJump, SignOPTAttack
from contenders import Contender, art_classifier
from judge import Task, distances, in_box
from minimal import NORMS, Race
from torch import Tensor, nn

import sapper

if not hasattr(np, "mat"):
    np.mat = np.asmatrix  # type: ignore[attr-defined]  # ART's GeoDA calls what NumPy 2 has removed
FOOLBOX = foolbox.attacks
MANY = 1_000_000
"""Steps of an attack that the questions end."""


class SpentError(Exception):
    """No question is left."""


class Rationed(nn.Module):
    """Answers so many questions about one sample and remembers the nearest input that fooled."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.left = task.budget.steps
        self.nearest, self.distance = task.x, math.inf

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.task.x.dtype)
        if len(x) > self.left:
            self._answer(x[: self.left])
            raise SpentError
        return self._answer(x)

    def _answer(self, x: Tensor) -> Tensor:
        self.left -= len(x)
        if not len(x):
            return x
        logits = self.model(x)
        away = distances(x - self.task.x, self.task.budget.norm)
        away = away.where((logits.argmax(1) != self.task.labels) & in_box(x), math.inf)
        if float(away.min()) < self.distance:
            self.distance, self.nearest = float(away.min()), x[away.argmin()][None].detach().clone()
        return logits


def rationed(name: str, package: str, attack: Callable[[nn.Module, Task], Any]) -> Contender:
    """Attacks one sample at a time until its questions are spent."""

    def craft(model: nn.Module, task: Task, batch_size: int) -> Tensor:
        nearest = []
        for one in task.split(1):
            door = Rationed(model, one).eval()
            with suppress(SpentError), warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                attack(door, one)
            nearest.append(door.nearest)
        return torch.cat(nearest)

    return Contender(name, package, craft, (1,), trial_samples=1)


def foolbox_with(make: Callable[[], Any]) -> Contender:
    def attack(model: nn.Module, task: Task) -> None:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=task.x.device)
        with suppress(ValueError):  # no start was found
            make()(wrapped, task.x, task.labels, epsilons=None)

    return rationed("Foolbox", "foolbox", attack)


def art_with(make: Callable[[Any, int], Any], name: str = "ART") -> Contender:
    """An attack of ART, made for a classifier and a number of questions."""

    def attack(model: nn.Module, task: Task) -> None:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):  # GeoDA leaves a file
            labels = np.eye(10, dtype=np.float32)[task.labels.numpy()]
            make(art_classifier(model, task), task.budget.steps).generate(task.x.numpy(), y=labels)

    return rationed(name, "adversarial-robustness-toolbox", attack)


def ours(name: str) -> Contender:
    def craft(model: nn.Module, task: Task, batch_size: int) -> Tensor:
        queries = task.budget.steps
        attack, threat = f"{name}:steps={queries}", f"{NORMS[task.budget.norm]}:min"
        seed = torch.initial_seed()  # the round's
        return sapper.craft(model, task.x, task.labels, attack=attack, threat=threat, queries=queries, seed=seed).x_adv

    return Contender("Sapper", "sapper", craft)


RACES = tuple(
    Race(name, norm, queries, contenders)
    for queries in (1000, 5000)
    for name, norm, contenders in (
        ("Boundary", 2.0, (
            ours("boundary"),
            foolbox_with(lambda: FOOLBOX.BoundaryAttack(steps=MANY)),
            art_with(lambda model, queries: BoundaryAttack(model, targeted=False, max_iter=MANY, verbose=False)),
        )),
        ("HopSkipJump", 2.0, (
            ours("hop_skip_jump"),
            foolbox_with(lambda: FOOLBOX.HopSkipJumpAttack(steps=MANY)),
            art_with(lambda model, queries: HopSkipJump(model, norm=2, max_iter=MANY, verbose=False)),
        )),
        ("HopSkipJump", math.inf, (
            ours("hop_skip_jump"),
            foolbox_with(lambda: FOOLBOX.HopSkipJumpAttack(steps=MANY, constraint="linf")),
            art_with(lambda model, queries: HopSkipJump(model, norm=np.inf, max_iter=MANY, verbose=False)),
        )),
        ("GeoDA", 2.0, (
            ours("geoda"),
            # its own search for the boundary ends at an l2 distance of 0.1, with which it gets no nearer than 6
            art_with(lambda model, queries: GeoDA(model, norm=2, max_iter=queries, bin_search_tol=1e-3, verbose=False)),
            art_with(
                lambda model, queries: SignOPTAttack(model, targeted=False, query_limit=MANY, max_iter=MANY),
                "ART, Sign-OPT",
            ),
        )),
        ("GeoDA", math.inf, (
            ours("geoda"),
            art_with(lambda model, queries: GeoDA(
                model, norm=np.inf, max_iter=queries, bin_search_tol=1e-3, verbose=False)),
        )),
    )
)  # fmt: skip
