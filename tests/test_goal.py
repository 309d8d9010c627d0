import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sapper import noise
from sapper.errors import UsageError
from sapper.goal import KINDS, Goal, GoalSpec, Targeted, Untargeted
from sapper.tensors import take

LABEL = torch.tensor([0, 1, 2, 3, 0, 1])
TARGET = torch.tensor([3, 0, 1, 2, 1, 2])
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
KEY = noise.keys(0, torch.arange(6))
GOALS = {"untargeted": Untargeted(LABEL), "confidence": Untargeted(LABEL, 0.7), "targeted": Targeted(LABEL, TARGET)}
FORMS = [
    "misclassification", "confidence:0.5", "targeted:3", "targeted:every", "targeted:random", "targeted:least-likely",
    "source-target:2->3", "source-target:2->every", "confidence:0.00001", "confidence:0.123456789",
]  # fmt: skip


def cases(text: str, label: torch.Tensor = LABEL, logits: torch.Tensor = LOGITS) -> tuple[list[int], Goal]:
    rows, goal = GoalSpec.parse(text).cases(label, logits, noise.keys(0, torch.arange(len(label))))
    return rows.tolist(), goal


@pytest.mark.parametrize("text", FORMS)
def test_goals_are_written_as_they_were_read(text: str) -> None:
    assert str(GoalSpec.parse(text)) == text
    assert GoalSpec.parse(str(GoalSpec.parse(text))) == GoalSpec.parse(text)


def test_the_four_adversarial_goals_can_be_named() -> None:
    texts = ("confidence:0.5", "misclassification", "targeted", "source-target:1->0")
    assert tuple(GoalSpec.parse(text).kind for text in texts) == KINDS


def test_targeted_alone_means_every_other_class() -> None:
    assert GoalSpec.parse(" Targeted ") == GoalSpec.parse("targeted:every")


@pytest.mark.parametrize(
    "text",
    [
        "", "untargeted", "targeted:", "targeted:-1", "targeted:cat", "confidence", "confidence:0", "confidence:0.0",
        "confidence:1", "confidence:1.5", "confidence:-0.5", "source-target:2", "source-target:2->", "source-target:->2",
        "source-target:every->2", "source-target:2->random", "source-target:2->2",
    ],
)  # fmt: skip
def test_what_is_no_goal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        GoalSpec.parse(text)


@pytest.mark.parametrize("text", ["targeted:4", "source-target:4->1", "source-target:1->4", "source-target:10->every"])
def test_a_class_the_model_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="classes 0 to 3"):
        cases(text)


def test_misclassification_has_a_case_for_each_sample() -> None:
    rows, goal = cases("misclassification")
    assert rows == [0, 1, 2, 3, 4, 5]
    assert goal.targets() is None
    assert torch.equal(goal.label, LABEL)


def test_every_other_class_comes_in_the_order_of_samples_then_targets() -> None:
    rows, goal = cases("targeted:every", LABEL[:2], LOGITS[:2])
    assert rows == [0, 0, 0, 1, 1, 1]
    assert goal.label.tolist() == [0, 0, 0, 1, 1, 1]
    assert goal.targets().tolist() == [1, 2, 3, 0, 2, 3]


def test_a_given_class_leaves_out_the_samples_of_that_class() -> None:
    rows, goal = cases("targeted:1")
    assert rows == [0, 2, 3, 4]
    assert goal.label.tolist() == [0, 2, 3, 0]
    assert goal.targets().tolist() == [1] * 4


def test_least_likely_is_the_class_of_the_smallest_logit_but_never_the_label() -> None:
    label, logits = torch.tensor([0, 0]), torch.tensor([[-9.0, 1.0, 0.0], [5.0, 1.0, 0.0]])
    assert cases("targeted:least-likely", label, logits)[1].targets().tolist() == [2, 2]


def test_random_targets_are_uniform_over_the_other_classes_and_a_samples_own() -> None:
    label = torch.arange(4).repeat(1000)
    logits = torch.zeros(4000, 4)
    key = noise.keys(0, torch.arange(4000))
    _, goal = GoalSpec.parse("targeted:random").cases(label, logits, key)
    steps = (goal.targets() - label) % 4
    assert (steps.bincount(minlength=4)[1:] - 4000 / 3).abs().max() < 4 * (4000 * 2 / 9) ** 0.5
    assert (steps != 0).all()
    rows = torch.tensor([3999, 5])
    _, some = GoalSpec.parse("targeted:random").cases(label[rows], logits[rows], key[rows])
    assert some.targets().tolist() == goal.targets()[rows].tolist()


def test_source_and_target_take_only_the_samples_of_the_source() -> None:
    rows, goal = cases("source-target:1->3")
    assert (rows, goal.label.tolist(), goal.targets().tolist()) == ([1, 5], [1, 1], [3, 3])
    rows, goal = cases("source-target:1->every")
    assert (rows, goal.targets().tolist()) == ([1, 1, 1, 5, 5, 5], [0, 2, 3] * 2)


def test_reached_is_another_class_or_the_target() -> None:
    predicted = torch.tensor([0, 0, 1, 2, 1, 1])
    assert GOALS["untargeted"].reached(predicted).tolist() == [False, True, True, True, True, False]
    assert GOALS["targeted"].reached(predicted).tolist() == [False, True, True, True, True, False]
    assert Targeted(LABEL, TARGET).reached(torch.tensor([3, 1, 1, 2, 2, 2])).tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]


def test_confidence_is_reduced_below_the_threshold_or_to_another_class() -> None:
    logits = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7]]).log()
    goal = Untargeted(torch.zeros(3, dtype=torch.int64), 0.7)
    assert goal.reached(logits.argmax(1), logits).tolist() == [True, False, True]


def test_top_counts_the_classes_among_which_the_label_must_not_be() -> None:
    logits = torch.tensor([[5.0, 4, 3, 2], [4.0, 5, 3, 2], [3.0, 5, 4, 2], [2.0, 5, 4, 3]])
    label = torch.zeros(4, dtype=torch.int64)
    for top, reached in (
        (1, [False, True, True, True]),
        (2, [False, False, True, True]),
        (3, [False, False, False, True]),
    ):
        goal = Untargeted(label, top=top)
        assert goal.reached(logits.argmax(1), logits).tolist() == reached
        assert (goal.margin(logits) < 0).tolist() == reached


def test_confidence_reduction_without_scores_says_so() -> None:
    with pytest.raises(UsageError, match="scores"):
        GOALS["confidence"].reached(LABEL)


@given(st.sampled_from(["untargeted", "targeted"]), st.integers(0, 10**6))
def test_the_margin_is_negative_exactly_when_the_goal_is_reached(name: str, seed: int) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(GOALS[name].margin(logits) < 0, GOALS[name].reached(logits.argmax(1), logits))


@pytest.mark.parametrize("name", GOALS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_descending_a_loss_reaches_the_goal(name: str, loss: str) -> None:
    goal, logits = GOALS[name], LOGITS.clone()
    for _ in range(60):
        logits = logits - goal.cotangent(loss, logits)
    assert goal.reached(logits.argmax(1), logits).all()
    assert (getattr(goal, loss)(logits) < getattr(goal, loss)(LOGITS)).all()


def test_cross_entropy_is_that_of_the_target_or_minus_that_of_the_label() -> None:
    log_p = functional.log_softmax(LOGITS, 1)
    rows = torch.arange(6)
    torch.testing.assert_close(GOALS["targeted"].cross_entropy(LOGITS), -log_p[rows, TARGET])
    torch.testing.assert_close(GOALS["untargeted"].cross_entropy(LOGITS), log_p[rows, LABEL])


@pytest.mark.parametrize("name", GOALS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_the_cotangent_is_the_rows_own_derivative_whatever_its_batch_mates(name: str, loss: str) -> None:
    whole = GOALS[name].cotangent(loss, LOGITS)
    step = 1e-6
    for row in range(6):
        one = take(GOALS[name], slice(row, row + 1))
        assert torch.equal(one.cotangent(loss, LOGITS[row : row + 1])[0], whole[row])
        for column in range(4):
            nudge = torch.zeros(1, 4, dtype=torch.float64)
            nudge[0, column] = step
            value = getattr(one, loss)
            slope = (value(LOGITS[row : row + 1] + nudge) - value(LOGITS[row : row + 1] - nudge)) / (2 * step)
            assert float(slope[0]) == pytest.approx(float(whole[row, column]), abs=1e-6)


@pytest.mark.parametrize("name", GOALS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_in_no_precision_does_a_cotangent_turn_round(name: str, loss: str, dtype: torch.dtype) -> None:
    exact, rounded = (GOALS[name].cotangent(loss, logits).double() for logits in (LOGITS, LOGITS.to(dtype)))
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.05)


def test_a_sure_model_keeps_its_derivative() -> None:
    """The label's 1 - p rounds to 0 while the others' p do not: a direction that is not the loss's."""
    logits = torch.tensor([[40.0, 0.0, 3.0]])
    cotangent = Untargeted(torch.tensor([0])).cotangent("cross_entropy", logits)
    odds = torch.tensor([[1 + math.exp(3), -1.0, -math.exp(3)]])
    torch.testing.assert_close(cotangent / cotangent.abs().sum(), odds / odds.abs().sum())


def test_the_cotangent_is_found_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert GOALS["targeted"].cotangent("cross_entropy", LOGITS).abs().sum() > 0


def test_directions_say_which_outputs_rise_and_which_fall() -> None:
    rising, falling = GOALS["targeted"].directions(LOGITS)
    assert torch.equal(rising, functional.one_hot(TARGET, 4).double())
    assert torch.equal(rising + falling, torch.ones(6, 4, dtype=torch.float64))
    rising, falling = GOALS["untargeted"].directions(LOGITS)
    assert torch.equal(falling, functional.one_hot(LABEL, 4).double())
    assert torch.equal(rising + falling, torch.ones(6, 4, dtype=torch.float64))


def test_the_logits_ratio_is_as_published_and_the_same_however_sure_the_model_is() -> None:
    z = torch.tensor([[4.0, 7.0, 1.0, 3.0, 2.0], [9.0, 7.0, 1.0, 3.0, 2.0]])
    label, target = torch.tensor([0, 0]), torch.tensor([3, 1])
    assert Untargeted(label).dlr(z).tolist() == pytest.approx([-3 / 4, 2 / 6])  # Eq. 6, turned round: it falls
    through = Untargeted(label).through(target)
    assert through.dlr(z).tolist() == pytest.approx([1 / (7 - 2.5), 2 / (9 - 2.5)])  # Eq. 7
    assert Targeted(label, target).dlr(z).tolist() == pytest.approx(
        [4 / (7 - 2.5), 2 / (9 - 2.5)]
    )  # all must be passed
    torch.testing.assert_close(Untargeted(label).dlr(1000 * z), Untargeted(label).dlr(z))
    torch.testing.assert_close(Targeted(label, target).dlr(1000 * z), Targeted(label, target).dlr(z))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_ratio_keeps_a_gradient_with_few_classes(classes: int) -> None:
    z = torch.tensor([[3.0, 1.0, 0.5][:classes]])
    for goal in (Untargeted(torch.tensor([0])), Targeted(torch.tensor([0]), torch.tensor([1]))):
        assert goal.cotangent("dlr", z).abs().max() > 0.1
        assert goal.cotangent("dlr", torch.ones_like(z)).isfinite().all()


def test_rivals_are_the_likeliest_wrong_classes_in_order() -> None:
    z = torch.tensor([[4.0, 7.0, 1.0, 3.0], [9.0, 7.0, 1.0, 3.0]])
    goal = Untargeted(torch.tensor([0, 0]))
    assert [goal.rival(z, rank).tolist() for rank in (1, 2, 3, 4)] == [[1, 1], [3, 3], [2, 2], [2, 2]]
    assert Targeted(torch.tensor([0, 0]), torch.tensor([2, 3])).rival(z, 1).tolist() == [2, 3]


def test_the_classes_that_a_goal_wants() -> None:
    label, target = torch.tensor([0, 2]), torch.tensor([1, 0])
    assert Untargeted(label).wanted(3).tolist() == [[False, True, True], [True, True, False]]
    assert Targeted(label, target).wanted(3).tolist() == [[False, True, False], [True, False, False]]
