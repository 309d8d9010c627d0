import math

import pytest
import torch

import sapper
from sapper.attacks.deepfool import DeepFool
from sapper.errors import UsageError
from sapper.oracle import TorchOracle
from sapper.threat import NORMS, Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples, target_of

OPEN = (-100.0, 100.0)
NORM = pytest.mark.parametrize("norm", ["l2", "linf"])
ONE = torch.tensor([0])


def uniform(rows: int, features: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@NORM
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("overshoot", [0.02, 0.3])
def test_on_a_linear_model_one_step_reaches_one_and_the_overshoot_times_the_exact_distance(norm, classes, overshoot):
    """An overshoot in every step or twice in the last would show: 1.02² or 2·0.02."""
    model = random_linear(classes=classes, seed=3).double()
    x = uniform(40, 12)
    y = predict(model, x)
    exact = exact_of(model).distance(x, y, Threat.parse(f"{norm}:min"))
    result = sapper.craft(model, x, y, attack=DeepFool(overshoot=overshoot), threat=f"{norm}:min", bounds=OPEN)
    assert result.found.all()
    torch.testing.assert_close(result.distance, (1 + overshoot) * exact, rtol=1e-9, atol=0)
    assert (result.steps == 1).all()
    assert (result.forwards <= 3).all()  # the step, the look that ends it, and the frame's own


@NORM
def test_the_nearest_boundary_is_not_that_of_the_likeliest_class_nor_of_the_last(norm):
    """Class 1 is the likeliest and far for its slope, 2 the nearest, 3 the last."""
    model = linear(
        torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 4.0], [0.1, 0.1]]), torch.tensor([0.0, -1.0, -2.0, -3.0])
    )
    x = torch.zeros(1, 2)
    near = sapper.craft(model, x, ONE, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    assert near.predictions.tolist() == [2]
    torch.testing.assert_close(
        near.x_adv, torch.tensor([[0.0, 0.51]]), rtol=1e-4, atol=0.52 if norm == "linf" else 1e-6
    )
    assert near.backwards.tolist() == [6]  # three rivals, two looks
    two = sapper.craft(model, x, ONE, attack="deepfool:classes=2", threat=f"{norm}:min", bounds=OPEN)
    assert two.predictions.tolist() == [1]
    assert two.backwards.tolist() == [2]


@NORM
def test_steps_are_those_of_the_paper_with_the_overshoot_once_on_their_sum(norm):
    """x + (1 + overshoot)·Σr, r from the linearisation there: the authors' loop, written out for one sample."""
    model = network(dtype=torch.float64, seed=2)
    x, _ = samples(model, rows=12)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="deepfool:overshoot=0.1", threat=f"{norm}:min", bounds=OPEN)
    assert (result.steps > 1).any()
    for row in range(len(x)):
        torch.testing.assert_close(result.x_adv[row], _paper(model, x[row], int(y[row]), norm, 0.1), rtol=0, atol=1e-9)


def _paper(model, x, label: int, norm: str, overshoot: float):
    total = torch.zeros_like(x)
    for _ in range(50):
        point = x + (1 + overshoot) * total
        logits = model(point[None])[0].detach()
        if int(logits.argmax()) != label:
            break
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], point)
        best = None
        for k in range(len(logits)):
            if k != label:
                w, f = jacobian[k] - jacobian[label], float((logits[k] - logits[label]).abs())
                size = float(w.norm()) if norm == "l2" else float(w.abs().sum())
                r = f * w / size**2 if norm == "l2" else f / size * w.sign()
                best = (f / size, r) if best is None or f / size < best[0] else best
        total = total + best[1]
    return point.detach()


@NORM
def test_it_stops_at_once_on_what_is_misclassified(norm):
    model = random_linear(seed=1)
    x = uniform(10, 12).float()
    y = (predict(model, x) + 1) % 4
    result = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    assert result.found.all()
    assert torch.equal(result.x_adv, x)
    assert not result.steps.any()
    assert (result.forwards <= 2).all()


@NORM
def test_it_stops_at_the_first_crossing(norm):
    """The look that sees it is the last, whatever its limit; the frame asks once more."""
    model = network(seed=1)
    x, _ = samples(model, rows=30)
    y = predict(model, x)
    result = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    assert result.found.all()
    assert (result.forwards <= result.steps + 2).all()
    assert result.steps.double().mean() < 4  # "converges in less than 3 iterations"


@NORM
def test_a_target_is_reached_and_no_nearer_than_every_one_of_its_boundaries(norm):
    model = random_linear(seed=5).double()
    x = uniform(40, 12)
    y = predict(model, x)
    target = (y + 2) % 4
    result = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:min", targets=target, bounds=OPEN)
    assert result.found.all()
    assert torch.equal(predict(model, result.x_adv), target)
    exact, rows = exact_of(model), torch.arange(40)
    logits = x @ exact.weight.T + exact.bias
    slope = exact.weight[None] - exact.weight[target][:, None]
    far = (logits - logits[rows, target][:, None]) / slope.norm(p=2 if norm == "l2" else 1, dim=2)
    nearest = far.nan_to_num(-1).amax(1)
    assert (result.distance >= nearest).all()
    assert (result.distance / nearest).median() < 1.2
    assert (result.backwards <= result.forwards).all()  # one boundary, one pull


@NORM
def test_a_budget_finds_just_those_within_its_reach(norm):
    model = random_linear(seed=3).double()
    x = uniform(60, 12)
    y = predict(model, x)
    reach = 1.02 * exact_of(model).distance(x, y, Threat.parse(f"{norm}:min"))
    budget = float(reach.median())
    result = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:{budget:.6f}", bounds=OPEN)
    sure = (reach / budget - 1).abs() > 1e-4
    assert torch.equal(result.found[sure], (reach < budget)[sure])


def test_where_the_box_holds_a_feature_back_the_others_go_on():
    """Lead 0.5, slope (1, 1): the first feature stops at the bound after 0.1, the second makes up for the rest, 0.4."""
    model = linear(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1.5, 0.0]))
    x = torch.tensor([[0.9, 0.1]])
    l2 = sapper.craft(model, x, ONE, attack="deepfool", threat="l2:min")
    assert l2.found.all()
    torch.testing.assert_close(l2.x_adv, torch.tensor([[1.0, 0.5]]), rtol=0.02, atol=0)
    assert float(l2.x_adv.amax()) == 1.0
    linf = sapper.craft(model, x, ONE, attack="deepfool", threat="linf:min")
    assert linf.found.all()
    assert float(linf.distance) == pytest.approx(0.4, rel=0.03)


@NORM
def test_every_step_stays_in_the_box(norm):
    model = network(seed=1)
    x, _ = samples(model, rows=20)
    threat = Threat.parse(f"{norm}:min")
    case, attack, oracle = case_of(x, threat), DeepFool(), TorchOracle(model)
    state = attack.start(case, oracle)
    for _ in range(8):
        state = attack.step(case, oracle, state)
        assert ((state.x_adv >= 0) & (state.x_adv <= 1)).all()


@NORM
def test_units_do_not_matter(norm):
    """On 0 to 255 the distances are 255 times those on 0 to 1: nothing is multiplied by the width of the box."""
    model = random_linear(seed=3).double()
    wide = random_linear(seed=3).double()
    wide[1].weight.data /= 255
    x = uniform(30, 12)
    y = predict(model, x)
    small = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:min")
    large = sapper.craft(wide, x * 255, y, attack="deepfool", threat=f"{norm}:min", bounds=(0.0, 255.0))
    assert small.found.any()
    assert torch.equal(small.found, large.found)
    torch.testing.assert_close(large.distance[small.found], 255 * small.distance[small.found])


@NORM
def test_a_class_without_a_gradient_is_passed_over(norm):
    """Class 1 is the likeliest rival and parallel to class 0: no step leads to it."""
    model = linear(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, -0.1, -1.0]))
    result = sapper.craft(model, torch.zeros(1, 2), ONE, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    assert result.predictions.tolist() == [2]


@NORM
@pytest.mark.parametrize("lead", [1.0, 0.0])
def test_no_gradient_at_all_ends_it_without_nan(norm, lead):
    model = linear(torch.zeros(3, 4), torch.tensor([lead, 0.0, 0.0]))
    x = torch.full((2, 4), 0.5)
    result = sapper.craft(model, x, torch.zeros(2, dtype=torch.int64), attack="deepfool", threat=f"{norm}:min")
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)
    assert (result.backwards == 2).all()  # one look, not fifty


@NORM
@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_the_scale_of_the_logits_does_not_matter(norm, scale):
    model, scaled = random_linear(seed=3), random_linear(seed=3)
    for weight in scaled.parameters():
        weight.data *= scale
    x = uniform(20, 12).float()
    y = predict(model, x)
    plain = sapper.craft(model, x, y, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    other = sapper.craft(scaled, x, y, attack="deepfool", threat=f"{norm}:min", bounds=OPEN)
    assert other.found.all()
    torch.testing.assert_close(other.distance, plain.distance, rtol=1e-3, atol=0)


def test_rows_do_not_mix():
    """A row alone takes the step that it takes in company, a target beside it or not."""
    model, threat = network(dtype=torch.float64), Threat.parse("l2:min")
    x, y = samples(model, rows=6)
    goal = target_of(y, (y + 1) % 4)
    attack, oracle = DeepFool(), TorchOracle(model)
    case = case_of(x, threat, goal)
    together = attack.step(case, oracle, attack.start(case, oracle)).x_adv
    for row in range(6):
        alone = case_of(x[row : row + 1], threat, target_of(goal.label[row : row + 1], goal.target[row : row + 1]))
        torch.testing.assert_close(attack.step(alone, oracle, attack.start(alone, oracle)).x_adv[0], together[row])


def test_its_limit_is_its_steps_and_options_are_checked():
    assert DeepFool(steps=7).limit(math.inf) == 7
    assert DeepFool.norms == {NORMS["l2"], NORMS["linf"]}
    assert DeepFool.minimal
    for wrong in ({"classes": 1}, {"overshoot": 0.0}, {"overshoot": math.nan}, {"steps": 0}):
        with pytest.raises(UsageError):
            DeepFool(**wrong)
