"""NES and SPSA: down a gradient that is estimated from scores, also where there is none to be had."""

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue
from sapper.attacks.nes import NES
from sapper.attacks.spsa import SPSA
from sapper.errors import UsageError
from toys import Watched, linear, network, predict, samples

BOTH = pytest.mark.parametrize("method", [NES, SPSA])


class Rounded(nn.Module):
    """A model whose gradient is 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return network()((x * 1000).round() / 1000)


@BOTH
def test_it_asks_for_scores_alone(method: type[NES | SPSA]) -> None:
    assert catalogue.access(method) == "scores"


@pytest.mark.parametrize("attack", ["nes:steps=6", "spsa:steps=8"])
def test_it_breaks_what_hides_its_gradient(attack: str) -> None:
    """The paper's claim: what looks robust to gradients is not."""
    model = Rounded()
    x, y = samples(network(), rows=30)
    y = predict(model, x)
    blind = sapper.craft(model, x, y, attack="pgd:random_start=False", threat="linf:0.15")
    result = sapper.craft(model, x, y, attack=attack, threat="linf:0.15")
    seeing = sapper.craft(network(), x, y, attack="pgd", threat="linf:0.15")
    assert not blind.found.any()
    assert not result.backwards.any()
    assert int(result.found.sum()) >= int(seeing.found.sum()) - 1 > 5


@BOTH
@pytest.mark.parametrize("pairs", [1, 5])
def test_an_update_costs_the_point_and_its_pairs(method: type[NES | SPSA], pairs: int) -> None:
    model = linear(torch.zeros(3, 12), torch.tensor([1.0, 0.0, 0.0]))
    x = torch.full((4, 12), 0.5)
    attack = method(steps=3, pairs=pairs)
    watched = Watched(model, x)
    result = sapper.craft(watched, x, torch.zeros(4, dtype=torch.int64), attack=attack, threat="linf:0.1")
    questions = 3 * (1 + 2 * pairs)
    assert attack.limit(0.1) == questions
    assert (result.forwards == questions + 1).all()  # the last candidate, too


@BOTH
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.3"])
def test_on_a_linear_model_it_comes_near_the_best_that_the_budget_allows(method: type[NES | SPSA], threat: str) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -0.5] * 4])
    model = linear(torch.cat([-weight, weight]), torch.tensor([100.0, 0.0]))
    x, y = torch.full((5, 16), 0.5), torch.zeros(5, dtype=torch.int64)
    result = sapper.craft(model, x, y, attack=method(steps=16, pairs=16), threat=threat)
    dual, eps = (1, 0.1) if threat == "linf:0.1" else (2, 0.3)
    best = 2 * eps * float(torch.linalg.vector_norm(weight, ord=dual))
    assert (result.first_margin - result.best_margin > 0.85 * best).all()


@pytest.mark.parametrize(
    "attack",
    [
        *(f"nes:{option}" for option in ("steps=0", "pairs=0", "sigma=0", "decay=1", "step_size=-1")),
        *(f"spsa:{option}" for option in ("steps=0", "pairs=0", "delta=0", "step_size=-1")),
    ],
)
def test_impossible_options_are_refused(attack: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        catalogue.attack(attack)
