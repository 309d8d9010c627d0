import pytest
import torch

import sapper
from sapper.attacks.rand_fgsm import RandFGSM
from sapper.errors import UsageError
from toys import linear, network, samples

FAR = (-50.0, 50.0)
X = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.tensor([[0.0] * 6, [2.0, -1.0, 0.5, -4.0, 1.0, -1.0]])


def moved(eps: float, seed: int = 0, **options) -> torch.Tensor:
    """How far each feature went along the gradient of a linear model that holds."""
    model = linear(WEIGHT, torch.tensor([0.0, -60.0]))
    y = torch.zeros(400, dtype=torch.int64)
    result = sapper.craft(model, X, y, attack=RandFGSM(**options), threat=f"linf:{eps}", bounds=FAR, seed=seed)
    assert (result.backwards == 1).all()
    return (result.x_adv - X) * WEIGHT[1].sign()


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_one_random_step_of_alpha_then_one_gradient_step_of_the_rest(alpha: float) -> None:
    """Along or against the gradient at random, so either eps or eps - 2·alpha; never 2·alpha, nor ten steps."""
    along = moved(0.3, alpha=alpha)
    low, high = (along - (0.3 - 2 * alpha)).abs() < 1e-5, (along - 0.3).abs() < 1e-5
    assert (low | high).all()
    assert abs(float(high.double().mean()) - 0.5) < 4 * 0.5 / 2400**0.5


def test_the_random_step_is_half_the_budget_unless_told() -> None:
    assert torch.equal(moved(0.3), moved(0.3, alpha=0.15))


def test_signs_differ_between_samples_features_and_seeds() -> None:
    along = moved(0.3, alpha=0.05) > 0.25
    assert len(along.unique(dim=0)) == 64  # all of 2^6
    assert (along != (moved(0.3, alpha=0.05, seed=1) > 0.25)).any(1).float().mean() > 0.9


def test_without_a_random_step_it_is_fgsm() -> None:
    model = network()
    x, y = samples(model)
    for threat in ("linf:0.05", "linf:0.15"):
        plain = sapper.craft(model, x, y, attack="fgsm", threat=threat)
        random = sapper.craft(model, x, y, attack="rand_fgsm:alpha=0", threat=threat)
        assert torch.equal(random.x_adv, plain.x_adv)
        assert torch.equal(random.found, plain.found)


def test_a_random_step_beyond_the_budget_is_refused() -> None:
    model = network()
    x, y = samples(model)
    with pytest.raises(UsageError, match=r"alpha.*0\.1"):
        sapper.craft(model, x, y, attack=RandFGSM(alpha=0.2), threat="linf:0.1")
    with pytest.raises(UsageError, match="alpha"):
        RandFGSM(alpha=-1)
