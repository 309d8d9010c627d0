"""Attacks that learn from samples before they attack others: `fit`, in Python and as an audit does it."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sapper import catalogue, disk, log, noise
from sapper.attack import Attack, Cascade, Learner, stages
from sapper.checks import check_arguments, check_classes, check_data, check_options
from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.errors import UsageError
from sapper.foreign import access
from sapper.goal import Goal, GoalSpec, Targeted, Untargeted
from sapper.learners import learner_of
from sapper.oracle import GradientOracle, TorchOracle, frozen
from sapper.perturbation import Perturbation
from sapper.preflight import clean_inputs
from sapper.spec import Spec
from sapper.tensors import Batch, Labels
from sapper.threat import Threat

_ROWS = 256


def fit(
    model: nn.Module,
    x: Batch,
    *,
    attack: str | Attack = "universal",
    threat: str | Threat,
    targets: Labels | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Attack:
    """Lets an attack learn from samples, so that it can be used on others, and on other models.

        universal = sapper.fit(model, x, threat="linf:0.2")
        sapper.craft(other, x_test, y_test, attack=universal, threat="linf:0.2")
        universal.perturbation.save(Path("v.safetensors"))  # attack="universal:file=v.safetensors"

    Args:
        model: As for `craft`.
        x: The samples to learn from. What counts as fooled is another class than the model's own answer to them.
        attack: A name, with options if any, or an instance.
        threat: As for `craft`.
        targets: The class each sample shall become; without, any other.
        bounds: As for `craft`.
        seed: Of the order in which samples are seen.

    Raises:
        UsageError: An attack that does not learn, or does not fit the threat.
        DataError: Samples that do not fit.
        ModelError: The model does not answer like a classifier.
    """
    unknown = torch.zeros(len(x), dtype=torch.int64)
    check_arguments(model, x, unknown, attack, threat, targets, None, bounds, seed, None, None)
    learner = catalogue.attack(attack) if isinstance(attack, str) else attack
    if not isinstance(learner, Learner):
        raise UsageError(f"{learner} learns nothing: give it to craft as it is.")
    if isinstance(threat, str):
        threat = Threat.parse(threat, lower=bounds[0], upper=bounds[1])
    check_data(x, unknown, targets, threat)
    check_options(cast(Attack, learner), threat, x.shape[1:])
    catalogue.check_access(cast(Attack, learner), threat, access(model), learner_of(model))
    weight = next((p for p in model.parameters() if p.is_floating_point()), x)
    with torch.inference_mode(False), frozen(model):
        x = x.detach().to(weight.device, weight.dtype, copy=True)
        oracle = TorchOracle(model)
        answers = _answers(oracle, x)
        goal: Goal = Untargeted(answers.argmax(1))
        if targets is not None:
            check_classes(targets, answers.shape[1])
            goal = Targeted(goal.label, targets.to(weight.device, torch.int64))
        return learner.fit(oracle, x, goal, threat, noise.keys(seed, torch.arange(len(x), device=x.device)))


def learners(attack: Attack | Cascade) -> list[Learner]:
    """The stages that have yet to learn."""
    return [stage for stage in stages(attack) if isinstance(stage, Learner) and stage.perturbation is None]


def check_lesson(attack: Attack | Cascade, goal: str) -> None:
    """Refuses goals that want another class of each sample, where one change is learned for all.

    Raises:
        UsageError: It is one of these.
    """
    choice = GoalSpec.parse(goal).choice
    for learner in learners(attack):
        if choice and not choice.isdigit():
            raise UsageError(
                f"{learner} learns one change for all samples: give one target, like targeted:3, not {goal}."
            )


def learned(
    run: Path,
    attack: Attack | Cascade,
    threat: Threat,
    oracle: TorchOracle,
    spec: Spec,
    data: Data,
    device: torch.device,
) -> Attack | Cascade:
    """The attack of an audit, with what it learned from other samples than the attacked, kept in `learned/`."""
    stages_now: dict[Learner, Attack] = {}
    for learner in learners(attack):
        path = run / "learned" / f"{log.case_folder(str(learner), str(threat))}.safetensors"
        if not path.exists():
            others = _others(spec, data, learner.samples)
            ready = _teach(oracle, learner, clean_inputs(others, threat, oracle.module, device), spec, threat)
            assert isinstance(ready, Learner)
            assert ready.perturbation is not None
            disk.write_whole(path, ready.perturbation.save)
        stages_now[learner] = learner.knowing(Perturbation.load(path))
    if isinstance(attack, Cascade):
        return replace(attack, attacks=tuple(stages_now.get(cast(Learner, one), one) for one in attack.attacks))
    return stages_now.get(cast(Learner, attack), attack)


def _others(spec: Spec, data: Data, count: int) -> Data:
    """The first so many samples of the other split that are not among those attacked."""
    split = "test" if spec.split.startswith("train") else "train"
    other = load_data(spec.data, split=split, limit=count + len(data), bounds=spec.bounds)
    attacked = {row.numpy().tobytes() for row in data.x}
    rows = [number for number, row in enumerate(other.x) if row.numpy().tobytes() not in attacked][:count]
    if not rows:
        raise UsageError(
            f"{spec.data} has no samples but the attacked to learn a universal perturbation from: attack fewer (--limit), or "
            "give one that was learned before, universal:file=…"
        )
    return replace(other, x=other.x[rows], y=other.y[rows])


def _teach(oracle: GradientOracle, learner: Learner, x: Batch, spec: Spec, threat: Threat) -> Attack:
    answers, key = _answers(oracle, x), noise.keys(spec.seed, torch.arange(len(x), device=x.device))
    rows, goal = GoalSpec.parse(spec.goal).cases(answers.argmax(1), answers, key)
    if not len(rows):
        raise UsageError(f"{learner} has no sample to learn from for the goal {spec.goal}: raise samples.")
    return learner.fit(oracle, x[rows], goal, threat, key[rows])


def _answers(oracle: GradientOracle, x: Batch) -> torch.Tensor:
    return torch.cat([oracle.logits(part) for part in x.split(_ROWS)])
