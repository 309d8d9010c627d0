"""Which samples are vulnerable, told without an attack: from the saliency map of the clean sample.

Papernot et al. (2016), section V.C: the more entries of the map S(X, t) are positive, the more there is for an attacker to
work with. A(X, t) = 1 - the share that is; close to 1 is hard. The robustness R(F) of a network is the smallest A.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sapper.goal import Goal
from sapper.oracle import GradientOracle
from sapper.saliency import share_of_pairs
from sapper.tensors import Batch, take

PerCase = Float[Tensor, " cases"]

PAIRS_UP_TO = 4096
"""Features beyond which the quadratic count of pairs is not made."""


def adversarial_distance(
    oracle: GradientOracle,
    x: Batch,
    sample: Int[Tensor, " cases"],
    goal: Goal,
    size: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[PerCase, PerCase | None]:
    """A(X, t) of each case for increasing features: over single features, and over pairs where those can be counted.

    Args:
        oracle: The model's door.
        x: Clean samples.
        sample: For each case, which of them.
        goal: The cases' goals.
        size: Rows at once.
        progress: Told how many cases are done.
    """
    single, pairs = [], []
    for rows in torch.arange(len(sample), device=x.device).split(size):
        logits, pull = oracle.vjp(x[sample[rows]])
        rising, falling = take(goal, rows).directions(logits)
        target, others = pull(rising).flatten(1), pull(falling).flatten(1)
        single.append(1 - ((target > 0) & (others < 0)).to(x.dtype).mean(1))
        if target.shape[1] <= PAIRS_UP_TO:
            pairs.append(1 - share_of_pairs(target, -others))
        if progress:
            progress(int(rows[-1]) + 1)
    return torch.cat(single), torch.cat(pairs) if pairs else None
