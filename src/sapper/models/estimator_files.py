"""Files with fitted estimators: skops, which builds nothing but types that are trusted, and pickles, on the user's word.

skops trusts scikit-learn's own estimators, but not the parts of them that are written in C and believe the indices that a
file gives them. Those of trees are trusted here once their indices have been looked at; others the user must name.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from sapper.errors import ModelError
from sapper.models.estimators import from_estimator, is_estimator
from sapper.models.model import Network
from sapper.models.programs import brief

TREES = ("sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")
TRUSTED = (
    *TREES,
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
)
"""Types that skops does not know: plain records, and trees, which are looked through."""
PICKLES = (".pkl", ".pickle", ".joblib")


def is_skops(names: Sequence[str]) -> bool:
    """Whether a zip file with these names is what skops writes."""
    return "schema.json" in names


def load_skops(path: Path, trust: Sequence[str] = ()) -> Network:
    """A fitted estimator that `skops.io.dump` wrote.

    Args:
        path: The file.
        trust: Types that the user trusts, beside those that are known to be harmless.

    Raises:
        ModelError: It is none, it is damaged, or it holds types that nobody has said to trust.
    """
    import skops.io  # with all of scikit-learn: not for models of other kinds

    content = path.read_bytes()
    try:
        held = skops.io.get_untrusted_types(data=content)
        strange = sorted(set(held) - {*TRUSTED, *trust})
        estimator = None if strange else skops.io.loads(content, trusted=sorted(held))
    except (Exception, SystemExit) as error:  # a damaged or hostile archive can fail anywhere
        raise ModelError(
            f"{path}: expected an estimator that skops.io.dump wrote, got one that does not load "
            f"({type(error).__name__}: {brief(error)})."
        ) from error
    if strange:
        raise ModelError(
            f"{path} holds types that could run code or read beyond their memory when a file lies: {', '.join(strange)}. If "
            f"you know who made it, add --trust-types {' '.join(strange)}"
        )
    if not {*TREES} & {*trust}:
        _look_through(estimator, path)
    return from_estimator(estimator, str(path), content)


def load_pickle(path: Path) -> Network:
    """A pickled estimator, by joblib too. Runs whatever code is in the file: only where the user has said so.

    Raises:
        ModelError: It does not load, or is no estimator.
    """
    try:
        estimator = joblib.load(path)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{path}: expected a pickled estimator, got a file that does not load ({type(error).__name__}: {brief(error)})."
        ) from error
    if not is_estimator(estimator):
        raise ModelError(f"{path}: expected an estimator with predict, got a pickled {type(estimator).__name__}.")
    return from_estimator(estimator, str(path), path.read_bytes())


def _look_through(estimator: Any, path: Path) -> None:
    """Refuses trees whose nodes lead anywhere but further down, or look at features that there are not."""
    for part, features in _parts(estimator, 0, math.inf, set()):
        name = _name(part)
        if (name == TREES[0] and not _is_sound(part, features)) or (
            name == TREES[1] and not _is_sound_predictor(part, features)
        ):
            raise ModelError(
                f"{path}: expected trees as scikit-learn grows them from numbers, got a {type(part).__name__} with nodes "
                f"that may lead out of it. If you know who made the file, add --trust-types {name}"
            )


def _is_sound(tree: Any, features: int) -> bool:
    if not 0 < tree.node_count <= tree.capacity:  # its arrays would show what lies behind them
        return False
    return _leads_down(tree.children_left, tree.children_right, tree.feature, tree.children_left == -1, features)


def _is_sound_predictor(predictor: Any, features: int) -> bool:
    nodes = predictor.nodes
    if not len(nodes) or nodes["is_categorical"].any():  # categories are looked up in further arrays
        return False
    return _leads_down(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] != 0, features)


def _leads_down(left: np.ndarray, right: np.ndarray, feature: np.ndarray, leaf: np.ndarray, features: int) -> bool:
    """Whether every node's children come after it, as they were grown, and it looks at a feature that there is."""
    place = np.arange(len(leaf))[~leaf]
    below = [side[~leaf].astype(np.int64) for side in (left, right)]
    inside = all(((child > place) & (child < len(leaf))).all() for child in below)
    return inside and bool(((feature[~leaf] >= 0) & (feature[~leaf] < features)).all())


def _parts(part: Any, features: int, most: float, seen: set[int]) -> Iterator[tuple[Any, int]]:
    """All that an estimator is made of, each with the number of features that its inputs have there."""
    if id(part) in seen or isinstance(part, str | bytes | type):
        return
    seen.add(id(part))
    own: dict[str, Any] = getattr(part, "__dict__", {})
    features = int(min(own.get("n_features_in_", features), most))
    yield part, features
    inner: Any = own.values()
    if isinstance(part, dict):
        inner = part.values()
    elif isinstance(part, list | tuple | set) or (isinstance(part, np.ndarray) and part.dtype == object):
        inner = part.flat if isinstance(part, np.ndarray) else part
    else:  # gradient boosting shows its inputs to the trees within without a further check
        most = features if _name(part).startswith("sklearn.ensemble._gb.") else math.inf
    for one in inner:
        yield from _parts(one, features, most, seen)


def _name(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
