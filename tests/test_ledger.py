import math
from dataclasses import replace

import pytest
import torch

from sapper.attack import Case
from sapper.goal import Untargeted
from sapper.ledger import Ledger
from sapper.oracle import TorchOracle
from sapper.tensors import take
from sapper.threat import Threat
from toys import case_of, linear, network, samples

BORDER = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.5]))
"""Class 1 where the first feature is above 0.5."""


def opened(text: str = "linf:0.3", rows: int = 3, queries: int | None = None, **options) -> tuple[Ledger, Case]:
    case = case_of(torch.full((rows, 2), 0.4), Threat.parse(text, **options))
    return Ledger(TorchOracle(BORDER), case, queries), case


def first_feature(*values: float) -> torch.Tensor:
    return torch.tensor([[value, 0.4] for value in values])


def test_each_question_is_counted_for_its_own_cases_only() -> None:
    ledger, case = opened()
    ledger.door(case).logits(case.x)
    some = take(case, torch.tensor([2, 0]))
    ledger.door(some).labels(some.x)
    _, pull = ledger.door(take(case, slice(0, 1))).vjp(case.x[:1])
    pull(torch.ones(1, 2))
    pull(torch.ones(1, 2))
    assert ledger.forwards.tolist() == [3, 1, 2]
    assert ledger.backwards.tolist() == [2, 0, 0]


def test_the_door_answers_as_the_oracle_does() -> None:
    model = network()
    x, y = samples(model)
    case = case_of(x, Threat.parse("linf:1"), Untargeted(y))
    bare, door = TorchOracle(model), Ledger(TorchOracle(model), case).door(case)
    logits, pull = door.vjp(x)
    assert torch.equal(logits, bare.logits(x))
    assert torch.equal(door.logits(x), logits)
    assert torch.equal(door.labels(x), logits.argmax(1))
    cotangent = torch.arange(80.0).reshape(20, 4)
    assert torch.equal(pull(cotangent), bare.vjp(x)[1](cotangent))


def test_a_success_is_remembered_whoever_asks() -> None:
    for way in ("labels", "logits", "vjp"):
        ledger, case = opened()
        getattr(ledger.door(case), way)(first_feature(0.6, 0.4, 0.55))
        assert ledger.found.tolist() == [True, False, True]
        assert torch.equal(ledger.x_adv[[0, 2]], first_feature(0.6, 0.55))
        torch.testing.assert_close(ledger.distance, torch.tensor([0.2, math.inf, 0.15]))


def test_a_success_that_is_not_legal_does_not_count() -> None:
    ledger, case = opened()
    ledger.door(case).logits(first_feature(0.9, 1.2, 0.69))
    assert ledger.found.tolist() == [False, False, True]
    assert torch.equal(ledger.x_adv[0], case.x[0])
    assert ledger.forwards.tolist() == [1, 1, 1]


def test_the_closest_success_is_kept_in_whatever_order_they_come() -> None:
    ledger, case = opened("l2:min")
    for value in (0.9, 0.6, 0.8, 0.3):
        ledger.door(case).logits(first_feature(value, value, value))
    assert torch.equal(ledger.x_adv, first_feature(0.6, 0.6, 0.6))
    torch.testing.assert_close(ledger.distance, torch.full((3,), 0.2))


def test_a_success_does_not_change_with_the_tensor_it_was_asked_with() -> None:
    ledger, case = opened()
    asked = first_feature(0.6, 0.6, 0.6)
    ledger.door(case).logits(asked)
    asked.zero_()
    assert torch.equal(ledger.x_adv, first_feature(0.6, 0.6, 0.6))


def test_found_closes_a_case_with_a_budget_but_not_the_search_for_the_smallest() -> None:
    for text, closed in (("linf:0.3", [True, False]), ("linf:min", [False, False])):
        ledger, case = opened(text, rows=2)
        ledger.door(case).logits(first_feature(0.6, 0.4))
        assert ledger.closed(case).tolist() == closed
        assert ledger.closed(take(case, torch.tensor([1]))).tolist() == closed[1:]


def test_questions_beyond_the_budget_close_the_case_and_their_answers_do_not_count() -> None:
    ledger, case = opened(rows=1, queries=2)
    for value in (0.4, 0.45):
        assert not ledger.closed(case).any()
        ledger.door(case).logits(first_feature(value))
    assert ledger.closed(case).all()
    ledger.door(case).logits(first_feature(0.6))
    assert not ledger.found.any()


def test_the_last_allowed_question_counts() -> None:
    ledger, case = opened(rows=1, queries=2)
    ledger.door(case).logits(first_feature(0.4))
    ledger.door(case).logits(first_feature(0.6))
    assert ledger.found.all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_no_number_breaks_its_own_case_for_good(value: float) -> None:
    ledger, case = opened(rows=2)
    door = ledger.door(case)
    ledger.oracle.logits = lambda x: torch.tensor([[0.0, value], [0.0, 1.0]])
    door.logits(case.x)
    assert ledger.broken.tolist() == [True, False]
    assert ledger.closed(case).tolist() == [True, True]
    assert ledger.found.tolist() == [False, True]
    ledger.oracle.logits = lambda x: torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    door.logits(case.x)
    assert ledger.found.tolist() == [False, True]


def test_the_model_is_asked_about_rounded_inputs_only() -> None:
    ledger, case = opened("linf:0.3", quantize=8)
    case = Case(case.threat.rounded(case.x), case.goal, case.threat, case.age, case.key, case.index)
    ledger.door(case).logits(first_feature(0.6001, 0.5999, 0.4))
    assert ledger.found.tolist() == [True, True, False]
    levels = ledger.x_adv * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    _, pull = ledger.door(case).vjp(first_feature(0.61, 0.5, 0.4))
    assert pull(torch.ones(3, 2)).shape == (3, 2)


def test_gradients_that_cannot_be_followed_are_counted_for_their_own_cases() -> None:
    ledger, case = opened()
    _, pull = ledger.door(case).vjp(case.x)
    pull(torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1e-39]]))
    pull(torch.tensor([[0.0, math.nan], [0.0, 0.0], [0.0, math.inf]]))
    assert ledger.zero_gradients.tolist() == [0, 2, 1]
    assert ledger.bad_gradients.tolist() == [1, 0, 1]
    assert ledger.backwards.tolist() == [2, 2, 2]


def test_the_margin_is_kept_as_it_was_first_and_at_its_least() -> None:
    ledger, case = opened()
    assert ledger.first_margin.isnan().all()
    for values in ((0.4, 0.2, 0.1), (0.3, 0.45, 0.6), (0.1, 0.1, 0.1)):
        ledger.door(case).logits(first_feature(*values))
    torch.testing.assert_close(ledger.first_margin, torch.tensor([0.1, 0.3, 0.4]))  # 0.5 less the first feature
    torch.testing.assert_close(ledger.best_margin, torch.tensor([0.1, 0.05, -0.1]))


def test_with_a_lead_the_search_goes_on_until_a_success_has_it_and_the_surest_is_kept_until_then() -> None:
    case = case_of(torch.full((3, 2), 0.4), Threat.parse("linf:0.3"))
    ledger = Ledger(TorchOracle(BORDER), case, lead=0.15)
    case = replace(case, goal=case.goal.surer(0.15))
    ledger.door(case).logits(first_feature(0.55, 0.45, 0.7))
    assert ledger.found.tolist() == [True, False, True]
    assert ledger.closed(case).tolist() == [False, False, True]
    ledger.door(case).logits(first_feature(0.6, 0.51, 0.65))
    assert torch.equal(ledger.x_adv, first_feature(0.6, 0.51, 0.7))
    ledger.door(case).logits(first_feature(0.52, 0.69, 0.4))  # less sure; sure; none
    assert torch.equal(ledger.x_adv, first_feature(0.6, 0.69, 0.7))
    torch.testing.assert_close(ledger.distance, torch.tensor([math.inf, 0.29, 0.3]))
