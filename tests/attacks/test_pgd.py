import math

import pytest
import torch

import sapper
from sapper.attacks.pgd import PGD
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, linear, network, samples

MODEL = network(seed=1)
X, Y = samples(MODEL, rows=40)
THREATS = {"linf": "linf:0.1", "l2": "l2:0.4", "l1": "l1:1", "l0": "l0:3"}
HOLDS = linear(torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]]), torch.tensor([0.0, -60.0]))
ORACLE = TorchOracle(HOLDS)


@pytest.mark.parametrize("threat", THREATS.values())
def test_one_whole_step_without_a_random_start_is_fgsm(threat: str) -> None:
    size = Threat.parse(threat).budget(12)
    one = sapper.craft(MODEL, X, Y, attack=PGD(steps=1, random_start=False, step_size=size), threat=threat)
    fgsm = sapper.craft(MODEL, X, Y, attack="fgsm", threat=threat)
    assert torch.equal(one.x_adv, fgsm.x_adv)
    assert torch.equal(one.forwards, fgsm.forwards)
    default = sapper.craft(MODEL, X, Y, attack=PGD(steps=1, random_start=False), threat=threat)
    assert torch.equal(default.x_adv, fgsm.x_adv)


@pytest.mark.parametrize("threat", THREATS.values())
def test_without_a_random_start_it_is_bim_with_its_step_size(threat: str) -> None:
    pgd = sapper.craft(MODEL, X, Y, attack=f"pgd:steps=7,random_start=false,step_size={1.5}", threat=threat)
    bim = sapper.craft(MODEL, X, Y, attack=f"bim:steps=7,step_size={1.5}", threat=threat)
    assert torch.equal(pgd.x_adv, bim.x_adv)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_it_starts_uniformly_in_the_ball_and_not_on_its_surface(name: str) -> None:
    x = torch.full((2000, 3), 0.5)
    threat = Threat.parse(f"{name}:0.2")
    start = PGD().start(case_of(x, threat), ORACLE).x_adv
    power = (threat.distance(start, x) / 0.2).pow(3).sort().values
    assert (power - (torch.arange(2000) + 0.5) / 2000).abs().max() < 1.95 / math.sqrt(2000)
    assert power.max() <= 1


def test_another_seed_starts_elsewhere_and_no_random_start_starts_at_the_sample() -> None:
    case, other = (case_of(X, Threat.parse("linf:0.1"), seed=seed) for seed in (0, 1))
    assert (PGD().start(case, ORACLE).x_adv != PGD().start(other, ORACLE).x_adv).flatten(1).any(1).all()
    assert PGD(random_start=False).start(case, ORACLE).x_adv is X


def test_every_restart_starts_elsewhere() -> None:
    x = torch.full((1, 3), 0.5)
    starts: list[torch.Tensor] = []

    class Listening(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = HOLDS

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            starts.append(x.detach().clone())
            return self.inner(x)

    sapper.craft(Listening(), x, torch.tensor([0]), attack="4*pgd:steps=1,step_size=1e-9", threat="linf:0.2")
    away = torch.cat(starts)
    places = away[(away != x).any(1)].mul(1e4).round().unique(dim=0)
    assert len(places) == 4


def test_the_step_is_two_and_a_half_times_the_budget_over_the_steps() -> None:
    x = torch.full((1, 3), 0.5)
    result = sapper.craft(HOLDS, x, torch.tensor([0]), attack=PGD(steps=10, random_start=False), threat="linf:0.2")
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.7, 0.3, 0.7]]))
    one = PGD(steps=10, random_start=False)
    case = case_of(x, Threat.parse("linf:0.2"))
    after = one.step(case, TorchOracle(HOLDS), one.start(case, ORACLE)).x_adv
    torch.testing.assert_close((after - x).abs(), torch.full((1, 3), 0.05))


@pytest.mark.parametrize("name", THREATS)
def test_no_step_leaves_the_threat(name: str) -> None:
    threat = Threat.parse(THREATS[name])
    case, attack, oracle = case_of(X, threat), PGD(steps=5), TorchOracle(MODEL)
    state = attack.start(case, oracle)
    for _ in range(5):
        assert threat.legal(state.x_adv, X).all()
        state = attack.step(case, oracle, state)


def test_weak_gradients_do_not_shorten_l2_steps() -> None:
    weak = linear(HOLDS[1].weight.data * 1e-9, torch.tensor([0.0, -60.0]))
    x = torch.full((1, 3), 0.5)
    result = sapper.craft(
        weak, x, torch.tensor([0]), attack=PGD(steps=3, random_start=False, loss="margin"), threat="l2:0.2"
    )
    torch.testing.assert_close((result.x_adv - x).norm(), torch.tensor(0.2))
