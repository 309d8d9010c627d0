"""Adversarial distance, against a plain count over the full Jacobian."""

import torch

from sapper.adversarial_distance import adversarial_distance
from sapper.goal import Targeted
from sapper.oracle import TorchOracle
from toys import network


def test_it_is_the_share_of_inadmissible_features_and_pairs() -> None:
    model = network((9,), 4)
    x = torch.rand(6, 9, generator=torch.Generator().manual_seed(1))
    sample, target = torch.tensor([0, 0, 1, 2, 3, 4, 5]), torch.tensor([1, 2, 0, 3, 1, 0, 2])
    goal = Targeted(torch.full_like(target, 3), target)
    single, pairs = adversarial_distance(TorchOracle(model), x, sample, goal, 3)
    assert pairs is not None
    for row, (s, t) in enumerate(zip(sample.tolist(), target.tolist(), strict=True)):
        jacobian = torch.autograd.functional.jacobian(lambda one: model(one[None])[0], x[s])
        a, b = jacobian[t], jacobian.sum(0) - jacobian[t]
        assert abs(single[row].item() - (1 - ((a > 0) & (b < 0)).double().mean().item())) < 1e-6
        good = sum(bool(a[p] + a[q] > 0 and b[p] + b[q] < 0) for p in range(9) for q in range(p))
        assert abs(pairs[row].item() - (1 - good / 36)) < 1e-6
