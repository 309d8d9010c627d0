import pytest
import torch

import sapper
from sapper.attacks.bim import BIM
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, linear, network, predict, samples

MODEL = network(seed=1)
X, Y = samples(MODEL, rows=40)
THREATS = ["linf:0.1", "l2:0.4", "l1:1", "l0:3"]


@pytest.mark.parametrize("threat", THREATS)
def test_one_step_is_fgsm(threat: str) -> None:
    one = sapper.craft(MODEL, X, Y, attack=BIM(steps=1), threat=threat)
    fgsm = sapper.craft(MODEL, X, Y, attack="fgsm", threat=threat)
    assert torch.equal(one.x_adv, fgsm.x_adv)
    assert torch.equal(one.forwards, fgsm.forwards)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_each_step_is_the_papers_formula_written_out(loss) -> None:
    eps, alpha, steps = 0.08, 0.02, 6
    result = sapper.craft(MODEL, X, Y, attack=BIM(steps=steps, step_size=alpha, loss=loss), threat=f"linf:{eps}")
    for row in range(40):
        x_adv, label = X[row : row + 1], Y[row]
        for _ in range(steps):
            if int(predict(MODEL, x_adv)) != label:
                break
            leaf = x_adv.clone().requires_grad_()
            logits = MODEL(leaf)[0]
            others = torch.cat([logits[:label], logits[label + 1 :]])
            value = -logits.log_softmax(0)[label] if loss == "cross_entropy" else others.max() - logits[label]
            (gradient,) = torch.autograd.grad(value, leaf)
            x_adv = (x_adv + alpha * gradient.sign()).clamp(X[row] - eps, X[row] + eps).clamp(0, 1)
        assert bool(result.found[row]) == (int(predict(MODEL, x_adv)) != label)
        torch.testing.assert_close(result.x_adv[row : row + 1], x_adv)


def test_the_default_steps_just_reach_the_edge_of_the_ball() -> None:
    model = linear(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([0.0, -60.0]))
    x = torch.full((1, 2), 0.5)
    for steps in (1, 4, 10):
        result = sapper.craft(model, x, torch.tensor([0]), attack=BIM(steps=steps), threat="linf:0.3")
        torch.testing.assert_close(result.x_adv, torch.tensor([[0.8, 0.2]]))
        assert result.steps.tolist() == [steps]
        assert result.backwards.tolist() == [steps]


def test_a_step_is_its_share_of_the_budget() -> None:
    case, oracle = case_of(X, Threat.parse("linf:0.2", lower=-9, upper=9), Untargeted(Y)), TorchOracle(MODEL)
    moved = BIM(steps=8).step(case, oracle, BIM(steps=8).start(case, oracle)).x_adv - X
    torch.testing.assert_close(moved.abs(), torch.full_like(X, 0.025))


def test_more_steps_find_more_than_one() -> None:
    one = sapper.craft(MODEL, X, Y, attack=BIM(steps=1), threat="l2:0.4").found.sum()
    many = sapper.craft(MODEL, X, Y, attack=BIM(steps=20, step_size=0.1), threat="l2:0.4").found.sum()
    assert many >= one
    assert many > 4


def test_small_budgets_in_l0_still_move() -> None:
    """eps/steps is below one feature here."""
    result = sapper.craft(MODEL, X, Y, attack=BIM(steps=10), threat="l0:2")
    assert (((result.x_adv != X).flatten(1).sum(1) > 0) | result.found).all()
