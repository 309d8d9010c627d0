import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper.attacks.ddn import DDN, Scaled
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

WIDE = Threat.parse("l2:min", lower=-0.5, upper=0.5)
WAY = torch.tensor([0.6, 0.8])


def border(at: float) -> torch.nn.Module:
    """Class 1 beyond this distance from the origin in the direction (0.6, 0.8)."""
    return linear(torch.stack([0 * WAY, WAY]) * 5, torch.tensor([0.0, -5.0 * at]))


def test_the_norm_shrinks_after_a_success_and_grows_after_a_failure() -> None:
    attack, case, oracle = DDN(first_norm=0.2), case_of(torch.zeros(1, 2), WIDE), TorchOracle(border(0.22))
    state, norms = attack.start(case, oracle), []
    for _ in range(6):
        state = attack.step(case, oracle, state)
        norms.append(float(state.norm))
        torch.testing.assert_close(state.x_adv, WAY[None] * state.norm)
    shrinks = [0.21, 0.2205, 0.2205 * 0.95, 0.2205 * 0.95 * 1.05, 0.2205 * 0.95 * 1.05**2, 0.2205 * 0.95**2 * 1.05**2]
    torch.testing.assert_close(torch.tensor(norms), torch.tensor(shrinks))


def test_a_step_is_from_1_to_a_hundredth_of_the_range_by_the_row_s_own_age() -> None:
    """From (0.1, 0), along (0.6, 0.8), then to a norm of 0.105."""
    case = replace(case_of(torch.zeros(3, 2), WIDE), age=torch.tensor([0, 50, 99]))
    before = torch.tensor([[0.1, 0.0]]).repeat(3, 1)
    state = Scaled(x_adv=before, norm=torch.full((3,), 0.1), most=torch.ones(3))
    after = DDN().step(case, TorchOracle(border(9.0)), state)
    size = torch.tensor([1.0, 0.505, 0.01 + 0.99 * (1 + math.cos(0.99 * math.pi)) / 2])
    change = before + size[:, None] * WAY
    torch.testing.assert_close(after.x_adv, change / change.norm(dim=1, keepdim=True) * 0.105)
    torch.testing.assert_close(after.norm, torch.full((3,), 0.105))


def test_the_box_cuts_a_change_and_not_the_norm() -> None:
    """Authors' code: the next step scales what is left of the change up again."""
    case, oracle = case_of(torch.tensor([[0.45, 0.0]]), WIDE), TorchOracle(border(9.0))
    state = DDN(first_norm=0.2).step(case, oracle, DDN(first_norm=0.2).start(case, oracle))
    torch.testing.assert_close(state.x_adv, torch.tensor([[0.5, 0.168]]))
    torch.testing.assert_close(state.norm, torch.tensor([0.21]))


SCALES = [1e-6, 1.0, 1e3]
"""With tiny logits the cross-entropy raises all classes alike, with huge ones it has no gradient."""


@pytest.mark.parametrize(
    ("loss", "scale"), [(loss, scale) for loss in ("scaled", "margin") for scale in SCALES] + [("cross_entropy", 1.0)]
)
def test_on_linear_models_it_reaches_the_exact_distance(loss: str, scale: float) -> None:
    model = random_linear(features=30, classes=5)
    x = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    y = predict(model, x)
    for weight in model.parameters():
        weight.data.mul_(scale)
    exact = exact_of(model).distance(x, y, WIDE)
    result = sapper.craft(model, x, y, attack=f"ddn:loss={loss}", threat="l2:min", bounds=(-4.0, 5.0))
    assert result.found.all()
    ratio = result.distance / exact
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= 1.02


def test_its_own_loss_does_not_depend_on_how_sure_the_model_is() -> None:
    model = network(seed=2)
    x, y = samples(model)
    before = sapper.craft(model, x, y, attack="ddn", threat="l2:min")
    model[-1].weight.data.mul_(256)
    model[-1].bias.data.mul_(256)
    assert torch.equal(sapper.craft(model, x, y, attack="ddn", threat="l2:min").x_adv, before.x_adv)
    assert not sapper.craft(model, x, y, attack="ddn:loss=cross_entropy", threat="l2:min").found.all()


def test_more_steps_come_nearer_on_a_curved_model() -> None:
    model = network(seed=2)
    x, y = samples(model, rows=40)
    few, many = (sapper.craft(model, x, y, attack=f"ddn:steps={n}", threat="l2:min") for n in (20, 200))
    assert few.found.all()
    assert many.distance.median() < few.distance.median()


def test_without_a_gradient_it_stays_and_its_norm_stops_at_the_box() -> None:
    """1.9 to the 200th is beyond what a float32 holds."""
    model = linear(torch.zeros(2, 3), torch.tensor([1.0, 0.0]))
    x = torch.tensor([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]])
    result = sapper.craft(
        model, x, torch.zeros(2, dtype=torch.int64), attack="ddn:steps=200,gamma=0.9", threat="l2:min"
    )
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)
    attack, case, oracle = DDN(), case_of(x, Threat.parse("l2:min")), TorchOracle(model)
    state = attack.start(case, oracle)
    for _ in range(20):
        state = attack.step(case, oracle, state)
    torch.testing.assert_close(state.norm, torch.tensor([1.5, math.sqrt(0.75)]))


def test_it_never_leaves_a_budget() -> None:
    model, threat = network(seed=2), Threat.parse("l2:0.2")
    x, _ = samples(model)
    attack, case, oracle = DDN(), case_of(x, threat), TorchOracle(model)
    state = attack.start(case, oracle)
    for _ in range(5):
        state = attack.step(case, oracle, state)
        assert threat.legal(state.x_adv, x).all()


@pytest.mark.parametrize("options", ["steps=0", "gamma=0", "gamma=1", "first_norm=-1"])
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    x = torch.rand(1, 2)
    with pytest.raises(UsageError):
        sapper.craft(border(1.0), x, torch.zeros(1, dtype=torch.int64), attack=f"ddn:{options}", threat="l2:min")
