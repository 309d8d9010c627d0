"""The black-box study's variants: what hangs on the training of the substitute."""

from dataclasses import replace

from sapper.claims import Part, Table
from sapper.lab import Lab
from sapper.studies import _black_box_oracles as oracles
from sapper.studies._black_box_common import EPS, Row, logistic, network
from sapper.studies._teaching import share
from sapper.studies._theft_common import Plan, Victim, fooled, robbed


def training(lab: Lab) -> Part:
    """What the papers do not say of training, or what we would do instead."""
    sets: list[tuple[str, Victim, list[tuple[str, Plan]]]] = [
        ("amazon", oracles.amazon(lab), [
            ("LR as above, batches of 100", logistic(lab)),
            ("LR, batches of 10", replace(logistic(lab), batch_size=10)),
            ("LR, our recipe", _ours(logistic(lab))),
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
            seen = fooled(lab, rounds[-1].module, victim, EPS)
            said = ", ".join(f"{100 * one.agreement:.1f}" for one in rounds)
            rows.append([name, told, rounds[-1].queries, said, share(seen.substitute), share(seen.oracle)])
    return Part(
        title="What hangs on the training of the substitute",
        text="Neither paper says how many samples a batch had, which decides how many steps ten epochs of a hundred samples "
        "are.",
        tables=[Table(title=f"in %, eps {EPS}", rows=rows, columns=["oracle", "substitute", "questions", "agreement by round",
                      "it is fooled", "the oracle is fooled"])],
    )  # fmt: skip


def _ours(plan: Plan) -> Plan:
    """As `sapper steal` trains by default."""
    return replace(plan, epochs=None, batch_size=None, learning_rate=None, momentum=None, rate_schedule="linear")
