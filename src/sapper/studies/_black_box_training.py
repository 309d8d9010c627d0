"""The black-box study's variants: what hangs on the training of the substitute, and on the network that is stolen."""

from dataclasses import replace

import torch
from torch import nn

from sapper.claims import Part, Table
from sapper.data.dataset import Data
from sapper.lab import Lab, answers
from sapper.models import softmax
from sapper.studies import _black_box_oracles as oracles
from sapper.studies._black_box_common import EPS, SIZES, Row, logistic, network
from sapper.studies._teaching import Halved, share, taught
from sapper.studies._theft_common import Plan, Victim, fooled, robbed
from sapper.substitute import by_jacobian

_TEXT = (
    "Neither paper says how many samples a batch had, which decides how many steps ten epochs of a hundred samples are, nor "
    "with what weights training begins: at pixels that no sample uses they stay, and one step follows their signs. "
    "Amazon's service did not show the regression bare pixels if it was left to itself (from memory): its recipes put "
    "numbers into quantile bins, so that a step of 0.3 from black is as good as ink. Nor may the oracle's weights begin "
    "where the substitute's do, as they would with the same library and seed: the noise that both keep makes a theft look "
    "better than it is. Nothing is known of MetaMind's network either but its accuracy: the last table has others in its "
    "place, stolen in the same way."
)


def training(lab: Lab) -> Part:
    """What the papers do not say of training, or what we would do instead."""
    sets: list[tuple[str, Victim, list[tuple[str, Plan]]]] = [
        ("amazon", oracles.amazon(lab), [
            ("LR as above, batches of 100", logistic(lab)),
            ("LR, batches of 10", replace(logistic(lab), batch_size=10)),
            ("LR, our recipe", _ours(lab, logistic(lab))),
        ]),
        ("metamind", oracles.metamind(lab), [
            ("DNN as above, batches of 100", network(lab)),
            ("DNN, batches of 10", replace(network(lab), batch_size=10)),
            ("DNN with the periodic step", replace(network(lab), period=3)),
        ]),
    ]  # fmt: skip
    rows: list[Row] = []
    for name, victim, plans in sets:
        for told, plan in plans:
            rounds = robbed(lab, victim, plan)
            said = ", ".join(f"{100 * one.agreement:.1f}" for one in rounds)
            rows.append([name, told, rounds[-1].queries, said, *_judged(lab, victim, rounds[-1].module)])
        if name == "amazon":
            modules, asked = _from_nought(lab, victim, logistic(lab))
            said = ", ".join(f"{100 * _alike(module, victim):.1f}" for module in modules)
            rows.append([name, "LR from weights of nought, halved", asked, said, *_judged(lab, victim, modules[-1])])
    return Part(
        title="What hangs on training, and on the oracle",
        text=_TEXT,
        tables=[
            Table(title=f"in %, eps {EPS}", rows=rows, columns=["oracle", "substitute", "questions", "agreement by round",
                  "it is fooled", "the oracle is fooled"]),
            Table(title=f"other logistic regressions in Amazon's place, in %, eps {EPS}", rows=_amazons(lab),
                  columns=["oracle", "accuracy", "agreement", "the substitute is fooled", "the oracle is fooled"]),
            Table(title="other networks in MetaMind's place, in %", rows=_others(lab),
                  columns=["oracle", "accuracy", "agreement", *(f"oracle, eps {eps}" for eps in SIZES)]),
        ],
    )  # fmt: skip


def _judged(lab: Lab, victim: Victim, module: nn.Module) -> Row:
    seen = fooled(lab, module, victim, EPS)
    return [share(seen.substitute), share(seen.oracle)]


def _alike(module: nn.Module, victim: Victim) -> float:
    return float((answers(module, victim.x) == victim.said).double().mean())


def _from_nought(lab: Lab, victim: Victim, plan: Plan) -> tuple[list[nn.Module], int]:
    """The transferability paper's LR substitute by its own schedule: rate and momentum halved after ten of 15 epochs.

    Its weights begin at nought, as in the tutorials of that time, so that pixels that never vary never count.
    """

    def build() -> nn.Module:
        module = softmax.build((1, 28, 28), 10)
        for weight in module.parameters():
            nn.init.zeros_(weight)
        return module

    x, modules = victim.x[: plan.seeds], list[nn.Module]()
    for number in range(plan.rounds + 1):
        said = answers(victim.module, x)
        known = Data("answers", x, said, tuple(map(str, range(10))))
        modules.append(taught(lab, f"nought-{number}", build, Halved(known, 15, rate=1e-2, after=10)))
        if number < plan.rounds:
            x = torch.cat([x, by_jacobian(modules[-1], x, said, 0.1).clamp(0, 1)])
    return modules, len(x)


def _amazons(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    for name, victim in {"as above": oracles.amazon(lab), **oracles.amazons(lab)}.items():
        one = robbed(lab, victim, logistic(lab))[-1]
        rows.append([name, share(victim.accuracy), share(one.agreement), *_judged(lab, victim, one.module)])
    return rows


def _others(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    for name, victim in {"as above": oracles.metamind(lab), **oracles.networks(lab)}.items():
        one = robbed(lab, victim, network(lab))[-1]
        seen = (fooled(lab, one.module, victim, eps).oracle for eps in SIZES)
        rows.append([name, share(victim.accuracy), share(one.agreement), *map(share, seen)])
    return rows


def _ours(lab: Lab, plan: Plan) -> Plan:
    """As `sapper steal` trains by default."""
    few = None if lab.scale == "paper" else plan.epochs  # by default small sets are gone through until a thousand steps
    return replace(plan, epochs=few, batch_size=None, learning_rate=None, momentum=None, rate_schedule="linear")
