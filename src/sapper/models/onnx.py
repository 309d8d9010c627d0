"""ONNX files, run by onnxruntime on the CPU: images or flat rows in, logits or probabilities out.

Also as converters of scikit-learn write them, with the label as a second output, and probabilities as a map from class to
value. An ONNX graph holds operators of a fixed set and no code; onnxruntime keeps tensors in further files to their folder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapper.errors import ModelError
from sapper.foreign import Foreign
from sapper.models.libraries import library
from sapper.models.model import Network
from sapper.models.numbering import numbers_of, spread
from sapper.models.programs import brief

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(string)")
_TRIED, _UNKNOWN_SIDE = 64, 32


def load_onnx(path: Path) -> Network:
    """Raises:
    ModelError: onnxruntime is not there or does not read the file, or it is no classifier of one input.
    """
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common class but this
        raise ModelError(f"{path}: expected an ONNX file, got one that does not load ({brief(error)}).") from error
    asked = _asked(path, session)
    module = Foreign(asked, "scores", probabilities=_are_probabilities(asked))
    return Network(
        module, f"ONNX program, run by onnxruntime {runtime.__version__}", asked.fixed, program=_content(path)
    )


@dataclass(frozen=True)
class _Asked:
    """The program as a function from inputs to scores."""

    session: Any
    input: str
    type: type[np.floating]
    shape: Sequence[int | str | None]
    """Of one sample; a name or nothing where any size will do."""
    batch: int | None
    """Rows that it takes at once; None for any number."""
    output: str
    is_map: bool

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape, where it leaves nothing open."""
        sides = tuple(side for side in self.shape if isinstance(side, int))
        return sides if len(sides) == len(self.shape) else None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = self._fitting(x).astype(self.type, copy=False)
        size = self.batch or max(1, len(x))
        filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % size, 0)])
        pieces = [self._run(filled[start : start + size]) for start in range(0, len(filled), size)]
        return np.concatenate(pieces)[: len(x)]

    def _run(self, x: np.ndarray) -> np.ndarray:
        (answer,) = self.session.run([self.output], {self.input: np.ascontiguousarray(x)})
        if not self.is_map:
            return np.asarray(answer)
        names = sorted(answer[0])
        scores = np.array([[row[name] for name in names] for row in answer], np.float64)
        return spread(scores, numbers_of(names), scores.min(1, keepdims=True).clip(None, 0))

    def _fitting(self, x: np.ndarray) -> np.ndarray:
        """Flat for a program of flat rows; with the channels last for one of such images."""
        wanted = self.fixed
        if len(self.shape) == 1 and wanted in (None, (math.prod(x.shape[1:]),)):
            return x.reshape(len(x), -1)
        if wanted in (None, x.shape[1:]):
            return x
        if x.ndim == 4 and wanted == (*x.shape[2:], x.shape[1]):
            return x.transpose(0, 2, 3, 1)
        raise ModelError(
            f"expected inputs of shape {wanted}, as the ONNX program does, got {x.shape[1:]}: give data of its kind, or "
            "--resize HEIGHT WIDTH."
        )


def _asked(path: Path, session: Any) -> _Asked:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) < 2:
        told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ModelError(f"{path}: expected an ONNX program of one input, a batch of floats, got {told or 'none'}.")
    scores = [one for one in outputs if one.type not in _LABELS]
    if len(scores) != 1 or not (scores[0].type in _TYPES or scores[0].type.startswith("seq(map(")):
        told = ", ".join(f"{one.name} {one.type}" for one in outputs)
        raise ModelError(
            f"{path}: expected an ONNX program with one output of scores, a column a class, beside the label if any, got "
            f"{told}: export it with the scores alone."
        )
    batch, *shape = inputs[0].shape
    return _Asked(
        session, inputs[0].name, _TYPES[inputs[0].type], shape, batch if isinstance(batch, int) else None,
        scores[0].name, scores[0].type not in _TYPES,
    )  # fmt: skip


def _are_probabilities(asked: _Asked) -> bool:
    """Whether every answer is a distribution, tried on noise; sides that may have any size are 32."""
    shape = [side if isinstance(side, int) else _UNKNOWN_SIDE for side in asked.shape]
    noise = np.random.default_rng(0).random((asked.batch or _TRIED, *shape)).astype(asked.type)
    try:
        scores = asked(noise)
    except Exception:  # of another size then: what it answers to the samples is looked at before the attacks
        return False
    inside = scores.ndim == 2 and bool(((scores >= 0) & (scores <= 1)).all())
    return inside and bool(np.abs(scores.astype(np.float64).sum(1) - 1).max() < 1e-3)


def _content(path: Path) -> bytes:
    """The file, and those of its folder that it names: large tensors lie outside."""
    content = path.read_bytes()
    named = sorted(
        one for one in path.parent.iterdir() if one != path and one.is_file() and one.name.encode() in content
    )
    return b"".join([content, *(one.read_bytes() for one in named)])
