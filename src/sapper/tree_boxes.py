"""Where a decision tree's leaves lie: each is a box, and the nearest point of a box is the same in every norm.

A leaf's box differs from its parent's in one feature only, so the distances of all samples from all leaves follow level by
level from one number a node: nothing is made of the size samples x leaves x features. Boxes are closed: they end at
numbers that samples can take, in their type and on the threat's grid, so that a sample moved into one is in it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sapper.learners import Tree, seen
from sapper.tensors import Batch, ClassFlags, Flat, Labels
from sapper.threat import Threat

_ELEMENTS = 1 << 22
"""Of the largest tensor made here: rows x nodes."""


@dataclass(frozen=True)
class Boxes:
    """A tree's boxes within the box of legal inputs. One entry a node; leaves have no feature, so theirs mean nothing."""

    tree: Tree
    parent: Tensor
    """The root's is -1."""
    levels: tuple[Tensor, ...]
    """The inner nodes, by their depth."""
    low: Tensor
    """Where the node's box begins in the feature that the node looks at."""
    below: Tensor
    """The greatest number that goes left."""
    above: Tensor
    """The least that goes right."""
    high: Tensor
    """Where the node's box ends."""
    reachable: Tensor
    """Whether any input gets there."""

    def nearest(self, x: Batch, wanted: ClassFlags, p: float) -> Labels:
        """The leaf of a wanted class whose box is the nearest in lp; -1 where there is none.

        Args:
            x: Samples.
            wanted: (rows, classes).
            p: 0, 1, 2 or infinity.
        """
        leaves = (self.tree.left < 0).nonzero()[:, 0]
        rows = max(1, _ELEMENTS // len(self.parent))
        parts = []
        for part, fits in zip(x.flatten(1).split(rows), wanted.split(rows), strict=True):
            away = self._distances(seen(part).to(torch.promote_types(x.dtype, torch.float32)), p)[leaves]
            away = away.masked_fill(~fits.T[self.tree.label[leaves]], math.inf)
            least, place = away.min(0)
            parts.append(torch.where(least < math.inf, leaves[place], -1))
        return torch.cat(parts)

    def neighbouring(self, leaf: Labels, wanted: ClassFlags) -> Labels:
        """The leaf of a wanted class that is found by climbing from the leaf given: in the first subtree beside the way that
        has one, the fewest nodes down, the leftmost of these. -1 where there is none (Algorithm 2 of Papernot et al.).
        """
        under, steps = self._under(wanted.shape[1])
        found = torch.full_like(leaf, -1)
        node = leaf
        for _ in self.levels:
            parent = self.parent[node].clamp_min(0)  # the root stays and is beside itself
            beside = torch.where(self.tree.left[parent] == node, self.tree.right[parent], self.tree.left[parent])
            down = steps[beside].masked_fill(~wanted | (node == 0)[:, None], math.inf)
            fewest = down == down.amin(1, keepdim=True)
            first = under[beside].masked_fill(~fewest, len(self.parent)).amin(1)
            found = torch.where((found < 0) & down.isfinite().any(1), first, found)
            node = parent
        return found

    def into(self, x: Batch, leaf: Labels) -> Batch:
        """The nearest point of a leaf's box to each row; rows with leaf -1 stay."""
        moved, node = x.flatten(1).clone(), leaf.clamp_min(0)
        for _ in self.levels:
            parent = self.parent[node].clamp_min(0)
            feature = self.tree.feature[parent].clamp_min(0)[:, None]
            is_left, below, above = self.tree.left[parent] == node, self.below[parent], self.above[parent]
            value = moved.gather(1, feature)[:, 0]
            at = seen(value)
            goes = torch.where(is_left & (at > below), below, value)
            goes = torch.where(~is_left & (at < above), above, goes)
            moved = moved.scatter(1, feature, torch.where(node > 0, goes, value)[:, None])
            node = parent
        return moved.reshape(x.shape)

    def _distances(self, x: Flat, p: float) -> Tensor:
        """(nodes, rows), of the boxes that can be reached; infinite for the others. In l2 the squares."""
        tree, by_feature = self.tree, x.T.contiguous()
        away = x.new_zeros(len(self.parent), len(x))
        for nodes in self.levels:
            value = by_feature[tree.feature[nodes]]
            low, below, above, high = (
                side[nodes, None].to(x) for side in (self.low, self.below, self.above, self.high)
            )
            under, over = (low - value).clamp_min_(0), (value - high).clamp_min_(0)
            before, here = under + over, away[nodes]
            left = under + (value - torch.minimum(below, high)).clamp_min_(0)
            right = (torch.maximum(above, low) - value).clamp_min_(0) + over
            away[tree.left[nodes]] = _with(here, before, left, p)
            away[tree.right[nodes]] = _with(here, before, right, p)
        return away.masked_fill_(~self.reachable[:, None], math.inf)

    def _under(self, classes: int) -> tuple[Tensor, Tensor]:
        """(nodes, classes): of the leaves of a class under a node the highest, leftmost one, and how far down it is."""
        tree, count = self.tree, len(self.parent)
        leaf = (tree.left < 0) & self.reachable
        own = (torch.arange(classes, device=leaf.device) == tree.label[:, None]) & leaf[:, None]
        steps = torch.where(own, 0.0, math.inf)
        under = torch.where(own, torch.arange(count, device=leaf.device)[:, None], -1)
        for nodes in reversed(self.levels):
            left, right = tree.left[nodes], tree.right[nodes]
            is_left = steps[left] <= steps[right]
            steps[nodes] = torch.where(is_left, steps[left], steps[right]) + 1
            under[nodes] = torch.where(is_left, under[left], under[right])
        return under, steps


def boxes(tree: Tree, threat: Threat, like: Batch) -> Boxes:
    """A tree's boxes for inputs of this type and device, under a threat."""
    tree = tree.to(like.device)
    parent, levels = _parents(tree)
    below, above = tree.sides(like.dtype)
    below, above = threat.at_most(below), threat.at_least(above)
    low, high = torch.full_like(below, threat.lower), torch.full_like(above, threat.upper)
    node, ancestor = torch.arange(len(parent), device=like.device), parent
    for _ in levels:  # each node's way up, all nodes at once
        same, up = (ancestor >= 0) & (tree.feature == tree.feature[ancestor]), ancestor.clamp_min(0)
        is_left = tree.left[up] == node
        high = torch.where(same & is_left, torch.minimum(high, below[up]), high)
        low = torch.where(same & ~is_left, torch.maximum(low, above[up]), low)
        node, ancestor = torch.where(ancestor >= 0, up, node), torch.where(ancestor >= 0, parent[up], -1)
    reachable = torch.ones_like(parent, dtype=torch.bool)
    for nodes in levels:
        reachable[tree.left[nodes]] = reachable[nodes] & (below[nodes] >= low[nodes])
        reachable[tree.right[nodes]] = reachable[nodes] & (above[nodes] <= high[nodes])
    return Boxes(tree, parent, levels, low, below, above, high, reachable)


def _parents(tree: Tree) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Each node's parent, and the inner nodes level by level."""
    inner = tree.left >= 0
    parent, levels = torch.full_like(tree.left, -1), []
    nodes = torch.zeros_like(tree.left[:1])
    while len(nodes := nodes[inner[nodes]]):
        levels.append(nodes)
        for side in (tree.left, tree.right):
            parent[side[nodes]] = nodes
        nodes = torch.cat([tree.left[nodes], tree.right[nodes]])
    return parent, tuple(levels)


def _with(here: Tensor, before: Tensor, after: Tensor, p: float) -> Tensor:
    """The distance once one feature is `after` outside the box, where it was `before`."""
    if p == math.inf:
        return torch.maximum(here, after)
    if p == 0:
        return here + after.sign() - before.sign()
    return here + after**p - before**p
