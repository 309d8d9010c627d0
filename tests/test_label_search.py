import pytest
import torch

from sapper.goal import Untargeted
from sapper.label_search import Bracket, begun, by_phase, draw_on, drawn, halve_on
from sapper.threat import Threat
from toys import case_of

X = 0.2 + 0.6 * torch.rand(6, 2, 8, 9, generator=torch.Generator().manual_seed(0))


def at(number: int) -> torch.Tensor:
    return torch.full((6,), number)


def test_a_draw_is_made_of_blocks_that_double_up_to_the_whole_image() -> None:
    case = case_of(X, Threat.parse("l2:min"))
    for number in range(10):
        draw, side = drawn(case, at(number)), 2 ** (number % 5)
        assert ((draw == 0) | (draw == 1)).all()
        blocks = draw[:, :, ::side, ::side]
        grown = blocks.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :8, :9]
        assert torch.equal(draw, grown)
    assert not torch.equal(drawn(case, at(0)), drawn(case, at(5)))
    assert len(drawn(case, at(0)).flatten(1).unique(dim=0)) == 6  # each row has its own


def test_draws_are_bright_dark_and_between() -> None:
    case = case_of(X[:1].repeat(200, 1, 1, 1), Threat.parse("l2:min"))
    bright = drawn(case, torch.zeros(200, dtype=torch.int64)).mean((1, 2, 3))
    assert float(bright.min()) < 0.1
    assert float(bright.max()) > 0.9


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (1, 1, 1), (3, 2, 2)])
def test_any_shape_and_a_box_without_ends(shape: tuple[int, ...]) -> None:
    x = torch.rand(6, *shape)
    for bounds in ((0.0, 1.0), (-torch.inf, torch.inf), (0.0, torch.inf)):
        case = case_of(x, Threat.parse("l2:min", lower=bounds[0], upper=bounds[1]))
        reach = [(drawn(case, at(number)) - x).abs().amax() for number in (0, 30, 3000)]
        assert all(far.isfinite() for far in reach)
        assert bounds[1] == 1 or reach[0] < reach[1] < reach[2]


@pytest.mark.parametrize("threat", ["l2:min", "linf:min"])
def test_halving_finds_the_boundary_on_the_way(threat: str) -> None:
    """A plane, x_1 = 0.5, at the samples' own distance in linf, and on the straight way in l2."""
    x = torch.tensor([[0.1, 0.3], [0.2, 0.7]])
    far = torch.tensor([[0.9, 0.4], [0.8, 0.3]])
    case = case_of(x, Threat.parse(threat))
    bracket = Bracket.around(case, far)
    for _ in range(20):
        bracket = bracket.halved(bracket.middle(case)[:, 0] > 0.5)
    assert bracket.is_narrow(1e-4).all()
    torch.testing.assert_close(bracket.boundary(case)[:, 0], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-5)
    across = torch.tensor([0.35, 0.5]) if threat[:2] == "l2" else torch.tensor([0.4, 0.4])
    torch.testing.assert_close(bracket.boundary(case)[:, 1], across, rtol=0, atol=1e-5)


def test_a_bracket_is_as_narrow_as_its_type_can_tell() -> None:
    x = torch.zeros(1, 3, dtype=torch.bfloat16)
    case = case_of(x, Threat.parse("l2:min"))
    bracket = Bracket.around(case, torch.ones_like(x))
    for _ in range(12):
        bracket = bracket.halved(bracket.middle(case)[:, 0] > 0.4)
    assert bracket.is_narrow(1e-6).all()


def test_each_row_is_answered_in_its_own_phase_and_stays_in_its_place() -> None:
    case = case_of(X, Threat.parse("l2:min"), Untargeted(torch.zeros(6, dtype=torch.int64)))
    state = begun(case)
    reached = torch.tensor([True, False, True, False, False, True])
    state = by_phase((draw_on, halve_on), case, state, reached)
    assert state.phase.tolist() == [1, 0, 1, 0, 0, 1]
    low, high = state.bracket.low.clone(), state.bracket.high.clone()
    state = by_phase((draw_on, halve_on), case, state, torch.tensor([True, False, False, False, True, True]))
    assert state.phase.tolist() == [1, 0, 1, 0, 1, 1]
    halved = (low + high) / 2
    assert torch.equal(state.bracket.high[[0, 5]], halved[[0, 5]])
    assert torch.equal(state.bracket.low[2], halved[2])
