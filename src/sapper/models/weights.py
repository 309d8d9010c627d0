"""Reading weights without ever running what is in the file, and filling a network with them."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sapper.errors import ModelError

State = dict[str, Tensor]

REFUSED = (
    "is a pickle. Loading one runs whatever code is in it, so it is refused. If you trust it, load it in code of your "
    "own and save the weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'); then give "
    "package.module:factory with --weights weights.safetensors, or export the whole network with torch.export.save."
)


def read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """The tensors and the metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected weights in safetensors format.") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: expected weights in safetensors format, got a file that is not ({error})."
        ) from error


def read_weights(path: Path) -> State:
    """Weights in safetensors format, or a state dict of plain tensors as `torch.save` writes it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected weights in safetensors format.")
    if not is_pickle(path):
        return read_safetensors(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of a pickle that is refused a moment later
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} {REFUSED}") from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(
            f"{path}: expected a state dict (names to tensors), got {type(loaded).__name__} of other things."
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def is_pickle(path: Path) -> bool:
    """Whether the file is what `torch.save` or `pickle` writes: a bare pickle, or a zip with one and no TorchScript."""
    with path.open("rb") as file:
        head = file.read(9)
    if (
        head[:1] == b"\x80" and head[8:] != b"{"
    ):  # safetensors begin with a length, which may look like this, and a brace
        return True
    names = entries(path)
    return any(name.endswith("data.pkl") for name in names) and not is_torchscript(names)


def entries(path: Path) -> list[str]:
    """Names in a zip file; none for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.header_offset == 0 for entry in archive.infolist()):  # else a zip within a damaged file
                return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        pass
    return []


def is_torchscript(names: list[str]) -> bool:
    return any("/code/" in name for name in names) and any(name.endswith("constants.pkl") for name in names)


def fill(module: nn.Module, state: State, source: str) -> None:
    """Loads the weights; all of them must fit."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"{source}: expected the weights of this network, got others. {_differences(module.state_dict(), state)}"
        ) from error
    module.eval()


def _differences(expected: State, got: State) -> str:
    shapes = [
        f"{key} is {tuple(got[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in got and got[key].shape != expected[key].shape
    ]
    kinds = {"missing": sorted(expected.keys() - got.keys()), "not expected": sorted(got.keys() - expected.keys())}
    lines = [f"{kind}: {_some(keys)}" for kind, keys in kinds.items() if keys] + ([_some(shapes)] if shapes else [])
    return "; ".join(lines) + "."


def _some(items: list[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
