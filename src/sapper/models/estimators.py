"""Classifiers of scikit-learn, and whatever has `predict` and `classes_` like them: XGBoost, LightGBM, the user's own.

Their scores are `predict_proba`, or `decision_function` where there is none; without either they give labels only. What
counts as the answer is always `predict`: probabilities that are fitted apart from it (an SVC's), votes and moved thresholds
may put another class first, and are corrected where they do.
"""

import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import joblib
import numpy as np

from sapper.errors import ModelError
from sapper.foreign import Foreign
from sapper.models.estimator_learners import deciding, made_of
from sapper.models.model import Network
from sapper.models.numbering import numbers_of, spread

_BY_SCORES = (
    "sklearn.discriminant_analysis", "sklearn.ensemble", "sklearn.linear_model", "sklearn.naive_bayes", "sklearn.neighbors",
    "sklearn.neural_network", "sklearn.tree", "lightgbm", "xgboost",
)  # fmt: skip
"""Packages in which `predict` is the class of the greatest score, so that it need not be asked as well."""
_NOT_THESE = ("SGDClassifier", "StackingClassifier")
"""The first clips its probabilities, the second predicts as its last estimator does."""


def is_estimator(thing: object) -> bool:
    """Whether it is an object (no class) that predicts."""
    return callable(getattr(thing, "predict", None)) and not isinstance(thing, type)


def from_estimator(estimator: Any, source: str, content: bytes | None = None) -> Network:
    """The network for a fitted classifier.

    Args:
        estimator: Of scikit-learn or like those.
        source: How the user named it.
        content: The file it was in; without one its own state tells it from others.

    Raises:
        ModelError: It is no fitted classifier, or its classes cannot be numbered.
    """
    name = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if not is_estimator(estimator) or classes is None:
        raise ModelError(
            f"{source}: expected a fitted classifier with predict and classes_, got {name}: fit it first; regressors, "
            "clusterings and outlier detectors have no classes to attack."
        )
    if (len(classes) and np.ndim(classes[0])) or getattr(estimator, "multilabel_", False):
        raise ModelError(f"{source}: expected one class a sample, {name} predicts several outputs at once.")
    try:
        numbers = numbers_of(classes)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    scores = next((one for one in ("predict_proba", "decision_function") if hasattr(estimator, one)), None)
    module = Foreign(
        _Asked(estimator, np.asarray(classes), numbers, scores, scores is not None and not _by_scores(estimator)),
        "scores" if scores else "labels",
        int(numbers.max()) + 1,
        probabilities=scores == "predict_proba",
        learner=made_of(estimator, numbers),
    )
    return Network(module, _description(estimator), None, module.classes, program=content or _state(estimator, source))


@dataclass(frozen=True)
class _Asked:
    """The estimator as a function from inputs to scores or labels."""

    estimator: Any
    classes: np.ndarray
    numbers: np.ndarray
    """The data's class for each of `classes`."""
    scores: str | None
    """The method that gives them."""
    corrected: bool
    """Whether `predict` is asked beside the scores."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        rows = self._rows(x.astype(np.float64, copy=False))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")  # images have none
            places = self._places(rows) if self.scores is None or self.corrected else None
            if self.scores is None:
                return self.numbers[places]
            scores = np.asarray(getattr(self.estimator, self.scores)(rows), np.float64)
        if scores.ndim == 1:  # of two classes, how much the second is ahead
            scores = np.stack([-scores / 2, scores / 2], 1)
        if scores.shape != (len(rows), len(self.classes)):
            raise ModelError(
                f"expected {self.scores} to give ({len(rows)}, {len(self.classes)}) scores, a column a class, got "
                f"{scores.shape}: an SVC needs decision_function_shape='ovr'."
            )
        scores = scores if places is None else _led_by(scores, places)
        return spread(scores, self.numbers, 0.0 if self.scores == "predict_proba" else scores.min(1, keepdims=True) - 1)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """Flat, where the estimator was fitted on so many features."""
        wanted, got = getattr(self.estimator, "n_features_in_", None), int(np.prod(x.shape[1:]))
        if not isinstance(wanted, int | np.integer):
            return x
        if wanted != got:
            raise ModelError(
                f"expected inputs of {wanted} features, as the {type(self.estimator).__name__} was fitted on, got {got} "
                f"(shape {x.shape[1:]}): give data of its kind, or --resize HEIGHT WIDTH."
            )
        return x.reshape(len(x), got)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Where the predicted classes stand in `classes`."""
        predicted = np.asarray(self.estimator.predict(rows))
        if predicted.shape == (len(rows), 1):
            predicted = predicted[:, 0]
        if predicted.shape != (len(rows),):
            raise ModelError(f"expected predict to give one class a row, ({len(rows)},), got shape {predicted.shape}.")
        same = predicted[:, None] == self.classes[None]
        if not same.any(1).all():
            other = predicted[~same.any(1)][0]
            raise ModelError(f"expected predict to answer with one of classes_, got {other}, which is none of them.")
        return same.argmax(1)


def _led_by(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The scores with the predicted class ahead by as little as there is, where another was."""
    apart = (scores.argmax(1) != places).nonzero()[0]
    scores[apart, places[apart]] = np.nextafter(scores[apart].max(1), np.inf)
    return scores


def _by_scores(estimator: Any) -> bool:
    """Whether the class of the greatest score is what `predict` says."""
    kind = type(deciding(estimator)[-1])
    inside = any(kind.__module__ == one or kind.__module__.startswith(f"{one}.") for one in _BY_SCORES)
    return inside and kind.__name__ not in _NOT_THESE


def _description(estimator: Any) -> str:
    package = type(estimator).__module__.partition(".")[0].replace("sklearn", "scikit-learn")
    try:
        return f"{type(estimator).__name__} of {package} {version(package)}"
    except PackageNotFoundError:
        return f"{type(estimator).__name__} of {package}"


def _state(estimator: Any, source: str) -> bytes:
    """What tells a fitted estimator from others: its state, or only the user's name for it where that cannot be written."""
    try:
        return str(joblib.hash(estimator)).encode()
    except Exception:  # whatever its parts raise when they are written
        return source.encode()
