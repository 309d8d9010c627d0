"""What is refused before an attack begins: arguments, data, and attacks that do not fit their threat."""

import math
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType

import msgspec
from torch import Tensor, nn

from sapper.attack import Attack, Cascade, misfit, name_of, stages
from sapper.errors import DataError, UsageError
from sapper.foreign import Access
from sapper.goal import KINDS, GoalSpec
from sapper.threat import Threat


def check_options(attack: Attack | Cascade, threat: Threat, shape: Sequence[int]) -> None:
    """Refuses an attack that does not fit the threat, or cannot take a step within it.

    Raises:
        UsageError: It does not.
    """
    features = math.prod(shape)
    budget = threat.budget(features)
    if reason := misfit(attack, threat):
        raise UsageError(reason)
    for stage in stages(attack, threat):
        _check_values(stage)
        stage.check(threat, shape)
        if stage.limit(budget) < 1 or budget < threat.least:
            raise UsageError(
                f"{stage} cannot take a step within {threat}, which is {threat.budget(features):g} of {features} "
                "features: give a larger budget."
            )


def _check_values(attack: Attack) -> None:
    """Options given in Python, which the command line has checked where it made the attack."""
    values = {option.name: getattr(attack, option.name) for option in fields(attack) if option.init}  # pyright: ignore[reportArgumentType]
    try:
        msgspec.convert(values, type(attack))
    except msgspec.ValidationError as error:
        raise UsageError(f"{name_of(type(attack))}: {error}; see `sapper show {name_of(type(attack))}`.") from error


def check_goal(goal: GoalSpec, given: Access) -> None:
    """Refuses a goal that is told by scores, of a model that gives none.

    Raises:
        UsageError: It is one.
    """
    if given == "labels" and (goal.kind == KINDS[0] or goal.choice == "least-likely"):
        raise UsageError(
            f"the goal {goal} is about scores, the model gives labels only: choose misclassification, targeted:random, "
            "targeted:every or one class."
        )


def check_classes(labels: Tensor, classes: int) -> None:
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            f"expected labels and targets from 0 to {classes - 1}, as the model has {classes} classes, got "
            f"{int(labels.min())} to {int(labels.max())}."
        )


def check_arguments(
    model: object, x: object, y: object, attack: object, threat: object, targets: object, index: object,
    bounds: object, seed: object, queries: object, batch_size: object,
) -> None:  # fmt: skip
    """What a type checker would refuse, for those who have none."""
    numbers = "a tensor; torch.from_numpy makes one of an array"
    wanted = (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("x", x, Tensor, numbers),
        ("y", y, Tensor, numbers),
        ("attack", attack, (str, Attack, Cascade), "a name like 'pgd', or an instance like PGD(steps=20)"),
        ("threat", threat, (str, Threat), "a string like 'linf:0.1', or a Threat"),
        ("targets", targets, (Tensor, NoneType), numbers),
        ("index", index, (Tensor, NoneType), numbers),
        ("bounds", bounds, (tuple, list), "a pair of numbers, (lower, upper)"),
        ("seed", seed, int, "a whole number"),
        ("queries", queries, (int, NoneType), "a whole number"),
        ("batch_size", batch_size, (int, NoneType), "a whole number"),
    )
    for name, value, kind, what in wanted:
        if not isinstance(value, kind):
            raise UsageError(f"expected {name} to be {what}, got {value!r:.80} of type {type(value).__name__}.")
    assert isinstance(seed, int)
    assert isinstance(x, Tensor)
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"expected a seed of 64 bits, got {seed}.")
    if isinstance(index, Tensor) and (index.shape != x.shape[:1] or index.is_floating_point()):
        raise UsageError(f"expected index as integers of shape ({len(x)},), got {index.dtype} of {tuple(index.shape)}.")


def check_data(x: Tensor, y: Tensor, targets: Tensor | None, threat: Threat) -> None:
    if x.ndim < 2 or len(x) == 0 or x[0].numel() == 0:
        raise DataError(f"expected x with at least one row of features, rows first, got shape {tuple(x.shape)}.")
    for name, classes in (("y", y), ("targets", targets)):
        if classes is not None and (classes.shape != x.shape[:1] or classes.is_floating_point()):
            raise DataError(
                f"expected {name} as integers of shape ({len(x)},), a class a row, got {classes.dtype} of shape "
                f"{tuple(classes.shape)}."
            )
    if not bool(x.isfinite().all()):
        raise DataError("expected finite inputs, got nan or infinity in x.")
    if not bool(((x >= threat.lower) & (x <= threat.upper)).all()):
        raise DataError(
            f"expected x within [{threat.lower:g}, {threat.upper:g}], got {float(x.min()):g} to {float(x.max()):g}: rescale "
            "x, or give its true range as bounds=(lower, upper); eps is in these units, and the model's own normalisation "
            "belongs inside the model."
        )
