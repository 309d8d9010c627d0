from dataclasses import replace

import pytest
import torch

import sapper
from sapper.attacks.fmn import FMN, Bounded
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import NORMS, Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

WAY = torch.tensor([0.6, 0.8])
AT = 0.2
MODEL = linear(torch.stack([0 * WAY, WAY]) * 5, torch.tensor([0.0, -5 * AT]))
DISTANCE = {"l1": AT / 0.8, "l2": AT, "linf": AT / 1.4}


def wide(norm: str) -> Threat:
    return Threat.parse(f"{norm}:min", lower=-0.5, upper=0.5)


@pytest.mark.parametrize("norm", DISTANCE)
def test_before_a_success_the_ball_reaches_a_little_beyond_the_linearised_boundary(norm: str) -> None:
    """By gamma: a ball that ended at the boundary of a linear model would never hold a success."""
    case, oracle = case_of(torch.zeros(1, 2), wide(norm)), TorchOracle(MODEL)
    state = FMN().step(case, oracle, FMN().start(case, oracle))
    torch.testing.assert_close(state.radius, torch.tensor([1.05 * DISTANCE[norm]]))
    torch.testing.assert_close(case.threat.distance(state.x_adv, case.x), state.radius)
    state = FMN().step(case, oracle, replace(state, x_adv=torch.tensor([[0.03, 0.04]])))
    size = {"l1": 0.07, "l2": 0.05, "linf": 0.04}[norm]
    torch.testing.assert_close(state.radius, torch.tensor([1.05 * (size + 0.75 * DISTANCE[norm])]))


def test_after_it_the_ball_shrinks_and_grows_by_the_row_s_own_age() -> None:
    """Rows 0 to 2 have just succeeded at 0.25, rows 3 to 5 have not."""
    case = replace(case_of(torch.zeros(6, 2), wide("l2")), age=torch.tensor([0, 50, 100, 0, 50, 100]))
    x_adv = WAY * torch.tensor([0.25, 0.25, 0.25, 0.1, 0.1, 0.1])[:, None]
    state = Bounded(x_adv=x_adv, radius=torch.full((6,), 0.26), best=torch.full((6,), 0.3))
    after = FMN().step(case, TorchOracle(MODEL), state)
    gamma = torch.tensor([0.05, 0.0255, 0.001])
    shrunk = (0.26 * (1 - gamma)).clamp_max(0.25)
    torch.testing.assert_close(after.radius, torch.cat([shrunk, 0.26 * (1 + gamma)]))
    torch.testing.assert_close(after.best, torch.tensor([0.25] * 3 + [0.3] * 3))


def test_a_step_is_a_euclidean_one_from_1_to_a_hundredth_of_the_range_by_the_row_s_own_age() -> None:
    case = replace(case_of(torch.zeros(3, 2), wide("linf")), age=torch.tensor([0, 50, 100]))
    state = Bounded(x_adv=case.x, radius=torch.full((3,), 9.0), best=torch.full((3,), 9.0))
    after = FMN(step_size=0.1).step(case, TorchOracle(MODEL), state)
    torch.testing.assert_close(after.x_adv, WAY * torch.tensor([0.1, 0.0505, 0.001])[:, None])


def test_in_l0_the_ball_changes_by_a_whole_feature_at_least() -> None:
    case = replace(case_of(torch.zeros(4, 60), wide("l0")), age=torch.zeros(4, dtype=torch.int64))
    weight = torch.zeros(2, 60)
    weight[1, 0] = 5
    model = linear(weight, torch.tensor([0.0, -1.0]))
    x_adv = torch.zeros(4, 60)
    x_adv[:2, :40] = 0.4  # has succeeded, with 40 features
    state = Bounded(x_adv=x_adv, radius=torch.tensor([10.0, 39, 10, 40]), best=torch.full((4,), 60.0))
    after = FMN().step(case, TorchOracle(model), state)
    assert after.radius.tolist() == [9, 37, 11, 42]
    assert (case.threat.distance(after.x_adv, case.x) <= after.radius).all()


@pytest.mark.parametrize(("norm", "most"), [("l0", 1.05), ("l1", 1.05), ("l2", 1.02), ("linf", 1.05)])
def test_on_linear_models_it_reaches_the_exact_distance(norm: str, most: float) -> None:
    threat = Threat.parse(f"{norm}:min", lower=-4, upper=5)
    ratios = []
    for seed in range(2):
        model = random_linear(features=30, seed=seed)
        x = torch.rand(20, 30, generator=torch.Generator().manual_seed(seed))
        y = predict(model, x)
        result = sapper.craft(model, x, y, attack="fmn", threat=threat)
        assert result.found.all()
        ratios.append(result.distance / exact_of(model).distance(x, y, threat))
    ratio = torch.cat(ratios)
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= most


@pytest.mark.parametrize("norm", NORMS)
def test_no_candidate_is_outside_its_ball_and_box(norm: str) -> None:
    """Foolbox 3.3.4's l2 projection scales by norms / norms, so its changes are not held by the ball at all."""
    model = network(seed=2)
    x, _ = samples(model)
    attack, case, oracle = FMN(steps=10), case_of(x, Threat.parse(f"{norm}:min")), TorchOracle(model)
    state = attack.start(case, oracle)
    for _ in range(5):
        state = attack.step(case, oracle, state)
        assert (case.threat.distance(state.x_adv, x) <= state.radius * (1 + 1e-5)).all()
        assert ((state.x_adv >= 0) & (state.x_adv <= 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_it_stays(norm: str) -> None:
    model, x = linear(torch.zeros(2, 3), torch.tensor([1.0, 0.0])), torch.tensor([[0.0, 0.5, 1.0]])
    result = sapper.craft(model, x, torch.zeros(1, dtype=torch.int64), attack="fmn:steps=20", threat=f"{norm}:min")
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)


def test_a_budget_bounds_the_ball() -> None:
    model, threat = network(seed=2), Threat.parse("l2:0.1")
    x, _ = samples(model)
    case, oracle = case_of(x, threat), TorchOracle(model)
    state = FMN().step(case, oracle, FMN().start(case, oracle))
    assert (state.radius <= 0.1).all()
    assert threat.legal(state.x_adv, x).all()


@pytest.mark.parametrize("options", ["steps=0", "gamma=0", "gamma=1", "step_size=0"])
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    with pytest.raises(UsageError):
        sapper.craft(
            MODEL, torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), attack=f"fmn:{options}", threat="l2:min"
        )
