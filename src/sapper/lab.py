"""Where a study works: its folder, scale, data and seed, and the public pieces it runs on."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from sapper import disk
from sapper.claims import Figure, Scale
from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.models.loading import load_model
from sapper.models.model import Model
from sapper.models.training import Schedule, train
from sapper.oracle import TorchOracle, frozen
from sapper.run import audit
from sapper.spec import Spec
from sapper.tensors import Batch, Labels

_ROWS = 500


@dataclass(frozen=True)
class Lab:
    out: Path
    scale: Scale
    data: str
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def size(self, *, paper: int, smoke: int) -> int:
        """How many of something at this scale."""
        return paper if self.scale == "paper" else smoke

    def samples(self, split: str, limit: int | None = None) -> Data:
        return load_data(self.data, split=split, limit=limit)

    def model(
        self, architecture: str, split: str, epochs: int | None = None, *, folder: str | None = None,
        batch_size: int | None = None, learning_rate: float | None = None, momentum: float | None = None,
        schedule: Schedule = "linear",
    ) -> Model:  # fmt: skip
        """A trained network, from the study's own folder; trained there if need be.

        Args:
            architecture: As for `sapper train`, like what follows.
            split: What it learns.
            epochs: By default this and the next options are the architecture's recipe.
            folder: Its name, if not the architecture's.
            batch_size: Samples a step.
            learning_rate: Of the first step.
            momentum: Share of the last step that is kept.
            schedule: Of the learning rate.
        """
        made = train(
            architecture, self.data, self.out / "models" / (folder or architecture), split=split, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, momentum=momentum, schedule=schedule, seed=self.seed,
            console=self.console,
        )  # fmt: skip
        return load_model(str(made))

    def audit(
        self, name: str, model: Model, split: str, *, limit: int | None, goal: str, threat: str, attack: str
    ) -> Path:
        """One attack as `sapper audit --no-doctor` runs it; what is done is not done again.

        Returns:
            The run folder.
        """
        data = self.samples(split, limit)
        spec = Spec(
            model=model.reference, data=self.data, split=split, limit=limit, goal=goal, threats=(threat,),
            attacks=(attack,), seed=self.seed, doctor=False, model_digest=model.digest, data_digest=data.digest(),
        )  # fmt: skip
        run, _ = audit(spec, model, data, self.out / "runs" / name, self.device, self.console)
        return run

    def figure(self, file: str, content: bytes | str, caption: str) -> Figure:
        """Writes a picture (PNG bytes or SVG text) into the study's folder."""
        content = content.encode() if isinstance(content, str) else content
        disk.write_whole(self.out / "figures" / file, lambda part: part.write_bytes(content))
        return Figure(file=file, caption=caption)


def answers(module: nn.Module, x: Batch) -> Labels:
    """The classes that a network gives to samples."""
    with frozen(module):
        return torch.cat([TorchOracle(module).logits(part) for part in x.split(_ROWS)]).argmax(1)
