"""What a spec comes to: its attacks under its threats, and the standard ones where the user gave none."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from sapper import catalogue, log
from sapper.attack import Attack, Cascade, misfit
from sapper.data.dataset import Data
from sapper.errors import UsageError
from sapper.foreign import Access
from sapper.learners import KnownLearner
from sapper.spec import Spec
from sapper.threat import Threat


@dataclass(frozen=True)
class Job:
    """One attack under one threat."""

    attack: Attack | Cascade
    threat: Threat

    @property
    def folder(self) -> str:
        return log.case_folder(str(self.attack), str(self.threat))


def jobs(spec: Spec) -> list[Job]:
    """Every attack under every threat of its norms.

    Raises:
        UsageError: A name or value that does not exist, an attack or a threat left without a partner.
    """
    attacks = [catalogue.attack(text) for text in spec.attacks]
    lower, upper = spec.bounds
    threats = [Threat.parse(text, lower=lower, upper=upper, quantize=spec.quantize) for text in spec.threats]
    found = [Job(attack, threat) for threat in threats for attack in attacks if misfit(attack, threat) is None]
    for attack in attacks:
        if not any(job.attack is attack for job in found):
            raise UsageError(f"{attack} fits none of the threats {_list(threats)}: {misfit(attack, threats[0])}")
    for threat in threats:
        if not any(job.threat is threat for job in found):
            raise UsageError(f"none of the attacks {_list(attacks)} fits {threat}: {misfit(attacks[0], threat)}")
    return list({job.folder: job for job in found}.values())  # an attack or threat given twice runs once


def _list(things: list[Attack | Cascade] | list[Threat]) -> str:
    return ", ".join(map(str, things))


def standard(
    data: Data,
    threats: list[str],
    attacks: list[str],
    given: Access = "gradients",
    made: KnownLearner | None = None,
    *,
    via: bool = False,
) -> tuple[list[str], list[str]]:
    """Threats and attacks, from the standard suite where the user gave none, as far as they fit what is given.

    Args:
        data: Whose kind and bounds the threats are for.
        threats: Of the user's.
        attacks: Likewise.
        given: What the model gives; each kind of access has a suite.
        made: What it is made of, if that is known; the attacks for such models are added.
        via: It is a substitute that gives this; so have these.
    """
    suite = _suite("via" if via else given, made)
    lower, upper = data.bounds
    kind = "colour" if len(data.shape) == 3 and data.shape[0] == 3 else "grey"
    wanted_threats = threats or suite.threats[kind]
    sought = [text.strip().lower().endswith(":min") for text in wanted_threats]
    wanted_attacks = attacks or [*(suite.minimal if any(sought) else []), *([] if all(sought) else suite.attacks)]
    pairs = [
        (threat, attack)
        for threat in wanted_threats
        for attack in wanted_attacks
        if misfit(catalogue.attack(attack), Threat.parse(threat, lower=lower, upper=upper)) is None
    ]
    if not pairs and not attacks:
        raise UsageError(
            f"no standard attack on a model that gives {given} fits {', '.join(wanted_threats)}: give --attack; see sapper "
            f"attacks --access {given}."
        )
    if not pairs and not threats:
        raise UsageError(f"{', '.join(attacks)} fits no threat of the standard suite: give --threat, such as l2:0.5.")
    return (
        threats or [t for t in wanted_threats if any(t == pair[0] for pair in pairs)],
        attacks or [a for a in wanted_attacks if any(a == pair[1] for pair in pairs)],
    )


def _suite(given: Access | Literal["via"], made: KnownLearner | None) -> catalogue.Suite:
    """The standard suite for what a model gives, with the attacks on its kind of learner."""
    suite = catalogue.suites()["standard" if given == "gradients" else f"standard_{given}"]
    if given in ("via", "gradients"):
        return suite
    methods = catalogue.attacks()
    own = [
        name for name, method in methods.items() if catalogue.learner(method) and catalogue.suits(method, given, made)
    ]
    return msgspec.structs.replace(
        suite,
        attacks=[*suite.attacks, *own],
        minimal=[*suite.minimal, *(name for name in own if methods[name].minimal)],
    )
