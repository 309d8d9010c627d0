"""What is checked before any attack: does the model answer like a classifier, and do the data fit it?

What makes every later number meaningless is an error; what may is a `Finding` with its evidence and remedy.
"""

import math
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from sapper.data.dataset import Data
from sapper.errors import DataError, ModelError, RunError
from sapper.foreign import LEVELS, Access, access
from sapper.goal import Untargeted
from sapper.gradients import check_gradients, lost
from sapper.learners import KnownLearner, learner_of
from sapper.log import Finding
from sapper.models.model import preprocessed
from sapper.models.remote import asked_again, endpoint_of
from sapper.oracle import TorchOracle, confidence, frozen
from sapper.remedies import Remedies
from sapper.tensors import Batch, Labels, Logits, Scalars
from sapper.threat import Threat

_ROWS = 64  # enough to see whether answers repeat
_ASKED_AGAIN = 4  # by an endpoint, whose answers else come from its ledger
_LOOKED_AT = 128  # samples on which other normalisations are tried
_CHANCE = 8  # samples that another normalisation puts right, as few would by luck
_SATURATED = 80  # a lead of logits whose exp(-lead) float32 just holds
_FLAT = 2  # a lead with which even the surest samples have probabilities below 0.9
_USUAL = 10  # what a remedy makes of it
CALLS = 8
"""Of a randomised model, averaged into one answer."""
_DEPEND_ON_MODE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Preflight:
    """The model's answers to the clean samples, and what the checks found."""

    logits: Logits
    predictions: Labels
    confidence: Scalars
    """Nan where the model gives labels only."""
    accuracy: float
    findings: list[Finding]
    remedies: Remedies


def inspect(
    module: nn.Module,
    data: Data,
    x: Batch,
    batch_size: int,
    *,
    heal: bool = False,
    averaged: bool = False,
    frugal: bool = False,
) -> Preflight:
    """Runs the checks.

    Args:
        module: As given by the user, in whatever mode.
        data: The labels and bounds.
        x: The samples as they will be attacked, on the model's device and in its type.
        batch_size: Rows at once.
        frugal: Nothing is asked but each sample, once; what that does not tell is not looked at.
        heal: Remedies will be applied to what the attacks are shown; else the findings say what could be done.
        averaged: So will be, to a randomised model, the mean of several calls.

    Raises:
        ModelError: The model fails on these inputs, or its answers are not finite logits.
        DataError: Labels that the model has no class for.
        RunError: An endpoint's budget is spent before there is an attack.
    """
    mode, given = _mode(module), access(module)
    endpoint = endpoint_of(module)
    averaged = averaged and endpoint is None  # a ledger repeats its answers, whatever the number of calls
    logits, once, again, alone = _answers(module, x, batch_size, frugal=frugal)
    if endpoint is not None and endpoint.is_spent:
        raise RunError(
            f"the budget of {endpoint.terms.budget} rows is spent before an attack could begin: {len(x)} clean samples and "
            f"{len(again)} second answers come first. Give a larger --budget or a smaller --limit; what was answered is kept."
        )
    _check_finite(logits)
    repeats = _repeats(once, again, averaged=averaged)
    if endpoint is not None and repeats.verdict != "ok":
        repeats = _another(repeats, str(endpoint.store.path), len(again))
    outputs, remedies = _outputs(logits, given, heal=heal)
    is_random = repeats.verdict != "ok"
    rows_apart = _rows_apart(logits[: len(alone)], alone, is_random=is_random)
    if averaged and is_random:
        noise = 0.0 if given == "labels" else _noise(remedies.shown(once), remedies.shown(again))
        remedies = msgspec.structs.replace(remedies, calls=CALLS, noise=noise)
    classes, top = logits.shape[1], int(data.y.max())
    if top >= classes:
        raise DataError(f"expected labels from 0 to {classes - 1}, the model has {classes} classes; got label {top}.")
    predictions = logits.argmax(1)  # not of the softmax, which may tie where logits do not
    accuracy = float((predictions.cpu() == data.y).double().mean())
    with frozen(module):
        if frugal:
            gradients = None
        elif given == "gradients":
            gradients, remedies = _gradients(module, x[:_ROWS], data.bounds, remedies, heal=heal, is_random=is_random)
        else:
            gradients = _promised(given, learner_of(module))
        better = None if is_random or frugal or endpoint else _better(module, data, x)  # five questions a sample
    found = [
        mode,
        None if frugal else repeats,
        None if frugal else rows_apart,
        *outputs,
        gradients,
        _input_range(data),
        _accuracy(accuracy, classes, float(data.y.bincount().max()) / len(x), len(x), better),
    ]
    findings = [finding for finding in found if finding]
    return Preflight(logits, predictions, confidence(logits, given), accuracy, findings, remedies)


def _answers(module: nn.Module, x: Batch, batch_size: int, *, frugal: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The answers to all samples; to the first of them alone, twice; and to a few, each by itself."""
    with frozen(module):
        oracle = TorchOracle(module)
        logits = torch.cat([oracle.logits(part) for part in x.split(batch_size)])
        if frugal:
            return logits, logits[:_ROWS], logits[:_ROWS], logits[:4]
        if endpoint_of(module) is None:
            once, again = oracle.logits(x[:_ROWS]), oracle.logits(x[:_ROWS])
            return logits, once, again, torch.cat([oracle.logits(x[row : row + 1]) for row in range(min(4, len(x)))])
        with asked_again(module):
            again = oracle.logits(x[:_ASKED_AGAIN])
    return logits, logits[: len(again)], again, again


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


def _repeats(logits: Logits, again: Logits, *, averaged: bool) -> Finding:
    change = float((logits - again).abs().max())
    if change <= 1e-4 * (1 + float(logits.abs().max())):
        return Finding("randomised output", "ok", f"the same inputs gave the same outputs (within {change:.1g})", "")
    flipped = float((logits.argmax(1) != again.argmax(1)).double().mean())
    average = (
        f"the attacks were shown the mean of {CALLS} calls, which are counted, sought successes that last from call to call, "
        f"and were judged by the mean of as many; "
        if averaged
        else ""
    )
    return Finding(
        "randomised output",
        "warning",
        f"a second pass moved the logits by up to {change:.3g} and changed {flipped:.1%} of the predictions",
        f"{average}robustness figures of a randomised model are too good unless the attack averages over its noise: judge "
        "with care, and audit the model without its noise too",
    )


def _another(repeats: Finding, ledger: str, rows: int) -> Finding:
    """Of an endpoint, whose first answers may be an earlier run's: it is randomised, or no longer the same."""
    return Finding(
        repeats.check,
        repeats.verdict,
        f"{rows} samples that the ledger knows were asked again: {repeats.evidence}",
        "either another model is behind the address by now, and figures mix the two: delete its ledger "
        f"{ledger} and audit into another folder; or its answers are drawn: {repeats.remedy}",
    )


def _noise(logits: Logits, again: Logits) -> float:
    """The standard deviation of a call's margin, from two calls."""
    goal = Untargeted(logits.argmax(1))
    return float((goal.margin(logits) - goal.margin(again)).double().square().mean().sqrt()) / math.sqrt(2)


def _rows_apart(together: Logits, alone: Logits, *, is_random: bool) -> Finding:
    if is_random:
        return Finding("rows are independent", "note", "not looked at, as outputs are random", "see randomised output")
    change = float((together - alone).abs().max())
    if change <= 1e-3 * (1 + float(together.abs().max())):
        return Finding("rows are independent", "ok", "a sample alone gets the answer it gets in a batch", "")
    return Finding(
        "rows are independent",
        "warning",
        f"a sample alone gets other logits than in a batch, by up to {change:.3g}",
        "the model mixes the samples of a batch (or is randomised); attacks and figures depend on the batch then",
    )


def _promised(given: Access, known: KnownLearner | None) -> Finding:
    """A model that never promised gradients lacks nothing."""
    evidence = f"the model answers with {given} only" + (
        f", and is known to be {known.kind}, which the attacks made for those look into" if known else ""
    )
    return Finding(
        "access", "note", evidence,
        f"attacks that need {' or '.join(LEVELS[LEVELS.index(given) + 1 :])} are refused; what fools a network of your own "
        "may fool it too",
    )  # fmt: skip


def _outputs(logits: Logits, given: Access, *, heal: bool) -> tuple[list[Finding], Remedies]:
    """What kind of outputs these are, and what attacks shall be shown instead."""
    name, verdict = "outputs are logits", "note" if heal else "warning"
    sound = Finding(name, "ok", f"outputs from {float(logits.min()):.3g} to {float(logits.max()):.3g}", "")
    if given == "labels":
        return [], Remedies()
    if bool(((logits >= 0) & (logits <= 1)).all()) and bool((logits.sum(1) - 1).abs().max() < 1e-3):
        finding = Finding(
            name,
            verdict,
            "all outputs lie in [0, 1] and sum to 1: they look like probabilities",
            ("the attacks were shown their logarithms; better still " if heal else "")
            + (
                "return logits, without the softmax: it flattens the gradients that attacks follow, and hides weakness"
                if given == "gradients"
                else "say so where the model is made, probabilities=True: else its confidences are told wrong"
            ),
        )
        return [finding], Remedies(logarithm=heal)
    if given == "scores":  # there is no slope to be lost in rounding
        return [sound], Remedies()
    first, second = logits.topk(2, dim=1).values.unbind(1)
    lead = (first - second).double()
    saturated, usual = lead > _SATURATED, float(lead.quantile(0.9))
    share = float(saturated.double().mean())
    if share > 0.01:
        usual = float(lead[saturated].quantile(0.9))
        evidence = f"on {share:.1%} of the samples the largest logit leads by more than {_SATURATED}"
        why = "the gradient of cross-entropy underflows there and attacks by it fail"
    elif 0 < usual < _FLAT:
        evidence = f"on nine samples in ten the largest logit leads by less than {usual:.2g}"
        why = "cross-entropy leads away from all other classes alike there, rather than towards the nearest"
    else:
        return [sound], Remedies()
    scale = 2.0 ** round(math.log2(usual / _USUAL))
    by = f"divided by {scale:g}" if scale > 1 else f"multiplied by {1 / scale:g}"
    done = (
        f"the attacks were shown the logits {by}, which changes no prediction"
        if heal
        else f"have the logits {by}, which changes no prediction, or attack with loss=margin"
    )
    return [Finding(name, verdict, evidence, f"{why}: {done}")], Remedies(scale=scale if heal else 1.0)


def _gradients(
    module: nn.Module, x: Batch, bounds: tuple[float, float], remedies: Remedies, *, heal: bool, is_random: bool
) -> tuple[Finding, Remedies]:
    """The finding on the gradients, and float64 among the remedies where it brings some back."""
    oracle = TorchOracle(remedies.applied(module))
    finding = check_gradients(oracle, x, bounds, is_random=is_random)
    if not heal or finding.verdict == "ok" or x.dtype != torch.float32:
        return finding, remedies
    doubled = msgspec.structs.replace(remedies, double=True)
    try:
        before, after = lost(oracle, x), lost(TorchOracle(doubled.applied(module)), x)
    except Exception:  # a model that cannot be copied, cast or differentiated fails in its own way, and stays as it is
        return finding, remedies
    if after >= before:
        return finding, remedies
    evidence = f"{finding.evidence}; in float64 zero at {after}"
    remedy = (
        f"single precision rounds slopes away: the attacks were shown the model in float64; still, {finding.remedy}"
    )
    return Finding(finding.check, finding.verdict, evidence, remedy), doubled


def _input_range(data: Data) -> Finding:
    low, high = float(data.x.min()), float(data.x.max())
    lower, upper = data.bounds
    seen = f"inputs from {low:.3g} to {high:.3g}, bounds {lower:g} to {upper:g}"
    if high - low >= 0.1 * (upper - lower):
        return Finding("input range", "ok", seen, "")
    return Finding(
        "input range", "warning", seen, "the data fill little of their bounds: is a budget in these units meant?"
    )


def _accuracy(
    accuracy: float, classes: int, share: float, samples: int, better: tuple[float, float, str] | None
) -> Finding:
    evidence = f"{accuracy:.1%} of {samples} clean samples are right"
    if better:
        there, here, options = better
        return Finding(
            "clean accuracy",
            "warning",
            f"{evidence}; of the first {_LOOKED_AT}, {here:.1%} as they are and {there:.1%} when shown with {options}",
            f"the normalisation is missing or another one: audit with {options}, or put it into the model",
        )
    guess = max(share, 1 / classes)  # what the commonest class alone would give
    if accuracy > guess + (1 - guess) / 10 or accuracy >= 0.9:
        return Finding("clean accuracy", "ok", evidence, "")
    return Finding(
        "clean accuracy",
        "warning",
        f"{evidence}, where guessing gives {1 / classes:.1%}",
        "check the normalisation (--mean, --std), the input range and the order of the classes",
    )


def _better(module: nn.Module, data: Data, x: Batch) -> tuple[float, float, str] | None:
    """A usual normalisation with which a doubtful model does far better: its accuracy, that without, and its options."""
    x, label = x[:_LOOKED_AT], data.y[:_LOOKED_AT].to(x.device)

    def right(mean: tuple[float, ...], std: tuple[float, ...]) -> float:
        logits = TorchOracle(preprocessed(module, mean, std, None).to(x.device)).logits(x)
        return float((logits.argmax(1) == label).double().mean())

    here = right((0.0,), (1.0,))
    if here >= 0.9:
        return None
    tried = {options: right(*options) for options in _normalisations(data)}
    (mean, std), there = max(tried.items(), key=lambda one: one[1])
    if there < here + max(0.1, _CHANCE / len(x)) or 1 - there > (1 - here) / 2:
        return None
    return there, here, f"--mean {' '.join(f'{v:.4g}' for v in mean)} --std {' '.join(f'{v:.4g}' for v in std)}"


def _normalisations(data: Data) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Usual ones, as mean and standard deviation: to [-1, 1], from and to 0..255, of these data, of ImageNet."""
    lower, upper = data.bounds
    axes = (0, *range(2, data.x.ndim))
    mean = data.x.mean(axes) if data.x.ndim > 2 else data.x.mean()[None]
    std = (data.x.std(axes) if data.x.ndim > 2 else data.x.std()[None]).clamp_min(1e-3)
    found = [((0.0,), (1 / 255,)), ((0.0,), (255.0,)), (tuple(mean.tolist()), tuple(std.tolist()))]
    if math.isfinite(upper - lower):
        found.append((((lower + upper) / 2,), ((upper - lower) / 2,)))
    if len(mean) == 3 and data.bounds == (0.0, 1.0):
        found.append(((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return found


def clean_inputs(data: Data, threat: Threat, module: nn.Module, device: torch.device) -> Batch:
    """The samples as they are attacked: on the device, in the model's float type, rounded if the threat asks."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return threat.rounded(data.x.to(device, dtype))
