"""The learners of "Transferability in Machine Learning" (Papernot, McDaniel and Goodfellow 2016), trained as the paper says.

A deep network, softmax regression, a linear support vector machine, a decision tree and the nearest neighbour, each as a
module for attacks and thefts, and their ensemble by the plurality of votes. Trained ones are kept in the study's folder.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import skops.io
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from sapper.data.dataset import Data
from sapper.disk import write_bytes
from sapper.foreign import Foreign
from sapper.lab import Lab, answers
from sapper.models import papernot, softmax
from sapper.models.estimator_files import load_skops
from sapper.models.estimators import from_estimator
from sapper.studies._teaching import Halved, Lesson, samples, taught

KINDS = ("DNN", "LR", "SVM", "DT", "kNN")
ENSEMBLE = "Ens."
_FILE_NAME = str.maketrans({"[": "-", ":": "to", "]": None})
_NETWORKS = {"DNN": (papernot.build, 10, 5), "LR": (softmax.build, 15, 10)}
"""Epochs, and after how many of them the rate and the momentum are halved."""
BATCH = 100
"""Samples; the paper does not say how many."""


def learner(lab: Lab, kind: str, split: str, batch_size: int = BATCH) -> nn.Module:
    """One learner.

    Args:
        lab: Keeps what is trained.
        kind: Of `KINDS`.
        split: What it learns, such as "train[:50000]".
        batch_size: Of the networks; not looked at at the smoke scale.
    """
    data, name = samples(lab, split), f"{kind}-{split.translate(_FILE_NAME)}"
    if kind in _NETWORKS:
        build, epochs, after = _NETWORKS[kind]
        lesson = Halved(data, epochs, rate=1e-2, batch_size=batch_size, after=after)
        if lab.scale == "smoke":  # too few steps for the paper's
            lesson = Lesson(data, 3, rate=2e-3, batch_size=10)
        elif batch_size != BATCH:
            name = f"{name}-by{batch_size}"
        return taught(lab, name, lambda: build(data.shape, len(data.classes)), lesson)
    if kind == "SVM":
        return fitted(lab, name, LinearSVC(random_state=lab.seed), data)
    if kind == "DT":
        return fitted(lab, name, DecisionTreeClassifier(random_state=lab.seed), data)
    assert kind == "kNN", kind
    nearest = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(*_arrays(data))
    return from_estimator(nearest, name, name.encode()).module  # the samples are all it is made of: nothing to keep


def learners(lab: Lab, split: str) -> dict[str, nn.Module]:
    """All five, of the same samples."""
    return {kind: learner(lab, kind, split) for kind in KINDS}


def plurality(models: Mapping[str, nn.Module], classes: int = 10) -> nn.Module:
    """The class that most of the models give, the lowest of those with as many votes."""

    def ask(x: np.ndarray) -> np.ndarray:
        given = [answers(model, torch.from_numpy(x)).numpy() for model in models.values()]
        return voted(np.stack(given), classes)

    return Foreign(ask, "labels", classes)


def voted(labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """The plurality of (voters, rows), of equals the lowest."""
    return (labels[:, :, None] == np.arange(classes)).sum(0).argmax(1)


def fitted(lab: Lab, name: str, estimator: Any, data: Data) -> nn.Module:
    """As it comes from the study's folder, fitted first if need be."""
    path = lab.out / "models" / f"{name}.skops"
    if not path.exists():
        lab.console.print(f"   training {name}", style="dim", highlight=False)
        write_bytes(path, skops.io.dumps(estimator.fit(*_arrays(data))))
    return load_skops(path).module


def _arrays(data: Data) -> tuple[np.ndarray, np.ndarray]:
    return data.x.flatten(1).double().numpy(), data.y.numpy()
