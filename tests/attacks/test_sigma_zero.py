import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper.attacks.sigma_zero import SigmaZero, Thinning
from sapper.descent import Moments
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, predict, random_linear

MIN = Threat.parse("l0:min")
SLOPE = torch.tensor([1.0, 0.5, 0.0])
MODEL = linear(torch.stack([0 * SLOPE, SLOPE]), torch.tensor([0.0, -0.9]))


def state_of(x_adv: torch.Tensor, threshold: float = 0.3) -> Thinning:
    return Thinning(x_adv=x_adv, threshold=torch.full((len(x_adv),), threshold), moments=Moments.none(x_adv))


def test_the_first_step_is_adam_s_and_the_threshold_falls_after_a_failure() -> None:
    case, oracle = case_of(torch.zeros(1, 3), MIN), TorchOracle(MODEL)
    after = SigmaZero(step_size=0.4).step(case, oracle, SigmaZero().start(case, oracle))
    torch.testing.assert_close(after.x_adv, torch.tensor([[0.4, 0.4, 0.0]]))
    torch.testing.assert_close(after.threshold, torch.tensor([0.296]))


def test_after_a_success_the_threshold_rises_and_the_count_alone_is_lowered() -> None:
    x_adv = torch.tensor([[0.95, 0.32, 0.02]])
    case = case_of(torch.zeros(1, 3), MIN)
    after = SigmaZero(step_size=0.01).step(case, TorchOracle(MODEL), state_of(x_adv))
    torch.testing.assert_close(after.x_adv, torch.tensor([[0.94, 0.31, 0.0]]))
    torch.testing.assert_close(after.threshold, torch.tensor([0.3001]))


def test_the_count_s_slope_is_its_derivative() -> None:
    change = torch.tensor([[0.0, 0.01, 0.1, -0.5]], dtype=torch.float64, requires_grad=True)
    (change.square() / (change.square() + 1e-3)).mean().backward()
    torch.testing.assert_close(SigmaZero()._count_slope(change.detach()), change.grad)


def test_the_step_follows_the_row_s_own_age() -> None:
    ages = torch.tensor([0, 50, 100])
    case = replace(case_of(torch.zeros(3, 3), MIN), age=ages)
    attack = SigmaZero(step_size=0.4, threshold=0.01)
    after = attack.step(case, TorchOracle(MODEL), state_of(case.x, 0.01))
    rate = 0.1 + 0.9 * (1 + (ages * math.pi / 100).cos()) / 2
    torch.testing.assert_close(after.x_adv[:, 0], 0.4 * rate)


def test_on_linear_models_it_changes_as_few_features_as_can_be() -> None:
    threat = Threat.parse("l0:min", lower=-2, upper=3)
    ratios = []
    for seed in range(2):
        model = random_linear(features=30, seed=seed)
        x = torch.rand(20, 30, generator=torch.Generator().manual_seed(seed))
        y = predict(model, x)
        result = sapper.craft(model, x, y, attack="sigma_zero", threat=threat)
        assert result.found.all()
        ratios.append(result.distance / exact_of(model).distance(x, y, threat))
    ratio = torch.cat(ratios)
    assert ratio.min() >= 1
    assert ratio.median() <= 1.05


def test_without_a_gradient_it_stays() -> None:
    model, x = linear(torch.zeros(2, 3), torch.tensor([1.0, 0.0])), torch.tensor([[0.0, 0.5, 1.0]])
    y = torch.zeros(1, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack="sigma_zero:steps=40", threat="l0:min")
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)


@pytest.mark.parametrize("options", ["steps=0", "sigma=0", "threshold=2", "threshold_step=-1", "step_size=0"])
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    y = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UsageError):
        sapper.craft(MODEL, torch.zeros(1, 3), y, attack=f"sigma_zero:{options}", threat="l0:min")
