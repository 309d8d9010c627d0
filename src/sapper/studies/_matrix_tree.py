"""The paper's Algorithm 2 to the letter: why its samples fool their own tree in 89 % of cases and change eleven times more.

The loop that climbs from the sample's leaf asks what the tree says of x*, but changes x* only once it has ended: so read it
climbs to the root, and the leaf comes from the other half of the tree. Then the feature of every node on the way to that
leaf is set to the leaf's side of the threshold, whether it was there already or not. In the order in which they are met on
the way up, a node near the root undoes what a deeper one, which looks at the same feature, has asked for.
"""

import torch
from torch import Tensor

from sapper.learners import Tree
from sapper.tensors import Batch, Labels


def to_the_letter(tree: Tree, x: Batch, *, upward: bool) -> Batch:
    """Samples moved towards the leftmost leaf of another class in the other half of the tree.

    Args:
        tree: As scikit-learn numbers nodes: depth first, the left first.
        x: The samples.
        upward: The features are set from the leaf up, so that the root's is set last; else from the root down.
    """
    parent = _parents(tree)
    node, edits = _across(tree, tree.leaves(x)), []
    below, above = tree.sides(x.dtype)
    moved = x.flatten(1).clone()
    for _ in range(len(parent)):
        if not bool((node > 0).any()):
            break
        up = parent[node].clamp_min(0)  # the root stays
        value = torch.where(tree.left[up] == node, below[up], above[up])
        edits.append((node > 0, tree.feature[up], value))
        node = up
    for live, feature, value in edits if upward else reversed(edits):
        place = feature[:, None]
        moved.scatter_(1, place, torch.where(live[:, None], value[:, None], moved.gather(1, place)))
    return moved.reshape(x.shape)


def _parents(tree: Tree) -> Tensor:
    """The root's is -1."""
    parent, inner = torch.full_like(tree.left, -1), (tree.left >= 0).nonzero()[:, 0]
    parent[tree.left[inner]] = inner
    parent[tree.right[inner]] = inner
    return parent


def _across(tree: Tree, leaf: Labels) -> Labels:
    """For each leaf the first one of another class on the other side of the root; itself where there is none."""
    leaves = (tree.left < 0).nonzero()[:, 0]
    is_right, sought = leaves >= tree.right[0], leaf.clone()
    for side in (False, True):
        for label in tree.label[leaves].unique():
            fits = leaves[(is_right != side) & (tree.label[leaves] != label)]
            rows = ((leaf >= tree.right[0]) == side) & (tree.label[leaf] == label)
            if len(fits):
                sought[rows] = fits[0]
    return sought
