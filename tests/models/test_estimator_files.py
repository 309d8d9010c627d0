"""Estimators from files: skops that was looked through, pickles on the user's word, and files that lie."""

import json
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from sapper.data.loading import load_data
from sapper.errors import ModelError
from sapper.models.loading import load_model

TREE = DecisionTreeClassifier(max_depth=5, random_state=0)
KD_TREE = KNeighborsClassifier(3, algorithm="kd_tree")
PLAIN: dict[str, Any] = {
    "logistic": LogisticRegression(max_iter=300),
    "svm": make_pipeline(StandardScaler(), SVC()),
    "neighbours": KNeighborsClassifier(3),
    "tree": TREE,
    "forest": RandomForestClassifier(5, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=2, random_state=0),
    "histograms": HistGradientBoostingClassifier(max_iter=2, random_state=0),
    "bag": BaggingClassifier(TREE, 3, max_features=0.5, random_state=0),
    "wider": make_pipeline(PolynomialFeatures(interaction_only=True), TREE),
    "vote": VotingClassifier([("a", LogisticRegression(max_iter=300)), ("b", TREE)]),
    "network": make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=300, tol=1e-2, random_state=0)),
}


@cache
def fitted(name: str) -> Any:
    data = load_data("digits", split="train", limit=200)
    return {**PLAIN, "kd": KD_TREE}[name].fit(data.x.double().flatten(1).numpy(), data.y.numpy())


X = load_data("digits", limit=60).x


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.skops"
    skops.io.dump(fitted(name), path)
    return path


@pytest.mark.parametrize("name", PLAIN)
def test_what_scikit_learn_fits_needs_no_word_of_trust(name: str, tmp_path: Path) -> None:
    model = load_model(str(saved(name, tmp_path)))
    assert (model.name, model.classes) == (name, 10)
    predicted = fitted(name).predict(X.double().flatten(1).numpy())
    assert model.module(X).argmax(1).tolist() == predicted.tolist()


def test_by_what_is_in_it_not_by_its_name(tmp_path: Path) -> None:
    path = saved("tree", tmp_path)
    digest = load_model(str(path)).digest
    assert load_model(str(path.rename(tmp_path / "model"))).digest == digest
    assert load_model(str(saved("forest", tmp_path))).digest != digest


def test_other_types_want_a_word_which_the_error_tells(tmp_path: Path) -> None:
    path = saved("kd", tmp_path)
    with pytest.raises(ModelError, match=r"EuclideanDistance64, .*--trust-types") as caught:
        load_model(str(path))
    types = str(caught.value).partition("--trust-types ")[2].split()
    assert len(types) == 2
    with pytest.raises(ModelError, match="--trust-types"):
        load_model(str(path), trust_types=types[:1])
    model = load_model(str(path), trust_types=types)
    assert model.module(X).argmax(1).tolist() == fitted("kd").predict(X.double().flatten(1).numpy()).tolist()


class Payload:
    """Whoever unpickles it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["a.skops", "a.pkl", "a.pickle", "a.joblib", "a"])
@pytest.mark.parametrize("compress", [0, 3])
def test_a_pickle_is_refused_by_whatever_name(tmp_path: Path, name: str, compress: int) -> None:
    joblib.dump(Payload(tmp_path / "executed"), tmp_path / name, compress=compress)
    with pytest.raises(ModelError):
        load_model(str(tmp_path / name))
    assert not (tmp_path / "executed").exists()
    if not compress:
        with pytest.raises(ModelError, match=r"is a pickle.*skops.io.dump.*--trust-pickle"):
            load_model(str(tmp_path / name))


@pytest.mark.parametrize("compress", [0, 3])
def test_a_pickle_is_loaded_on_the_users_word(tmp_path: Path, compress: int) -> None:
    path = tmp_path / "forest.joblib"
    joblib.dump(fitted("forest"), path, compress=compress)
    model = load_model(str(path), trust_pickle=True)
    assert model.module(X).argmax(1).tolist() == fitted("forest").predict(X.double().flatten(1).numpy()).tolist()
    (tmp_path / "forest.pkl").write_bytes(pickle.dumps(fitted("tree")))
    assert load_model(str(tmp_path / "forest.pkl"), trust_pickle=True).digest != model.digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not load"),
        (b"\x80no pickle", "does not load"),
        (pickle.dumps([1, 2]), "expected an estimator with predict, got a pickled list"),
        (pickle.dumps(LogisticRegression()), "fit it first"),
    ],
)
def test_a_pickle_of_other_things_is_one_clear_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(str(tmp_path / "a.pkl"), trust_pickle=True)
    assert "\n" not in str(caught.value)


def changed(path: Path, change) -> Path:
    """The archive with its schema, or one of its arrays, put otherwise."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(content["schema.json"])
    change(schema, content)
    content["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_a_truncated_or_empty_file_is_one_clear_error(tmp_path: Path) -> None:
    path = saved("forest", tmp_path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"expected an estimator that skops.io.dump wrote") as caught:
            load_model(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", ["{}", "[]", "null", "garbage", '{"__class__": "system", "__module__": "os"}'])
def test_a_schema_of_something_else_is_one_clear_error(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "a.skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", schema)
    with pytest.raises(ModelError, match="skops"):
        load_model(str(path))


@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "joblib.load"])
def test_functions_are_never_let_in(tmp_path: Path, function: str) -> None:
    from sklearn.preprocessing import FunctionTransformer

    pipeline = make_pipeline(FunctionTransformer(np.abs), TREE)
    data = load_data("digits", split="train", limit=100)
    skops.io.dump(pipeline.fit(data.x.flatten(1).numpy(), data.y.numpy()), tmp_path / "a.skops")
    module, _, name = function.rpartition(".")
    text = ""

    def swap(schema: dict, content: dict) -> None:
        nonlocal text
        text = json.dumps(schema).replace('"absolute"', f'"{name}"').replace('"numpy"', f'"{module}"')
        schema.clear()
        schema.update(json.loads(text))

    path = changed(tmp_path / "a.skops", swap)
    assert name in text
    with pytest.raises(ModelError):
        load_model(str(path))


def nodes_of(estimator: Any) -> Any:
    """A tree within, whose nodes may be written to."""
    if hasattr(estimator, "_predictors"):
        return estimator._predictors[0][0].nodes
    if hasattr(estimator, "estimators_"):
        estimator = np.ravel(estimator.estimators_)[0]
    return estimator.tree_.__getstate__()["nodes"]


@pytest.mark.parametrize("name", ["tree", "forest", "boosting", "histograms"])
@pytest.mark.parametrize(
    ("old", "field", "value"),
    [("left_child", "left", 10**6), ("right_child", "right", 0), ("feature", "feature_idx", 64)],
)
def test_trees_that_lead_out_of_themselves_are_refused(
    tmp_path: Path, name: str, old: str, field: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = pickle.loads(pickle.dumps(fitted(name)))
    nodes = nodes_of(estimator)
    nodes[field if name == "histograms" else old][0] = value
    if name != "histograms":  # what a tree shows is a copy
        inner = estimator if name == "tree" else np.ravel(estimator.estimators_)[0]
        state = inner.tree_.__getstate__() | {"nodes": nodes}
        inner.tree_.__setstate__(state)
    skops.io.dump(estimator, tmp_path / "a.skops")
    with pytest.raises(ModelError, match=r"lead out of it.*--trust-types sklearn"):
        load_model(str(tmp_path / "a.skops"))


def test_a_tree_within_a_booster_may_not_claim_more_features_than_it_is_shown(tmp_path: Path) -> None:
    estimator = pickle.loads(pickle.dumps(fitted("boosting")))
    inner = estimator.estimators_[0, 0]
    inner.n_features_in_ = 10**6
    nodes = inner.tree_.__getstate__()["nodes"]
    nodes["feature"][0] = 10**5
    inner.tree_.__setstate__(inner.tree_.__getstate__() | {"nodes": nodes})
    skops.io.dump(estimator, tmp_path / "a.skops")
    with pytest.raises(ModelError, match="lead out of it"):
        load_model(str(tmp_path / "a.skops"))
