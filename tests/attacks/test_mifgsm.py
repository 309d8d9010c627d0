import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper.attacks.bim import BIM
from sapper.attacks.mifgsm import MIFGSM
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, linear, network, predict, samples

MODEL = network(seed=1, dtype=torch.float64)
X, _ = samples(MODEL, rows=30)
Y = predict(MODEL, X)


def by_the_paper(
    model: nn.Module, x: Tensor, label: Tensor, eps: float, steps: int, decay: float
) -> list[tuple[Tensor, Tensor]]:
    """g ← μ·g + ∇J/‖∇J‖₁, x ← clip(x + ε/T·sign(g)), one sample; every (momentum, input)."""
    momentum, x_adv, path = torch.zeros_like(x), x, []
    for _ in range(steps):
        leaf = x_adv.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-model(leaf).log_softmax(1)[0, label], leaf)
        momentum = decay * momentum + gradient / gradient.abs().sum()
        x_adv = (x_adv + eps / steps * momentum.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        path.append((momentum, x_adv))
    return path


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 1.7])
def test_momentum_and_inputs_are_those_of_the_papers_formula(decay: float) -> None:
    """We descend, the paper ascends: our momentum is minus its own."""
    attack, oracle = MIFGSM(steps=10, decay=decay), TorchOracle(MODEL)
    case = case_of(X, Threat.parse("linf:0.2"), Untargeted(Y))
    paths = [by_the_paper(MODEL, X[row : row + 1], Y[row], 0.2, 10, decay) for row in range(30)]
    state = attack.start(case, oracle)
    for step in range(10):
        state = attack.step(case, oracle, state)
        for row in range(30):
            momentum, x_adv = paths[row][step]
            torch.testing.assert_close(-state.momentum[row : row + 1], momentum)
            torch.testing.assert_close(state.x_adv[row : row + 1], x_adv)


def test_gradients_and_not_their_signs_are_accumulated() -> None:
    """Foolbox takes the sign first. A large gradient one way outweighs a small one back, two signs cancel."""

    class Turning(nn.Module):
        """Class 1 rises by 9 a unit up to 0.55 and falls by 1 a unit after that; another feature keeps the l1 norm at 10."""

        def forward(self, x: Tensor) -> Tensor:
            first, second = x[:, :1], x[:, 1:]
            bent = torch.where(first < 0.55, 9 * first, 9 * 0.55 - (first - 0.55))
            rest = torch.where(first < 0.55, 1 * second, 9 * second)
            return torch.cat([0 * first + 1000, bent + rest], 1)

    x = torch.tensor([[0.5, 0.2]])
    result = sapper.craft(Turning(), x, torch.tensor([0]), attack=MIFGSM(steps=3, loss="margin"), threat="linf:0.3")
    # Momentum of the first feature: +0.9, +0.8, +0.7; so it goes on. Of signs it would be +1, 0, -1.
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.8, 0.5]]))


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.4"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_without_momentum_it_is_bim(threat: str, loss) -> None:
    moving = sapper.craft(MODEL, X, Y, attack=MIFGSM(decay=0, steps=7, loss=loss), threat=threat)
    plain = sapper.craft(MODEL, X, Y, attack=BIM(steps=7, loss=loss), threat=threat)
    assert plain.found.any()
    assert torch.equal(moving.found, plain.found)
    torch.testing.assert_close(moving.x_adv, plain.x_adv)


def test_with_momentum_it_is_not_bim() -> None:
    moving = sapper.craft(MODEL, X, Y, attack=MIFGSM(steps=7), threat="linf:0.1")
    plain = sapper.craft(MODEL, X, Y, attack=BIM(steps=7), threat="linf:0.1")
    assert (moving.x_adv != plain.x_adv).any()


def states(case, model: nn.Module, steps: int = 6, **options) -> list:
    attack, oracle = MIFGSM(steps=steps, **options), TorchOracle(model)
    path = [attack.start(case, oracle)]
    for _ in range(steps):
        path.append(attack.step(case, oracle, path[-1]))
    return path


@pytest.mark.parametrize("text", ["linf:0.2", "l2:0.5"])
def test_momentum_does_not_depend_on_batch_mates(text: str) -> None:
    threat = Threat.parse(text)
    together = states(case_of(X, threat, Untargeted(Y)), MODEL)[-1]
    for row in range(30):
        alone = states(case_of(X[row : row + 1], threat, Untargeted(Y[row : row + 1])), MODEL)[-1]
        torch.testing.assert_close(alone.momentum, together.momentum[row : row + 1])
        torch.testing.assert_close(alone.x_adv, together.x_adv[row : row + 1])


@pytest.mark.parametrize("scale", [1e-9, 1e-30, 1e9])
def test_momentum_does_not_depend_on_the_scale_of_the_gradient(scale: float) -> None:
    model = network(seed=1)
    scaled = network(seed=1)
    scaled[3].weight.data *= scale
    scaled[3].bias.data *= scale
    case = case_of(X.float(), Threat.parse("linf:0.2"), Untargeted(Y))
    plain, other = states(case, model, loss="margin")[-1], states(case, scaled, loss="margin")[-1]
    torch.testing.assert_close(other.momentum, plain.momentum, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.x_adv, plain.x_adv, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["linf:0.2", "l2:0.5"])
def test_a_zero_gradient_gives_no_nan_and_does_not_stop_the_others(text: str) -> None:
    class Flat(nn.Module):
        """No gradient where the first feature is below 0.5."""

        def forward(self, x: Tensor) -> Tensor:
            slope = torch.where(x[:, :1] < 0.5, 0.0, 1.0)
            return torch.cat([100 + 0 * x[:, :1], slope * x.sum(1, keepdim=True)], 1)

    x = torch.tensor([[0.1, 0.5], [0.7, 0.5]])
    path = states(case_of(x, Threat.parse(text), Untargeted(torch.tensor([0, 0]))), Flat(), loss="margin")
    assert all(state.momentum.isfinite().all() and state.x_adv.isfinite().all() for state in path)
    assert torch.equal(path[-1].x_adv[0], x[0])
    assert (path[-1].x_adv[1] > x[1]).all()


def test_single_coordinates_without_gradient_give_no_nan_in_l2() -> None:
    """Advertorch divides 0 by 0 there."""
    model = linear(torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]), torch.tensor([0.0, -60.0]))
    x = torch.full((1, 3), 0.2)
    result = sapper.craft(model, x, torch.tensor([0]), attack="mifgsm", threat="l2:0.5")
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.2, 0.5, 0.6]]))
