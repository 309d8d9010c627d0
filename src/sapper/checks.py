"""What is refused before an attack begins: arguments, data, and attacks that do not fit their threat."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sapper.attack import Attack, Cascade, check_fits, stages
from sapper.errors import DataError, UsageError
from sapper.threat import Threat


def check_options(attack: Attack | Cascade, threat: Threat, shape: Sequence[int]) -> None:
    """Refuses an attack that does not fit the threat, or cannot take a step within it.

    Raises:
        UsageError: It does not.
    """
    features = math.prod(shape)
    for stage in stages(attack):
        check_fits(stage, threat)
        stage.check(threat, shape)
        if stage.limit(threat.budget(features)) < 1 or (threat.p == 0 and threat.budget(features) < 1):
            raise UsageError(
                f"{stage} cannot take a step within {threat}, which is {threat.budget(features):g} of {features} "
                "features: give a larger budget."
            )


def check_classes(labels: Tensor, classes: int) -> None:
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            f"expected labels and targets from 0 to {classes - 1}, as the model has {classes} classes, got "
            f"{int(labels.min())} to {int(labels.max())}."
        )


def check_arguments(model: object, x: object, y: object, attack: object, seed: int) -> None:
    """What a type checker would refuse, for those who have none."""
    wanted = (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("x", x, Tensor, "a tensor; torch.from_numpy makes one of an array"),
        ("y", y, Tensor, "a tensor; torch.from_numpy makes one of an array"),
        ("attack", attack, (str, Attack, Cascade), "a name like 'pgd', or an instance like PGD(steps=20)"),
    )
    for name, value, kind, what in wanted:
        if not isinstance(value, kind):
            raise UsageError(f"expected {name} to be {what}, got {value!r:.80} of type {type(value).__name__}.")
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"expected a seed of 64 bits, got {seed}.")


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
