import math

import pytest
import torch
from torch import Tensor

import sapper
from sapper.threat import Threat
from toys import linear, network, predict, samples

WEIGHT = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.5, -4.0]])
X = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.95, 0.5, 0.5, 0.02]])
FAR = (-50.0, 50.0)


def attacked(threat: str, x: Tensor = X, bounds: tuple[float, float] = FAR, bias: float = -60.0) -> Tensor:
    """Away from class 0, which always wins, so that the last candidate comes back: uphill along WEIGHT[1]."""
    model = linear(WEIGHT, torch.tensor([0.0, bias]))
    y = torch.zeros(len(x), dtype=torch.int64)
    return sapper.craft(model, x, y, attack="fgsm", threat=threat, bounds=bounds).x_adv


def test_linf_moves_every_feature_by_the_whole_budget_along_the_sign() -> None:
    torch.testing.assert_close(attacked("linf:0.25"), X + 0.25 * WEIGHT[1].sign())


def test_the_gain_on_a_linear_model_is_eps_times_the_dual_norm() -> None:
    for name, dual in {"linf": 1, "l2": 2, "l1": math.inf}.items():
        gain = (attacked(f"{name}:0.25") - X) @ WEIGHT[1]
        torch.testing.assert_close(gain, 0.25 * torch.linalg.vector_norm(WEIGHT[1], ord=dual).expand(2))


@pytest.mark.parametrize("bounds", [FAR, (0.0, 1.0)])
def test_in_linf_no_legal_input_is_worse(bounds: tuple[float, float]) -> None:
    """The exact worst case of a linear model, the box included."""
    eps = 0.25
    low, high = (X - eps).clamp_min(bounds[0]), (X + eps).clamp_max(bounds[1])
    worst = torch.where(WEIGHT[1] > 0, high, low) @ WEIGHT[1]
    torch.testing.assert_close(attacked(f"linf:{eps}", bounds=bounds) @ WEIGHT[1], worst)


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_in_linf_a_sample_falls_exactly_when_its_margin_is_below_eps_times_the_l1_norm(share: float) -> None:
    eps = 0.1
    model = linear(WEIGHT, torch.tensor([0.0, float(-(X[0] @ WEIGHT[1]) - share * eps * WEIGHT[1].abs().sum())]))
    result = sapper.craft(model, X[:1], torch.tensor([0]), attack="fgsm", threat=f"linf:{eps}", bounds=FAR)
    assert result.found.tolist() == [share < 1]


def test_l2_moves_along_the_gradient() -> None:
    torch.testing.assert_close(attacked("l2:0.25"), X + 0.25 * WEIGHT[1] / WEIGHT[1].norm())


def test_l1_moves_the_steepest_feature_and_goes_on_with_the_next_at_the_box() -> None:
    torch.testing.assert_close(attacked("l1:0.25") - X, torch.tensor([[0, 0, 0, -0.25]] * 2))
    moved = attacked("l1:0.5", bounds=(0.0, 1.0)) - X
    torch.testing.assert_close(moved, torch.tensor([[0.2, 0, 0, -0.3], [0.05, -0.43, 0, -0.02]]))


def test_l0_sets_the_features_that_gain_most_to_the_edge_of_the_box() -> None:
    moved = attacked("l0:2", bounds=(0.0, 1.0))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.9, 0.5, 0.0], [0.95, 0.0, 1.0, 0.02]]))


def test_a_zero_gradient_in_l1_or_l2_stops_nothing() -> None:
    """CleverHans asserts on it."""
    model = linear(torch.zeros(2, 4), torch.tensor([1.0, 0.0]))
    for name in ("l1", "l2", "linf"):
        result = sapper.craft(model, X, torch.tensor([0, 0]), attack="fgsm", threat=f"{name}:0.3")
        assert torch.equal(result.x_adv, X)


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_the_step_has_the_whole_length_whoever_else_is_in_the_batch(name: str) -> None:
    """A loss averaged over the batch, or a floor under the norm, would shorten it."""
    model = network((6,), dtype=torch.float64)
    model[3].weight.data *= 1e-9
    x, _ = samples(model, shape=(6,))
    y = predict(model, x)
    threat = Threat.parse(f"{name}:0.01", lower=-50, upper=50)
    result = sapper.craft(model, x, y, attack="fgsm", threat=threat)
    torch.testing.assert_close(
        threat.distance(result.x_adv, x)[~result.found], torch.full_like(x[:, 0], 0.01)[~result.found]
    )
    assert int((~result.found).sum()) > 3


def test_the_papers_unclipped_step_is_that_of_an_infinite_box() -> None:
    moved = attacked("linf:3", bounds=(-math.inf, math.inf))
    torch.testing.assert_close(moved, X + 3 * WEIGHT[1].sign())


def test_success_is_counted_right_even_when_all_fall() -> None:
    """ART logs 0 % where the truth is 100 %."""
    result = sapper.craft(linear(WEIGHT), X, predict(linear(WEIGHT), X), attack="fgsm", threat="linf:1")
    assert result.found.all()
