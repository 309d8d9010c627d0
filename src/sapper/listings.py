"""What there is to choose from: attacks, suites and the taxonomy of threats, as tables or as JSON."""

from itertools import product

import msgspec
from rich.console import Console
from rich.table import Column, Table

from sapper import catalogue
from sapper.attack import stages
from sapper.errors import unknown
from sapper.foreign import Access
from sapper.goal import KINDS
from sapper.output import print_json

CAPABILITIES = {
    "gradients": "architecture and weights",
    "scores": "an oracle that answers with scores",
    "labels": "an oracle that answers with labels",
}


def list_attacks(given: Access, *, as_json: bool, printer: Console) -> None:
    found = {
        name: method
        for name, method in catalogue.attacks().items()
        if catalogue.serves(catalogue.access(method), given)
    }
    if as_json:
        print_json([_facts(name) for name in found])
        return
    table = Table(Column("name", no_wrap=True), "norms", "access", "paper", "what it does")
    for name, method in found.items():
        paper = f"{method.paper.authors.split(',')[0]} {method.paper.year}"
        table.add_row(
            name, " ".join(catalogue.norms(method)), catalogue.demands(method), paper, catalogue.description(method)
        )
    printer.print(table)
    known = Table(Column("suite", no_wrap=True), "attacks", "what it is for")
    for name, suite in catalogue.suites().items():
        every = [stage for one in suite.cascade or suite.attacks for stage in stages(catalogue.attack(one))]
        if not all(catalogue.serves(catalogue.needs(stage), given) for stage in every):
            continue
        known.add_row(name, " ".join(suite.cascade or suite.attacks), " ".join(suite.about.split()))
    printer.print(known)


def show_attack(name: str, *, as_json: bool, printer: Console) -> None:
    if suite := catalogue.suites().get(name):
        _show_suite(name, suite, as_json=as_json, printer=printer)
        return
    facts = _facts(name)
    if as_json:
        print_json(facts)
        return
    method = catalogue.attacks()[name]
    printer.print(f"[bold]{name}[/]  {catalogue.description(method)}")
    minimal = ", also norm:min" if method.minimal else ""
    printer.print(f"norms: {' '.join(catalogue.norms(method))}{minimal}   access: {catalogue.demands(method)}")
    printer.print(
        f"{method.paper.authors} ({method.paper.year}): {method.paper.title}. {method.paper.url}", highlight=False
    )
    if not catalogue.options(method):
        printer.print("no options")
        return
    table = Table("option", "type", "default", "help")
    for option in catalogue.options(method):
        table.add_row(option.name, option.type, str(option.default), option.help)
    printer.print(table)
    printer.print(f"use: --attack '{name}:{catalogue.options(method)[0].name}=…'", highlight=False)


def _show_suite(name: str, suite: catalogue.Suite, *, as_json: bool, printer: Console) -> None:
    if as_json:
        print_json({"name": name, **msgspec.to_builtins(suite)})
        return
    printer.print(f"[bold]{name}[/]  {' '.join(suite.about.split())}", highlight=False)
    for attack in suite.cascade or suite.attacks:
        printer.print(f"  {attack}", markup=False, highlight=False)
    use = f"use: --attack {name}" if suite.cascade else "what an audit does by itself"
    printer.print(use, highlight=False)


def show_taxonomy(printer: Console) -> None:
    """Adversarial goals against capabilities (Papernot et al. 2016, Fig. 2), with the attacks that serve each cell."""
    found = catalogue.attacks()
    columns = [Column(f"{access}: {what}", overflow="fold") for access, what in CAPABILITIES.items()]
    columns[0].min_width = max(map(len, found))
    table = Table("goal", *columns, show_lines=True)
    cells = {
        (goal, access): [
            n
            for n, m in found.items()
            if access == ("gradients" if catalogue.learner(m) else catalogue.access(m))  # who knows the parts knows all
            and not (goal == KINDS[0] and catalogue.access(m) == "labels")
        ]
        for goal, access in product(KINDS, CAPABILITIES)
    }
    for goal in KINDS:
        table.add_row(goal, *(" ".join(cells[goal, access]) or "-" for access in CAPABILITIES))
    printer.print(table)
    printer.print("goals: confidence:0.5  misclassification  targeted:every|random|least-likely|N  source-target:S->T")
    printer.print("budgets: linf:8/255  l2:0.5  l1:10  l0:112  l0:14.5% (of the features)  NORM:min (the smallest)")


def _facts(name: str) -> dict[str, object]:
    found = catalogue.attacks()
    if name not in found:
        raise unknown("attack", name, found)
    method = found[name]
    return {
        "name": name,
        "description": catalogue.description(method),
        "norms": catalogue.norms(method),
        "minimal": method.minimal,
        "access": catalogue.access(method),
        "learner": getattr(catalogue.learner(method), "kind", None),
        "options": [vars(option) for option in catalogue.options(method)],
        "paper": vars(method.paper) | {"bibtex": method.paper.bibtex()},
    }
