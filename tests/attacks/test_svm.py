"""The closed form for linear models, on those of scikit-learn and of torch."""

import math
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC
from torch import Tensor, nn

import sapper
from sapper.data.loading import load_data
from sapper.errors import UsageError
from sapper.models.estimators import from_estimator
from sapper.threat import Threat
from toys import WIDE, drawn, exact_of, linear, predict, random_linear

DIGITS = load_data("digits", split="train", limit=600)
X = load_data("digits", limit=80).x


def module_of(estimator: Any, classes: int = 10) -> nn.Module:
    rows = DIGITS.y < classes
    return from_estimator(
        estimator.fit(DIGITS.x[rows].flatten(1).double().numpy(), DIGITS.y[rows].numpy()), "svm"
    ).module


ESTIMATORS = {
    "svm": module_of(LinearSVC()),
    "two": module_of(SVC(kernel="linear"), 2),
    "logistic": module_of(LogisticRegression()),
}


def attacked(model: nn.Module, x: Tensor, threat: str, y: Tensor | None = None, step: str = "nearest", **options):
    y = predict(model, x) if y is None else y
    return sapper.craft(model, x, y, attack=f"svm:step_to={step}", threat=threat, **options)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_the_exact_distance(norm: str, classes: int) -> None:
    model = random_linear(classes=classes, seed=classes)
    x = drawn(30, 12)
    wide = {"bounds": (-40.0, 40.0)}
    result = attacked(model, x, f"{norm}:min", **wide)
    exact = exact_of(model).distance(x, predict(model, x), Threat.parse(f"{norm}:min"))
    assert result.found.all()
    torch.testing.assert_close(result.distance, 1.001 * exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_estimators_fall_within_the_box_and_to_nothing_nearer(name: str, norm: str) -> None:
    model, draws = ESTIMATORS[name], torch.Generator().manual_seed(0)
    result = attacked(model, X, f"{norm}:min")
    assert result.found.all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    threat = Threat.parse(f"{norm}:min")
    y, radius = predict(model, X), 0.995 * result.distance / 1.001
    for _ in range(20):  # as far the same way, the rest at random
        way = (result.x_adv - X) * (1 + 0.2 * torch.randn(X.shape, generator=draws))
        near = threat.within(X + 2 * way, X, radius)
        assert predict(model, near).equal(y)


def test_in_the_box_no_other_attack_is_nearer() -> None:
    model, x = random_linear(seed=2), drawn(40, 12)
    y = predict(model, x)
    bounds = {"bounds": (0.1, 0.9)}
    least = attacked(model, x, "l2:min", **bounds)
    others = [
        sapper.craft(model, x, y, attack=attack, threat="l2:min", **bounds) for attack in ("fab", "ddn", "deepfool")
    ]
    assert all(least.found[other.found].all() for other in others)
    for other in others:
        assert (least.distance[other.found] <= 1.005 * other.distance[other.found]).all()


def test_under_a_budget_it_finds_what_there_is() -> None:
    model, x = random_linear(classes=5, seed=1), drawn(60, 12)
    exact = exact_of(model).distance(x, predict(model, x), Threat.parse("l2:min"))
    eps = float(exact.median())
    result = attacked(model, x, f"l2:{eps}", bounds=WIDE)
    near = exact < eps / 1.002
    assert result.found[near].all()
    assert not result.found[exact > eps * 1.0001].any()


class TestThePapersStep:
    def test_it_is_the_budget_along_the_own_weights(self) -> None:
        weight = torch.tensor([[3.0, 4.0], [0.0, 0.1], [1.0, 0.0]])
        model, x = linear(weight, torch.tensor([9.0, 0.0, 0.0])), torch.tensor([[0.5, 0.5]])
        result = attacked(model, x, "l2:0.25", step="paper")
        torch.testing.assert_close(result.x_adv, x - 0.25 * weight[:1] / 5)

    def test_targets_draw_along_theirs(self) -> None:
        weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
        model, x = linear(weight, torch.tensor([9.0, 0.0, 0.0])), torch.tensor([[0.5, 0.5]])
        result = attacked(model, x, "l2:0.25", step="paper", targets=torch.tensor([2]))
        torch.testing.assert_close(result.x_adv, torch.tensor([[0.75, 0.5]]))

    @pytest.mark.parametrize("budget", [0.2, 0.6, 1.5])
    def test_with_two_classes_and_no_box_it_finds_what_the_nearest_finds(self, budget: float) -> None:
        x, wide = X, {"bounds": (-20.0, 20.0)}
        nearest, paper = (
            attacked(ESTIMATORS["two"], x, f"l2:{budget}", step=step, **wide).found for step in ("nearest", "paper")
        )
        assert int((nearest != paper).sum()) <= 1  # one may lie within the thousandth beyond the boundary
        assert (paper | ~nearest).all()

    def test_with_more_classes_the_nearest_finds_more(self) -> None:
        nearest, paper = (attacked(ESTIMATORS["svm"], X, "l2:0.5", step=step).found for step in ("nearest", "paper"))
        assert int(nearest.sum()) > 1.3 * int(paper.sum())

    def test_it_needs_a_budget(self) -> None:
        with pytest.raises(UsageError, match="as long as the budget"):
            attacked(ESTIMATORS["svm"], X, "l2:min", step="paper")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_on_a_grid_it_is_rounded_away_from_the_sample(bits: int, norm: str) -> None:
    threat = Threat.parse(f"{norm}:min", quantize=bits)
    x = threat.rounded(X)
    result = sapper.craft(ESTIMATORS["svm"], x, predict(ESTIMATORS["svm"], x), attack="svm", threat=threat)
    assert result.found.all()
    assert result.x_adv.equal(threat.rounded(result.x_adv))


def test_weights_of_zero_lead_nowhere() -> None:
    model = linear(torch.zeros(3, 4), torch.tensor([1.0, 0.0, 0.0]))
    for step in ("nearest", "paper"):
        result = attacked(model, drawn(5, 4), "l2:1", step=step)
        assert not result.found.any()
        assert result.x_adv.isfinite().all()
        assert math.isfinite(float(result.x_adv.sum()))
