"""What the rest of Sapper is given as "the data"."""

import hashlib
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Data:
    """Labelled samples, checked: finite, in their bounds, one label in 0..len(classes)-1 for each."""

    name: str
    """Short and safe in a file name."""
    x: Tensor
    """float32, the sample the first dimension; images are (n, channels, height, width)."""
    y: Tensor
    """int64, (n,)."""
    classes: tuple[str, ...]
    """Their names; "0", "1", … where the data carry none, up to the greatest label of the split."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The legal range of every feature."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x.shape[1:])

    def digest(self) -> str:
        """SHA-256 of samples and labels."""
        sha = hashlib.sha256(f"{tuple(self.x.shape)} {self.bounds}\n".encode())
        sha.update(self.x.contiguous().numpy().data)
        sha.update(self.y.contiguous().numpy().data)
        return sha.hexdigest()
