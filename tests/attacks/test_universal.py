import math
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import sapper
from audits import ask
from sapper import catalogue, noise
from sapper.attack import Learner
from sapper.attacks.universal import Universal
from sapper.errors import UsageError
from sapper.goal import Untargeted
from sapper.models.folder import write_folder
from sapper.oracle import TorchOracle
from sapper.perturbation import Perturbation
from sapper.threat import Threat
from toys import linear, network, predict, random_linear, samples

MODEL = network(dtype=torch.float64)
X, _ = samples(MODEL, rows=160)
TRAIN, TEST = X[:60], X[60:]


@cache
def learned(threat: str = "linf:0.2", passes: int = 3, batch: int = 20) -> Universal:
    return fitted(MODEL, TRAIN, threat, passes=passes, batch=batch)


def fitted(model: nn.Module, x: Tensor, threat: str, **options) -> Universal:
    attack = sapper.fit(model, x, attack=Universal(**options), threat=threat)
    assert isinstance(attack, Universal)
    assert attack.perturbation is not None
    return attack


def change_of(attack: Universal) -> Tensor:
    assert attack.perturbation is not None
    return attack.perturbation.change


@pytest.mark.parametrize("threat", ["linf:0.2", "l2:0.6"])
def test_of_samples_it_never_saw_the_change_fools_half_as_many_again_as_random_ones_of_its_size(
    threat: str,
) -> None:
    attack, answers = learned(threat=threat), predict(MODEL, TEST)
    change = change_of(attack)
    result = sapper.craft(MODEL, TEST, answers, attack=attack, threat=threat)
    torch.testing.assert_close(result.x_adv[result.found], (TEST + change).clamp(0, 1)[result.found])
    draws = torch.randn(50, *change.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).sign()
    size = change.norm() / draws[0].norm()
    shaken = [float((predict(MODEL, (TEST + size * d).clamp(0, 1)) != answers).double().mean()) for d in draws]
    assert float(result.found.double().mean()) > 1.5 * sum(shaken) / len(shaken)


@pytest.mark.parametrize(("threat", "p"), [("linf:0.2", math.inf), ("l2:0.6", 2)])
def test_the_change_is_in_the_ball_and_no_samples_box_cuts_it(threat: str, p: float) -> None:
    """ART subtracts x after clipping: where all samples are 0 its change is never negative."""
    x = TRAIN[:20].clone()
    x[:, 0, 0] = 0.0
    change = change_of(fitted(MODEL, x, threat, passes=1))
    assert torch.linalg.vector_norm(change, ord=p) <= float(threat.partition(":")[2]) * (1 + 1e-9)
    assert (change[0, 0] < 0).any(), change


def test_with_batches_of_one_it_is_the_papers_algorithm_on_a_linear_model() -> None:
    """There DeepFool needs one step: v ← P(v + (1 + η)·r) for each sample that v does not fool, in this order."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 6, generator=draws, dtype=torch.float64)
    model, x = linear(weight), 10 + torch.rand(12, 6, generator=draws, dtype=torch.float64)
    threat, index = Threat.parse("l2:4", lower=-100, upper=100), torch.arange(12)
    key, label = noise.keys(0, index), predict(model, x)
    attack = Universal(batch=1, passes=1, enough=1.0).fit(TorchOracle(model), x, Untargeted(label), threat, key)
    change = torch.zeros(6, dtype=torch.float64)
    for row in noise.uniform(key, torch.zeros_like(key), 1, torch.float64, stream=13)[:, 0].argsort().tolist():
        logits = weight @ (x[row] + change)
        if logits.argmax() != label[row]:
            continue
        slope = weight - weight[label[row]]
        gap = (logits[label[row]] - logits).abs() / slope.norm(dim=1)
        best = int(gap.nan_to_num(math.inf).argmin())
        change = change + 1.02 * gap[best] * slope[best] / slope[best].norm()
        change = change * min(1.0, 4 / float(change.norm()))
    torch.testing.assert_close(change_of(attack), change)


def test_what_counts_as_fooled_is_another_class_than_the_models_own_answer() -> None:
    """Where the model is wrong from the start nothing is fooled: `fit` does not even see labels."""
    attack = learned()
    told = attack.perturbation
    assert told is not None
    moved = predict(MODEL, (TRAIN + told.change).clamp(0, 1)) != predict(MODEL, TRAIN)
    assert told.fooled == float(moved.double().mean())
    assert told.samples == len(TRAIN)


def test_the_share_that_is_fooled_is_of_all_the_samples_however_many_are_asked_about_at_once() -> None:
    model, x = random_linear(), torch.rand(300, 12, generator=torch.Generator().manual_seed(0))
    told = fitted(model, x, "linf:0.2", passes=1, batch=300).perturbation
    assert told is not None
    moved = predict(model, (x + told.change).clamp(0, 1)) != predict(model, x)
    assert 30 < int(moved.sum()) < 270
    assert told.fooled == float(moved.double().mean())


def test_of_its_passes_the_one_that_fools_most_counts() -> None:
    rates = [learned(passes=passes).perturbation for passes in (1, 2, 3)]
    fooled = [rate.fooled for rate in rates if rate]
    assert fooled == sorted(fooled)


def test_the_whole_set_is_sent_to_one_class() -> None:
    targets = torch.full((len(TRAIN),), 2)
    attack = sapper.fit(MODEL, TRAIN, attack="universal:passes=1", threat="linf:0.4", targets=targets)
    assert isinstance(attack, Universal)
    before, after = predict(MODEL, TEST), predict(MODEL, (TEST + change_of(attack)).clamp(0, 1))
    assert int((after == 2).sum()) > int((before == 2).sum()) + 10


def test_it_is_saved_loaded_and_used_on_another_model(tmp_path: Path) -> None:
    attack, other, path = learned(), network(seed=4, dtype=torch.float64), tmp_path / "v.safetensors"
    assert attack.perturbation is not None
    attack.perturbation.save(path)
    assert Perturbation.load(path) == attack.perturbation
    loaded = catalogue.attack(f"universal:file={path}")
    assert loaded == catalogue.attack(str(loaded))
    y = predict(other, TEST)
    first, second = (sapper.craft(other, TEST, y, attack=one, threat="linf:0.2") for one in (attack, loaded))
    assert first.found.any()
    assert torch.equal(first.x_adv, second.x_adv)


def test_under_a_smaller_budget_the_change_shrinks_to_it() -> None:
    result = sapper.craft(MODEL, TEST, predict(MODEL, TEST), attack=learned(threat="linf:0.3"), threat="linf:0.1")
    assert (result.x_adv - TEST).abs().amax() <= 0.1 + 1e-9


def test_learning_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(network(dtype=torch.float64), nn.Dropout(0.5)).train()
    fitted(model, TRAIN[:10], "linf:0.2", passes=1)
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    y = predict(MODEL, TEST)
    with pytest.raises(UsageError, match="learns before it attacks"):
        sapper.craft(MODEL, TEST, y, attack="universal", threat="linf:0.2")
    with pytest.raises(UsageError, match="learns nothing"):
        sapper.fit(MODEL, TEST, attack="pgd", threat="linf:0.2")
    with pytest.raises(UsageError, match="needs a budget"):
        sapper.fit(MODEL, TEST, threat="linf:min")
    attack = learned()
    with pytest.raises(UsageError, match="samples of"):
        sapper.craft(
            linear(torch.ones(2, 5)), torch.rand(3, 5), torch.zeros(3).long(), attack=attack, threat="linf:0.2"
        )
    with pytest.raises(UsageError, match="was learned in linf"):
        sapper.craft(MODEL, TEST, predict(MODEL, TEST), attack=learned(), threat="l2:0.6")
    with pytest.raises(UsageError, match="values from"):
        sapper.craft(MODEL, TEST, y, attack=attack, threat="linf:0.2", bounds=(0.0, 255.0))
    with pytest.raises(UsageError, match="no such file"):
        catalogue.attack(f"universal:file={tmp_path}/none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(UsageError, match="that Sapper saved"):
        catalogue.attack(f"universal:file={tmp_path}/bad.safetensors")


def test_it_says_what_it_asks_of_the_model_while_it_learns() -> None:
    assert isinstance(Universal(), Learner)
    assert catalogue.access(Universal) == "gradients"
    assert "perturbation" not in {option.name for option in catalogue.options(Universal)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model folder, and data of which it is attacked on one split and learns from the other."""
    model = random_linear(classes=10)
    x, y = X.float().numpy(), np.zeros(160, dtype=np.int64)
    np.savez(tmp_path / "data.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:60], y_test=y[30:60])
    np.savez(tmp_path / "whole.npz", x=x[:40], y=y[:40])
    write_folder(tmp_path / "model", model, "softmax", (1, 3, 4), tuple(map(str, range(10))), {})
    return tmp_path


def audit(small: Path, *words: str, attack: str = "universal:passes=1", data: str = "data.npz") -> tuple[int, str]:
    answer = ask(
        "audit",
        small / "model",
        "--data",
        small / data,
        "--threat",
        "linf:0.2",
        "--attack",
        attack,
        "--no-doctor",
        *words,
    )
    return answer.code, answer.err


def test_an_audit_learns_from_the_other_split_and_keeps_what_it_learned(small: Path) -> None:
    first, second = small / "first", small / "second"
    assert audit(small, "--out", str(first))[0] == 0
    (path,) = (first / "learned").iterdir()
    assert Perturbation.load(path).samples == 30
    assert audit(small, "--out", str(second), attack=f"universal:file={path}")[0] == 0
    rows = [pl.read_parquet(next(run.glob("shards/*/*.parquet")))["prediction"] for run in (first, second)]
    assert rows[0].equals(rows[1])


def test_in_data_that_are_not_divided_it_never_learns_from_what_is_attacked(small: Path) -> None:
    assert audit(small, "--limit", "10", "--out", str(small / "run"), data="whole.npz")[0] == 0
    (path,) = (small / "run" / "learned").iterdir()
    assert Perturbation.load(path).samples == 30
    code, told = audit(small, data="whole.npz")
    assert code == 2
    assert "no samples but the attacked" in told


def test_an_audit_for_many_targets_is_refused(small: Path) -> None:
    code, told = audit(small, "--goal", "targeted:every")
    assert code == 2
    assert "one change for all samples" in told
