"""A few pixels, sought by differential evolution."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sapper
from sapper import catalogue
from sapper.attacks.pixel import Evolving, Pixel, _painted
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, linear, network, samples

COLOUR = torch.full((4, 3, 5, 6), 0.5)


def weak_spot(shape: tuple[int, ...], at: int, lead: float) -> torch.nn.Module:
    """A lead that one feature alone can undo, by rising above a half."""
    features = torch.Size(shape).numel()
    weight = torch.zeros(2, features)
    weight[1, at] = 1.0
    return linear(weight, torch.tensor([0.5 + lead, 0.0]))


def test_it_asks_for_scores_alone() -> None:
    assert catalogue.access(Pixel) == "scores"


def test_the_budget_counts_features_so_a_pixel_costs_its_channels() -> None:
    """torchattacks and ART count pixels."""
    model = linear(torch.zeros(2, 90), torch.tensor([1.0, 0.0]))
    for budget, pixels in ((3, 1), (5, 1), (6, 2)):
        result = sapper.craft(
            model, COLOUR, torch.zeros(4, dtype=torch.int64), attack="pixel:steps=5", threat=f"l0:{budget}"
        )
        changed = (result.x_adv != COLOUR).any(1).flatten(1).sum(1)
        assert (changed <= pixels).all()
        assert int(changed.max()) == pixels
    with pytest.raises(UsageError, match="3 channels"):
        sapper.craft(model, COLOUR, torch.zeros(4, dtype=torch.int64), attack="pixel", threat="l0:2")


@pytest.mark.parametrize("shape", [(7,), (1, 4, 6), (3, 3)])
def test_any_shape_will_do(shape: tuple[int, ...]) -> None:
    x, y = samples(network(shape), rows=8, shape=shape)
    result = sapper.craft(network(shape), x, y, attack="pixel:steps=60,population=10", threat="l0:2")
    assert ((result.x_adv != x).flatten(1).sum(1) <= 2).all()
    assert result.found.any()


def test_pixels_are_painted_where_and_as_the_child_says() -> None:
    case = case_of(COLOUR[:1], Threat.parse("l0:6"))
    # rows 0 and 0.99 (the last of 5), columns 0.5 (the fourth of 6) and 1.2, which comes back as 0.2 (the second);
    # then red, green and blue of both, beyond the box cut off
    child = torch.tensor([[0.0, 0.99, 0.5, 1.2, 0.1, 0.2, 0.3, 0.4, 2.0, -1.0]])
    painted = _painted(case, case.x, child)[0]
    torch.testing.assert_close(painted[:, 0, 3], torch.tensor([0.1, 0.3, 1.0]))
    torch.testing.assert_close(painted[:, 4, 1], torch.tensor([0.2, 0.4, 0.0]))
    assert int((painted != 0.5).any(0).sum()) == 2


def evolved(attack: Pixel, steps: int) -> list[Evolving]:
    x, _ = samples(network(), rows=10)
    case, oracle = case_of(x, Threat.parse("l0:1")), TorchOracle(network())
    states = [attack.start(case, oracle)]
    for age in range(steps):
        states.append(attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, states[-1]))
    return states


@pytest.mark.parametrize("around", ["best", "random"])
def test_a_seat_is_only_taken_by_who_does_better(around: str) -> None:
    states = evolved(catalogue.attack(f"pixel:population=5,around={around}"), 30)
    for age, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        assert (after.fitness <= before.fitness).all()
        others = torch.arange(5) != age % 5
        assert torch.equal(after.fitness[:, others], before.fitness[:, others])
        assert torch.equal(after.population[:, others], before.population[:, others])
    assert states[5].fitness.isfinite().all()
    assert (states[-1].fitness.amin(1) < states[5].fitness.amin(1)).any()


def test_a_child_is_a_member_and_half_the_difference_of_two_others() -> None:
    """Of three members 0, 1 and 10 with the first the best, it is 0 ± 4.5."""
    attack = Pixel(population=3)
    population = torch.tensor([[[0.0], [1.0], [10.0]]]).repeat(50, 1, 1)
    fitness = torch.tensor([[0.0, 1.0, 2.0]]).repeat(50, 1)
    case = case_of(torch.zeros(50, 4), Threat.parse("l0:1"))
    children = attack._bred(case, case.age, population, fitness)
    assert set(children.flatten().tolist()) == {-4.5, 4.5}
    anyone = Pixel(population=3, around="random")._bred(case, case.age, population, fitness)
    assert set(anyone.flatten().tolist()) == {-4.5, 4.5, 6.0, -4.0, 10.5, 9.5}


@pytest.mark.parametrize("around", ["best", "random"])
def test_the_one_pixel_that_counts_is_found(around: str) -> None:
    """No slope leads there: only a pixel at the spot changes the scores at all, and it must be bright."""
    model, x = weak_spot((1, 5, 5), at=13, lead=0.1), torch.full((10, 1, 5, 5), 0.3)
    result = sapper.craft(
        model, x, torch.zeros(10, dtype=torch.int64), attack=f"pixel:around={around}", threat="l0:1", queries=300
    )
    assert result.found.all()
    changed: Tensor = (result.x_adv != x).flatten(1)
    assert torch.equal(changed.nonzero()[:, 1], torch.full((10,), 13))


@pytest.mark.parametrize("options", ["steps=0", "population=2", "difference=0"])
def test_impossible_options_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        catalogue.attack(f"pixel:{options}")
