"""The search in a saliency map: which feature, or pair of features, to change.

With a the derivative of the target by each feature and b minus the sum of the others' (signs turned to decrease), the
paper's Algorithm 3 looks for the pair p != q in the domain with a_p + a_q > 0, b_p + b_q > 0 and the largest
(a_p + a_q)(b_p + b_q).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sapper.tensors import Batch, Flags, Flat, Mask, Scalars

Few = Float[Tensor, "rows kept"]
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
    a, b = _scaled(domain, a, b)
    index, a, b = _packed(_beside_the_two_best(a, b), a, b)  # fewer to sort
    a, order = a.sort(dim=1, descending=True)
    index, b = index.gather(1, order), b.gather(1, order)
    largest = torch.nn.functional.pad(b.cummax(1).values[:, :-1], (1, 0), value=-torch.inf)
    second = torch.minimum(b, largest).cummax(1).values  # the second largest so far, this one included
    second = torch.nn.functional.pad(second[:, :-1], (1, 0), value=-torch.inf)
    place, a, b = _packed((b > second) & (a > -torch.inf), a, b)
    first, other, admissible = _best_pair(a, b)
    return index.gather(1, place.gather(1, torch.stack([first, other], 1))), admissible


def _beside_the_two_best(a: Flat, b: Flat) -> Flags:
    """The two features of largest a + b, and those that they do not both dominate."""
    best = (a + b).topk(min(2, a.shape[1]), dim=1).indices
    least_a, least_b = (values.gather(1, best).amin(1, keepdim=True) for values in (a, b))
    return ((a > least_a) | (b > least_b)).scatter(1, best, True)


def _packed(keep: Flags, a: Flat, b: Flat) -> tuple[Tensor, Few, Few]:
    """The kept columns of each row moved to the left, and their indices; what is left over is -inf."""
    count = keep.sum(1)
    row, column = keep.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=a.device) - (count.cumsum(0) - count)[row]
    width = max(2, int(count.amax())) if len(count) else 2
    index = torch.zeros(len(a), width, dtype=torch.int64, device=a.device)
    index[row, place] = column
    filled = torch.arange(width, device=a.device) < count[:, None]
    a, b = (torch.where(filled, values.gather(1, index), -torch.inf) for values in (a, b))
    return index, a, b


def saliency_single(a: Flat, b: Flat, domain: Flags) -> tuple[Tensor, Mask]:
    """The best admissible feature of each row: a > 0, b > 0 and the largest a·b (Eq. 8)."""
    a, b = _scaled(domain, a, b)
    score = torch.where((a > 0) & (b > 0), a * b, -1.0)
    best, chosen = score.max(dim=1, keepdim=True)
    return chosen, best[:, 0] >= 0


def _scaled(domain: Flags, a: Flat, b: Flat) -> tuple[Flat, Flat]:
    """Each by the row's largest, which changes no choice and keeps the products from vanishing; outside the domain -inf.

    What is not a number counts as no derivative.
    """
    inside = domain.to(a.dtype)
    outside = inside.log()  # 0 in the domain, -inf outside; sums are much faster than choices
    a, b = (values.nan_to_num(0, 0, 0) * inside for values in (a, b))
    tiny = torch.finfo(a.dtype).tiny
    a, b = (values / values.abs().amax(1, keepdim=True).clamp_min(tiny) + outside for values in (a, b))
    return a, b


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
