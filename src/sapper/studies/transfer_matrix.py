"""Transferability between learners of five kinds, "Transferability in Machine Learning: from Phenomena to Black-Box Attacks".

Each learner is attacked in the way made for its kind; what was crafted for one is given to all others and to their
ensemble. A row has all test samples, those too that fooled nothing and those that were wrong from the start, as in the
paper. Two published numbers that no faithful attack gives, the diagonal cells of the nearest neighbour and of the tree, are
looked into.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from sapper.attacks.svm import PAPER
from sapper.claims import Figure, Part, Table
from sapper.data.dataset import Data
from sapper.lab import Lab, answers
from sapper.learners import Neighbours, Tree, learner_of
from sapper.report.figures import matrix
from sapper.report.picture_grid import image_grid
from sapper.studies._learners_common import BATCH, KINDS, learner, learners
from sapper.studies._matrix_claims import cells, distance, far, inside, near, sizes_like, sums, to_the_letter_claims
from sapper.studies._matrix_common import (
    ACROSS,
    ATTACKS,
    COLUMNS,
    PUBLISHED,
    WITHIN,
    crossed,
    moved,
    rounded,
    size,
    stepped,
    subsets,
    tested,
    whole,
    wrong,
)
from sapper.studies._matrix_nearest import nearest_other, point_by_point, towards_others
from sapper.studies._matrix_tree import to_the_letter
from sapper.study import Study
from sapper.tensors import Batch


class TransferMatrixStudy(
    Study,
    paper=PAPER,
    title="The transferability matrix: five kinds of learners and their ensemble",
    reproduces="Figures 2 and 3: transfer within and across techniques; what the cells hang on",
    takes={"smoke": "under half a minute", "paper": "about fifty minutes"},
    data="mnist",
    shape=(1, 28, 28),
):
    """Success of what was crafted for one learner on all others."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        inside = ((f"within-{kind}", partial(within, kind)) for kind in reversed(KINDS))  # the networks take longest
        return ("across", across), ("nearest", nearest), ("tree", tree), *inside, ("unsaid", unsaid)


def across(lab: Lab) -> Part:
    """Figure 3: one learner of each kind, all of the same samples."""
    models, data = learners(lab, whole(lab)), tested(lab, 10_000)
    made, ours = crossed(lab, models, data, ACROSS)
    clean = wrong(models, data.x, data.y)
    sizes = [size(x_adv, data.x) for x_adv in made.values()]
    rows = [["none (clean samples)", *rounded(clean), 0.0]] + [
        [kind, *rounded(row), round(change, 2)] for kind, row, change in zip(KINDS, ours, sizes, strict=True)
    ]
    return Part(
        title="Figure 3: across techniques",
        text=f"{len(data)} test samples; learners of {whole(lab)}. Success is the share of a row's samples that the column's "
        f"learner takes for another class than theirs. {_attacks_in_words(ACROSS)} The paper's text says that success on the "
        "tree is from 47.20 % to 89.29 %, its figure that it is from 79.31 %.",
        claims=[*cells(ours), *sums(ours), *sizes_like(sizes)],
        tables=[Table(title="success in %, and mean change of a feature in %", rows=rows,
                      columns=["crafted for", *COLUMNS, "mean change"])],
        figures=[
            _picture(lab, "across.svg", ours, "Measured success by the learner crafted for and the learner attacked"),
            _picture(lab, "published.svg", PUBLISHED, "Published success"),
            _picture(lab, "difference.svg", ours - PUBLISHED, "Measured less published (points)", (-100, 100)),
            _samples(lab, data, made),
        ],
    )  # fmt: skip


def within(kind: str, lab: Lab) -> Part:
    """Figure 2: five learners of one kind, of disjoint samples."""
    models = {name: learner(lab, kind, split) for name, split in subsets(lab).items()}
    data = tested(lab, 2500)
    made = [moved(lab, model, data, ATTACKS[kind], WITHIN[kind]) for model in models.values()]
    clean, *ours = np.array([wrong(models, x_adv, data.y)[:-1] for x_adv in (data.x, *made)])
    ours = np.array(ours)
    own, others = float(ours.diagonal().mean()), float(ours[~np.eye(len(ours), dtype=bool)].mean())
    chart = matrix(
        ours, list(models), list(models), title=f"Success within {kind}", row_title="crafted for",
        column_title="attacked", digits=1, unit="%", limits=(0, 100),
    )  # fmt: skip
    return Part(
        title=f"Figure 2: within {kind}",
        text=f"Learners of {', '.join(subsets(lab).values())}; {len(data)} test samples, of which they take "
        f"{clean.min():.1f} to {clean.max():.1f} % for another class as they are. {ATTACKS[kind]} with {WITHIN[kind]}: "
        f"{own:.1f} % on the learner itself, {others:.1f} % on another.",
        claims=[inside(kind, ours, own - others)],
        figures=[lab.figure(f"within-{kind}.svg", chart, f"Success within {kind}")],
    )


def nearest(lab: Lab) -> Part:
    """The row of kNN, by the way in which the derivative of the soft-min is computed."""
    models, data = learners(lab, whole(lab)), tested(lab, 2500)
    known = learner_of(models["kNN"])
    assert isinstance(known, Neighbours)
    falls, certain = point_by_point(known, data.x, data.y)
    attack, eps = partial(moved, lab, models["kNN"], data, threat=ACROSS["kNN"]), 0.25
    ways = {
        "class by class in logarithms (form=log)": attack("nearest_neighbour:form=log"),
        "class by class in float32 (form=paper)": attack("nearest_neighbour:form=paper"),
        "point by point in float32, as the formula stands": stepped(data.x, falls, eps),
        "the other classes' points only": stepped(data.x, towards_others(known, data.x, data.y), eps),
    }
    table, by_column = _variants("kNN", ways, models, data)
    log, _, plain, other = by_column["kNN"]
    least = nearest_other(known, data.x, data.y)
    published = PUBLISHED[KINDS.index("kNN"), KINDS.index("kNN")].item()
    return Part(
        title="kNN: when the gradient does not vanish",
        text=f"The first {len(data)} test samples, all with linf:{eps}. exp(−|z − x|²) itself is far from underflow: the "
        f"nearest point of another class is at a squared distance of {least.median():.1f} (median), {least.max():.1f} at "
        "most, where float32 holds exp(−87) in full. But the published f_y rounds to 1 for "
        f"{100 * float(certain.double().mean()):.1f} % of the samples; a sum over points then keeps the other classes' "
        "terms and loses what those of the own class pull the other way, which is rounding error.",
        claims=[
            near("success on kNN, derivative in logarithms", published, log, "which loses nothing"),
            near("success on kNN, derivative as the formula stands", published, plain, "in float32, point by point"),
            near("success on kNN, own class's points lost", published, other, "what is left where f_y rounds to 1"),
        ],
        tables=[table],
    )  # fmt: skip


def tree(lab: Lab) -> Part:
    """The row of DT, by what the paper's algorithm is taken to say."""
    models, data = learners(lab, whole(lab)), tested(lab, 10_000)
    known = learner_of(models["DT"])
    assert isinstance(known, Tree)
    attack = partial(moved, lab, models["DT"], data)
    ways = {
        "the nearest leaf there is, in l1 (search=minimal)": attack("decision_tree", "l1:784"),
        "the first subtree with another class (search=paper)": attack("decision_tree:search=paper", ACROSS["DT"]),
        "to the root, all of the way set from the root down": to_the_letter(known, data.x, upward=False),
        "to the root, all of the way set from the leaf up": to_the_letter(known, data.x, upward=True),
    }
    table, by_column = _variants("DT", ways, models, data)
    gone = answers(models["DT"], ways["the first subtree with another class (search=paper)"])
    right = float(((gone == data.y) & (answers(models["DT"], data.x) != data.y)).double().mean())
    return Part(
        title="DT: what Algorithm 2 says",
        text="Every search leads to a leaf of another class than the sample's own leaf. That is the sample's true class for "
        f"{100 * right:.1f} % of all samples, which were wrong before: so much the paper's way of counting takes from 100 %. "
        "To the letter, the algorithm does more: its loop asks about x*, which nothing in it changes, and so ends at the "
        "root; all features on the way to the leaf are then set, also those that are where they should be; and in the order "
        "of the climb the later undo what the earlier have set.",
        claims=to_the_letter_claims([column[-1] for column in by_column.values()], size(list(ways.values())[-1], data.x)),
        tables=[table],
    )  # fmt: skip


def unsaid(lab: Lab) -> Part:
    """The matrix once more, with fewer steps of training, and with a smaller change."""
    base, data = learners(lab, whole(lab)), tested(lab, 1000)
    rows: list[list[str | float | int | None]] = []
    found = {}
    for batch in (BATCH, 5 * BATCH):
        models = base | {kind: learner(lab, kind, whole(lab), batch) for kind in ("DNN", "LR")}
        clean = wrong(models, data.x, data.y)
        for eps in (0.25, 0.2):
            made, ours = crossed(lab, models, data, ACROSS | dict.fromkeys(("DNN", "LR", "kNN"), f"linf:{eps}"))
            found[batch, eps] = ours
            sizes = [size(made[kind], data.x) for kind in ("DNN", "LR", "kNN")]
            rows.append([batch, eps, *rounded(clean[:2]), *rounded(sizes), distance(ours)])
    batch, eps = min(found, key=lambda way: distance(found[way]))
    best = f"Success with batches of {batch} and eps {eps}"
    return Part(
        title="What the paper does not say, or says twice",
        text=f"The matrix of the first {len(data)} test samples. The paper says nothing of the batches in which DNN and LR "
        "learned: in larger ones they take fewer steps in as many epochs, and have smaller weights. And a mean change of "
        "11.5 % is not that of signs times 0.25 on these images, but of a smaller step.",
        claims=[far(f"mean distance of the 30 cells, batches of {b}, eps {e} (points)", found[b, e]) for b, e in found],
        tables=[Table(title="wrong on clean samples, mean change of a feature, mean distance from the published cells",
                      columns=["batch", "eps", "DNN wrong in %", "LR wrong in %", "change for DNN in %", "for LR", "for kNN",
                               "distance in points"], rows=rows)],
        figures=[
            _picture(lab, "nearest.svg", found[batch, eps], best),
            _picture(lab, "nearest-difference.svg", found[batch, eps] - PUBLISHED, f"{best}, less the published (points)",
                     (-100, 100)),
        ],
    )  # fmt: skip


def _variants(
    kind: str, ways: Mapping[str, Batch], models: Mapping[str, nn.Module], data: Data
) -> tuple[Table, dict[str, list[float]]]:
    """A table with a row for each way of crafting, and its cells by column."""
    ours = [wrong(models, x_adv, data.y) for x_adv in ways.values()]
    rows: list[list[str | float | int | None]] = [
        [way, *rounded(row), round(size(x_adv, data.x), 2)]
        for (way, x_adv), row in zip(ways.items(), ours, strict=True)
    ]
    rows.append(["published", *rounded(PUBLISHED[KINDS.index(kind)]), 1.05 if kind == "DT" else 11.5])
    columns = ["way", *COLUMNS, "mean change"]
    by_column: dict[str, list[float]] = dict(zip(COLUMNS, np.array(ours).T.tolist(), strict=True))
    return Table(title="success in %, and mean change of a feature in %", columns=columns, rows=rows), by_column


def _attacks_in_words(threats: Mapping[str, str]) -> str:
    return "; ".join(f"{kind}: {ATTACKS[kind]}, {threats[kind]}" for kind in KINDS) + "."


def _picture(lab: Lab, file: str, cells: np.ndarray, title: str, limits: tuple[float, float] = (0, 100)) -> Figure:
    chart = matrix(cells, KINDS, COLUMNS, title=title, row_title="crafted for", column_title="attacked", digits=1, unit="%",
                   limits=limits)  # fmt: skip
    return lab.figure(file, chart, title)


def _samples(lab: Lab, data: Data, made: Mapping[str, Batch]) -> Figure:
    """The first sample of each class, and what was made of it."""
    first = [int((data.y == label).nonzero()[0]) for label in data.y.unique()]
    images = torch.stack([data.x[first], *(x_adv[first] for x_adv in made.values())]).numpy()
    png = image_grid(images, ["clean", *made], [str(int(data.y[place])) for place in first], row_title="crafted for")
    return lab.figure("samples.png", png, "The first test sample of each class, and what was crafted of it")
