import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sapper
from sapper import catalogue
from sapper.attacks.ead import EAD
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.tensors import join
from sapper.threat import Threat
from toys import WIDE, case_of, drawn, exact_of, linear, network, predict, random_linear, samples

MIN = Threat.parse("l1:min")
SMALL = "ead:steps=20,search_steps=5"


@pytest.mark.parametrize("features", [12, 100])
def test_on_a_linear_model_it_comes_within_five_percent_of_the_exact_distance(features: int) -> None:
    model = random_linear(features=features, seed=features)
    x = drawn(20, features)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="ead:steps=60", threat="l1:min", bounds=WIDE)
    assert result.found.all()
    ratio = result.distance / exact_of(model).distance(x, y, MIN)
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() <= 1.05


def test_where_the_box_cuts_changes_off_it_comes_within_five_percent_too() -> None:
    model = random_linear(features=100, seed=3)
    model[1].bias.data[0] += 40.0  # the nearest border takes several features all the way to a bound
    x = drawn(60, 100)
    x = x[predict(model, x) == 0][:20]
    result = sapper.craft(model, x, torch.zeros(len(x), dtype=torch.int64), attack="ead", threat="l1:min")
    assert result.found.all()
    assert ((result.x_adv == 0) | (result.x_adv == 1)).sum(1).median() >= 10
    ratio = result.distance / boxed_distance(model[1].weight.detach(), model[1].bias.detach(), x)
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() <= 1.05


def boxed_distance(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """From class 0: the steepest features go to their bounds, one after the other."""
    slope = weight[1:] - weight[0]
    lead = -(x @ slope.T + bias[1:] - bias[0])[:, :, None]
    steep, order = slope.abs().sort(1, descending=True)
    room = torch.where(slope > 0, (1 - x)[:, None], x[:, None]).gather(2, order.expand(len(x), -1, -1))
    gained = (steep * room).cumsum(2) - steep * room
    return ((lead - gained) / steep).clamp_min(0).minimum(room).sum(2).amin(1)


def test_the_more_l1_the_fewer_features_change_and_with_some_the_smaller_is_their_sum() -> None:
    """The paper's trade-off: with a small beta it is Carlini and Wagner's attack."""
    model = random_linear(features=30, seed=2)
    x = drawn(20, 30)
    y = predict(model, x)
    sums, counts = [], []
    for beta in (1e-4, 1e-2, 1e-1):
        result = sapper.craft(
            model, x, y, attack=EAD(beta=beta, steps=50, search_steps=5), threat="l1:min", bounds=WIDE
        )
        assert result.found.all()
        sums.append(float(result.distance.median()))
        counts.append(float((result.x_adv != x).sum(1).double().mean()))
    assert sums[0] > 1.1 * max(sums[1:])
    assert counts[0] > 2 * counts[2]


def test_features_of_little_gradient_are_left_exactly_as_they_are() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, -0.1]])
    x = torch.full((1, 3), 0.3)
    model = linear(weight, torch.tensor([0.5, 0.0]))
    result = sapper.craft(model, x, torch.tensor([0]), attack="ead", threat="l1:min", bounds=WIDE)
    assert result.found.all()
    assert torch.equal(result.x_adv[0, 1:], x[0, 1:])
    assert float(result.distance) == pytest.approx(0.2, rel=0.02)


def test_what_the_box_leaves_no_room_for_is_done_with_the_next_feature() -> None:
    """The feature of largest gradient is nearly white: it gives 0.1 of the 0.3 needed, the next the rest."""
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.8, 0.1]])
    x = torch.tensor([[0.9, 0.5, 0.5]])
    model = linear(weight, torch.tensor([1.65, 0.0]))
    result = sapper.craft(model, x, torch.tensor([0]), attack="ead", threat="l1:min")
    assert result.found.all()
    assert float(result.distance) == pytest.approx(0.1 + 0.2 / 0.8, rel=0.03)
    assert float(result.x_adv[0, 2]) == 0.5


def test_one_step_by_hand() -> None:
    """Gradient of the margin (-3, 0.6), so its unit is 3; c = 2 and the L1 weighs 1."""
    threat = Threat.parse("l1:min", lower=0.0, upper=1.0)
    case = case_of(torch.tensor([[0.2, 0.5]]), threat)
    oracle = TorchOracle(linear(torch.tensor([[0.0, 0.0], [3.0, -0.6]]), torch.tensor([1.2, 0.0])))
    attack = EAD(step_size=0.01, beta=0.01, constant=2.0)
    state = attack.step(case, oracle, attack.start(case, oracle))
    assert float(state.reach) == pytest.approx(0.3)
    torch.testing.assert_close(state.x_adv, torch.tensor([[0.2 + 0.01 * (2 - 1), 0.5]]))  # 2 · 0.6/3 is less than 1


def test_a_row_goes_its_own_way_through_the_search_whatever_the_ages_beside_it() -> None:
    model = network(dtype=torch.float64)
    x, y = samples(model, rows=6)
    attack, oracle = EAD(steps=20, search_steps=3), TorchOracle(model)

    def walk(case, state, steps):
        for _ in range(steps):
            state = attack.step(case, oracle, state)
            case = replace(case, age=case.age + 1)
        return case, state

    first, second = (case_of(x[part], MIN, Untargeted(y[part])) for part in (slice(0, 3), slice(3, 6)))
    case, old = walk(first, attack.start(first, oracle), 33)  # in its second attempt when the others come
    _, both = walk(join(case, second), join(old, attack.start(second, oracle)), 25)
    alone = join(walk(case, old, 25)[1], walk(second, attack.start(second, oracle), 25)[1])
    torch.testing.assert_close(both.x_adv, alone.x_adv, rtol=0, atol=1e-9)
    torch.testing.assert_close(both.search.constant, alone.search.constant)
    assert len(both.search.attempts.unique()) > 1


def test_the_temperature_of_the_model_does_not_matter() -> None:
    cold, hot = random_linear(seed=3), random_linear(seed=3)
    for weight in hot.parameters():
        weight.data *= 1024.0
    x = drawn(20, 12)
    y = predict(cold, x)
    first, second = (sapper.craft(m, x, y, attack=SMALL, threat="l1:min", bounds=WIDE) for m in (cold, hot))
    torch.testing.assert_close(first.distance, second.distance, rtol=1e-2, atol=1e-4)


def test_confidence_is_reached_and_costs_distance() -> None:
    model = network()
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    plain = sapper.craft(model, x, y, attack=SMALL, threat="l1:min")
    sure = sapper.craft(model, x, y, attack=SMALL + ",confidence=1", threat="l1:min")
    assert sure.found.any()
    with torch.no_grad():
        assert (Untargeted(y).margin(model(sure.x_adv))[sure.found] <= -1 + 1e-5).all()
    both = sure.found & plain.found
    assert (sure.distance[both] > plain.distance[both]).all()


def test_what_cannot_be_fooled_stays_not_found_and_ends() -> None:
    model = linear(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([100.0, 0.0]))
    x, y = drawn(3, 2), torch.zeros(3, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack="ead:steps=20,search_steps=4", threat="l1:min")
    assert not result.found.any()
    assert (result.forwards <= 20 * 4 + 1).all()


def test_its_limit_and_its_options() -> None:
    assert EAD(steps=10, search_steps=3).limit(math.inf) == 30
    for wrong in ("steps=0", "search_steps=0", "step_size=0", "beta=0", "constant=0", "confidence=-1"):
        with pytest.raises(UsageError):
            catalogue.attack(f"ead:{wrong}")
