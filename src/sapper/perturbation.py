"""One change for all samples: what a universal attack has learned, keeps in a file and applies to others."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sapper.errors import UsageError
from sapper.tensors import Batch
from sapper.threat import Threat


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A change, and where it comes from."""

    change: Tensor
    """Of the shape of one sample, in the data's units; within the ball it was learned for, and of no sample's box."""
    attack: str
    threat: str
    bounds: tuple[float, float]
    """Of the data it was learned from."""
    samples: int
    """How many it was learned from."""
    fooled: float
    """The share of these whose prediction it changes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Perturbation) and self._told() == other._told() and self.change.equal(other.change)

    def __hash__(self) -> int:
        return hash(json.dumps(self._told()))

    def applied(self, x: Batch, threat: Threat) -> Batch:
        """To every row, as far as ball and box of each allow."""
        return threat.project(x + self.change.to(x), x)

    def save(self, path: Path) -> None:
        """As safetensors, with all the rest as its metadata."""
        told = {name: json.dumps(value) for name, value in self._told().items()}
        save_file({"change": self.change.cpu().contiguous()}, path, metadata=told)

    @classmethod
    def load(cls, path: Path) -> "Perturbation":
        """Reads what `save` wrote.

        Raises:
            UsageError: There is no such file, or it holds something else.
        """
        if not path.is_file():
            raise UsageError(f"{path}: no such file; expected a universal perturbation, saved as safetensors.")
        try:
            with safe_open(path, "pt") as file:
                told: dict[str, Any] = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
                told["bounds"] = tuple(told["bounds"])
                return cls(file.get_tensor("change"), **told)
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{path}: expected a universal perturbation that Sapper saved, got {error}.") from error

    def _told(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "change"}
