"""The search in a saliency map: which feature, or pair of features, to change.

With a the derivative of the target by each feature and b minus the sum of the others' (signs turned to decrease), the
paper's Algorithm 3 looks for the pair p != q in the domain with a_p + a_q > 0, b_p + b_q > 0 and the largest
(a_p + a_q)(b_p + b_q).
"""

import torch
from torch import Tensor

from sapper.tensors import Batch, Flags, Flat, Mask, Scalars

_PAIRS_AT_ONCE = 1 << 24


def saliency_pair(a: Flat, b: Flat, domain: Flags) -> tuple[Tensor, Mask]:
    """The best admissible pair of each row, exactly, and whether there is one.

    Exchanging p for another feature whose a and b are both at least as large loses nothing, so a best pair lies among
    the features that at most one other dominates. In the order of falling a, the dominators of a feature stand before it:
    it stays if its b exceeds the second largest b before it. That takes O(n log n) and leaves about a dozen of them;
    only these are paired.

    Returns:
        Two column indices a row (of the features, any where there is no pair), and the flag.
    """
    a, b = _scaled(a, domain), _scaled(b, domain)
    a_sorted, order = a.sort(dim=1, descending=True)
    b_sorted = b.gather(1, order)
    largest = torch.nn.functional.pad(b_sorted.cummax(1).values[:, :-1], (1, 0), value=-torch.inf)
    second = torch.minimum(b_sorted, largest).cummax(1).values  # the second largest so far, this one included
    second = torch.nn.functional.pad(second[:, :-1], (1, 0), value=-torch.inf)
    keep = (b_sorted > second) & (a_sorted > -torch.inf)

    place = keep.cumsum(1) - 1
    row, column = keep.nonzero(as_tuple=True)
    width = max(2, int(place[:, -1].max()) + 1) if len(row) else 2
    candidates = torch.zeros(len(a), width, dtype=torch.int64, device=a.device)
    candidates[row, place[row, column]] = order[row, column]
    a_few = torch.full_like(candidates, -torch.inf, dtype=a.dtype)
    b_few = a_few.clone()
    a_few[row, place[row, column]] = a_sorted[row, column]
    b_few[row, place[row, column]] = b_sorted[row, column]
    first, other, admissible = _best_pair(a_few, b_few)
    return candidates.gather(1, torch.stack([first, other], 1)), admissible


def saliency_single(a: Flat, b: Flat, domain: Flags) -> tuple[Tensor, Mask]:
    """The best admissible feature of each row: a > 0, b > 0 and the largest a·b (Eq. 8)."""
    a, b = _scaled(a, domain), _scaled(b, domain)
    score = torch.where((a > 0) & (b > 0), a * b, -1.0)
    best, chosen = score.max(dim=1, keepdim=True)
    return chosen, best[:, 0] >= 0


def _scaled(values: Flat, domain: Flags) -> Flat:
    """By the row's largest, which changes no choice and keeps the products from vanishing; outside the domain -inf.

    What is not a number counts as no derivative.
    """
    values = torch.where(domain & values.isfinite(), values, 0)
    largest = values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.where(domain, values / largest, -torch.inf)


def _best_pair(a: Flat, b: Flat) -> tuple[Tensor, Tensor, Mask]:
    """By trying all pairs, in blocks that bound the memory (should very many features be undominated)."""
    rows, width = a.shape
    block = max(1, _PAIRS_AT_ONCE // (rows * width))
    best = torch.full((rows,), -1.0, dtype=a.dtype, device=a.device)
    pair = torch.zeros(rows, 2, dtype=torch.int64, device=a.device)
    pair[:, 1] = 1
    index = torch.arange(width, device=a.device)
    for begin in range(0, width, block):
        part = index[begin : begin + block]
        alpha = a[:, part, None] + a[:, None, :]
        beta = b[:, part, None] + b[:, None, :]
        fits = (alpha > 0) & (beta > 0) & (part[:, None] < index)
        score = torch.where(fits, alpha * beta, -1.0).flatten(1)
        value, place = score.max(1)
        better = value > best
        best = torch.where(better, value, best)
        found = torch.stack([begin + place // width, place % width], 1)
        pair = torch.where(better[:, None], found, pair)
    return pair[:, 0], pair[:, 1], best >= 0


def share_of_pairs(a: Flat, b: Flat) -> Scalars:
    """Which share of all pairs is admissible: a_p + a_q > 0 and b_p + b_q > 0. Quadratic in the features."""
    width = a.shape[1]
    # Row by row: a row's matrix stays in the cache, which makes it four times as fast as all at once.
    count = torch.stack(
        [
            torch.count_nonzero((p[:, None] > -p) & (q[:, None] > -q))
            for p, q in zip(a.unbind(), b.unbind(), strict=True)
        ]
    )
    alone = ((a > 0) & (b > 0)).sum(1)  # a feature with itself is no pair
    return (count - alone).to(a.dtype) / (width * (width - 1))


def roughness_rise(x: Batch, change: Batch) -> Batch:
    """By how much changing each pixel alone raises the sum over neighbours of (x_p − x_q)², for images."""
    ring = torch.nn.functional.pad(x, (1, 1, 1, 1))
    around = ring[..., :-2, 1:-1] + ring[..., 2:, 1:-1] + ring[..., 1:-1, :-2] + ring[..., 1:-1, 2:]
    count = torch.full_like(x[:1, :1], 4.0)
    count[..., 0, :] -= 1
    count[..., -1, :] -= 1
    count[..., :, 0] -= 1
    count[..., :, -1] -= 1
    return change * (count * (2 * x + change) - 2 * around)
