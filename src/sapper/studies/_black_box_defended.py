"""The black-box study's defended oracles: retrained with adversarial samples, and with masked gradients."""

from sapper.claims import Part, Table, percent
from sapper.lab import Lab
from sapper.studies import _black_box_oracles as oracles
from sapper.studies._black_box_common import EPS, Entry, Row, logistic, network, stolen
from sapper.studies._teaching import share
from sapper.studies._theft_common import fooled, judged, robbed, stepped


def retrained(lab: Lab) -> Part:
    """Oracles that learned adversarial samples, too."""
    claims, tables, told = [], [], []
    papers = {"google": (94.2, 100.0), "amazon": (None, None)}
    for name, first in (("google", oracles.google(lab)), ("amazon", oracles.amazon(lab))):
        known = robbed(lab, first, logistic(lab))[-1].module
        again = oracles.retrained(lab, name, known, EPS)
        before, after = fooled(lab, known, first, EPS).oracle, fooled(lab, known, again, EPS).oracle
        told.append(f"{name}: accuracy {share(again.accuracy)} %; the samples that fooled {share(before)} % of it now fool "
                    f"{share(after)} %")  # fmt: skip
        paper = papers[name]
        entries = [Entry("DNN", network(lab), 3, paper[0]), Entry("DNN", network(lab), 6, paper[1])]
        found, table = stolen(lab, again, entries if name == "google" else [Entry("LR", logistic(lab), 3)],
                               "transferability paper, section 5")  # fmt: skip
        if name == "google":
            claims.append(percent("accuracy of the retrained oracle", "section 5", "stated", 91.25, again.accuracy,
                                  (90.0, 92.5)))  # fmt: skip
        claims += found
        tables.append(table)
    return Part(
        title="Retrained with adversarial samples",
        text="Each oracle learns one adversarial sample for every five images as well, crafted on the LR substitute that was "
        f"stolen of it before, rightly labelled; then it is stolen anew. {'; '.join(told)}.",
        claims=claims,
        tables=tables,
    )


def masked(lab: Lab) -> Part:
    """Oracles whose own gradient leads nowhere."""
    claims, rows = [], list[Row]()
    for name, make in (("plain", oracles.plain), ("distilled at T = 100", oracles.distilled),
                       (f"adversarially trained, eps {oracles.HARD}", oracles.hardened)):  # fmt: skip
        victim, module = make(lab)
        x_adv, still = oracles.own_step(module, victim.x, victim.y, EPS)
        own = judged(victim, module, x_adv).oracle
        freed = judged(victim, module, stepped(lab, module, victim.x, victim.y, EPS, loss="margin")).oracle
        one = robbed(lab, victim, network(lab))[-1]
        through = fooled(lab, one.module, victim, EPS).oracle
        rows.append([name, *(share(part) for part in (victim.accuracy, still, own, freed, one.agreement, through))])
        if make is not oracles.plain:
            claims.append(percent(f"{name}: fooled through the substitute less by its own gradient (points)",
                                  "section on defences", "derived", None, through - own, (0.01, 100.0),
                                  "the paper: masking gradients does not stop the attack"))  # fmt: skip
    return Part(
        title="Masked gradients",
        text=f"Networks of two layers of 200 units, one step of eps {EPS} each. Their own gradient is the cross-entropy's in "
        "single precision, as anyone would take it who has the weights: where it is nought throughout, the sample stays. "
        "That of the margin between logits needs the weights too, and shows that it is masked and not gone. The substitute "
        f"is stolen with {network(lab).questions} questions.",
        claims=claims,
        tables=[Table(title="in %", rows=rows, columns=["oracle", "accuracy", "gradient nought", "own gradient",
                      "own, of the margin", "agreement", "through the substitute"])],
    )  # fmt: skip
