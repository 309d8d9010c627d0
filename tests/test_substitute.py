"""The mathematics of substitute training against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from sapper.errors import UsageError
from sapper.questions import Schedule
from sapper.substitute import by_hyperplane, by_jacobian, reservoir
from toys import linear


def test_the_papers_arithmetic_of_questions() -> None:
    vanilla, economical = Schedule(), Schedule(sigma=3, kappa=400)
    assert vanilla.questions(100, 3) == 100 * 2**3 == 800
    assert vanilla.questions(100, 6) == 6_400
    assert vanilla.questions(100, 10) == 102_400
    assert economical.questions(100, 10) == 100 * 2**3 + 400 * (10 - 3) == 3_600
    assert economical.questions(100, 6) == 2_000  # the paper's figure for Amazon and Google
    assert economical.questions(100, 2) == 400


def test_a_budget_is_spent_to_the_last_question_and_never_beyond() -> None:
    schedule = Schedule(sigma=3, kappa=400)
    assert schedule.rounds(100, 800, None) == [100, 100, 200, 400]
    assert schedule.rounds(100, 799, None) == [100, 100, 200, 399]
    assert schedule.rounds(100, 1300, None) == [100, 100, 200, 400, 400, 100]
    assert schedule.rounds(100, 1300, 2) == [100, 100, 200]
    assert schedule.rounds(100, 100, None) == [100]
    assert Schedule(sigma=0, kappa=400).rounds(100, None, 2) == [100, 100, 200]  # a reservoir larger than what there is
    with pytest.raises(UsageError, match="neither"):
        schedule.rounds(100, None, None)


def test_the_direction_alternates_every_period() -> None:
    steps = [Schedule(step_size=0.1, period=3).step(number) for number in range(10)]
    assert steps == [0.1, 0.1, 0.1, -0.1, -0.1, -0.1, 0.1, 0.1, 0.1, -0.1]
    assert {Schedule(period=0).step(number) for number in range(10)} == {0.1}
    assert [Schedule(period=1).step(number) for number in range(3)] == [0.1, -0.1, 0.1]


def test_values_that_make_no_schedule_are_refused() -> None:
    with pytest.raises(UsageError, match="step_size"):
        Schedule(step_size=0.0)
    with pytest.raises(UsageError, match="period"):
        Schedule(period=-1)
    with pytest.raises(UsageError, match="kappa"):
        Schedule(kappa=0)
    with pytest.raises(UsageError, match="sigma"):
        Schedule(sigma=-1)


def test_the_reservoir_by_hand() -> None:
    draws = [0.9, 0.9, 0.7, 0.1, 0.45]
    # slots 0, 1; place 2 draws ⌊0.7·3⌋ = 2: none; 3 draws ⌊0.1·4⌋ = 0: takes slot 0; 4 draws ⌊0.45·5⌋ = 2: none
    assert reservoir(draws, 2) == [3, 1]
    assert reservoir(draws, 5) == reservoir(draws, 9) == [0, 1, 2, 3, 4]


def test_the_reservoir_takes_every_place_alike() -> None:
    draws = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = torch.tensor([reservoir(one, 3) for one in draws.tolist()])
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    counts = chosen.flatten().bincount(minlength=12) / 4000
    assert (counts - 3 / 12).abs().max() < 0.03  # four standard deviations


def test_an_augmentation_moves_along_the_sign_of_the_labels_derivative() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    module, x = linear(weight, torch.zeros(2)), torch.tensor([[0.2, 0.4, 0.6], [0.2, 0.4, 0.6]])
    moved = by_jacobian(module, x, torch.tensor([0, 1]), 0.1)
    torch.testing.assert_close(moved, x + torch.tensor([[0.1, -0.1, 0.0], [-0.1, 0.1, 0.0]]))
    torch.testing.assert_close(by_jacobian(module, x, torch.tensor([0, 1]), -0.1), 2 * x - moved)


def test_the_direction_is_that_of_the_probability_and_survives_where_that_underflows() -> None:
    draws = torch.Generator().manual_seed(1)
    weight, x = torch.randn(4, 6, generator=draws), torch.rand(8, 6, generator=draws)
    label = torch.arange(8) % 4
    leaf = x.double().requires_grad_()
    (leaf @ weight.double().T).softmax(1).gather(1, label[:, None]).sum().backward()
    assert leaf.grad is not None
    there = by_jacobian(linear(weight, torch.zeros(4)), x, label, 1.0) - x
    torch.testing.assert_close(there, leaf.grad.sign().float())
    sure = by_jacobian(linear(1e6 * weight, torch.zeros(4)), x, label, 1.0) - x  # probabilities of 0 and 1
    assert (sure != 0).all()


def test_a_support_vector_machine_is_left_along_its_labels_normal() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1e-30], [0.0, 0.0]])
    x = torch.full((3, 2), 0.5)
    moved = by_hyperplane(linear(weight, torch.zeros(3)), x, torch.tensor([0, 1, 2]), 0.5)
    torch.testing.assert_close(moved, torch.tensor([[0.2, 0.1], [0.5, 0.0], [0.5, 0.5]]))


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    by_jacobian(module, torch.rand(600, 3), torch.zeros(600, dtype=torch.int64), 0.1)
    assert module.training
    assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())
