"""What a theft was asked to do, and what came of it: spec.toml and rounds.json of a steal folder. Imports no torch."""

import hashlib
import shlex
from pathlib import Path

import msgspec

from sapper.errors import DataError, RunError, UsageError, require_not_negative, require_positive
from sapper.questions import Schedule

ROUNDS = "rounds.json"
SUBSTITUTE = "substitute"
"""The model folder in a steal folder."""


class Theft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that what is asked depends on."""

    endpoint: str
    """As the user wrote it; `endpoint_digest` says which that was."""
    seed_data: str
    split: str = "test"
    bounds: tuple[float, float] = (0.0, 1.0)
    budget: int | None = None
    """Most questions in all, those about held-out samples too."""
    seeds: int = 100
    held_out: int = 0
    rounds: int | None = None
    """Most augmentations."""
    architecture: str = "mlp"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    step_size: float
    period: int = 3
    sigma: int | None = None
    kappa: int = 400
    quantize: int | None = None
    seed: int = 0
    endpoint_digest: str = ""
    data_digest: str = ""

    @property
    def schedule(self) -> Schedule:
        return Schedule(step_size=self.step_size, period=self.period, sigma=self.sigma, kappa=self.kappa)

    def asks(self, samples: int) -> list[int]:
        """How many questions each round asks, of so many samples.

        Raises:
            UsageError: Values that do not fit, or too small a budget.
            DataError: Too few samples.
        """
        for name in ("seeds", "budget", "batch_size", "epochs"):
            require_positive(name, getattr(self, name))
        require_not_negative("rounds", self.rounds or 0)
        if self.seeds + self.held_out > samples:
            raise DataError(
                f"expected {self.seeds} seeds and {self.held_out} held-out samples, got {samples} samples in all."
            )
        left = None if self.budget is None else self.budget - self.held_out
        if left is not None and left < self.seeds:
            raise UsageError(
                f"a budget of {self.budget} is too small for {self.held_out} held-out samples and {self.seeds} seeds: give "
                "fewer of either, or a larger budget."
            )
        return self.schedule.rounds(self.seeds, left, self.rounds)

    def ended(self, asks: list[int]) -> str:
        """Why there are no more rounds than these."""
        wanted = self.schedule.rounds(self.seeds, None, len(asks) - 1)[-1]
        cut = f", whose last had room for {asks[-1]} of {wanted} new inputs" if asks[-1] < wanted else ""
        if self.rounds is not None and len(asks) > self.rounds:
            return f"all {self.rounds} rounds are done{cut}"
        return f"the budget of {self.budget} questions allows no more rounds{cut}"

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

    def command(self) -> str:
        """The command line that asks for this."""
        words = ["sapper", "steal", self.endpoint]
        plain = self.plain()
        for field in msgspec.structs.fields(Theft):
            value = plain.get(field.name)
            if field.name in ("endpoint", "endpoint_digest", "data_digest") or value in (None, field.default):
                continue
            values = value if isinstance(value, list | tuple) else [value]
            if values != list(field.default if isinstance(field.default, tuple) else ()):
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
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
