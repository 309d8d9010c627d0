"""What is done about a model that hides its gradients, before it is attacked: other outputs of the same decisions.

Each remedy leaves the model's predictions as they are, and only the attacks are shown it: what they find is judged by the
model itself, of a randomised one by the mean of as many calls.
"""

import copy

import msgspec
import torch
from torch import Tensor, nn

from sapper.learners import learner_of


class Remedies(msgspec.Struct, frozen=True):
    """As environment.json keeps them."""

    logarithm: bool = False
    """Outputs are probabilities: their logarithms are the logits that a softmax has flattened."""
    scale: float = 1.0
    """Logits are divided by it, a power of 2 so that no two become equal; below 1 where they are flat."""
    calls: int = 1
    """Outputs are the mean over so many calls: a randomised model's expectation."""
    noise: float = 0.0
    """The standard deviation of such a model's margins in one call, in logits as they are shown."""
    double: bool = False
    """Computed in float64, in which slopes survive that single precision rounds to nothing."""

    @property
    def lead(self) -> float:
        """By how much attacks go beyond the goal: what reaches it by two standard deviations does so in most calls."""
        return 2 * self.noise

    def shown(self, outputs: Tensor) -> Tensor:
        """Outputs of one call as the attacks are shown them."""
        if self.logarithm:
            outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
        return outputs / self.scale

    def applied(self, module: nn.Module) -> nn.Module:
        """The module as the attacks are shown it."""
        return module if self == Remedies() else Remedied(module, self).eval()


class Remedied(nn.Module):
    def __init__(self, module: nn.Module, remedies: Remedies) -> None:
        super().__init__()
        self.module, self.remedies = copy.deepcopy(module).double() if remedies.double else module, remedies
        self.learner = learner_of(module)  # which decides as before

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._once(x) for _ in range(self.remedies.calls)]
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)

    def _once(self, x: Tensor) -> Tensor:
        outputs = self.module(x.double()) if self.remedies.double else self.module(x)
        return self.remedies.shown(outputs).to(x.dtype)
