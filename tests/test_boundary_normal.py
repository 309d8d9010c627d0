import math

import pytest
import torch

import sapper
from sapper.boundary_normal import Probes, Rounds, directions
from sapper.errors import UsageError
from sapper.threat import Threat
from toys import case_of, network, predict, samples

METHODS = pytest.mark.parametrize("method", ["geoda", "hop_skip_jump"])
"""That go by the normal."""


def test_the_normal_of_a_plane_is_found() -> None:
    """Of a plane through the points, with labels alone; the cosine expected of n answers in d dimensions is √(n/(n+πd/2))."""
    normal = torch.nn.functional.normalize(torch.randn(20, generator=torch.Generator().manual_seed(1)), dim=0)
    here = torch.full((8, 20), 0.5)
    case = case_of(here - 0.2 * normal, Threat.parse("l2:min"))
    probes = Probes.around(here, torch.full((8,), 300))
    for age in range(300):
        case = case_of(case.x, case.threat, seed=age)
        question = probes.question(case, 0.01, 1.0)
        torch.testing.assert_close((question - here).norm(dim=1), torch.full((8,), 0.002), rtol=1e-3, atol=0)
        probes = probes.told(case, question, (question - here) @ normal > 0, 0.01)
    cosine = torch.nn.functional.normalize(probes.normal()) @ normal
    assert float(cosine.mean()) == pytest.approx(math.sqrt(300 / (300 + math.pi / 2 * 20)), abs=0.03)


def test_the_mean_of_the_answers_is_taken_away_unless_all_are_alike() -> None:
    """Three probes by hand: directions e1, e2 and -e1, answers +, +, -: the mean is 1/3."""
    here, x = torch.zeros(1, 2), torch.full((1, 2), 100.0)
    case = case_of(x, Threat.parse("l2:min", lower=-200.0, upper=200.0))
    reach = 0.01 * float((here - x).norm())
    probes = Probes.around(here, torch.tensor([3]))
    for way, reached in (([1.0, 0.0], True), ([0.0, 1.0], True), ([-1.0, 0.0], False)):
        probes = probes.told(case, reach * torch.tensor([way]), torch.tensor([reached]), 0.01)
    torch.testing.assert_close(probes.normal(), torch.tensor([[2.0, 1 - 1 / 3]]))
    alike = Probes.around(here, torch.tensor([1])).told(
        case, reach * torch.tensor([[1.0, 0.0]]), torch.tensor([True]), 0.01
    )
    torch.testing.assert_close(alike.normal(), torch.tensor([[1.0, 0.0]]))


def test_directions_in_an_image_have_its_lower_frequencies_only() -> None:
    case = case_of(torch.rand(5, 3, 16, 20), Threat.parse("l2:min"))
    way = directions(case, 0.25).double()
    torch.testing.assert_close(way.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)
    for dim, side in ((2, 16), (3, 20)):
        place, wave = torch.arange(side, dtype=torch.float64), torch.arange(side, dtype=torch.float64)[:, None]
        cosines = (math.pi / side * (place + 0.5) * wave).cos()
        spectrum = (way.movedim(dim, -1) @ cosines.T).abs().amax((0, 1, 2))
        assert float(spectrum[side // 4 :].max()) < 1e-5
        assert float(spectrum[: side // 4].min()) > 1e-3


@pytest.mark.parametrize("shape", [(30,), (3, 8, 8)])
def test_other_features_have_white_noise(shape: tuple[int, ...]) -> None:
    case = case_of(torch.rand(4, *shape), Threat.parse("l2:min"))
    assert torch.equal(directions(case, 0.25), directions(case, 1.0))


def test_rounds_grow_with_their_square_root_and_the_last_gets_what_is_left() -> None:
    rounds = Rounds(1000, 50, 0.01, 0.5)
    case = case_of(torch.rand(1, 784), Threat.parse("l2:min"))
    asked, spare, planned = 20, 14, []
    while asked < 1000 - spare:
        case = case_of(case.x, case.threat)
        object.__setattr__(case, "age", torch.tensor([asked]))
        planned.append(int(rounds.planned(case, torch.tensor([len(planned)]))))
        asked += planned[-1] + spare
    assert planned[:4] == [50, 70, 86, 100]
    assert 985 <= asked <= 1000


def test_numbers_that_make_no_sense_are_refused() -> None:
    for wrong in (Rounds(0, 50, 0.01, 0.5), Rounds(9, 0, 0.01, 0.5), Rounds(9, 9, 0.0, 0.5), Rounds(9, 9, 0.01, 1.5)):
        with pytest.raises(UsageError):
            wrong.check()


@METHODS
def test_a_target_is_reached(method: str) -> None:
    model = network()
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    for threat in ("l2:min", "linf:min"):
        result = sapper.craft(model, x, y, attack=f"{method}:steps=150", threat=threat, targets=(y + 1) % 4)
        assert int(result.found.sum()) >= 15


@METHODS
def test_an_image_is_probed_smoothly(method: str) -> None:
    model, x = network((1, 16, 16)), samples(network((1, 16, 16)), rows=3, shape=(1, 16, 16))[0]
    result = sapper.craft(model, x, predict(model, x), attack=f"{method}:steps=150", threat="l2:min")
    assert result.found.all()
