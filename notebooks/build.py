"""Makes the notebooks from their texts: ``python notebooks/build.py [NAME ...]``, or ``make notebooks``.

What people write and review is ``notebooks/text/NAME.py`` (jupytext's py:percent format). This script writes the
generated cells into it, runs it from the first cell to the last in a fresh kernel, and stores the result with all
outputs as ``notebooks/NAME.ipynb``. ``--cells`` only rewrites the generated cells, in texts and notebooks alike: that
is how a new repository address (``pyproject.toml``, ``[tool.road-topology]``) gets into every badge and set-up cell.
Both write ``notebooks/GLOSSARY.md``, too. ``--link`` only links the terms that a text introduces to the glossary.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

import glossary  # noqa: E402

from roadtopo_lib.course import colab_cell, repository_address, setup_cell  # noqa: E402

FOLDED = {"set-up", "folded"}
"""Tags of cells whose source is folded: set-up, imports, claims."""
ANSWER = "answer"
"""Tag of cells that answer a question to the learner: their output is not stored, so that no viewer shows it."""
CELL_TIMEOUT = 600
"""Seconds."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FILTERS = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}
"""A text holds no metadata but the cells' tags."""
# What CI sets, too: one thread gives the same last digit everywhere, no cell may need the model hub, and none may see
# what a learner has kept.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ROADTOPO_LEARNER": "",
}


def main() -> int:
    """Parses, builds, prints a line a notebook."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="01_config ...; default all")
    parser.add_argument("--cells", action="store_true", help="only rewrite the generated cells; run nothing")
    parser.add_argument("--link", action="store_true", help="only link the terms that the texts introduce; run nothing")
    arguments = parser.parse_args()
    glossary.write_page([notebook_of(text).relative_to(FOLDER) for text in texts()])
    for text in texts(arguments.names):
        if arguments.link:
            link_terms(text)
            continue
        write_generated_cells(text)
        if arguments.cells:
            continue
        started = time.perf_counter()
        path = notebook_of(text)
        path.parent.mkdir(exist_ok=True)
        notebook = run(read_text(text), path.parent)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1000
        print(f"{text.stem}: {time.perf_counter() - started:.0f} s, {size:.0f} kB", flush=True)
    return 0


def texts(names: list[str] | None = None) -> list[Path]:
    """The texts of these notebooks, or of all."""
    if not names:
        return sorted((FOLDER / "text").rglob("*.py"))
    return [text for name in names for text in (FOLDER / "text").rglob(f"{Path(name).stem}.py")]


def name_of(text: Path) -> str:
    """``"01_config"``, ``"electives/E1_class_imbalance"``."""
    return text.relative_to(FOLDER / "text").with_suffix("").as_posix()


def notebook_of(text: Path) -> Path:
    """Where the notebook of a text lies."""
    return FOLDER / text.relative_to(FOLDER / "text").with_suffix(".ipynb")


def read_text(text: Path) -> NotebookNode:
    """A text as a notebook without outputs; cell ids follow the position, so that two builds do not differ."""
    notebook = jupytext.read(text, fmt="py:percent")
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{text.stem.split('_')[0]}-{index:03d}"
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def as_text(notebook: NotebookNode) -> str:
    """A notebook as py:percent, without a header: what its text must hold."""
    bare = nbformat.v4.new_notebook(cells=notebook.cells, metadata={"jupytext": FILTERS})
    return jupytext.writes(bare, fmt="py:percent")


def write_generated_cells(text: Path) -> None:
    """Replaces the cells tagged ``set-up`` and ``colab`` in a text and, if it exists, in its notebook."""
    repository = repository_address(FOLDER.parent / "pyproject.toml")
    sources = {"set-up": setup_cell(repository), "colab": colab_cell(name_of(text), repository)}
    notebook = read_text(text)
    _replace(notebook, sources)
    content = as_text(notebook)
    if content != text.read_text(encoding="utf-8"):
        text.write_text(content, encoding="utf-8")
    path = notebook_of(text)
    if path.exists():
        stored = nbformat.read(path, as_version=4)
        if _replace(stored, sources):
            nbformat.write(stored, path)


def link_terms(text: Path) -> None:
    """Links the first appearance of each term that the text introduces to the glossary."""
    notebook = read_text(text)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    terms = [term for term in glossary.read_terms() if str(term.notebook) == glossary.number_of(text)]
    linked = glossary.link_terms([cell.source for cell in prose], terms, glossary.page_from(text))
    for cell, source in zip(prose, linked, strict=True):
        cell.source = source
    text.write_text(as_text(notebook), encoding="utf-8")


def run(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Executes all cells in the folder, the notebook's own, and leaves nothing in it that changes from run to run."""
    os.environ.update(ENVIRONMENT)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell["outputs"] = _with_joined_streams(cell.get("outputs", []))
        for output in cell["outputs"]:
            # Without its kernel a live view would be an error message; the picture beside it stays.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        dress(cell)
    return notebook


def dress(cell: NotebookNode) -> None:
    """Sets what a cell's tags ask of the viewers: folded source in JupyterLab and Colab, no output of an answer."""
    tags = set(cell.metadata.get("tags", []))
    if tags & FOLDED:
        cell.metadata["jupyter"] = {"source_hidden": True}
        cell.metadata["cellView"] = "form"
    if ANSWER in tags:
        cell["outputs"] = []


def _with_joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Where the kernel cuts what a cell prints is chance; one piece is left."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _replace(notebook: NotebookNode, sources: dict[str, str]) -> bool:
    changed = False
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag in sources and cell.source != sources[tag]:
                cell.source, changed = sources[tag], True
    return changed


if __name__ == "__main__":
    sys.exit(main())
