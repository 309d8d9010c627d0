"""Models made by Python code: the user's own factory, timm and torchvision."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from sapper.errors import ModelError
from sapper.models.estimators import from_estimator, is_estimator
from sapper.models.model import Network
from sapper.models.programs import brief
from sapper.models.weights import fill, read_weights


def from_factory(reference: str, weights: Path | None) -> Network:
    """`package.module:factory`: a function or class without arguments, or a network or estimator itself; found from here."""
    module_name, _, attribute = reference.partition(":")
    with _working_folder_importable():
        try:
            factory: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                factory = getattr(factory, part)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise ModelError(
                f"{reference}: expected package.module:factory, importable from here; {type(error).__name__}: {error}."
            ) from error
        try:
            made = factory if isinstance(factory, nn.Module) or is_estimator(factory) else factory()
        except (Exception, SystemExit) as error:
            raise ModelError(f"{reference}: the factory failed ({type(error).__name__}: {brief(error)}).") from error
    if is_estimator(made) and not isinstance(made, nn.Module) and weights is None:
        return from_estimator(made, reference)
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{reference}: expected a function that returns a torch.nn.Module"
            f"{' to fill with --weights' if weights else ' or a fitted estimator'}, got {type(made).__name__}."
        )
    module = made if weights is None else _filled(made, weights)  # as it was made, so that its mode can be looked at
    return Network(module, f"made by {reference}")


def from_timm(name: str, weights: Path | None) -> Network:
    timm = library("timm")
    module: nn.Module = _make(f"timm:{name}", lambda: timm.create_model(name, pretrained=weights is None))
    config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    shape, mean, std = (tuple(config[key]) if config.get(key) else None for key in ("input_size", "mean", "std"))
    return Network(_filled(module, weights), f"{name} of timm", shape, mean=mean, std=std)


def from_torchvision(name: str, weights: Path | None) -> Network:
    models = library("torchvision.models")
    best: Any = _make(f"torchvision:{name}", lambda: models.get_model_weights(name).DEFAULT)
    module = _make(f"torchvision:{name}", lambda: models.get_model(name, weights=best if weights is None else None))
    transforms = best.transforms()
    mean, std = tuple(getattr(transforms, "mean", ())) or None, tuple(getattr(transforms, "std", ())) or None
    crop = tuple(getattr(transforms, "crop_size", ()))
    shape = (3, crop[0], crop[-1]) if crop else None
    return Network(_filled(module, weights), f"{name} of torchvision", shape, mean=mean, std=std)


def library(name: str, extra: str | None = None) -> Any:
    """A module that only some models need, of the extra of its name or of another."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        install = f"pip install 'sapper[{extra or package}]'"
        raise ModelError(f"{package} is not installed: {install}, or give another kind of model.") from error


def _make(reference: str, make: Any) -> Any:
    """What the library makes; its unknown names, failed downloads and the rest are its own words."""
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{reference}: cannot be made ({type(error).__name__}: {brief(error)}).") from error


def _filled(module: nn.Module, weights: Path | None) -> nn.Module:
    if weights is not None:
        fill(module, read_weights(weights), str(weights))
    return module.eval()


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """A program that is not started by `python -m` does not look for modules in the folder it is started in."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
