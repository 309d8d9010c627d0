import pytest
import torch
from torch import nn

from sapper.remedies import Remedies

X = torch.zeros(3, 2)


class Counting(nn.Module):
    """Answers 1, 2, 3 … times a fixed output."""

    def __init__(self, outputs: tuple[float, float] = (1.0, 3.0)) -> None:
        super().__init__()
        self.calls, self.outputs = 0, torch.tensor(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.calls * self.outputs.to(x.dtype).expand(len(x), 2)


def test_a_randomised_model_is_shown_as_the_mean_of_its_calls() -> None:
    model = Counting()
    shown = Remedies(calls=4).applied(model)(X)
    assert model.calls == 4
    assert torch.equal(shown, 2.5 * torch.tensor([[1.0, 3.0]] * 3))


def test_each_remedy_leaves_the_order_of_the_classes_as_it_is() -> None:
    probabilities = Counting((0.25, 0.75))
    assert Remedies(logarithm=True).applied(probabilities)(X)[0].tolist() == pytest.approx([-1.3863, -0.2877], abs=1e-4)
    assert Remedies(scale=4.0).applied(Counting())(X)[0].tolist() == [0.25, 0.75]
    assert Remedies(logarithm=True).applied(Counting((0.0, 1.0)))(X).isfinite().all()


def test_in_float64_it_is_a_copy_that_computes() -> None:
    model = nn.Linear(2, 2)
    shown = Remedies(double=True).applied(model)
    assert shown(X).dtype == torch.float32
    assert model.weight.dtype == torch.float32
    assert {weight.dtype for weight in shown.parameters()} == {torch.float64}


def test_without_remedies_it_is_the_model_itself() -> None:
    model = Counting()
    assert Remedies().applied(model) is model


def test_the_lead_is_two_standard_deviations() -> None:
    assert Remedies(noise=0.7).lead == pytest.approx(1.4)
