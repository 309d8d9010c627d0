import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue, noise
from sapper.attacks.bim import BIM
from sapper.attacks.mifgsm import MIFGSM
from sapper.errors import ModelError, UsageError
from sapper.goal import Untargeted
from sapper.input_diversity import resized, smoothed
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


IMAGES = torch.rand(6, 2, 8, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
VIEWER = network((2, 8, 9), seed=3, dtype=torch.float64)
ANSWERS = predict(VIEWER, IMAGES)


def image_case(threat: str = "linf:0.1"):
    return case_of(IMAGES, Threat.parse(threat), Untargeted(ANSWERS))


@pytest.mark.parametrize("off", [{"smallest": 0.5}, {"smoothing": 1}, {"diversity": 1.0, "smallest": 1.0}])
def test_an_aid_without_effect_leaves_the_attack_as_it_is(off: dict) -> None:
    plain, other = states(image_case(), VIEWER), states(image_case(), VIEWER, **off)
    torch.testing.assert_close(other[-1].x_adv, plain[-1].x_adv)
    torch.testing.assert_close(other[-1].momentum, plain[-1].momentum)


@pytest.mark.parametrize("aid", [{"nesterov": True}, {"diversity": 1.0, "smallest": 0.5}, {"smoothing": 3}])
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"])
def test_an_aid_changes_the_way_but_not_the_budget(aid: dict, threat: str) -> None:
    plain, other = states(image_case(threat), VIEWER)[-1], states(image_case(threat), VIEWER, **aid)[-1]
    assert (other.x_adv != plain.x_adv).any()
    assert image_case(threat).threat.legal(other.x_adv, IMAGES).all()
    assert other.momentum.isfinite().all()


def test_nesterov_takes_the_gradient_a_step_ahead_as_the_authors_code_does() -> None:
    """x_nes = x + α·μ·g with gradients divided by the mean of their sizes."""
    case = image_case()
    x_adv, momentum = IMAGES, torch.zeros_like(IMAGES)
    for _ in range(3):
        leaf = (x_adv + 0.1 / 3 * 0.7 * momentum).clamp(0, 1).requires_grad_()
        loss = -VIEWER(leaf).log_softmax(1)[torch.arange(6), ANSWERS].sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        momentum = 0.7 * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        x_adv = (x_adv + 0.1 / 3 * momentum.sign()).clamp(IMAGES - 0.1, IMAGES + 0.1).clamp(0, 1)
    state = states(case, VIEWER, steps=3, nesterov=True, decay=0.7)[-1]
    torch.testing.assert_close(state.x_adv, x_adv)


def test_without_momentum_there_is_nothing_ahead() -> None:
    plain, ahead = (states(image_case(), VIEWER, decay=0.0, nesterov=on)[-1] for on in (False, True))
    assert torch.equal(ahead.x_adv, plain.x_adv)


def test_smoothing_is_the_mean_over_shifted_gradients() -> None:
    """A single derivative becomes the kernel: a Gaussian from -3 to 3 standard deviations, 1 in sum, each colour for itself."""
    gradient = torch.zeros(2, 3, 9, 9, dtype=torch.float64)
    gradient[1, 2, 4, 4] = 2.0
    line = torch.exp(-(torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0], dtype=torch.float64) ** 2) / 2)
    line /= line.sum()
    result = smoothed(gradient, 5)
    torch.testing.assert_close(result[1, 2, 2:7, 2:7], 2 * line[:, None] * line)
    torch.testing.assert_close(result.sum(), gradient.sum())
    assert not result[0].any()
    assert not result[1, :2].any()


def keys(rows: int):
    index = torch.arange(rows)
    return noise.keys(0, index), torch.zeros_like(index)


def test_a_resized_picture_is_the_whole_one_made_smaller_on_an_empty_one() -> None:
    x = torch.arange(1, 101, dtype=torch.float64).reshape(1, 1, 10, 10).repeat(400, 1, 1, 1)
    view = resized(x, *keys(400), 1.0, 0.5)
    shown = view.apply(x, 0.0)
    filled = (shown > 0).any(3).sum((1, 2))
    assert set(filled.tolist()) == {5, 6, 7, 8, 9, 10}
    half = shown[filled == 5][0, 0]
    rows, columns = (half > 0).any(1).nonzero()[:, 0], (half > 0).any(0).nonzero()[:, 0]
    assert torch.equal(half[rows][:, columns], x[0, 0, ::2, ::2])
    starts = {int((one[0] > 0).any(1).nonzero()[0]) for one in shown[filled == 5]}
    assert starts == {0, 1, 2, 3, 4, 5}


def test_pictures_are_resized_as_often_as_asked_and_each_for_itself() -> None:
    x = torch.ones(2000, 1, 10, 10)
    changed = (resized(x, *keys(2000), 0.3, 0.5).apply(x, 0.0) == 0).flatten(1).any(1)
    assert 0.24 < float(changed.double().mean()) < 0.36  # a tenth of the resized keep their size
    key, age = keys(2000)
    alone = resized(x[7:8], key[7:8], age[7:8], 0.3, 0.5)
    assert torch.equal(alone.rows[0], resized(x, key, age, 0.3, 0.5).rows[7])


def test_the_gradient_goes_back_through_the_resizing() -> None:
    view = resized(IMAGES, *keys(6), 1.0, 0.4)
    leaf = IMAGES.clone().requires_grad_()
    cotangent = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected,) = torch.autograd.grad(view.apply(leaf, 0.5), leaf, cotangent)
    torch.testing.assert_close(view.pull(cotangent), expected)


@pytest.mark.parametrize("aid", ["diversity=0.5", "smoothing=3"])
def test_aids_for_pictures_are_refused_elsewhere(aid: str) -> None:
    with pytest.raises(UsageError, match="are for images"):
        sapper.craft(MODEL, X.flatten(1), Y, attack=f"mifgsm:{aid}", threat="linf:0.1")


@pytest.mark.parametrize("wrong", ["diversity=1.5", "smallest=0", "smoothing=4", "smoothing=-1", "confidence=-1"])
def test_values_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong.partition("=")[0]):
        catalogue.attack(f"mifgsm:{wrong}")


def test_with_much_confidence_all_steps_are_taken_whatever_the_model_says() -> None:
    sure = sapper.craft(MODEL, X, Y, attack=MIFGSM(steps=7, confidence=1000), threat="linf:0.2")
    assert (sure.steps == 7).all()
    assert (predict(MODEL, sure.x_adv) != Y).any()


def test_an_ensemble_answers_with_the_mean_of_logits() -> None:
    first, second = network(seed=1), network(seed=2)
    x = X[:4].float()
    both = sapper.ensemble([first, second], weights=[3, 1])
    torch.testing.assert_close(both(x), 0.75 * first(x) + 0.25 * second(x))
    assert sapper.craft(both, x, predict(both, x), attack="mifgsm", threat="linf:0.5").found.any()
    torch.testing.assert_close(sapper.ensemble([first])(x), first(x))


def test_an_ensemble_of_nothing_or_of_other_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="one weight"):
        sapper.ensemble([])
    with pytest.raises(UsageError, match="one weight"):
        sapper.ensemble([MODEL, MODEL], weights=[1])
    with pytest.raises(ModelError, match="same classes"):
        sapper.ensemble([network(), network(classes=3)])(X.float())
