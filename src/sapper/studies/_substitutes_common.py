"""What the parts of the study of substitutes share: the published table, the oracles, and how a label match comes about.

Of a theft only the label match of each round is kept: what it asked about, up to 51 200 images, is thrown away with it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np
from torch import nn

from sapper import disk
from sapper.claims import Claim, Figure, Table, percent
from sapper.foreign import Foreign
from sapper.lab import Lab
from sapper.learners import Neighbours, learner_of
from sapper.report.figures import lines
from sapper.studies._learners_common import KINDS, learner
from sapper.studies._teaching import samples
from sapper.studies._theft_common import LabelsOnly, Plan, Victim, robbed, theft_folder
from sapper.tensors import Batch, Logits

ROUNDS, PERIOD, SIGMA, KAPPA, STEP = 9, 3, 3, 400, 0.1
"""rho, tau, sigma, kappa and lambda of the paper."""
FEW, FULL = 7, ("DNN", "SVM")
"""Rounds of the doubling thefts into networks, which learn for long, but for these oracles."""
VANILLA, PERIODIC, RESERVOIR = METHODS = ("vanilla", "periodic step", "periodic step and reservoir")
SMALL, LARGE = ("LR",), KINDS
"""The oracles of the two scales."""
NETWORK, REGRESSION, MACHINE = ("wong_kolter", 10), ("softmax", 15), ("svm", 15)
"""Substitutes, and for how many epochs each round's learns; the paper's numbers."""
ITS_OWN = "papernot"
"""The paper's network."""
UNBOUNDED = (-1.0, 2.0)
"""Wider than nine steps of 0.1 can lead out of the pictures' range: as if there were no bounds."""

PUBLISHED: dict[tuple[str, str], tuple[float, ...]] = {  # label match in % after nine rounds, by oracle, in their order
    ("DNN", VANILLA): (78.01, 82.17, 79.68, 62.75, 81.83),
    ("DNN", PERIODIC): (89.28, 89.16, 83.79, 61.10, 85.67),
    ("DNN", RESERVOIR): (82.90, 83.33, 77.22, 48.62, 82.46),
    ("LR", VANILLA): (64.93, 72.00, 71.56, 38.44, 70.74),
    ("LR", PERIODIC): (69.20, 84.01, 82.19, 34.14, 71.02),
    ("LR", RESERVOIR): (67.85, 78.94, 79.20, 41.93, 70.92),
}
STATED = {
    ("DNN", VANILLA): ("DNN", "SVM"), ("DNN", PERIODIC): ("DNN", "SVM"), ("DNN", RESERVOIR): ("DNN", "DT"),
    ("LR", VANILLA): ("LR", "SVM"), ("LR", PERIODIC): ("LR", "SVM"), ("LR", RESERVOIR): ("SVM",),
}  # fmt: skip
"""The cells that were read in the paper; the others are from memory."""
WITHIN = 8.0
"""Points by which a label match may be off: other seeds of the same substitute are apart by some."""


class Point(msgspec.Struct, frozen=True):
    """One round's substitute."""

    questions: int
    """From which it learned."""
    match: float
    """Share of the test samples that it takes for what the oracle takes them for."""


Curve = list[Point]
Row = list[str | float | int | None]
Curves = dict[tuple[str, str], Curve]
"""By method and oracle."""


class Nearest(nn.Module):
    """The class of the nearest point; by products of matrices in float32, as an oracle of many questions needs it."""

    def __init__(self, known: Neighbours) -> None:
        super().__init__()
        self.points, self.labels = known.points.float(), known.labels
        self.register_buffer("squares", self.points.square().sum(1))
        self.classes = int(known.labels.max()) + 1

    def forward(self, x: Batch) -> Logits:
        nearest = (2 * x.flatten(1) @ self.points.T - self.get_buffer("squares")).argmax(1)
        return nn.functional.one_hot(self.labels[nearest], self.classes).float()


def oracles(lab: Lab) -> tuple[str, ...]:
    return LARGE if lab.scale == "paper" else SMALL


def victim(lab: Lab, kind: str) -> Victim:
    """A learner of 50 000 samples that tells labels only, and the test samples."""
    module = learner(lab, kind, "train[:50000]" if lab.scale == "paper" else "train[:500]")
    known = learner_of(module)
    if isinstance(known, Neighbours):
        module = Nearest(known)
    test = samples(lab, "test", None if lab.scale == "paper" else 300)
    return Victim(kind, module if isinstance(module, Foreign) else LabelsOnly(module), test.x, test.y)


def plan(lab: Lab, architecture: str, epochs: int, method: str = PERIODIC, rounds: int = ROUNDS) -> Plan:
    """Of a substitute; at the smoke scale a short one."""
    full = Plan(
        architecture, rounds, period=0 if method == VANILLA else PERIOD, sigma=SIGMA if method == RESERVOIR else None,
        kappa=KAPPA, step_size=STEP, epochs=epochs, batch_size=32,
    )  # fmt: skip
    if lab.scale == "paper":
        return full
    return replace(
        full, rounds=min(rounds, 2), sigma=1 if full.sigma else None, kappa=15, seeds=20, epochs=3, batch_size=5
    )


def curve(lab: Lab, kind: str, how: Plan) -> Curve:
    """The label match after each round, the seeds' first; of the oracle that learned in this way."""
    path = lab.out / "curves" / f"{kind}-{how.name}.json"
    if not path.exists():
        lab.console.print(f"   {how.architecture} learns from {kind}", style="dim", highlight=False)
        oracle = victim(lab, kind)
        found = [Point(one.queries, one.agreement) for one in robbed(lab, oracle, how)]
        disk.write_json(path, found)
        shutil.rmtree(theft_folder(lab, oracle, how))
    return msgspec.json.decode(path.read_bytes(), type=Curve)


def curves(lab: Lab, architecture: str, epochs: int, full: tuple[str, ...] = KINDS) -> Curves:
    """Of all methods and oracles.

    Args:
        lab: Keeps them.
        architecture: Of the substitutes.
        epochs: How long each learns.
        full: The oracles for which a theft that doubles its questions has all rounds.
    """
    return {
        (method, kind): curve(
            lab, kind,
            plan(lab, architecture, epochs, method, ROUNDS if kind in full or method == RESERVOIR else FEW),
        )
        for method in METHODS
        for kind in oracles(lab)
    }  # fmt: skip


def match(found: Curves, method: str, kind: str) -> float | None:
    """Of the last round; None where the scale leaves the oracle or that round out."""
    points = found.get((method, kind), [])
    longest = max((len(others) for others in found.values()), default=0)
    return points[-1].match if points and len(points) == longest else None


def difference(
    what: str, found: Curves, substitute: str, kind: str, first: str, then: str, within: tuple[float, float]
) -> Claim:
    """By how much the label match with an oracle grows from one method to another, in points."""
    before, after = match(found, first, kind), match(found, then, kind)
    measured = None if before is None or after is None else after - before
    place = KINDS.index(kind)
    paper = PUBLISHED[substitute, then][place] - PUBLISHED[substitute, first][place]
    return percent(what, "section 4, after rho = 9", "derived", round(paper, 2), measured, within)


def cells(substitute: str, found: Curves) -> list[Claim]:
    """The published label matches: those that were read."""
    return [
        percent(f"{substitute} substitute of the {kind}, {method}: label match", "section 4, after rho = 9", "stated",
                paper, match(found, method, kind), (max(0.0, round(paper - WITHIN, 2)), round(paper + WITHIN, 2)))
        for method in METHODS
        for kind, paper in zip(KINDS, PUBLISHED[substitute, method], strict=True)
        if kind in STATED[substitute, method]
    ]  # fmt: skip


def beside(substitute: str, found: Curves) -> Table:
    """All cells, measured and published."""
    return Table(
        title=f"label match of the {substitute} substitute after the last round in %, by oracle",
        columns=["method", "questions", "", *KINDS],
        rows=[row for method in METHODS for row in _rows(substitute, found, method)],
    )


def _rows(substitute: str, found: Curves, method: str) -> list[Row]:
    curves = {kind: found.get((method, kind), []) for kind in KINDS}
    stated = STATED[substitute, method]
    published = (
        f"{value:.2f}" if kind in stated else f"{value:.2f} (from memory)"
        for kind, value in zip(KINDS, PUBLISHED[substitute, method], strict=True)
    )
    most = max((points[-1].questions for points in curves.values() if points), default=None)
    return [
        [method, most, "measured", *(_cell(found, method, kind) for kind in KINDS)],
        [method, None, "published", *published],
    ]


def _cell(found: Curves, method: str, kind: str) -> str | float | None:
    points = found.get((method, kind))
    if not points:
        return None
    last = round(100 * points[-1].match, 2)
    return last if match(found, method, kind) is not None else f"{last:.2f} (rho = {len(points) - 1})"


def figures(lab: Lab, name: str, what: str, found: Curves) -> list[Figure]:
    """Label match against the round: for each method one, with a line an oracle."""
    return [
        drawn(lab, f"{name}-{number}.svg", f"{what}, {method}", {kind: found[method, kind] for kind in oracles(lab)})
        for number, method in enumerate(METHODS, 1)
    ]


def drawn(lab: Lab, file: str, what: str, found: Mapping[str, Curve]) -> Figure:
    series = {name: (np.arange(len(points), dtype=float), _percents(points)) for name, points in found.items()}
    chart = lines(series, title=what, x_title="round (rho)", y_title="label match in %", y_range=(0, 100), markers=True)
    return lab.figure(file, chart, f"Share of the test samples on which substitute and oracle agree: {what}")


def in_percent(share: float) -> float:
    return round(100 * share, 2)


def _percents(points: Curve) -> np.ndarray:
    return np.array([100 * point.match for point in points])
