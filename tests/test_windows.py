import pytest
import torch

from sapper.windows import bump, features_of, image, inside, offsets, unit


@pytest.mark.parametrize("shape", [(3, 5, 4), (5, 4), (12,), (7,), (1,), (2, 2, 2, 2)])
def test_any_features_fold_into_an_image_and_back(shape: tuple[int, ...]) -> None:
    x = torch.rand(3, *shape)
    folded = image(x)
    assert folded.ndim == 4
    assert torch.equal(features_of(folded, x), x)
    assert abs(folded.shape[2] - folded.shape[3]) <= (1 if len(shape) in (1, 4) else 9)


def test_a_picture_is_not_folded() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert image(x) is x
    assert image(x[:, 0]).shape == (2, 1, 4, 5)


def test_windows_lie_within_the_image_and_are_as_large_as_they_should_be() -> None:
    draws = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    side = torch.randint(1, 5, (400,), generator=torch.Generator().manual_seed(1))
    flags = inside(*offsets(draws, side, (4, 6)), side, torch.float64)
    assert flags.shape == (400, 1, 4, 6)
    assert torch.equal(flags.sum((1, 2, 3)), (side**2).double())


def test_every_place_is_reached_and_the_last_row_and_column_are_drawn_too() -> None:
    draws = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    side = torch.full((2000,), 2)
    flags = inside(*offsets(draws, side, (4, 5)), side, torch.float64)
    places = flags.flatten(1).int().unique(dim=0)
    assert len(places) == 3 * 4
    assert flags[:, 0, -1, -1].any()
    count = flags.flatten(1).float().argmax(1).bincount().float()
    assert (count[count > 0] - 2000 / 12).abs().max() < 60


def test_the_extremes_of_the_draws_keep_to_the_image() -> None:
    tiny = torch.finfo(torch.float32).eps / 2
    draws = torch.tensor([[tiny, tiny], [1 - tiny, 1 - tiny]])
    side = torch.tensor([3, 3])
    flags = inside(*offsets(draws, side, (5, 5)), side, torch.float64)
    assert flags[0, 0, :3, :3].all()
    assert flags[1, 0, 2:, 2:].all()
    assert flags.sum((1, 2, 3)).tolist() == [9, 9]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("turned", [False, True])
def test_a_bump_is_one_pyramid_up_and_one_down_of_length_one(side: int, turned: bool) -> None:
    size, place = torch.tensor([side]), torch.tensor([[0.5, 0.5]])
    down, across = offsets(place, size, (9, 9))
    window = inside(down, across, size, torch.float32)
    field = bump(down, across, size, window, torch.tensor([turned])[:, None, None, None])[0, 0]
    torch.testing.assert_close(field.norm(), torch.tensor(1.0))
    assert not field[window[0, 0] == 0].any()
    field = field.T if turned else field
    halves = [field[row] for row in range(9) if field[row].any()]
    signs = [row[row != 0].sign() for row in halves]
    assert all((sign == sign[0]).all() for sign in signs)
    if side > 1:
        assert {float(sign[0]) for sign in signs} == {1.0, -1.0}


def test_the_bump_of_side_five_by_hand() -> None:
    """Σ 1/k² for k from d + 1 to 3: 49/36 in the middle, 13/36 around it, 4/36 beyond."""
    size = torch.tensor([5])
    down, across = offsets(torch.tensor([[0.5, 0.5]]), size, (5, 5))
    flags = inside(down, across, size, torch.float64)
    field = bump(down, across, size, flags, torch.zeros(1, 1, 1, 1, dtype=torch.bool))[0, 0]
    upper = torch.tensor([[4, 13, 13, 13, 4], [4, 13, 49, 13, 4]], dtype=torch.float64)
    torch.testing.assert_close(field[:2], upper / upper.norm() / 2**0.5)
    lower = torch.tensor([[4, 13, 13, 13, 4], [4, 13, 49, 13, 4], [4, 13, 13, 13, 4]], dtype=torch.float64)
    torch.testing.assert_close(field[2:], -lower / lower.norm() / 2**0.5)


def test_what_is_zero_stays_zero() -> None:
    assert not unit(torch.zeros(2, 3, 4, 4)).any()
    torch.testing.assert_close(unit(torch.ones(2, 3, 4, 4)).square().sum((2, 3)), torch.ones(2, 3))
