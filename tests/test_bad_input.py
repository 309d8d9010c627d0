"""Each mistake of a user's gets one clear line and status 2, and leaves nothing behind."""

import pickle
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audits import Answer, ask, audit, files, trained

pytestmark = pytest.mark.usefixtures("as_a_user")
QUICK = ("--attack", "fgsm", "--threat", "linf:0.1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def refused(*words: str | Path, saying: str | list[str]) -> Answer:
    """Asserts what the module promises."""
    before = sorted(Path().rglob("*"))
    answer = ask("audit", *words)
    assert answer.code == 2, (answer.out, answer.err)
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert len(lines) - lines[0].startswith("loading ") == 1, answer.err
    assert lines[-1].startswith("error: ")
    for part in [saying] if isinstance(saying, str) else saying:
        assert part in lines[-1]
    assert len(lines[-1]) < 700
    assert sorted(Path().rglob("*")) == before
    return answer


class Payload:
    """Whoever unpickles it leaves a file."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


class TestModelFiles:
    @pytest.mark.parametrize("ending", ["pt2", "pt", "pth", "safetensors", "onnx", "bin"])
    @pytest.mark.parametrize("content", [b"", b"no model", np.random.default_rng(0).bytes(5000)])
    def test_no_model(self, ending: str, content: bytes) -> None:
        path = Path(f"file.{ending}")
        path.write_bytes(content)
        refused(path, *QUICK, saying=["file.", "expected"])

    def test_missing(self) -> None:
        refused("gone.pt2", *QUICK, saying="gone.pt2: no such file")
        refused("folder/gone", *QUICK, saying="folder/gone: no such file or folder")

    def test_a_folder_of_other_things(self) -> None:
        Path("folder").mkdir()
        refused("folder", *QUICK, saying="expected a model folder")

    def test_an_unknown_name_and_an_architecture(self) -> None:
        refused("lenet-digit", *QUICK, saying="did you mean lenet-digits")
        refused("lenet", *QUICK, saying="sapper train lenet")

    @pytest.mark.parametrize("ending", ["pt", "pt2", "pkl", "safetensors"])
    @pytest.mark.parametrize("write", ["zip", "old", "pickle", "pickle0", "module"])
    def test_a_pickle_is_never_executed(self, ending: str, write: str) -> None:
        path = Path(f"file.{ending}")
        match write:
            case "zip" | "old":
                torch.save(Payload(), path, _use_new_zipfile_serialization=write == "zip")
            case "module":
                torch.save(nn.Linear(2, 2), path)
            case _:
                path.write_bytes(pickle.dumps(Payload(), protocol=0 if write == "pickle0" else None))
        unmarked = write == "pickle0" and ending != "pkl"  # neither the first byte nor the name tells
        saying = "expected" if unmarked else ["is a pickle", "refused", "torch.export"]
        refused(path, *QUICK, saying=saying)
        assert not Path("executed").exists()

    def test_pickled_weights_are_never_executed(self) -> None:
        Path("plain_model.py").write_text("from torch import nn\ndef make(): return nn.Linear(64, 10)\n")
        torch.save(Payload(), "weights.pt")
        refused("plain_model:make", "--weights", "weights.pt", *QUICK, saying="is a pickle")
        assert not Path("executed").exists()

    def test_the_payload_would_have_been_noticed(self) -> None:
        pickle.loads(pickle.dumps(Payload()))
        assert Path("executed").exists()


MODULE = """
import torch
from torch import nn
class Made(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change, self.linear = change, nn.Linear(64, 10)
    def forward(self, x):
        return self.change(self.linear(x.flatten(1)))
def broken(z):
    raise ZeroDivisionError("inside the model\\nand more")
def answers_nan(): return Made(lambda z: z * torch.nan)
def answers_infinity(): return Made(lambda z: z / 0)
def answers_column(): return Made(lambda z: z[:, :1])
def answers_flat(): return Made(lambda z: z[:, 0])
def answers_tuple(): return Made(lambda z: (z, z))
def answers_dict(): return Made(lambda z: {"logits": z})
def answers_none(): return Made(lambda z: None)
def answers_classes(): return Made(lambda z: z.long())
def answers_maps(): return Made(lambda z: z[:, :, None, None])
def answers_one_row(): return Made(lambda z: z[:1])
def answers_not(): return Made(broken)
def wants_colour(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
def raises(): raise OSError("no weights today\\nsecond line")
def wants_more(size): return Made(lambda z: z)
def gives_text(): return "a model"
VALUE = 3
"""


@pytest.mark.parametrize(
    ("factory", "saying"),
    [
        ("answers_nan", "nan or infinity for 20 of 20 clean samples"),
        ("answers_infinity", "nan or infinity for 20 of 20 clean samples"),
        ("answers_column", ["got (20, 1)", "return two columns"]),
        ("answers_flat", ["got (20,)", "return two columns"]),
        ("answers_tuple", ["one tensor of logits", "got a tuple", "wrap it"]),
        ("answers_dict", "got a dict"),
        ("answers_none", "got a NoneType"),
        ("answers_classes", "floating point, got torch.int64"),
        ("answers_maps", "got (20, 10, 1, 1)"),
        ("answers_one_row", "got (1, 10)"),
        ("answers_not", ["shape (rows, 1, 8, 8)", "(ZeroDivisionError: inside the model)"]),
        ("wants_colour", ["shape (rows, 1, 8, 8)", "3 channels"]),
        ("raises", "the factory failed (OSError: no weights today)"),
        ("wants_more", "the factory failed (TypeError"),
        ("gives_text", "a torch.nn.Module or a fitted estimator, got str"),
        ("VALUE", "the factory failed"),
        ("not_there", "no attribute 'not_there'"),
    ],
)
def test_models_made_by_code(factory: str, saying: str | list[str]) -> None:
    Path("sick_models.py").write_text(MODULE)
    refused(f"sick_models:{factory}", "--limit", "20", *QUICK, saying=saying)


def test_a_module_that_is_not_there_or_no_python() -> None:
    Path("no_python.py").write_text("def make(:")
    refused("nowhere:x:y", *QUICK, saying="nowhere:x:y: expected package.module:factory")
    refused("no_python:make", *QUICK, saying="SyntaxError")


@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (20, 1, 28, 28), (20, 5)])
def test_data_that_the_model_does_not_take(model: Path, shape: tuple[int, ...]) -> None:
    np.savez("data.npz", x=np.random.default_rng(0).random(shape), y=np.arange(20) % 10)
    side = ", ".join(map(str, shape[1:]))
    refused(model, "--data", "data.npz", *QUICK, saying=[f"inputs of shape (rows, {side})", "--resize"])


def spoilt(x: np.ndarray, value: float) -> np.ndarray:
    return np.where(np.arange(len(x))[:, None, None, None] == 3, value, x)


X, Y = np.random.default_rng(0).random((20, 1, 8, 8)), np.arange(20) % 10
DATA = {
    "label-above": (X, Y + 5, "got label 14"),
    "label-below": (X, Y - 1, "labels from 0 up, got -1"),
    "labels-float": (X, Y * 1.0, "whole numbers as labels"),
    "labels-hot": (X, np.eye(10, dtype=int)[Y], "labels of shape (n,), got (20, 10)"),
    "labels-few": (X, Y[:5], "20 samples and 5 labels"),
    "one-dimension": (X[:, 0, 0, 0], Y, "got shape (20,)"),
    "no-dimension": (np.float64(1), np.int64(1), "one entry a sample"),
    "no-feature": (X[:, :, :0], Y, "feature"),
    "nan": (spoilt(X, np.nan), Y, "NaN or infinity in 1 of 20"),
    "infinity": (spoilt(X, -np.inf), Y, "NaN or infinity in 1 of 20"),
    "above-bounds": (X * 255, Y, "values in [0, 1]"),
    "below-bounds": (X - 0.5, Y, "values in [0, 1]"),
    "empty": (X[:0], Y[:0], "an empty set"),
    "text": (X.astype(str), Y, "samples as numbers"),
    "objects": (np.array([Payload()] * 20), Y, "refused"),
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str, model: Path) -> None:
    x, y, saying = DATA[name]
    np.savez("data.npz", x=x, y=y)
    refused(model, "--data", "data.npz", *QUICK, saying=saying)
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", np.random.default_rng(0).bytes(3000)])
def test_data_files_that_are_none(model: Path, content: bytes) -> None:
    for name in ("data.npz", "data.parquet", "data.csv"):
        Path(name).write_bytes(content)
        refused(model, "--data", name, *QUICK, saying=[name, "expected"])


def test_data_that_are_not_there(model: Path) -> None:
    Path("folder").mkdir()
    refused(model, "--data", "gone.npz", *QUICK, saying="gone.npz: no such file")
    refused(model, "--data", "folder", *QUICK, saying="one subfolder of images for each class")
    refused(model, "--data", "digit", *QUICK, saying="did you mean digits")


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        ("--attack fgsmm --threat linf:0.1", "unknown attack 'fgsmm': did you mean fgsm"),
        ("--attack pgd:step=3 --threat linf:0.1", "unknown option of pgd 'step': did you mean steps"),
        ("--attack fgsm:steps=3 --threat linf:0.1", "unknown option of fgsm 'steps'"),
        ("--attack pgd:loss=hinge --threat linf:0.1", ["'hinge'", "sapper show pgd"]),
        ("--attack pgd:steps=many --threat linf:0.1", ["steps=many", "sapper show pgd"]),
        ("--attack pgd:steps=0 --threat linf:0.1", "steps above 0, got 0"),
        ("--attack bim:steps=-3 --threat linf:0.1", "steps above 0, got -3"),
        ("--attack pgd:step_size=-1 --threat linf:0.1", "step_size above 0, got -1"),
        ("--attack pgd:step_size=nan --threat linf:0.1", "step_size above 0, got nan"),
        ("--attack mifgsm:decay=-1 --threat linf:0.1", "decay"),
        ("--attack jsma:theta=0 --threat l0:10%", "theta to be a number other than 0"),
        ("--attack 0*pgd --threat linf:0.1", "number of restarts"),
        ("--attack fgsm --threat lonf:0.1", "did you mean"),
        ("--attack fgsm --threat linf", "expected a threat like"),
        ("--attack fgsm --threat linf:big", "expected the budget in 'linf:big' to be a number"),
        ("--attack fgsm --threat linf:0", "budget above 0 in 'linf:0'"),
        ("--attack fgsm --threat l2:-1", "budget above 0 in 'l2:-1'"),
        ("--attack jsma --threat l0:0%", "budget above 0"),
        ("--attack jsma --threat l0:200%", "N up to 100"),
        ("--attack jsma --threat l0:1%", ["cannot take a step within l0:1%", "larger budget"]),
        ("--attack fgsm --threat l1:nan", "to be a number"),
        ("--attack fgsm --threat linf:min", "fgsm needs a budget"),
        ("--attack fgsm --threat linf:0.003 --quantize 8", "cannot take a step within linf:0.003"),
        ("--attack jsma --threat linf:0.1", "jsma is an attack in l0, the threat linf:0.1 is in linf"),
        ("--attack jsma --threat l0:10% --threat linf:0.1", "none of the attacks jsma fits linf:0.1"),
        ("--goal everything", ["expected a goal like", "got 'everything'"]),
        ("--goal targeted:12", "the model has classes 0 to 9"),
        ("--goal source-target:4->4", "other than the source class"),
        ("--goal confidence:2", "got 'confidence:2'"),
        ("--goal source-target:9->1 --limit 2", "no sample of the data fits"),
        ("--limit 0", "limit above 0, got 0"),
        ("--limit -5", "limit above 0, got -5"),
        ("--limit few", "few"),
        ("--queries 0", "queries above 0, got 0"),
        ("--quantize 0", "quantize above 0, got 0"),
        ("--quantize 17", "1 to 16 bits, got 17"),
        ("--batch-size 0", "batch-size above 0, got 0"),
        ("--seed -1", "--seed from 0"),
        ("--seed 99999999999999999999", "--seed from 0"),
        ("--bounds 0 0.5", ["values in [0, 0.5]", "--bounds"]),
        ("--bounds 1 0", "LOWER below UPPER"),
        ("--bounds nan 1", "LOWER below UPPER"),
        ("--bounds 0 inf", "finite"),
        ("--bounds 0", "--bounds"),
        ("--std 0", "deviations above 0"),
        ("--mean 0.1 0.2 --std 1 1 1", "as many means as standard deviations"),
        ("--resize 0 8", "a height and a width of at least 1"),
        ("--resize 5 5", "inputs of shape (rows, 1, 8, 8)"),
        ("--split validation", "unknown split 'validation'"),
        ("--device abacus", "a device like cpu"),
        ("--device meta", "a device of this machine"),
        ("--limmit 3", "Did you mean --limit?"),
        ("--weights w.safetensors", "has its own"),
    ],
)
def test_options(words: str, saying: str | list[str], model: Path) -> None:
    usual = () if "--attack" in words else QUICK
    limit = () if "--limit" in words else ("--limit", "20")
    refused(model, *shlex.split(words), *usual, *limit, saying=saying)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_no_gpu(device: str, model: Path) -> None:
    refused(model, "--device", device, *QUICK, saying="no CUDA; use --device cpu")


class TestOut:
    def test_a_run_of_another_spec_names_what_differs(self, model: Path) -> None:
        audit(model, "--limit", "5", *QUICK, "--out", "run")
        before = {name: (Path("run") / name).read_bytes() for name in files(Path("run"))}
        refused(
            model, "--limit", "6", "--seed", "2", *QUICK, "--out", "run",
            saying=["run holds a run of another spec", "limit: 5 there, 6 here", "seed: 0 there, 2 here"],
        )  # fmt: skip
        assert before == {name: (Path("run") / name).read_bytes() for name in files(Path("run"))}

    def test_a_spec_that_cannot_be_read(self, model: Path) -> None:
        Path("run").mkdir()
        for text in ("[broken", "model = 3", "odd = true"):
            Path("run/spec.toml").write_text(text)
            refused(model, "--limit", "5", *QUICK, "--out", "run", saying="spec.toml")

    def test_a_folder_or_file_that_is_no_run(self, model: Path) -> None:
        Path("mine").mkdir()
        Path("mine/thesis.txt").write_text("years of work")
        refused(model, "--limit", "5", *QUICK, "--out", "mine", saying="is no run folder")
        refused(model, "--limit", "5", *QUICK, "--out", "mine/thesis.txt", saying="is no run folder")
        refused(model, "--limit", "5", *QUICK, "--out", "mine/thesis.txt/run", saying="cannot write")

    def test_an_empty_folder_will_do(self, model: Path) -> None:
        Path("run").mkdir()
        audit(model, "--limit", "5", *QUICK, "--out", "run")
        assert "summary.json" in files(Path("run"))
