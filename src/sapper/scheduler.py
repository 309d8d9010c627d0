"""The scheduler, and the only loop: keeps a batch of cases full, steps it, retires rows, refills from the queue.

No case waits for its neighbours. What a case draws at random is its own (`noise`), so results do not depend on the batch
but for float rounding inside the model; with the same batch size and number of torch's threads they are identical.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import nn

from sapper import catalogue, noise
from sapper.attack import Attack, Cascade, Case, State, stages
from sapper.checks import check_arguments, check_classes, check_data, check_options
from sapper.errors import UsageError, require_positive
from sapper.foreign import access
from sapper.goal import Goal, Targeted, Untargeted
from sapper.learners import learner_of
from sapper.ledger import Ledger
from sapper.oracle import GradientOracle, TorchOracle, access_of, confidence, frozen
from sapper.tensors import Batch, Counts, Flat, Labels, Mask, Scalars, join, per_row, take
from sapper.threat import Threat
from sapper.workers import Progress, doors, side_by_side

_LARGEST_BATCH = 4096
_USUAL_ROWS, _USUAL_FEATURES = 512, 1 << 21


@dataclass(frozen=True)
class Crafted:
    """What came of each case, in the order given. All rows are judged by a second, plain call of the model."""

    x_adv: Batch
    """The closest success, or where nothing was found the last candidate; always legal."""
    found: Mask
    """Legal and adversarial when judged."""
    predictions: Labels
    """The class of x_adv; -1 where the model gave no finite answer."""
    confidence: Scalars
    """Its probability; nan where the model gives labels only, as the margins below are then."""
    distance: Scalars
    """Of x_adv, in the threat's norm; nan where nothing was found."""
    steps: Counts
    """Steps behind x_adv."""
    question: Counts
    """Which of the questions about this case x_adv was; all that were asked where nothing was found."""
    nearest: Flat
    """The distance of the closest success within as many questions as `MILESTONES` says; nan where there was none. Kept where
    the smallest distance is sought by an attack that follows no gradient; else without columns."""
    forwards: Counts
    """Questions the attack asked about this case; the judge's own are not counted."""
    backwards: Counts
    seconds: Scalars
    """This case's share of the time of its batches."""
    broken: Mask
    """The model answered with nan or infinity on the way, or the attack asked about such, so the case is not valid; or it
    gave no answer any more before anything was found."""
    zero_gradients: Counts
    """Backward passes that gave nothing to follow: all zero, or lost in underflow."""
    bad_gradients: Counts
    """Backward passes that gave nan or infinity."""
    first_margin: Scalars
    """The goal's margin at the attack's first question; below 0 where it is reached."""
    best_margin: Scalars
    """The least margin of all that the attack asked."""


def craft(
    model: nn.Module,
    x: Batch,
    y: Labels,
    *,
    attack: str | Attack | Cascade = "pgd",
    threat: str | Threat,
    targets: Labels | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    quantize: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    index: Labels | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Crafted:
    """Attacks a model.

    Args:
        model: From inputs in the data's units to logits, on any device. It is attacked in evaluation mode, without
            gradients for its weights, and left as it was.
        x: The samples, rows first, in `bounds`; taken to the model's device and float type.
        y: Their true classes.
        attack: A name, with options if any ("pgd:steps=20", "5*pgd"), or an instance.
        threat: Such as "linf:8/255", "l2:0.5", "l0:14.5%", "l0:min".
        targets: The class each sample shall become; without, any other than `y`.
        bounds: The range of legal inputs. A `Threat` brings its own, and its own `quantize`.
        quantize: Bits a feature; success is judged on inputs rounded to this grid.
        queries: Most questions asked about a sample.
        seed: Of the samples' own random numbers.
        index: Numbers that name the samples, which their random numbers follow; by default their places in x. With it a
            sample gets the same result in any order and company, up to float rounding inside the model.
        batch_size: Rows at once, shared among as many workers as torch has threads; measured if not given.
        progress: Called with (done, found) after every step.

    Returns:
        A row for each sample, in order, on x's device.

    Raises:
        UsageError: Unknown attack or threat, or they do not fit each other.
        DataError: Shapes, labels or values that do not fit.
        ModelError: The model does not answer like a classifier.
    """
    check_arguments(model, x, y, attack, threat, targets, index, bounds, seed, queries, batch_size)
    attack = catalogue.attack(attack) if isinstance(attack, str) else attack
    if isinstance(threat, str):
        threat = Threat.parse(threat, lower=bounds[0], upper=bounds[1], quantize=quantize)
    elif quantize is not None:
        raise UsageError("a Threat brings its own quantize: give it there, as in Threat.parse('linf:0.1', quantize=8).")
    weight = next((p for p in model.parameters() if p.is_floating_point()), x)
    device, dtype = weight.device, weight.dtype
    check_data(x, y, targets, threat)
    catalogue.check_access(attack, threat, access(model), learner_of(model))
    with torch.inference_mode(False), frozen(model):  # a caller's inference mode would leave nothing to differentiate
        x_here, y_here = x.detach().to(device, dtype, copy=True), y.to(device, torch.int64)
        goal = Untargeted(y_here) if targets is None else Targeted(y_here, targets.to(device, torch.int64))
        names = torch.arange(len(x)) if index is None else index
        oracle = TorchOracle(model)
        check_classes(y if targets is None else torch.cat([y, targets]), oracle.logits(x_here[:1]).shape[1])
        result = craft_cases(
            oracle, attack, x_here, goal, threat, noise.keys(seed, names.to(device, torch.int64)),
            queries=queries, batch_size=batch_size, progress=progress,
        )  # fmt: skip
    return Crafted(**{name: value.to(x.device) for name, value in vars(result).items()})


def craft_cases(
    oracle: GradientOracle,
    attack: Attack | Cascade,
    x: Batch,
    goal: Goal,
    threat: Threat,
    key: Counts,
    *,
    queries: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    judge: GradientOracle | None = None,
    lead: float = 0.0,
    transfer: bool = False,
) -> Crafted:
    """`craft` behind the model's door: rows with their goals and keys, on the oracle's device.

    What came of it is judged by the same door, unless the attacks are shown the model in another form (`judge`), or another
    model, which what they make is to fool as well (`transfer`): then every row is judged, also those that fooled nothing
    yet, and under a budget attacks go on to their end, as what barely fools one model seldom fools the next. Where the
    judge's answers vary, attacks seek to go beyond the goal by a `lead`, in logits; who fails in that is judged by the
    candidate that came furthest.
    """
    require_positive("queries", queries)
    require_positive("batch_size", batch_size)
    check_options(attack, threat, x.shape[1:])
    index = torch.arange(len(x), device=x.device)
    whole = Case(threat.rounded(x), goal, threat, torch.zeros_like(index), key, index)
    size = batch_size or measure_batch(oracle, x, goal)
    oracles = doors(oracle, whole.x, size)
    count = len(oracles)
    cases = [take(whole, slice(first, None, count)) for first in range(count)]
    cases = [replace(case, index=index[: len(case.index)]) for case in cases]
    blind = all(catalogue.serves(catalogue.needs(stage), "scores") for stage in stages(attack, threat))
    options = {"transfer": transfer, "trail": blind and threat.eps is None and not transfer}
    ledgers = [Ledger(door, case, queries, lead, **options) for door, case in zip(oracles, cases, strict=True)]

    def work(worker: int, tell: Progress) -> None:
        _craft_part(attack, cases[worker], ledgers[worker], math.ceil(size / count), tell)

    side_by_side(work, count, progress)
    judged = [
        _judge(judge or oracle, case, ledger, size, transfer=transfer)
        for case, ledger in zip(cases, ledgers, strict=True)
    ]
    if count == 1:
        return judged[0]
    order = torch.cat([index[first::count] for first in range(count)]).argsort()
    crafted = take(reduce(join, judged), order)
    return replace(crafted, seconds=crafted.seconds / count)  # they ran at the same time


def _craft_part(attack: Attack | Cascade, case: Case, ledger: Ledger, size: int, progress: Progress) -> None:
    every = stages(attack, case.threat)
    for number, stage in enumerate(every, 1):
        left = case if number == 1 else take(case, ~ledger.closed(case))
        goal = stage.aim(left.goal)
        left = replace(left, goal=goal.surer(goal.confidence + ledger.lead), key=noise.mix(left.key + number - 1))
        _loop(stage, left, ledger, size, progress, first=number == 1, last=number == len(every))


def usual_batch(x: Batch) -> int:
    """512 rows, or fewer where inputs are large."""
    return min(len(x), _USUAL_ROWS, max(1, _USUAL_FEATURES // x[0].numel()))


def measure_batch(oracle: GradientOracle, x: Batch, goal: Goal) -> int:
    """The number of rows at which the model is fastest per row, forward and backward, doubling while that helps.

    Measuring costs some batches, so for few rows the usual size is taken.
    """
    usual = usual_batch(x)
    if len(x) < 2048 or access_of(oracle) != "gradients":
        return usual
    size, best, fastest = max(1, usual // 4), usual, math.inf
    while size <= min(len(x), _LARGEST_BATCH):
        rows = torch.arange(size, device=x.device)
        try:
            spent = min(_time_pass(oracle, x[rows], take(goal, rows)) for _ in range(2)) / size
        except torch.OutOfMemoryError:
            break
        if spent > 0.97 * fastest:
            break
        best, fastest, size = size, spent, size * 2
    return best


def _time_pass(oracle: GradientOracle, x: Batch, goal: Goal) -> float:
    begin = time.perf_counter()
    logits, pull = oracle.vjp(x)
    pull(goal.cotangent("cross_entropy", logits)).sum().item()  # item() waits for the device
    return time.perf_counter() - begin


def _loop(
    attack: Attack, case: Case, ledger: Ledger, size: int, progress: Progress, *, first: bool, last: bool
) -> None:
    """Takes every case to the end of a stage; what came of it is in the ledger."""
    total, waiting, done = len(case.index), 0, 0
    limit = attack.limit(case.budget)
    active = take(case, slice(0))
    state: Any = None
    while done < total:
        begin = time.perf_counter()
        if waiting < total and len(active.index) <= size - max(1, size // 8):  # a few at once: tiny batches are slow
            fresh = take(case, slice(waiting, waiting + size - len(active.index)))
            waiting += len(fresh.index)
            new = attack.start(fresh, ledger.door(fresh))
            if first:
                _look_at_clean(fresh, new.x_adv, ledger)
            active, state = join(active, fresh), join(state, new) if state else new
        here = active.index
        leaving = _leaving(limit, active, state, ledger)  # some of the fresh ones too: won already, or no query left
        if bool(leaving.any()):
            gone, candidate = take(active, leaving), state.x_adv[leaving]
            _look_at_last(gone, candidate, ledger)
            ledger.leave(gone, candidate)
            done += len(gone.index)
            active, state = take(active, ~leaving), take(state, ~leaving)
        else:
            state = attack.step(active, ledger.door(active), state)
            active = replace(active, age=active.age + 1)
        ledger.seconds[here] += (time.perf_counter() - begin) / len(here)
        found = int(ledger.found.sum())
        progress(len(ledger.found) - total + done if last else found, found)


def _look_at_clean(case: Case, start: Batch, ledger: Ledger) -> None:
    """A sample whose clean input already reaches the goal is won as it is; an attack that starts elsewhere would miss it.

    Unless the attack has asked already.
    """
    elsewhere = take(case, (start != case.x).flatten(1).any(1) & ~ledger.closed(case))
    if len(elsewhere.index):
        ledger.door(elsewhere).logits(elsewhere.x)


def _leaving(limit: int, case: Case, state: State, ledger: Ledger) -> Mask:
    """Out of steps or of anything to try, or nothing left to ask."""
    leaving = (case.age >= limit) | ledger.closed(case)
    return leaving if state.done is None else leaving | state.done


def _look_at_last(case: Case, candidate: Batch, ledger: Ledger) -> None:
    """Asks about candidates that no step is left to ask about, moved into the budget, as they are returned so."""
    still = ~ledger.closed(case)
    if bool(still.any()):
        left = take(case, still)
        ledger.door(left).logits(case.threat.project(candidate[still], left.x))


def _judge(oracle: GradientOracle, case: Case, ledger: Ledger, size: int, *, transfer: bool = False) -> Crafted:
    """Makes every candidate legal, then believes only what the model says of it now."""
    x_adv = torch.where(per_row(ledger.kept, case.x), ledger.x_adv, ledger.last.nan_to_num())
    inside = case.threat.project(x_adv, case.x)
    if isinstance(oracle, TorchOracle) and oracle.may_be_silent:  # it has answered for what was found, to the last bit
        inside = torch.where(per_row(ledger.kept, case.x), x_adv, inside)
    x_adv = case.threat.submit(inside, case.x)
    logits = torch.cat([oracle.logits(part) for part in x_adv.split(size)])
    finite = logits.isfinite().all(1) & ~ledger.broken & (ledger.found | ~ledger.silent)
    predictions = logits.argmax(1)  # not of the softmax, in which close logits become equal
    blind = access_of(oracle) == "labels"
    found = case.goal.reached(predictions, logits) & case.threat.legal(x_adv, case.x) & finite
    found = found if transfer else found & ledger.found
    return Crafted(
        x_adv=x_adv,
        found=found,
        predictions=torch.where(finite, predictions, -1),
        confidence=torch.where(finite, confidence(logits, access_of(oracle)), torch.nan),
        distance=torch.where(found, case.threat.distance(x_adv, case.x), torch.nan),
        steps=ledger.steps,
        question=torch.where(found, ledger.question, ledger.forwards),
        nearest=torch.where(found[:, None], ledger.approach(), torch.nan),
        forwards=ledger.forwards,
        backwards=ledger.backwards,
        seconds=ledger.seconds,
        broken=~finite,
        zero_gradients=ledger.zero_gradients,
        bad_gradients=ledger.bad_gradients,
        first_margin=ledger.first_margin * (torch.nan if blind else 1),
        best_margin=ledger.best_margin * (torch.nan if blind else 1),
    )
