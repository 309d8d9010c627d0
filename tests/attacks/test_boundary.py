import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attacks.boundary import WALKING, Boundary
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

WEIGHT = torch.zeros(2, 30)
WEIGHT[1] = torch.randn(30, generator=torch.Generator().manual_seed(0)).abs()
PLANE = linear(WEIGHT, torch.tensor([0.0, -0.7 * float(WEIGHT.sum())]))
X = torch.full((5, 30), 0.5)


def walk(attack: Boundary, steps: int, model=PLANE, x=X):
    goal = Untargeted(torch.zeros(len(x), dtype=torch.int64))
    case, oracle = case_of(x, Threat.parse("l2:min", lower=-10, upper=10), goal), TorchOracle(model)
    state = attack.start(case, oracle)
    for age in range(steps):
        yield state
        state = attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, state)


def test_it_asks_for_labels_alone() -> None:
    assert catalogue.access(Boundary) == "labels"


def test_every_point_of_the_walk_reaches_the_goal_and_is_no_farther_than_the_last() -> None:
    distance = torch.full((5,), torch.inf)
    for state in walk(Boundary(), 300):
        walking = state.phase == WALKING
        assert (predict(PLANE, state.here)[walking] == 1).all()
        now = (state.here - X).norm(dim=1).where(walking, torch.inf)
        assert (now <= distance).all()
        distance = now
    assert walking.all()


def test_a_proposal_is_nearer_by_half_the_square_of_the_step() -> None:
    for state in walk(Boundary(), 60):
        if (state.phase == WALKING).all():
            out = (state.here - X).norm(dim=1)
            torch.testing.assert_close((state.x_adv - X).norm(dim=1), out * (1 - state.size.square() / 2))
            angle = ((state.x_adv - X) * (state.here - X)).sum(1) / out / (state.x_adv - X).norm(dim=1)
            torch.testing.assert_close(angle, 1 / (1 + state.size.square()).sqrt())


@pytest.mark.parametrize("features", [30, 300])
def test_one_question_in_eight_succeeds_whatever_the_dimension(features: int) -> None:
    weight = torch.zeros(2, features)
    weight[1] = torch.randn(features, generator=torch.Generator().manual_seed(0))
    model = linear(weight, torch.tensor([0.0, -0.5 * float(weight.sum()) - 2 * float(weight[1].norm())]))
    x, taken, last = torch.full((20, features), 0.5), 0, None
    for number, state in enumerate(walk(Boundary(), 250, model, x)):
        if number >= 150:
            taken += int((state.here != last).any(1).sum())
        last = state.here
    assert taken / 100 / 20 == pytest.approx(0.125, abs=0.025)


def test_on_a_plane_it_comes_near_the_exact_distance() -> None:
    """Where the distance from the sample to the boundary is known."""
    model = random_linear(features=12, classes=2, seed=3)
    x, _ = samples(network(), rows=20)
    x, y = x.flatten(1), predict(model, x)
    exact = exact_of(model).distance(x, y, Threat.parse("l2:min"))
    result = sapper.craft(model, x, y, attack="boundary:steps=400", threat="l2:min")
    inside = result.found & (exact < 0.5)  # elsewhere the box may cut the nearest point off
    assert int(inside.sum()) > 8
    assert float((result.distance / exact)[inside].median()) < 1.15


def test_a_target_is_reached_and_a_case_without_a_start_fails() -> None:
    model = network()
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    targets = (y + 1) % 4
    result = sapper.craft(model, x, y, attack="boundary:steps=200", threat="l2:min", targets=targets)
    assert int(result.found.sum()) >= 15
    assert torch.equal(predict(model, result.x_adv)[result.found], targets[result.found])
    never = linear(torch.zeros(3, 12), torch.tensor([1.0, 0.0, 0.0]))
    result = sapper.craft(never, x, torch.zeros_like(y), attack="boundary:steps=40", threat="l2:min")
    assert not result.found.any()
    assert (result.forwards <= 42).all()


def test_an_image_is_walked_in_smooth_steps() -> None:
    model, x = network((1, 16, 16)), samples(network((1, 16, 16)), rows=3, shape=(1, 16, 16))[0]
    result = sapper.craft(model, x, predict(model, x), attack="boundary:steps=60", threat="l2:min")
    assert result.found.all()


def test_options_that_make_no_sense_are_refused() -> None:
    for option in ({"steps": 0}, {"first_size": 0.0}, {"success": 1.5}, {"adaptation": 0.0}, {"frequencies": math.inf}):
        with pytest.raises(UsageError, match=next(iter(option))):
            Boundary(**option)
