"""What a theft was asked to do, and what came of it: spec.toml and rounds.json of a steal folder. Imports no torch."""

import hashlib
import math
import shlex
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from sapper import log
from sapper.errors import DataError, RunError, UsageError, require_not_negative, require_positive
from sapper.questions import Schedule

ROUNDS = "rounds.json"
_HELD_OUT, _SHARE = (
    1000,
    10,
)  # samples to measure agreement on: at most so many, and at most one in so many of the budget
_STEP = 0.1  # of the data's range, as the papers'
SUBSTITUTE = "substitute"
"""The model folder in a steal folder."""
MODEL = "model"
"""That in a round's."""


class Theft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that what is asked depends on."""

    endpoint: str
    """As the user wrote it; `endpoint_digest` says which that was."""
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    trust_types: tuple[str, ...] | None = None
    trust_pickle: bool | None = None
    seed_data: str
    split: str = "test"
    bounds: tuple[float, float] = (0.0, 1.0)
    budget: int | None = None
    """Most questions in all, those about held-out samples too."""
    seeds: int = 100
    held_out: int | None = None
    """Samples that agreement is measured on; see `settled`."""
    rounds: int | None = None
    """Most augmentations."""
    architecture: str = "mlp"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    rate_schedule: Literal["linear", "constant"] = "linear"
    step_size: float | None = None
    period: int = 3
    sigma: int | None = None
    kappa: int = 400
    quantize: int | None = None
    seed: int = 0
    endpoint_digest: str = ""
    data_digest: str = ""

    def settled(self, samples: int, features: int, there: "Theft | None" = None) -> "Theft":
        """With what was left out: how many samples are held out, as many as `there` where it was begun, and how far new
        inputs are moved.
        """
        left, share = max(0, samples - self.seeds), _HELD_OUT if self.budget is None else self.budget // _SHARE
        given = there.held_out if there and self.held_out is None else self.held_out
        held_out = min(left, _HELD_OUT, share) if given is None else given
        if not 0 <= held_out <= left:
            raise DataError(
                f"expected held-out samples from 0 to the {left} that {self.seeds} seeds leave, got {held_out}."
            )
        usual = _STEP * (self.bounds[1] - self.bounds[0]) * (math.sqrt(features) if self.architecture == "svm" else 1)
        return replace(self, held_out=held_out, step_size=usual if self.step_size is None else self.step_size)

    @property
    def held(self) -> int:
        return self.held_out or 0

    @property
    def schedule(self) -> Schedule:
        step = _STEP if self.step_size is None else self.step_size
        return Schedule(step_size=step, period=self.period, sigma=self.sigma, kappa=self.kappa)

    def check(self, samples: int) -> None:
        """Whether it can be done with so many samples.

        Raises:
            UsageError: Values that do not fit, or too small a budget.
            DataError: Too few samples.
        """
        for name in ("seeds", "budget", "batch_size", "epochs"):
            require_positive(name, getattr(self, name))
        require_not_negative("rounds", self.rounds or 0)
        if self.seeds + self.held > samples:
            raise DataError(
                f"expected {self.seeds} seeds and {self.held} held-out samples, got {samples} samples in all."
            )
        left = None if self.budget is None else self.budget - self.held
        if left is not None and left < self.seeds:
            raise UsageError(
                f"a budget of {self.budget} is too small for {self.held} held-out samples and {self.seeds} seeds: give "
                "fewer of either, or a larger budget."
            )
        self.schedule.rounds(self.seeds, left, self.rounds)

    def most(self, number: int, known: int) -> int:
        """How many questions a round may ask at most, after so many answers to learn from."""
        if number == 0:
            return self.seeds
        wanted = self.schedule.new(number - 1, known)
        return wanted if self.budget is None else min(wanted, self.budget - self.held - known)

    def ended(self, done: "list[Round]", among: int) -> str:
        """Why there are no more rounds than these, whose last chose among so many inputs; empty where there are more."""
        last = done[-1]
        wanted = min(self.schedule.new(last.number - 1, last.samples - last.new), among) if last.number else self.seeds
        cut = f", whose last had room for {last.new} of {wanted} new inputs" if last.new < wanted else ""
        if self.rounds is not None and last.number >= self.rounds:
            return f"all {self.rounds} rounds are done{cut}"
        if self.budget is not None and last.queries >= self.budget:
            return f"the budget of {self.budget} questions allows no more rounds{cut}"
        idle = self.period + 1  # rounds that have tried both directions
        if len(done) > idle and not any(one.new for one in done[-idle:]):
            return "whatever a step makes of the known inputs is known itself, so that nothing is left to ask"
        return ""

    def plain(self) -> dict[str, object]:
        """For spec.toml, which has no null: what was not given is left out."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if value is not None}

    def digest(self) -> str:
        """Eight letters that name this spec."""
        return hashlib.sha256(msgspec.json.encode(self.plain(), order="sorted")).hexdigest()[:8]

    def differences(self, other: "Theft") -> list[str]:
        """A line for each value that another has otherwise."""
        mine, its = self.plain(), other.plain()
        names = {**mine, **its}
        return [
            f"{name}: {mine.get(name)} there, {its.get(name)} here" for name in names if mine.get(name) != its.get(name)
        ]

    def check_continues(self, there: "Theft", folder: Path) -> None:
        """Raises:
        RunError: What was begun in the folder is something else, or had a larger budget or more rounds.
        """
        if differences := there.differences(replace(self, budget=there.budget, rounds=there.rounds)):
            raise RunError(
                f"{folder} holds a theft of another spec: give another --out, or the same options; "
                f"{'; '.join(differences)}."
            )
        for name, had, given in (("budget", there.budget, self.budget), ("rounds", there.rounds, self.rounds)):
            if given is not None and (had is None or given < had):
                raise RunError(
                    f"{folder} was begun with {'no ' if had is None else ''}--{name}{'' if had is None else f' {had}'}: give "
                    f"as much, or more to go on, or another --out; got {given}."
                )

    def command(self) -> str:
        """The command line that asks for this."""
        words = ["sapper", "steal", self.endpoint]
        plain = self.plain()
        for field in msgspec.structs.fields(Theft):
            value = plain.get(field.name)
            values = list(value) if isinstance(value, list | tuple) else [value]
            usual = list(field.default) if isinstance(field.default, tuple) else [field.default]
            if (
                field.name not in ("endpoint", "endpoint_digest", "data_digest")
                and value is not None
                and values != usual
            ):
                words += [f"--{field.name.replace('_', '-')}", *(str(one) for one in values if one is not True)]
        return shlex.join(words)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One substitute: what it learned, and how often it answers as the endpoint does."""

    number: int
    """From 0, the seeds'; which is how many augmentations there were."""
    new: int
    """Inputs that the endpoint was asked about for it."""
    samples: int
    """Inputs that it learned, with the endpoint's answers."""
    queries: int
    """Questions so far, those about held-out samples too."""
    step: float | None
    """By which the new inputs were moved; null for the seeds."""
    agreement: float | None
    """Share of the held-out samples that it takes for what the endpoint takes them for; null without such samples."""
    ci95: tuple[float, float] | None
    """Wilson interval of it."""
    learned: float
    """The same on what it learned."""
    seconds: float
    """Of its training."""


class Spoils(msgspec.Struct, frozen=True, kw_only=True):
    """rounds.json, the contract for other programs; `version` changes when a key does."""

    endpoint: str
    seed_data: str
    architecture: str
    budget: int | None
    held_out_queries: int
    training_queries: int
    queries: int
    """Both together: all that the endpoint was asked."""
    finished: bool
    ended: str
    """Why there are no more rounds."""
    classes: list[str]
    rounds: list[Round]
    version: int = 1

    @property
    def agreement(self) -> float | None:
        return self.rounds[-1].agreement if self.rounds else None


def substitute_in(reference: str) -> str:
    """The model folder of a steal folder; any other reference as it is."""
    folder = Path(reference).expanduser()
    return str(folder / SUBSTITUTE) if (folder / ROUNDS).is_file() else reference


def agreement_of(model: Path) -> float | None:
    """How often a substitute in its steal folder answers as what it was stolen from, where that is known."""
    return read_spoils(model.parent).agreement if (model.parent / ROUNDS).is_file() else None


def begun(folder: Path) -> Theft | None:
    """The theft whose folder this is, if it is one.

    Raises:
        RunError: The folder is another command's.
    """
    path = folder / "spec.toml"
    if not path.exists():
        return None
    try:
        return msgspec.convert(log.read_spec(folder), Theft)
    except msgspec.ValidationError as error:
        raise RunError(f"{path} is no theft's: {error}. Give another --out.") from error


def read_spoils(folder: Path) -> Spoils:
    """What came of a theft so far.

    Raises:
        RunError: The folder is no steal folder, or one of another version.
    """
    try:
        return msgspec.json.decode((folder / ROUNDS).read_bytes(), type=Spoils)
    except OSError as error:
        raise RunError(f"{folder} has no {ROUNDS}: it is no steal folder, or its first round is not over.") from error
    except msgspec.MsgspecError as error:
        raise RunError(f"{folder / ROUNDS} is not one that this version reads: {error}") from error
