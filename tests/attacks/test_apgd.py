import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper.attacks.apgd import APGD, checkpoints
from sapper.errors import UsageError
from sapper.goal import Targeted, Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, drawn, linear, network, predict, random_linear, samples

MODEL = network(seed=1)
X, Y = samples(MODEL, rows=20)
THREATS = {"linf": "linf:0.1", "l2": "l2:0.4", "l1": "l1:1"}
EACH = pytest.mark.parametrize("norm", THREATS)


def states(attack: APGD, threat: str, model: torch.nn.Module = MODEL, count: int = 0):
    """What it remembers before each step."""
    y = predict(model, X)
    case, oracle = case_of(X, Threat.parse(threat), Untargeted(y)), TorchOracle(model)
    state = attack.start(case, oracle)
    for age in range(count or attack.steps):
        state = attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, state)
        yield state


def test_the_checkpoints_of_a_hundred_steps_are_the_papers() -> None:
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99, 105)
    assert checkpoints(1)[:2] == (0, 1)


@EACH
def test_the_best_loss_never_rises_and_no_step_leaves_the_threat(norm: str) -> None:
    threat, best = Threat.parse(THREATS[norm]), torch.tensor(math.inf)
    for state in states(APGD(steps=40), THREATS[norm]):
        assert (state.best.loss <= best).all()
        assert threat.legal(state.x_adv, X).all()
        assert threat.legal(state.best.x, X).all()
        best = state.best.loss


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_a_halving_it_goes_back_to_the_best_point(norm: str) -> None:
    size, halvings = None, 0
    for age, state in enumerate(states(APGD(steps=50), THREATS[norm])):
        if size is not None:
            back = state.size < size
            assert torch.equal(state.size[back], size[back] / 2)
            assert age in checkpoints(50) or not back.any()
            assert torch.equal(state.previous[back], state.best.x[back])
            halvings += int(back.sum())
        size = state.size
    assert halvings > 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_first_step_is_twice_the_budget_and_has_no_momentum(norm: str) -> None:
    threat = Threat.parse(THREATS[norm])
    case, oracle = case_of(X, threat, Untargeted(Y)), TorchOracle(MODEL)
    attack = APGD(random_start=False)
    state = attack.step(case, oracle, attack.start(case, oracle))
    logits, pull = oracle.vjp(X)
    gradient = pull(case.goal.cotangent("cross_entropy", logits))
    expected = threat.project(threat.descend(X, gradient, 2 * case.budget), X)
    torch.testing.assert_close(state.x_adv, expected)


def test_the_second_step_has_a_quarter_of_the_first_as_momentum() -> None:
    """On a linear model in linf: 0.75 of a step that ends at the budget, and a quarter of the last."""
    model = linear(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([0.0, -9.0]))
    x, threat = torch.full((1, 2), 0.5), Threat.parse("linf:0.2")
    case, oracle, attack = case_of(x, threat), TorchOracle(model), APGD(random_start=False)
    state = attack.step(case, oracle, attack.start(case, oracle))
    torch.testing.assert_close(state.x_adv, torch.tensor([[0.7, 0.3]]))
    short = replace(state, size=torch.tensor([0.1]), x_adv=torch.tensor([[0.54, 0.46]]), previous=x)
    after = attack.step(replace(case, age=case.age + 1), oracle, short).x_adv
    torch.testing.assert_close(after, torch.tensor([[0.54 + 0.075 + 0.01, 0.46 - 0.075 - 0.01]]))


def test_a_step_in_l1_moves_as_many_features_as_its_share_tells_by_the_same_amount() -> None:
    x, weight = torch.full((1, 20), 0.5), torch.arange(1.0, 21.0)
    model = linear(torch.stack([torch.zeros(20), weight]), torch.tensor([0.0, -900.0]))
    case, oracle, attack = (
        case_of(x, Threat.parse("l1:0.4")),
        TorchOracle(model),
        APGD(random_start=False, loss="margin"),
    )
    change = attack.step(case, oracle, attack.start(case, oracle)).x_adv - x
    assert change.nonzero()[:, 1].tolist() == [16, 17, 18, 19]  # a fifth of the features at first, the steepest
    torch.testing.assert_close(change[0, 16:], torch.full((4,), 0.1))


def test_in_l1_the_share_follows_the_best_point_and_a_step_stays_above_a_tenth_of_the_budget() -> None:
    *_, last = (every := list(states(APGD(steps=50), "l1:1")))
    for state in every:
        assert (state.share <= 1).all()
        assert (state.size >= 0.1 - 1e-6).all()
        assert (state.size <= 1).all()
    assert (last.share != 0.2).all()


@EACH
def test_on_a_linear_model_the_margin_falls_as_far_as_the_budget_allows(norm: str) -> None:
    """With two classes, a budget that does not suffice and a box out of reach."""
    plane = torch.randn(2, 12, generator=torch.Generator().manual_seed(4))
    slope = plane[0] - plane[1]
    model = linear(plane, torch.tensor([200.0, 0.0]))
    x = torch.full((4, 12), 0.5)
    dual = {"linf": slope.abs().sum(), "l2": slope.norm(), "l1": slope.abs().max()}[norm]
    result = sapper.craft(model, x, torch.zeros(4, dtype=torch.int64), attack="apgd:loss=margin", threat=f"{norm}:0.3")
    with torch.no_grad():
        before, after = ((a := model(at))[:, 0] - a[:, 1] for at in (x, result.x_adv))
    torch.testing.assert_close(before - after, (0.3 * dual).expand(4), rtol=2e-3, atol=0)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("options", ["loss=dlr", "loss=dlr,rival=1", "loss=margin"])
def test_few_classes_do_no_harm(classes: int, options: str) -> None:
    model = network(classes=classes)
    x, y = samples(model, rows=12)
    result = sapper.craft(model, x, y, attack=f"apgd:steps=10,{options}", threat="linf:0.15")
    assert int(result.found.sum()) > 2
    assert torch.equal(result.found, predict(model, result.x_adv) != y)
    assert not result.bad_gradients.any()


def test_a_rank_that_the_model_lacks_ends_at_once() -> None:
    model = random_linear(classes=2)
    x = X.flatten(1)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="apgd:rival=2,random_start=false", threat="linf:0.001")
    assert not result.steps.any()
    assert not result.backwards.any()
    assert (result.forwards <= 2).all()


def test_a_rival_is_the_class_of_that_rank_on_the_clean_sample() -> None:
    logits = MODEL(X).detach()
    y = logits.argmax(1)
    case = case_of(X, Threat.parse("linf:0.1"), Untargeted(y))
    ranked = logits.argsort(1, descending=True)
    for rank in (1, 2, 3):
        state = APGD(rival=rank).start(case, TorchOracle(MODEL))
        assert isinstance(state.goal, Targeted)
        assert torch.equal(state.goal.target, ranked[:, rank])
        assert state.done is not None
        assert not state.done.any()


def test_it_breaks_more_than_projected_descent_of_as_many_steps() -> None:
    model = network(seed=3)
    x, y = samples(model, rows=150)
    for threat in ("linf:0.05", "l2:0.2"):
        ours = sapper.craft(model, x, y, attack="apgd:steps=20", threat=threat)
        plain = sapper.craft(model, x, y, attack="pgd:steps=20", threat=threat)
        assert int(ours.found.sum()) >= int(plain.found.sum())


def test_a_rank_below_0_is_refused() -> None:
    with pytest.raises(UsageError, match="rival"):
        APGD(rival=-1)


@pytest.mark.parametrize(("classes", "seed"), [(3, 2), (5, 1)])
def test_dlr_reaches_targets_that_another_class_stands_before(classes: int, seed: int) -> None:
    """Against the label alone the target's logit may rise as it likes while a third class stays the largest."""
    model = random_linear(features=12, classes=classes, seed=seed)
    x = drawn(60, 12)
    y = predict(model, x)
    target = (y + 1) % classes
    dlr, plain = (
        sapper.craft(model, x, y, attack=attack, threat="linf:0.3", targets=target).found.sum()
        for attack in ("apgd:loss=dlr", "pgd:steps=100")
    )
    assert plain > 10
    assert dlr >= plain
