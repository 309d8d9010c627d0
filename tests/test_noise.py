import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapper import noise

ROWS = torch.arange(50)
AGE = torch.zeros_like(ROWS)
MANY = torch.arange(400)


def draws(function, dtype=torch.float32, *, key=None, age=0, stream=0, count=50):
    key = noise.keys(0, MANY) if key is None else key
    return function(key, torch.full_like(key, age), count, dtype, stream=stream)


def farthest_from_uniform(values: torch.Tensor) -> float:
    """Kolmogorov and Smirnov's statistic times √n; above 1.95 in one of a thousand true samples."""
    ordered = values.flatten().double().sort().values
    n = len(ordered)
    expected = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return float((ordered - expected).abs().max() + 0.5 / n) * math.sqrt(n)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_mix_is_the_finaliser_of_splitmix64(words: list[int]) -> None:
    def reference(word: int) -> int:
        word &= 2**64 - 1
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return word ^ (word >> 31)

    mixed = noise.mix(torch.tensor(words, dtype=torch.int64))
    assert [word & (2**64 - 1) for word in mixed.tolist()] == [reference(word) for word in words]


@pytest.mark.parametrize("function", [noise.uniform, noise.normal])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_sample_draws_does_not_depend_on_its_batch(function, dtype) -> None:
    key, rows = noise.keys(3, ROWS), torch.tensor([7, 49, 0])
    together = function(key, AGE, 9, dtype)
    assert together.dtype == dtype
    assert torch.equal(function(key[rows], AGE[rows], 9, dtype), together[rows])
    assert torch.equal(function(key[7:8], AGE[7:8], 9, dtype), together[7:8])


def test_fewer_uniform_numbers_are_the_first_of_more() -> None:
    assert torch.equal(draws(noise.uniform, count=5), draws(noise.uniform, count=50)[:, :5])


def test_no_global_state_is_read_or_written() -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), draws(noise.normal)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draws(noise.normal), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform_in_the_open_interval(dtype) -> None:
    values = draws(noise.uniform, dtype)
    assert values.min() > 0
    assert values.max() < 1
    assert farthest_from_uniform(values) < 1.95
    assert farthest_from_uniform(values[:, 0]) < 1.95  # across samples
    assert farthest_from_uniform(values[0].repeat(1)) < 1.95  # across features


def test_the_largest_and_smallest_word_still_give_numbers_inside_the_interval(monkeypatch) -> None:
    for word in (0, -1):
        monkeypatch.setattr(noise, "mix", lambda words, word=word: torch.full_like(words, word))
        for dtype in (torch.float32, torch.float64):
            value = float(draws(noise.uniform, dtype, count=1)[0, 0])
            assert 0 < value < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype) -> None:
    values = draws(noise.normal, dtype, count=51)
    assert values.isfinite().all()
    assert farthest_from_uniform(0.5 * (1 + torch.erf(values / math.sqrt(2)))) < 1.95
    assert farthest_from_uniform(0.5 * (1 + torch.erf(values[:, 0] / math.sqrt(2)))) < 1.95


def test_ages_streams_samples_features_and_seeds_draw_without_correlation() -> None:
    base = draws(noise.uniform)
    others = {
        "age": draws(noise.uniform, age=1),
        "stream": draws(noise.uniform, stream=1),
        "sample": draws(noise.uniform, key=noise.keys(0, MANY + 400)),
        "neighbour": base.roll(1, 0),
        "feature": base.roll(1, 1),
        "seed": draws(noise.uniform, key=noise.keys(1, MANY)),
        "restart": draws(noise.uniform, key=noise.mix(noise.keys(0, MANY) + 1)),
    }
    for name, other in others.items():
        correlation = torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(base.numel()), name


def test_an_age_is_not_a_stream() -> None:
    assert not torch.equal(draws(noise.uniform, age=1), draws(noise.uniform, stream=1))


def test_keys_differ_between_samples_and_seeds() -> None:
    keys = torch.cat([noise.keys(seed, torch.arange(1000)) for seed in range(20)])
    assert len(keys.unique()) == 20_000
