"""The study of substitutes: what label match owes to how, and as which network, a substitute learns."""

from dataclasses import replace

from sapper.claims import Claim, Part, Table, percent
from sapper.lab import Lab
from sapper.studies._substitutes_common import (
    ITS_OWN,
    METHODS,
    NETWORK,
    PERIODIC,
    PUBLISHED,
    REGRESSION,
    RESERVOIR,
    VANILLA,
    WITHIN,
    Curve,
    Row,
    curve,
    difference,
    drawn,
    in_percent,
    match,
    plan,
)

DEEP = 5
"""Rounds of the thefts that double their questions into the paper's network: it takes seven times as long."""


def training(lab: Lab) -> Part:
    """What label match owes to how the substitute learns."""
    kind = "DNN" if lab.scale == "paper" else "LR"
    base = plan(lab, *NETWORK, RESERVOIR)
    ways = {
        "small network, batches of 32": base,
        "small network, batches of 100": replace(base, batch_size=100),
        "small network, batches of 10": replace(base, batch_size=10),
        "the paper's network": replace(base, architecture=ITS_OWN),
        "softmax regression": plan(lab, *REGRESSION, RESERVOIR),
        "small network, the seeds alone": replace(
            base, rounds=0, batch_size=10, epochs=100 if lab.scale == "paper" else 3
        ),
    }
    found = {name: curve(lab, kind, how) for name, how in ways.items()}
    own, mine = found["the paper's network"][-1].match, found["small network, batches of 32"][-1].match
    return Part(
        title="How the substitute learns",
        text=f"Of the {kind}, periodic steps and reservoir sampling if nothing else is said. A batch of 32 or 100 leaves few "
        "steps to the first rounds, whose Jacobians then say little. The last line learns the seeds alone, for a hundred "
        "epochs: what the questions about new inputs are worth is measured against it.",
        claims=[
            Claim(what="the paper's network as a substitute less the small one (points)", where="section 4", sure="derived",
                  measured=round(100 * (own - mine), 2), unit="%"),
        ],
        tables=[Table(title=f"label match with the {kind} in %", columns=["substitute", "questions", "first", "last", "best"],
                      rows=[[name, points[-1].questions, *_ends(points)] for name, points in found.items()])],
        figures=[drawn(lab, "training.svg", f"substitutes of the {kind}",
                       {name: points for name, points in found.items() if len(points) > 1})],
    )  # fmt: skip


def architectures(lab: Lab) -> Part:
    """What label match owes to which network learns."""
    kind = "DNN" if lab.scale == "paper" else "LR"
    deep = {method: curve(lab, kind, plan(lab, ITS_OWN, NETWORK[1], method, DEEP)) for method in (VANILLA, PERIODIC)}
    base = plan(lab, *NETWORK, RESERVOIR)
    some = {name: curve(lab, kind, replace(base, architecture=name)) for name in (NETWORK[0], ITS_OWN)}
    few = len(deep[VANILLA])
    small = {method: curve(lab, kind, plan(lab, *NETWORK, method))[:few] for method in deep}
    early = {NETWORK[0]: small, ITS_OWN: deep}
    rows: list[Row] = [
        [name, *(in_percent(early[name][method][-1].match) if name in early else None for method in deep),
         in_percent(points[-1].match)]
        for name, points in some.items()
    ]  # fmt: skip
    where, note = "section 4, after rho = 9", f"measured after rho = {few - 1}"
    found = {(method, kind): points for method, points in deep.items()}
    paper = dict(zip(METHODS, (PUBLISHED["DNN", method][0] for method in METHODS), strict=True))
    ends = {**{method: match(found, method, "DNN") for method in deep},
            RESERVOIR: some[ITS_OWN][-1].match if kind == "DNN" else None}  # fmt: skip
    return Part(
        title="Which network learns",
        text=f"Substitutes of the {kind}: the small network (`{NETWORK[0]}`), and the paper's own (`{ITS_OWN}`), which is "
        f"what the oracle is; its doubling thefts have {few - 1} rounds.",
        claims=[
            *(percent(f"substitute like its oracle, {method}: label match", where, "stated", value, ends[method],
                      (round(value - WITHIN, 2), round(value + WITHIN, 2)), "" if method == RESERVOIR else note)
              for method, value in paper.items()),
            difference("substitute like its oracle: what the periodic step adds (points)", found, "DNN", "DNN", VANILLA,
                       PERIODIC, (0.5, 30)),
        ],
        tables=[Table(title=f"label match with the {kind} in %", rows=rows,
                      columns=["substitute", *(f"{method}, rho = {few - 1}" for method in deep),
                               f"{RESERVOIR}, rho = {base.rounds}"])],
        figures=[drawn(lab, "architectures.svg", f"substitutes of the {kind}, {RESERVOIR}", some)],
    )  # fmt: skip


def _ends(points: Curve) -> tuple[float, float, float]:
    return in_percent(points[0].match), in_percent(points[-1].match), in_percent(max(point.match for point in points))
