"""The run folder: what is in it, and how it is read.

    spec.toml          what was asked, written first
    environment.json   versions, device, batch sizes measured
    samples.parquet    one row per sample (SAMPLE);  samples.safetensors: its input, tensor "x"
    preflight.json     what the checks before the attacks found
    vulnerability.parquet   for targeted l0 runs: the adversarial distance of each case (VULNERABILITY)
    doctor.json        what the doctor's probes of the unbroken samples gave (`Probe`)
    endpoint.json      of models behind HTTP: how much they were asked (`Usage`)
    queries.parquet    likewise, every row that was sent (QUERY)
    learned/ATTACK.THREAT.safetensors        what an attack learned from other samples, before it attacked these
    shards/ATTACK.THREAT/00003.parquet       one row per case (CASE)
    shards/ATTACK.THREAT/00003.safetensors   its adversarial inputs, tensor "x_adv", in the order of the rows
    summary.json       written last (`Summary`)
    report.html

Every file is written by `disk`: what is there is whole. This module imports no torch, so that reports and comparisons start
at once.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import safetensors.numpy

from sapper import disk
from sapper.errors import RunError
from sapper.names import slug

SAMPLE = {
    "sample": pl.Int64,  # position in the data set, after --limit
    "label": pl.Int64,
    "clean_prediction": pl.Int64,
    "clean_confidence": pl.Float64,  # probability of the clean prediction
}

CASE = {
    "sample": pl.Int64,  # which sample of samples.parquet
    "label": pl.Int64,
    "target": pl.Int64,  # null where the goal names none
    "clean_prediction": pl.Int64,
    "prediction": pl.Int64,  # of the stored adversarial input, re-predicted; null after an error
    "found": pl.Boolean,  # legal and adversarial by a second, plain call of the model; null after an error
    "distance": pl.Float64,  # in the threat's norm; null where nothing was found
    "l0": pl.Float64,  # size of the stored change in every norm, found or not
    "l1": pl.Float64,
    "l2": pl.Float64,
    "linf": pl.Float64,
    "steps": pl.Int64,  # of the attack behind the stored input
    "question": pl.Int64,  # which of the questions to the model the stored input was; all of them where nothing was found
    "nearest": pl.List(
        pl.Float64
    ),  # distance of the closest success within so many questions as `milestones` says, null
    # before the first; where the smallest distance is sought by an attack that follows no gradient, else null
    "forwards": pl.Int64,  # questions to the model; with substitutes one, as what they are asked costs nothing
    "backwards": pl.Int64,  # of the model, or of the substitute
    "zero_gradients": pl.Int64,  # backward passes that gave nothing to follow: zero, or lost in underflow
    "bad_gradients": pl.Int64,  # backward passes that gave nan or infinity
    "first_margin": pl.Float64,  # how far the goal is off in logits when the attack begins; below 0 it is reached
    "best_margin": pl.Float64,  # the least of all that the attack asked; null where it asked nothing
    "fools_substitute": pl.Boolean,  # whether it fools what it was crafted on; null where that is the model itself
    "survives_8_bits": pl.Boolean,  # found, and still so as an 8-bit picture; null where not found or the data are none
    "clean_confidence": pl.Float64,
    "confidence": pl.Float64,  # probability of `prediction`
    "seconds": pl.Float64,  # this case's share of the time of its batches
    "error": pl.String,  # why the case could not be run; else null
}

VULNERABILITY = {
    "sample": pl.Int64,
    "label": pl.Int64,
    "target": pl.Int64,
    "single": pl.Float64,  # adversarial distance A(X, t) over single features: close to 1 is hard
    "pairs": pl.Float64,  # over pairs of features; null where there are too many to count
}


QUERY = {
    "sent": pl.Float64,  # seconds since 1970
    "input": pl.String,  # SHA-256 of the bytes that stood for the row in its request
    "asking": pl.Int64,  # 0 for the first time that this row was asked, from 1 for a second answer, a number a run
    "answer": pl.String,  # label or scores as JSON; null where none came
    "answered": pl.Float64,
}


class Usage(msgspec.Struct, frozen=True):
    """What a run has asked of an endpoint, all its continuations together."""

    url: str
    """Tokens by their names."""
    access: str
    ledger: str
    """The file with all answers, which runs of one endpoint share."""
    sent: int
    """Rows, each counted once, retried or not."""
    answered: int
    requests: int
    retried: int
    """Requests that had to be made again."""
    known: int
    """Rows that were answered from the ledger."""
    budget: int | None
    is_spent: bool
    """The budget left rows without an answer."""


class Result(msgspec.Struct, frozen=True):
    """One attack under one threat. Rates and distances are null where there is nothing to take them of."""

    attack: str
    threat: str
    goal: str
    cases: int
    found: int
    success_rate: float | None
    robust_accuracy: float | None
    ci95: tuple[float, float] | None
    """Wilson interval of robust_accuracy."""
    mean_distance_all: float | None
    """Over all cases, those that failed with the change they ended at; null if one of them sought the smallest (`norm:min`),
    as where it ended may be the sample itself."""
    mean_distance_found: float | None
    median_distance: float | None
    """Failures count as infinitely far; null when that is the median."""
    seconds: float
    cases_per_second: float | None
    forwards: int
    backwards: int


class QueryCurve(msgspec.Struct, frozen=True):
    """What an attack that follows no gradient reached within so many questions about a case."""

    attack: str
    threat: str
    budget: int | None
    """Most questions that were allowed about a case."""
    questions: list[int]
    """Round numbers, and as the last the most that were asked about a case; the next two have an entry for each."""
    success_rate: list[float]
    median_distance: list[float | None] | None
    """Of the closest successes so far, as in `Result`; null under a threat with a budget."""
    median_questions: float | None
    """Until a success; failures count as infinitely many. Like the next, null where the smallest distance is sought."""
    mean_questions_found: float | None


class WorstCase(msgspec.Struct, frozen=True):
    """A sample counts as robust if it is right and unbroken by every attack of the run under this threat."""

    threat: str
    robust_accuracy: float | None
    ci95: tuple[float, float] | None


class Certified(msgspec.Struct, frozen=True):
    threat: str
    certifier: str
    verified_accuracy: float


class Finding(msgspec.Struct, frozen=True):
    """What a check saw. `verdict` is "ok", "note" or "warning"."""

    check: str
    verdict: str
    evidence: str
    remedy: str


class Probe(msgspec.Struct, frozen=True):
    """A short experiment on some cases that held, by which the doctor judges the attacks."""

    name: str
    """"more steps", "largest budget", "random noise", "square", "surrogate", "unrounded" or "step size"."""
    threat: str
    """Under which the cases held."""
    attack: str
    """What was run; of "step size" the attack that is judged."""
    cases: int
    """How many were probed."""
    broken: int
    """How many of them fell."""
    value: float | None = None
    """Of "step size": the step, in budgets. Null else."""
    reach: float | None = None
    """Of "step size": all steps together, in budgets. Null else."""


class Summary(msgspec.Struct, frozen=True):
    """The contract for other programs; `version` changes when a key does."""

    model: str
    data: str
    clean_accuracy: float
    results: list[Result]
    worst_case: list[WorstCase]
    certified: list[Certified]
    findings: list[Finding]
    query_curves: list[QueryCurve] = []
    version: int = 1


def read_spec(run: Path) -> dict[str, Any]:
    """The spec of a run folder, as plain values.

    Raises:
        RunError: The folder is not a run folder.
    """
    try:
        return tomllib.loads((run / "spec.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"expected a run folder with a spec.toml, found none to read in {run}: {error}") from error


def read_summary(run: Path) -> Summary:
    """The summary of a finished run.

    Raises:
        RunError: The run is not finished, or its summary is of another version.
    """
    try:
        return msgspec.json.decode((run / "summary.json").read_bytes(), type=Summary)
    except OSError as error:
        raise RunError(f"{run} has no summary.json: the run is not finished; run its command again.") from error
    except msgspec.MsgspecError as error:
        raise RunError(f"{run / 'summary.json'} is not a summary that this version reads: {error}") from error


def read_environment(run: Path) -> dict[str, Any]:
    """What environment.json says; nothing before it is written."""
    path = run / "environment.json"
    if not path.exists():
        return {}
    with disk.whole(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_samples(run: Path) -> pl.DataFrame:
    return disk.read_table(run / "samples.parquet")


def read_vulnerability(run: Path) -> pl.DataFrame | None:
    """The adversarial distance of each case (VULNERABILITY); None for runs that have none."""
    path = run / "vulnerability.parquet"
    return disk.read_table(path) if path.exists() else None


def read_inputs(run: Path) -> np.ndarray:
    """The clean inputs, in the data's units, sample first."""
    path = run / "samples.safetensors"
    with disk.whole(path):
        return safetensors.numpy.load_file(path)["x"]


def case_folder(attack: str, threat: str) -> str:
    """The name under `shards/` of one attack's cases under one threat."""
    return f"{slug(attack)}.{slug(threat)}"


def read_cases(run: Path, folder: str) -> pl.DataFrame:
    """All rows of one `shards/` folder, in order, with `shard` and `row` saying where the adversarial input lies."""
    tables = [
        _complete(disk.read_table(path)).with_columns(shard=pl.lit(path.stem), row=pl.int_range(pl.len()))
        for path in sorted((run / "shards" / folder).glob("*.parquet"))
    ]
    return pl.concat(tables) if tables else pl.DataFrame(schema={**CASE, "shard": pl.String, "row": pl.Int64})


def _complete(table: pl.DataFrame) -> pl.DataFrame:
    """With the columns that an earlier version did not write, null."""
    return table.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in CASE.items() if name not in table.columns
    )


def read_probes(run: Path) -> list[Probe]:
    """What doctor.json says; nothing where the run was asked not to probe."""
    path = run / "doctor.json"
    if not path.exists():
        return []
    with disk.whole(path):
        return msgspec.json.decode(path.read_bytes(), type=list[Probe])


def read_usage(run: Path) -> Usage | None:
    """What endpoint.json says; None for models that are no endpoints."""
    path = run / "endpoint.json"
    if not path.exists():
        return None
    with disk.whole(path):
        return msgspec.json.decode(path.read_bytes(), type=Usage)


def read_preflight(run: Path) -> list[Finding]:
    """What the checks before the attacks found."""
    path = run / "preflight.json"
    with disk.whole(path):
        return msgspec.json.decode(path.read_bytes(), type=list[Finding])


def read_adversarial(run: Path, folder: str, shard: str) -> np.ndarray:
    """The adversarial inputs of one shard, in the order of its rows."""
    path = run / "shards" / folder / f"{shard}.safetensors"
    with disk.whole(path):
        return safetensors.numpy.load_file(path)["x_adv"]
