"""Can a run's figures be trusted? Attacks that fail look like models that hold; here is what tells the two apart.

A pure function from a run folder to findings: of the checks before the attacks, of what every attack saw on its way, and of
the probes of cases that held. Imports no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import polars as pl

from sapper import log
from sapper.log import Finding, Probe

_BLIND = "one that needs labels only (hop_skip_jump or geoda in l2 and linf, boundary in l2)"
_WITHOUT_GRADIENTS = {
    "loss along the attacks": "the scores are level around these samples, so that attacks that follow them see no way down: "
    f"add {_BLIND}, which begins where the model is wrong already, or craft on a stand-in of your own",
    "largest budget": "there the attack failed, not the model: give it more questions, or craft on a stand-in of your own",
    "attacks without gradients": "the figures would be lower still: give the attacks more questions",
    "transferred samples": "the attacks asked too little: give them more questions, or craft on a stand-in of your own",
}
"""What to do where the model never promised gradients."""
_ELSE = "; else "
_CLEAR = 0.05  # share of the cases that held, from which on a failing attack is a warning
_GAIN = 0.1  # share of the probed, likewise
_FEW = 3  # probed cases; fewer may be chance
_LITTLE = 1e-4  # of the first margin: no nearer
_LOOKS = 10  # at gradients; whoever took fewer may only have had too little time


@dataclass(frozen=True)
class _Trial:
    """One attack under one threat, and its cases in the run's order."""

    attack: str
    threat: str
    cases: pl.DataFrame

    @property
    def is_minimal(self) -> bool:
        return self.threat.endswith(":min")

    @property
    def has_gradients(self) -> bool:
        return bool((self.cases["backwards"].fill_null(0) > 0).any())


def examine(run: Path, work: list[tuple[str, str, str]]) -> list[Finding]:
    """The findings of a run whose shards are there.

    Args:
        run: The folder.
        work: Attack, threat and shard folder of each job.
    """
    trials = [_Trial(attack, threat, log.read_cases(run, folder)) for attack, threat, folder in work]
    if any(t.cases["fools_substitute"].is_not_null().any() for t in trials):
        return [*log.read_preflight(run), _transferred(run, trials), *_errors(trials)]
    probes = log.read_probes(run)
    groups = [[t for t in trials if t.threat == threat] for threat in dict.fromkeys(t.threat for t in trials)]
    along = [_gradients(groups), _loss(groups), _rounding(trials, probes)]
    probed = [
        _steps(probes),
        _largest(groups, probes),
        _more(probes),
        _gradient_free(groups, probes),
        _transfer(probes),
    ]
    given = log.read_environment(run).get("model", {}).get("access", "gradients")
    found = [f if given == "gradients" else _without_gradients(f) for f in [*along, *probed] if f]
    return [*log.read_preflight(run), *found, *_errors(trials), *_queries(run, trials)]


def _transferred(run: Path, trials: list[_Trial]) -> Finding:
    """How much of what fooled the substitute fooled the model, and what it was asked."""
    told = []
    for trial in trials:
        fooled = trial.cases.filter(pl.col("fools_substitute"))
        both = int(fooled["found"].sum())
        told.append(f"{both} of {len(fooled)} ({trial.attack} {trial.threat})")
    known = [(one["reference"], one["agreement"]) for one in log.read_environment(run).get("via", [])]
    names = " and ".join(f"{name} ({a:.1%} agreement)" if a is not None else name for name, a in known)
    asked = sum(int(trial.cases["forwards"].sum()) for trial in trials)
    clean = len(log.read_samples(run))
    return Finding(
        "transfer",
        "note",
        f"crafted on {names}; of what fooled that, the model was fooled by {', '.join(told)}; it was asked {clean + asked} "
        f"times, {clean} of them about clean samples",
        "what does not transfer is not thereby robust: a substitute that agrees more often, or several (--via A --via B), "
        "may carry further",
    )


def _without_gradients(finding: Finding) -> Finding:
    """The same of a model that gives none, whose attacks nothing can mislead."""
    remedy = finding.remedy
    if remedy and finding.check in _WITHOUT_GRADIENTS:
        few, otherwise, _ = remedy.rpartition(_ELSE)
        remedy = few + otherwise + _WITHOUT_GRADIENTS[finding.check]
    check = "more steps" if finding.check == "attacks without gradients" else finding.check
    return Finding(check, finding.verdict, finding.evidence, remedy)


def _held(group: Sequence[_Trial]) -> pl.Series:
    """Which cases no attack of the threat has broken, of samples that are right when clean."""
    first = group[0].cases
    broken = reduce(lambda a, b: a | b, (t.cases["found"].fill_null(value=True) for t in group))
    return (first["label"] == first["clean_prediction"]) & ~broken


def _every(group: Sequence[_Trial], holds: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    return reduce(lambda a, b: a & b, (holds(t.cases).fill_null(value=True) for t in group))


def _blind(cases: pl.DataFrame) -> pl.Series:
    """At half of the gradients or more there was nothing to follow."""
    lost = cases["zero_gradients"] + cases["bad_gradients"]
    return (2 * lost >= cases["backwards"]) & (cases["backwards"] > 0)


def _stuck(cases: pl.DataFrame) -> pl.Series:
    """Asked more than once, and came no nearer to the goal."""
    nearer = cases["first_margin"] - cases["best_margin"]
    return (nearer <= _LITTLE * cases["first_margin"].abs()) & (cases["forwards"] > 1)


def _gradients(groups: list[list[_Trial]]) -> Finding | None:
    name, seen = "gradients along the attacks", [[t for t in group if t.has_gradients] for group in groups]
    seen = [group for group in seen if group]
    if not seen or all(t.cases["zero_gradients"].is_null().all() for group in seen for t in group):
        return None
    remedy = (
        "what these attacks left unbroken was not tried: see the findings on outputs and gradients, attack with "
        "loss=margin, in float64, or with scores or labels only"
    )
    worst = [(group, _held(group)) for group in seen]
    blind = [(group, int((held & _every(group, _blind)).sum()), int(held.sum())) for group, held in worst]
    texts = [
        f"under {group[0].threat} {count} of {of} cases that held had no gradient (zero, lost in underflow or not finite) "
        f"for at least half of the steps of {_names(group)}"
        for group, count, of in blind
        if count > _CLEAR * of
    ]
    if texts:
        return Finding(name, "warning", "; ".join(texts), remedy)
    alone = [(t, int((_blind(t.cases) & ~t.cases["found"]).sum())) for group in seen for t in group]
    alone = [(t, count) for t, count in alone if count > _CLEAR * len(t.cases)]
    if alone:
        told = "; ".join(f"{t.attack} under {t.threat} had none for {c} of {len(t.cases)} cases" for t, c in alone)
        return Finding(name, "note", f"{told}; other attacks did", remedy)
    cases = sum(of for *_, of in blind)
    return Finding(name, "ok", f"there was one to follow in {cases} cases that held, and in those that fell", "")


def _loss(groups: list[list[_Trial]]) -> Finding | None:
    name = "loss along the attacks"
    if all(t.cases["best_margin"].is_null().all() for group in groups for t in group):
        return None
    counted = []
    for group in ([t for t in group if t.has_gradients] or group for group in groups):
        asked = reduce(lambda a, b: a + b, (t.cases["forwards"].fill_null(0) for t in group))
        held = _held(group) & (asked > 2 * len(group))  # who asks of the sample and one candidate cannot get nearer
        counted.append((group, int((held & _every(group, _stuck)).sum()), int(held.sum())))
    texts = [
        f"under {group[0].threat} {_names(group)} came no nearer to the goal in {count} of {of} cases that held"
        for group, count, of in counted
        if count > _CLEAR * of
    ]
    if texts:
        return Finding(
            name, "warning", "; ".join(texts), "the attacks do not work on this model: the other findings say why; add one "
            "that needs scores or labels only",
        )  # fmt: skip
    return Finding(name, "ok", f"nearer to the goal in {sum(of - c for _, c, of in counted)} cases that held", "")


def _rounding(trials: list[_Trial], probes: list[Probe]) -> Finding | None:
    name = "8-bit rounding"
    unrounded = [p for p in probes if p.name == "unrounded"]
    known = [(t, t.cases["survives_8_bits"].drop_nulls()) for t in trials if not t.is_minimal]
    if unrounded:
        texts = [f"{p.broken} of {p.cases} that held under {p.threat} fall to {p.attack} without it" for p in unrounded]
        lost = any(is_clear(p) for p in unrounded)
        remedy = "the attack loses its successes to rounding: try a larger step, or one that searches on the grid"
        return Finding(name, "note" if lost else "ok", "; ".join(texts), remedy if lost else "")
    known = [(t, int((~kept).sum()), len(kept)) for t, kept in known if len(kept)]
    if not known:
        return None
    trial, lost, of = max(known, key=lambda one: one[1] / one[2])
    evidence = f"stored as 8-bit pictures, {lost} of {of} successes of {trial.attack} under {trial.threat} are lost"
    if lost <= _CLEAR * of:
        return Finding(name, "ok", evidence, "")
    return Finding(name, "note", evidence, "audit with --quantize 8 for an attacker who must submit pictures")


def _steps(probes: list[Probe]) -> Finding | None:
    told = [(p, p.value or 0.0, p.reach or 0.0) for p in probes if p.name == "step size"]
    small = [
        f"all steps of {p.attack} together are {reach:.2g} of the budget {p.threat}"
        for p, _, reach in told
        if reach < 1 - 1e-6
    ]
    large = [
        f"a step of {p.attack} is {size:.2g} times the budget {p.threat}" for p, size, _ in told if size > 2 + 1e-6
    ]
    if not small and not large:
        return Finding("step size", "ok", "those that were given suit their budgets", "") if told else None
    remedy = "leave step_size out, so that it follows from budget and steps"
    return Finding("step size", "warning", "; ".join(small + large), remedy)


def _largest(groups: list[list[_Trial]], probes: list[Probe]) -> Finding | None:
    left = []
    for p in probes:
        if p.name == "largest budget":
            held = p.cases - p.broken
            left.append(
                (f"{held} of {p.cases} cases that held under {p.threat} hold against {p.attack}", p.cases, held)
            )
    for group in groups:
        if group[0].is_minimal:
            count, of = int(_held(group).sum()), len(group[0].cases)
            left.append((f"{count} of {of} cases hold under {group[0].threat}, against changes of any size", of, count))
    return _worst(
        "largest budget", left,
        "there the attack failed, not the model: the figures for small budgets are no better founded; see the other "
        "findings, and add an attack that needs scores or labels only",
    )  # fmt: skip


def _more(probes: list[Probe]) -> Finding | None:
    return _worst(
        "more steps", [_fell(p) for p in probes if p.name == "more steps"],
        "where the results name that attack the audit has tried it on all cases, and its worst case counts; still, audit "
        "with more steps and restarts until the figures stay",
    )  # fmt: skip


def _gradient_free(groups: list[list[_Trial]], probes: list[Probe]) -> Finding | None:
    """Who is misled, and who had too little time? Where the probes told the two apart, theirs is the word."""
    name, probed = "attacks without gradients", {p.threat for p in probes if p.name == "more steps"}
    told = [_fell(p) for p in probes if p.name in ("random noise", "square", "blind attacks")]
    told += [one for group in groups if group[0].threat not in probed for one in _overtaken(group, hasty=False)]
    worst = _worst(
        name, told,
        "the gradients mislead the attacks that follow them: believe the worst case only (where the results name square, the "
        "audit has tried it on all cases), and give the attacks without gradients more queries",
    )  # fmt: skip
    hasty = [one for group in groups if group[0].threat not in probed for one in _overtaken(group, hasty=True)]
    texts = [f"{text}, and had fewer than {_LOOKS} gradients to go by" for text, _, count in hasty if count]
    if not texts or (worst and worst.verdict == "warning"):
        return worst
    remedy = "too little time, more likely than gradients that mislead: give the attacks that follow them more steps"
    return Finding(name, "note", "; ".join(texts), remedy)


def _overtaken(group: list[_Trial], *, hasty: bool) -> list[tuple[str, int, int]]:
    """What attacks without gradients broke of what those with gradients left, when these had been hasty or had not."""
    seeing, blind = [t for t in group if t.has_gradients], [t for t in group if not t.has_gradients]
    if not seeing or not blind:
        return []
    held, looks = _held(seeing), reduce(lambda a, b: a + b, (t.cases["backwards"].fill_null(0) for t in seeing))
    fell = reduce(lambda a, b: a | b, (t.cases["found"].fill_null(value=False) for t in blind))
    only, of = int((held & fell & ((looks < _LOOKS) == hasty)).sum()), int(held.sum())
    return [(f"{only} of {of} cases that held under {group[0].threat} fell to {_names(blind)}", of, only)]


def _transfer(probes: list[Probe]) -> Finding | None:
    return _worst(
        "transferred samples", [_fell(p) for p in probes if p.name == "surrogate"],
        "the model hides its gradients: attack a copy of it that was trained on its answers, or without the layer that "
        "hides them",
    )  # fmt: skip


def _fell(probe: Probe) -> tuple[str, int, int]:
    text = f"{probe.broken} of {probe.cases} cases that held under {probe.threat} fall to {probe.attack}"
    return text, probe.cases, probe.broken


def is_clear(probe: Probe) -> bool:
    """Whether more cases fell than may be left to chance."""
    return _is_clear(probe.broken, probe.cases)


def _is_clear(count: int, of: int) -> bool:
    return count >= _FEW and count >= _GAIN * of


def _worst(name: str, told: list[tuple[str, int, int]], remedy: str) -> Finding | None:
    """A warning that names those that are clearly too many, a note where there are some at all."""
    told = [(text, of, count) for text, of, count in told if of]
    if not told:
        return None
    clear = [text for text, of, count in told if _is_clear(count, of)]
    some = [text for text, _, count in told if count]
    if clear:
        return Finding(name, "warning", "; ".join(clear), remedy)
    if some:
        return Finding(name, "note", "; ".join(some), f"few enough to be left to chance{_ELSE}{remedy}")
    return Finding(name, "ok", "; ".join(text for text, *_ in told), "")


def _names(group: Sequence[_Trial]) -> str:
    return " and ".join(dict.fromkeys(t.attack for t in group))


def _errors(trials: list[_Trial]) -> list[Finding]:
    found = []
    for trial in trials:
        failed = trial.cases["error"].drop_nulls()
        if len(failed):
            evidence = f"{len(failed)} of {len(trial.cases)} cases of {trial.attack} under {trial.threat}"
            remedy = "they count as not robust; mend the cause and audit again"
            found.append(
                Finding("cases that could not be run", "warning", f"{evidence}: {failed[0].rstrip('.')}", remedy)
            )
    return found


def _queries(run: Path, trials: list[_Trial]) -> list[Finding]:
    """Of an endpoint: what it was asked, and what the end of its budget has cut short."""
    used = log.read_usage(run)
    if used is None:
        return []
    most = "" if used.budget is None else f" of a budget of {used.budget}"
    evidence = (
        f"{used.sent} rows sent{most}, in {used.requests} requests of which {used.retried} were retries; {used.known} times "
        "a row was answered from the ledger"
    )
    if not used.is_spent:
        return [
            Finding("queries", "note", evidence, f"the same command asks none of them again; ledger: {used.ledger}")
        ]
    left = sum(int(t.cases["error"].fill_null("").str.starts_with("the budget of").sum()) for t in trials)
    if left:
        cut = f"{left} cases were left without an answer and could not be run"
    elif any(t.is_minimal for t in trials):
        cut = "no case was left without an answer, but what was found may not be the nearest yet, or probes were cut short"
    else:
        cut = "no case was left without an answer; what was cut short is the doctor's probes"
    remedy = f"{cut}: the same command with a larger --budget goes on"
    return [Finding("queries", "warning", f"{evidence}; the budget is spent", remedy)]
