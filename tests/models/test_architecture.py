import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.svm import LinearSVC

from sapper.data.loading import load_data
from sapper.errors import ModelError, UsageError
from sapper.models.architecture import architecture, architectures
from sapper.models.lenet import LeNet, build
from sapper.models.loading import load_model
from sapper.models.mobilenet_v2 import Layer
from sapper.models.training import train

SMALL = ("lenet", "maxout", "mlp", "papernot", "papernot_substitute", "rbf", "softmax", "svm", "wong_kolter")
provided = pytest.mark.skipif("SAPPER_DATA" not in os.environ, reason="SAPPER_DATA is not set")


def test_the_folder_names_the_architectures():
    assert set(architectures()) == {*SMALL, "mobilenet_v2", "squeezenet"}
    with pytest.raises(UsageError, match="did you mean lenet"):
        architecture("lennet")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_each_gives_logits_for_images_of_any_size(name, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of some networks all logits are above 0
        module = architecture(name).build(shape, 7)
        logits = module(torch.rand(5, *shape))
    assert logits.shape == (5, 7)
    assert logits.min() < 0  # probabilities would not be


@pytest.mark.parametrize("name", ["maxout", "mlp", "rbf", "softmax", "svm"])
def test_some_take_features(name):
    assert architecture(name).build((13,), 2)(torch.rand(4, 13)).shape == (4, 2)


@pytest.mark.parametrize(
    "name", ["lenet", "papernot", "papernot_substitute", "wong_kolter", "mobilenet_v2", "squeezenet"]
)
def test_the_others_say_that_they_take_images(name):
    with pytest.raises(ModelError, match=r"images.*\(13,\)"):
        architecture(name).build((13,), 2)


def test_lenet_has_the_papers_size():
    assert sum(p.numel() for p in build((1, 28, 28), 10).parameters()) == 431_080


def test_tanh_before_the_pooling_gives_the_same():
    net = build((1, 28, 28), 10)
    assert isinstance(net, LeNet)
    x = torch.rand(3, 1, 28, 28)
    h = F.max_pool2d(torch.tanh(net.conv2(F.max_pool2d(torch.tanh(net.conv1(x)), 2))), 2)
    assert torch.allclose(net(x), net.output(torch.tanh(net.hidden(h.flatten(1)))), atol=1e-5)


def test_lenet_needs_some_pixels():
    with pytest.raises(ModelError, match="at least 4×4"):
        build((1, 3, 3), 10)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 3, 1), (9, 1, 1)])
def test_padding_is_tensorflows(side, kernel, stride):
    layer = Layer(1, 1, kernel, stride, 1, linear=True)
    x = torch.rand(1, 1, side, side)
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    padded = F.pad(x, [total // 2, total - total // 2] * 2)
    assert torch.allclose(layer(x), F.conv2d(padded, layer.weight, layer.bias, stride))


@provided
@pytest.mark.parametrize(
    ("file", "side", "background", "right"), [("mobilenet_v2_1.0_224", 224, 1, 47), ("squeezenet1_0", 227, 0, 37)]
)
def test_imagenet_photos(file, side, background, right):
    folder = Path(os.environ["SAPPER_DATA"]) / "imagenet"
    model = load_model(str(folder / f"{file}.safetensors"))
    assert model.input_shape == (3, side, side)
    start = (256 - side) // 2
    found = 0
    for path in sorted((folder / "photos").glob("*.jpg")):
        with Image.open(path) as image:
            photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            predicted = model.module(photo[:, :, start : start + side, start : start + side]).argmax(1)
        found += int(predicted) == int(path.name[:3]) + background
    assert found == right


def test_a_support_vector_machines_loss_by_hand():
    logits, labels = torch.tensor([[0.5, -2.0], [0.5, 0.5]]), torch.tensor([0, 1])
    # sides (1, -1): short by 0.5 and 0; sides (-1, 1): short by 1.5 and 0.5
    assert float(architecture("svm").loss(logits, labels)) == pytest.approx((0.25 + 2.25 + 0.25) / 2)


def test_a_support_vector_machine_is_scikit_learns_linear_one(tmp_path):
    digits = load_data("digits", split="train[:1000]")
    folder = train("svm", "digits", tmp_path / "svm", split="train[:1000]")
    theirs = LinearSVC(fit_intercept=True, max_iter=5000).fit(digits.x.flatten(1).numpy(), digits.y.numpy())
    test = load_data("digits")
    ours = load_model(str(folder)).module(test.x).argmax(1)
    assert (ours == torch.from_numpy(theirs.predict(test.x.flatten(1).numpy()))).float().mean() > 0.95


def test_the_substitute_has_the_papers_layers():
    shapes = [
        tuple(p.shape) for p in architecture("papernot_substitute").build((1, 28, 28), 10).parameters() if p.ndim > 1
    ]
    assert shapes == [(32, 1, 2, 2), (64, 32, 2, 2), (200, 64 * 6 * 6), (200, 200), (10, 200)]
