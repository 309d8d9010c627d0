"""Estimates of gradients from questions on both sides of a point."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sapper import noise
from sapper.attack import Case
from sapper.finite_differences import Draw, Estimate, least_size, signs
from sapper.threat import Threat
from toys import case_of

X = torch.full((6, 2, 3), 0.5, dtype=torch.float64)
SLOPE = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.0, -4.0], dtype=torch.float64)


def loss(x: Tensor) -> Tensor:
    return x.flatten(1) @ SLOPE + 7


def asked(
    case: Case, point: Tensor, pairs: int, draw: Draw = signs, size: float = 0.01
) -> tuple[Estimate, list[Tensor]]:
    """All questions of one estimate."""
    estimate, x_adv, inputs = Estimate.at(point), point, []
    for turn in range(1 + 2 * pairs):
        inputs.append(x_adv)
        now = torch.full_like(case.age, turn)
        estimate = estimate.hearing(loss(x_adv), now)
        estimate, x_adv = estimate.asking(replace(case, age=now), now + 1, size, draw)
    return estimate, inputs


@pytest.mark.parametrize("draw", [signs, noise.normal])
def test_the_point_is_asked_about_then_both_sides_of_each_direction(draw: Draw) -> None:
    _, inputs = asked(case_of(X, Threat.parse("linf:0.3")), X, 3, draw)
    assert len(inputs) == 7
    assert torch.equal(inputs[0], X)
    for first, second in zip(inputs[1::2], inputs[2::2], strict=True):
        torch.testing.assert_close(first - X, X - second)
        assert len(first.flatten(1).unique(dim=0)) == 6  # each sample has directions of its own
    assert not torch.equal(inputs[1], inputs[3])


@pytest.mark.parametrize("draw", [signs, noise.normal])
def test_on_a_linear_loss_the_mean_is_the_gradient(draw: Draw) -> None:
    pairs = 600
    estimate, _ = asked(case_of(X, Threat.parse("linf:0.3")), X, pairs, draw)
    mean = estimate.slope.flatten(1) / (2 * 0.01 * pairs)
    torch.testing.assert_close(mean.mean(0), SLOPE, rtol=0, atol=0.5)
    torch.testing.assert_close(mean[0], SLOPE, rtol=0, atol=1.2)


def test_one_pair_gives_difference_times_direction() -> None:
    """By hand: a step along d and back changes the loss by 2·size·slope·d."""
    estimate, inputs = asked(case_of(X, Threat.parse("linf:0.3")), X, 1)
    direction = (inputs[1] - X).flatten(1) / 0.01
    expected = (2 * 0.01 * (direction @ SLOPE))[:, None] * direction
    torch.testing.assert_close(estimate.slope.flatten(1), expected)


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.2"])
def test_every_question_is_legal_also_at_the_ends_of_budget_and_box(threat: str) -> None:
    x = torch.tensor([0.0, 0.02, 0.5, 0.95, 1.0, 1.0], dtype=torch.float64).expand(6, 6)
    case = case_of(x, Threat.parse(threat))
    point = case.threat.project(x + 0.1, x)
    for x_adv in asked(case, point, 4)[1]:
        assert case.threat.legal(x_adv, x).all()


def test_rows_of_different_turns_do_not_mix() -> None:
    case = case_of(X, Threat.parse("linf:0.3"))
    turn = torch.tensor([0, 1, 2, 1, 2, 3])
    estimate = replace(Estimate.at(X), heard=loss(X) + 1, direction=torch.ones_like(X))
    after = estimate.hearing(loss(X), turn)
    assert torch.equal(after.slope.flatten(1).any(1), turn == 2)
    after, x_adv = after.asking(case, turn, 0.01, signs)
    assert torch.equal((x_adv != X).flatten(1).any(1), turn > 0)
    assert torch.equal(after.direction[turn == 2], torch.ones_like(X)[turn == 2])


def test_where_inputs_are_rounded_a_question_is_a_level_away_at_least() -> None:
    case = case_of(X * 255, Threat.parse("linf:30", upper=255.0, quantize=8))
    assert least_size(case, 0.1) == pytest.approx(25.5)
    assert least_size(case, 1e-4) == pytest.approx(1, rel=1e-4)


def test_signs_are_a_fair_coin() -> None:
    keys = noise.keys(0, torch.arange(400))
    draws = signs(keys, torch.zeros_like(keys), 100, torch.float32)
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(draws.mean())) < 0.02
