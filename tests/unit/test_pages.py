"""The pages beside the code: their links lead somewhere, and the README's example runs."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEADINGS = ("Two commands", "The first ten minutes", "The seven chapters", "Figures measured", "Limits")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_are_there(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t.split("#")[0]).is_file()]
    assert not missing


def test_every_page_is_linked_from_the_readme():
    readme = PAGES[0].read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in readme


def test_the_readme_has_its_parts_in_order_and_a_row_for_each_notebook():
    readme = PAGES[0].read_text(encoding="utf-8")
    places = [readme.index(f"\n## {heading}\n") for heading in HEADINGS]
    assert places == sorted(places)
    folder = ROOT / "notebooks"
    paths = [*sorted(folder.glob("*.ipynb")), *sorted(folder.glob("electives/*.ipynb"))]
    notebooks = [path.relative_to(folder).as_posix() for path in paths]
    assert re.findall(r"^\| \[\w+\]\(notebooks/(\S+)\) \|", readme, re.MULTILINE) == notebooks


def test_the_example_of_the_readme_finds_lanes_and_writes_its_picture(tmp_path, monkeypatch, capsys):
    readme = PAGES[0].read_text(encoding="utf-8")
    (example,) = (s for s in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "load_segmenter" in s)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    for name in ("checkpoints/lane-small.safetensors", "frame/images/frame.png"):
        (tmp_path / "data_samples" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "data_samples" / name, tmp_path / "data_samples" / name)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    lanes, _ = capsys.readouterr().out.splitlines()[0].split()
    assert int(lanes) >= 2
    assert (tmp_path / "found.png").is_file()
