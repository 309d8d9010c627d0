"""JSMA on one 224 x 224 photo with MobileNetV2: prints, as JSON, the most memory this process ever held.

`memory.py l0:1%`; a program of its own, since the peak of a process cannot be reset.
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import networks
import torch

import sapper

PHOTO = "285_n02124075_Egyptian_cat.jpg"


@dataclass(frozen=True)
class Peak:
    photo: str
    threat: str
    features: int
    target: int
    found: bool
    changed: int
    """Features (pixels count once per colour)."""
    forwards: int
    backwards: int
    seconds: float
    before_mib: float
    """Peak before the attack: Python, torch, the model, one prediction."""
    peak_mib: float
    pair_matrix_gib: float
    """What one float32 for each pair of features would take."""


def measure(threat: str) -> Peak:
    model = networks.mobilenet().eval()
    x, label = networks.photo(PHOTO)
    target = runner_up(model, x, label)
    before = peak_mib()
    started = time.perf_counter()
    result = sapper.craft(model, x, torch.tensor([label]), attack="jsma", threat=threat, targets=torch.tensor([target]))
    seconds = time.perf_counter() - started
    return Peak(
        photo=PHOTO,
        threat=threat,
        features=x.numel(),
        target=target,
        found=bool(result.found[0]),
        changed=int((result.x_adv != x).sum()),
        forwards=int(result.forwards.sum()),
        backwards=int(result.backwards.sum()),
        seconds=seconds,
        before_mib=before,
        peak_mib=peak_mib(),
        pair_matrix_gib=4 * x.numel() ** 2 / 2**30,
    )


@torch.no_grad()
def runner_up(model: torch.nn.Module, x: torch.Tensor, label: int) -> int:
    logits = model(x)[0]
    logits[label] = -torch.inf
    return int(logits.argmax())


def peak_mib() -> float:
    """Linux counts the parent's peak into a child's ru_maxrss, so there its own high-water mark is read."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1]))))
