"""The command line takes every command that a page shows, and no notebook imports the application."""

import re
import shlex

import pytest
from test_notebooks import NAMES, ROOT, TEXTS, build

from roadtopo_lib.app.cli import build_parser

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data_samples" / "README.md"])


def commands(prose: str) -> list[str]:
    """What follows ``road-topology`` in the code blocks of a page, continued lines joined."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", prose, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "bash", "text")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("road-topology ") for line in lines if line.startswith("road-topology ")]


def prose_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in build.read_text(path).cells if cell.cell_type == "markdown")


def test_commands_are_found_in_code_blocks_only():
    page = "```python\nroad-topology no\n```\nroad-topology no\n"
    page += "```bash\nroad-topology a \\\n  --b\n# c\nroad-topology d  # e\n```\n"
    assert [shlex.split(line, comments=True) for line in commands(page)] == [["a", "--b"], ["d"]]
    assert sum(len(commands(prose_of(page))) for page in [*PAGES, *TEXTS]) > 5


@pytest.mark.parametrize("page", [*PAGES, *TEXTS], ids=lambda page: page.stem)
def test_every_command_on_the_page_is_understood(page):
    for line in commands(prose_of(page)):
        assert build_parser().parse_args(shlex.split(line, comments=True)).run, line


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_no_notebook_imports_the_application(text):
    assert not re.search(r"^\s*(from|import) roadtopo_lib\.app", text.read_text(encoding="utf-8"), re.MULTILINE)
