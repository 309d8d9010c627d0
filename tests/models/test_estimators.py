"""Classifiers of scikit-learn, trained here on its digits: the answer is what they predict."""

import pickle
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from sapper.data.loading import load_data
from sapper.errors import ModelError
from sapper.models.estimators import from_estimator
from sapper.models.loading import load_model

TREE = DecisionTreeClassifier(max_depth=6, random_state=0)
LOGISTIC = LogisticRegression(max_iter=300)
SCORES: dict[str, Any] = {
    "logistic": LOGISTIC,
    "svm": SVC(),
    "linear svm": LinearSVC(),
    "tree": TREE,
    "neighbours": KNeighborsClassifier(4),
    "nearest": KNeighborsClassifier(1, weights="distance"),
    "forest": RandomForestClassifier(10, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=3, random_state=0),
    "histograms": HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "ada": AdaBoostClassifier(n_estimators=10, random_state=0),
    "bag": BaggingClassifier(TREE, 3, max_features=0.5, random_state=0),
    "pipeline": make_pipeline(StandardScaler(), LOGISTIC),
    "network": make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=300, tol=1e-2, random_state=0)),
    "bayes": GaussianNB(var_smoothing=1e-2),
    "discriminant": LinearDiscriminantAnalysis(),
    "ridge": RidgeClassifier(),
    "hinge": SGDClassifier(random_state=0),
    "clipped": SGDClassifier(loss="modified_huber", random_state=0),
    "soft vote": VotingClassifier([("a", LOGISTIC), ("b", TREE)], voting="soft"),
    "stack": StackingClassifier([("a", LOGISTIC), ("b", TREE)], LinearSVC(), cv=2),
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "search": GridSearchCV(TREE, {"max_depth": [3, 5]}, cv=2),
}


@cache
def digits(classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    data = load_data("digits", split="train", limit=400)
    keep = (data.y < classes).numpy()
    return data.x.double().flatten(1).numpy()[keep], data.y.numpy()[keep]


@cache
def images() -> Tensor:
    """Digits that the estimators have not seen, and some that are noisy, about whose class they are in doubt."""
    x = load_data("digits", limit=120).x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([x, (x + 0.5 * noise).clamp(0, 1)])


def fitted(estimator: Any, classes: int = 10, names: Callable[[np.ndarray], np.ndarray] = lambda y: y) -> Any:
    x, y = digits(classes)
    return pickle.loads(pickle.dumps(estimator)).fit(x, names(y))


def flat() -> np.ndarray:
    return images().double().flatten(1).numpy()


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("classes", [2, 10])
def test_what_counts_is_what_it_predicts(name: str, classes: int) -> None:
    estimator = fitted(SCORES[name], classes)
    network = from_estimator(estimator, name)
    with torch.no_grad():
        logits = network.module(images())
    assert (logits.shape[1], network.classes) == (classes, classes)
    assert logits.isfinite().all()
    assert logits.dtype == torch.float32
    assert logits.argmax(1).tolist() == estimator.predict(flat()).tolist()
    if hasattr(estimator, "predict_proba"):
        expected = torch.from_numpy(estimator.predict_proba(flat()))
        torch.testing.assert_close(logits.softmax(1).double(), expected, rtol=0, atol=1e-6)
        assert network.module.access == "scores"
    elif classes == 10:
        expected = torch.from_numpy(estimator.decision_function(flat()))
        same = expected.argmax(1) == logits.argmax(1)  # an SVC predicts by votes
        assert same.double().mean() > 0.98
        torch.testing.assert_close(logits[same].double(), expected[same])


def test_probabilities_fitted_apart_are_corrected_where_they_put_another_class_first() -> None:
    with pytest.warns(FutureWarning, match="probability"):
        estimator = fitted(SVC(probability=True, random_state=0, C=0.05))
    expected, predicted = estimator.predict_proba(flat()), estimator.predict(flat())
    assert 0 < (expected.argmax(1) != predicted).mean() < 0.9
    logits = from_estimator(estimator, "svm").module(images())
    assert logits.argmax(1).tolist() == predicted.tolist()
    first = logits.amax(1).exp()
    torch.testing.assert_close(first.double(), torch.from_numpy(expected.max(1)), rtol=0, atol=1e-6)


def test_a_moved_threshold_is_followed() -> None:
    estimator = fitted(FixedThresholdClassifier(LOGISTIC, threshold=0.99), 2)
    predicted = from_estimator(estimator, "moved").module(images()).argmax(1).tolist()
    assert predicted == estimator.predict(flat()).tolist()
    assert predicted != estimator.predict_proba(flat()).argmax(1).tolist()


@pytest.mark.parametrize("estimator", [VotingClassifier([("a", LOGISTIC), ("b", TREE)])])
def test_without_scores_there_are_labels(estimator: Any) -> None:
    estimator = fitted(estimator)
    network = from_estimator(estimator, "vote")
    assert (network.module.access, network.classes) == ("labels", 10)
    assert network.module(images()).argmax(1).tolist() == estimator.predict(flat()).tolist()


@pytest.mark.parametrize("estimator", [TREE, VotingClassifier([("a", LOGISTIC), ("b", TREE)]), SVC()])
@pytest.mark.parametrize(
    ("names", "back"),
    [
        (lambda y: y.astype(str), lambda named: named.astype(int)),
        (lambda y: y + 1, lambda named: named),
        (lambda y: np.array([*"abcdefghij"])[y], lambda named: np.searchsorted([*"abcdefghij"], named)),
        (lambda y: 2 * y, lambda named: named),
        (lambda y: y.astype(float), lambda named: named.astype(int)),
    ],
)
def test_classes_by_other_names_stand_for_those_of_the_data(estimator: Any, names, back) -> None:
    named = fitted(estimator, names=names)
    logits = from_estimator(named, "named").module(images())
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == back(named.predict(flat())).tolist()


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (RandomForestRegressor(3), "fitted classifier.*got RandomForestRegressor.*regressors"),
        (KMeans(3, n_init=1), "got KMeans"),
    ],
)
def test_what_has_no_classes_is_refused(estimator: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        from_estimator(fitted(estimator), "other")


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), make_pipeline(LogisticRegression()), LogisticRegression, 3]
)
def test_what_is_not_fitted_or_no_estimator_is_refused(estimator: Any) -> None:
    with pytest.raises(ModelError, match="fit it first"):
        from_estimator(estimator, "unfitted")


def test_several_outputs_are_refused() -> None:
    x, y = digits()
    several = DecisionTreeClassifier().fit(x, np.stack([y, y], 1))
    with pytest.raises(ModelError, match="several outputs"):
        from_estimator(several, "several")


def test_another_number_of_features_is_told() -> None:
    module = from_estimator(fitted(TREE), "tree").module
    assert module(images()[:, 0]).shape == module(images().flatten(1)).shape == (240, 10)
    with pytest.raises(
        ModelError, match=r"64 features, as the DecisionTreeClassifier .*got 784 \(shape \(1, 28, 28\)\)"
    ):
        module(torch.rand(2, 1, 28, 28))


def test_a_score_for_each_pair_of_classes_is_refused() -> None:
    with pytest.raises(ModelError, match="decision_function_shape='ovr'"):
        from_estimator(fitted(SVC(decision_function_shape="ovo")), "svm").module(images())


class Odd:
    """The user's own: it predicts on images as they are."""

    def __init__(self, answer: Callable[[np.ndarray], Any], classes: Any = (0, 1, 2)) -> None:
        self.answer, self.classes_, self.seen = answer, np.array(classes), ()

    def predict(self, x: np.ndarray) -> Any:
        self.seen = x.shape
        return self.answer(x)


def bright(x: np.ndarray) -> np.ndarray:
    return (3 * x.reshape(len(x), -1).mean(1)).astype(int)


def test_an_estimator_of_the_users_own_gets_the_images_as_they_are() -> None:
    odd = Odd(bright)
    logits = from_estimator(odd, "odd").module(images())
    assert logits.argmax(1).tolist() == bright(flat()).tolist()
    assert odd.seen == (240, 1, 8, 8)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(lambda x: np.full(len(x), 7), "classes_, got 7"), (lambda x: np.zeros((len(x), 2)), "one class a row")],
)
def test_answers_that_are_none_of_its_classes_are_refused(answer, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        from_estimator(Odd(answer), "odd").module(images())


def test_a_column_of_predictions_will_do() -> None:
    assert from_estimator(Odd(lambda x: bright(x)[:, None]), "odd").module(images()).shape == (240, 3)


class TestByCode:
    @pytest.fixture
    def here(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """A module of the user's."""
        import sys

        module = SimpleNamespace(TREE=fitted(TREE), make=lambda: fitted(TREE), other=lambda: fitted(LOGISTIC))
        monkeypatch.setitem(sys.modules, "estimators_here", module)
        return module

    def test_a_factory_may_return_one(self, here: SimpleNamespace) -> None:
        models = [load_model(f"estimators_here:{name}") for name in ("TREE", "make", "other")]
        assert models[0].digest == models[1].digest != models[2].digest
        assert models[0].description.startswith("DecisionTreeClassifier of scikit-learn 1.")
        assert models[0].classes == 10

    def test_a_network_that_predicts_stays_a_network(self, here: SimpleNamespace) -> None:
        class Predicts(torch.nn.Linear):
            def predict(self, x: Tensor) -> Tensor:
                return self(x).argmax(1)

        here.make = lambda: Predicts(4, 2)
        assert isinstance(load_model("estimators_here:make").module, Predicts)

    def test_weights_are_not_for_estimators(self, here: SimpleNamespace, tmp_path) -> None:
        with pytest.raises(ModelError, match=r"to fill with --weights, got DecisionTreeClassifier"):
            load_model("estimators_here:make", weights=tmp_path / "w.safetensors")

    def test_one_that_cannot_be_written_goes_by_its_name(self, here: SimpleNamespace) -> None:
        here.make = lambda: Odd(lambda x: x)
        model = load_model("estimators_here:make")
        assert model.module.access == "labels"
        assert len(model.digest) == 64
