"""The learners of the transferability paper, as studies use them."""

from pathlib import Path

import numpy as np
import torch

from labs import lab, needs_mnist
from sapper.data.dataset import Data
from sapper.lab import answers
from sapper.learners import Linear, Neighbours, Tree, learner_of
from sapper.models import papernot
from sapper.scheduler import craft
from sapper.studies._learners_common import KINDS, learners, plurality, voted
from sapper.studies._teaching import Halved
from toys import drawn, random_linear

ATTACKS = (
    ("DNN", "fgsm", "linf:0.25"), ("LR", "fgsm", "linf:0.25"), ("SVM", "svm:step_to=paper", "l2:5"),
    ("DT", "decision_tree", "linf:0.25"), ("kNN", "nearest_neighbour", "linf:0.25"),
)  # fmt: skip


@needs_mnist
def test_the_five_learn_are_kept_and_can_be_attacked(tmp_path: Path) -> None:
    here = lab(tmp_path)
    models = learners(here, "train[:500]")
    data = here.samples("test", 200)
    accuracy = {kind: float((answers(model, data.x) == data.y).double().mean()) for kind, model in models.items()}
    assert tuple(accuracy) == KINDS
    assert min(accuracy.values()) > 0.4, accuracy
    for kind, made_of in (("LR", Linear), ("SVM", Linear), ("DT", Tree), ("kNN", Neighbours)):
        assert isinstance(learner_of(models[kind]), made_of)
    for kind, attack, threat in ATTACKS:
        made = craft(models[kind], data.x[:20], data.y[:20], attack=attack, threat=threat)
        assert int(made.found.sum()) > 5, kind
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()}
    again = learners(here, "train[:500]")
    for kind, model in models.items():
        assert answers(again[kind], data.x).equal(answers(model, data.x)), kind
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()}
    together = answers(plurality(models), data.x)
    votes = np.stack([answers(model, data.x).numpy() for model in models.values()])
    assert (together.numpy() == voted(votes)).all()


def test_of_equal_votes_the_lowest_class_wins() -> None:
    votes = np.array([[3, 9, 1], [5, 9, 2], [5, 2, 8], [3, 2, 8], [7, 0, 4]])
    assert voted(votes).tolist() == [3, 2, 8]
    assert voted(np.array([[6], [4], [9], [1], [8]])).tolist() == [1]


def test_the_network_has_the_papers_layers() -> None:
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 64
    dense = (4 * 4 * 64 + 1) * 100 + 101 * 100 + 101 * 10
    assert sum(p.numel() for p in papernot.build((1, 28, 28), 10).parameters()) == convolutions + dense


def test_rate_and_momentum_are_halved_once() -> None:
    x, model = drawn(6, 12), random_linear()
    lesson = Halved(Data("toy", x, torch.zeros(6, dtype=torch.int64), ("0", "1")), 4, rate=0.1, batch_size=2, after=3)
    optimiser = lesson.optimiser(model.parameters())
    met = []
    for step in range(12):
        lesson.pace(optimiser, step / 12)
        met.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"]))
    assert met == [(0.1, 0.9)] * 9 + [(0.05, 0.45)] * 3
