"""What to ask a model that gives answers only, so that a network of one's own learns to answer alike.

Each round looks at the network learned so far: every input known is moved along the sign of the derivative of its label's
output, towards or away from where that answer is sure, and the model is asked about what comes out (Jacobian-based
augmentation; Papernot et al., "Practical Black-Box Attacks against Machine Learning", 2017). Two refinements are of
Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning", 2016: the direction alternates every few rounds,
and after some rounds only a random sample of the inputs is moved, so that questions no longer double.

Differs from the papers: the new inputs stay in the data's box, as an endpoint takes no others.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from sapper.citation import Paper
from sapper.oracle import TorchOracle, frozen
from sapper.tensors import Batch, Labels, Logits, per_row, scaled

PAPERS = (
    Paper(
        title="Practical Black-Box Attacks against Machine Learning",
        authors="N. Papernot, P. McDaniel, I. Goodfellow, S. Jha, Z. B. Celik, A. Swami",
        year=2017,
        url="https://arxiv.org/abs/1602.02697",
        venue="ACM Asia Conference on Computer and Communications Security",
    ),
    Paper(
        title="Transferability in Machine Learning: from Phenomena to Black-Box Attacks using Adversarial Samples",
        authors="N. Papernot, P. McDaniel, I. Goodfellow",
        year=2016,
        url="https://arxiv.org/abs/1605.07277",
    ),
)

_ROWS = 512


def reservoir(draws: Sequence[float], size: int) -> list[int]:
    """The places of a uniform sample without replacement, in one pass (Vitter's algorithm R, as the paper has it).

    The first fill the slots; each later one i draws a number r from 0 to i, and takes slot r if there is one.

    Args:
        draws: A number in (0, 1) for each of those to choose from.
        size: How many to choose, or all where there are fewer.
    """
    slots = list(range(min(size, len(draws))))
    for place, draw in enumerate(draws):
        slot = int(draw * (place + 1))
        if place >= size and slot < size:
            slots[slot] = place
    return slots


def by_jacobian(module: nn.Module, x: Batch, label: Labels, step: float) -> Batch:
    """New inputs as the papers make them for networks and softmax regression: x + step · sgn(∂ p_label / ∂x).

    The derivative of the label's probability is that of its logit less the mean of the others', weighted by their share of
    what the label leaves them, times a positive number, which underflows where the network is sure and is left out.
    """
    return x + step * _pulled(module, x, label, _against_the_others).sign()


def by_hyperplane(module: nn.Module, x: Batch, label: Labels, step: float) -> Batch:
    """New inputs as the paper makes them for linear support vector machines: x - step · w / ‖w‖, w the label's weights."""
    weights, _ = scaled(_pulled(module, x, label, _alone))
    length = torch.linalg.vector_norm(weights.flatten(1), dim=1).clamp_min(1)  # of rows in units of their largest entry
    return x - step * weights / per_row(length, weights)


def _pulled(module: nn.Module, x: Batch, label: Labels, cotangent: Callable[[Logits, Labels], Logits]) -> Batch:
    parts = []
    with frozen(module):
        oracle = TorchOracle(module)
        for rows, wanted in zip(x.split(_ROWS), label.split(_ROWS), strict=True):
            logits, pull = oracle.vjp(rows)
            parts.append(pull(cotangent(logits, wanted)))
    return torch.cat(parts)


def _alone(logits: Logits, label: Labels) -> Logits:
    return functional.one_hot(label, logits.shape[1]).to(logits.dtype)


def _against_the_others(logits: Logits, label: Labels) -> Logits:
    others = logits.scatter(1, label[:, None], -torch.inf).softmax(1)
    return _alone(logits, label) - others
