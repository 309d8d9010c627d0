"""Models that are no torch networks: answers made elsewhere, as a module without gradients.

A new door to models is a function `ask` from an array of inputs, rows first, to an array of answers:

    Foreign(ask, "scores")                         floats (rows, classes), the greatest is the prediction
    Foreign(ask, "scores", probabilities=True)     the same, each row a distribution
    Foreign(ask, "labels", classes=10)             whole numbers (rows,), from 0 up

With `may_be_silent` a row may go without an answer, as when a budget is spent: scores of nan, a label of -1. Its logits are
nan, and the ledger lets its case end with what it has.

A loader in `sapper.models` puts it into a `Network`, and `load_model` learns when to call the loader. All else asks what a
module gives by `access`: which attacks may run, what the checks and the doctor look for, whether there are confidences.
Such a module is asked by one worker, for exactly the rows that count. What it is made of, if known, is its `learner`.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sapper.errors import ModelError, UsageError
from sapper.learners import KnownLearner

Access = Literal["labels", "scores", "gradients"]
LEVELS: tuple[Access, ...] = get_args(Access)
"""From least to most."""

Ask = Callable[[np.ndarray], np.ndarray]


class Foreign(nn.Module):
    """Answers with logits, for which it has no gradient.

    Scores are logits as they are, and probabilities become their logarithms; where only labels are known the logits are 1
    for the label and 0 for the others.
    """

    def __init__(
        self,
        ask: Ask,
        access: Literal["labels", "scores"],
        classes: int | None = None,
        *,
        probabilities: bool = False,
        learner: KnownLearner | None = None,
        may_be_silent: bool = False,
    ) -> None:
        """Args:
        ask: Given inputs in float32 or float64, in the data's shape.
        access: What it answers with.
        classes: How many there are; needed for labels, and with scores a promise that every answer must keep.
        probabilities: The scores of a row lie in [0, 1] and sum to 1.
        learner: What it is made of, where that is known.
        may_be_silent: Not every row need have an answer.
        """
        super().__init__()
        if access not in LEVELS[:2]:
            raise UsageError(f"expected an access of labels or scores, got {access!r}.")
        if (access == "labels" and classes is None) or (classes is not None and classes < 2):
            raise UsageError(
                f"expected the number of classes, 2 or more, for a model that gives {access}, got {classes}."
            )
        self.access: Access = access
        self.ask, self.classes, self.probabilities = ask, classes, probabilities
        self.learner, self.may_be_silent = learner, may_be_silent

    def forward(self, x: Tensor) -> Tensor:
        wide = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
        answer = np.asarray(self.ask(wide.cpu().numpy().copy()))  # who is asked may change what he is given
        scores, predicted = self._labels(answer, len(x)) if self.access == "labels" else self._scores(answer, len(x))
        logits = torch.tensor(scores, dtype=x.dtype, device=x.device)
        return _decided(logits, torch.tensor(predicted, device=x.device))

    def _labels(self, answer: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """A 1 for each label."""
        classes = self.classes or 0
        if answer.shape != (rows,) or answer.dtype.kind not in "iu":
            raise ModelError(
                f"expected labels as whole numbers of shape ({rows},), got {answer.dtype} of shape {answer.shape}."
            )
        silent = answer == -1 if self.may_be_silent else np.zeros(rows, bool)
        answer = np.where(silent, 0, answer)
        if rows and not 0 <= int(answer.min()) <= int(answer.max()) < classes:
            raise ModelError(
                f"expected labels from 0 to {classes - 1}, as the model has {classes} classes, got {int(answer.min())} to "
                f"{int(answer.max())}."
            )
        predicted = answer.astype(np.int64)
        scores = np.eye(classes)[predicted]
        scores[silent] = np.nan
        return scores, predicted

    def _scores(self, answer: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the prediction before they are rounded."""
        fits = answer.ndim == 2 and len(answer) == rows and answer.shape[1] == (self.classes or max(2, answer.shape[1]))
        if not fits or answer.dtype.kind != "f":
            raise ModelError(
                f"expected scores in floating point of shape ({rows}, {self.classes or 'classes'}), got {answer.dtype} of "
                f"shape {answer.shape}."
            )
        predicted, answer = answer.argmax(1), answer.astype(np.promote_types(answer.dtype, np.float32), order="C")
        return np.log(np.maximum(answer, np.finfo(answer.dtype).tiny)) if self.probabilities else answer, predicted


def access(module: nn.Module) -> Access:
    """What a module gives, itself or what it wraps: the least that any part of it does; a torch network gives gradients."""
    given = {part.access for part in module.modules() if isinstance(part, Foreign)}
    return next(level for level in LEVELS if level in given or level == "gradients")


def may_be_silent(module: nn.Module) -> bool:
    """Whether a row of nan means that there was no answer to be had, and not that the model is broken."""
    return any(part.may_be_silent for part in module.modules() if isinstance(part, Foreign))


def _decided(logits: Tensor, predicted: Tensor) -> Tensor:
    """The logits with the predicted class ahead, also where a narrower type has made two of them equal."""
    rows = (logits.argmax(1) != predicted).nonzero()[:, 0]
    if len(rows):
        most = logits[rows].amax(1)
        logits[rows, predicted[rows]] = torch.nextafter(most, torch.full_like(most, torch.inf))
    return logits
