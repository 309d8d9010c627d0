import pytest

from sapper import catalogue
from sapper.citation import Paper

PAPER = Paper(title="On the Limits of X", authors="A. de Boer, B. Ng", year=2016, url="https://x.org", venue="Proc. X")


def test_bibtex_of_a_conference_paper() -> None:
    assert PAPER.bibtex() == (
        "@inproceedings{boer2016limits,\n"
        "  title = {{On the Limits of X}},\n"
        "  author = {A. de Boer and B. Ng},\n"
        "  booktitle = {Proc. X},\n"
        "  year = {2016},\n"
        "  url = {https://x.org},\n"
        "}\n"
    )


def test_a_paper_without_a_venue_is_misc() -> None:
    text = Paper(title="A", authors="A. Müller", year=2020, url="u").bibtex()
    assert text.startswith("@misc{mller2020paper,\n")
    assert "booktitle" not in text


@pytest.mark.parametrize("name", sorted(catalogue.attacks()))
def test_every_attack_has_a_paper_that_can_be_cited(name: str) -> None:
    paper = catalogue.attacks()[name].paper
    assert paper.title
    assert 1980 < paper.year < 2100
    assert paper.url.startswith("https://")
    assert all(len(author.split()) > 1 for author in paper.authors.split(","))
    assert paper.bibtex().count("{") == paper.bibtex().count("}")


def test_keys_are_unique_in_the_catalogue() -> None:
    papers = {attack.paper.title: attack.paper.key for attack in catalogue.attacks().values()}  # some share one
    assert len(set(papers.values())) == len(papers)


def test_exactly_the_papers_used_are_cited_each_once() -> None:
    used = [catalogue.attack("5*pgd"), catalogue.attack("pgd:steps=3"), catalogue.attack("jsma")]
    assert [name for name, _ in catalogue.papers(used)] == ["pgd", "jsma"]
