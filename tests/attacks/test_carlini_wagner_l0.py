"""Fewer features after each success, more again after a failure, and closed forms where the model is linear."""

import pytest
import torch
from torch import nn

import sapper
from sapper.attacks.carlini_wagner_l0 import CarliniWagnerL0, _most_important
from sapper.errors import UsageError
from toys import linear


def changed(result: sapper.Crafted, x: torch.Tensor) -> torch.Tensor:
    return (result.x_adv != x).flatten(1).sum(1)


def test_those_of_least_score_are_given_up_one_at_least() -> None:
    score = torch.tensor([[0.3, -1.0, 0.1, 0.2, 0.4], [0.3, -1.0, -1.0, 0.2, 0.4]])
    half = _most_important(score, torch.tensor([0.5, 0.5]))
    assert half.tolist() == [[True, False, False, False, True], [True, False, False, False, True]]
    least = _most_important(score, torch.tensor([0.0, 0.1]))
    assert least.tolist() == [[True, False, False, True, True], [True, False, False, False, True]]


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_on_a_linear_model_it_changes_exactly_as_many_features_as_must_be(needed: int) -> None:
    """A lead of needed − 0.5 against features that each give 1 at most."""
    weights = torch.tensor([1.0] * 8 + [0.01] * 8)
    model = linear(torch.stack([-weights / 2, weights / 2]), torch.tensor([needed - 0.5, 0.0]))
    x, y = torch.zeros(3, 16), torch.zeros(3, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack=CarliniWagnerL0(), threat="l0:min")
    assert result.found.all()
    assert changed(result, x).tolist() == [needed] * 3
    assert result.distance.tolist() == [needed] * 3


def test_it_needs_fewer_features_than_one_success_with_all_of_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 4))
    x = torch.rand(20, 40)
    y = model(x).argmax(1)
    once = sapper.craft(model, x, y, attack=CarliniWagnerL0(search_steps=1), threat="l0:min")
    often = sapper.craft(model, x, y, attack=CarliniWagnerL0(), threat="l0:min")
    assert once.found.all()
    assert (changed(often, x) <= changed(once, x)).all()
    assert changed(often, x).float().mean() < changed(once, x).float().mean() / 4


def test_who_fails_with_every_feature_ends_there() -> None:
    model = linear(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([5.0, 0.0]))
    x, y = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack="carlini_wagner_l0:steps=7", threat="l0:min")
    assert not result.found.any()
    assert result.steps.tolist() == [7, 7]


@pytest.mark.parametrize("options", ["steps=0", "search_steps=0", "step_size=0", "constant=-1", "confidence=-1"])
def test_impossible_options_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        sapper.craft(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64),
                     attack=f"carlini_wagner_l0:{options}", threat="l0:1")  # fmt: skip
