"""The small convolutional network of provable robustness: two strided convolutions and 100 hidden units.

Wong, Kolter, "Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope", ICML 2018.
The same network is CNN-A of Dathathri et al., "Enabling certification of verification-agnostic networks via
memory-efficient semidefinite programming" (SDP-FO), NeurIPS 2020.
"""

from torch import nn

from sapper.errors import ModelError
from sapper.models.architecture import Published

PUBLISHED = Published(input_shape=(1, 28, 28), classes=10)


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ModelError(f"wong_kolter expects images (channels, height, width) from 4×4 up, got shape {input_shape}.")
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2 // 2) * (width // 2 // 2), 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
