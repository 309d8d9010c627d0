import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapper.water_filling import rising, sinking


@st.composite
def tanks(draw, most_features: int = 20):
    """Features with a speed (or height) and what each can take, some of them nothing, and totals within reach and beyond."""
    n, seed = draw(st.integers(1, most_features)), draw(st.integers(0, 10**6))
    draws = torch.Generator().manual_seed(seed)

    def values() -> torch.Tensor:
        spread = draw(st.sampled_from([0.0, 1.0, 5.0]))
        drawn = torch.rand(4, n, generator=draws, dtype=torch.float64)
        drawn = drawn * 10 ** (spread * torch.randn(4, n, generator=draws, dtype=torch.float64))
        return drawn * (torch.rand(4, n, generator=draws) < draw(st.sampled_from([0.6, 1.0])))

    share = torch.tensor([0.0, 0.3, 0.999, 1.2], dtype=torch.float64)
    return values(), values(), share


@given(tanks())
def test_rising_fills_up_to_the_total_or_all_there_is(tank) -> None:
    speed, most, share = tank
    most = most * (speed > 0)
    total = share * most.sum(1)
    filled = torch.minimum(rising(speed, most, total)[:, None] * speed, most).sum(1)
    torch.testing.assert_close(filled, torch.minimum(total, most.sum(1)), rtol=1e-9, atol=1e-300)


@given(tanks())
def test_sinking_drains_down_to_the_total_and_no_further(tank) -> None:
    height, most, share = tank
    full = torch.minimum(height, most).sum(1)
    level = sinking(height, most, share * full)
    left = torch.minimum((height - level[:, None]).clamp_min(0), most).sum(1)
    torch.testing.assert_close(left, share.clamp_max(1) * full, rtol=1e-9, atol=1e-9 * float(height.max()))
    assert (level[share * full >= full] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_joint_a_feature_is_passed_one_by_one_and_ends(dtype: torch.dtype) -> None:
    """Rooms that double: a round each at worst."""
    most = (2.0 ** torch.arange(-30, 30)).to(dtype)[None]
    one = torch.ones_like(most)
    level = rising(one, most, most.sum(1) * 0.75)
    assert torch.minimum(level[:, None] * one, most).sum(1).item() == pytest.approx(float(most.sum()) * 0.75, rel=0.02)
    level = sinking(most, most / 2, most.sum(1) * 0.25)
    left = torch.minimum((most - level[:, None]).clamp_min(0), most / 2).sum(1)
    assert left.item() == pytest.approx(float(most.sum()) * 0.25, rel=0.02)


def test_a_row_with_nan_ends_too_and_spoils_no_other() -> None:
    values, most, total = torch.tensor([[1.0, torch.nan], [1.0, 2.0]]), torch.ones(2, 2), torch.tensor([0.5, 0.5])
    assert rising(values, most, total)[1] == pytest.approx(0.5 / 3)
    assert sinking(values, most, total)[1] == pytest.approx(1.5)


def test_without_bounds_on_what_a_feature_takes_the_total_is_met_all_the_same() -> None:
    speed, most = torch.tensor([[3.0, 4.0]]), torch.full((1, 2), torch.inf)
    assert rising(speed, most, torch.tensor([14.0])).tolist() == [2.0]
    assert sinking(speed, most, torch.tensor([3.0])).tolist() == [2.0]
