"""What counts as success: the four adversarial goals of Papernot et al. (2016), section II.

A `Goal` holds one row a case and answers whether it is reached; its losses fall as the attacker gets nearer, whatever
the goal, so no attack asks whether it is targeted. A `GoalSpec` is how a user writes one for a whole data set:

    misclassification        any class but the label
    confidence:0.5           the label's probability below 0.5 (or another class)
    targeted:3               class 3; also targeted:every, targeted:random, targeted:least-likely
    source-target:2->8       samples of class 2 into class 8; also source-target:2->every
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from decimal import Decimal

import torch
from torch import Tensor
from torch.nn import functional

from sapper import noise
from sapper.errors import UsageError
from sapper.tensors import ClassFlags, Counts, Labels, LabelSets, Logits, Mask, Scalars, nonzero

KINDS = ("confidence reduction", "misclassification", "targeted misclassification", "source/target misclassification")


@dataclass(frozen=True)
class Goal(ABC):
    """One adversarial goal a row."""

    label: Labels
    confidence: float = field(default=0.0, kw_only=True)
    """By how much, in logits, the class must be as wanted; the margin counts from there."""

    @abstractmethod
    def reached(self, predicted: Labels, logits: Logits | None = None) -> Mask:
        """Whether the model's answer is what the attacker wants; only a confidence needs the logits."""

    @abstractmethod
    def cross_entropy(self, logits: Logits) -> Scalars: ...

    @abstractmethod
    def margin(self, logits: Logits) -> Scalars:
        """Difference of two logits, negative once the class is as wanted."""

    @abstractmethod
    def dlr(self, logits: Logits) -> Scalars:
        """Difference of logits ratio (Croce and Hein 2020, Eq. 6 and 7): the margin in units of the logits' own spread, so
        that it does not depend on how sure the model is. With too few classes for that it is the margin: two, or three where
        a class is aimed at, which may itself be the last.
        """

    @abstractmethod
    def directions(self, logits: Logits) -> tuple[Logits, Logits]:
        """Which outputs are to rise and which to fall, as cotangents."""

    @abstractmethod
    def rival(self, logits: Logits, rank: int) -> Labels:
        """The class through which an attack may seek the goal: the likeliest wrong one, the second likeliest …, or the one
        that the goal names.
        """

    @abstractmethod
    def rivals(self, logits: Logits, most: int) -> LabelSets:
        """The classes through which an attack may seek the goal, at most so many, likeliest first: see `rival`."""

    @abstractmethod
    def through(self, rival: Labels) -> "Goal":
        """The same, sought through one of its rivals alone."""

    @abstractmethod
    def lead(self, logits: Logits, rival: Labels) -> Logits:
        """The difference of two logits that must fall below 0 for this rival, as a cotangent."""

    @abstractmethod
    def wanted(self, classes: int) -> ClassFlags:
        """Which of so many classes the goal wants."""

    def targets(self) -> Labels | None:
        """The classes aimed at, if the goal names any."""
        return None

    def surer(self, confidence: float) -> "Goal":
        """The same goal, reached only with this confidence: for samples that shall fool other models too."""
        return replace(self, confidence=confidence) if confidence else self

    def _confident(self, wanted: Mask, logits: Logits | None) -> Mask:
        if self.confidence == 0:
            return wanted
        if logits is None:
            raise UsageError("this goal needs a model that answers with scores, this one gives labels only.")
        return self.margin(logits) < 0

    def cotangent(self, loss: str, logits: Logits) -> Logits:
        """The gradient of each row's own loss by its logits: what to pull back to the input.

        Adding a number to all logits changes no loss, so a row sums to 0. The largest logit's entry is taken from that:
        where the model is sure, its softmax rounds to 1, and the entry to a 0 that would turn the whole gradient.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value: Scalars = getattr(self, loss)(leaf)
            (cotangent,) = torch.autograd.grad(value.sum(), leaf)
        top = logits.argmax(1, keepdim=True)
        return cotangent.scatter(1, top, -cotangent.scatter(1, top, 0).sum(1, keepdim=True))


@dataclass(frozen=True)
class Untargeted(Goal):
    """Any class but the label (misclassification), or the label's probability below a threshold (confidence reduction)."""

    threshold: float = 0.0
    top: int = 1
    """The label must not be among so many largest logits: 5 for top-5 accuracy."""

    def reached(self, predicted: Labels, logits: Logits | None = None) -> Mask:
        wrong = self._confident(predicted != self.label, logits)
        if self.threshold == 0 and self.top == 1:
            return wrong
        if logits is None:
            raise UsageError("this goal needs a model that answers with scores, this one gives labels only.")
        if self.top > 1:
            wrong = self.margin(logits) < 0
        return wrong | (_of(logits.softmax(1), self.label) < self.threshold)

    def cross_entropy(self, logits: Logits) -> Scalars:
        return -functional.cross_entropy(logits, self.label, reduction="none")

    def margin(self, logits: Logits) -> Scalars:
        return _of(logits, self.label) - _best_other(logits, self.label, self.top) + self.confidence

    def dlr(self, logits: Logits) -> Scalars:
        return self.margin(logits) / _spread(logits, 3, 3)

    def rival(self, logits: Logits, rank: int) -> Labels:
        others = logits.scatter(1, self.label[:, None], -torch.inf)
        return others.topk(min(rank, logits.shape[1] - 1), dim=1).indices[:, -1]

    def rivals(self, logits: Logits, most: int) -> LabelSets:
        others = logits.scatter(1, self.label[:, None], -torch.inf)
        last = min(self.top - 1 + most, logits.shape[1] - 1)
        return others.topk(last, dim=1).indices[:, self.top - 1 :]

    def through(self, rival: Labels) -> Goal:
        return Targeted(self.label, rival, is_means=True, confidence=self.confidence)

    def lead(self, logits: Logits, rival: Labels) -> Logits:
        return _difference(logits, self.label, rival)

    def wanted(self, classes: int) -> ClassFlags:
        return torch.arange(classes, device=self.label.device) != self.label[:, None]

    def directions(self, logits: Logits) -> tuple[Logits, Logits]:
        label = functional.one_hot(self.label, logits.shape[1]).to(logits.dtype)
        return 1 - label, label


@dataclass(frozen=True)
class Targeted(Goal):
    """One given class a row, for samples of every class or of one source class."""

    target: Labels
    is_means: bool = field(default=False, kw_only=True)
    """Only a way away from the label: the logits' ratio compares the target with the label alone (Eq. 7)."""

    def reached(self, predicted: Labels, logits: Logits | None = None) -> Mask:
        return self._confident(predicted == self.target, logits)

    def cross_entropy(self, logits: Logits) -> Scalars:
        return functional.cross_entropy(logits, self.target, reduction="none")

    def margin(self, logits: Logits) -> Scalars:
        return _best_other(logits, self.target) - _of(logits, self.target) + self.confidence

    def dlr(self, logits: Logits) -> Scalars:
        ahead = _of(logits, self.label) - _of(logits, self.target) if self.is_means else self.margin(logits)
        return ahead / (_spread(logits, 3, 4) if logits.shape[1] > 3 else 1.0)

    def rival(self, logits: Logits, rank: int) -> Labels:
        return self.target

    def rivals(self, logits: Logits, most: int) -> LabelSets:
        return self.target[:, None]

    def through(self, rival: Labels) -> Goal:
        return self

    def lead(self, logits: Logits, rival: Labels) -> Logits:
        return _difference(logits, logits.scatter(1, rival[:, None], -torch.inf).argmax(1), rival)

    def wanted(self, classes: int) -> ClassFlags:
        return torch.arange(classes, device=self.target.device) == self.target[:, None]

    def directions(self, logits: Logits) -> tuple[Logits, Logits]:
        target = functional.one_hot(self.target, logits.shape[1]).to(logits.dtype)
        return target, 1 - target

    def targets(self) -> Labels:
        return self.target


@dataclass(frozen=True)
class GoalSpec:
    """A goal as a user writes it; `cases` says what it is for each sample."""

    kind: str
    choice: str = ""
    """every, random, least-likely or a class number, for the targeted kinds."""
    source: int | None = None
    threshold: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "GoalSpec":
        """Reads `misclassification`, `confidence:0.5`, `targeted:every`, `source-target:2->8`.

        Raises:
            UsageError: Not one of these forms.
        """
        text = text.strip().lower()
        if text == "misclassification":
            return cls(KINDS[1])
        if found := re.fullmatch(r"confidence:(0?\.\d*[1-9]\d*)", text):
            return cls(KINDS[0], threshold=float(found[1]))
        if found := re.fullmatch(r"targeted(?::(every|random|least-likely|\d+))?", text):
            return cls(KINDS[2], found[1] or "every")
        if found := re.fullmatch(r"source-target:(\d+)->(every|\d+)", text):
            if found[1] == found[2]:
                raise UsageError(f"expected a target other than the source class, got '{text}'.")
            return cls(KINDS[3], found[2], int(found[1]))
        raise UsageError(
            f"expected a goal like misclassification, confidence:0.5 (between 0 and 1), targeted:every, targeted:random, "
            f"targeted:least-likely, targeted:3, source-target:2->8 or source-target:2->every, got '{text}'."
        )

    def __str__(self) -> str:
        match self.kind:
            case "confidence reduction":
                return f"confidence:{Decimal(str(self.threshold)):f}"
            case "misclassification":
                return "misclassification"
            case "targeted misclassification":
                return f"targeted:{self.choice}"
            case _:
                return f"source-target:{self.source}->{self.choice}"

    def cases(self, label: Labels, logits: Logits, key: Counts) -> tuple[Tensor, Goal]:
        """The rows to attack and their goals, in the order of the samples, then of the targets.

        Args:
            label: True classes.
            logits: The model's answer to the clean samples.
            key: The samples' random keys, for `random`.

        Raises:
            UsageError: A class that the model does not have.
        """
        self._check(logits.shape[1])
        everyone = torch.arange(len(label), device=label.device)
        if not self.choice:
            return everyone, Untargeted(label, self.threshold)
        rows = everyone if self.source is None else everyone[label == self.source]
        if self.choice == "every":
            classes = torch.arange(logits.shape[1], device=label.device)
            sample, target = rows.repeat_interleave(len(classes)), classes.repeat(len(rows))
            keep = target != label[sample]
            return sample[keep], Targeted(label[sample][keep], target[keep])
        return _one_target(self.choice, rows, label, logits, key)

    def _check(self, classes: int) -> None:
        for number in (self.choice, self.source):
            if str(number).isdigit() and int(str(number)) >= classes:
                raise UsageError(f"the goal {self} names class {number}, the model has classes 0 to {classes - 1}.")


def _one_target(choice: str, rows: Tensor, label: Labels, logits: Logits, key: Counts) -> tuple[Tensor, Goal]:
    classes, truth = logits.shape[1], label[rows]
    if choice == "least-likely":  # of the clean input, and never the label itself
        target = logits[rows].scatter(1, truth[:, None], torch.inf).argmin(1)
    elif choice == "random":
        step = noise.uniform(key[rows], torch.zeros_like(truth), 1, torch.float64, stream=7)[:, 0]
        target = (truth + 1 + (step * (classes - 1)).long()) % classes
    else:
        rows = rows[truth != int(choice)]
        target = torch.full_like(label[rows], int(choice))
    return rows, Targeted(label[rows], target)


def _spread(logits: Logits, first: int, last: int) -> Scalars | float:
    """From the largest logit to the mean of those of these ranks, as a divisor."""
    if logits.shape[1] < first:
        return 1.0
    top = logits.topk(min(last, logits.shape[1]), dim=1).values
    return nonzero(top[:, 0] - top[:, first - 1 :].mean(1))


def _of(logits: Logits, index: Labels) -> Scalars:
    return logits.gather(1, index[:, None])[:, 0]


def _difference(logits: Logits, first: Labels, second: Labels) -> Logits:
    """The cotangent of the first logit less the second."""
    return torch.zeros_like(logits).scatter(1, first[:, None], 1.0).scatter(1, second[:, None], -1.0)


def _best_other(logits: Logits, index: Labels, rank: int = 1) -> Scalars:
    """The largest logit, or the one of that rank, among those of the other classes."""
    others = logits.scatter(1, index[:, None], -torch.inf)
    return others.amax(1) if rank == 1 else others.topk(rank, dim=1).values[:, -1]
