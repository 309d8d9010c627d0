"""What the parts of the black-box study share: its substitutes, and the papers' numbers beside what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sapper.claims import Claim, Sure, Table, percent
from sapper.lab import Lab
from sapper.studies._teaching import share
from sapper.studies._theft_common import Plan, Victim, fooled, robbed

EPS = 0.3

Row = list[str | float | int | None]


def network(lab: Lab, rounds: int = 6) -> Plan:
    """The substitute of the black-box paper."""
    return _sized(lab, Plan("papernot_substitute", rounds))


def logistic(lab: Lab, rounds: int = 3) -> Plan:
    """That of the transferability paper; it halves rate and momentum after ten epochs, here both stay."""
    return _sized(lab, Plan("softmax", rounds, epochs=15))


def _sized(lab: Lab, plan: Plan) -> Plan:
    return plan if lab.scale == "paper" else replace(plan, rounds=1, epochs=2, seeds=40)


def refined(plan: Plan) -> Plan:
    """With the periodic step and reservoir sampling, six rounds: 2 000 questions."""
    return replace(plan, period=3, sigma=3, rounds=min(6, 2 * plan.rounds))


def near(paper: float, points: float = 10) -> tuple[float, float]:
    return round(max(0.0, paper - points), 2), round(min(100.0, paper + points), 2)


@dataclass(frozen=True)
class Entry:
    """What the paper says of one substitute."""

    name: str
    plan: Plan
    number: int
    """Of the round."""
    paper: float | None = None
    sure: Sure = "stated"


def stolen(lab: Lab, victim: Victim, entries: Sequence[Entry], where: str) -> tuple[list[Claim], Table]:
    claims, rows = [], list[Row]()
    for entry in entries:
        one = robbed(lab, victim, entry.plan)[min(entry.number, entry.plan.rounds)]
        seen = fooled(lab, one.module, victim, EPS)
        asked = f"{entry.name}, {one.queries} questions"
        rows.append([asked, share(one.agreement), share(seen.substitute), share(seen.oracle), entry.paper])
        if entry.paper is not None:
            claims.append(percent(f"{victim.name}: transfer from {asked}", where, entry.sure, entry.paper, seen.oracle,
                                  near(entry.paper)))  # fmt: skip
    columns = ["substitute", "agreement", "it is fooled", "the oracle is fooled", "in the paper"]
    return claims, Table(title=f"{victim.name}: in %, eps {EPS}", columns=columns, rows=rows)
