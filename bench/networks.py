"""The attacked networks: LeNet, an adversarially trained MNIST network, MobileNetV2 on ImageNet."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from sapper.models.loading import load_model
from sapper.models.training import train


def data_folder(name: str) -> Path:
    return Path(os.environ.get("SAPPER_DATA", "."), name)


def lenet(folder: Path) -> nn.Module:
    """LeNet on MNIST from a model folder, trained there first if it is not finished."""
    if not (folder / "model.toml").exists():
        train("lenet", "mnist", folder, console=Console())
    return load_model(str(folder)).module


def robust_cnn() -> nn.Module:
    return load_model(str(data_folder("robust_models") / "abc_mnist_cnn_a_adv.safetensors")).module


def mobilenet() -> nn.Module:
    return load_model(str(data_folder("imagenet") / "mobilenet_v2_1.0_224.safetensors")).module


def photo(name: str) -> tuple[Tensor, int]:
    """A photo's centre 224 x 224 as 1 x 3 x 224 x 224 in [0, 1], and its class among the 1 001 (0: background)."""
    path = data_folder("imagenet") / "photos" / name
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels[16:240, 16:240]).permute(2, 0, 1)[None].contiguous(), int(name.split("_")[0]) + 1
