import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.models.loading import load_model
from sapper.models.programs import _harmless


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(12, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(net, (torch.rand(2, 1, 3, 4),), dynamic_shapes=(batch,)), path)
    return path


def script(net: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(str(path))
    return path


X = torch.rand(5, 1, 3, 4)


def test_an_exported_program(net, exported):
    model = load_model(str(exported))
    assert (model.name, model.input_shape, model.classes) == ("net", (1, 3, 4), None)
    assert torch.allclose(model.module(X), net(X))
    assert model.module.eval() is model.module
    assert model.module.train().training
    x = X.clone().requires_grad_()
    model.module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_a_program_for_batches_of_one_size_serves_any(net, tmp_path, batch):
    torch.export.save(torch.export.export(net, (torch.rand(batch, 1, 3, 4),)), tmp_path / "net.pt2")
    module = load_model(str(tmp_path / "net.pt2")).module
    assert torch.allclose(module(X), net(X), atol=1e-6)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts"])
def test_torchscript(net, tmp_path, suffix):
    model = load_model(str(script(net, tmp_path / f"net{suffix}")))
    assert torch.allclose(model.module(X), net(X))
    assert not model.module.training


def test_the_digest_changes_with_the_weights(net, exported, tmp_path):
    before = load_model(str(script(net, tmp_path / "a.pt"))).digest
    other = Net()
    after = load_model(str(script(other, tmp_path / "a.pt"))).digest
    assert len({before, after, load_model(str(exported)).digest}) == 3


def test_preprocessing_changes_the_digest(exported):
    plain, standardised = load_model(str(exported)), load_model(str(exported), mean=(0.5,), std=(0.25,))
    assert plain.digest != standardised.digest
    assert torch.allclose(standardised.module(X), plain.module((X - 0.5) / 0.25), atol=1e-6)


def rewritten(source: Path, target: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    """A copy of an archive with one record changed, or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        root = old.namelist()[0].partition("/")[0]
        for record in old.namelist():
            content = old.read(record)
            new.writestr(record, change(content) if record == f"{root}/{name}" else content)
        if f"{root}/{name}" not in old.namelist():
            new.writestr(f"{root}/{name}", change(b""))
    return str(target)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.path,)


def bomb(made: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Bomb(made),), buffer)
    return buffer.getvalue()


def graph(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        table = json.loads(content)
        change(table)
        return json.dumps(table).encode()

    return apply


class TestHostileArchives:
    def test_a_copy_still_loads(self, exported, tmp_path):
        path = rewritten(exported, tmp_path / "copy.pt2", "extra/note", lambda _: b"hello")
        assert load_model(path).module(X).shape == (5, 3)

    def test_pickled_sample_inputs(self, exported, tmp_path):
        made = tmp_path / "made"
        path = rewritten(exported, tmp_path / "a.pt2", "data/sample_inputs/model.pt", lambda _: bomb(made))
        with pytest.raises(ModelError, match="does not load"):
            load_model(path)
        assert not made.exists()

    @pytest.mark.parametrize(
        "name", ["data/constants/opaque_obj_0", "data/weights/model.pt", "data/aotinductor/m/m.so"]
    )
    def test_records_that_are_pickles_or_programs(self, exported, tmp_path, name):
        made = tmp_path / "made"
        path = rewritten(exported, tmp_path / "a.pt2", name, lambda _: pickle.dumps(Bomb(made)))
        with pytest.raises(ModelError, match="refused"):
            load_model(path)
        assert not made.exists()

    def test_pickled_weights(self, exported, tmp_path):
        def change(table: dict) -> None:
            next(iter(table["config"].values()))["use_pickle"] = True

        path = rewritten(exported, tmp_path / "a.pt2", "data/weights/model_weights_config.json", graph(change))
        with pytest.raises(ModelError, match=r"a pickle.*refused"):
            load_model(path)

    def test_expressions(self, exported, tmp_path):
        made = tmp_path / "made"

        def change(table: dict) -> None:
            for value in table["graph_module"]["graph"]["tensor_values"].values():
                for size in value["sizes"]:
                    if "as_expr" in size:
                        size["as_expr"]["expr_str"] = f"__import__('os').mkdir('{made}')"

        with pytest.raises(ModelError, match="refused"):
            load_model(rewritten(exported, tmp_path / "a.pt2", "models/model.json", graph(change)))
        assert not made.exists()

    def test_guards(self, exported, tmp_path):
        made = tmp_path / "made"

        def change(table: dict) -> None:
            table["guards_code"] = [f"__import__('os').mkdir('{made}') is None"]

        load_model(rewritten(exported, tmp_path / "a.pt2", "models/model.json", graph(change))).module(X)
        assert not made.exists()

    @pytest.mark.parametrize("target", ["torch.hub.list", "torch.serialization.os.getcwd", "torch.load"])
    def test_operators_that_are_none(self, exported, tmp_path, target):
        def change(table: dict) -> None:
            table["graph_module"]["graph"]["nodes"][-1]["target"] = target

        with pytest.raises(ModelError, match="does not load"):
            load_model(rewritten(exported, tmp_path / "a.pt2", "models/model.json", graph(change)))


@pytest.mark.parametrize(
    "text", ["Symbol('s31', positive=True, integer=True)", "Add(Integer(1), Mul(Integer(2), Symbol('s0')))", "s0*2 + 1"]
)
def test_expressions_of_sizes_pass(text):
    assert _harmless(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "s0.real", "eval(chr(65))", "Symbol('a b')", "Integer[0]", "lambda: 0", "(1).real", "f'{s0}'"],
)
def test_other_expressions_do_not(text):
    assert not _harmless(text)


def test_damaged_files_are_refused(exported, net, tmp_path):
    scripted = script(net, tmp_path / "a.pt")
    for source, name in ((exported, "half.pt2"), (scripted, "half.pt")):
        path = tmp_path / name
        path.write_bytes(source.read_bytes()[:-200])
        with pytest.raises(ModelError, match="got"):
            load_model(str(path))


def test_a_broken_torchscript_is_refused(net, tmp_path):
    path = rewritten(script(net, tmp_path / "a.pt"), tmp_path / "b.pt", "data.pkl", lambda content: content[:20])
    with pytest.raises(ModelError, match="TorchScript"):
        load_model(path)


def test_a_program_of_two_inputs_is_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    torch.export.save(torch.export.export(Two(), (torch.rand(2, 3), torch.rand(2, 3))), tmp_path / "two.pt2")
    with pytest.raises(ModelError, match="one tensor, the batch, got 2"):
        load_model(str(tmp_path / "two.pt2"))
