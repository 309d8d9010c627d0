import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sapper.data.loading import load_data
from sapper.errors import ModelError, RunError, SapperError, UsageError
from sapper.models import loading
from sapper.models.architecture import architecture
from sapper.models.folder import write_folder
from sapper.models.loading import load_model
from sapper.models.training import accuracy, train

provided = pytest.mark.skipif("SAPPER_DATA" not in os.environ, reason="SAPPER_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my model"
    path.mkdir()
    module = architecture("softmax").build((1, 2, 2), 3)
    write_folder(path, module, "softmax", (1, 2, 2), ("a", "b", "c"), {"recipe": {"seed": 0}})
    return path


class TestFolder:
    def test_it_is_what_was_written(self, folder):
        model = load_model(str(folder))
        assert (model.name, model.input_shape, model.classes) == ("my-model", (1, 2, 2), 3)
        state = load_file(folder / "weights.safetensors")
        assert torch.equal(model.module.state_dict()["1.weight"], state["1.weight"])
        assert not model.module.training

    def test_its_weights_load_by_themselves(self, folder):
        alone = load_model(str(folder / "weights.safetensors"))
        assert (alone.digest, alone.classes) == (load_model(str(folder)).digest, 3)

    def test_other_weights_are_noticed(self, folder):
        state = load_file(folder / "weights.safetensors")
        save_file({key: value + 1 for key, value in state.items()}, folder / "weights.safetensors")
        with pytest.raises(ModelError, match="got others"):
            load_model(str(folder))

    @pytest.mark.parametrize(
        "text", ["", "garbage", "architecture = 'softmax'", "architecture = 'softmax'\ninput_shape = 'x'"]
    )
    def test_a_bad_description_is_refused(self, folder, text):
        (folder / "model.toml").write_text(text)
        with pytest.raises(ModelError, match=r"model\.toml: expected"):
            load_model(str(folder))

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"got no model\.toml"):
            load_model(str(tmp_path))

    def test_missing_weights_are_said(self, folder):
        (folder / "weights.safetensors").unlink()
        with pytest.raises(ModelError, match="no such file"):
            load_model(str(folder))


class TestPublished:
    @provided
    @pytest.mark.parametrize(("name", "right"), [("kw_mnist_0.1", 0.982), ("abc_mnist_cnn_a_adv", 0.9633)])
    def test_their_accuracy(self, name, right):
        model = load_model(f"{os.environ['SAPPER_DATA']}/robust_models/{name}.safetensors")
        assert (model.name, model.input_shape, model.classes) == (name, (1, 28, 28), 10)
        assert accuracy(model.module, load_data("mnist")) == right

    def test_mean_and_deviation_come_from_the_metadata(self, tmp_path):
        state = architecture("wong_kolter").build((1, 28, 28), 10).state_dict()
        x = torch.rand(2, 1, 28, 28)
        modules = []
        for i, text in enumerate(("", "[[0.5], [0.25]]")):
            save_file(state, tmp_path / f"{i}.safetensors", {"input_mean_std": text})
            modules.append(load_model(str(tmp_path / f"{i}.safetensors")).module)
        assert torch.allclose(modules[1](x), modules[0]((x - 0.5) / 0.25), atol=1e-6)

    def test_unreadable_mean_and_deviation_are_refused(self, tmp_path):
        state = architecture("wong_kolter").build((1, 28, 28), 10).state_dict()
        save_file(state, tmp_path / "a.safetensors", {"input_mean_std": "0.1307;0.3081"})
        with pytest.raises(ModelError, match="input_mean_std"):
            load_model(str(tmp_path / "a.safetensors"))

    def test_unknown_weights_are_refused(self, tmp_path):
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
        with pytest.raises(ModelError, match=r"wong_kolter.*package.module:factory"):
            load_model(str(tmp_path / "a.safetensors"))

    @pytest.mark.parametrize("text", ["softmax", "[]", '{"architecture": "softmax", "input_shape": "x", "classes": 3}'])
    def test_half_described_weights_are_refused(self, tmp_path, text):
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"sapper": text})
        with pytest.raises(ModelError, match="in its metadata"):
            load_model(str(tmp_path / "a.safetensors"))


CODE = """
import torch

def make():
    return torch.nn.Linear(4, 3)

class Nets:
    ready = torch.nn.Linear(4, 2)

def broken():
    raise ValueError("no luck")

def number():
    return 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch) -> str:
    """A module in the working folder, of a name of its own: imported modules stay."""
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


class TestFactory:
    def test_with_weights(self, code, tmp_path):
        state = {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}
        save_file(state, tmp_path / "w.safetensors")
        torch.save(state, tmp_path / "w.pt")
        models = [load_model(f"{code}:make", weights=tmp_path / name) for name in ("w.safetensors", "w.pt")]
        assert models[0].module(torch.ones(1, 4)).tolist() == [[4, 4, 4]]
        assert models[0].digest == models[1].digest
        assert models[0].input_shape is None

    def test_a_network_itself(self, code):
        before = list(sys.path)
        assert load_model(f"{code}:Nets.ready").module(torch.ones(1, 4)).shape == (1, 2)
        assert sys.path == before

    @pytest.mark.parametrize(
        ("attribute", "said"),
        [("absent", "AttributeError"), ("broken", "ValueError: no luck"), ("number", r"nn.Module or a fitted estimator, got int")],
    )
    def test_failures_are_one_line(self, code, attribute, said):
        with pytest.raises(ModelError, match=said):
            load_model(f"{code}:{attribute}")

    def test_an_absent_module(self):
        with pytest.raises(ModelError, match="importable from here"):
            load_model("absent.package:make")

    def test_weights_of_another_network(self, code, tmp_path):
        save_file({"weight": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match="missing: bias"):
            load_model(f"{code}:make", weights=tmp_path / "w.safetensors")


class TestLibraries:
    """The libraries themselves are no dependency: what is tested is what is asked of them."""

    def test_timm(self, monkeypatch):
        def create_model(name: str, pretrained: bool) -> nn.Module:
            assert (name, pretrained) == ("toy", True)
            module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
            module.pretrained_cfg = {"input_size": (3, 2, 2), "mean": (0.5,) * 3, "std": (0.25,) * 3}  # type: ignore[assignment]
            return module

        monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
        model = load_model("timm:toy")
        assert (model.name, model.input_shape) == ("timm-toy", (3, 2, 2))
        inner = model.module.get_submodule("module")
        x = torch.rand(2, 3, 2, 2)
        assert torch.allclose(model.module(x), inner((x - 0.5) / 0.25))

    def test_torchvision(self, monkeypatch):
        best = SimpleNamespace(transforms=lambda: SimpleNamespace(mean=[0.5] * 3, std=[0.25] * 3, crop_size=[2]))

        def get_model(name: str, weights: object) -> nn.Module:
            assert (name, weights) == ("toy", best)
            return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

        models = SimpleNamespace(get_model=get_model, get_model_weights=lambda name: SimpleNamespace(DEFAULT=best))
        monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        model = load_model("torchvision:toy", mean=(0.0,) * 3)
        assert model.input_shape == (3, 2, 2)
        assert model.module.get_buffer("mean").tolist() == [0, 0, 0]
        assert model.module.get_buffer("std").tolist() == [0.25] * 3

    @pytest.mark.parametrize("library", ["timm", "torchvision"])
    def test_absent_libraries_are_named(self, monkeypatch, library):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ModelError, match=rf"pip install 'sapper\[{library}\]'"):
            load_model(f"{library}:resnet18")

    def test_their_failures_are_one_line(self, monkeypatch):
        def create_model(name: str, pretrained: bool) -> nn.Module:
            raise RuntimeError(f"Unknown model ({name})\nTraceback")

        monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
        with pytest.raises(ModelError, match=r"RuntimeError: Unknown model \(toy\)\)\.$"):
            load_model("timm:toy")


def test_resizing_leaves_the_input_shape_open(folder):
    model = load_model(str(folder), resize=(2, 2))
    assert model.input_shape is None
    assert model.module(torch.rand(3, 1, 9, 9)).shape == (3, 3)
    assert model.digest not in (load_model(str(folder)).digest, load_model(str(folder), resize=(2, 3)).digest)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pt", b"garbage"), ("a.pt2", b"garbage"), ("a.safetensors", b"garbage"), ("a.onnx", b"\x08\x07"), ("a", b"")],
)
def test_garbage_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"expected .*, got ") as caught:
        load_model(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_pickled_models_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "state.pth")
    for name in ("whole.pt", "state.pth"):
        with pytest.raises(ModelError, match=r"is a pickle.*safetensors.*--weights"):
            load_model(str(tmp_path / name))


@pytest.mark.parametrize(
    ("reference", "kind", "said"),
    [
        ("lenet", ModelError, "architecture, not a trained model"),
        ("lenet-digit", UsageError, "did you mean lenet-digits"),
        ("absent.pt2", ModelError, "no such file"),
        ("some/absent", ModelError, "no such file"),
    ],
)
def test_what_is_not_there_is_said(reference: str, kind: type[SapperError], said: str):
    with pytest.raises(kind, match=said):
        load_model(reference)


def test_weights_are_for_networks_made_by_code(folder, tmp_path):
    with pytest.raises(UsageError, match="has its own"):
        load_model(str(folder), weights=tmp_path / "w.safetensors")


class TestBuiltIn:
    def test_it_is_trained_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SAPPER_CACHE", str(tmp_path))
        first = load_model()
        assert (first.name, first.input_shape, first.classes) == ("lenet-digits", (1, 8, 8), 10)
        assert accuracy(first.module, load_data("digits")) > 0.94
        monkeypatch.setattr(loading, "train", None)
        assert load_model("lenet-digits").digest == first.digest
        (folder,) = (tmp_path / "models").iterdir()
        assert load_model(str(folder)).digest == first.digest

    def test_another_process_may_be_faster(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SAPPER_CACHE", str(tmp_path))

        def quick(model: str, data: str, out: Path, **_: object) -> Path:
            return train(model, data, out, epochs=1)

        monkeypatch.setattr(loading, "train", quick)
        first = load_model().digest
        (folder,) = (tmp_path / "models").iterdir()
        folder.rename(tmp_path / "hidden")

        def slow(model: str, data: str, out: Path, **_: object) -> Path:
            (tmp_path / "hidden").rename(folder)
            return train(model, data, out, epochs=1, seed=1)

        monkeypatch.setattr(loading, "train", slow)
        assert load_model().digest == first
        assert list((tmp_path / "models").iterdir()) == [folder]


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAPPER_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="SAPPER_CACHE"):
        load_model()
