"""Files that hold a program with its weights: torch.export archives (.pt2) and TorchScript.

TorchScript brings an interpreter and an unpickler of its own, which run no Python. A torch.export archive may hold
pickles, compiled libraries, expressions that are evaluated and guards that are executed as Python; an archive is looked
through for all of those before torch reads it, and torch.load is held to plain tensors while it does.
"""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.models.model import Network

EXPECTED = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|archive_(format|version)|byteorder|version|\.[\w/]+|extra/.*|"
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json))"
)
WORDS = re.compile(
    r"[su]\d+|True|False|positive|integer|nonnegative|real|Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|"
    r"FloorDiv|CleanDiv|CeilDiv|Equality|Unequality|(Strict)?(Less|Greater)Than|And|Or|Not"
)


class Exported(nn.Module):
    """A torch.export program. It was traced in one mode for good: `eval` and `train` leave it as it is."""

    def __init__(self, program: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.program = program
        self.batch = batch

    def forward(self, x: Tensor) -> Any:
        if self.batch is None:
            return self.program(x)
        # Exported for batches of one size: serve any by cutting it up, the last piece filled with its last row.
        fill = x[-1:].expand(-len(x) % self.batch, *x.shape[1:])
        pieces = [self.program(piece) for piece in torch.cat([x, fill]).split(self.batch)]
        return torch.cat(pieces)[: len(x)] if all(isinstance(piece, Tensor) for piece in pieces) else pieces[0]

    def train(self, mode: bool = True) -> "Exported":
        self.training = mode  # the program's own train() raises
        return self


def load_torchscript(path: Path) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # TorchScript is deprecated; users' files are there all the same
        try:
            module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(
                f"{path}: expected a TorchScript model, got a file that does not load: {brief(error)}"
            ) from error
    return Network(module, "TorchScript program", program=path.read_bytes())


def load_exported(path: Path) -> Network:
    content = path.read_bytes()
    _look_through(path, content)
    with _only_plain_tensors():
        try:
            exported = torch.export.load(io.BytesIO(content))
            module = exported.module(check_guards=False)  # guards are Python code from the file
        except Exception as error:  # a damaged archive can fail anywhere
            raise ModelError(
                f"{path}: expected a torch.export archive, got one that does not load: {brief(error)}"
            ) from error
    inputs = [node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise ModelError(f"{path}: expected a program that takes one tensor, the batch, got {len(inputs)} inputs.")
    shape = inputs[0].meta["val"].shape
    fixed = all(isinstance(side, int) for side in shape[1:])
    batch = shape[0] if len(shape) and isinstance(shape[0], int) else None
    network = Exported(module, batch)
    return Network(network, "torch.export program", tuple(shape[1:]) if fixed else None, program=content)


def _look_through(path: Path, content: bytes) -> None:
    try:
        archive = torch._C.PyTorchFileReader(io.BytesIO(content))
        names: list[str] = archive.get_all_records()
        tables = [json.loads(archive.get_record(name)) for name in names if name.endswith(".json")]
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: expected a torch.export archive, got a file that is none: {brief(error)}") from error
    if "models/model.json" not in names:
        raise ModelError(f"{path}: expected a torch.export archive with one model, got none in it: export it again.")
    odd = [name for name in names if not EXPECTED.fullmatch(name)]
    for table in tables:
        odd += _unsafe(table)
    if odd:
        raise ModelError(
            f"{path} holds more than tensors and a graph of operators ({odd[0]}), which could run code when it is "
            "read, so it is refused: export a network of plain tensors, or give package.module:factory with --weights."
        )


def _unsafe(value: Any) -> Iterator[str]:
    """What in a table of the archive would be unpickled or evaluated."""
    if isinstance(value, dict):
        if value.get("use_pickle"):
            yield "a pickle"
        if "expr_str" in value and not _harmless(str(value["expr_str"])):
            yield f"the expression {value['expr_str']!r}"
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _unsafe(inner)


def _harmless(expression: str) -> bool:
    """Torch hands expressions of sizes to sympy, which evaluates them as Python: only known words may pass."""
    words = re.findall(r"[^\W\d]\w*", expression)
    return all(WORDS.fullmatch(word) for word in words) and not re.search(r"[^\w\s(),=+*/<>'-]|__", expression)


@contextmanager
def _only_plain_tensors() -> Iterator[None]:
    """torch.export's reader falls back to unpickling; this setting of torch.load overrides it."""
    name, log = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", logging.getLogger("torch.export")
    before, level = os.environ.get(name), log.level
    os.environ[name] = "1"
    log.setLevel(logging.CRITICAL)  # it logs a traceback before the error that is reported here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def brief(error: BaseException) -> str:
    """The first line of what can be a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
