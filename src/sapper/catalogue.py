"""What there is: methods are found by looking into their folders, and in installed plug-ins; no list is kept anywhere.

An attack is the one `Attack` subclass that a module of `sapper.attacks` defines; its name is the module's. A plug-in is a
package with an entry point in the group `sapper.attacks`, pointing to such a module.
"""

import ast
import inspect
import pkgutil
import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

import sapper.attacks
from sapper.attack import Attack, Cascade, Learner, name_of, stages
from sapper.citation import Paper
from sapper.errors import UsageError, unknown
from sapper.foreign import LEVELS, Access
from sapper.learners import KnownLearner
from sapper.oracle import GradientOracle, LabelOracle, LearnerOracle, ScoreOracle
from sapper.threat import Threat, norm_name

ACCESS: dict[object, Access] = {
    LabelOracle: "labels",
    LearnerOracle: "labels",
    ScoreOracle: "scores",
    GradientOracle: "gradients",
}


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attacks under one name: a cascade that serves wherever an attack does, or what an audit does by itself."""

    about: str
    cascade: list[str] = []
    """One after the other, a case that one has broken never meets the next."""
    attacks: list[str] = []
    """Each on every case, under threats with a budget."""
    minimal: list[str] = []
    """Likewise where the smallest distance is sought."""
    threats: dict[str, list[str]] = {}
    """By kind of data, `grey` (all but colour pictures) and `colour`."""


@dataclass(frozen=True)
class Option:
    """One field of a method."""

    name: str
    type: str
    default: Any
    help: str


def attacks() -> dict[str, type[Attack]]:
    """Every attack by name."""
    here = [import_module(f"sapper.attacks.{name}") for name in names_in(sapper.attacks)]
    plugged = [module for point in entry_points(group="sapper.attacks") if (module := _plugged(point))]
    return {name_of(found): found for found in map(_attack_of, [*here, *plugged])}


def names_in(package: ModuleType) -> list[str]:
    """The modules of a folder of methods; a leading underscore says that a module is no method."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def suites() -> dict[str, Suite]:
    """Every suite by name: a TOML file of `suites/`."""
    folder = files("sapper") / "suites"
    found = sorted(path.name for path in folder.iterdir() if path.name.endswith(".toml"))
    texts = {name.removesuffix(".toml"): (folder / name).read_text("utf-8") for name in found}
    return {name: msgspec.toml.decode(text, type=Suite) for name, text in texts.items()}


def attack(text: str) -> Attack | Cascade:
    """Reads `pgd`, `pgd:steps=20,random_start=false`, `5*pgd:steps=20` (restarts), or the name of a suite.

    An option may run through whole numbers, `fab:rival=1..9`: a cascade of as many.

    Raises:
        UsageError: Unknown attack or option, or a value that does not fit.
    """
    times, star, rest = text.strip().rpartition("*")
    name, _, written = rest.partition(":")
    name, known = name.strip(), attacks()
    cascades = {name: suite.cascade for name, suite in suites().items() if suite.cascade}
    if text.strip() in cascades:
        return Cascade(name, tuple(stage for one in cascades[name] for stage in stages(attack(one))))
    if name in cascades:
        raise UsageError(
            f"the suite {name} takes neither options nor restarts, got '{text}': its attacks do, one by one."
        )
    if name not in known:
        raise unknown("attack", name, [*known, *cascades])
    every = tuple(_build(known[name], values) for values in _series(written))
    if not star and len(every) == 1:
        return every[0]
    if star and (not times.strip().isdecimal() or not 1 <= int(times) <= 1000):
        raise UsageError(f"expected the number of restarts before '*', like 5*pgd, got '{text}'.")
    what = str(every[0]) if len(every) == 1 else rest.strip()
    return Cascade(f"{int(times)}*{what}" if star else what, every * int(times if star else 1))


@cache
def options(method: type) -> tuple[Option, ...]:
    """The fields of a method with the help text that stands under each.

    Raises:
        UsageError: A field has no help; a method is not finished without.
    """
    help_of = _help(method)
    types = get_type_hints(method)
    return tuple(
        Option(f.name, _type_name(types[f.name]), None if f.default is MISSING else f.default, help_of[f.name])
        for f in fields(method)
        if f.init
    )


def access(method: type[Attack]) -> Access:
    """What the attack asks of the model, also to learn, as the type of its `oracle` says: labels, scores or gradients."""
    return _access(getattr(method, "fit", method.step))


def needs(attack: Attack) -> Access:
    """What this attack asks from now on; one that has learned needs no more for that."""
    has_learned = isinstance(attack, Learner) and attack.perturbation is not None
    return _access(attack.step) if has_learned else access(type(attack))


def learner(method: type[Attack]) -> type[KnownLearner] | None:
    """The kind of model that the attack asks to see the parts of, if it is for one kind only."""
    return next(iter(get_args(get_type_hints(method.step)["oracle"])), None)


def demands(method: type[Attack]) -> str:
    """In words, what it needs of the model."""
    asked = learner(method)
    return access(method) + (f", and the parts of {asked.kind}" if asked else "")


def serves(needed: Access, given: Access) -> bool:
    """Whether a model that gives so much is enough for an attack that needs so much."""
    return LEVELS.index(needed) <= LEVELS.index(given)


def suits(method: type[Attack], given: Access, made: KnownLearner | None) -> bool:
    """Whether a model that gives so much, and is made of this, is one for the attack."""
    asked = learner(method)
    return serves(access(method), given) and (asked is None or isinstance(made, asked))


def check_access(attack: Attack | Cascade, threat: Threat, given: Access, made: KnownLearner | None = None) -> None:
    """Refuses an attack that needs more than the model gives, or another kind of model.

    Args:
        attack: To be run.
        threat: Under which.
        given: What the model answers with.
        made: What it is made of, if that is known.

    Raises:
        UsageError: It does, or one of its stages.
    """
    lack = next((reason for stage in stages(attack, threat) if (reason := _lack(stage, given, made))), None)
    if lack is None:
        return
    fitting = [
        name
        for name, one in attacks().items()
        if suits(one, given, made) and threat.p in one.norms and (threat.eps is not None or one.minimal)
    ]
    raise UsageError(
        f"{lack}; what fits it under {threat}: {', '.join(fitting) or 'none of the attacks there are'}. sapper attacks "
        f"--access {given} lists such attacks."
    )


def _lack(attack: Attack, given: Access, made: KnownLearner | None) -> str | None:
    """What the model does not give the attack, if anything."""
    if not serves(needs(attack), given):
        return f"{attack} needs {needs(attack)}, the model gives {given} only"
    asked = learner(type(attack))
    if asked and not isinstance(made, asked):
        found = made.kind if made else "none whose parts are known, or behind a preprocessing"
        return f"{attack} is for {asked.kind}, the model is {found}"
    return None


def description(method: type) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(method) or "").partition("\n")[0]


def norms(method: type[Attack]) -> list[str]:
    return [norm_name(p) for p in sorted(method.norms)]


def papers(used: list[Attack | Cascade]) -> list[tuple[str, Paper]]:
    """The papers of exactly these attacks, each once, with the method's name."""
    methods = {name_of(type(stage)): type(stage).paper for one in used for stage in stages(one)}
    return list(methods.items())


def _access(step: Callable[..., object]) -> Access:
    hint = get_type_hints(step)["oracle"]
    return ACCESS[get_origin(hint) or hint]


def _plugged(point: EntryPoint) -> ModuleType | None:
    """A plug-in's module; one that cannot be imported must not take every command with it."""
    try:
        return point.load()
    except Exception as error:
        warnings.warn(f"the plug-in {point.value} is left out, it cannot be loaded: {error}", stacklevel=2)
        return None


def _attack_of(module: ModuleType) -> type[Attack]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Attack) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UsageError(f"expected one Attack in {module.__name__}, found {len(own)}: one file a method.")
    return own[0]


def _build(method: type[Attack], written: str) -> Attack:
    known = {option.name for option in options(method)}
    values: dict[str, str] = {}
    for pair in filter(None, written.split(",")):
        name, _, value = pair.partition("=")
        if name.strip() not in known:
            raise unknown(f"option of {name_of(method)}", name.strip(), known)
        if name.strip() in values:
            raise UsageError(f"{name_of(method)}: option {name.strip()} is given twice in '{written}'.")
        values[name.strip()] = value.strip()
    try:
        return msgspec.convert({k: _python(v) for k, v in values.items()}, method, strict=False)
    except (msgspec.ValidationError, OverflowError) as error:
        raise UsageError(f"{name_of(method)}: {error} in '{written}'; see `sapper show {name_of(method)}`.") from error


def _series(written: str) -> list[str]:
    """The options as they are written or, with `1..9` in them, as they are for each of these numbers."""
    found = re.search(r"=\s*(\d{1,4})\.\.(\d{1,4})\s*(?=,|$)", written)
    if not found:
        return [written]
    first, last = int(found[1]), int(found[2])
    if not first < last < first + 1000:
        raise UsageError(f"expected a range of rising whole numbers, like rival=1..9, got '{written}'.")
    before, after = written[: found.start()], written[found.end() :]
    return [one for number in range(first, last + 1) for one in _series(f"{before}={number}{after}")]


def _python(value: str) -> str | None:
    return None if value.lower() == "none" else value


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _help(method: type) -> dict[str, str]:
    """The string under each field, read from the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = inspect.cleandoc(text.value)
    if missing := [f.name for f in fields(method) if f.name not in found]:
        raise UsageError(f"{method.__name__} has no help under its option {', '.join(missing)}.")
    return found
