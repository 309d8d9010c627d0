from dataclasses import replace

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attacks.geoda import GeoDA
from sapper.boundary_normal import GOING, PROBING
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, exact_of, linear, network, predict, random_linear, samples

WEIGHT = torch.zeros(2, 30)
WEIGHT[1] = torch.randn(30, generator=torch.Generator().manual_seed(0)).abs()
PLANE = linear(WEIGHT, torch.tensor([0.0, -0.7 * float(WEIGHT.sum())]))
X = torch.full((5, 30), 0.5)


def states(attack: GeoDA, threat: str, steps: int):
    goal = Untargeted(torch.zeros(len(X), dtype=torch.int64))
    case, oracle = case_of(X, Threat.parse(threat, lower=-10, upper=10), goal), TorchOracle(PLANE)
    state = attack.start(case, oracle)
    for age in range(steps):
        yield state
        state = attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, state)


def test_it_asks_for_labels_alone() -> None:
    assert catalogue.access(GeoDA) == "labels"


@pytest.mark.parametrize("threat", ["l2:min", "linf:min"])
def test_it_goes_from_the_sample_along_the_normal(threat: str) -> None:
    seen, last = 0, None
    for state in states(GeoDA(first_probes=20), threat, 200):
        if last is not None:
            for row in ((state.phase == GOING) & (last.phase == PROBING)).nonzero()[:, 0]:
                way = state.normal[row] if threat[:2] == "l2" else state.normal[row].sign()
                change = state.x_adv[row] - X[row]
                torch.testing.assert_close(torch.cosine_similarity(change, way, dim=0), torch.tensor(1.0))
                torch.testing.assert_close(change.norm(p=2 if threat[:2] == "l2" else torch.inf), state.size[row])
                seen += 1
        last = state
    assert seen >= 15


@pytest.mark.parametrize("memory", [0.0, 0.5, 1.0])
def test_earlier_rounds_count_on_with_their_share(memory: float) -> None:
    last = None
    for state in states(GeoDA(first_probes=20, memory=memory), "l2:min", 200):
        if last is not None:
            ended = (state.phase == GOING) & (last.phase == PROBING)
            expected = state.probes.normal() + memory * last.normal
            torch.testing.assert_close(state.normal[ended], expected[ended])
        last = state


def test_on_a_plane_it_comes_near_the_exact_distance_and_nearer_with_memory() -> None:
    ratios = {}
    for threat in ("l2:min", "linf:min"):
        model = random_linear(features=12, classes=2, seed=3)
        x, _ = samples(network(), rows=20)
        x, y = x.flatten(1), predict(model, x)
        exact = exact_of(model).distance(x, y, Threat.parse(threat))
        for memory in (0.0, 1.0):
            result = sapper.craft(model, x, y, attack=f"geoda:steps=400,memory={memory}", threat=threat)
            inside = result.found & (exact < 0.5)  # elsewhere the box may cut the nearest point off
            assert int(inside.sum()) > 8
            ratios[memory] = float((result.distance / exact)[inside].median())
        assert ratios[1.0] < 1.1
        assert ratios[1.0] < ratios[0.0] + 0.01


def test_a_normal_that_leads_nowhere_is_given_up() -> None:
    attack = GeoDA()
    *_, state = states(attack, "l2:min", 120)
    case = case_of(X, Threat.parse("l2:min"), Untargeted(torch.zeros(5, dtype=torch.int64)))
    state = replace(state, phase=torch.full_like(state.phase, GOING), size=(state.probes.here - X).norm(dim=1))
    for _ in range(20):
        state = attack._left(case, state, torch.zeros(5, dtype=torch.bool))
        if (state.phase == PROBING).all():
            return
    pytest.fail("still going")


def test_options_that_make_no_sense_are_refused() -> None:
    for option in ({"steps": 0}, {"first_probes": 0}, {"radius": 0.0}, {"frequencies": 2.0}, {"memory": 1.1}):
        with pytest.raises(UsageError, match=next(iter(option))):
            GeoDA(**option)
