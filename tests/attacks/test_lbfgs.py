import math

import pytest
import torch
from torch.nn import functional

import sapper
from sapper import catalogue
from sapper.attacks.lbfgs import LBFGS, _cross_entropy
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.tensors import join
from sapper.threat import Threat
from toys import WIDE, case_of, drawn, exact_of, linear, network, predict, random_linear, samples, target_of

MIN = Threat.parse("l2:min")
SMALL = "lbfgs:steps=20,search_steps=6"


@pytest.mark.parametrize("features", [12, 100])
def test_on_a_linear_model_it_comes_within_two_percent_of_the_exact_distance(features: int) -> None:
    model = random_linear(features=features, seed=features)
    x = drawn(20, features)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="lbfgs:steps=25", threat="l2:min", bounds=WIDE)
    assert result.found.all()
    ratio = result.distance / exact_of(model).distance(x, y, MIN)
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() <= 1.02


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_it_comes_as_near_whatever_the_scale_of_the_logits(scale: float) -> None:
    """Of logits well below 1 the bare cross-entropy pushes away from all other classes."""
    model = random_linear(features=50, classes=10, seed=1)
    x = drawn(20, 50)
    y, exact = predict(model, x), exact_of(model)
    for parameter in model.parameters():
        parameter.data *= scale
    result = sapper.craft(model, x, y, attack="lbfgs", threat="l2:min", bounds=WIDE)
    assert result.found.all()
    assert (result.distance / exact.distance(x, y, MIN)).median() <= 1.005


def test_one_attempt_ends_at_the_minimum_of_distance_and_cross_entropy_in_the_box() -> None:
    """By the conditions of optimality there: no gradient but at the bounds, where it points out of the box."""
    model = network(dtype=torch.float64)
    x, y = samples(model, rows=10)
    target = (y + 1) % 4
    case, oracle = case_of(x, MIN, target_of(y, target)), TorchOracle(model)
    attack = LBFGS(steps=60, search_steps=2, constant=3.0, abort_early=False, loss="cross_entropy")
    state = attack.start(case, oracle)
    for _ in range(59):
        state = attack.step(case, oracle, state)
    at = (x + state.change.reshape(x.shape)).requires_grad_()
    loss = functional.cross_entropy(model(at), target, reduction="none") / state.search.slope * 3.0
    (gradient,) = torch.autograd.grad(((at - x).square().flatten(1).sum(1) + loss).sum(), at)
    inwards = ((at > 1e-9) & (gradient > 0)) | ((at < 1 - 1e-9) & (gradient < 0))
    assert (gradient * inwards).abs().max() < 1e-3
    assert ((at < 1e-9) | (at > 1 - 1e-9)).any()  # where the box has its say


def test_a_smaller_constant_gives_a_smaller_distance_until_it_no_longer_succeeds() -> None:
    """The squared distance counts once and the loss c times, so the smallest c is wanted, four times the distance here."""
    model = linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x = torch.tensor([[0.3, 0.0]])  # 0.3 from the border, 0.1 in widths of the box
    ends = []
    for constant in (0.38, 0.42, 0.6):
        attack, case = (
            LBFGS(search_steps=2, constant=constant, abort_early=False),
            case_of(x, Threat(p=2, eps=None, lower=-1.0, upper=2.0)),
        )
        state = attack.start(case, oracle := TorchOracle(model))
        for _ in range(attack.steps - 1):
            state = attack.step(case, oracle, state)
        ends.append((bool(state.reached), float(state.change.norm())))
    assert [reached for reached, _ in ends] == [False, True, True]
    assert ends[0][1] < 0.1 < ends[1][1] < ends[2][1]


def test_the_loss_is_the_one_whose_gradient_is_followed() -> None:
    """Of either sign alone it would rise while the other falls, and attempts that get on would be aborted."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    x, y = torch.zeros(6, 2), torch.arange(6) % 4
    for case in (case_of(x, MIN, Untargeted(y)), case_of(x, MIN, target_of(y, (y + 1) % 4))):
        loss, cotangent = _cross_entropy(case, logits)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        torch.testing.assert_close(cotangent, gradient)


def test_a_sure_model_s_samples_are_left_by_the_likeliest_wrong_class() -> None:
    """The label's own probability rounds to 1, so that its cross-entropy has no gradient: others stay where they are."""
    model = linear(torch.tensor([[400.0, 0.0], [-400.0, 0.0], [0.0, -400.0]]))
    x, y = torch.tensor([[0.3, 0.6]]), torch.tensor([0])
    result = sapper.craft(model, x, y, attack="lbfgs", threat="l2:min", bounds=WIDE)
    assert result.found.all()
    assert float(result.distance) == pytest.approx(0.3, rel=0.02)


def test_untargeted_success_is_any_other_class() -> None:
    model = random_linear(features=12, classes=5, seed=4)
    x = drawn(20, 12)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack=SMALL, threat="l2:min", bounds=WIDE)
    assert result.found.all()
    assert len(predict(model, result.x_adv).unique()) > 1
    assert (predict(model, result.x_adv) != y).all()


def test_targets_are_reached() -> None:
    model = random_linear(seed=5)
    x = drawn(10, 12)
    y = predict(model, x)
    target = (y + 1) % 4
    result = sapper.craft(model, x, y, attack=SMALL, threat="l2:min", targets=target, bounds=(-5.0, 6.0))
    assert result.found.all()
    assert torch.equal(predict(model, result.x_adv), target)


def test_one_question_a_step_whatever_the_line_search_does() -> None:
    model = network()
    x, _ = samples(model, rows=10)
    result = sapper.craft(model, x, predict(model, x), attack=SMALL, threat="l2:min")
    assert (result.forwards <= 20 * 6 + 1).all()
    assert (result.backwards <= 20 * 6).all()


def test_a_row_goes_its_own_way_whatever_the_ages_beside_it() -> None:
    model = network(dtype=torch.float64)
    x, y = samples(model, rows=6)
    attack, oracle = LBFGS(steps=20, search_steps=3), TorchOracle(model)

    def walk(case, state, steps):
        for _ in range(steps):
            state = attack.step(case, oracle, state)
        return state

    first, second = (case_of(x[part], MIN, Untargeted(y[part])) for part in (slice(0, 3), slice(3, 6)))
    old = walk(first, attack.start(first, oracle), 27)
    both = walk(join(first, second), join(old, attack.start(second, oracle)), 25)
    alone = join(walk(first, old, 25), walk(second, attack.start(second, oracle), 25))
    torch.testing.assert_close(both.x_adv, alone.x_adv, rtol=0, atol=1e-9)
    torch.testing.assert_close(both.search.constant, alone.search.constant)
    assert len(both.search.attempts.unique()) > 1


def test_what_cannot_be_fooled_stays_not_found_and_ends() -> None:
    model = linear(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([100.0, 0.0]))
    x, y = drawn(3, 2), torch.zeros(3, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack=SMALL, threat="l2:min")
    assert not result.found.any()


def test_its_limit_and_its_options() -> None:
    assert LBFGS(steps=10, search_steps=3).limit(math.inf) == 30
    for wrong in ("steps=0", "search_steps=0", "memory=0", "constant=0"):
        with pytest.raises(UsageError):
            catalogue.attack(f"lbfgs:{wrong}")
