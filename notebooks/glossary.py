"""The glossary of the course: ``glossary.yaml`` → ``GLOSSARY.md``, and the links of the texts to it.

``build.py`` writes the page at every call. ``python notebooks/build.py --link 03_model`` links each term that notebook
3 introduces, once: ``[token](GLOSSARY.md#token)``.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent
TABLE = FOLDER / "glossary.yaml"
PAGE = FOLDER / "GLOSSARY.md"
WIDTH = 98
"""Longest line of prose in a cell; in the text, "# " stands before it."""

NO_LINK = re.compile(
    r"^<details>.*?^</details>|^```.*?^```|^\$\$.*?^\$\$|^#+ .*?$|^\|.*?$"
    r"|`[^`]*`|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>",
    re.DOTALL | re.MULTILINE,
)
"""Where no link goes: solutions, fenced code, formulas, headings, tables, inline code, other links, HTML."""


@dataclass(frozen=True)
class Term:
    """One row of the table.

    Args:
        term: as it stands in the text of the notebook that introduces it; there it may have a plural s.
        korean: the Korean term, empty where there is none.
        sentence: what it means, at most 30 words.
        notebook: number of the notebook that introduces it, 1..7, or an elective's, ``"E1"``.
    """

    term: str
    korean: str
    sentence: str
    notebook: int | str

    @property
    def anchor(self) -> str:
        """``learning rate`` → ``learning-rate``."""
        return re.sub(r"[^\w]+", "-", self.term.lower()).strip("-")

    @property
    def pattern(self) -> re.Pattern:
        """Finds the term in prose: any case, any white space between its words, with or without a plural s."""
        words = r"\s+".join(re.escape(word) for word in self.term.split())
        return re.compile(rf"(?<![\w-]){words}s?(?![\w-])", re.IGNORECASE)


def read_terms(path: Path = TABLE) -> list[Term]:
    """The rows of the table, in its order.

    Raises:
        TypeError: a row with a missing or an unknown key.
    """
    return [Term(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]


def number_of(notebook: Path) -> str:
    """What the table calls a notebook: ``01_config.ipynb`` → "1", ``electives/E1_class_imbalance.ipynb`` → "E1"."""
    return notebook.stem.split("_")[0].lstrip("0")


def page(terms: Sequence[Term], notebooks: Sequence[Path]) -> str:
    """The glossary as Markdown, by alphabet, with an anchor for each term.

    Args:
        terms: rows of the table.
        notebooks: paths of all notebooks, relative to the page.
    """
    paths = {number_of(path): path.as_posix() for path in notebooks}
    lines = [
        "# Glossary",
        "",
        "Terms of the course in alphabetical order. The last column names the notebook that introduces a term.",
        "",
        "| term | Korean | meaning | notebook |",
        "|---|---|---|---|",
    ]
    for term in sorted(terms, key=lambda term: term.anchor):
        link = f"[{term.notebook}]({paths[str(term.notebook)]})"
        lines.append(f'| <a id="{term.anchor}"></a>**{term.term}** | {term.korean} | {term.sentence} | {link} |')
    return "\n".join(lines) + "\n"


def write_page(notebooks: Sequence[Path]) -> None:
    """Writes ``GLOSSARY.md`` if it would change."""
    content = page(read_terms(), notebooks)
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != content:
        PAGE.write_text(content, encoding="utf-8")


def page_from(notebook: Path) -> str:
    """Where the glossary lies, seen from a notebook's folder: an elective's lies one folder up."""
    return f"../{PAGE.name}" if notebook.parent.name == "electives" else PAGE.name


def prose_of(source: str) -> str:
    """Markdown without emphasis and link targets, white space as single spaces."""
    return " ".join(re.sub(r"[*`]|\]\([^)]*\)|\[", "", source).split())


def linked_anchors(source: str) -> list[str]:
    """Anchors of the glossary to which a Markdown cell links."""
    return re.findall(r"\]\((?:\.\./)?GLOSSARY\.md#([^)\s]*)\)", source)


def link_terms(sources: Sequence[str], terms: Sequence[Term], page: str = PAGE.name) -> list[str]:
    """Makes a link of each term that is not linked yet: where it stands in italics, else at its first appearance.

    Args:
        sources: Markdown cells of a notebook in their order.
        terms: what to link, usually the terms that the notebook introduces.
        page: the glossary, as seen from the notebook.

    Returns:
        The cells with links; paragraphs that have become too wide are filled again. A term that stands in headings,
        tables, code or solutions only gets no link.
    """
    linked = list(sources)
    present = {anchor for source in sources for anchor in linked_anchors(source)}
    for term in sorted(terms, key=lambda term: -len(term.term)):  # "instance mask" before "mask"
        places = [] if term.anchor in present else _places(linked, term)
        if places:
            _, number, start, end = min(places)
            words = " ".join(linked[number][start:end].replace("\n> ", " ").split())
            link = f"[{words}]({page}#{term.anchor})"
            linked[number] = linked[number][:start] + link + linked[number][end:]
    return [new if new == old else _filled(new) for old, new in zip(sources, linked, strict=True)]


def _places(sources: Sequence[str], term: Term) -> list[tuple[bool, int, int, int]]:
    """(not in italics, cell, start, end) wherever a link of the term may stand."""
    places = []
    for number, source in enumerate(sources):
        taken = [match.span() for match in NO_LINK.finditer(source)]
        for match in term.pattern.finditer(source):
            start, end = match.span()
            if not any(start < last and first < end for first, last in taken):
                in_italics = source[:start].endswith("*") and source[end:].startswith("*")
                places.append((not in_italics, number, start, end))
    return places


def _filled(source: str) -> str:
    """Fills the paragraphs and list items that hold a line wider than ``WIDTH``."""
    # A block begins at a list item or after an empty line; tables, headings, formulas and code are left alone.
    blocks = re.split(r"(\n\n+|\n(?=\s*(?:[*-]|\d+\.) ))", source)
    return "".join(_fill_block(block) if index % 2 == 0 else block for index, block in enumerate(blocks))


def _fill_block(block: str) -> str:
    lines = block.split("\n")
    if max(len(line) for line in lines) <= WIDTH or re.match(r"\s*(\||#|```|\$\$|<)", block):
        return block
    first, after = re.match(r"\s*(?:> ?)?(?:[*-] |\d+\. )?", block).group(), ""
    if first.lstrip().startswith(">"):
        lines, after = [re.sub(r"^\s*> ?", "", line) for line in lines], first
    else:
        lines[0], after = lines[0].removeprefix(first), " " * len(first)
    text = " ".join(line.strip() for line in lines)
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )
