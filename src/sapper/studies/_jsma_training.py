"""Fig. 11 on a network trained as the paper says: what its distortions owe to the training."""

import polars as pl

from sapper.claims import Part, Table, percent
from sapper.data.dataset import Data
from sapper.lab import Lab
from sapper.models.model import Model
from sapper.models.training import accuracy
from sapper.studies._jsma_common import (
    GAMMA,
    attacked,
    cases_of,
    distortion,
    hundred,
    lenet,
    share,
    tidy,
    whole,
)


def training(lab: Lab) -> Part:
    """The study's network beside one by the paper's recipe: plain descent, batches of 500, a constant rate of 0.1."""
    epochs, limit = lab.size(paper=200, smoke=4), lab.size(paper=1000, smoke=10)
    split = "train[:50000]" if lab.scale == "paper" else "train[:3000]"
    model = lab.model(
        "lenet", split, epochs, folder="lenet-paper-recipe", batch_size=lab.size(paper=500, smoke=50), learning_rate=0.1,
        momentum=0.0, schedule="constant",
    )  # fmt: skip
    run = lab.audit("paper-recipe", model, "test", limit=limit, goal="targeted:every", threat=GAMMA, attack="jsma")
    cases, ours = cases_of(run), cases_of(whole(lab, "test")).filter(pl.col("sample") < limit)
    test = lab.samples("test")
    right = accuracy(model.module, test)
    return Part(
        title="The paper's own training",
        text=f"The same network by plain gradient descent for {epochs} epochs at a constant rate of 0.1, attacked on the "
        f"first {limit} test samples, beside the study's own on the same samples ({attacked(lab)['test'][1]} in Fig. 11). "
        "First weights and the order of samples are this library's; the tutorial's first weights are Glorot's, and it does "
        "not shuffle.",
        claims=[
            percent("test accuracy, the paper's recipe", "section IV", "memory", 98.9, right, (98.7, 99.2)),
            percent("success, the paper's recipe", "Fig. 11", "stated", 97.05, share(cases), (95.55, 98.55)),
            percent("distortion of successes, the paper's recipe", "Fig. 11", "stated", 4.03, distortion(cases), (3.6, 4.4)),
        ],
        tables=[
            Table(
                title="one attack, two trainings",
                columns=["training", "test accuracy %", "success %", "distortion of successes %", "distortion of all %"],
                rows=tidy([_row("the study's", lenet(lab), test, ours), _row("the paper's", model, test, cases)]),
            )
        ],
    )  # fmt: skip


def _row(name: str, model: Model, test: Data, cases: pl.DataFrame) -> list[str | float | int | None]:
    shares = (accuracy(model.module, test), share(cases), distortion(cases), distortion(cases, failed=True))
    return [name, *hundred(*shares)]
