"""What a report is made of, read once from the run folder."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from sapper import disk, log, statistics
from sapper.errors import RunError
from sapper.report.words import Budget


class Citation(msgspec.Struct, frozen=True):
    name: str = ""
    title: str = ""
    authors: str | list[str] = ""
    year: int | str = ""
    url: str = ""
    bibtex: str = ""

    @property
    def by(self) -> str:
        return self.authors if isinstance(self.authors, str) else ", ".join(self.authors)

    @property
    def link(self) -> str:
        """The address if it is one a reader may follow."""
        return self.url if self.url.startswith(("https://", "http://")) else ""


class Environment(msgspec.Struct, frozen=True):
    """The keys of environment.json that have a place of their own in the report."""

    classes: list[str] | None = None
    command: str | list[str] = ""
    versions: dict[str, Any] = {}
    device: Any = None
    bounds: tuple[float, float] | None = None
    citations: list[Citation] = []

    @property
    def command_line(self) -> str:
        return self.command if isinstance(self.command, str) else shlex.join(self.command)


@dataclass(frozen=True, eq=False)
class Trial:
    """One attack under one threat: its line of the summary, and its cases."""

    result: log.Result
    cases: pl.DataFrame
    folder: Path

    @cached_property
    def budget(self) -> Budget:
        return Budget.parse(self.result.threat)

    @cached_property
    def is_targeted(self) -> bool:
        return bool(self.cases["target"].is_not_null().any())

    def adversarial(self, case: dict[str, Any]) -> np.ndarray:
        return disk.read_row(self.folder / f"{case['shard']}.safetensors", "x_adv", case["row"])


@dataclass(frozen=True, eq=False)
class Facts:
    run: Path
    summary: log.Summary
    environment: Environment
    other: dict[str, str]
    """What else environment.json says."""
    spec: str
    samples: pl.DataFrame
    shape: tuple[int, ...]
    """Of one input."""
    trials: tuple[Trial, ...]
    vulnerability: pl.DataFrame | None
    """Adversarial distances (`log.VULNERABILITY`), where the run has them."""

    @cached_property
    def features(self) -> int:
        return int(np.prod(self.shape))

    @cached_property
    def right(self) -> int:
        """How many samples are right when clean."""
        return int((self.samples["label"] == self.samples["clean_prediction"]).sum())

    @cached_property
    def classes(self) -> int:
        columns = [self.samples["label"], self.samples["clean_prediction"]]
        columns += [trial.cases[name] for trial in self.trials for name in ("target", "prediction")]
        return statistics.class_count(columns, self.environment.classes)

    @cached_property
    def errors(self) -> int:
        return sum(int(trial.cases["error"].is_not_null().sum()) for trial in self.trials)

    def leads(self, trial: Trial) -> bool:
        """Whether it stands for its threat (the others' pictures are folded away): of those that broke within two
        points of the most, the one with the smallest changes.
        """
        rivals = [t for t in self.trials if t.result.threat == trial.result.threat]
        most = max(t.result.success_rate or 0.0 for t in rivals)
        near = [t for t in rivals if (t.result.success_rate or 0.0) >= most - 0.02]
        return trial is min(near, key=_smallness)

    def original(self, sample: int) -> np.ndarray:
        row = int(self.samples["sample"].index_of(sample) or 0)
        return disk.read_row(self.run / "samples.safetensors", "x", row)


def read(run: Path) -> Facts:
    """Reads a finished run.

    Raises:
        RunError: It is not finished, not a run folder, or a file of it is lost or spoilt.
    """
    log.read_spec(run)
    summary, raw = log.read_summary(run), log.read_environment(run)
    try:
        environment = msgspec.convert(raw, Environment, strict=False)
    except msgspec.ValidationError as error:
        raise RunError(f"{run / 'environment.json'} is not as this version writes it: {error}") from error
    samples = log.read_samples(run)
    shape = disk.read_shape(run / "samples.safetensors", "x")[1:]
    trials = tuple(_trial(run, result) for result in summary.results)
    other = dict(_flat({key: value for key, value in raw.items() if key not in Environment.__struct_fields__}))
    spec = (run / "spec.toml").read_text(encoding="utf-8")
    return Facts(run, summary, environment, other, spec, samples, shape, trials, log.read_vulnerability(run))


def _smallness(trial: Trial) -> float:
    """The mean size of its changes; that of an attack which found nothing is infinite, not 0."""
    mean = trial.result.mean_distance_found
    return math.inf if mean is None else mean


def _trial(run: Path, result: log.Result) -> Trial:
    folder = log.case_folder(result.attack, result.threat)
    return Trial(result, log.read_cases(run, folder), run / "shards" / folder)


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key} ")
        else:
            yield above + key, value if isinstance(value, str) else msgspec.json.encode(value).decode()
