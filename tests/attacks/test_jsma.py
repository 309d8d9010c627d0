"""Algorithm 2 and 3 of Papernot et al. (2016), and what others make of them (reference/papers.md §1.3)."""

import math

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper.attacks.jsma import JSMA
from sapper.errors import UsageError
from sapper.scheduler import Crafted
from toys import linear, network, pairs, predict, saliency_model, samples


def craft_to(target: int, model: nn.Module, x: Tensor, threat: str, label: int = 0, **options) -> Crafted:
    rows = torch.ones(len(x), dtype=torch.int64)
    return sapper.craft(model, x, label * rows, attack=JSMA(**options), threat=threat, targets=target * rows)


def changed(result: Crafted, x: Tensor) -> list[int]:
    return (result.x_adv != x)[0].nonzero()[:, 0].tolist()


def algorithm_2(model: nn.Module, x: Tensor, target: int, most: int, attack: JSMA) -> tuple[Tensor, int, bool]:
    """One sample, with the full Jacobian and all pairs one after the other; the last input, its steps, and whether it won."""
    x_adv, domain, steps = x.clone(), set(range(len(x))), 0

    def jacobian(at: Tensor) -> Tensor:
        outputs = model if attack.saliency == "logits" else nn.Sequential(model, nn.Softmax(1))
        return torch.autograd.functional.jacobian(lambda row: outputs(row[None])[0], at)

    while int(predict(model, x_adv[None])) != target and steps < most // (2 if attack.features == "pair" else 1):
        forward_derivative = jacobian(x_adv)
        alphas = forward_derivative[target].tolist()
        betas = (forward_derivative.sum(0) - forward_derivative[target]).tolist()
        tuples = pairs(len(x)) if attack.features == "pair" else [(i,) for i in range(len(x))]
        best, chosen = 0.0, None
        for some in tuples:
            if not domain.issuperset(some):
                continue
            alpha, beta = sum(alphas[i] for i in some), sum(betas[i] for i in some)
            fits = (alpha > 0 and beta < 0) if attack.theta > 0 else (alpha < 0 and beta > 0)
            if fits and -alpha * beta > best:
                best, chosen = -alpha * beta, some
        if chosen is None:
            break
        for i in chosen:
            x_adv[i] = min(1.0, max(0.0, float(x_adv[i]) + attack.theta))
            if float(x_adv[i]) in (0.0, 1.0):
                domain.discard(i)
        steps += 1
    return x_adv, steps, int(predict(model, x_adv[None])) == target


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3, -0.3, 2.5])
@pytest.mark.parametrize("features", ["pair", "single"])
@pytest.mark.parametrize("saliency", ["logits", "probabilities"])
def test_all_samples_at_once_do_what_algorithm_2_does_to_each(theta: float, features, saliency) -> None:
    model = network((14,), classes=3, seed=2, dtype=torch.float64)
    x, _ = samples(model, rows=12, shape=(14,))
    x[::3] = x[::3].round()  # some start at the edges
    label = predict(model, x)
    target = (label + 1 + torch.arange(12) % 2) % 3
    attack = JSMA(theta=theta, features=features, saliency=saliency)
    result = sapper.craft(model, x, label, attack=attack, threat="l0:9", targets=target, batch_size=5)
    assert 3 < int(result.found.sum()) < 12
    for row in range(12):
        expected, steps, won = algorithm_2(model, x[row], int(target[row]), 9, attack)
        assert bool(result.found[row]) == won
        assert torch.equal(result.x_adv[row], expected)
        if won:
            assert int(result.steps[row]) == steps
            assert int(result.forwards[row]) == steps + 1


def test_the_others_count_and_not_only_the_target() -> None:
    """The two features with the largest derivative of the target raise the others still more; ART takes those two."""
    a, b = [5.0, 4.0, 1.0], [-4.0, 1.0, 3.0]
    x = torch.zeros(1, 3)
    assert changed(craft_to(1, saliency_model(a, b), x, "l0:2"), x) == [1, 2]


def test_a_pair_qualifies_together_where_neither_does_alone() -> None:
    """The paper's p1 (target 5, others +0.1) and p2 (target -0.5, others -6)."""
    model, x = saliency_model([5.0, -0.5], [-0.1, 6.0]), torch.zeros(1, 2)
    assert changed(craft_to(1, model, x, "l0:2"), x) == [0, 1]
    assert changed(craft_to(1, model, x, "l0:2", features="single"), x) == []


def test_probabilities_say_nothing_of_the_others() -> None:
    """Their derivatives sum to 0 over the classes, so the best pair is that of the two largest for the target alone."""
    model = network((10,), classes=4, seed=4, dtype=torch.float64)
    x, _ = samples(model, rows=8, shape=(10,))
    target = (predict(model, x) + 1) % 4
    results = {
        kind: sapper.craft(model, x, predict(model, x), attack=JSMA(saliency=kind), threat="l0:2", targets=target)
        for kind in ("probabilities", "logits")
    }
    differing = 0
    for row in range(8):
        slopes = torch.autograd.functional.jacobian(lambda one: model(one[None]).softmax(1)[0], x[row])
        assert slopes.sum(0).abs().max() < 1e-12
        top = slopes[target[row]].topk(2).indices.sort().values
        assert (results["probabilities"].x_adv[row] != x[row]).nonzero()[:, 0].tolist() == top.tolist()
        differing += int((results["logits"].x_adv[row] != results["probabilities"].x_adv[row]).any())
    assert differing > 3


def test_the_saliency_of_logits_is_not_starved_by_a_sure_softmax() -> None:
    """At a confidence of 1 the softmax has no derivative left, the logits have."""
    model, x = saliency_model([1.0, 1.0], [1.0, 1.0], gap=500.0), torch.zeros(1, 2)
    assert changed(craft_to(1, model, x, "l0:2"), x) == [0, 1]
    assert changed(craft_to(1, model, x, "l0:2", saliency="probabilities"), x) == []


LADDER = saliency_model([8.0, 8.0, 4.0, 4.0, 1.0, 1.0], [8.0, 8.0, 4.0, 4.0, 1.0, 1.0])
"""Features in three pairs of falling saliency."""


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (1, [0.25, 0.25, 0, 0, 0, 0]),
        (2, [0.5, 0.5, 0, 0, 0, 0]),
        (4, [1, 1, 0, 0, 0, 0]),
        (5, [1, 1, 0.25, 0.25, 0, 0]),
        (9, [1, 1, 1, 1, 0.25, 0.25]),
    ],
)
def test_a_feature_is_raised_again_until_it_saturates(iterations: int, expected: list[float]) -> None:
    """By small steps; others retire it after one."""
    x = torch.zeros(1, 6)
    # Of 6 features at most 3 iterations fit, so more features that do nothing stand beside.
    model = nn.Sequential(FirstSix(), LADDER)
    wide = torch.zeros(1, 40)
    result = craft_to(1, model, wide, f"l0:{2 * iterations}", theta=0.25)
    assert result.x_adv[:, :6].tolist() == [expected]
    assert torch.equal(x, torch.zeros(1, 6))


class FirstSix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :6]


def test_a_step_larger_than_the_room_is_clipped_and_saturates() -> None:
    x = torch.full((1, 6), 0.5)
    result = craft_to(1, LADDER, x, "l0:4", theta=3.0)
    assert result.x_adv.tolist() == [[1, 1, 1, 1, 0.5, 0.5]]


def test_a_saturated_feature_may_be_chosen_once_and_is_then_out() -> None:
    """The paper's domain starts with every feature; choosing a white one changes nothing and retires it."""
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert changed(craft_to(1, LADDER, x, "l0:2"), x) == [1]
    assert changed(craft_to(1, LADDER, x, "l0:4"), x) == [1, 2, 3]
    assert changed(craft_to(1, LADDER, x, "l0:6"), x) == [1, 2, 3, 4, 5]


def test_decreasing_decreases_and_stops_at_the_bottom() -> None:
    """CleverHans raised the features it had chosen to lower, beyond the top."""
    model = saliency_model([-8.0, -8.0, -4.0, -4.0], [-8.0, -8.0, -4.0, -4.0])
    x = torch.tensor([[0.25, 0.75, 0.9, 0.9]])
    torch.testing.assert_close(craft_to(1, model, x, "l0:2", theta=-0.5).x_adv, torch.tensor([[0.0, 0.25, 0.9, 0.9]]))
    result = craft_to(1, model, x, "l0:4", theta=-1.0)
    assert not result.x_adv.any()
    assert (craft_to(1, LADDER, torch.full((1, 6), 0.5), "l0:6", theta=-1.0).x_adv == 0.5).all()


def test_decreasing_on_a_mirrored_model_mirrors_increasing() -> None:
    model = network((12,), dtype=torch.float64)
    x, _ = samples(model, shape=(12,))
    label = predict(model, x)

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(1 - x)

    options = {"threat": "l0:6", "targets": (label + 1) % 4}
    up = sapper.craft(model, x, label, attack=JSMA(theta=0.5), **options)
    down = sapper.craft(Mirrored(), 1 - x, label, attack=JSMA(theta=-0.5), **options)
    assert up.found.any()
    assert torch.equal(up.found, down.found)
    torch.testing.assert_close(1 - down.x_adv, up.x_adv)


def test_14_5_percent_of_784_are_56_iterations_and_112_features() -> None:
    slopes = torch.linspace(1, 2, 784).tolist()
    model, x = saliency_model(slopes, slopes, gap=1e6), torch.zeros(1, 784)
    result = craft_to(1, model, x, "l0:14.5%")
    assert not result.found.any()
    assert result.steps.tolist() == [56]
    assert len(changed(result, x)) == 112
    assert math.isclose(112 / 784, 0.142857, rel_tol=1e-5)


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.01, -1.0])
@pytest.mark.parametrize(("features", "budget"), [("pair", 5), ("pair", 6), ("single", 5)])
def test_the_cap_is_never_overrun(theta: float, features, budget: int) -> None:
    model = network((1, 6, 6), seed=1)
    x, y = samples(model, rows=30, shape=(1, 6, 6))
    result = sapper.craft(
        model, x, y, attack=JSMA(theta=theta, features=features), threat=f"l0:{budget}", targets=(y + 1) % 4
    )
    assert result.steps.max() == budget // (2 if features == "pair" else 1)
    assert (result.x_adv != x).flatten(1).sum(1).max() <= 2 * (budget // 2) if features == "pair" else budget


def test_a_target_that_is_reached_already_costs_nothing() -> None:
    model, x = linear(torch.eye(3)), torch.tensor([[0.1, 0.9, 0.1]])
    result = craft_to(1, model, x, "l0:2")
    assert result.found.all()
    assert torch.equal(result.x_adv, x)
    assert result.distance.tolist() == [0]
    assert result.forwards.tolist() == [1]


@pytest.mark.parametrize("features", ["pair", "single"])
def test_without_an_admissible_choice_it_stops_as_failed_and_changes_nothing(features) -> None:
    """Others go on with feature 0."""
    model, x = saliency_model([-1.0, -2.0, -3.0], [1.0, 1.0, 1.0]), torch.full((1, 3), 0.2)
    result = craft_to(1, model, x, "l0:3", features=features)
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)
    assert result.steps.tolist() == [1]


def test_it_stops_when_every_feature_is_saturated() -> None:
    model, x = saliency_model([1.0] * 4, [1.0] * 4), torch.zeros(1, 4)
    result = sapper.craft(model, x, torch.tensor([0]), attack="jsma", threat="l0:min", targets=torch.tensor([1]))
    assert result.x_adv.tolist() == [[1, 1, 1, 1]]
    assert not result.found.any()
    small = craft_to(1, nn.Sequential(FirstSix(), LADDER), torch.zeros(1, 40), "l0:40", theta=1.0)
    assert small.x_adv[0, :6].tolist() == [1] * 6


def test_single_features_on_two_linear_classes_are_the_fewest_possible() -> None:
    weight = torch.tensor([[3.0, 1.0, 5.0, 2.0, 4.0]])
    model = linear(torch.cat([-weight, weight]), torch.tensor([8.0, -8.0]))
    x = torch.zeros(1, 5)
    result = craft_to(1, model, x, "l0:min", features="single")
    assert result.found.all()
    assert changed(result, x) == [2, 4]  # 5 + 4 is above 8, nothing less of two features is
    assert result.distance.tolist() == [2]


def test_without_a_target_the_label_falls_and_all_others_rise() -> None:
    """Class 0 is the label: feature 0 lowers it most, while the others rise together."""
    model = linear(torch.tensor([[-4.0, -1.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), torch.tensor([100.0, 0.0, 0.0]))
    x = torch.zeros(1, 3)
    result = sapper.craft(model, x, torch.tensor([0]), attack=JSMA(features="single"), threat="l0:1")
    assert changed(result, x) == [0]  # 4·2 against 1·4, and feature 2 raises the label


def test_pictures_keep_their_shape_and_each_colour_is_a_feature() -> None:
    model = network((3, 4, 4), seed=1)
    x, y = samples(model, shape=(3, 4, 4))
    result = sapper.craft(model, x, y, attack="jsma", threat="l0:6")
    assert result.x_adv.shape == x.shape
    assert torch.equal(result.distance[result.found], (result.x_adv != x).flatten(1).sum(1)[result.found].float())


@pytest.mark.parametrize("theta", [0.0, math.nan, math.inf])
def test_a_theta_that_cannot_move_anything_is_refused(theta: float) -> None:
    with pytest.raises(UsageError, match="theta"):
        JSMA(theta=theta)


def test_with_room_asked_for_a_saturated_feature_is_not_chosen_at_all() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    first, second = changed(craft_to(1, LADDER, x, "l0:2", room=0.01), x)
    assert first == 1
    assert second in (2, 3)
    assert changed(craft_to(1, LADDER, x, "l0:2", room=0.0), x) == [1]
    half = torch.tensor([[0.6, 0.6, 0.0, 0.0, 0.0, 0.0]])  # 0.4 of room is more than half of a theta of 0.5
    assert changed(craft_to(1, LADDER, half, "l0:2", theta=0.5, room=0.5), half) == [0, 1]
    low = torch.tensor([[0.4, 0.4, 0.6, 0.6, 0.0, 0.0]])  # decreasing, the room is below
    falling = saliency_model([-8.0, -8.0, -4.0, -4.0, -1.0, -1.0], [-8.0, -8.0, -4.0, -4.0, -1.0, -1.0])
    assert changed(craft_to(1, falling, low, "l0:2", theta=-1.0, room=0.5), low) == [2, 3]


@pytest.mark.parametrize("room", [-0.1, 1.1, math.nan])
def test_a_room_that_is_no_share_is_refused(room: float) -> None:
    with pytest.raises(UsageError, match="room"):
        JSMA(room=room)


def picture_with_two_holes() -> tuple[nn.Module, Tensor]:
    """Grey, with two black pixels, 7 and 17, that say less than the pixels 0 and 4."""
    slopes = [1.0] * 25
    slopes[0] = slopes[4] = 9.0
    x = torch.full((1, 1, 5, 5), 0.5)
    x.view(-1)[[7, 17]] = 0.0
    model = saliency_model(slopes, slopes)
    return model, x


def test_within_a_roughness_only_pixels_are_changed_that_smooth_the_picture() -> None:
    model, x = picture_with_two_holes()
    free = craft_to(1, model, x, "l0:2", theta=0.5)
    assert (free.x_adv != x).flatten().nonzero().flatten().tolist() == [0, 4]
    smooth = craft_to(1, model, x, "l0:2", theta=0.5, roughness=0.0)
    assert (smooth.x_adv != x).flatten().nonzero().flatten().tolist() == [7, 17]


def test_where_every_change_is_too_rough_it_stops_as_failed_and_changes_nothing() -> None:
    model, _ = picture_with_two_holes()
    x = torch.full((1, 1, 5, 5), 0.5)
    result = craft_to(1, model, x, "l0:6", theta=0.5, roughness=0.0)
    assert not result.found.any()
    assert torch.equal(result.x_adv, x)


def test_roughness_is_of_pictures_only() -> None:
    with pytest.raises(UsageError, match="images"):
        craft_to(1, LADDER, torch.zeros(1, 6), "l0:2", roughness=1.0)
