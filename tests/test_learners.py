"""What simple models are made of: the parts of real estimators, and what they predict from them."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier
from torch import Tensor, nn

import sapper
from sapper import catalogue, learners
from sapper.data.loading import load_data
from sapper.errors import ModelError, UsageError
from sapper.foreign import access
from sapper.goal import Untargeted
from sapper.learners import Linear, Neighbours, Tree, learner_of
from sapper.ledger import Ledger
from sapper.models.estimators import from_estimator
from sapper.models.model import preprocessed
from sapper.oracle import TorchOracle
from sapper.plan import standard
from sapper.remedies import Remedies
from sapper.threat import Threat
from toys import case_of, linear, network, random_linear

DIGITS = load_data("digits", split="train", limit=400)
NOISY = (DIGITS.x + 0.3 * torch.randn(DIGITS.x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
TREES = [DecisionTreeClassifier(random_state=0), ExtraTreeClassifier(random_state=0)]
LINEAR = [LinearSVC(), LogisticRegression(max_iter=300), SGDClassifier(random_state=0), Perceptron(), RidgeClassifier(),
          LinearDiscriminantAnalysis()]  # fmt: skip


def fitted(estimator: Any, classes: int = 10, names=lambda y: y) -> Any:
    rows = DIGITS.y < classes
    x = DIGITS.x[rows].flatten(1).double().numpy()
    return pickle.loads(pickle.dumps(estimator)).fit(x, names(DIGITS.y[rows].numpy()))


def module_of(estimator: Any, **options) -> nn.Module:
    return from_estimator(fitted(estimator, **options), "it").module


def flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).double().numpy()


class TestTrees:
    @pytest.mark.parametrize("estimator", TREES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_samples_fall_into_the_leaves_of_the_estimator(self, estimator: Any, dtype: torch.dtype) -> None:
        tree = module_of(estimator).learner
        x = NOISY.to(dtype)
        assert tree.leaves(x).tolist() == fitted(estimator).apply(flat(x)).tolist()
        assert tree.label[tree.leaves(x)].tolist() == fitted(estimator).predict(flat(x)).tolist()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_both_sides_of_every_threshold_are_where_the_estimator_turns(self, dtype: torch.dtype) -> None:
        """Thresholds that float32 cannot hold; in float64 the nearest numbers round to the same float32."""
        values = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for value in values.tolist():
            estimator = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
            estimator.tree_.threshold[0] = value
            tree = from_estimator(estimator, "stump").module.learner
            below, above = tree.sides(dtype)
            asked = torch.stack([below[0], above[0]]).double().numpy()[:, None]
            assert estimator.predict(asked).tolist() == [0, 1]
            if dtype != torch.float64:
                assert torch.nextafter(below[0], above[0]) == above[0]

    def test_other_names_of_classes_are_numbered_as_the_outputs_are(self) -> None:
        module = module_of(TREES[0], names=lambda y: np.array([*"abcdefghij"])[y])
        tree = module.learner
        assert tree.label[tree.leaves(NOISY)].equal(module(NOISY).argmax(1))


class TestLinear:
    @pytest.mark.parametrize("estimator", LINEAR, ids=lambda one: type(one).__name__)
    @pytest.mark.parametrize("classes", [2, 10])
    def test_its_scores_decide_as_the_estimator(self, estimator: Any, classes: int) -> None:
        scores = module_of(estimator, classes=classes).learner.scores(NOISY.double())
        assert scores.shape == (400, classes)
        assert scores.argmax(1).tolist() == fitted(estimator, classes).predict(flat(NOISY)).tolist()

    def test_a_support_vector_machine_is_linear_with_two_classes(self) -> None:
        estimator = SVC(kernel="linear")
        scores = module_of(estimator, classes=2).learner.scores(NOISY.double())
        assert scores.argmax(1).tolist() == fitted(estimator, 2).predict(flat(NOISY)).tolist()
        assert module_of(estimator).learner is None  # classes vote in pairs
        assert module_of(SVC(), classes=2).learner is None

    def test_classes_in_another_order_than_the_data_has(self) -> None:
        module = module_of(LINEAR[0], names=lambda y: (y + 3).astype(str))  # "10" comes before "3"
        assert module.learner is None  # 0, 1 and 2 are missing
        module = module_of(LINEAR[0], classes=3, names=lambda y: np.array(["2", "0", "1"])[y])
        assert module.learner.scores(NOISY.double()).argmax(1).equal(module(NOISY.double()).argmax(1))

    def test_a_sparse_one(self) -> None:
        estimator = fitted(SGDClassifier(random_state=0)).sparsify()
        learner = from_estimator(estimator, "sparse").module.learner
        assert learner.scores(NOISY.double()).argmax(1).tolist() == estimator.predict(flat(NOISY)).tolist()

    def test_torch_networks_of_one_layer_are_linear(self) -> None:
        model = random_linear()
        x = torch.rand(5, 12)
        assert learner_of(model).scores(x).equal(model(x))
        assert learner_of(nn.Linear(12, 3, bias=False)).bias.tolist() == [0, 0, 0]
        assert learner_of(network()) is None
        assert learner_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) is None


class TestNeighbours:
    POINTS = torch.rand(50, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    LABELS = torch.arange(50) % 4 * 2  # none of the odd classes
    X = torch.rand(6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    @pytest.mark.parametrize("elements", [1, 40, 1 << 22])
    @pytest.mark.parametrize("unit", [1.0, 0.1])
    def test_soft_minima_are_those_of_the_definition(self, elements: int, unit: float, monkeypatch) -> None:
        monkeypatch.setattr(learners, "_ELEMENTS", elements)
        mass, mean = Neighbours(self.POINTS, self.LABELS).soft(self.X, unit)
        weight = (-torch.cdist(self.X / unit, self.POINTS / unit).square()).softmax(1)
        of = torch.nn.functional.one_hot(self.LABELS).double()
        torch.testing.assert_close(mass.softmax(1), weight @ of)
        each = torch.einsum("rp,pc,pf->rcf", weight, of, self.POINTS)
        torch.testing.assert_close(mean[:, ::2], each[:, ::2] / (weight @ of)[:, ::2, None])
        assert mass[:, 1::2].eq(-torch.inf).all()
        assert not mean[:, 1::2].any()

    def test_far_away_nothing_is_lost(self) -> None:
        _, mean = Neighbours(self.POINTS, self.LABELS).soft(self.X + 1000)
        assert mean.isfinite().all()
        assert mean[:, ::2].abs().amax(2).gt(0).all()

    @pytest.mark.parametrize("estimator", [KNeighborsClassifier(1), KNeighborsClassifier(5, weights="distance")])
    def test_of_an_estimator(self, estimator: Any) -> None:
        learner = module_of(estimator, names=lambda y: y + 1).learner
        assert learner.points.equal(DIGITS.x.flatten(1).double())
        assert learner.labels.equal(DIGITS.y + 1)

    def test_other_distances_are_unknown(self) -> None:
        assert module_of(KNeighborsClassifier(1, metric="manhattan")).learner is None
        sparse = KNeighborsClassifier(1).fit(csr_matrix(flat(DIGITS.x)), DIGITS.y.numpy())
        assert from_estimator(sparse, "sparse").module.learner is None


class TestWhereItIsKnown:
    def test_in_pipelines_that_leave_features_as_they_are(self) -> None:
        tree = TREES[0]
        assert isinstance(module_of(make_pipeline("passthrough", tree)).learner, Tree)
        assert isinstance(module_of(GridSearchCV(tree, {"max_depth": [3]}, cv=2)).learner, Tree)
        assert module_of(make_pipeline(StandardScaler(), tree)).learner is None
        assert module_of(GridSearchCV(make_pipeline(StandardScaler(), tree), {}, cv=2)).learner is None
        assert module_of(RandomForestClassifier(3)).learner is None

    def test_not_behind_a_preprocessing(self) -> None:
        module = preprocessed(module_of(TREES[0]), (0.5,), (0.5,), None)
        assert learner_of(module) is None
        with pytest.raises(ModelError, match="a linear model or a decision tree or nearest neighbours, and not behind"):
            TorchOracle(module).learner()

    def test_as_the_attacks_are_shown_it(self) -> None:
        module = module_of(LINEAR[0])
        assert learner_of(Remedies(logarithm=True).applied(module)) is module.learner

    def test_behind_the_ledger_and_without_a_question(self) -> None:
        module = module_of(TREES[0])
        case = case_of(NOISY, Threat.parse("l2:1"), Untargeted(DIGITS.y))
        ledger = Ledger(TorchOracle(module), case)
        assert ledger.door(case).learner() is module.learner
        assert not ledger.forwards.any()


NEEDS = {"svm": Linear, "decision_tree": Tree, "nearest_neighbour": Neighbours}
MODELS = {"svm": LINEAR[0], "decision_tree": TREES[0], "nearest_neighbour": KNeighborsClassifier(1)}


class TestAttacksSayWhatTheyNeed:
    @pytest.mark.parametrize("name", NEEDS)
    def test_in_the_catalogue(self, name: str) -> None:
        method = catalogue.attacks()[name]
        assert catalogue.learner(method) is NEEDS[name]
        assert catalogue.demands(method) == f"labels, and the parts of {NEEDS[name].kind}"
        assert catalogue.learner(catalogue.attacks()["pgd"]) is None

    @pytest.mark.parametrize("name", NEEDS)
    @pytest.mark.parametrize("made", [*NEEDS, "network", "forest"])
    def test_and_are_refused_on_models_of_another_kind_before_anything_is_asked(self, name: str, made: str) -> None:
        others = {"network": network((1, 8, 8), 10), "forest": module_of(RandomForestClassifier(3))}
        module = others.get(made) or module_of(MODELS[made])
        threat = Threat.parse("l2:0.5")
        given = access(module), learner_of(module)
        if made == name:
            catalogue.check_access(catalogue.attack(name), threat, *given)
            return
        with pytest.raises(
            UsageError, match=f"{name} is for .*, the model is .*; what fits it under l2:0.5: "
        ) as error:
            sapper.craft(module, DIGITS.x, DIGITS.y, attack=name, threat=threat)
        fitting = str(error.value).partition("l2:0.5: ")[2]
        assert [one for one in NEEDS if one in fitting] == [one for one in NEEDS if one == made]

    @pytest.mark.parametrize("name", NEEDS)
    def test_an_audit_runs_them_by_itself_on_models_that_are_no_torch_networks(self, name: str) -> None:
        module = module_of(MODELS[name])
        _, attacks = standard(DIGITS, [], [], access(module), module.learner)
        assert [one for one in NEEDS if one in attacks] == [name]
        assert "square" in " ".join(attacks) or access(module) == "labels"
        torch_network = random_linear()
        assert not {*NEEDS} & {*standard(DIGITS, [], [], access(torch_network), learner_of(torch_network))[1]}

    def test_a_linear_torch_network_is_one_for_the_closed_form(self) -> None:
        model, x = linear(torch.eye(3)), torch.eye(3) * 0.6
        assert sapper.craft(model, x, torch.arange(3), attack="svm", threat="l2:0.6").found.all()
