import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attack import Cascade, stages
from sapper.attacks.apgd import APGD
from sapper.attacks.fab import FAB
from sapper.attacks.square import Square
from sapper.errors import UsageError
from sapper.threat import Threat
from toys import Watched, network, predict, samples

THREATS = {"linf": "linf:0.08", "l2": "l2:0.3", "l1": "l1:0.5"}


def brief(steps: int = 5) -> Cascade:
    """The suite with few steps in each stage."""
    every = catalogue.attack("autoattack")
    assert isinstance(every, Cascade)
    return Cascade("brief", tuple(type(one)(**{**vars(one), "steps": steps}) for one in every.attacks))


def test_autoattack_is_the_standard_four() -> None:
    every = stages(catalogue.attack("autoattack"))
    targeted = tuple(APGD(loss="dlr", rival=rank) for rank in range(1, 10))
    assert every == (APGD(), *targeted, *(FAB(rival=rank) for rank in range(1, 10)), Square())
    assert (APGD().steps, FAB().steps, Square().steps) == (100, 100, 5000)


def test_in_l1_it_goes_without_square() -> None:
    every = catalogue.attack("autoattack")
    assert len(stages(every, Threat.parse("linf:0.1"))) == 20
    assert len(stages(every, Threat.parse("l2:0.1"))) == 20
    assert not any(isinstance(one, Square) for one in stages(every, Threat.parse("l1:1")))


def test_a_range_of_numbers_is_a_cascade() -> None:
    every = catalogue.attack("fab:rival=1..3,steps=7")
    assert every == Cascade("fab:rival=1..3,steps=7", tuple(FAB(rival=rank, steps=7) for rank in (1, 2, 3)))
    assert catalogue.attack(str(every)) == every
    assert stages(catalogue.attack("2*fab:rival=1..2")) == (FAB(rival=1), FAB(rival=2)) * 2
    assert len(stages(catalogue.attack("fab:rival=1..2,steps=3..5"))) == 6


@pytest.mark.parametrize("text", ["fab:rival=3..1", "fab:rival=2..2", "fab:rival=1..2..3", "fab:rival=1.5..2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="rival"):
        catalogue.attack(text)


@pytest.mark.parametrize("norm", THREATS)
def test_what_a_stage_has_broken_never_meets_the_next(norm: str) -> None:
    model = network()
    x, y = samples(model, rows=12)
    watched = Watched(model, x)
    first, every = brief().attacks[0], brief()
    alone = sapper.craft(model, x, y, attack=first, threat=THREATS[norm])
    result = sapper.craft(watched, x, y, attack=every, threat=THREATS[norm])
    assert alone.found.any()
    assert not alone.found.all()
    assert torch.equal(result.x_adv[alone.found], alone.x_adv[alone.found])
    assert torch.equal(result.forwards[alone.found], alone.forwards[alone.found])
    assert int(watched.forwards.sum()) == int(result.forwards.sum()) + len(x) + 1  # the judge, the number of classes
    left = ~result.found
    assert left.any()
    fewest = 5 * len(stages(every, Threat.parse(THREATS[norm]))) - 60  # six ranks of two attacks have no class here
    assert (result.forwards[left] > fewest).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", THREATS)
def test_models_of_few_classes_are_attacked_and_ranks_that_they_lack_cost_next_to_nothing(
    norm: str, classes: int
) -> None:
    model = network(classes=classes)
    x, y = samples(model, rows=12)
    threat = Threat.parse(THREATS[norm])
    result = sapper.craft(model, x, y, attack=brief(), threat=threat)
    assert torch.equal(result.found, predict(model, result.x_adv) != y)
    assert result.found.any()
    left = ~result.found
    assert left.any()
    apgd, ranks, square = 5 + 1, classes - 1, 5 + 1  # each stage asks about its last candidate too
    most = 1 + apgd + ranks * (1 + apgd) + ranks * 6 + (norm != "l1") * square + 2 * 2 * (9 - ranks)
    assert (result.forwards[left] == most).all()
    assert (result.backwards[left] == 5 + 2 * 5 * ranks).all()
