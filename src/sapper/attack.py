"""What an attack is: a frozen dataclass of options and two functions on rows, `start` and `step`.

`step` is the body of the paper's loop. Counting, keeping the best, judging, batching, devices and progress are not its
business: the ledger and `craft` see to them for all attacks alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from sapper.citation import Paper
from sapper.goal import Goal
from sapper.perturbation import Perturbation
from sapper.tensors import Batch, Counts, Mask
from sapper.threat import Threat, norm_name


@dataclass(frozen=True)
class Case:
    """What is attacked, a row each."""

    x: Batch
    goal: Goal
    threat: Threat
    age: Counts
    """Steps taken so far."""
    key: Counts
    """The sample's random key, see `noise`."""
    index: Counts
    """Its place among all cases of the job."""

    @property
    def budget(self) -> float:
        """The threat's budget for inputs of this size."""
        return self.threat.budget(self.x.shape[1:].numel())  # there may be no row


@dataclass(frozen=True, kw_only=True)
class State:
    """Where an attack stands, a row each. Attacks with more to remember derive their own."""

    x_adv: Batch
    """The candidate. The first thing `step` asks the model about is this."""
    done: Mask | None = None
    """Rows that have nothing left to try, if the attack can tell."""


class Attack(ABC):
    """One method. Subclasses are frozen dataclasses whose fields are the options.

    Class keywords:
        norms: The norms it is made for.
        paper: Where it comes from.
        minimal: It looks for the smallest distance, so it takes `norm:min` and may go on after its first success.
    """

    norms: ClassVar[AbstractSet[float]]
    paper: ClassVar[Paper]
    minimal: ClassVar[bool]

    def __init_subclass__(cls, *, norms: AbstractSet[float], paper: Paper, minimal: bool = False) -> None:
        cls.norms, cls.paper, cls.minimal = norms, paper, minimal

    @abstractmethod
    def limit(self, budget: float) -> int:
        """The largest number of steps, for a threat of this budget (absolute, in the threat's norm)."""

    def check(self, threat: Threat, shape: Sequence[int]) -> None:  # noqa: B027 (most attacks have nothing to refuse)
        """For attacks with options that do not go with every threat or shape of sample: refuses those.

        Raises:
            UsageError: They do not.
        """

    def aim(self, goal: Goal) -> Goal:
        """The goal it is after, for attacks with an option that makes it stricter than the one given."""
        return goal

    @abstractmethod
    def start(self, case: Case, oracle: Any) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, case: Case, oracle: Any, state: Any) -> Any:
        """One iteration of the paper's loop."""

    def __str__(self) -> str:
        given = [f for f in fields(self) if f.init and getattr(self, f.name) != f.default]  # pyright: ignore[reportArgumentType]
        options = [f"{f.name}={getattr(self, f.name)}" for f in given]
        return name_of(type(self)) + (":" + ",".join(options) if options else "")


@runtime_checkable
class Learner(Protocol):
    """An attack that learns from samples before it attacks others; `learning.fit` calls it."""

    samples: int
    """How many an audit lets it learn from."""
    perturbation: Perturbation | None
    """What it has learned."""

    def fit(self, oracle: Any, x: Batch, goal: Goal, threat: Threat, key: Counts) -> Attack:
        """The attack with what it has learned from samples x."""
        ...

    def knowing(self, perturbation: Perturbation) -> Attack:
        """The attack with what was learned before."""
        ...


@dataclass(frozen=True)
class Cascade:
    """Attacks one after the other: a case that one has broken never meets the next. Restarts are a cascade of equals.

    Under a threat of another norm than some are made for, the others run.
    """

    name: str
    attacks: tuple[Attack, ...]

    def __str__(self) -> str:
        return self.name


def stages(attack: "Attack | Cascade", threat: Threat | None = None) -> tuple[Attack, ...]:
    """The attacks that run, under a threat if one is given: those that fit it, or all where none does."""
    every = attack.attacks if isinstance(attack, Cascade) else (attack,)
    return tuple(one for one in every if threat is None or misfit(one, threat) is None) or every


def name_of(attack: type[Attack]) -> str:
    """The name is the module's."""
    return attack.__module__.rpartition(".")[2]


def misfit(attack: "Attack | Cascade", threat: Threat) -> str | None:
    """Why an attack cannot run under a threat, if so: a norm it is not made for, or `min` where it needs a budget."""
    if isinstance(attack, Cascade):
        reasons = [misfit(one, threat) for one in attack.attacks]
        return None if None in reasons else reasons[0]
    if threat.p not in attack.norms:
        norms = ", ".join(norm_name(p) for p in sorted(attack.norms))
        return f"{attack} is an attack in {norms}, the threat {threat} is in {norm_name(threat.p)}."
    if threat.eps is None and not attack.minimal:
        return f"{attack} needs a budget, like {norm_name(threat.p)}:0.1, and does not look for the smallest."
    return None
