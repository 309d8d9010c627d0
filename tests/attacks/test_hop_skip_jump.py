import math
from dataclasses import replace

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attacks.hop_skip_jump import HopSkipJump
from sapper.boundary_normal import GOING, PROBING
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.label_search import HALVING
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

WEIGHT = torch.zeros(2, 30)
WEIGHT[1] = torch.randn(30, generator=torch.Generator().manual_seed(0)).abs()
PLANE = linear(WEIGHT, torch.tensor([0.0, -0.7 * float(WEIGHT.sum())]))
X = torch.full((5, 30), 0.5)


def states(attack: HopSkipJump, threat: str, steps: int):
    goal = Untargeted(torch.zeros(len(X), dtype=torch.int64))
    case, oracle = case_of(X, Threat.parse(threat, lower=-10, upper=10), goal), TorchOracle(PLANE)
    state = attack.start(case, oracle)
    for age in range(steps):
        yield state
        state = attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, state)


def test_it_asks_for_labels_alone() -> None:
    assert catalogue.access(HopSkipJump) == "labels"


@pytest.mark.parametrize("threat", ["l2:min", "linf:min"])
def test_rounds_probe_jump_and_return(threat: str) -> None:
    """By Algorithm 2: B_0 √t probes, a jump of distance/√t, halved until the goal is reached, back to the boundary."""
    last, probed = None, torch.zeros(5, dtype=torch.int64)
    p = math.inf if threat[:4] == "linf" else 2
    for state in states(HopSkipJump(first_probes=20), threat, 250):
        probed += state.phase == PROBING
        if last is not None:
            jumps = (state.phase == GOING) & (last.phase == PROBING)
            for row in jumps.nonzero()[:, 0]:
                round = int(state.round[row])
                assert int(probed[row]) == int(20 * math.sqrt(round))
                probed[row] = 0
                away = (state.probes.here - X)[row].norm(p=p)
                torch.testing.assert_close(state.size[row], away / math.sqrt(round))
                torch.testing.assert_close((state.x_adv - state.probes.here)[row].norm(p=p), state.size[row])
            again = (state.phase == GOING) & (last.phase == GOING)
            torch.testing.assert_close(state.size[again], last.size[again] / 2)
            begins = (state.phase == PROBING) & (last.phase == HALVING)
            assert (predict(PLANE, state.probes.here)[begins] == 1).all()
        last = state
    assert (state.round >= 4).all()


def test_on_a_plane_it_comes_near_the_exact_distance() -> None:
    for threat in ("l2:min", "linf:min"):
        model = random_linear(features=12, classes=2, seed=3)
        x, _ = samples(network(), rows=20)
        x, y = x.flatten(1), predict(model, x)
        exact = exact_of(model).distance(x, y, Threat.parse(threat))
        result = sapper.craft(model, x, y, attack="hop_skip_jump:steps=400", threat=threat)
        inside = result.found & (exact < 0.5)  # elsewhere the box may cut the nearest point off
        assert int(inside.sum()) > 8
        assert float((result.distance / exact)[inside].median()) < 1.15


def test_a_jump_that_leads_nowhere_ends() -> None:
    """Of a goal that holds in a ball's shell alone no jump need succeed: the authors' code would halve it forever."""
    attack = HopSkipJump()
    *_, state = states(attack, "l2:min", 120)
    case = case_of(X, Threat.parse("l2:min"), Untargeted(torch.zeros(5, dtype=torch.int64)))
    state = replace(state, phase=torch.full_like(state.phase, GOING), size=state.size.clamp_min(1.0))
    for _ in range(20):
        state = attack._jumped(case, state, torch.zeros(5, dtype=torch.bool))
        if (state.phase == PROBING).all():
            return
    pytest.fail("still jumping")


def test_options_that_make_no_sense_are_refused() -> None:
    for option in ({"steps": 0}, {"first_probes": 0}, {"radius": 0.0}, {"frequencies": 2.0}):
        with pytest.raises(UsageError, match=next(iter(option))):
            HopSkipJump(**option)
