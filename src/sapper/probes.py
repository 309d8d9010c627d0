"""Short experiments on cases that held, which tell whether the attacks failed or the model is robust.

At most 64 cases a threat, fewer where that would cost more than a fifth of the threat's own attacks; those that follow the
model's gradients only where it gives some. What they give is evidence for the doctor; what broke cases that had held is tried
on all of them (`again`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sapper import catalogue, log, noise
from sapper.attack import Attack, Cascade, stages
from sapper.attacks.pgd import PGD
from sapper.attacks.square import Square
from sapper.doctor import is_clear
from sapper.errors import ModelError
from sapper.models.remote import endpoint_of
from sapper.oracle import TorchOracle
from sapper.progress import CaseProgress
from sapper.rows import Cases
from sapper.scheduler import craft_cases
from sapper.spec import Spec
from sapper.surrogate import surrogate
from sapper.tensors import Batch, Mask, take
from sapper.threat import Threat

_MOST, _LEAST, _SHARE = 64, 16, 0.2
_DRAWS = 50  # of random noise
_SQUARE = Square(steps=300)  # which needs scores only
_TRANSFER_STEPS = 20

Job = tuple[Attack | Cascade, Threat, str]
"""An attack under a threat, and the folder of its shards."""


@dataclass(frozen=True)
class View:
    """The model as its answers are judged, as it is or in the mean of a randomised one's calls, and as the attacks are shown
    it (see `remedies`).
    """

    model: TorchOracle
    shown: TorchOracle
    calls: int
    """Of the model, for one answer that is shown."""
    lead: float
    """By how much attacks go beyond the goal."""
    size: int
    """Rows at once."""
    transfer: bool = False
    """What is shown is another model, a substitute."""


@dataclass(frozen=True)
class Patients:
    """Cases that held under one threat, and what the probes need."""

    view: View
    threat: Threat
    cases: Cases
    x: Batch
    fell: Mask
    """Which have fallen, to attacks of the run that see no gradients."""
    queries: int | None
    stand_in: Callable[[], TorchOracle]

    def attacked(self, attack: Attack | Cascade, threat: Threat) -> Mask | None:
        """Which fall to an attack; None where the model has no derivative for it."""
        try:
            crafted = craft_cases(
                self.view.shown, attack, self.x, self.cases.goal, threat, noise.mix(self.cases.key + 1),
                queries=self.queries, batch_size=self.view.size, judge=self.view.model, lead=self.view.lead,
            )  # fmt: skip
        except (ModelError, RuntimeError):
            return None
        return crafted.found

    def left(self, fallen: Mask | None) -> "Patients":
        """Without those that fell."""
        if fallen is None:
            return self
        return replace(self, cases=take(self.cases, ~fallen), x=self.x[~fallen], fell=self.fell[~fallen])

    def reached(self, x_adv: Batch) -> Mask:
        """Which goals these inputs reach, once they are legal."""
        submitted = self.threat.submit(self.threat.project(x_adv, self.x), self.x)
        logits = self.view.model.logits(submitted)
        return self.cases.goal.reached(logits.argmax(1), logits) & self.threat.legal(submitted, self.x)


def probe(
    run: Path, work: list[Job], view: View, x: Batch, cases: Cases, spec: Spec, progress: CaseProgress
) -> list[log.Probe]:
    """All probes of a run whose shards are there; nothing but its folder and spec decides what they give."""
    threats = list(dict.fromkeys(threat for _, threat, _ in work))
    progress.begin("doctor", len(threats), found=False)
    found: list[log.Probe] = []
    stand_in = cache(partial(_stand_in, view, x))  # trained once, and only if a threat leaves something to probe
    for number, threat in enumerate(threats, 1):
        jobs = [job for job in work if job[1] == threat]
        found += [step for attack, _, _ in jobs for step in _step_sizes(attack, threat, x)]
        tables = [log.read_cases(run, folder) for _, _, folder in jobs]
        paid = endpoint_of(view.model.module) is not None
        strongest, probed, held = _held(threat, [attack for attack, _, _ in jobs], tables, x[0].numel(), paid=paid)
        if held:
            part = take(cases, torch.tensor(held, device=x.device))
            fell = _broken(tables).is_finite().gather(held) if threat.eps is not None else [False] * len(held)
            fell = torch.tensor(list(fell), device=x.device)
            patients = Patients(view, probed, part, threat.rounded(x[part.sample]), fell, spec.queries, stand_in)
            found += _probe(patients, strongest)
        progress.step(number, 0)
    return found


def again(run: Path, work: list[Job], probes: list[log.Probe], view: View) -> list[tuple[Attack | Cascade, Threat]]:
    """Attacks of probes that gained, and under which budgets: they are to be made on all cases.

    Of those that had more time any gain counts, unless the model is randomised and may be fooled by luck; of those that need
    scores only a clear one, and none where every question is paid for.
    """
    found: list[tuple[Attack | Cascade, Threat]] = []
    for threat in dict.fromkeys(threat for _, threat, _ in work if threat.eps is not None):
        jobs = [job for job in work if job[1] == threat]
        told = {probe.name: probe for probe in probes if probe.threat == str(threat)}
        more, square = told.get("more steps"), told.get("square")
        if more and more.broken and (is_clear(more) or view.calls == 1):
            tables = [log.read_cases(run, folder) for _, _, folder in jobs]
            found.append((_harder(_strongest([attack for attack, _, _ in jobs], tables, threat)), threat))
        if square and is_clear(square) and endpoint_of(view.model.module) is None:
            found.append((_SQUARE, threat))
    made = {(str(attack), threat) for attack, threat, _ in work}
    return [(attack, threat) for attack, threat in found if (str(attack), threat) not in made]


def _probe(patients: Patients, strongest: Attack) -> Iterator[log.Probe]:
    threat = patients.threat

    def told(name: str, attack: str, broken: Mask | int | None, of: int | None = None) -> Iterator[log.Probe]:
        of = len(patients.x) if of is None else of
        if broken is not None:
            yield log.Probe(name, str(threat), attack, of, int(broken if isinstance(broken, int) else broken.sum()))

    given = patients.view.model.access
    if given == "gradients":
        harder = _harder(strongest)
        fallen = patients.attacked(harder, threat)
        new = None if fallen is None else fallen & ~patients.fell
        yield from told("more steps", str(harder), new, int((~patients.fell).sum()))
        patients = patients.left(fallen)  # what follows is evidence only where a fair attack fails
    if not len(patients.x):
        return
    if bool(patients.fell.any()) and given == "gradients":
        yield from told("blind attacks", "the run's attacks without gradients", patients.fell)
    if given == "gradients" and math.isfinite(threat.width):
        whole = _whole_box(threat, patients.x[0].numel())
        yield from told("largest budget", f"pgd {whole}", patients.attacked(PGD(), whole))
    if threat.quantize is not None:
        yield from told("unrounded", str(strongest), patients.attacked(strongest, replace(threat, quantize=None)))
    yield from told("random noise", f"{_DRAWS} draws", _shaken(patients))
    if threat.p in _SQUARE.norms and catalogue.serves(catalogue.access(type(_SQUARE)), given):
        yield from told("square", str(_SQUARE), patients.attacked(_SQUARE, threat))
    yield from told("surrogate", "pgd on a stand-in", _transferred(patients))


def _held(
    threat: Threat, attacks: list[Attack | Cascade], tables: list[pl.DataFrame], features: int, *, paid: bool
) -> tuple[Attack, Threat, list[int]]:
    """An attack, a threat, and some cases that held under it, of samples that are right, evenly from all of them.

    They held against the attacks that see gradients, where there are any: what only others break tells on those.
    Where the run looked for the smallest distance, the threat's budget is the median of what it found, and the cases are
    those whose distance is larger by a tenth at least. Where every question is paid for there may be none.
    """
    seeing = [table for table in tables if (table["backwards"].fill_null(0) > 0).any()]
    least = _broken(seeing or tables)
    held, strongest = least.is_infinite(), PGD()
    if threat.eps is not None:
        strongest = _strongest(attacks, tables, threat)
    elif (median := least.filter(least.is_finite() & (least > 0)).to_numpy()).size:
        eps = Fraction(f"{np.median(median):.3g}")
        threat = replace(threat, eps=Fraction(math.floor(eps)) if threat.p == 0 else eps)
        held = least > 1.1 * threat.budget(features)
    else:
        return strongest, threat, []
    pool = (held & (tables[0]["label"] == tables[0]["clean_prediction"])).arg_true().to_list()
    spent = sum(int(table["forwards"].sum()) for table in tables)
    each = _DRAWS + _SQUARE.steps if paid else 6 * strongest.limit(threat.budget(features))
    most = min(_MOST, max(0 if paid else _LEAST, int(_SHARE * spent / each)))
    return strongest, threat, [pool[i * len(pool) // most] for i in range(most)] if len(pool) > most else pool


def _broken(tables: list[pl.DataFrame]) -> pl.Series:
    """The smallest distance at which any of these attacks has broken each case; infinite where none has."""
    broken = [table.select(pl.when("found").then("distance").alias("distance"))["distance"] for table in tables]
    return pl.DataFrame({str(i): one.fill_null(math.inf) for i, one in enumerate(broken)}).min_horizontal()


def _strongest(attacks: list[Attack | Cascade], tables: list[pl.DataFrame], threat: Threat) -> Attack:
    """Of the run's gradient attacks that take steps, the one that found most; without any, PGD."""
    found = [
        (int(table["found"].sum()), stage)
        for attack, table in zip(attacks, tables, strict=True)
        for stage in stages(attack, threat)
        if isinstance(getattr(stage, "steps", None), int) and catalogue.access(type(stage)) == "gradients"
    ]
    return max(found, key=lambda one: one[0])[1] if found else PGD()


def _harder(attack: Attack) -> Cascade:
    """Four times the steps, then two restarts; by PGD where the attack itself always starts at the same place."""
    longer = replace(attack, steps=4 * attack.steps)  # pyright: ignore
    restart = attack if getattr(attack, "random_start", False) else PGD()
    return Cascade(f"{longer} and 2*{restart}", (longer, restart, restart))


def _whole_box(threat: Threat, features: int) -> Threat:
    """The same norm with a budget that reaches every input."""
    most = {0.0: features, 1.0: threat.width * features, 2.0: threat.width * math.sqrt(features)}
    return replace(threat, eps=Fraction(f"{most.get(threat.p, threat.width):.6g}"), share=False)


def _shaken(patients: Patients) -> int:
    """Noise as large as the budget lets it be, in a random direction."""
    case, broken = patients.cases, torch.zeros_like(patients.cases.sample, dtype=torch.bool)
    budget = patients.threat.budget(patients.x[0].numel())
    for age in range(min(_DRAWS, patients.queries or _DRAWS)):
        ages = torch.full_like(case.key, age)
        draws = noise.normal(case.key, ages, patients.x[0].numel(), patients.x.dtype, stream=11)
        broken |= patients.reached(patients.threat.descend(patients.x, draws.reshape(patients.x.shape), budget))
    return int(broken.sum())


def _stand_in(view: View, x: Batch) -> TorchOracle:
    classes = view.model.logits(x[:1]).shape[1]
    return TorchOracle(surrogate(view.model, x, classes, view.size))


def _transferred(patients: Patients) -> int:
    """PGD on a stand-in, to its end: what barely fools one model seldom fools another."""
    x_adv, budget = patients.x, patients.threat.budget(patients.x[0].numel())
    for _ in range(_TRANSFER_STEPS):
        logits, pull = patients.stand_in().vjp(x_adv)
        gradient = pull(patients.cases.goal.cotangent("margin", logits))
        x_adv = patients.threat.descend(x_adv, gradient, 2.5 * budget / _TRANSFER_STEPS)
        x_adv = patients.threat.project(x_adv, patients.x)
    return int(patients.reached(x_adv).sum())


def _step_sizes(attack: Attack | Cascade, threat: Threat, x: Batch) -> Iterator[log.Probe]:
    """Of attacks that were given one where it else follows from the budget: the step and all steps together, in budgets."""
    for stage in dict.fromkeys(stages(attack, threat)):
        steps, size = getattr(stage, "steps", None), getattr(stage, "step_size", None)
        follows = any(one.name == "step_size" and one.default is None for one in catalogue.options(type(stage)))
        if threat.eps is not None and isinstance(steps, int) and size is not None and follows:
            share = float(size) / threat.budget(x[0].numel())
            yield log.Probe("step size", str(threat), str(stage), 0, 0, share, steps * share)
