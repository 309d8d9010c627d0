from dataclasses import replace

import pytest
import torch

import sapper
from sapper.attacks.fab import FAB
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

X, Y = samples(network(), rows=30)
RATIO = {"l1": 1.05, "l2": 1.02, "linf": 1.05}
EACH = pytest.mark.parametrize("norm", RATIO)


@EACH
def test_on_linear_models_it_is_never_closer_than_the_exact_distance_and_mostly_near_it(norm: str) -> None:
    """The box is wide, so that the exact distance is that to the nearest hyperplane."""
    ratios = []
    for seed in range(4):
        model = random_linear(seed=seed)
        x = X.flatten(1)
        y = predict(model, x)
        threat = Threat.parse(f"{norm}:min", lower=-50.0, upper=50.0)
        result = sapper.craft(model, x, y, attack="fab:steps=30", threat=threat)
        assert result.found.all()
        ratios.append(result.distance / exact_of(model).distance(x, y, threat))
    ratio = torch.cat(ratios)
    assert (ratio >= 1 - 1e-4).all()
    assert float(ratio.median()) <= RATIO[norm]


@EACH
def test_the_first_step_from_the_sample_is_the_projection_and_a_little_more(norm: str) -> None:
    """From the sample both projections are the same; on a linear model with no box in reach: 1.05 times the way."""
    model = random_linear(classes=2)
    x = X.flatten(1)
    y = predict(model, x)
    threat = Threat.parse(f"{norm}:min", lower=-50.0, upper=50.0)
    case, oracle, attack = case_of(x, threat, Untargeted(y)), TorchOracle(model), FAB()
    state = attack.step(case, oracle, attack.start(case, oracle))
    exact = exact_of(model).distance(x, y, threat)
    torch.testing.assert_close(threat.distance(state.x_adv, x), 1.05 * exact, rtol=1e-3, atol=1e-5)
    assert (predict(model, state.x_adv) != y).all()


def test_from_a_success_it_steps_back_towards_the_sample_before_it_projects() -> None:
    """Sideways only these two act: a share beta of the way is kept, then a share 1 - alpha (Algorithm 1 and Eq. 8)."""
    model = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.0]))
    threat, attack = Threat.parse("l2:min", lower=-50.0, upper=50.0), FAB()
    case = case_of(torch.zeros(1, 2), threat)
    case, oracle = replace(case, age=case.age + 1), TorchOracle(model)
    state = replace(attack.start(case, oracle), x_adv=torch.tensor([[2.0, 3.0]]))
    state = attack.step(case, oracle, state)
    near, far = attack.overshoot * (attack.beta * 2 - 1), attack.overshoot
    alpha = min(attack.alpha_max, near / (near + far))
    assert float(state.x_adv[0, 1]) == pytest.approx(3 * attack.beta * (1 - alpha), rel=1e-4)


@EACH
def test_more_steps_find_nothing_farther(norm: str) -> None:
    model = network(seed=3)
    x, y = samples(model, rows=30)
    few, many = (sapper.craft(model, x, y, attack=f"fab:steps={n}", threat=f"{norm}:min") for n in (5, 30))
    assert many.found[few.found].all()
    assert (many.distance[few.found] <= few.distance[few.found]).all()
    assert float(many.distance.nanmedian()) < float(few.distance.nanmedian())


@EACH
def test_with_a_rival_it_goes_for_that_class_alone(norm: str) -> None:
    model = linear(torch.tensor([1.0, 2.0, 2.0]).diag(), torch.tensor([1.0, 0.6, 0.2]))
    x = torch.zeros(1, 3)
    for rank in (1, 2):
        threat = Threat.parse(f"{norm}:min", lower=-9.0, upper=9.0)
        result = sapper.craft(model, x, torch.tensor([0]), attack=f"fab:rival={rank},steps=5", threat=threat)
        assert result.predictions.tolist() == [rank]


@EACH
def test_a_rank_that_the_model_lacks_ends_at_once(norm: str) -> None:
    model = random_linear(classes=2)
    x = X.flatten(1)
    result = sapper.craft(model, x, predict(model, x), attack="fab:rival=2", threat=f"{norm}:min")
    assert not result.found.any()
    assert (result.forwards == 2).all()
    assert not result.backwards.any()
    assert torch.equal(result.x_adv, x)


def test_one_question_and_a_backward_pass_for_every_rival_a_step() -> None:
    model = network(classes=4)
    x, y = samples(model, rows=12)
    right = predict(model, x) == y
    for attack, backwards in (("fab:steps=6", 18), ("fab:steps=6,classes=3", 12), ("fab:steps=6,rival=2", 6)):
        result = sapper.craft(model, x, y, attack=attack, threat="l2:min")
        assert (result.forwards[right] == 7).all()
        assert (result.backwards[right] == backwards).all()


@EACH
def test_a_random_start_is_near_the_sample_and_each_restart_elsewhere(norm: str) -> None:
    model = network(seed=3)
    y, threat = predict(model, X), Threat.parse(f"{norm}:0.2")
    attack, oracle = FAB(random_start=True), TorchOracle(model)
    starts = []
    for seed in (0, 1):
        case = case_of(X, threat, Untargeted(y), seed=seed)
        starts.append(attack.step(case, oracle, attack.start(case, oracle)).x_adv)
        assert (threat.distance(starts[-1], X) <= 0.1 + 1e-6).all()
    assert (starts[0] != starts[1]).flatten(1).any(1).all()


@pytest.mark.parametrize("option", ["overshoot=0", "alpha_max=1.5", "beta=-0.1", "classes=1", "rival=-1", "steps=0"])
def test_options_that_make_no_sense_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        sapper.craft(network(), X, Y, attack=f"fab:{option}", threat="l2:min")
