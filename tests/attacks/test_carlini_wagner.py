import math

import pytest
import torch
from torch import nn

import sapper
from sapper.attacks.carlini_wagner import CarliniWagner
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.tensors import join
from sapper.threat import Threat
from toys import WIDE, case_of, drawn, exact_of, linear, network, predict, random_linear, samples

MIN = Threat.parse("l2:min")


@pytest.mark.parametrize("features", [12, 100])
def test_on_a_linear_model_it_comes_within_two_percent_of_the_exact_distance(features):
    model = random_linear(features=features, seed=features)
    x = drawn(20, features)
    y = predict(model, x)
    exact = exact_of(model).distance(x, y, MIN)
    result = sapper.craft(model, x, y, attack="carlini_wagner:steps=100", threat="l2:min", bounds=WIDE)
    assert result.found.all()
    ratio = result.distance / exact
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() <= 1.02


def test_a_smaller_constant_gives_a_smaller_distance_until_it_no_longer_succeeds():
    """One constant each: on a linear model it succeeds from twice the distance on."""
    model = linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x, y = torch.tensor([[0.3, 0.0]]), torch.tensor([0])  # 0.3 from the border, 0.1 in widths of the box
    found, ends = [], []
    for constant in (0.05, 0.15, 0.25, 2.0, 20.0):
        attack = CarliniWagner(steps=60, search_steps=1, constant=constant, abort_early=False)
        result = sapper.craft(model, x, y, attack=attack, threat="l2:min", bounds=WIDE)
        found.append(bool(result.found))
        ends.append(float(result.distance))
    assert found == [False, False, True, True, True]
    assert ends[2] <= ends[3] + 1e-4 <= ends[4] + 2e-4
    assert ends[2] == pytest.approx(0.3, rel=0.05)


def test_the_constant_is_searched_for_each_sample():
    """Samples at distances that differ by a factor of fifty want constants as different."""
    x = torch.tensor([[0.01, 0.3], [0.1, 0.3], [0.5, 0.3]])
    threat = Threat.parse("l2:min", lower=-1.0, upper=2.0)
    attack, case = CarliniWagner(steps=100), case_of(x, threat)
    oracle = TorchOracle(linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])))
    state = attack.start(case, oracle)
    while not state.done.all():
        state = attack.step(case, oracle, state)
        ended = state.search if not state.done.any() else ended
    needed = 2 * x[:, 0] / 3  # twice the distance in widths of the box
    assert ((ended.constant / needed).log().abs() < math.log(2)).all()


def test_every_attempt_begins_at_the_sample_and_with_nothing_remembered():
    model = network()
    x, y = samples(model, rows=6)
    case, oracle = case_of(x, MIN, Untargeted(y)), TorchOracle(model)
    attack = CarliniWagner(steps=5, search_steps=3, abort_early=False)
    state = begun = attack.start(case, oracle)
    for step in range(1, 11):
        state = attack.step(case, oracle, state)
        again = step % 5 == 0
        assert torch.allclose(state.x_adv, begun.x_adv, atol=1e-6) == again
        assert torch.allclose(state.free, begun.free, atol=1e-6) == again
        assert bool((state.moments.mean == 0).all() & (state.moments.square == 0).all()) == again
        assert state.moments.count.tolist() == [step % 5] * 6


def test_a_row_goes_its_own_way_through_the_search_whatever_the_ages_beside_it():
    model = network(dtype=torch.float64)
    x, y = samples(model, rows=6)
    attack, oracle = CarliniWagner(steps=20, search_steps=3), TorchOracle(model)

    def walk(case, state, steps):
        for _ in range(steps):
            state = attack.step(case, oracle, state)
        return state

    first, second = (case_of(x[part], MIN, Untargeted(y[part])) for part in (slice(0, 3), slice(3, 6)))
    old = walk(first, attack.start(first, oracle), 33)  # in its second attempt when the others come
    both = walk(join(first, second), join(old, attack.start(second, oracle)), 25)
    alone = join(walk(first, old, 25), walk(second, attack.start(second, oracle), 25))
    torch.testing.assert_close(both.x_adv, alone.x_adv, rtol=0, atol=1e-9)
    torch.testing.assert_close(both.search.constant, alone.search.constant)
    assert torch.equal(both.search.attempts, alone.search.attempts)
    assert len(both.search.attempts.unique()) > 1


def test_confidence_is_reached_and_costs_distance():
    model = network()
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    plain = sapper.craft(model, x, y, attack="carlini_wagner:steps=30,search_steps=5", threat="l2:min")
    sure = sapper.craft(model, x, y, attack="carlini_wagner:steps=30,search_steps=5,confidence=1", threat="l2:min")
    assert sure.found.any()
    with torch.no_grad():
        logits = model(sure.x_adv[sure.found])
    own = logits.gather(1, y[sure.found][:, None])[:, 0]
    others = logits.scatter(1, y[sure.found][:, None], -torch.inf).amax(1)
    assert (others - own >= 1 - 1e-5).all()
    both = sure.found & plain.found
    assert (sure.distance[both] > plain.distance[both]).all()


def test_pixels_at_the_bounds_can_move():
    """All black, and only a white pixel fools: elsewhere atanh(±1) freezes them."""
    model = linear(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.6, 0.0]))
    for x, bounds, label in ((torch.zeros(1, 2), (0.0, 1.0), 0), (torch.ones(1, 2), (0.0, 1.0), 1)):
        y = torch.tensor([label])
        exact = exact_of(model).distance(x, y, MIN)
        result = sapper.craft(model, x, y, attack="carlini_wagner:steps=100", threat="l2:min", bounds=bounds)
        assert result.found.all()
        assert float(result.distance) == pytest.approx(float(exact), rel=0.03)


def test_every_candidate_is_in_the_box():
    model = network()
    x, _ = samples(model, rows=10)
    case, attack, oracle = case_of(x.round(), MIN), CarliniWagner(step_size=0.5, constant=100.0), TorchOracle(model)
    state = attack.start(case, oracle)
    for _ in range(30):
        assert ((state.x_adv >= 0) & (state.x_adv <= 1)).all()
        state = attack.step(case, oracle, state)


def test_what_cannot_be_fooled_stays_not_found_and_ends():
    model = linear(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([100.0, 0.0]))
    x, y = drawn(3, 2), torch.zeros(3, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack="carlini_wagner:steps=20,search_steps=4", threat="l2:min")
    assert not result.found.any()
    assert result.distance.isnan().all()
    assert (result.forwards <= 20 * 4 + 1).all()


def test_all_logits_below_zero_are_no_obstacle():
    """Log-probabilities: where others mask by multiplying with 0, the label's own 0 is the largest."""
    model = nn.Sequential(network(), nn.LogSoftmax(dim=1))
    x, _ = samples(model, rows=20)
    y = predict(model, x)
    plain = sapper.craft(network(), x, y, attack="carlini_wagner:steps=30,search_steps=5", threat="l2:min")
    logs = sapper.craft(model, x, y, attack="carlini_wagner:steps=30,search_steps=5", threat="l2:min")
    assert torch.equal(logs.found, plain.found)
    torch.testing.assert_close(logs.distance[logs.found], plain.distance[plain.found], rtol=1e-2, atol=0)


def test_the_temperature_of_the_model_does_not_matter():
    cold, hot = random_linear(seed=3), random_linear(seed=3)
    for weight in hot.parameters():
        weight.data *= 1024.0
    x = drawn(20, 12)
    y = predict(cold, x)
    first, second = (
        sapper.craft(model, x, y, attack="carlini_wagner:steps=30,search_steps=5", threat="l2:min", bounds=WIDE)
        for model in (cold, hot)
    )
    torch.testing.assert_close(first.distance, second.distance, rtol=1e-2, atol=1e-4)


def test_a_target_is_reached():
    model = random_linear(seed=5)
    x = drawn(10, 12)
    y = predict(model, x)
    target = (y + 1) % 4
    result = sapper.craft(
        model,
        x,
        y,
        attack="carlini_wagner:steps=30,search_steps=5",
        threat="l2:min",
        targets=target,
        bounds=(-5.0, 6.0),
    )
    assert result.found.all()
    assert torch.equal(predict(model, result.x_adv), target)


def test_its_limit_and_its_options():
    assert CarliniWagner(steps=10, search_steps=3).limit(math.inf) == 30
    for wrong in ({"steps": 0}, {"search_steps": 0}, {"step_size": 0.0}, {"constant": -1.0}, {"confidence": -1.0}):
        with pytest.raises(UsageError):
            CarliniWagner(**wrong)
