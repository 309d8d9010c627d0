"""The black-box papers: a substitute learned from an oracle's labels is enough to fool it.

The services that the papers attacked are gone; models trained here on the data that they were given stand in for them, and
tell labels only. Every theft is `sapper steal`, every sample one FGSM step on the substitute, within [0, 1], of every test
image; those that the oracle has wrong count, also if it had them wrong before, as in the papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from sapper.claims import Claim, Figure, Part, Sure, Table, percent
from sapper.data.loading import load_data
from sapper.lab import Lab
from sapper.report.figures import lines
from sapper.report.picture_grid import image_grid
from sapper.studies import _black_box_oracles as oracles
from sapper.studies._black_box_common import EPS, Entry, Row, logistic, near, network, refined, stolen
from sapper.studies._black_box_defended import masked, retrained
from sapper.studies._black_box_training import training
from sapper.studies._teaching import share
from sapper.studies._theft_common import HELD_OUT, Fooled, Substitute, Victim, fooled, robbed
from sapper.study import Study
from sapper.substitute import PAPERS

SIZES = (0.25, 0.3, 0.4)
SERIES = (24.86, 41.37, 65.38, 74.86, 80.36, 79.18, 81.20)
"""The substitutes' accuracy in the paper, round by round."""
PUBLISHED: dict[float, tuple[float, Sure]] = {0.25: (73.67, "stated"), 0.3: (84.24, "memory"), 0.4: (84.24, "stated")}
"""In % after 6 400 questions; the first version of the paper has the last at 0.4, later ones at 0.3."""


class BlackBoxStudy(
    Study,
    paper=PAPERS[0],
    title="Black box: stealing a substitute, and fooling the oracle with it",
    reproduces="the attacks on MetaMind, Amazon and Google, on local stand-ins; retrained and gradient-masked oracles",
    takes={"smoke": "under half a minute", "paper": "about an hour"},
    data="mnist",
    shape=(1, 28, 28),
):
    """Questions, agreement, transfer."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return (
            ("metamind", metamind),
            ("amazon", amazon),
            ("google", google),
            ("retrained", retrained),
            ("masked", masked),
            ("drawn", drawn),
            ("training", training),
        )


def metamind(lab: Lab) -> Part:
    """6 400 questions to a deep network."""
    victim = oracles.metamind(lab)
    rounds = robbed(lab, victim, network(lab))
    made = [{eps: fooled(lab, one.module, victim, eps) for eps in SIZES} for one in rounds]
    rows: list[Row] = [
        [one.round.number, one.queries, share(one.agreement), share(one.accuracy), SERIES[one.round.number],
         *(share(seen[eps].oracle) for eps in SIZES), share(seen[EPS].substitute)]
        for one, seen in zip(rounds, made, strict=True)
    ]  # fmt: skip
    last, names = made[-1], [f"oracle, eps {eps}" for eps in SIZES]
    return Part(
        title="MetaMind: a deep network",
        text="LeNet, taught for one epoch so that it is no better than the service was. The substitute is the paper's, begun "
        f"anew each round, from {rounds[0].queries} test images. At eps 0.4 the oracle's answers spread over the classes as "
        f"{_spread(last[0.4])} (in %, 0 to 9). Of the samples at eps {EPS} that fool the substitute "
        f"{share(last[EPS].carried)} % fool the oracle.",
        claims=[
            percent("accuracy of the oracle", "section 5", "stated", 94.97, victim.accuracy, (93.5, 96.5), "a stand-in"),
            *_series(rounds),
            *(percent(f"transfer at eps {eps} after 6 400 questions", "section 5", sure, paper, last[eps].oracle,
                      near(paper)) for eps, (paper, sure) in PUBLISHED.items()),
            percent("answers at eps 0.4 that are a 4 or an 8", "section 5", "derived", None, _four_or_eight(last[0.4]),
                    (40.0, 100.0), "the paper: confusions collapse to these two"),
        ],
        tables=[Table(title="in %, by round", rows=rows, columns=["round", "questions", "agreement", "accuracy",
                      "paper's accuracy", *names, f"substitute itself, eps {EPS}"])],
        figures=[_curves(lab, rows, names), _pictures(lab, victim, last[EPS])],
    )  # fmt: skip


def _series(rounds: Sequence[Substitute]) -> list[Claim]:
    """The paper's accuracies, of which only the last is stated."""
    found = dict(enumerate(rounds))
    return [
        percent(f"accuracy of the substitute after {100 * 2**number} questions", "section 5",
                "stated" if number == len(SERIES) - 1 else "memory", paper,
                found[number].accuracy if number in found else None, near(paper))
        for number, paper in enumerate(SERIES)
    ]  # fmt: skip


def _spread(seen: Fooled) -> str:
    counts = torch.bincount(seen.said, minlength=10)
    return ", ".join(f"{100 * int(count) / len(seen.said):.0f}" for count in counts)


def _four_or_eight(seen: Fooled) -> float:
    return float(((seen.said == 4) | (seen.said == 8)).double().mean())


def _curves(lab: Lab, rows: Sequence[Row], names: Sequence[str]) -> Figure:
    table = np.array(rows, float).T
    curves = {"agreement": table[2], "accuracy in the paper": table[4], **dict(zip(names, table[5:8], strict=True))}
    chart = lines(
        {name: (table[0], values) for name, values in curves.items()}, title="Agreement and transfer by questions",
        x_title="augmentations n, of 100 × 2ⁿ questions", y_title="%", y_range=(0, 100), markers=True,
    )  # fmt: skip
    return lab.figure("metamind.svg", chart, "Agreement of the substitute with the oracle, and what fools the oracle")


def _pictures(lab: Lab, victim: Victim, seen: Fooled) -> Figure:
    """The first sample of each class, of those that were right if there are any."""
    order = (victim.said != victim.y).long().argsort(stable=True)
    places = [next(int(place) for place in order if victim.y[place] == digit) for digit in range(10)]
    grid = torch.stack([victim.x[places], seen.x_adv[places]]).numpy()
    columns = [f"{digit} → {int(seen.said[place])}" for digit, place in enumerate(places)]
    told = f"Test images, and what one step of {EPS} on the substitute makes of them: what the oracle said before and after"
    return lab.figure("metamind.png", image_grid(grid, ["clean", "submitted"], columns), told)


def amazon(lab: Lab) -> Part:
    """800 questions to multinomial logistic regression, 6 400, and 2 000 with reservoir sampling."""
    victim = oracles.amazon(lab)
    claims, table = stolen(lab, victim, (
        Entry("LR", logistic(lab), 3, 96.19),
        Entry("LR with PSS and RS", refined(logistic(lab)), 6),
        Entry("DNN", network(lab), 3, 87.44),
        Entry("DNN", network(lab), 6, 96.78),
        Entry("DNN with PSS and RS", refined(network(lab)), 6, 95.68),
    ), "transferability paper, section 5")  # fmt: skip
    return Part(
        title="Amazon: logistic regression",
        text="Multinomial logistic regression on the 50 000 images. PSS is the periodic step, RS reservoir sampling. The DNN "
        "is the black-box paper's substitute; the transferability paper's is larger.",
        claims=[
            percent("accuracy of the oracle", "section 5", "stated", 92.17, victim.accuracy, (91.0, 93.0)),
            *claims,
        ],
        tables=[table],
    )


def google(lab: Lab) -> Part:
    """The same, to a model of which nothing is known."""
    victim = oracles.google(lab)
    claims, table = stolen(lab, victim, (
        Entry("LR", logistic(lab), 3, 88.94),
        Entry("LR with PSS and RS", refined(logistic(lab)), 6, 97.72),
        Entry("DNN", network(lab, 3), 3, 84.50, "memory"),
        Entry("DNN with PSS and RS", refined(network(lab)), 6, 91.57),
    ), "transferability paper, section 5")  # fmt: skip
    rows: list[Row] = []
    for name, other in oracles.others(lab).items():
        one = robbed(lab, other, logistic(lab))[-1]
        rows.append(
            [name, share(other.accuracy), share(one.agreement), share(fooled(lab, one.module, other, EPS).oracle)]
        )
    return Part(
        title="Google: a model that nobody knows",
        text="Of Google's model only the accuracy is known. A random forest of that accuracy stands in for it, as it is far "
        "from both substitutes: no gradient, no weights, thresholds and votes. The second table has other kinds of "
        f"models, attacked through an LR substitute with {logistic(lab).questions} questions: how much a published number "
        "hangs on the model that was hidden behind the service.",
        claims=[percent("accuracy of the oracle", "section 5", "stated", 92.0, victim.accuracy, (91.0, 93.0)), *claims],
        tables=[table, Table(title="other models in its place, in %", rows=rows,
                             columns=["oracle", "accuracy", "agreement", "the oracle is fooled"])],
    )  # fmt: skip


def drawn(lab: Lab) -> Part:
    """Seeds from elsewhere: the attacker has no images of the service's kind."""
    victim, plan = oracles.metamind(lab), network(lab, 4)
    theirs = replace(victim, name="metamind-drawn", seeds=_digits(plan.seeds + HELD_OUT))
    one = robbed(lab, theirs, plan)[-1]
    seen = fooled(lab, one.module, theirs, 0.25)
    usual = robbed(lab, victim, network(lab))[min(4, network(lab).rounds)]
    other = fooled(lab, usual.module, victim, 0.25)
    rows: list[Row] = [
        [
            name,
            share(sub.agreement),
            share(sub.accuracy),
            *(share(part) for part in (it.substitute, it.carried, it.oracle)),
        ]
        for name, sub, it in (("digits of other people", one, seen), ("MNIST's test images", usual, other))
    ]
    return Part(
        title="Seeds drawn by the attacker",
        text="The authors drew ten digits a class on a trackpad. Here ten a class come from scikit-learn's digits, of other "
        f"people and of 8 × 8 pixels, enlarged to 20 × 20 in the middle of a picture. {one.queries} questions, eps 0.25.",
        claims=[
            percent("accuracy of the substitute", "section 5", "stated", 47.34, one.accuracy, near(47.34, 15)),
            percent("samples that fool the substitute", "section 5", "stated", 51.32, seen.substitute, near(51.32, 15)),
            percent("of these, fool the oracle", "section 5", "stated", 81.62, seen.carried, near(81.62, 15)),
            percent("samples that fool the substitute of MNIST's seeds", "section 5", "stated", 84.34, other.substitute,
                    near(84.34)),
        ],
        tables=[Table(title="in %, by seeds", rows=rows,
                      columns=["seeds", "agreement", "accuracy", "it is fooled", "carried over", "the oracle is fooled"])],
    )  # fmt: skip


def _digits(count: int) -> torch.Tensor:
    """So many, the classes in turn."""
    data, each = load_data("digits"), count // 10
    places = torch.stack([(data.y == digit).nonzero()[:each, 0] for digit in range(10)], 1).flatten()
    large = functional.interpolate(data.x[places], (20, 20), mode="bilinear", align_corners=False)
    return functional.pad(large, (4, 4, 4, 4)).clamp(0, 1)
