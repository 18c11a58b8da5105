"""What every notebook must be, apart from running (nbval sees to that): paired, whole, small, of one shape."""

import itertools
import re
import statistics
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

import build  # noqa: E402

from roadtopo_lib.course import colab_cell, repository_address, setup_cell  # noqa: E402

TEXTS = build.texts()
NAMES = [text.stem for text in TEXTS]
DOCUMENT = {True: "## Where the document differs", False: "## Where the guide differs"}
"""Heading of the appendix on what this course was made from: electives have documents of their own."""
MAX_BYTES = 500_000
CODE_CELLS = range(30, 56)
MEDIAN_LINES, NINE_IN_TEN_LINES = 5, 28
WORDS_PER_LINE = 8
"""Of prose for each line of code, in notebooks 1 to 4."""
LONGEST_LINE = 100
CLAIMS = "# @title Claims of this notebook, asserted"
PREDICTIONS = 3
EXERCISES = range(3, 7)


def stored(text: Path) -> nbformat.NotebookNode:
    return nbformat.read(build.notebook_of(text), as_version=4)


def tagged(notebook: nbformat.NotebookNode, prefix: str) -> dict[str, nbformat.NotebookNode]:
    """Cells by the rest of their tag: ``exercise:NAME`` → NAME."""
    return {
        tag.removeprefix(prefix): cell
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(prefix)
    }


def is_elective(text: Path) -> bool:
    return text.parent.name == "electives"


def chapter(text: Path) -> str:
    """``"1"``, ``"E1"``."""
    return build.glossary.number_of(text)


def strip_argument(text: Path) -> str:
    return f'"{chapter(text)}"' if is_elective(text) else chapter(text)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags_of(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def taught_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells whose source is not folded."""
    return [cell for cell in code_cells(notebook) if not tags_of(cell) & build.FOLDED]


def line_count(cells: list[nbformat.NotebookNode]) -> int:
    return sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines())


def word_count(notebook: nbformat.NotebookNode) -> int:
    """Words of the prose, without the code of solutions."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return len(re.sub(r"```.*?```", "", prose, flags=re.DOTALL).split())


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ .*$", prose, re.MULTILINE)


def test_every_notebook_has_a_text_and_every_text_a_notebook():
    assert [path.stem for path in sorted((ROOT / "notebooks").rglob("*_*.ipynb"))] == NAMES


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
class TestNotebook:
    def test_notebook_and_text_say_the_same(self, text):
        assert build.as_text(stored(text)) == text.read_text(encoding="utf-8"), "run `make notebooks`"

    def test_generated_cells_are_the_librarys(self, text):
        repository = repository_address(ROOT / "pyproject.toml")
        notebook = stored(text)
        assert tagged(notebook, "set-up")[""].source == setup_cell(repository)
        assert tagged(notebook, "colab")[""].source == colab_cell(build.name_of(text), repository)

    def test_it_was_run_from_the_first_cell_to_the_last(self, text):
        cells = code_cells(stored(text))
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        errors = [o for cell in cells for o in cell.outputs if o.output_type == "error"]
        assert not errors

    def test_nothing_is_skipped(self, text):
        tags = [tag for cell in stored(text).cells for tag in cell.metadata.get("tags", [])]
        assert not {"nbval-skip", "nbval-raises-exception", "raises-exception", "skip-execution"} & set(tags)
        assert not [cell for cell in stored(text).cells if "NBVAL_" in cell.source]  # the same, as comments

    def test_a_cell_that_is_not_compared_is_backed_by_an_assertion(self, text):
        """Of its own; a trap's fix asserts the symptom, too, and the claims assert what answers a question."""
        cells = code_cells(stored(text))
        assert [cell for cell in cells if cell.source.startswith(CLAIMS) and "assert " in cell.source]
        for cell in cells:
            if "nbval-ignore-output" in tags_of(cell) and not tags_of(cell) & {"trap:broken", build.ANSWER}:
                assert "assert" in cell.source, f"this cell asserts nothing:\n{cell.source}"

    def test_its_parts_come_in_the_courses_order(self, text):
        titles = headings(stored(text))
        assert re.fullmatch(rf"# {chapter(text)} · .+", titles[0])
        parts = ("## Exercises", "## What we claimed", DOCUMENT[is_elective(text)], "## Next")
        places = [titles.index(title) for title in parts]
        assert places == sorted(places)
        assert any(title.startswith("## Trap: ") or title.startswith("### Trap: ") for title in titles)
        opening = "\n".join(cell.source for cell in stored(text).cells[:6])
        for part in ("**You will be able to**", "**You need**", "**Time**"):
            assert part in opening

    def test_it_opens_with_a_sentence_and_the_strip(self, text):
        cells = stored(text).cells
        assert [cell.cell_type for cell in cells[:3]] == ["markdown", "code", "code"]
        assert "set-up" in tags_of(cells[1])
        title, _, opening = cells[0].source.partition("\n")
        assert title.startswith("# ")
        assert 5 <= len(opening.split()) <= 45
        assert len(re.findall(r"[.!?](?=\s|$)", opening)) == 1
        assert f"strip({strip_argument(text)}" in cells[2].source
        assert line_count(cells[2:3]) <= 5
        assert "image/png" in cells[2].outputs[0].data

    def test_it_closes_with_the_strip_filled_and_the_learners_progress(self, text):
        last = code_cells(stored(text))[-1]
        assert f"strip({strip_argument(text)}, closing=True" in last.source
        assert last.source.endswith(f'\nprogress("{chapter(text)}")' if is_elective(text) else "\nprogress()")

    def test_what_is_not_taught_is_folded(self, text):
        for cell in code_cells(stored(text)):
            hidden = (cell.metadata.get("jupyter", {}).get("source_hidden"), cell.metadata.get("cellView"))
            folded = bool(tags_of(cell) & build.FOLDED)
            assert hidden == ((True, "form") if folded else (None, None))
            assert cell.source.startswith("# @title ") == folded  # what Colab shows of a folded cell

    def test_learners_commit_to_guesses(self, text):
        """A guess stands alone; what answers it is folded, below it; nothing between the two shows anything."""
        prose = [cell.source for cell in stored(text).cells if cell.cell_type == "markdown"]
        cells = code_cells(stored(text))
        asking = [k for k, cell in enumerate(cells) if re.search(r"^my_guess\b", cell.source, re.MULTILINE)]
        assert sum("**Predict first.**" in source for source in prose) == len(asking) >= PREDICTIONS
        for k in asking:
            assert cells[k].source == "my_guess = None"
            assert not tags_of(cells[k])
            answer = next(j for j in range(k + 1, len(cells)) if "reveal(my_guess," in cells[j].source)
            assert tags_of(cells[answer]) >= {"folded", build.ANSWER, "nbval-ignore-output"}
            for cell in cells[k + 1 : answer]:
                assert cell.source != "my_guess = None"
                assert not cell.outputs
                assert "assert" not in cell.source

    def test_no_answer_is_stored(self, text):
        """Neither as output nor in the source: pages that run nothing show folded cells open."""
        for cell in code_cells(stored(text)):
            if build.ANSWER in tags_of(cell):
                assert cell.outputs == []
                assert "nbval-ignore-output" in tags_of(cell)
                told = re.findall(r"\bassert\w*|\w*title\w*", cell.source.removeprefix("# @title "))
                assert not told, f"{told} may tell the answer:\n{cell.source}"

    def test_what_claims_quote_stands_in_the_notebook(self, text):
        cells = stored(text).cells
        claims = [cell for cell in cells if cell.source.startswith("# @title Claims of this notebook")]
        others = "\n".join(cell.source for cell in cells if cell not in claims)
        said = " ".join(re.sub(r"^# |[*_`]", "", others, flags=re.MULTILINE).split()).casefold()
        comments = re.findall(r"  # (.*)$", "\n".join(cell.source for cell in claims), re.MULTILINE)
        quotes = [quote for comment in comments for quote in re.findall(r'"([^"]+)"', comment)]
        pieces = [piece.strip() for quote in quotes for piece in re.sub(r"[*_`]", "", quote).split("…")]
        assert not [piece for piece in pieces if piece.casefold() not in said]

    def test_every_picture_has_words(self, text):
        for cell in code_cells(stored(text)):
            assert "plt.show()" not in cell.source, "`show(figure, alt)` gives the picture its words"
            for output in cell.outputs:
                for kind in ("image/png", "image/jpeg"):
                    if kind in output.get("data", {}):
                        assert len(output.metadata[kind]["alt"]) >= 25, cell.source

    def test_where_the_guide_differs_is_an_appendix(self, text):
        cells = stored(text).cells
        start = next(i for i, cell in enumerate(cells) if cell.source.startswith(DOCUMENT[is_elective(text)]))
        assert "<details>" in cells[start].source + cells[start + 1].source
        assert not [title for title in headings(stored(text)) if "guide says" in title]

    def test_lines_fit_the_page(self, text):
        too_long = [
            line for cell in stored(text).cells for line in cell.source.splitlines() if len(line) > LONGEST_LINE
        ]
        assert not [line for line in too_long if "](" not in line and not line.startswith("|")]  # links and tables wrap

    def test_no_wrapped_line_begins_a_list_or_a_heading(self, text):
        """CommonMark lets these interrupt a paragraph; a line wrap before "1." made one."""
        begins = re.compile(r"(1[.)]|[-+*]|#{1,6}) ")
        belongs = re.compile(r"$|\s|>|<|\d+[.)] |[-+*] |#{1,6} ")  # a blank line, or a list or heading before
        for cell in stored(text).cells:
            if cell.cell_type == "markdown":
                lines = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL).splitlines()
                pairs = itertools.pairwise(lines)
                assert not [b for a, b in pairs if begins.match(b) and not belongs.match(a)]

    def test_no_cell_shows_what_its_last_call_happens_to_return(self, text):
        for cell in code_cells(stored(text)):
            shown = [o.data.get("text/plain", "") for o in cell.outputs if o.output_type == "execute_result"]
            assert not [value for value in shown if re.fullmatch(r"-?\d+", value)], cell.source

    def test_prose_outweighs_code(self, text):
        if chapter(text) in "1234":
            assert word_count(stored(text)) >= WORDS_PER_LINE * line_count(taught_cells(stored(text)))

    def test_every_trap_is_run_broken_and_mended_and_both_are_asserted(self, text):
        broken = mended = 0
        for cell in code_cells(stored(text)):
            tags = cell.metadata.get("tags", [])
            broken += "trap:broken" in tags
            if "trap:mended" in tags:
                mended += 1
                assert cell.source.count("assert ") >= 2
        assert broken == mended == sum("Trap: " in title for title in headings(stored(text)))

    def test_exercises_have_stub_check_and_solution(self, text):
        notebook = stored(text)
        names = set(tagged(notebook, "exercise:"))
        assert len(names) in EXERCISES
        assert names == set(tagged(notebook, "check:")) == set(tagged(notebook, "solution:"))

    def test_code_is_in_bites(self, text):
        cells = code_cells(stored(text))
        lines = [len(cell.source.splitlines()) for cell in cells]
        assert len(taught_cells(stored(text))) in CODE_CELLS
        assert statistics.median(lines) <= MEDIAN_LINES
        assert sum(n < NINE_IN_TEN_LINES for n in lines) >= 0.9 * len(lines)

    def test_it_is_small_and_holds_no_widget_without_state(self, text):
        assert build.notebook_of(text).stat().st_size <= MAX_BYTES
        widgets = stored(text).metadata.get("widgets", {})
        assert all("state" in value for value in widgets.values())

    def test_no_output_names_a_folder_or_an_address_in_memory(self, text):
        for cell in code_cells(stored(text)):
            for output in cell.outputs:
                shown = output.get("text", "") + output.get("data", {}).get("text/plain", "")
                assert not re.search(r"0x[0-9a-f]{6,}|/(tmp|home|root|work|usr)/", shown), shown
