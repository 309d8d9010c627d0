import math

import pytest
import torch

from sapper.constant_search import ConstantSearch, length
from sapper.tensors import join

ROW = torch.zeros(1, 3, dtype=torch.float64)


def search_with(critical: list[float], attempts: int, first: float = 1.0) -> list[list[float]]:
    """The constants that rows try which succeed from a critical one on; attempts of one step."""
    bound = torch.tensor(critical, dtype=torch.float64)
    search = ConstantSearch.begun(first, torch.zeros(len(critical), 3, dtype=torch.float64))
    tried = []
    for _ in range(attempts):
        tried.append(search.constant)
        search, over = search.after(bound, search.constant >= bound, 1, abort_early=False)
        assert over.all()
    return torch.stack(tried, 1).tolist()


def test_each_row_searches_for_itself():
    assert search_with([30.0, 0.05, 1e9, 1.0], 5) == [
        [1, 10, 100, 55, 32.5],  # tenfold until it succeeds, then the middle
        [1, 0.1, 0.01, pytest.approx(0.055), pytest.approx(0.0325)],  # it goes down as well as up
        [1, 10, 100, 1000, 10000],
        [1, pytest.approx(0.1), pytest.approx(0.55), pytest.approx(0.775), pytest.approx(0.8875)],
    ]


def test_it_closes_in_on_the_critical_constant_from_both_sides():
    (tried,) = search_with([37.0], 30)
    assert tried[-1] == pytest.approx(37.0, rel=1e-6)
    assert any(c < 37 for c in tried[3:])
    assert any(c > 37 for c in tried[3:])  # a success is followed by smaller constants, a failure by larger


def test_an_attempt_lasts_its_steps_and_one_success_in_them_is_enough():
    search = ConstantSearch.begun(1.0, ROW)
    for reached in (False, True, False):
        assert search.constant.item() == 1.0
        search, over = search.after(torch.ones(1).double(), torch.tensor([reached]), 4, abort_early=False)
        assert not over.any()
    search, over = search.after(torch.ones(1).double(), torch.tensor([False]), 4, abort_early=False)
    assert over.all()
    assert search.upper.item() == 1.0
    assert search.constant.item() == pytest.approx(0.1)
    assert not search.succeeded.any()  # of the next attempt nothing is known
    assert search.attempts.item() == 1


def test_an_attempt_that_brings_nothing_is_aborted_and_one_that_does_is_not():
    search = ConstantSearch.begun(1.0, torch.zeros(2, 3))
    for step in range(1000):
        objective = torch.tensor([5.0, 5.0 * 0.9**step])
        search, over = search.after(objective, torch.tensor([False, False]), 1000, abort_early=True)
        if over.any():
            break
    assert over.tolist() == [True, False]
    assert step < 250
    assert search.since.tolist() == [0, step + 1]


def test_rows_of_other_ages_do_not_disturb_each_other():
    """A fresh row beside an old one: the same constants and the same ends as alone."""
    old = ConstantSearch.begun(1.0, ROW)
    for _ in range(3):
        old, _ = old.after(torch.ones(1).double(), torch.tensor([False]), 4, abort_early=False)
    both = join(old, ConstantSearch.begun(1.0, ROW))
    ends = []
    for _ in range(4):
        both, over = both.after(torch.ones(2).double(), torch.tensor([False, False]), 4, abort_early=False)
        ends.append(over.tolist())
    assert ends == [[True, False], [False, False], [False, False], [False, True]]


def test_the_unit_is_that_of_the_first_gradient_that_is_there():
    search = ConstantSearch.begun(2.0, ROW)
    assert search.weigh(torch.ones(1).double()).item() == 0  # nothing is known yet
    search = search.seeing(torch.zeros(1, 3).double(), p=2)
    assert search.weigh(torch.ones(1).double()).item() == 0
    search = search.seeing(torch.tensor([[3.0, 0.0, 4.0]]).double(), p=2)
    assert search.weigh(torch.ones(1).double()).item() == pytest.approx(2 / 5)
    later = search.seeing(torch.full((1, 3), 1e6).double(), p=2)
    assert torch.equal(later.slope, search.slope)


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1.0, 1e30])
def test_lengths_neither_underflow_nor_overflow(scale):
    gradient = torch.tensor([[3.0, 4.0]]) * scale
    assert length(gradient, 2).item() == pytest.approx(5 * scale, rel=1e-3)
    assert length(gradient, 1).item() == pytest.approx(7 * scale, rel=1e-3)
    assert length(gradient, math.inf).item() == pytest.approx(4 * scale, rel=1e-3)
