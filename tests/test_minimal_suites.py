import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attack import stages
from sapper.threat import NORMS, Threat
from toys import BUDGETS, network, predict, samples

MODEL = network(seed=2)
X, Y = samples(MODEL, rows=12)


def names(suite: str, threat: str) -> list[str]:
    return [str(one).partition(":")[0] for one in stages(catalogue.attack(suite), Threat.parse(threat))]


def test_an_attack_runs_where_its_norm_fits() -> None:
    assert names("minimal", "l0:min") == ["sigma_zero", "carlini_wagner_l0", "fmn"]
    assert names("minimal", "l1:min") == ["fmn", "ead", "fab"]
    assert names("minimal", "l2:min") == ["fmn", "ddn", "fab"]
    assert names("minimal", "linf:min") == ["fmn", "fab"]


def test_the_quick_one_serves_with_a_budget_and_without() -> None:
    assert names("quick", "linf:0.1") == ["pgd", "fmn"]
    assert names("quick", "linf:min") == ["fmn"]
    assert names("quick", "l2:min") == ["ddn", "fmn"]


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_keeps_the_nearest_of_all(norm: str) -> None:
    threat = f"{norm}:min"
    every = sapper.craft(MODEL, X, Y, attack="minimal", threat=threat)
    first = sapper.craft(
        MODEL, X, Y, attack=stages(catalogue.attack("minimal"), Threat.parse(threat))[0], threat=threat
    )
    assert every.found.all()
    assert (every.distance <= first.distance).all()
    assert (every.forwards[~(predict(MODEL, X) != Y)] > first.forwards[~(predict(MODEL, X) != Y)]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_quick_one_asks_a_tenth(norm: str) -> None:
    result = sapper.craft(MODEL, X, Y, attack="quick", threat=BUDGETS[norm])
    assert result.found.any()
    assert torch.equal(result.found, predict(MODEL, result.x_adv) != Y)
    assert (result.forwards <= 66).all()
