from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.errors import DataError, ModelError
from sapper.log import Finding
from sapper.preflight import Preflight, clean_inputs, inspect
from sapper.threat import Threat

CLASSES, SIDE = 4, 3
CHECKS = [
    "evaluation mode",
    "randomised output",
    "rows are independent",
    "outputs are logits",
    "gradients",
    "input range",
    "clean accuracy",
]


class Wrapped(nn.Module):
    """A sound network, and what somebody did to its inputs and answers."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda z: z, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.change = before or nn.Identity(), change
        self.linear = nn.Linear(SIDE * SIDE, CLASSES)
        self.linear.weight.data.copy_(torch.randn(CLASSES, SIDE * SIDE, generator=torch.Generator().manual_seed(0)))
        self.linear.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.linear(self.before(x).flatten(1)))


def data(rows: int = 80) -> Data:
    """Labels are what the sound network says."""
    x = torch.rand(rows, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return Data("things", x, Wrapped()(x).argmax(1), tuple(map(str, range(CLASSES))))


def looked_at(module: nn.Module, samples: Data | None = None) -> Preflight:
    samples = samples or data()
    return inspect(module.eval(), samples, samples.x, 32)


def warned(module: nn.Module, samples: Data | None = None) -> dict[str, Finding]:
    findings = looked_at(module, samples).findings
    assert [finding.check for finding in findings] == CHECKS
    assert all(finding.remedy for finding in findings if finding.verdict != "ok")
    return {finding.check: finding for finding in findings if finding.verdict != "ok"}


def test_a_sound_model_is_all_in_order_and_its_answers_are_kept() -> None:
    samples, module = data(), Wrapped()
    before = looked_at(module, samples)
    assert {finding.verdict for finding in before.findings} == {"ok"}
    with torch.no_grad():
        expected = module(samples.x)
    torch.testing.assert_close(before.logits, expected)
    assert before.accuracy == 1
    assert before.predictions.equal(samples.y)
    torch.testing.assert_close(before.confidence, expected.softmax(1).amax(1))


def test_noise_in_the_model_is_reported_with_its_size() -> None:
    noise = torch.Generator().manual_seed(2)
    found = warned(Wrapped(lambda z: z + 0.5 * torch.randn(z.shape, generator=noise)))
    assert {name for name, finding in found.items() if finding.verdict == "warning"} == {"randomised output"}
    assert "% of the predictions" in found["randomised output"].evidence


def test_probabilities_are_not_logits() -> None:
    assert set(warned(Wrapped(lambda z: z.softmax(1)))) == {"outputs are logits"}


def test_outputs_between_0_and_1_that_are_no_distribution_are_flat_logits() -> None:
    found = warned(Wrapped(lambda z: z.sigmoid()))
    assert set(found) == {"outputs are logits"}
    assert "leads by less than" in found["outputs are logits"].evidence


def test_saturated_logits_are_reported() -> None:
    assert set(warned(Wrapped(lambda z: 1e4 * z))) == {"outputs are logits"}


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(), nn.BatchNorm2d(1)])
def test_layers_left_in_training_mode_are_named_and_do_not_act(layer: nn.Module) -> None:
    module, samples = Wrapped(before=layer).eval(), data()
    layer.train()
    findings = {finding.check: finding for finding in inspect(module, samples, samples.x, 32).findings}
    assert findings["evaluation mode"].verdict == "warning"
    assert findings["randomised output"].verdict == "ok"
    assert findings["rows are independent"].verdict == "ok"


def test_dropout_that_evaluation_switches_off_is_in_order() -> None:
    assert warned(Wrapped(before=nn.Dropout())) == {}


def test_a_model_that_mixes_the_rows_of_a_batch_is_reported() -> None:
    assert set(warned(Wrapped(lambda z: z - z.mean(0)))) >= {"rows are independent"}


def test_a_constant_model_is_at_chance() -> None:
    found = warned(Wrapped(lambda z: 0 * z + 9 * torch.arange(4.0)))
    assert set(found) == {"clean accuracy", "gradients"}
    assert "zero at 64 of 64" in found["gradients"].evidence
    assert "guessing gives 25.0%" in found["clean accuracy"].evidence


def test_data_that_fill_little_of_their_bounds_are_reported() -> None:
    found = warned(Wrapped(), replace(data(), bounds=(0.0, 255.0)))
    assert set(found) == {"input range"}
    assert "bounds 0 to 255" in found["input range"].evidence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_stop_the_audit(value: float) -> None:
    with pytest.raises(ModelError, match=r"nan or infinity for 1 of 80 clean samples, first for sample 7"):
        looked_at(_SpoiltAt(data().x[7], value))


class _SpoiltAt(nn.Module):
    def __init__(self, x: Tensor, value: float) -> None:
        super().__init__()
        self.x, self.value, self.sound = x, value, Wrapped()

    def forward(self, x: Tensor) -> Tensor:
        here = (x == self.x).flatten(1).all(1)
        return torch.where(here[:, None], self.value, self.sound(x))


def test_what_the_model_raises_is_told_with_the_shape_it_was_given() -> None:
    def broken(z: Tensor) -> Tensor:
        raise ValueError("no such layer\nand a second line")

    with pytest.raises(ModelError, match=r"shape \(rows, 1, 3, 3\).*\(ValueError: no such layer\)"):
        looked_at(Wrapped(broken))


def test_a_label_without_a_class_stops_the_audit() -> None:
    samples = data()
    samples.y[3] = CLASSES
    with pytest.raises(DataError, match=r"labels from 0 to 3, .* got label 4"):
        looked_at(Wrapped(), samples)


def test_the_model_is_left_as_it_came() -> None:
    module = Wrapped(before=nn.Dropout()).train()
    module.linear.bias.requires_grad_(False)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    samples = data()
    inspect(module, samples, samples.x, 32)
    assert all(part.training for part in module.modules())
    assert (module.linear.weight.requires_grad, module.linear.bias.requires_grad) == (True, False)
    assert all(value.equal(weights[name]) for name, value in module.state_dict().items())


def test_inputs_take_the_type_of_the_model_and_the_grid_of_the_threat() -> None:
    module, samples = Wrapped().double(), data()
    cpu = torch.device("cpu")
    plain = clean_inputs(samples, Threat.parse("linf:0.1"), module, cpu)
    assert plain.dtype == torch.float64
    torch.testing.assert_close(plain, samples.x.double(), rtol=0, atol=0)
    grid = clean_inputs(samples, Threat.parse("linf:0.1", quantize=2), module, cpu) * 3
    torch.testing.assert_close(grid, grid.round())
    assert clean_inputs(samples, Threat.parse("linf:0.1"), nn.Flatten(), cpu).dtype == torch.float32


def test_a_few_saturated_logits_are_divided_and_none_is_magnified() -> None:
    samples = data(200)
    samples = replace(samples, x=torch.cat([samples.x[:10] * 100, samples.x[10:] * 0.01]), bounds=(0.0, 100.0))
    samples = replace(samples, y=Wrapped()(samples.x).argmax(1))
    remedies = inspect(Wrapped(), samples, samples.x, 32, heal=True).remedies
    assert remedies.scale > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_saturated_logits_in_half_precision_are_seen(dtype: torch.dtype) -> None:
    samples = data()
    module = Wrapped(lambda z: 300 * z).to(dtype)
    findings = {f.check: f for f in inspect(module, samples, samples.x.to(dtype), 32).findings}
    assert findings["outputs are logits"].verdict == "warning"


def test_a_model_that_mixes_rows_is_not_called_random() -> None:
    samples = data(300)
    module = Wrapped(lambda z: z - 0.5 * z.mean(0))
    findings = {f.check: f for f in inspect(module, samples, samples.x, 128).findings}
    assert findings["randomised output"].verdict == "ok"
    assert findings["rows are independent"].verdict == "warning"
