"""Cases and what came of them, as the rows of a shard."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch

from sapper import log, milestones
from sapper.goal import Goal
from sapper.oracle import ScoreOracle
from sapper.preflight import Preflight
from sapper.scheduler import Crafted
from sapper.tensors import Batch, Counts, Mask, Scalars, per_row, take
from sapper.threat import NORMS, Threat, norm

_BITS = 8


@dataclass(frozen=True)
class Cases:
    """All cases of a run, the same for every job: which sample, with which goal, from which random key."""

    sample: Counts
    goal: Goal
    key: Counts


def table(
    part: Cases,
    before: Preflight,
    crafted: Crafted | None,
    clean: Batch,
    survives: Sequence[bool | None],
    error: str,
    fooled: Sequence[bool | None] = (),
) -> pl.DataFrame:
    """One row a case; where it could not be run, what is not known is null."""
    target, told = part.goal.targets(), {}
    ran = [False] * len(clean)
    if crafted is not None:
        ran = (~crafted.broken).tolist()
        x_adv = crafted.x_adv.double()
        told = {
            "prediction": crafted.predictions,
            "found": crafted.found,
            "distance": crafted.distance,
            "steps": crafted.steps,
            "question": crafted.question,
            "forwards": crafted.forwards,
            "backwards": crafted.backwards,
            "zero_gradients": crafted.zero_gradients,
            "bad_gradients": crafted.bad_gradients,
            "first_margin": crafted.first_margin,
            "best_margin": crafted.best_margin,
            "confidence": crafted.confidence,
            "seconds": crafted.seconds,
        }
        told |= {name: norm(x_adv - clean.double(), p) for name, p in NORMS.items()}
    nothing = [None] * len(clean)
    lists = {name: values.tolist() for name, values in told.items()}
    if crafted is not None and crafted.nearest.shape[1]:
        lists["nearest"] = [known(values) for values in crafted.nearest]
    lists |= {"survives_8_bits": survives, "fools_substitute": fooled or nothing}
    columns = {
        "sample": part.sample.tolist(),
        "label": part.goal.label.tolist(),
        "target": nothing if target is None else target.tolist(),
        "clean_prediction": before.predictions[part.sample].tolist(),
        "clean_confidence": known(before.confidence[part.sample]),
        "error": [None if ok else error for ok in ran],
    }
    for name in log.CASE.keys() - columns.keys():
        values = lists.get(name, nothing)
        columns[name] = [value if ok and value == value else None for ok, value in zip(ran, values, strict=True)]
    return pl.DataFrame({name: columns[name] for name in log.CASE}, schema=log.CASE)


def counted(crafted: Crafted, calls: int, *, submitted: bool) -> Crafted:
    """With what was asked of the model itself: so many calls a question, or one a case, crafted elsewhere and submitted."""
    one = torch.ones_like(crafted.forwards)
    never = torch.full_like(crafted.nearest[:, :1], torch.nan)
    places = milestones.reached(calls) if never.shape[1] else []
    return replace(
        crafted,
        question=one if submitted else calls * crafted.question,
        forwards=one if submitted else calls * crafted.forwards,
        backwards=calls * crafted.backwards,
        nearest=torch.cat([never, crafted.nearest], 1)[:, places],
    )


def reaches(oracle: ScoreOracle, goal: Goal, x_adv: Batch, size: int) -> list[bool]:
    """Whether each reaches its goal by a plain call."""
    logits = torch.cat([oracle.logits(part) for part in x_adv.split(size)])
    return goal.reached(logits.argmax(1), logits).tolist()


def known(values: Scalars) -> list[float | None]:
    """For a table, in which what is not known is null."""
    return [value if value == value else None for value in values.tolist()]


def survives(
    oracle: ScoreOracle, threat: Threat, clean: Batch, goal: Goal, crafted: Crafted, size: int
) -> list[bool | None]:
    """Of each case that was found, whether it still reaches its goal when it is stored as an 8-bit picture: the nearest,
    or, where that is beyond the budget, the nearest towards the sample.

    None where nothing was found, where the clean sample is no 8-bit picture, or where rounding was asked for anyway.
    """
    answer: list[bool | None] = [None] * len(clean)
    if threat.quantize is not None or not math.isfinite(threat.width):
        return answer
    grid = replace(threat, quantize=_BITS)
    rows = (crafted.found & _is_picture(clean, threat)).nonzero()[:, 0]
    for part in rows.split(size) if len(rows) else ():
        nearest, inward = grid.rounded(crafted.x_adv[part]), grid.submit(crafted.x_adv[part], clean[part])
        stored = torch.where(per_row(threat.legal(nearest, clean[part]), clean), nearest, inward)
        logits = oracle.logits(stored)
        reached = take(goal, part).reached(logits.argmax(1), logits)
        known = logits.isfinite().all(1)  # a budget may leave none for this
        for row, value, is_known in zip(part.tolist(), reached.tolist(), known.tolist(), strict=True):
            answer[row] = value if is_known else None
    return answer


def _is_picture(x: Batch, threat: Threat) -> Mask:
    levels = (x - threat.lower) / threat.width * (2**_BITS - 1)
    return ((levels - levels.round()).abs() < 1e-3).flatten(1).all(1)
