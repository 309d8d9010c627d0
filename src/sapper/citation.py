"""The paper behind a method."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    """Family names after initials, separated by commas: "N. Papernot, P. McDaniel"."""
    year: int
    url: str
    venue: str = ""

    @property
    def key(self) -> str:
        """papernot2016limitations"""
        first = self.authors.split(",")[0].split()[-1]
        long_words = [word for word in re.findall(r"[a-z]+", self.title.lower()) if len(word) > 3]
        return f"{re.sub(r'[^a-z]', '', first.lower())}{self.year}{(long_words or ['paper'])[0]}"

    def bibtex(self) -> str:
        authors = " and ".join(name.strip() for name in self.authors.split(","))
        entry = [("title", f"{{{self.title}}}"), ("author", authors), ("year", str(self.year)), ("url", self.url)]
        if self.venue:
            entry.insert(2, ("booktitle", self.venue))
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in entry)
        return f"@{'inproceedings' if self.venue else 'misc'}{{{self.key},\n{body}}}\n"
