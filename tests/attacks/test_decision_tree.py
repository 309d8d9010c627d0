"""On trees of scikit-learn: the nearest leaf is the nearest by brute force, and the estimator itself agrees."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

import sapper
from sapper import tree_boxes
from sapper.data.loading import load_data
from sapper.foreign import Foreign
from sapper.learners import Tree
from sapper.models.estimators import from_estimator
from sapper.threat import NORMS, Threat
from sapper.tree_boxes import boxes

DIGITS = load_data("digits", split="train", limit=600)
X = load_data("digits", limit=60).x
FULL = DecisionTreeClassifier(random_state=0).fit(DIGITS.x.flatten(1).double().numpy(), DIGITS.y.numpy())
SMALL = DecisionTreeClassifier(max_depth=5, random_state=0).fit(DIGITS.x.flatten(1).double().numpy(), DIGITS.y.numpy())


def module(estimator: Any) -> Foreign:
    found = from_estimator(estimator, "tree").module
    assert isinstance(found, Foreign)
    return found


def predicted(estimator: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(estimator.predict(x.flatten(1).double().numpy()))


def nearest_by_force(estimator: Any, x: np.ndarray, label: int, norm: str, box: tuple[float, float]) -> float:
    """Every leaf of another class, its box written down on the way from the root."""
    nodes, best, one = estimator.tree_, math.inf, np.float32(1)
    todo = [(0, np.full(len(x), box[0], np.float32), np.full(len(x), box[1], np.float32))]
    while todo:
        node, low, high = todo.pop()
        if (low > high).any():
            continue
        if nodes.children_left[node] < 0:
            if nodes.value[node, 0].argmax() != label:
                away = np.abs(x - np.clip(x, low, high)).astype(np.float64)
                best = min(best, np.linalg.norm(away, NORMS[norm]))
            continue
        feature, threshold = nodes.feature[node], nodes.threshold[node]
        below = np.float32(threshold)
        below = below if below <= threshold else np.nextafter(below, -one)
        left, right = high.copy(), low.copy()
        left[feature] = min(left[feature], below)
        right[feature] = max(right[feature], np.nextafter(below, 2 * one))
        todo += [(nodes.children_left[node], low, left), (nodes.children_right[node], right, high)]
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("estimator", [SMALL, FULL], ids=["small", "full"])
def test_it_is_the_nearest_input_of_another_class(norm: str, estimator: Any) -> None:
    y = predicted(estimator, X)
    result = sapper.craft(module(estimator), X, y, attack="decision_tree", threat=f"{norm}:min")
    assert result.found.all()
    assert (predicted(estimator, result.x_adv) != y).all()
    rows = zip(X.flatten(1).numpy(), y.tolist(), strict=True)
    expected = torch.tensor([nearest_by_force(estimator, x, label, norm, (0, 1)) for x, label in rows])
    torch.testing.assert_close(result.distance, expected.float(), rtol=1e-6, atol=1e-6)
    assert (result.forwards == 2).all()


def test_no_random_input_is_nearer() -> None:
    y = predicted(SMALL, X)
    found = sapper.craft(module(SMALL), X, y, attack="decision_tree", threat="l2:min")
    draws = torch.Generator().manual_seed(0)
    for x, label, distance in zip(X, y, found.distance, strict=True):
        way = torch.randn(2000, *x.shape, generator=draws) * (torch.rand(2000, *x.shape, generator=draws) < 0.05)
        shorter = 0.999 * distance * torch.rand(2000, 1, 1, 1, generator=draws)
        near = (x + way / way.flatten(1).norm(dim=1).clamp_min(1e-6)[:, None, None, None] * shorter).clamp(0, 1)
        assert (predicted(SMALL, near) == label).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("search", ["minimal", "paper"])
def test_the_estimator_agrees_in_every_type(dtype: torch.dtype, search: str) -> None:
    x = X.to(dtype)
    y = predicted(FULL, x)
    result = sapper.craft(module(FULL), x, y, attack=f"decision_tree:search={search}", threat="l1:min")
    assert result.found.all()
    assert (predicted(FULL, result.x_adv) != y).all()


@pytest.mark.parametrize("search", ["minimal", "paper"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_on_a_grid_it_goes_to_leaves_that_the_grid_reaches(search: str, bits: int) -> None:
    threat = Threat.parse("l1:min", quantize=bits)
    x = threat.rounded(X)
    y = predicted(FULL, x)
    result = sapper.craft(module(FULL), x, y, attack=f"decision_tree:search={search}", threat=threat)
    assert result.found.all()
    assert (predicted(FULL, result.x_adv) != y).all()
    assert result.x_adv.equal(threat.rounded(result.x_adv))


@pytest.mark.parametrize("search", ["minimal", "paper"])
def test_targets(search: str) -> None:
    y = predicted(FULL, X)
    targets = (y + 3) % 10
    attack = f"decision_tree:search={search}"
    result = sapper.craft(module(FULL), X, y, attack=attack, threat="l2:min", targets=targets)
    assert result.found.all()
    assert predicted(FULL, result.x_adv).equal(targets)


def test_the_papers_search_changes_more() -> None:
    y = predicted(FULL, X)
    paper, least = (
        sapper.craft(module(FULL), X, y, attack=f"decision_tree:search={search}", threat="l1:min").distance
        for search in ("paper", "minimal")
    )
    assert (least <= paper).all()
    assert float(paper.mean()) > 3 * float(least.mean())


#       0: x0 <= .5
#     1: x1 <= .5        2: x1 <= .25
#   3: A      4: A      5: x0 <= .75       6: C
#                     7: A      8: B
BY_HAND = Tree(
    feature=torch.tensor([0, 1, 1, -2, -2, 0, -2, -2, -2]),
    threshold=torch.tensor([0.5, 0.5, 0.25, -2, -2, 0.75, -2, -2, -2], dtype=torch.float64),
    left=torch.tensor([1, 3, 5, -1, -1, 7, -1, -1, -1]),
    right=torch.tensor([2, 4, 6, -1, -1, 8, -1, -1, -1]),
    label=torch.tensor([0, 0, 2, 0, 0, 1, 2, 0, 1]),
)
JUST_ABOVE = {value: float(torch.nextafter(torch.tensor(value), torch.tensor(1.0))) for value in (0.25, 0.5, 0.75)}


def by_hand(x: list[float], wanted: list[bool], search: str, norm: float = 2) -> list[float]:
    sample = torch.tensor([x])
    where = boxes(BY_HAND, Threat.parse("l2:min"), sample)
    flags = torch.tensor([wanted])
    climbing = search == "paper"
    leaf = where.neighbouring(BY_HAND.leaves(sample), flags) if climbing else where.nearest(sample, flags, norm)
    return where.into(sample, leaf)[0].tolist()


class TestByHand:
    def test_the_paper_climbs_past_subtrees_without_another_class_and_takes_the_fewest_nodes_down(self) -> None:
        """From leaf 3 past leaf 4, which is of the same class, to the root; of leaves 6 and 8 on its other side, 6."""
        assert by_hand([0.25, 0.125], [False, True, True], "paper") == [JUST_ABOVE[0.5], JUST_ABOVE[0.25]]

    def test_the_same_feature_twice_on_the_way_down_comes_out_right(self) -> None:
        """To leaf 8 the first feature goes over .5 and over .75."""
        assert by_hand([0.25, 0.125], [False, True, False], "paper") == [JUST_ABOVE[0.75], 0.125]

    def test_a_leaf_beside_is_taken_before_those_beyond(self) -> None:
        assert by_hand([0.875, 0.125], [True, False, True], "paper") == [0.75, 0.125]

    def test_the_nearest_leaf_depends_on_the_norm(self) -> None:
        sample, wanted = [0.25, 0.0], [False, True, True]
        assert by_hand(sample, wanted, "minimal", 0) == [JUST_ABOVE[0.75], 0.0]
        assert by_hand(sample, wanted, "minimal", 1) == [JUST_ABOVE[0.75], 0.0]
        assert by_hand(sample, wanted, "minimal", math.inf) == [JUST_ABOVE[0.5], JUST_ABOVE[0.25]]

    @pytest.mark.parametrize("search", ["minimal", "paper"])
    def test_where_there_is_no_such_leaf_nothing_moves(self, search: str) -> None:
        assert by_hand([0.25, 0.125], [False] * 3, search) == [0.25, 0.125]

    def test_leaves_outside_the_box_are_not_reached(self) -> None:
        sample = torch.tensor([[0.25, 0.125]])
        where = boxes(BY_HAND, Threat.parse("l2:min", upper=0.5), sample)
        assert where.reachable.tolist() == [True, True, False, True, False, False, False, False, False]
        assert where.nearest(sample, torch.tensor([[False, True, True]]), 2).tolist() == [-1]


def test_large_trees_take_no_more_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    y = predicted(FULL, X)
    whole = sapper.craft(module(FULL), X, y, attack="decision_tree", threat="l2:min")
    monkeypatch.setattr(tree_boxes, "_ELEMENTS", 1)  # a row at a time
    parts = sapper.craft(module(FULL), X, y, attack="decision_tree", threat="l2:min")
    assert parts.x_adv.equal(whole.x_adv)


def test_a_tree_of_one_leaf_has_no_other() -> None:
    alone = DecisionTreeClassifier(max_depth=1, min_samples_leaf=300).fit(np.zeros((4, 64)), [0, 0, 1, 0])
    result = sapper.craft(module(alone), X, torch.zeros(60, dtype=torch.int64), attack="decision_tree", threat="l2:1")
    assert not result.found.any()
