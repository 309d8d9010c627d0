import inspect
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue, scheduler
from sapper.attack import Attack, Cascade, Case, State
from sapper.attacks.bim import BIM
from sapper.attacks.fgsm import FGSM
from sapper.attacks.jsma import JSMA
from sapper.attacks.pgd import PGD
from sapper.citation import Paper
from sapper.errors import DataError, ModelError, UsageError
from sapper.oracle import GradientOracle
from sapper.threat import Threat
from toys import Watched, identical, linear, network, predict, random_linear, rows_of, samples

PAPER = Paper(title="None", authors="A. None", year=2000, url="https://none")
ATTACKS = ("pgd:steps=6", "jsma", "3*pgd:steps=3", "rand_fgsm")


def threat_for(attack: str) -> str:
    return "l0:4" if attack == "jsma" else "linf:0.12"


@dataclass(frozen=True, kw_only=True)
class Visits(Attack, norms={math.inf}, paper=PAPER):
    """Goes to a list of places, all features alike, whatever the gradient."""

    places: tuple[float, ...]
    claims_done: bool = False
    begin: float | None = None
    """By default at the sample."""

    def limit(self, budget: float) -> int:
        return len(self.places)

    def start(self, case: Case, oracle: GradientOracle) -> State:
        x_adv = case.x if self.begin is None else torch.full_like(case.x, self.begin)
        return State(x_adv=x_adv, done=torch.zeros_like(case.age, dtype=torch.bool))

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        oracle.logits(state.x_adv)
        place = torch.tensor(self.places)[case.age]
        return State(x_adv=place[:, None].expand_as(case.x), done=torch.full_like(state.done, self.claims_done))


class Scripted(nn.Module):
    """Answers the n-th call as told; what is asked does not matter."""

    def __init__(self, *answers: list[float]) -> None:
        super().__init__()
        self.answers, self.calls = answers, 0

    def forward(self, x: Tensor) -> Tensor:
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        return torch.tensor(answer).expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


ABOVE_HALF = linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -0.5]))
"""Class 1 above 0.5."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_results_do_not_depend_on_the_batch_size(attack: str) -> None:
    model = network()
    x, y = samples(model, rows=70)
    base = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack), batch_size=64)
    assert 0 < int(base.found.sum()) < 70
    for size in (1, 7, 200):
        other = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack), batch_size=size)
        assert torch.equal(other.found, base.found)
        assert torch.equal(other.forwards, base.forwards)
        assert torch.equal(other.backwards, base.backwards)
        torch.testing.assert_close(other.x_adv, base.x_adv, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", ATTACKS)
def test_samples_that_are_named_get_the_same_results_in_any_order(attack: str) -> None:
    model = network()
    x, y = samples(model, rows=70)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(4))
    base = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack))
    shuffled = sapper.craft(model, x[order], y[order], attack=attack, threat=threat_for(attack), index=order)
    assert torch.equal(shuffled.found, base.found[order])
    torch.testing.assert_close(shuffled.x_adv, base.x_adv[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_case_keeps_its_own_random_numbers_in_any_order_and_company(attack: str) -> None:
    """The key goes with the case, not with its place; so a shard run elsewhere gives the same."""
    model = network()
    x, y = samples(model, rows=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:25]
    threat = sapper.scheduler.Threat.parse(threat_for(attack))
    key, goal = scheduler.noise.keys(5, torch.arange(40)), scheduler.Untargeted
    run = [
        scheduler.craft_cases(
            scheduler.TorchOracle(model),
            catalogue.attack(attack),
            x[rows],
            goal(y[rows]),
            threat,
            key[rows],
            batch_size=9,
        )
        for rows in (torch.arange(40), order)
    ]
    expected = rows_of(run[0], order)
    assert torch.equal(run[1].found, expected.found)
    assert torch.equal(run[1].forwards, expected.forwards)
    torch.testing.assert_close(run[1].x_adv, expected.x_adv, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_seed_and_batch_size_give_the_same_bits_and_another_seed_does_not(attack: str) -> None:
    model = network()
    x, y = samples(model, rows=30)
    options = {"attack": attack, "threat": threat_for(attack), "batch_size": 8}
    first = sapper.craft(model, x, y, **options)
    torch.manual_seed(123)
    assert identical(first, sapper.craft(model, x, y, **options))
    other = sapper.craft(model, x, y, seed=1, **options)
    assert identical(first, other) == (attack == "jsma")


@pytest.mark.parametrize("attack", [*ATTACKS, "pgd:random_start=false,steps=5", "mifgsm:steps=4", "fgsm"])
@pytest.mark.parametrize("size", [1, 6, 64])
def test_counts_are_those_of_hooks_on_the_model_apart_from_the_judge(attack: str, size: int) -> None:
    model = network()
    x, y = samples(model, rows=25)
    watched = Watched(model, x)
    result = sapper.craft(watched, x, y, attack=attack, threat=threat_for(attack), batch_size=size)
    judged = torch.ones(25, dtype=torch.int64)
    judged[0] += 1  # the look at the number of classes
    assert torch.equal(watched.forwards, result.forwards + judged)
    assert torch.equal(watched.backwards, result.backwards)
    assert max(watched.batches) <= size


def test_a_found_row_leaves_at_once_and_another_takes_its_place() -> None:
    x = torch.tensor([[0.6], [0.3], [0.3], [0.3]])  # the first is won before it starts
    watched = Watched(ABOVE_HALF, x + torch.arange(4)[:, None] * 1e-3)
    y = torch.zeros(4, dtype=torch.int64)
    attack = Visits(places=(0.4, 0.6, 0.2, 0.2, 0.2))
    result = sapper.craft(watched, x, y, attack=attack, threat="linf:0.4", batch_size=2)
    assert result.found.all()
    assert result.forwards.tolist() == [1, 3, 3, 3]
    assert result.x_adv[1:, 0].tolist() == pytest.approx([0.6] * 3)
    assert watched.batches == [1, 2, 2, 2, 2, 1, 1, 2, 2]  # classes, six steps, judge


def test_a_slow_case_does_not_hold_back_the_others() -> None:
    """One case never falls; with two places the other nine pass through the second one after the other."""
    x = torch.tensor([[0.0]] + [[0.45]] * 9)
    y = torch.zeros(10, dtype=torch.int64)
    seen: list[tuple[int, int]] = []
    attack = BIM(steps=40, step_size=0.02)
    result = sapper.craft(
        ABOVE_HALF, x, y, attack=attack, threat="linf:0.3", batch_size=2, progress=lambda *p: seen.append(p)
    )
    assert result.found.tolist() == [False] + [True] * 9
    assert result.forwards.tolist() == [41] + [4] * 9  # 40 steps, the last candidate and the sample once more
    assert seen[-1] == (10, 9)
    assert all(later[0] >= earlier[0] for earlier, later in zip(seen, seen[1:], strict=False))
    assert seen[-2][0] == 9  # the slow one is the last to go


def test_the_last_candidate_is_looked_at() -> None:
    """k steps must count as k; with one step and no random start the input itself would come back."""
    model = linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -0.5]))
    x, y = torch.tensor([[0.45]]), torch.tensor([0])
    for attack in (PGD(steps=1, random_start=False, step_size=0.1), BIM(steps=1), FGSM()):
        result = sapper.craft(model, x, y, attack=attack, threat="linf:0.1")
        assert result.found.all()
        assert float(result.x_adv) == pytest.approx(0.55)
        assert (result.steps.item(), result.forwards.item(), result.backwards.item()) == (1, 2, 1)


def test_a_case_that_is_not_found_returns_its_last_candidate() -> None:
    result = sapper.craft(ABOVE_HALF, torch.tensor([[0.1]]), torch.tensor([0]), attack=FGSM(), threat="linf:0.1")
    assert not result.found.any()
    assert float(result.x_adv) == pytest.approx(0.2)
    assert result.predictions.tolist() == [0]
    assert result.distance.isnan().all()


def test_a_sample_that_is_misclassified_already_is_found_unchanged() -> None:
    model = network()
    x, _ = samples(model)
    y = (predict(model, x) + 1) % 4
    for attack in ("jsma", "bim", "fgsm", "mifgsm", "pgd"):
        result = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack))
        assert result.found.all()
        assert torch.equal(result.x_adv, x)
        assert not result.distance.any()
        assert not result.steps.any()
        assert (result.forwards == 1).all()


def test_a_sample_that_is_misclassified_already_is_found_by_an_attack_that_starts_elsewhere_and_strays() -> None:
    x, y = torch.tensor([[0.6]]), torch.tensor([0])
    result = sapper.craft(ABOVE_HALF, x, y, attack=Visits(begin=0.4, places=(0.35, 0.3)), threat="linf:0.3")
    assert result.found.all()
    assert torch.equal(result.x_adv, x)
    assert result.steps.tolist() == [0]
    assert result.forwards.tolist() == [1]


def test_nothing_is_believed_that_an_attack_claims() -> None:
    x, y = torch.tensor([[0.1]]), torch.tensor([0])
    result = sapper.craft(ABOVE_HALF, x, y, attack=Visits(places=(0.2, 0.3), claims_done=True), threat="linf:0.3")
    assert not result.found.any()
    assert result.steps.tolist() == [1]


def test_a_success_outside_the_budget_is_no_success_and_what_returns_is_legal() -> None:
    x, y = torch.tensor([[0.1]]), torch.tensor([0])
    result = sapper.craft(ABOVE_HALF, x, y, attack=Visits(places=(0.9, 0.9)), threat="linf:0.3")
    assert not result.found.any()
    assert float(result.x_adv) == pytest.approx(0.4)


def test_a_last_candidate_beyond_the_budget_is_asked_about_as_it_is_returned() -> None:
    x, y = torch.tensor([[0.3]]), torch.tensor([0])
    result = sapper.craft(ABOVE_HALF, x, y, attack=Visits(places=(0.3, 0.9)), threat="linf:0.3")
    assert float(result.x_adv) == pytest.approx(0.6)
    assert result.found.all()


def test_candidates_that_are_no_numbers_do_no_harm() -> None:
    x, y = torch.tensor([[0.1], [0.2]]), torch.tensor([0, 0])
    result = sapper.craft(ABOVE_HALF, x, y, attack=Visits(places=(math.nan, 0.2)), threat="linf:0.3")
    assert not result.found.any()
    assert result.broken.all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 0.5)).all()


def test_what_a_randomised_model_fell_for_once_is_asked_again() -> None:
    """The calls are for the number of classes, the sample, the candidate, the judge."""
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    x, y = torch.tensor([[0.1]]), torch.tensor([0])
    fickle = sapper.craft(Scripted(right, right, wrong, right), x, y, attack=FGSM(), threat="linf:0.3")
    assert fickle.found.tolist() == [False]
    assert fickle.predictions.tolist() == [0]
    constant = sapper.craft(Scripted(right, right, wrong, wrong), x, y, attack=FGSM(), threat="linf:0.3")
    assert constant.found.tolist() == [True]
    lucky = sapper.craft(Scripted(right, right, right, wrong), x, y, attack=FGSM(), threat="linf:0.3")
    assert lucky.found.tolist() == [False]  # the attack did not find it


def test_confidence_and_prediction_are_the_models_own_of_what_is_returned() -> None:
    model = network()
    x, y = samples(model)
    result = sapper.craft(model, x, y, attack="pgd:steps=5", threat="linf:0.2")
    with torch.no_grad():
        confidence, predictions = model(result.x_adv).softmax(1).max(1)
    assert torch.equal(result.predictions, predictions)
    torch.testing.assert_close(result.confidence, confidence)
    assert torch.equal(result.found, predictions != y)


class BrokenSometimes(nn.Module):
    """No finite answer above 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        score = torch.where(x > 0.5, torch.nan, x)
        return torch.cat([0.6 + 0 * x, score], 1)


def test_a_model_that_answers_nan_breaks_those_cases_only() -> None:
    x, y = torch.tensor([[0.45], [0.05], [0.7]]), torch.tensor([0, 0, 0])
    result = sapper.craft(BrokenSometimes(), x, y, attack=FGSM(), threat="linf:0.1")
    assert result.broken.tolist() == [True, False, True]
    assert not result.found.any()
    assert result.predictions.tolist() == [-1, 0, -1]
    assert result.confidence.isnan().tolist() == [True, False, True]
    assert result.forwards.tolist() == [2, 2, 1]  # nothing is asked after that


@pytest.mark.parametrize("attack", ["pgd", "jsma", "3*pgd:steps=4", "mifgsm", "rand_fgsm"])
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_no_more_questions_are_asked_than_allowed(attack: str, queries: int) -> None:
    model = network()
    x, y = samples(model, rows=20)
    free = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack))
    watched = Watched(model, x)
    result = sapper.craft(watched, x, y, attack=attack, threat=threat_for(attack), queries=queries)
    assert (result.forwards <= queries).all()
    assert int(watched.forwards.max()) <= queries + 2
    assert torch.equal(result.found, free.found & (free.forwards <= queries))


@pytest.mark.parametrize("attack", ["pgd", "jsma"])
@pytest.mark.parametrize("bits", [8, 3])
def test_what_is_found_survives_the_trip_through_integers_bit_for_bit(attack: str, bits: int) -> None:
    model = network()
    x, y = samples(model, rows=30)
    result = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack).replace("12", "2"), quantize=bits)
    assert result.found.any()
    stored = (result.x_adv * (2**bits - 1)).round().to(torch.uint8)
    loaded = stored.float() / (2**bits - 1)
    assert torch.equal(loaded, result.x_adv)
    assert torch.equal((predict(model, loaded) != y) & result.found, result.found)
    grid = (x * (2**bits - 1)).round() / (2**bits - 1)
    assert ((loaded - grid).abs() <= (1 if attack == "jsma" else 0.2) + 1e-6).all()


def test_restarts_are_never_worse_than_one_run_and_find_more() -> None:
    model = network(seed=3)
    x, y = samples(model, rows=150)
    once = sapper.craft(model, x, y, attack="pgd:steps=1,step_size=0.02", threat="linf:0.08")
    often = sapper.craft(model, x, y, attack="8*pgd:steps=1,step_size=0.02", threat="linf:0.08")
    assert not (once.found & ~often.found).any()
    assert int(often.found.sum()) > int(once.found.sum())
    assert torch.equal(often.x_adv[once.found], once.x_adv[once.found])


def test_a_cascade_never_attacks_a_found_row_again() -> None:
    model = network()
    x, y = samples(model, rows=40)
    alone = sapper.craft(model, x, y, attack=FGSM(), threat="linf:0.12")
    both = sapper.craft(model, x, y, attack=Cascade("both", (FGSM(), PGD(steps=20))), threat="linf:0.12")
    assert alone.found.any()
    assert not alone.found.all()
    for name in ("x_adv", "forwards", "backwards", "steps"):
        assert torch.equal(getattr(both, name)[alone.found], getattr(alone, name)[alone.found])
    assert (both.forwards[~alone.found] > alone.forwards[~alone.found]).all()


def test_float64_models_are_attacked_in_float64() -> None:
    model = network(dtype=torch.float64)
    x, y = samples(model)
    for attack in ATTACKS:
        result = sapper.craft(model, x, y, attack=attack, threat=threat_for(attack))
        assert result.x_adv.dtype == torch.float64
        fine = sapper.craft(model, x.float(), y, attack=attack, threat=threat_for(attack))
        assert fine.x_adv.dtype == torch.float64


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_a_model_in_training_stays_in_training_and_learns_nothing() -> None:
    torch.manual_seed(0)
    model = Noisy().train()
    model.layers[1].weight.requires_grad_(False)
    model.layers[4].bias.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = samples(network())
    first = sapper.craft(model, x, y, attack="pgd:steps=5", threat="linf:0.3")
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    flags = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ["layers.1.weight"]
    assert torch.equal(model.layers[4].bias.grad, torch.ones(4))
    assert all(weight.grad is None for weight in (model.layers[1].weight, model.layers[4].weight))
    assert identical(first, sapper.craft(model.eval(), x, y, attack="pgd:steps=5", threat="linf:0.3"))


def test_a_model_is_left_as_it_was_when_it_fails() -> None:
    class Fails(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    model = Fails().train()
    x, y = samples(network())
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        sapper.craft(model, x, y, attack="pgd", threat="linf:0.3")
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_samples_are_not_touched_and_results_need_no_gradient() -> None:
    model = network()
    x, y = samples(model)
    before = x.clone()
    result = sapper.craft(model, x.requires_grad_(), y, attack="bim", threat="linf:0.3")
    assert torch.equal(x, before)
    assert x.grad is None
    assert not any(value.requires_grad for value in vars(result).values())
    result.x_adv.zero_()
    assert torch.equal(x, before)


def test_it_works_where_gradients_are_off() -> None:
    model = network()
    x, y = samples(model)
    expected = sapper.craft(model, x, y, attack="bim", threat="linf:0.12")
    with torch.no_grad():
        assert identical(sapper.craft(model, x, y, attack="bim", threat="linf:0.12"), expected)


def test_targets_are_reached() -> None:
    model = network()
    x, y = samples(model, rows=40)
    targets = (y + 2) % 4
    result = sapper.craft(model, x, y, attack="pgd", threat="linf:0.3", targets=targets)
    assert result.found.any()
    assert torch.equal(result.found, result.predictions == targets)


def test_measuring_the_batch_changes_no_result() -> None:
    model = random_linear()
    x, y = samples(model, rows=2100, shape=(12,))
    measured = sapper.craft(model, x, y, attack="fgsm", threat="linf:0.05")
    given = sapper.craft(model, x, y, attack="fgsm", threat="linf:0.05", batch_size=100)
    assert torch.equal(measured.found, given.found)
    torch.testing.assert_close(measured.x_adv, given.x_adv)


def test_large_inputs_are_attacked_in_smaller_batches() -> None:
    oracle, goal = scheduler.TorchOracle(nn.Flatten()), scheduler.Untargeted(torch.zeros(40, dtype=torch.int64))
    assert scheduler.measure_batch(oracle, torch.zeros(40, 150_528), goal) == 13
    assert scheduler.measure_batch(oracle, torch.zeros(40, 784), goal) == 40


X, Y = samples(network())
WRONG_DATA = {
    "no rows": (X[:0], Y[:0], "at least one row"),
    "no features": (X[:, :, :0], Y, "at least one row"),
    "one dimension": (X[:, 0, 0, 0], Y, "rows first"),
    "nan": (torch.where(X > 0.9, torch.nan, X), Y, "finite"),
    "infinity": (torch.where(X > 0.9, torch.inf, X), Y, "finite"),
    "above": (X * 255, Y, r"within \[0, 1\].*rescale"),
    "below": (X - 0.5, Y, r"within \[0, 1\]"),
    "fewer labels": (X, Y[:-1], r"shape \(20,\)"),
    "columns of labels": (X, Y[:, None], r"shape \(20,\)"),
    "floats for labels": (X, Y.float(), "integers"),
    "label too large": (X, torch.where(Y == 3, 4, Y), "from 0 to 3"),
    "label below 0": (X, Y - 1, "from 0 to 3"),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", WRONG_DATA)
def test_data_that_cannot_be_attacked_are_refused(name: str) -> None:
    x, y, message = WRONG_DATA[name]
    with pytest.raises(DataError, match=message):
        sapper.craft(network(), x, y, attack="fgsm", threat="linf:0.1")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("targets", [Y[:3], Y.float(), Y + 10, Y - 4])
def test_targets_that_do_not_fit_are_refused(targets: Tensor) -> None:
    with pytest.raises(DataError, match=r"targets"):
        sapper.craft(network(), X, Y, attack="fgsm", threat="linf:0.1", targets=targets)


@pytest.mark.usefixtures("as_a_user")
def test_small_integers_are_labels_too() -> None:
    expected = sapper.craft(network(), X, Y, attack="fgsm", threat="linf:0.1")
    for kind in (torch.int32, torch.uint8):
        assert identical(sapper.craft(network(), X, Y.to(kind), attack="fgsm", threat="linf:0.1"), expected)


def test_bounds_are_compared_in_the_samples_own_precision() -> None:
    """(0 - mean) / std rounded to float32 is a little below itself in float64."""
    lower, upper = -0.4242129623889923, 2.8214867115020752
    x = torch.tensor([[lower, upper]])
    model = linear(torch.eye(2))
    result = sapper.craft(model, x, torch.tensor([1]), attack="fgsm", threat="linf:4", bounds=(lower, upper))
    assert result.found.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "jsma", "threat": "linf:0.3"}, "jsma is an attack in l0"),
        ({"attack": "pgd", "threat": "linf:min"}, "needs a budget"),
        ({"attack": "5*rand_fgsm", "threat": "l2:1"}, "rand_fgsm is an attack in linf"),
        ({"attack": "jsma", "threat": "l0:1"}, "cannot take a step"),
        ({"attack": "pgd", "threat": "l0:1%"}, "0.12 of 12 features"),
        ({"attack": "pgd", "threat": "linf:0.3", "queries": 0}, "queries above 0"),
        ({"attack": "pgd", "threat": "linf:0.3", "batch_size": 0}, "batch_size above 0"),
        ({"attack": "pgd", "threat": "linf:0.3", "batch_size": -3}, "batch_size above 0"),
        ({"attack": "rand_fgsm:alpha=0.5", "threat": "linf:0.3"}, "alpha"),
        ({"attack": "pdg", "threat": "linf:0.3"}, "did you mean"),
        ({"attack": "pgd", "threat": "lin:0.3"}, "did you mean linf"),
        ({"attack": "pgd", "threat": "linf:0.3", "bounds": (1.0, 0.0)}, "bounds"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sapper.craft(network(), X, Y, **options)


def test_a_model_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(ModelError, match="two columns"):
        sapper.craft(linear(torch.ones(1, 12)), X, Y * 0, attack="fgsm", threat="linf:0.1")


def test_an_instance_is_the_same_as_its_name() -> None:
    model = network()
    by_name = sapper.craft(model, X, Y, attack="jsma:theta=-1", threat="l0:4")
    assert identical(by_name, sapper.craft(model, X, Y, attack=JSMA(theta=-1), threat="l0:4"))


def test_it_works_inside_the_callers_inference_mode() -> None:
    model = network()
    x, y = samples(model)
    outside = sapper.craft(model, x, y, attack="bim", threat="linf:0.12")
    with torch.inference_mode():
        inside = sapper.craft(model, x.clone(), y.clone(), attack="bim", threat="linf:0.12")
    assert torch.equal(inside.x_adv, outside.x_adv)


def forced(attack: Attack, **values) -> Attack:
    """With options that only a program without type checks can give."""
    for name, value in values.items():
        object.__setattr__(attack, name, value)
    return attack


@pytest.mark.parametrize(
    ("wrong", "saying"),
    [
        ({"attack": forced(JSMA(), features="triple"), "threat": "l0:4"}, "triple"),
        ({"attack": forced(PGD(), steps=2.5)}, "steps"),
        ({"attack": forced(PGD(), loss="hinge")}, "hinge"),
        ({"targets": [1, 2]}, "targets"),
        ({"index": [1, 2]}, "index"),
        ({"index": torch.arange(3)}, "index"),
        ({"index": torch.rand(20)}, "index"),
        ({"threat": 0.3}, "threat"),
        ({"bounds": None}, "bounds"),
        ({"seed": 1.5}, "seed"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"threat": Threat.parse("linf:0.1"), "quantize": 8}, "quantize"),
        ({"quantize": 4, "threat": "linf:0.01"}, "larger budget"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict, saying: str) -> None:
    model = network()
    x, y = samples(model, rows=20)
    with pytest.raises(UsageError, match=saying):
        inspect.unwrap(sapper.craft)(model, x, y, **{"attack": "pgd", "threat": "linf:0.1", **wrong})  # unchecked


def test_progress_never_goes_back_and_restarts_do_not_look_at_the_clean_sample_again() -> None:
    model = network()
    x, y = samples(model, rows=20)
    told: list[tuple[int, int]] = []
    result = sapper.craft(
        model, x, y, attack="3*pgd:steps=2", threat="linf:0.001", progress=lambda *seen: told.append(seen)
    )
    assert told == sorted(told)
    assert told[-1] == (20, int(result.found.sum()))
    assert result.forwards.max() == 1 + 3 * 3
