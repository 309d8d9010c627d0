"""Models that are no torch networks: what they give, and what is asked of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper import catalogue
from sapper.data.dataset import Data
from sapper.errors import ModelError, UsageError
from sapper.foreign import LEVELS, Foreign, access
from sapper.learners import Linear
from sapper.models.model import preprocessed
from sapper.oracle import TorchOracle
from sapper.preflight import inspect
from sapper.remedies import Remedies
from toys import network, samples

X = torch.rand(40, 1, 3, 4, generator=torch.Generator().manual_seed(0))


class Asked:
    """A function that remembers how it was asked."""

    def __init__(self, answer) -> None:
        self.answer, self.shapes, self.types = answer, [], set()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.shapes.append(x.shape)
        self.types.add(x.dtype.name)
        return self.answer(x)


def scores(x: np.ndarray) -> np.ndarray:
    """The toy network, as if it were somebody else's."""
    with torch.no_grad():
        return network()(torch.from_numpy(x).float()).numpy()


def probabilities(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(scores(x)).double().softmax(1).numpy()


def labels(x: np.ndarray) -> np.ndarray:
    return scores(x).argmax(1)


def label_only() -> Foreign:
    return Foreign(labels, "labels", 4)


class TestAnswers:
    def test_scores_are_logits_as_they_are(self) -> None:
        torch.testing.assert_close(Foreign(scores, "scores")(X), network()(X).detach())

    def test_probabilities_become_logarithms_whose_softmax_they_are(self) -> None:
        z = Foreign(probabilities, "scores", probabilities=True)(X)
        torch.testing.assert_close(z.softmax(1).double(), torch.from_numpy(probabilities(X.numpy())), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", ["float32", "float64"])
    def test_a_probability_of_0_gives_a_finite_logarithm(self, kind: str) -> None:
        z = Foreign(lambda x: np.eye(3, dtype=kind)[np.zeros(len(x), int)], "scores", probabilities=True)(X)
        assert z.isfinite().all()
        assert z[0].softmax(0).tolist() == pytest.approx([1, 0, 0], abs=1e-37)

    def test_labels_are_ones(self) -> None:
        z = label_only()(X)
        assert z.equal(torch.nn.functional.one_hot(torch.from_numpy(labels(X.numpy())), 4).float())

    @pytest.mark.parametrize("ask", [scores, probabilities])
    def test_there_is_no_gradient(self, ask) -> None:
        assert not Foreign(ask, "scores")(X.clone().requires_grad_()).requires_grad

    def test_scores_that_differ_by_less_than_single_precision_tell_keep_their_order(self) -> None:
        close = np.tile([0.25, 0.375, 0.375 + 1e-12, 1e-300], (len(X), 1))
        for is_distribution in (False, True):
            assert (Foreign(lambda x: close, "scores", probabilities=is_distribution)(X).argmax(1) == 2).all()

    def test_an_answer_that_is_not_a_number_stays_one_that_is_not(self) -> None:
        z = Foreign(lambda x: np.full((len(x), 3), np.nan), "scores", probabilities=True)(X)
        assert z.isnan().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_answers_have_the_type_of_the_inputs(self, dtype: torch.dtype) -> None:
        asked = Asked(scores)
        assert Foreign(asked, "scores")(X.to(dtype)).dtype == dtype
        assert asked.types == {"float64" if dtype == torch.float64 else "float32"}

    def test_neither_side_can_change_what_the_other_holds(self) -> None:
        kept = np.tile(np.array([0.25, 0.375, 0.375 + 1e-12]), (len(X), 1))
        kept.flags.writeable = False

        def spoil(x: np.ndarray) -> np.ndarray:
            x[:] = 7
            return kept

        before = X.clone()
        for dtype in (torch.float32, torch.float64):
            assert (Foreign(spoil, "scores")(X.to(dtype)).argmax(1) == 2).all()
        assert X.equal(before)

    @pytest.mark.parametrize(
        "change", [lambda z: z[:, ::-1], lambda z: z.astype(">f8"), lambda z: z.astype("f2"), np.asfortranarray]
    )
    def test_arrays_of_any_layout_will_do(self, change) -> None:
        expected = torch.from_numpy(change(scores(X.numpy())).astype("f4"))
        torch.testing.assert_close(Foreign(lambda x: change(scores(x)), "scores")(X), expected)

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (
                lambda x: np.ones(len(x)),
                r"scores in floating point of shape \(40, classes\), got float64 of shape \(40,\)",
            ),
            (lambda x: np.ones((len(x) - 1, 3)), r"got float64 of shape \(39, 3\)"),
            (lambda x: np.ones((len(x), 3), int), "got int64"),
            (lambda x: np.ones((len(x), 1)), r"shape \(40, 1\)"),
        ],
    )
    def test_other_scores_are_refused(self, answer, said: str) -> None:
        with pytest.raises(ModelError, match=said):
            Foreign(answer, "scores")(X)

    def test_a_changed_number_of_classes_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"shape \(40, 5\), got .* \(40, 4\)"):
            Foreign(scores, "scores", 5)(X)

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (lambda x: np.zeros(len(x)), "whole numbers"),
            (lambda x: np.zeros((len(x), 1), int), r"shape \(40, 1\)"),
            (lambda x: np.full(len(x), 4), "from 0 to 3"),
            (lambda x: np.full(len(x), -1), "from 0 to 3"),
        ],
    )
    def test_other_labels_are_refused(self, answer, said: str) -> None:
        with pytest.raises(ModelError, match=said):
            Foreign(answer, "labels", 4)(X)

    @pytest.mark.parametrize(("given", "classes"), [("labels", None), ("labels", 1), ("scores", 1), ("gradients", 4)])
    def test_what_makes_no_sense_is_refused(self, as_a_user, given, classes) -> None:
        with pytest.raises(UsageError, match="expected"):
            Foreign(scores, given, classes)


class TestAccess:
    def test_a_wrapper_gives_what_it_wraps(self) -> None:
        assert access(network()) == "gradients"
        for module in (Foreign(scores, "scores"), label_only()):
            wrapped = Remedies(calls=2).applied(preprocessed(module, (0.5,), (0.5,), None))
            assert access(nn.Sequential(nn.Identity(), wrapped)) == module.access
        assert access(sapper.ensemble([network(), Foreign(scores, "scores"), label_only()])) == "labels"

    def test_more_serves_whoever_needs_less(self) -> None:
        table = [[catalogue.serves(needed, given) for given in LEVELS] for needed in LEVELS]
        assert table == [[True, True, True], [False, True, True], [False, False, True]]

    @pytest.mark.parametrize("attack", ["pgd", "autoattack", "2*pgd", "universal"])
    def test_craft_refuses_before_it_asks_anything(self, attack: str) -> None:
        asked = Asked(scores)
        with pytest.raises(
            UsageError, match=r"needs gradients, the model gives scores only; .* under linf:0.1: .*square"
        ):
            sapper.craft(
                Foreign(asked, "scores"), X, torch.zeros(40, dtype=torch.int64), attack=attack, threat="linf:0.1"
            )
        assert not asked.shapes

    def test_labels_are_not_enough_for_scores(self) -> None:
        y = torch.zeros(40, dtype=torch.int64)
        with pytest.raises(UsageError, match=r"square needs scores, the model gives labels only.*--access labels"):
            sapper.craft(preprocessed(label_only(), (0.0,), None, None), X, y, attack="square", threat="linf:0.1")

    def test_what_was_learned_elsewhere_needs_labels_only(self) -> None:
        x, y = samples(network(), rows=40)
        learned = sapper.fit(network(), x, threat="linf:0.3")
        crafted = sapper.craft(label_only(), x, y, attack=learned, threat="linf:0.3")
        plain = sapper.craft(network(), x, y, attack=learned, threat="linf:0.3")
        assert crafted.found.equal(plain.found)
        assert crafted.x_adv.equal(plain.x_adv)
        assert crafted.found.any()
        for name in ("confidence", "first_margin", "best_margin"):
            assert getattr(crafted, name).isnan().all()
            assert not getattr(plain, name).isnan().any()
        with pytest.raises(UsageError, match="universal needs gradients"):
            sapper.fit(label_only(), x, threat="linf:0.3")

    def test_there_is_no_derivative_to_ask_for(self) -> None:
        with pytest.raises(ModelError, match="scores only"):
            TorchOracle(Foreign(scores, "scores")).vjp(X)


class TestQuestions:
    def test_exactly_the_rows_that_count_are_asked_by_one_worker(self) -> None:
        model, asked = network(), Asked(scores)
        x, y = samples(model, rows=100)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            crafted = sapper.craft(Foreign(asked, "scores"), x, y, attack="square:steps=20", threat="linf:0.15")
        finally:
            torch.set_num_threads(threads)
        assert (
            sum(shape[0] for shape in asked.shapes) == int(crafted.forwards.sum()) + len(x) + 1
        )  # the judge; the classes
        assert crafted.found.any()

    def test_scores_and_their_torch_network_fall_alike(self) -> None:
        model = network()
        x, y = samples(model, rows=30)
        options = {"attack": "square:steps=30", "threat": "l2:0.6", "batch_size": 8}
        first, second = sapper.craft(model, x, y, **options), sapper.craft(Foreign(scores, "scores"), x, y, **options)
        assert first.found.equal(second.found)
        assert first.forwards.equal(second.forwards)
        torch.testing.assert_close(first.x_adv, second.x_adv)


class TestChecks:
    def looked_at(self, module: nn.Module, *, heal: bool = True):
        y = torch.from_numpy(labels(X.numpy()))
        return inspect(module, Data("things", X, y, ("0", "1", "2", "3")), X, 16, heal=heal)

    @pytest.mark.parametrize(
        ("module", "given"),
        [
            (Foreign(scores, "scores"), "scores"),
            (Foreign(lambda x: 1e4 * scores(x), "scores"), "scores"),
            (Foreign(probabilities, "scores", probabilities=True), "scores"),
            (Foreign(lambda x: np.eye(4)[labels(x)], "scores", probabilities=True), "scores"),
            (label_only(), "labels"),
        ],
    )
    def test_a_model_that_never_promised_gradients_lacks_nothing(self, module: Foreign, given: str) -> None:
        before = self.looked_at(module)
        doubtful = [finding for finding in before.findings if finding.verdict != "ok"]
        assert [(finding.check, finding.verdict) for finding in doubtful] == [("access", "note")]
        assert doubtful[0].evidence == f"the model answers with {given} only"
        assert before.remedies == Remedies()
        assert before.accuracy == 1
        assert bool(before.confidence.isnan().all()) == (given == "labels")

    def test_what_is_known_of_a_model_that_gives_no_gradients_is_said(self) -> None:
        module = Foreign(scores, "scores")
        module.learner = Linear(torch.zeros(4, 12), torch.zeros(4))
        (access,) = [finding for finding in self.looked_at(module).findings if finding.check == "access"]
        assert "known to be a linear model" in access.evidence

    def test_probabilities_that_do_not_say_so_are_noticed(self) -> None:
        before = self.looked_at(Foreign(probabilities, "scores"))
        (found,) = [finding for finding in before.findings if finding.check == "outputs are logits"]
        assert "probabilities=True" in found.remedy
        assert "gradient" not in found.remedy
        assert before.remedies == Remedies(logarithm=True)

    def test_a_shape_it_does_not_know_is_told(self) -> None:
        def answer(x: np.ndarray) -> np.ndarray:
            raise ValueError(f"X has {math.prod(x.shape[1:])} features")

        with pytest.raises(ModelError, match=r"shape \(rows, 1, 3, 4\), this one fails .*X has 12 features"):
            self.looked_at(Foreign(answer, "scores"))

    def test_a_torch_network_without_a_derivative_is_still_warned_about(self) -> None:
        class Detached(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return network()(x).detach()

        verdicts = {finding.check: finding.verdict for finding in self.looked_at(Detached()).findings}
        assert verdicts["gradients"] == "warning"
        assert "access" not in verdicts
