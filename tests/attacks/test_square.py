from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue
from sapper.attacks.square import Square
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.threat import Threat
from toys import case_of, linear, network, predict, samples

SHAPE = (2, 8, 9)
HOLDS = linear(torch.randn(3, 144, generator=torch.Generator().manual_seed(0)) * 0.01, torch.tensor([9.0, 0.0, 0.0]))
X = 0.3 + 0.4 * torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def states(attack: Square, threat: str, steps: int, x: Tensor = X):
    case, oracle = (
        case_of(x, Threat.parse(threat), Untargeted(torch.zeros(len(x), dtype=torch.int64))),
        TorchOracle(HOLDS),
    )
    state = attack.start(case, oracle)
    yield state
    for age in range(steps):
        state = attack.step(replace(case, age=torch.full_like(case.age, age)), oracle, state)
        yield state


class Rounded(nn.Module):
    """A model that can be asked and not differentiated."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return network()((x * 100).round() / 100)


def test_it_asks_for_scores_alone() -> None:
    assert catalogue.access(Square) == "scores"
    x, y = samples(network(), rows=12)
    result = sapper.craft(Rounded(), x, y, attack="square:steps=60", threat="linf:0.15")
    assert int(result.found.sum()) > 3
    assert not result.backwards.any()


def test_the_share_halves_when_the_paper_says() -> None:
    """Of 10 000 questions at 10, 50, 200, 500, 1 000, 2 000, 4 000, 6 000 and 8 000; other numbers are stretched."""
    changes = [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    for steps in (10_000, 5_000):
        area = Square(steps=steps)._area(torch.arange(steps))
        assert float(area[0]) == pytest.approx(0.8)
        falls = (area[1:] < area[:-1]).nonzero()[:, 0] + 1
        assert [round((int(at) + 1) * 10_000 / steps) for at in falls] == pytest.approx(changes, abs=10_000 // steps)
        assert float(area[-1]) == pytest.approx(0.8 / 2**9)


def test_in_linf_it_starts_with_stripes_and_every_feature_is_at_an_end_of_the_budget() -> None:
    for age, state in enumerate(states(Square(), "linf:0.1", 30)):
        change = state.x_adv - X
        torch.testing.assert_close(change.abs(), torch.full_like(X, 0.1))
        if age == 0:
            assert torch.equal(change.sign(), change.sign()[:, :, :1].expand_as(change))


def test_in_linf_a_proposal_changes_one_square() -> None:
    attack = Square(steps=100)
    for asked, state in enumerate(states(attack, "linf:0.1", 40)):
        changed = (state.x_adv != state.best).any(1)
        if asked:
            side = round(min(8.0, max(1.0, float(attack._area(torch.tensor([asked - 1])) * 8 * 9) ** 0.5)))
            assert all(extent(rows) <= side for rows in (*changed.any(2), *changed.any(1)))
            assert changed.flatten(1).any(1).all()  # a square that would change nothing is turned


def extent(flags: Tensor) -> int:
    places = flags.nonzero()[:, 0]
    return int(places.max() - places.min()) + 1


def test_in_l2_the_budget_is_spent_in_full() -> None:
    for state in states(Square(), "l2:0.25", 40):
        torch.testing.assert_close((state.x_adv - X).flatten(1).norm(dim=1), torch.full((6,), 0.25))


def test_in_l2_what_the_box_cuts_off_is_not_lost() -> None:
    """On black every second bump is cut: authors' code begins with three quarters of the budget and regains it slowly."""
    x = X * (torch.rand(X.shape, generator=torch.Generator().manual_seed(2)) < 0.2)
    spent = torch.stack([(state.x_adv - x).flatten(1).norm(dim=1) for state in states(Square(), "l2:0.25", 40, x)])
    assert float(spent.max()) <= 0.25 * (1 + 1e-5)
    assert float(spent.min()) >= 0.99 * 0.25


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:1"])
def test_the_loss_of_the_best_point_never_rises(threat: str) -> None:
    loss = torch.full((6,), torch.inf)
    for state in states(Square(steps=60), threat, 60):
        assert (state.loss <= loss).all()
        loss = state.loss
    first = next(states(Square(), threat, 0))
    margin = Untargeted(torch.zeros(6, dtype=torch.int64)).margin
    assert (loss < margin(HOLDS(first.x_adv).detach())).any()


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.4"])
@pytest.mark.parametrize("shape", [(7,), (3, 3), (1, 2, 2), (2, 1, 5), (1,)])
def test_any_shape_will_do(threat: str, shape: tuple[int, ...]) -> None:
    model = network(shape)
    x, y = samples(model, rows=5, shape=shape)
    result = sapper.craft(model, x, y, attack="square:steps=20", threat=threat)
    assert torch.equal(result.found, predict(model, result.x_adv) != y)
    assert result.x_adv.isfinite().all()


def test_each_sample_has_squares_of_its_own() -> None:
    x = X[:1].repeat(4, 1, 1, 1)
    *_, state = states(Square(), "linf:0.1", 3, x)
    assert len(state.x_adv.flatten(1).unique(dim=0)) == 4


def test_a_share_outside_0_to_1_is_refused() -> None:
    for share in (0.0, 1.5):
        with pytest.raises(UsageError, match="share"):
            Square(share=share)
