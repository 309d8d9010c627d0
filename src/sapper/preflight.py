"""What is checked before any attack: does the model answer like a classifier, and do the data fit it?

What makes every later number meaningless is an error; what may is a `Finding` with its evidence and remedy.
"""

from dataclasses import dataclass

import torch
from torch import nn

from sapper.data.dataset import Data
from sapper.errors import DataError, ModelError
from sapper.log import Finding
from sapper.oracle import TorchOracle, frozen
from sapper.tensors import Batch, Labels, Logits, Scalars
from sapper.threat import Threat

_ROWS = 64  # enough to see whether answers repeat
_SATURATED = 80  # a lead of logits whose exp(-lead) float32 just holds
_DEPEND_ON_MODE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Preflight:
    """The model's answers to the clean samples, and what the checks found."""

    logits: Logits
    predictions: Labels
    confidence: Scalars
    accuracy: float
    findings: list[Finding]


def inspect(module: nn.Module, data: Data, x: Batch, batch_size: int) -> Preflight:
    """Runs the checks.

    Args:
        module: As given by the user, in whatever mode.
        data: The labels and bounds.
        x: The samples as they will be attacked, on the model's device and in its type.
        batch_size: Rows at once.

    Raises:
        ModelError: The model fails on these inputs, or its answers are not finite logits.
        DataError: Labels that the model has no class for.
    """
    mode = _mode(module)
    with frozen(module):
        oracle = TorchOracle(module)
        logits = torch.cat([oracle.logits(part) for part in x.split(batch_size)])
        again = oracle.logits(x[:_ROWS])
        alone = torch.cat([oracle.logits(x[row : row + 1]) for row in range(min(4, len(x)))])
    _check_finite(logits)
    classes, top = logits.shape[1], int(data.y.max())
    if top >= classes:
        raise DataError(f"expected labels from 0 to {classes - 1}, the model has {classes} classes; got label {top}.")
    confidence, predictions = logits.softmax(1).amax(1), logits.argmax(1)  # softmax may tie where logits do not
    accuracy = float((predictions.cpu() == data.y).double().mean())
    findings = [
        mode,
        _repeats(logits[:_ROWS], again),
        _rows_apart(logits[: len(alone)], alone),
        _outputs(logits),
        _input_range(data),
        _accuracy(accuracy, classes, len(x)),
    ]
    return Preflight(logits, predictions, confidence, accuracy, findings)


def _check_finite(logits: Logits) -> None:
    bad = ~logits.isfinite().all(1)
    if bool(bad.any()):
        raise ModelError(
            f"the model answers with nan or infinity for {int(bad.sum())} of {len(bad)} clean samples, first for sample "
            f"{int(bad.nonzero()[0])}: check its weights and the input range it expects."
        )


def _mode(module: nn.Module) -> Finding:
    training = [part for part in module.modules() if part.training and isinstance(part, _DEPEND_ON_MODE)]
    if not training:
        return Finding("evaluation mode", "ok", "no layer was left in training mode", "")
    return Finding(
        "evaluation mode",
        "warning",
        f"{len(training)} dropout or batch-normalisation layers came in training mode; the audit switched them to evaluation",
        "call model.eval() before deployment: in training mode the model is another one",
    )


def _repeats(logits: Logits, again: Logits) -> Finding:
    change = float((logits[: len(again)] - again).abs().max())
    if change <= 1e-4 * (1 + float(logits.abs().max())):
        return Finding("randomised output", "ok", f"the same inputs gave the same outputs (within {change:.1g})", "")
    flipped = float((logits.argmax(1) != again.argmax(1)).double().mean())
    return Finding(
        "randomised output",
        "warning",
        f"a second pass moved the logits by up to {change:.3g} and changed {flipped:.1%} of the predictions",
        "robustness figures of a randomised model are too good unless the attack averages over its noise; judge with care",
    )


def _rows_apart(together: Logits, alone: Logits) -> Finding:
    change = float((together - alone).abs().max())
    if change <= 1e-3 * (1 + float(together.abs().max())):
        return Finding("rows are independent", "ok", "a sample alone gets the answer it gets in a batch", "")
    return Finding(
        "rows are independent",
        "warning",
        f"a sample alone gets other logits than in a batch, by up to {change:.3g}",
        "the model mixes the samples of a batch (or is randomised); attacks and figures depend on the batch then",
    )


def _outputs(logits: Logits) -> Finding:
    sums = logits.sum(1)
    if bool(((logits >= 0) & (logits <= 1)).all()) and bool((sums - 1).abs().max() < 1e-3):
        return Finding(
            "outputs are logits",
            "warning",
            "all outputs lie in [0, 1] and sum to 1: they look like probabilities",
            "return logits, without the softmax: it flattens the gradients that attacks follow, and hides weakness",
        )
    first, second = logits.topk(2, dim=1).values.unbind(1)
    saturated = float((first - second > _SATURATED).double().mean())
    if saturated > 0.01:
        return Finding(
            "outputs are logits",
            "warning",
            f"on {saturated:.1%} of the samples the largest logit leads by more than {_SATURATED}",
            "the gradient of cross-entropy underflows there and attacks by it fail: divide the logits by a number, which "
            "changes no prediction, or attack with loss=margin",
        )
    low, high = float(logits.min()), float(logits.max())
    return Finding("outputs are logits", "ok", f"outputs from {low:.3g} to {high:.3g}", "")


def _input_range(data: Data) -> Finding:
    low, high = float(data.x.min()), float(data.x.max())
    lower, upper = data.bounds
    seen = f"inputs from {low:.3g} to {high:.3g}, bounds {lower:g} to {upper:g}"
    if high - low >= 0.1 * (upper - lower):
        return Finding("input range", "ok", seen, "")
    return Finding(
        "input range", "warning", seen, "the data fill little of their bounds: is a budget in these units meant?"
    )


def _accuracy(accuracy: float, classes: int, samples: int) -> Finding:
    evidence = f"{accuracy:.1%} of {samples} clean samples are right"
    if accuracy > 2 / classes or accuracy >= 0.9:
        return Finding("clean accuracy", "ok", evidence, "")
    return Finding(
        "clean accuracy",
        "warning",
        f"{evidence}, where guessing gives {1 / classes:.1%}",
        "check the normalisation (--mean, --std), the input range and the order of the classes",
    )


def clean_inputs(data: Data, threat: Threat, module: nn.Module, device: torch.device) -> Batch:
    """The samples as they are attacked: on the device, in the model's float type, rounded if the threat asks."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return threat.rounded(data.x.to(device, dtype))
