"""What scikit-learn's estimators are made of: the weights of linear models, the nodes of a tree, the points of neighbours.

Told by the names of their classes, so that scikit-learn is not imported for estimators of other libraries.
"""

from typing import Any

import numpy as np
import torch

from sapper.learners import KnownLearner, Linear, Neighbours, Tree

_TREES = ("sklearn.tree.DecisionTreeClassifier", "sklearn.tree.ExtraTreeClassifier")
_NEIGHBOURS = ("sklearn.neighbors.KNeighborsClassifier",)
_LINEAR = ("sklearn.linear_model", "sklearn.svm.LinearSVC", "sklearn.discriminant_analysis.LinearDiscriminantAnalysis")
_LINEAR_IF_TWO = ("sklearn.svm.SVC", "sklearn.svm.NuSVC")
"""With more than two classes, each pair of classes has weights of its own, and votes."""


def made_of(estimator: Any, numbers: np.ndarray) -> KnownLearner | None:
    """The parts of a fitted estimator, or of the last step of a pipeline whose other steps leave the samples as they are.

    Args:
        estimator: Fitted, of any library.
        numbers: The data's class for each of its own.

    Returns:
        None where it is of a kind that no attack asks for.
    """
    *before, last = deciding(estimator)
    if any(step not in ("passthrough", None) for step in before):
        return None
    package, _, rest = type(last).__module__.partition(".")
    name = f"{package}.{rest.partition('.')[0]}.{type(last).__name__}"
    if name in _TREES:
        return _tree(last, numbers)
    if name in _NEIGHBOURS and last.effective_metric_ == "euclidean" and isinstance(last._fit_X, np.ndarray):
        return Neighbours(torch.from_numpy(last._fit_X), torch.from_numpy(numbers[last._y]))
    is_linear = name in _LINEAR or name.rpartition(".")[0] in _LINEAR
    is_one_of_two = name in _LINEAR_IF_TWO and last.kernel == "linear" and len(numbers) == 2
    return _linear(last, numbers) if is_linear or is_one_of_two else None


def deciding(estimator: Any) -> list[Any]:
    """The steps of a pipeline, of a search's best one too, the one that predicts last; or the estimator alone."""
    if hasattr(estimator, "best_estimator_"):
        return deciding(estimator.best_estimator_)
    if type(estimator).__module__ == "sklearn.pipeline" and hasattr(estimator, "steps"):
        *before, last = (step for _, step in estimator.steps)
        return [*before, *deciding(last)]
    return [estimator]


def _tree(estimator: Any, numbers: np.ndarray) -> Tree:
    nodes = estimator.tree_
    parts = (
        nodes.feature.astype(np.int64),
        nodes.threshold.astype(np.float64),
        nodes.children_left.astype(np.int64),
        nodes.children_right.astype(np.int64),
        numbers[nodes.value[:, 0].argmax(1)],
    )
    return Tree(*map(torch.from_numpy, parts))


def _linear(estimator: Any, numbers: np.ndarray) -> Linear | None:
    """None where some of the data's classes have no weights."""
    coef = estimator.coef_
    coef = np.atleast_2d(np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef, np.float64))
    bias = np.broadcast_to(np.asarray(estimator.intercept_, np.float64), len(coef))
    if len(coef) == 1:  # how much the second class is ahead
        coef, bias = np.concatenate([-coef / 2, coef / 2]), np.concatenate([-bias / 2, bias / 2])
    if len(coef) != len(numbers) or int(numbers.max()) + 1 != len(numbers):
        return None
    order = numbers.argsort()
    return Linear(torch.from_numpy(coef[order]), torch.from_numpy(bias[order]))
