"""The transfer matrix at its smoke scale, and what its parts craft with."""

from pathlib import Path

import torch
from sklearn.tree import DecisionTreeClassifier

from labs import lab, needs_mnist
from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.learners import Neighbours, Tree, learner_of
from sapper.models.estimators import from_estimator
from sapper.studies._learners_common import KINDS
from sapper.studies._matrix_claims import cells, sums
from sapper.studies._matrix_common import COLUMNS, PUBLISHED, moved, size, wrong
from sapper.studies._matrix_nearest import nearest_other, point_by_point, towards_others
from sapper.studies._matrix_tree import to_the_letter
from sapper.study_run import run_study
from toys import drawn, linear, predict, random_linear

POINTS = drawn(40, 6, seed=1).double()
KNOWN = Neighbours(POINTS, torch.arange(40) % 3)


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("transfer_matrix", lab(tmp_path), "sapper study transfer_matrix")
    across, nearest, tree, *within, unsaid = outcome.parts
    assert [len(part.tables) for part in outcome.parts] == [1, 1, 1, 0, 0, 0, 0, 0, 1]
    assert [row[0] for row in across.tables[0].rows[1:]] == list(KINDS)
    for row in (*across.tables[0].rows, *nearest.tables[0].rows, *tree.tables[0].rows):
        assert len(row) == 8
        assert all(isinstance(rate, float) and 0 <= rate <= 100 for rate in row[1:])
    assert sum(" to " in claim.what and claim.where == "Figure 3" for claim in across.claims) >= 30
    assert [len(part.claims) for part in within] == [1] * 5
    assert [row[:2] for row in unsaid.tables[0].rows] == [[100, 0.25], [100, 0.2], [500, 0.25], [500, 0.2]]
    own = {row[0]: row[1 + KINDS.index(row[0])] for row in across.tables[0].rows[1:]}
    assert own["SVM"] == 100
    for part in outcome.parts:
        assert all((tmp_path / "figures" / figure.file).stat().st_size > 500 for figure in part.figures)


def test_the_published_matrix_against_itself_meets_every_claim() -> None:
    assert PUBLISHED.shape == (len(KINDS), len(COLUMNS))
    assert {claim.verdict for claim in (*cells(PUBLISHED), *sums(PUBLISHED))} == {"met"}


def test_a_sample_that_is_wrong_from_the_start_is_moved_as_well(tmp_path: Path) -> None:
    model, x = random_linear(), drawn(20, 12)
    y = (predict(model, x) + 1) % 4
    x_adv = moved(lab(tmp_path), model, Data("toy", x, y, tuple("0123")), "fgsm", "linf:0.1")
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 0.1))
    assert abs(size(x_adv, x) - 10) < 1e-4


def test_success_is_counted_against_the_true_class_and_the_ensemble_comes_last() -> None:
    says = [linear(torch.zeros(3, 2), torch.eye(3)[c]) for c in (0, 2, 2)]
    y = torch.tensor([0, 2, 2, 1])
    assert wrong(dict(zip("abc", says, strict=True)), torch.zeros(4, 2), y) == [75.0, 50.0, 50.0, 50.0]


def test_the_algorithm_to_the_letter_undoes_only_on_the_way_up() -> None:
    """Both the root and a deeper node ask for more of the first feature."""
    tree = Tree(
        feature=torch.tensor([0, -2, 0, -2, -2]), threshold=torch.tensor([0.5, -2.0, 0.7, -2.0, -2.0]).double(),
        left=torch.tensor([1, -1, 3, -1, -1]), right=torch.tensor([2, -1, 4, -1, -1]), label=torch.tensor([0, 0, 0, 0, 1]),
    )  # fmt: skip
    x = torch.tensor([[0.2, 0.3]])
    assert tree.leaves(to_the_letter(tree, x, upward=False)).tolist() == [4]
    assert tree.leaves(to_the_letter(tree, x, upward=True)).tolist() == [3]


def test_the_algorithm_to_the_letter_crosses_the_root() -> None:
    learned, x = load_data("digits", split="train", limit=600), load_data("digits", limit=100).x
    fitted = DecisionTreeClassifier(random_state=0).fit(learned.x.flatten(1).double().numpy(), learned.y.numpy())
    tree = learner_of(from_estimator(fitted, "tree").module)
    assert isinstance(tree, Tree)
    before, after = tree.leaves(x), tree.leaves(to_the_letter(tree, x, upward=False))
    assert (tree.label[after] != tree.label[before]).all()
    middle, root = tree.right[0], int(tree.feature[0])
    assert ((before < middle) != (after < middle)).all()
    value = to_the_letter(tree, x, upward=True).flatten(1)[:, root].double()
    assert ((value <= tree.threshold[0]) == (before >= middle)).all()  # it is set last


def test_the_formula_as_it_stands_agrees_with_the_one_in_logarithms_where_nothing_is_lost() -> None:
    x, y = drawn(12, 6), torch.arange(12) % 3
    falls, certain = point_by_point(KNOWN, x, y)
    mass, mean = KNOWN.soft(x.double())
    own = torch.eye(3, dtype=torch.float64)[y]
    share = mass.softmax(1)
    whole = torch.einsum("rc,rcf->rf", share, mean)
    part = torch.einsum("rc,rcf->rf", share * own, mean) / (share * own).sum(1, keepdim=True)
    exact = -2 * (share * own).sum(1, keepdim=True) * (part - whole)
    torch.testing.assert_close(falls.double(), exact, atol=1e-5, rtol=1e-4)
    assert not certain.any()


def test_what_is_left_leads_to_the_other_classes_points() -> None:
    x, y = drawn(12, 6).double(), torch.arange(12) % 3
    far = Neighbours(POINTS * 30, KNOWN.labels)  # the nearest of the others has all the weight
    ends = x + towards_others(far, x, y)
    away = (x[:, None] - far.points).square().sum(2).masked_fill(far.labels == y[:, None], torch.inf)
    torch.testing.assert_close(nearest_other(far, x, y).double(), away.amin(1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ends, far.points[away.argmin(1)], rtol=0.05, atol=0.05)
