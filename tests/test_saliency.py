import itertools
import resource
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapper.saliency import saliency_pair, saliency_single
from toys import pairs

NUMBERS = {
    "random": lambda draws, n: torch.randn(n, generator=draws, dtype=torch.float64),
    "tied": lambda draws, n: torch.randint(-2, 3, (n,), generator=draws).double(),
    "negative": lambda draws, n: -torch.rand(n, generator=draws, dtype=torch.float64) - 0.1,
    "mostly negative": lambda draws, n: torch.randn(n, generator=draws, dtype=torch.float64) - 1.5,
    "zero": lambda draws, n: torch.zeros(n, dtype=torch.float64),
}


@st.composite
def maps(draw):
    """Three rows of derivatives and their domains."""
    n, seed = draw(st.integers(2, 40)), draw(st.integers(0, 10**6))
    draws = torch.Generator().manual_seed(seed)
    kinds = [draw(st.sampled_from(sorted(NUMBERS))) for _ in range(6)]
    a, b = (torch.stack([NUMBERS[kind](draws, n) for kind in part]) for part in (kinds[:3], kinds[3:]))
    domain = torch.rand(3, n, generator=draws) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.0, 1.0]))
    return a, b, domain


def best_by_brute_force(a: torch.Tensor, b: torch.Tensor, domain: torch.Tensor) -> float | None:
    """The largest score over all pairs of one row; None if no pair is admissible."""
    scores = [
        float((a[p] + a[q]) * (b[p] + b[q]))
        for p, q in pairs(len(a))
        if domain[p] and domain[q] and a[p] + a[q] > 0 and b[p] + b[q] > 0
    ]
    return max(scores, default=None)


def assert_best(a: torch.Tensor, b: torch.Tensor, domain: torch.Tensor) -> None:
    chosen, admissible = saliency_pair(a, b, domain)
    for row in range(len(a)):
        best = best_by_brute_force(a[row], b[row], domain[row])
        assert bool(admissible[row]) == (best is not None)
        if best is not None:
            p, q = chosen[row].tolist()
            assert p != q
            assert domain[row, p]
            assert domain[row, q]
            assert float((a[row, p] + a[row, q]) * (b[row, p] + b[row, q])) == pytest.approx(best, rel=1e-12)


@given(maps())
def test_the_pair_is_the_best_of_all_pairs(drawn) -> None:
    assert_best(*drawn)


def test_the_pair_is_the_best_for_every_small_map_of_small_integers() -> None:
    values = list(itertools.product((-1.0, 0.0, 2.0), repeat=3))
    rows = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64)
    assert_best(rows[:, 0], rows[:, 1], torch.ones(len(rows), 3, dtype=torch.bool))


@given(st.integers(2, 30), st.integers(0, 10**6))
def test_features_none_of_which_dominates_another_are_all_paired(n: int, seed: int) -> None:
    """Rising a with falling b: nothing can be left out before pairing."""
    draws = torch.Generator().manual_seed(seed)
    a = torch.rand(1, n, generator=draws, dtype=torch.float64).sort(1).values
    b = torch.rand(1, n, generator=draws, dtype=torch.float64).sort(1, descending=True).values
    order = torch.randperm(n, generator=draws)
    assert_best(a[:, order], b[:, order], torch.ones(1, n, dtype=torch.bool))


def test_blocks_do_not_change_the_result(monkeypatch) -> None:
    a = torch.arange(30.0, dtype=torch.float64)[None]
    b = (30 - a).sqrt()  # concave, so the best pair is in the middle
    domain = torch.ones(1, 30, dtype=torch.bool)
    whole = saliency_pair(a, b, domain)
    monkeypatch.setattr("sapper.saliency._PAIRS_AT_ONCE", 60)
    in_blocks = saliency_pair(a, b, domain)
    assert set(whole[0][0].tolist()) == set(in_blocks[0][0].tolist())
    assert_best(a, b, domain)


def test_the_papers_pair_qualifies_though_neither_feature_does_alone() -> None:
    """p1 (target 5, others +0.1) and p2 (target -0.5, others -6): together 4.5 and -5.9."""
    a, b = torch.tensor([[5.0, -0.5]]), -torch.tensor([[0.1, -6.0]])
    domain = torch.ones(1, 2, dtype=torch.bool)
    assert not saliency_single(a, b, domain)[1].any()
    chosen, admissible = saliency_pair(a, b, domain)
    assert admissible.all()
    assert sorted(chosen[0].tolist()) == [0, 1]


@given(maps())
def test_the_single_feature_is_the_best_of_all(drawn) -> None:
    a, b, domain = drawn
    chosen, admissible = saliency_single(a, b, domain)
    for row in range(len(a)):
        fits = domain[row] & (a[row] > 0) & (b[row] > 0)
        assert bool(admissible[row]) == bool(fits.any())
        if fits.any():
            feature = int(chosen[row, 0])
            assert fits[feature]
            best = float((a[row] * b[row])[fits].max())
            assert float(a[row, feature] * b[row, feature]) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("search", [saliency_pair, saliency_single])
@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e30])
def test_the_choice_survives_gradients_whose_products_leave_the_floats(search, scale: float) -> None:
    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 15, generator=draws), torch.randn(20, 15, generator=draws)
    domain = torch.ones(20, 15, dtype=torch.bool)
    chosen, admissible = search(a, b, domain)
    tiny_chosen, tiny_admissible = search(a * scale, b * scale, domain)
    assert torch.equal(admissible, tiny_admissible)
    assert admissible.any()
    assert torch.equal(chosen[admissible], tiny_chosen[admissible])


@pytest.mark.parametrize("search", [saliency_pair, saliency_single])
def test_no_admissible_choice_is_said_and_not_feature_0(search) -> None:
    a, b = torch.tensor([[-1.0, -2.0, -3.0]]), torch.ones(1, 3)
    assert search(a, b, torch.ones(1, 3, dtype=torch.bool))[1].tolist() == [False]
    assert search(-a, b, torch.zeros(1, 3, dtype=torch.bool))[1].tolist() == [False]


def test_one_feature_alone_in_the_domain_is_no_pair() -> None:
    domain = torch.tensor([[False, True, False]])
    assert saliency_pair(torch.ones(1, 3), torch.ones(1, 3), domain)[1].tolist() == [False]
    assert saliency_pair(torch.ones(1, 1), torch.ones(1, 1), domain[:, 1:2])[1].tolist() == [False]


def test_derivatives_that_are_no_numbers_are_not_followed() -> None:
    a = torch.tensor([[float("nan"), 1.0, float("inf"), 2.0]])
    chosen, admissible = saliency_pair(a, torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool))
    assert admissible.all()
    assert sorted(chosen[0].tolist()) == [1, 3]


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 25, generator=draws), torch.randn(30, 25, generator=draws)
    a[3] *= 1e20
    domain = torch.rand(30, 25, generator=draws) < 0.5
    chosen, admissible = saliency_pair(a, b, domain)
    for row in range(30):
        alone = saliency_pair(a[row : row + 1], b[row : row + 1], domain[row : row + 1])
        assert alone[1][0] == admissible[row]
        assert not admissible[row] or sorted(alone[0][0].tolist()) == sorted(chosen[row].tolist())


def test_a_photograph_of_150528_features_fits_in_memory_and_a_second() -> None:
    """An n×n matrix would need 90 GB."""
    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(1, 150_528, generator=draws), torch.randn(1, 150_528, generator=draws)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    _, admissible = saliency_pair(a, b, torch.ones_like(a, dtype=torch.bool))
    assert admissible.all()
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB
