"""A model folder: `weights.safetensors`, and `model.toml` which says what they are.

`model.toml` is written last: a folder that has one is complete.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save
from torch import nn

from sapper.disk import write_bytes
from sapper.errors import ModelError
from sapper.models.architecture import architecture
from sapper.models.model import Network, digest
from sapper.models.weights import fill, read_safetensors

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.toml"
METADATA = "sapper"
"""The one key of the weights' metadata; of several, safetensors writes the order at random."""


@dataclass(frozen=True)
class Description:
    """The head of `model.toml`; what follows it (recipe, accuracy, versions) is for people."""

    architecture: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    digest: str

    def table(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            "digest": self.digest,
            "torch": torch.__version__,
        }


def write_folder(
    folder: Path,
    module: nn.Module,
    name: str,
    input_shape: tuple[int, ...],
    classes: tuple[str, ...],
    more: dict[str, Any],
) -> None:
    """Args: `name` is the architecture's; `more` is added to `model.toml`."""
    description = Description(name, input_shape, classes, digest(module))
    metadata = {METADATA: json.dumps({"architecture": name, "input_shape": input_shape, "classes": len(classes)})}
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(state, metadata))
    write_bytes(folder / DESCRIPTION, tomli_w.dumps(description.table() | more).encode())


def read_folder(folder: Path) -> Network:
    found = _description(folder)
    module = architecture(found.architecture).build(found.input_shape, len(found.classes))
    fill(module, read_safetensors(folder / WEIGHTS)[0], str(folder / WEIGHTS))
    if digest(module) != found.digest:
        raise ModelError(
            f"{folder / WEIGHTS}: expected the weights that {DESCRIPTION} describes (digest {found.digest[:12]}…), "
            f"got others ({digest(module)[:12]}…): train again, or load the weights file by itself."
        )
    return Network(module, f"{found.architecture} from a model folder", found.input_shape, len(found.classes))


def _description(folder: Path) -> Description:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(
            f"{folder}: expected a model folder with {DESCRIPTION} and {WEIGHTS}, got no {DESCRIPTION} in it."
        )
    try:
        table = tomllib.loads(path.read_text())
        shape, classes = tuple(map(int, table["input_shape"])), tuple(map(str, table["classes"]))
        return Description(str(table["architecture"]), shape, classes, str(table["digest"]))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: expected architecture, input_shape, classes and digest, got {error!r}.") from error
