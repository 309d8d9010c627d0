"""From what the user writes to a `Model`."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from sapper.data.dataset import Data
from sapper.data.files import cache
from sapper.endpoints.endpoint import Terms
from sapper.endpoints.settings import is_reference
from sapper.errors import ModelError, RunError, UsageError, unknown
from sapper.models.architecture import Published, Recipe, architecture, architectures
from sapper.models.estimator_files import PICKLES, is_skops, load_pickle, load_skops
from sapper.models.folder import DESCRIPTION, METADATA, read_folder
from sapper.models.libraries import from_factory, from_timm, from_torchvision
from sapper.models.model import Model, Network, digest, preprocessed
from sapper.models.onnx import load_onnx
from sapper.models.programs import load_exported, load_torchscript
from sapper.models.remote import load_remote
from sapper.models.training import train
from sapper.models.weights import REFUSED, State, entries, fill, is_pickle, is_torchscript, read_safetensors
from sapper.names import slug

BUILT_IN = "lenet-digits"
BUILT_IN_RECIPE = Recipe(epochs=20, batch_size=50, learning_rate=0.1)
"""Seconds of training, which a demonstration can wait for."""
REFUSED_ESTIMATOR = (
    "A scikit-learn estimator is saved by skops.io.dump(estimator, 'model.skops'), or loaded all the same with "
    "--trust-pickle."
)
_SHOWN = 8
"""Samples by which an endpoint shows what it answers with."""
LIBRARIES = {"timm": from_timm, "torchvision": from_torchvision}

Floats = tuple[float, ...]


def load_model(
    reference: str = BUILT_IN,
    *,
    weights: Path | None = None,
    mean: Floats | None = None,
    std: Floats | None = None,
    resize: tuple[int, int] | None = None,
    trust_types: Sequence[str] = (),
    trust_pickle: bool = False,
    like: Data | None = None,
    terms: Terms | None = None,
) -> Model:
    """Loads a classifier and puts its preprocessing in front of it.

    Args:
        reference: `lenet-digits`, the built-in model, which is trained on first use; a model folder; a .pt2 or
            TorchScript file; a .safetensors file of a known network; a .skops file with a scikit-learn estimator; an ONNX
            file; `package.module:factory`, which may make an estimator; `timm:NAME`; `torchvision:NAME`; an endpoint's
            address, or the .toml file that describes it.
        weights: A .safetensors file, or a state dict of plain tensors, for a network made by code.
        mean: Subtracted from each channel, in the data's units; what the model's source says where None.
        std: Each channel is divided by it; likewise.
        resize: Height and width the network wants, where the data have others.
        trust_types: Types that a .skops file may hold beside the known.
        trust_pickle: A pickled estimator is loaded, and whatever code is in its file run.
        like: Data that the model is for, by whose first samples an endpoint shows what it takes and answers.
        terms: On which an endpoint is asked: budget and rate.

    Raises:
        ModelError: It is not there, is no model, would run code of its own when read, or the weights do not fit.
    """
    if is_reference(reference) and weights is None:
        least = int(like.y.max()) + 1 if like else 0
        network = load_remote(reference, like and _shown(like, mean, std, resize), terms, least)
    else:
        network = _network(reference, weights, _Trust(tuple(trust_types), trust_pickle))
    mean, std = network.mean if mean is None else mean, network.std if std is None else std
    module = preprocessed(network.module, mean, std, resize)
    path = Path(reference).expanduser()
    name = (path.resolve().name if path.is_dir() else path.stem) if path.exists() else _bare(reference)
    return Model(
        name=slug(name) or "model",
        reference=reference,
        module=module,
        digest=digest(module, repr(resize).encode() if resize else b"", network.program),
        input_shape=network.input_shape if resize is None else None,
        classes=network.classes,
        description=network.description,
    )


def _shown(data: Data, mean: Floats | None, std: Floats | None, resize: tuple[int, int] | None) -> Data:
    """The first samples, as the model gets to see them."""
    x = preprocessed(nn.Identity(), mean, std, resize)(data.x[:_SHOWN])
    return replace(data, x=x, y=data.y[:_SHOWN])


def _bare(reference: str) -> str:
    """An address without what is the same in all or may be secret."""
    return reference.partition("://")[2].partition("?")[0] if is_reference(reference) else reference


@dataclass(frozen=True)
class _Trust:
    """What the user lets a file do."""

    types: tuple[str, ...]
    pickle: bool


def _network(reference: str, weights: Path | None, trust: _Trust) -> Network:
    path, (library, _, name) = Path(reference).expanduser(), reference.partition(":")
    by_code = bool(name) and not path.exists()
    if weights is not None and not by_code:
        raise UsageError(f"--weights fills a network made by code (package.module:factory); {reference} has its own.")
    if by_code:
        return LIBRARIES[library](name, weights) if library in LIBRARIES else from_factory(reference, weights)
    if reference == BUILT_IN:
        return read_folder(built_in())
    try:
        if path.is_dir():
            return read_folder(path)
        if path.exists():
            return _read_file(path, trust)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}).") from error
    raise _not_there(reference, path)


def _not_there(reference: str, path: Path) -> Exception:
    if reference in architectures():
        return ModelError(
            f"'{reference}' is an architecture, not a trained model: "
            f"sapper train {reference} --data D --out DIR makes one."
        )
    if path.suffix or len(path.parts) > 1:
        return ModelError(f"{reference}: no such file or folder; expected a model file, a model folder or {BUILT_IN}.")
    return unknown(
        "model", reference, (BUILT_IN, *(f"{library}:NAME" for library in LIBRARIES), "package.module:factory")
    )


def _read_file(path: Path, trust: _Trust) -> Network:
    """By what is in the file; by its name where that has no mark of its own, or to say what is wrong with it."""
    if is_pickle(path) or path.suffix in PICKLES:
        if trust.pickle:
            return load_pickle(path)
        raise ModelError(f"{path} {REFUSED} {REFUSED_ESTIMATOR}")
    names = entries(path)
    if is_skops(names) or path.suffix == ".skops":
        return load_skops(path, trust.types)
    if path.suffix == ".onnx":
        return load_onnx(path)
    if is_torchscript(names):
        return load_torchscript(path)
    if path.suffix == ".pt2" or any(name.endswith("models/model.json") for name in names):
        return load_exported(path)
    if path.suffix == ".safetensors":
        return _known(path)
    raise ModelError(
        f"{path}: expected a torch.export file (.pt2), a TorchScript file, weights of a known network (.safetensors), an "
        f"estimator (.skops), an .onnx file or a folder with {DESCRIPTION}, got a file that is none of them."
    )


def _known(path: Path) -> Network:
    """Weights by themselves: of a network that `sapper train` made, or of a published one."""
    state, metadata = read_safetensors(path)
    name, expected = _trained(path, metadata[METADATA]) if METADATA in metadata else _published(path, state)
    module = architecture(name).build(expected.input_shape, expected.classes)
    fill(module, state, str(path))
    mean, std = _mean_and_std(path, metadata) or (expected.mean, expected.std)
    what = metadata.get("what", f"{name} from a weights file")
    return Network(module, what, expected.input_shape, expected.classes, mean, std)


def _trained(path: Path, metadata: str) -> tuple[str, Published]:
    try:
        found = json.loads(metadata)
        return str(found["architecture"]), Published(tuple(map(int, found["input_shape"])), int(found["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected architecture, input_shape and classes in its metadata '{METADATA}', got {metadata}: "
            "train again, or name the code that makes the network: package.module:factory --weights."
        ) from error


def _published(path: Path, state: State) -> tuple[str, Published]:
    """The architecture whose published weights have these names and shapes."""
    shapes = {key: tensor.shape for key, tensor in state.items()}
    known = {name: found.published for name, found in architectures().items() if found.published is not None}
    for name, published in known.items():
        with torch.device("meta"):
            empty = architecture(name).build(published.input_shape, published.classes)
        if {key: tensor.shape for key, tensor in empty.state_dict().items()} == shapes:
            return name, published
    raise ModelError(
        f"{path}: expected weights made by sapper train, or published ones of {', '.join(known)}; got {len(shapes)} "
        f"tensors of another network. Name the code that makes it: package.module:factory --weights {path}."
    )


def _mean_and_std(path: Path, metadata: dict[str, str]) -> tuple[Floats, Floats] | None:
    """As the metadata give them: [[mean, …], [std, …]], or nothing."""
    text = metadata.get("input_mean_std")
    if not text:
        return None
    try:
        mean, std = json.loads(text)
        return tuple(map(float, mean)), tuple(map(float, std))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected input_mean_std as [[mean, …], [std, …]], got {text}: mend its metadata."
        ) from error


def built_in() -> Path:
    """The folder of LeNet on scikit-learn's digits; trained in the user's cache when it is not there."""
    recipe = BUILT_IN_RECIPE
    folder = cache() / "models" / f"{BUILT_IN}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]}"
    if (folder / DESCRIPTION).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            trained = train(
                "lenet",
                "digits",
                Path(temporary) / BUILT_IN,
                epochs=recipe.epochs,
                batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                momentum=recipe.momentum,
                console=Console(stderr=True),
            )
            if not folder.exists():  # another process may have been faster
                trained.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error}. Set SAPPER_CACHE to a folder that can be written.") from error
    return folder
