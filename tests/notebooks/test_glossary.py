"""The glossary: the page is that of the table, and the notebooks' texts lean on it."""

import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

import build  # noqa: E402
import glossary  # noqa: E402

TEXTS = build.texts()
TERMS = glossary.read_terms()
LONGEST_SENTENCE = 30
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")


@cache
def cells_of(text):
    return [cell.source for cell in build.read_text(text).cells if cell.cell_type == "markdown"]


def of_notebook(text):
    return [term for term in TERMS if str(term.notebook) == glossary.number_of(text)]


def test_the_page_is_what_the_table_gives():
    notebooks = [build.notebook_of(text).relative_to(build.FOLDER) for text in TEXTS]
    written = glossary.PAGE.read_text(encoding="utf-8")
    assert written == glossary.page(TERMS, notebooks), "run `python notebooks/build.py --cells`"
    for term in TERMS:
        assert written.count(f'<a id="{term.anchor}"></a>') == 1
    for target in re.findall(r"\]\(([^)#]+)\)", written):
        assert (build.FOLDER / target).is_file()


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.anchor)
def test_a_term_is_explained_in_one_short_sentence(term):
    assert re.fullmatch(r"[^|\n]+\.", term.sentence)
    assert not re.search(r"[.!?] [A-Z]", term.sentence), "one sentence"
    assert len(term.sentence.split()) <= LONGEST_SENTENCE
    assert not HANGUL.search(term.term + term.sentence)
    assert re.fullmatch(r"|(L2 )?[\uac00-\ud7a3 ]+( IoU)?", term.korean)


def test_no_two_rows_explain_the_same_term():
    assert len({term.anchor for term in TERMS}) == len(TERMS)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.anchor)
def test_a_term_stands_in_the_text_of_the_notebook_that_the_table_names(term):
    (text,) = (text for text in TEXTS if glossary.number_of(text) == str(term.notebook))
    prose = glossary.prose_of("\n".join(cells_of(text)))
    assert term.pattern.search(prose), f"{text.name} never says {term.term!r}: change the row, or drop it"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
class TestText:
    def test_every_link_to_the_glossary_has_an_anchor_there(self, text):
        known = {term.anchor for term in TERMS}
        for source in cells_of(text):
            assert source.count("GLOSSARY.md") == len(glossary.linked_anchors(source)), "a link without an anchor"
            assert set(glossary.linked_anchors(source)) <= known

    def test_the_terms_that_it_introduces_are_linked_once(self, text):
        links = [anchor for source in cells_of(text) for anchor in glossary.linked_anchors(source)]
        assert len(links) == len(set(links))
        assert glossary.link_terms(cells_of(text), of_notebook(text), glossary.page_from(text)) == cells_of(text), (
            f"run `python notebooks/build.py --link {text.stem}`"
        )

    def test_korean_words_stand_in_the_glossary_only(self, text):
        found = [line for line in text.read_text(encoding="utf-8").splitlines() if HANGUL.search(line)]
        assert not found


def term(name):
    return glossary.Term(name, "", "Sentence.", 1)


def test_a_term_is_linked_once_in_italics_or_else_at_its_first_appearance():
    cells = ["# Token and loss", "A `token`, $token$, [a token](x.md).\nA *token* and the Tokens.", "token"]
    assert glossary.link_terms(cells, [term("token")]) == [
        cells[0],
        "A `token`, $token$, [a token](x.md).\nA *[token](GLOSSARY.md#token)* and the Tokens.",
        cells[2],
    ]
    solution = "<details><summary>Solution</summary>\n\nA token.\n</details>"
    assert glossary.link_terms([solution], [term("token")]) == [solution]
    assert glossary.link_terms(["Tokens.\n\nA *token*."], [term("token")]) == [
        "Tokens.\n\nA *[token](GLOSSARY.md#token)*."
    ]
    assert glossary.link_terms(["Tokenizer, sub-token, tokens."], [term("token")]) == [
        "Tokenizer, sub-token, [tokens](GLOSSARY.md#token)."
    ]


def test_a_term_that_is_linked_already_stays_so_and_longer_terms_come_first():
    linked = ["A mask. An [instance mask](GLOSSARY.md#instance-mask)."]
    assert glossary.link_terms(linked, [term("instance mask")]) == linked
    assert glossary.link_terms(["An instance mask, a mask."], [term("mask"), term("instance mask")]) == [
        "An [instance mask](GLOSSARY.md#instance-mask), a [mask](GLOSSARY.md#mask)."
    ]


def test_a_link_keeps_a_paragraph_whole_within_the_width():
    lines = [
        "* One item of a list that is short.",
        f"* {'word ' * 15}the learning",
        f"  rate {'word ' * 15}end.",
        "",
        "| a | table with a learning rate |",
    ]
    (linked,) = glossary.link_terms(["\n".join(line.rstrip() for line in lines)], [term("learning rate")])
    assert max(map(len, linked.splitlines())) <= glossary.WIDTH
    assert glossary.prose_of(linked) == glossary.prose_of("\n".join(lines))
    assert "[learning rate](GLOSSARY.md#learning-rate)" in " ".join(linked.split())
    assert linked.splitlines()[0] == lines[0]
    assert linked.splitlines()[-1] == lines[-1]

    quote = "\n".join(["> **Predict first.** " + "word " * 14, "> " + "word " * 17 + "the seed?"])
    (linked,) = glossary.link_terms([quote], [term("seed")])
    assert all(line.startswith("> ") and len(line) <= glossary.WIDTH for line in linked.splitlines())
    assert glossary.prose_of(linked.replace("\n> ", " ")) == glossary.prose_of(quote.replace("\n> ", " "))
