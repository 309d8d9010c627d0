"""The attacker's only door to the model, and the ledger kept at it.

The type of the `oracle` in an attack's signature declares the access it needs, which is the second axis of the
threat-model taxonomy (Papernot et al. 2016, section II): labels, scores, or gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sapper.errors import ModelError, SapperError
from sapper.foreign import Access, access, may_be_silent
from sapper.learners import KINDS, KnownLearner, learner_of
from sapper.tensors import Batch, Labels, Logits, Mask, Scalars

_OF_SHAPES = (RuntimeError, ValueError, IndexError, TypeError)
"""What a model raises on inputs of another shape than it was made for."""
Kind = TypeVar("Kind", bound=KnownLearner, covariant=True)


@runtime_checkable
class LabelOracle(Protocol):
    """Answers with classes only."""

    def labels(self, x: Batch) -> Labels: ...


@runtime_checkable
class ScoreOracle(LabelOracle, Protocol):
    """Answers with a score for every class."""

    def logits(self, x: Batch) -> Logits: ...


@runtime_checkable
class GradientOracle(ScoreOracle, Protocol):
    """White box: scores, and their derivative by the input."""

    def vjp(self, x: Batch) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The logits, and `pull`: a cotangent of the logits to the gradient by the input.

        `pull` may be called again; each call is one backward pass.
        """
        ...


@runtime_checkable
class LearnerOracle(LabelOracle, Protocol[Kind]):
    """Answers with classes, and shows what the model is made of: `LearnerOracle[Tree]` is the door to a decision tree."""

    def learner(self) -> Kind: ...


class TorchOracle:
    """A door to a module, whose weights need no gradients here (`frozen`); a white box unless the module gives less."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.access: Access = access(module)
        self.may_be_silent = may_be_silent(module)

    def labels(self, x: Batch) -> Labels:
        return self.logits(x).argmax(1)

    def logits(self, x: Batch) -> Logits:
        with torch.no_grad():
            return self._ask(_padded(x) if self.access == "gradients" else x.clone())[: len(x)]

    def vjp(self, x: Batch) -> tuple[Logits, Callable[[Logits], Batch]]:
        if self.access != "gradients":
            raise ModelError(
                f"the model answers with {self.access} only and has no gradients: use an attack that needs no more."
            )
        with torch.enable_grad():
            leaf = _padded(x.detach()).requires_grad_()
            logits = self._ask(leaf.clone())[: len(x)]
        if not logits.requires_grad:
            raise ModelError(
                "the model's output does not depend on its input in a way that can be differentiated (detached, rounded "
                "or computed outside torch): a gradient attack cannot see it; use one that needs scores or labels only."
            )
        return logits.detach(), partial(_pull, logits, leaf, len(x))

    def learner(self) -> KnownLearner:
        if (found := learner_of(self.module)) is None:
            raise ModelError(
                f"expected a model that is {KINDS}, and not behind a preprocessing: its parts are not known."
            )
        return found

    def _ask(self, x: Batch) -> Logits:
        """The module's answer; what the user's own code raises becomes an error that says on what."""
        try:
            return _answer(self.module(x), len(x))
        except (SapperError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            shape = ", ".join(map(str, x.shape[1:]))
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            advice = ": give data of its shape, or --resize HEIGHT WIDTH." if isinstance(error, _OF_SHAPES) else "."
            raise ModelError(
                f"expected a model that answers inputs of shape (rows, {shape}), this one fails on them "
                f"({type(error).__name__}: {reason}){advice}"
            ) from error


def access_of(oracle: LabelOracle) -> Access:
    """What the model behind a door gives."""
    return oracle.access if isinstance(oracle, TorchOracle) else "gradients"


def silent(oracle: LabelOracle, logits: Logits) -> Mask:
    """Rows that got no answer, and will get none in this run."""
    if isinstance(oracle, TorchOracle) and oracle.may_be_silent:
        return logits.isnan().all(1)
    return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def confidence(logits: Logits, given: Access) -> Scalars:
    """The probability of the predicted class; nan where the model gives labels only."""
    likeliest = logits.softmax(1).amax(1)
    return torch.full_like(likeliest, torch.nan) if given == "labels" else likeliest


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode and without gradients for its weights; as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(weight, weight.requires_grad) for weight in module.parameters()]
    try:
        module.eval()
        for weight, _ in wanted:
            weight.requires_grad_(False)
        yield module
    finally:
        for weight, requires_grad in wanted:
            weight.requires_grad_(requires_grad)
        for part, mode in modes:
            part.training = mode


def _pull(logits: Tensor, leaf: Tensor, rows: int, cotangent: Logits) -> Batch:
    (gradient,) = torch.autograd.grad(logits, leaf, cotangent, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf[:rows]) if gradient is None else gradient[:rows]


def _padded(x: Batch) -> Tensor:
    """A copy, which a model may change in place, with some rows twice, so that batches have one of a few sizes.

    A batch that shrinks row by row would have kernels prepared anew at every step. At most a sixteenth is added.
    """
    granule = 1 << max(0, (len(x) - 1).bit_length() - 5)
    return torch.cat([x, x[: -len(x) % granule]])


def _answer(answer: object, rows: int) -> Logits:
    """Checks that a model answers like a classifier.

    Raises:
        ModelError: It does not.
    """
    if not isinstance(answer, Tensor):
        what = f"a {type(answer).__name__}"
        raise ModelError(
            f"expected the model to return one tensor of logits, rows x classes, got {what}: wrap it in a module that "
            "returns the logits alone."
        )
    if answer.ndim != 2 or answer.shape[0] != rows or answer.shape[1] < 2:
        raise ModelError(
            f"expected logits of shape ({rows}, classes) with at least 2 classes, got {tuple(answer.shape)}"
            + (
                ": for a yes/no model return two columns, (-score/2, score/2)."
                if answer.shape[1:] in ((), (1,))
                else "."
            )
        )
    if not answer.is_floating_point():
        raise ModelError(f"expected logits in floating point, got {answer.dtype}.")
    return answer
