"""Features one after the other, from two questions each; closed forms where the model is linear."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sapper
from sapper import catalogue
from sapper.attacks.zoo import ZOO, Descending, newton
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, predict

WEIGHT = torch.tensor([[0.5, -1.0, 2.0, 0.1, -0.3, 1.5, 0.0, -0.7]], dtype=torch.float64)
MODEL = linear(torch.cat([-WEIGHT, WEIGHT]) / 2, torch.tensor([0.4, -0.4], dtype=torch.float64) * 3)
X = 0.4 + 0.2 * torch.rand(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def states(attack: ZOO, steps: int) -> list[Descending]:
    case, oracle = case_of(X, Threat.parse("l2:min")), TorchOracle(MODEL)
    all_of = [attack.start(case, oracle)]
    for age in range(steps):
        all_of.append(attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, all_of[-1]))
    return all_of


def test_it_asks_for_scores_alone() -> None:
    assert catalogue.access(ZOO) == "scores"


def test_newtons_step_goes_to_the_least_objective() -> None:
    """Beside the least of a fine grid, for changes, slopes and margins of all signs."""
    draws = torch.randn(4, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    change, derivative, margin, constant = *draws[:3], draws[3].abs() * 2
    step = newton(change, constant * derivative, margin, derivative)

    def objective(step: Tensor) -> Tensor:
        return (change + step).square() + constant * (margin + derivative * step).clamp_min(0)

    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    assert (objective(step) <= objective(grid).amin(0) + 1e-9).all()


@pytest.mark.parametrize("solver", ["newton", "adam"])
def test_a_visit_asks_above_and_below_one_feature_and_then_moves_it_alone(solver: str) -> None:
    every = states(catalogue.attack(f"zoo:solver={solver}"), 17)
    assert torch.equal(every[0].x_adv, X)
    visited = []
    for age in range(1, 17, 2):
        above, below, after = every[age], every[age + 1], every[age + 2] if age < 15 else every[17]
        assert torch.equal(above.point, below.point)
        apart = above.x_adv != below.x_adv
        assert (apart.sum(1) == 1).all()
        torch.testing.assert_close((above.x_adv - below.x_adv)[apart], torch.full((6,), 0.02, dtype=torch.float64))
        assert not ((after.point != above.point) & ~apart).any()
        visited.append(apart.nonzero()[:, 1])
    assert torch.equal(torch.stack(visited, 1).sort(1).values, torch.arange(8).expand(6, 8))  # each once in a round


def test_adams_first_step_is_the_step_size() -> None:
    """Also down a slope of 0.1; the feature with none stays."""
    after = states(ZOO(solver="adam", step_size=0.03), 17)[-1]
    moved = (after.point - X)[:, WEIGHT[0] != 0]
    torch.testing.assert_close(moved, -0.03 * moved.sign().neg(), rtol=1e-4, atol=1e-6)
    assert (moved.sign() == WEIGHT[0][WEIGHT[0] != 0].sign()).all()
    assert torch.equal(after.point[:, 6], X[:, 6])


@pytest.mark.parametrize(("solver", "most"), [("newton", 1.02), ("adam", 1.3)])
def test_on_a_linear_model_it_comes_near_the_exact_distance(solver: str, most: float) -> None:
    y = predict(MODEL, X)
    exact = exact_of(MODEL).distance(X, y, Threat.parse("l2:min"))
    result = sapper.craft(MODEL, X, y, attack=f"zoo:solver={solver},steps=600,delta=0.001", threat="l2:min")
    assert result.found.all()
    assert (result.distance >= exact * (1 - 1e-9)).all()
    assert (result.distance <= exact * most).all()


def test_a_confidence_is_kept() -> None:
    y = predict(MODEL, X)
    result = sapper.craft(MODEL, X, y, attack="zoo:confidence=0.5,steps=600", threat="l2:min")
    logits = MODEL(result.x_adv).detach()
    assert result.found.all()
    assert (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]) < -0.5 + 1e-6).all()


@pytest.mark.parametrize("options", ["steps=0", "delta=0", "constant=0", "step_size=0", "confidence=-1"])
def test_impossible_options_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        catalogue.attack(f"zoo:{options}")
