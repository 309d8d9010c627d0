"""ONNX files, made here operator by operator; skipped where onnxruntime or onnx is not installed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sapper.errors import ModelError
from sapper.models.loading import load_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES = 3
WEIGHT = np.random.default_rng(0).normal(size=(12, CLASSES)).astype(np.float32)
X = torch.rand(7, 1, 3, 4, generator=torch.Generator().manual_seed(0))
LOGITS = X.flatten(1) @ torch.from_numpy(WEIGHT)


def graph(
    shape: list[Any],
    *,
    before: list[Any] | None = None,
    after: list[Any] | None = None,
    outputs: list[Any] | None = None,
    inputs: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
    to: type = np.float32,
) -> Any:
    """A linear model on x of this shape: x -> before -> flat -> MatMul -> scores -> after."""
    nodes = [*(before or [helper.make_node("Flatten", ["x"], ["flat"])])]
    nodes += [helper.make_node("MatMul", ["flat", "weight"], ["z" if after else "scores"]), *(after or [])]
    made = helper.make_graph(
        nodes,
        "linear",
        inputs or [helper.make_tensor_value_info("x", kind, shape)],
        outputs or [helper.make_tensor_value_info("scores", kind, [None, CLASSES])],
        [numpy_helper.from_array(WEIGHT.astype(to), "weight")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


SOFTMAX = [helper.make_node("Softmax", ["z"], ["scores"])]


def saved(model: Any, folder: Path, name: str = "linear.onnx") -> str:
    onnx.save(model, folder / name)
    return str(folder / name)


@pytest.mark.parametrize("batch", ["rows", None, 1, 2, 5, 7])
def test_logits_of_images_in_batches_of_any_size(tmp_path: Path, batch: Any) -> None:
    model = load_model(saved(graph([batch, 1, 3, 4]), tmp_path))
    assert (model.name, model.input_shape, model.module.access) == ("linear", (1, 3, 4), "scores")
    torch.testing.assert_close(model.module(X), LOGITS)
    torch.testing.assert_close(model.module(X[:1]), LOGITS[:1])


@pytest.mark.parametrize("shape", [["rows", 1, 3, 4], ["rows", 12], ["rows", None], ["rows", 1, "height", "width"]])
def test_flat_rows_and_open_sides(tmp_path: Path, shape: list[Any]) -> None:
    torch.testing.assert_close(load_model(saved(graph(shape), tmp_path)).module(X), LOGITS)


def test_images_with_the_channels_last(tmp_path: Path) -> None:
    turn = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Flatten", ["t"], ["flat"]),
    ]
    torch.testing.assert_close(load_model(saved(graph(["rows", 3, 4, 1], before=turn), tmp_path)).module(X), LOGITS)


def test_probabilities_are_known_by_what_is_answered_to_noise(tmp_path: Path) -> None:
    model = load_model(saved(graph(["rows", 1, 3, 4], after=SOFTMAX), tmp_path))
    torch.testing.assert_close(model.module(X), LOGITS.log_softmax(1))


@pytest.mark.parametrize(("kind", "to"), [(TensorProto.DOUBLE, np.float64), (TensorProto.FLOAT16, np.float16)])
def test_other_floats(tmp_path: Path, kind: int, to: type) -> None:
    module = load_model(saved(graph(["rows", 12], kind=kind, to=to), tmp_path)).module
    torch.testing.assert_close(module(X), LOGITS, rtol=1e-2, atol=1e-2)


def converted(names: list[Any], *, as_map: bool) -> Any:
    """As converters of scikit-learn write a linear classifier."""
    kind = {int: "int64s", str: "strings"}[type(names[0])]
    label = TensorProto.INT64 if kind == "int64s" else TensorProto.STRING
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=WEIGHT.T.flatten().tolist(),
            intercepts=[0.0] * CLASSES, multi_class=1, post_transform="SOFTMAX",
            **{"classlabels_ints" if kind == "int64s" else "classlabels_strings": names},
        )
    ]  # fmt: skip
    if as_map:
        nodes.append(helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", **{f"classlabels_{kind}": names}))
        value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        maps = helper.make_sequence_type_proto(helper.make_map_type_proto(label, value))
        scores = helper.make_value_info("maps", maps)
    else:
        scores = helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, CLASSES])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 12])
    made = helper.make_graph(nodes, "converted", [x], [helper.make_tensor_value_info("label", label, [None]), scores])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(
    ("names", "as_map", "places"),
    [
        ([0, 1, 2], False, [0, 1, 2]),
        ([0, 1, 2], True, [0, 1, 2]),
        ([0, 1, 4], True, [0, 1, 4]),
        (["a", "b", "c"], False, [0, 1, 2]),
        (["a", "b", "c"], True, [0, 1, 2]),
        (["0", "1", "2"], True, [0, 1, 2]),
    ],
)
def test_converted_estimators(tmp_path: Path, names: list[Any], as_map: bool, places: list[int]) -> None:
    module = load_model(saved(converted(names, as_map=as_map), tmp_path)).module
    logits = module(X)
    assert logits.shape == (7, places[-1] + 1)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, places], LOGITS.log_softmax(1), rtol=1e-5, atol=1e-5)
    assert logits.argmax(1).tolist() == [places[place] for place in LOGITS.argmax(1).tolist()]


def test_tensors_in_another_file_are_part_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "linear.onnx"
    options = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save(graph(["rows", 12]), path, **options)
    before = load_model(str(path))
    torch.testing.assert_close(before.module(X), LOGITS)
    (tmp_path / "notes.txt").write_text("of no concern")
    assert load_model(str(path)).digest == before.digest
    data = tmp_path / "weights.data"
    data.write_bytes(bytes(reversed(data.read_bytes())))
    assert load_model(str(path)).digest != before.digest


def test_tensors_of_another_folder_are_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    options = {"save_as_external_data": True, "location": "secret.data", "size_threshold": 0}
    onnx.save(graph(["rows", 12]), tmp_path / "linear.onnx", **options)
    content = (tmp_path / "linear.onnx").read_bytes()
    onnx_file = onnx.load_model_from_string(content)
    for tensor in onnx_file.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../secret.data" if entry.key == "location" else entry.value
    (tmp_path / "inner" / "linear.onnx").write_bytes(onnx_file.SerializeToString())
    with pytest.raises(ModelError, match="does not load"):
        load_model(str(tmp_path / "inner" / "linear.onnx"))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, part: float) -> None:
    path = Path(saved(graph(["rows", 12]), tmp_path))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ModelError, match="expected an ONNX file, got one that does not load") as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)


def value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            graph(["rows", 12], outputs=[value("scores", 1, [None, 3]), value("flat", 1, [None, 12])]),
            r"one output of scores.*got scores tensor\(float\), flat",
        ),
        (
            graph(
                ["rows", 12],
                after=[helper.make_node("ArgMax", ["z"], ["scores"], axis=1, keepdims=0)],
                outputs=[value("scores", TensorProto.INT64, [None])],
            ),
            r"one output of scores.*got scores tensor\(int64\)",
        ),
        (
            graph(
                [],
                inputs=[value("x", 1, ["rows", 12]), value("more", 1, [1])],
                after=[helper.make_node("Add", ["z", "more"], ["scores"])],
            ),
            r"one input, .*got x tensor\(float\) .*more tensor",
        ),
        (
            graph(
                ["rows", 12],
                kind=TensorProto.UINT8,
                before=[helper.make_node("Cast", ["x"], ["flat"], to=1)],
                outputs=[value("scores", 1, [None, 3])],
            ),
            r"a batch of floats, got x tensor\(uint8\)",
        ),
    ],
)
def test_other_programs_are_refused(tmp_path: Path, model: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(saved(model, tmp_path))


def test_another_shape_is_told(tmp_path: Path) -> None:
    module = load_model(saved(graph(["rows", 1, 3, 4]), tmp_path)).module
    with pytest.raises(ModelError, match=r"shape \(1, 3, 4\), as the ONNX program does, got \(1, 28, 28\)"):
        module(torch.rand(2, 1, 28, 28))


def test_nan_is_passed_on(tmp_path: Path) -> None:
    nothing = [helper.make_node("Sub", ["z", "z"], ["n"]), helper.make_node("Div", ["n", "n"], ["scores"])]
    assert load_model(saved(graph(["rows", 12], after=nothing), tmp_path)).module(X).isnan().all()


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(graph(["rows", 12]), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"onnxruntime is not installed: pip install 'sapper\[onnx\]'"):
        load_model(path)


def test_preprocessing_goes_in_front(tmp_path: Path) -> None:
    model = load_model(saved(graph(["rows", 1, 3, 4]), tmp_path), mean=(0.5,), std=(0.25,))
    linear = nn.Linear(12, CLASSES, bias=False)
    linear.weight.data.copy_(torch.from_numpy(WEIGHT.T.copy()))
    torch.testing.assert_close(model.module(X), linear(((X - 0.5) / 0.25).flatten(1)).detach(), rtol=1e-4, atol=1e-5)
