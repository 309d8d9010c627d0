"""What every attack of the catalogue promises, in every norm it declares. A new file in `attacks/` is tested by being there.

An attack on any model is tried on a curved network, one that asks for a learner on such a one.
"""

import math
from dataclasses import fields
from functools import cache
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue
from sapper.attack import Attack, Learner, stages
from sapper.goal import Untargeted
from sapper.learners import Linear
from sapper.scheduler import Crafted
from sapper.threat import NORMS, Threat
from toys import (
    BUDGETS,
    Watched,
    constant_for,
    exact_of,
    identical,
    known,
    linear,
    model_for,
    network,
    predict,
    random_linear,
    samples,
)

METHODS = catalogue.attacks()
PAIRS = [(name, norm) for name, method in METHODS.items() for norm in catalogue.norms(method)]
EACH = pytest.mark.parametrize(("name", "norm"), PAIRS)
LINEAR = [pair for pair in PAIRS if catalogue.learner(METHODS[pair[0]]) in (None, Linear)]
EACH_ON_LINEAR_MODELS = pytest.mark.parametrize(("name", "norm"), LINEAR)
SEEING = {name: norm for name, norm in LINEAR if catalogue.access(METHODS[name]) != "labels"}
EACH_THAT_SEES_SCORES = pytest.mark.parametrize(("name", "norm"), SEEING.items())
X, _ = samples(network(), rows=20)
LONG = 250  # steps


VALUES = {bool: (True, False), float | None: (0.05,)}


def values(method: type[Attack]) -> list[str]:
    """Options that have a few values only, with each that is not the default, and those that are left out by default."""
    hints, found = get_type_hints(method), []
    for option in fields(method):
        hint = hints[option.name]
        every = get_args(hint) if get_origin(hint) is Literal else VALUES.get(hint, ())
        found += [f"{option.name}={value}" for value in every if value != option.default]
    return found


@cache
def toy(name: str) -> nn.Module:
    """The model that an attack is tried on."""
    return model_for(METHODS.get(name.partition(":")[0], Attack))


def labels(name: str) -> Tensor:
    """Its own answers, one in ten of them wrong."""
    return samples(toy(name), rows=20)[1]


def brief(name: str) -> str:
    """The attack; with fewer steps if it takes thousands, as what it promises holds for any number."""
    most = METHODS[name]().limit(1000) if name in METHODS else 0
    return f"{name}:steps={METHODS[name]().steps * LONG // most}" if most > 2 * LONG else name


def given(name: str, option: str) -> str:
    """The same with an option more."""
    return f"{brief(name)}{',' if ':' in brief(name) else ':'}{option}"


def ready(name: str, model: nn.Module, x: Tensor, options: dict) -> str | Attack:
    """The attack; one that learns first has done so, from the same samples, before anything is counted."""
    attack = catalogue.attack(brief(name))
    if not isinstance(attack, Learner):
        return brief(name)
    given = {key: options[key] for key in ("threat", "targets", "bounds") if key in options}
    return sapper.fit(model.model if isinstance(model, Watched) else model, x, attack=brief(name), **given)


def attacked(
    name: str, norm: str, model: nn.Module | None = None, x: Tensor = X, y: Tensor | None = None, **options
) -> Crafted:
    options = {"threat": BUDGETS[norm], **options}
    model, y = toy(name) if model is None else model, labels(name) if y is None else y
    return sapper.craft(model, x, y, attack=ready(name, model, x, options), **options)


def size(change: Tensor, norm: str) -> Tensor:
    change = change.flatten(1).double().abs()
    return {
        "l0": (change > 0).sum(1),
        "l1": change.sum(1),
        "l2": change.square().sum(1).sqrt(),
        "linf": change.amax(1),
    }[norm]


def budget(norm: str) -> float:
    return float(BUDGETS[norm].partition(":")[2])


@EACH
def test_it_finds_some_and_what_it_reports_found_is_legal_and_adversarial(name: str, norm: str) -> None:
    result = attacked(name, norm)
    predictions = predict(toy(name), result.x_adv)
    assert int(result.found.sum()) > 3  # every tenth sample is found before it starts
    assert torch.equal(result.found, predictions != labels(name))
    assert torch.equal(result.predictions, predictions)
    assert (size(result.x_adv - X, norm) <= budget(norm) * (1 + 1e-5)).all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    torch.testing.assert_close(result.distance[result.found], size(result.x_adv - X, norm)[result.found].float())
    assert result.distance[~result.found].isnan().all()


@EACH
def test_targets_are_reached_without_a_branch_in_the_attack(name: str, norm: str) -> None:
    targets = (predict(toy(name), X) + 1) % 4
    result = attacked(name, norm, targets=targets)
    assert result.found.any()
    assert torch.equal(result.found, predict(toy(name), result.x_adv) == targets)


@EACH
def test_the_same_seed_gives_the_same_bits_and_any_batch_size_the_same_answer(name: str, norm: str) -> None:
    assert identical(attacked(name, norm, batch_size=8), attacked(name, norm, batch_size=8))
    # in float64, where no rounding grows until a search takes another turn
    double = {"model": model_for(METHODS[name], torch.float64), "x": X.double()}
    result = attacked(name, norm, batch_size=8, **double)
    for rows in (7, 64):
        other = attacked(name, norm, batch_size=rows, **double)
        assert torch.equal(other.found, result.found)
        assert torch.equal(other.forwards, result.forwards)
        torch.testing.assert_close(other.x_adv, result.x_adv, rtol=0, atol=1e-4)


@EACH
def test_nothing_is_drawn_from_or_left_in_a_global_state(name: str, norm: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    result = attacked(name, norm)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert identical(result, attacked(name, norm))


@EACH
def test_the_model_and_the_samples_are_untouched(name: str, norm: str) -> None:
    model = known(nn.Sequential(model_for(METHODS[name]), nn.BatchNorm1d(4), nn.Dropout(0.5)).train(), toy(name))
    next(model.parameters()).requires_grad_(False)
    before, flags = {k: v.clone() for k, v in model.state_dict().items()}, [w.requires_grad for w in model.parameters()]
    x, y = X.clone(), labels(name)
    attacked(name, norm, model=model, x=x, y=y)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [w.requires_grad for w in model.parameters()] == flags
    assert all(w.grad is None for w in model.parameters())
    assert all(part.training for part in model.modules())
    assert torch.equal(x, X)
    assert torch.equal(y, labels(name))


@EACH
def test_counts_are_those_of_a_hook_on_the_model(name: str, norm: str) -> None:
    watched = Watched(toy(name), X)
    result = attacked(name, norm, model=watched)
    assert int(watched.forwards.sum()) == int(result.forwards.sum()) + len(X) + 1  # the judge, the number of classes
    assert int(watched.backwards.sum()) == int(result.backwards.sum())
    assert (result.forwards >= 1).all()
    # Row by row it would be their sum; rows that leave are asked about once more, alone if they leave alone.
    assert len(watched.batches) <= int(result.forwards.max()) + len(X) + 5
    left = ~result.found  # a question a step, the clean sample and the last candidate
    assert (result.forwards[left] <= result.steps[left] + 2).all()


@EACH
@pytest.mark.parametrize("queries", [1, 3])
def test_the_query_budget_is_kept(name: str, norm: str, queries: int) -> None:
    free, result = attacked(name, norm), attacked(name, norm, queries=queries)
    assert (result.forwards <= queries).all()
    assert torch.equal(result.found, free.found & (free.forwards <= queries))


@EACH
def test_no_more_steps_are_taken_than_its_limit(name: str, norm: str) -> None:
    (attack,) = stages(catalogue.attack(brief(name)))
    assert attacked(name, norm).steps.max() <= attack.limit(budget(norm))


@EACH
def test_what_is_already_misclassified_is_returned_as_it_is(name: str, norm: str) -> None:
    result = attacked(name, norm)
    already = predict(toy(name), X) != labels(name)
    assert already.any()
    assert result.found[already].all()
    assert torch.equal(result.x_adv[already], X[already])
    assert not result.distance[already].any()
    assert not result.steps[already].any()
    assert (result.forwards[already] == 1).all()


@EACH
def test_what_is_found_on_a_grid_lies_on_it(name: str, norm: str) -> None:
    result = attacked(name, norm, quantize=8)
    assert result.found.any()
    loaded = (result.x_adv * 255).round().to(torch.uint8).float() / 255
    assert torch.equal(loaded, result.x_adv)
    assert torch.equal(result.found, predict(toy(name), loaded) != labels(name))
    grid = (X * 255).round() / 255
    assert (size(loaded - grid, norm) <= budget(norm) * (1 + 1e-5)).all()


@cache
def in_double(name: str, norm: str) -> Crafted:
    """In float64, as what is learned from many samples one after the other magnifies a rounding."""
    return attacked(name, norm, model=model_for(METHODS[name], torch.float64), x=X.double())


@EACH
def test_other_units_give_the_same_answer(name: str, norm: str) -> None:
    """Values from -55 to 200 with the budget in those units (in l0 it has none): nothing takes the box for [0, 1]."""
    unit, origin = 255.0, -55.0
    model, x = model_for(METHODS[name], torch.float64, unit, origin), X.double() * unit + origin
    attack = f"jsma:theta={unit}" if name == "jsma" else name
    threat = BUDGETS[norm] if norm == "l0" else f"{norm}:{budget(norm) * unit}"
    result = attacked(attack, norm, model=model, x=x, threat=threat, bounds=(origin, origin + unit))
    expected = in_double(name, norm)
    assert torch.equal(result.found, expected.found)
    torch.testing.assert_close((result.x_adv - origin) / unit, expected.x_adv, rtol=0, atol=1e-3)


@EACH_THAT_SEES_SCORES
def test_logits_that_are_all_below_zero_are_as_good_as_any(name: str, norm: str) -> None:
    """Log-probabilities, say: what counts is how far they are apart, so no 0 may stand for "no class"."""
    model = model_for(METHODS[name], torch.float64)
    model[-1].bias.data -= 64
    result, expected = attacked(name, norm, model=model, x=X.double()), in_double(name, norm)
    assert torch.equal(result.found, expected.found)
    torch.testing.assert_close(result.x_adv, expected.x_adv, rtol=0, atol=1e-4)


@EACH
def test_a_model_that_changes_its_input_in_place_harms_nothing(name: str, norm: str) -> None:
    result, expected = attacked(name, norm, model=Spoiling(toy(name))), attacked(name, norm)
    assert torch.equal(result.x_adv, expected.x_adv)
    assert torch.equal(result.found, expected.found)


class Spoiling(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        known(self, model)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.inner(x.clone())
        x.zero_()
        return answer


@EACH
def test_a_model_of_float64_is_attacked_in_float64(name: str, norm: str) -> None:
    result = attacked(name, norm, model=model_for(METHODS[name], torch.float64), x=X.double())
    assert result.x_adv.dtype == torch.float64
    assert (size(result.x_adv - X.double(), norm) <= budget(norm) * (1 + 1e-5)).all()


@EACH
def test_a_gradient_of_zero_does_no_harm(name: str, norm: str) -> None:
    result = attacked(name, norm, model=constant_for(METHODS[name]), y=torch.zeros(20, dtype=torch.int64))
    assert not result.found.any()
    assert not result.broken.any()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()


@EACH_ON_LINEAR_MODELS
def test_a_gradient_of_zero_does_no_harm_in_a_wide_box_either(name: str, norm: str) -> None:
    """Where a step is long, 0 divided by almost 0 and multiplied by it is not a number any more."""
    x, y = X * 255, torch.zeros(20, dtype=torch.int64)
    within = BUDGETS[norm] if norm == "l0" else f"{norm}:{budget(norm) * 255}"
    for threat in (within, f"{norm}:min") if METHODS[name].minimal else (within,):
        model = constant_for(METHODS[name])
        result = attacked(name, norm, model=model, x=x, y=y, threat=threat, bounds=(0.0, 255.0))
        assert not result.found.any()
        assert not result.broken.any()


@EACH_ON_LINEAR_MODELS
@pytest.mark.parametrize("scale", [1e-25, 1e-9])
def test_a_tiny_gradient_is_followed_like_a_large_one(name: str, norm: str, scale: float) -> None:
    """With two classes the direction does not depend on how sure the model is."""
    draws = torch.Generator().manual_seed(5)
    weight = torch.randn(2, 12, generator=draws)
    bias = -weight.sum(1) / 2
    plain, tiny = linear(weight, bias), linear(weight * scale, bias * scale)
    y = predict(plain, X)
    result = attacked(name, norm, model=tiny, y=y)
    assert result.found.any()
    assert torch.equal(result.found, attacked(name, norm, model=plain, y=y).found)


@EACH_ON_LINEAR_MODELS
def test_on_a_linear_model_it_is_never_closer_than_the_exact_distance(name: str, norm: str) -> None:
    found = 0
    for seed in range(6):
        model = random_linear(seed=seed)
        x = X.flatten(1)
        y = predict(model, x)
        exact = exact_of(model).distance(x, y, Threat.parse(BUDGETS[norm]))
        assert (exact > 0).all()
        threat = "l0:9" if norm == "l0" else f"{norm}:{3 * float(exact.median())}"
        result = attacked(name, norm, model=model, x=x, y=y, threat=threat)
        assert (result.distance[result.found] >= exact[result.found] * (1 - 1e-4)).all()
        found += int(result.found.sum())
    assert found > 20


@EACH_ON_LINEAR_MODELS
def test_on_a_linear_model_a_generous_budget_always_suffices(name: str, norm: str) -> None:
    """Two classes whose border no box cuts off; the budget is four times the exact distance of the farthest sample."""
    draws = torch.Generator().manual_seed(7)
    weight = torch.rand(1, 12, generator=draws) + 0.1
    model = linear(torch.cat([-weight, weight]), torch.tensor([1.2, -1.2]) * weight.sum())
    y = predict(model, X)
    assert not y.any()
    exact = exact_of(model).distance(X, y, Threat(p=NORMS[norm], eps=None, lower=0.0, upper=20.0))
    most = math.ceil(float(exact.max())) * 4 if norm == "l0" else 4 * float(exact.max())
    attack = "jsma:theta=20" if name == "jsma" else name
    assert attacked(attack, norm, y=y, model=model, threat=f"{norm}:{most}", bounds=(0.0, 20.0)).found.all()


@pytest.mark.parametrize(
    ("name", "norm", "option"), [(*pair, option) for pair in PAIRS for option in values(METHODS[pair[0]])]
)
def test_an_option_works_in_every_norm_whatever_its_value(name: str, norm: str, option: str) -> None:
    """A branch that nobody runs is where undefined names live."""
    attack = given(name, option)
    result = attacked(attack, norm)
    assert int(result.found.sum()) > 2  # two are found before it starts
    assert (predict(toy(name), result.x_adv) != labels(name))[result.found].all()
    assert (size(result.x_adv - X, norm) <= budget(norm) * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("name", "norm"),
    [pair for pair in PAIRS if "confidence" in {one.name for one in catalogue.options(METHODS[pair[0]])}],
)
def test_what_it_finds_with_a_confidence_has_it(name: str, norm: str) -> None:
    result = attacked(given(name, "confidence=1"), norm)
    assert int(result.found.sum()) > 2
    with torch.no_grad():
        margin = Untargeted(labels(name)).margin(toy(name)(result.x_adv))
    assert (margin[result.found] <= -1 + 1e-5).all()


@EACH
def test_its_name_with_options_can_be_read_and_each_option_has_help(name: str, norm: str) -> None:
    attack = catalogue.attack(name)
    assert catalogue.attack(str(attack)) == attack
    assert all(option.help for option in catalogue.options(type(attack)))
    assert norm in catalogue.norms(type(attack))
    assert catalogue.description(type(attack))
    assert type(attack).paper.bibtex()


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_model_of_half_precision_is_attacked_in_it(name: str, norm: str, dtype: torch.dtype) -> None:
    model = model_for(METHODS[name], dtype)
    x = X.to(dtype)
    result = attacked(name, norm, model=model, x=x, y=predict(model, x))
    assert result.x_adv.dtype == dtype
    assert not result.broken.any()
    assert result.found.any()
    assert torch.equal(result.found, predict(model, result.x_adv) != predict(model, x))
