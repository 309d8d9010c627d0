import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attacks.carlini_wagner_linf import CarliniWagnerLinf
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.tensors import join
from sapper.threat import Threat
from toys import WIDE, case_of, drawn, exact_of, linear, network, predict, random_linear, samples

MIN = Threat.parse("linf:min")
SMALL = "carlini_wagner_linf:steps=20,search_steps=6"


@pytest.mark.parametrize("features", [12, 100])
def test_on_a_linear_model_it_comes_within_five_percent_of_the_exact_distance(features: int) -> None:
    model = random_linear(features=features, seed=features)
    x = drawn(20, features)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="carlini_wagner_linf", threat="linf:min", bounds=WIDE)
    assert result.found.all()
    ratio = result.distance / exact_of(model).distance(x, y, MIN)
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() <= 1.05


def test_tau_falls_by_the_factor_after_a_success_and_is_halved_after_a_failure() -> None:
    attack = CarliniWagnerLinf()
    failed, won = torch.tensor([0.0, 0.2, 0.3, 0.8]), torch.tensor([0.4, 0.4, math.inf, math.inf])
    tau = attack._next(case_of(torch.zeros(4, 2), MIN), failed, won)
    torch.testing.assert_close(tau, torch.tensor([0.36, 0.3, 0.6, 1.0]))


def test_a_penalty_on_every_feature_beyond_tau_and_a_margin_that_never_outweighs_it() -> None:
    """One step of Adam goes against the sign of each gradient: features beyond tau come back, whatever the margin says."""
    case = case_of(torch.full((1, 3), 0.5), MIN)
    oracle = TorchOracle(linear(torch.tensor([[0.0, 0.0, 0.0], [5.0, 2.0, -1.0]]), torch.tensor([9.0, 0.0])))
    attack = CarliniWagnerLinf(step_size=0.1)
    state = attack.start(case, oracle)
    at = torch.tensor([[0.75, 0.55, 0.2]])
    state = replace(state, x_adv=at, tau=torch.tensor([0.2]))
    after = attack.step(replace(case, age=case.age + 1), oracle, state)
    torch.testing.assert_close(after.x_adv - at, torch.tensor([[-0.02, 0.02, 0.02]]), rtol=1e-4, atol=1e-6)


def test_the_first_tau_is_twice_where_the_boundary_is_seen_or_the_budget() -> None:
    oracle = TorchOracle(linear(torch.tensor([[0.0, 0.0], [3.0, -1.0]]), torch.tensor([1.4, 0.0])))
    for text, tau in (("linf:min", 0.2), ("linf:0.07", 0.07)):  # (1.4 - 1) / 4 from the border
        case = case_of(torch.tensor([[0.5, 0.5]]), Threat.parse(text))
        attack = CarliniWagnerLinf()
        assert float(attack.step(case, oracle, attack.start(case, oracle)).tau) == pytest.approx(tau)


def test_a_row_goes_its_own_way_whatever_the_ages_beside_it() -> None:
    model = network(dtype=torch.float64)
    x, y = samples(model, rows=6)
    attack, oracle = CarliniWagnerLinf(steps=15, search_steps=5), TorchOracle(model)

    def walk(case, state, steps):
        for _ in range(steps):
            state = attack.step(case, oracle, state)
            case = replace(case, age=case.age + 1)
        return case, state

    first, second = (case_of(x[part], MIN, Untargeted(y[part])) for part in (slice(0, 3), slice(3, 6)))
    case, old = walk(first, attack.start(first, oracle), 22)
    _, both = walk(join(case, second), join(old, attack.start(second, oracle)), 20)
    alone = join(walk(case, old, 20)[1], walk(second, attack.start(second, oracle), 20)[1])
    torch.testing.assert_close(both.x_adv, alone.x_adv, rtol=0, atol=1e-9)
    torch.testing.assert_close(both.tau, alone.tau)


def test_the_temperature_of_the_model_does_not_matter() -> None:
    cold, hot = random_linear(seed=3), random_linear(seed=3)
    for weight in hot.parameters():
        weight.data *= 1024.0
    x = drawn(20, 12)
    y = predict(cold, x)
    first, second = (sapper.craft(m, x, y, attack=SMALL, threat="linf:min", bounds=WIDE) for m in (cold, hot))
    torch.testing.assert_close(first.distance, second.distance, rtol=1e-3, atol=1e-5)


def test_targets_and_confidence_are_reached() -> None:
    model = random_linear(seed=5)
    x = drawn(10, 12)
    y = predict(model, x)
    target = (y + 1) % 4
    result = sapper.craft(
        model, x, y, attack=SMALL + ",confidence=1", threat="linf:min", targets=target, bounds=(-5.0, 6.0)
    )
    assert result.found.all()
    with torch.no_grad():
        logits = model(result.x_adv)
    others = logits.scatter(1, target[:, None], -torch.inf).amax(1)
    assert (logits.gather(1, target[:, None])[:, 0] - others >= 1 - 1e-4).all()


def test_what_cannot_be_fooled_stays_not_found_and_ends() -> None:
    model = linear(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([100.0, 0.0]))
    x, y = drawn(3, 2), torch.zeros(3, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack=SMALL, threat="linf:min")
    assert not result.found.any()
    assert (result.forwards <= 20 * 6 + 1).all()


def test_its_limit_and_its_options() -> None:
    assert CarliniWagnerLinf(steps=10, search_steps=3).limit(math.inf) == 30
    for wrong in ("steps=0", "search_steps=0", "step_size=0", "constant=1", "factor=1", "confidence=-1"):
        with pytest.raises(UsageError):
            catalogue.attack(f"carlini_wagner_linf:{wrong}")
