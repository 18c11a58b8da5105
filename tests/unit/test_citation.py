"""``CITATION.cff`` says what the package says, in the keys of Citation File Format 1.2.0."""

import tomllib
from pathlib import Path

import yaml

import roadtopo_lib

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_file_has_the_keys_that_the_format_asks_for_and_no_address_that_is_not_there():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["message"]
    assert CITATION["title"]
    repository = PROJECT["tool"]["road-topology"]["repository"]
    assert CITATION.get("repository-code", "") == repository
    assert not {"doi", "identifiers", "url"} & set(CITATION)


def test_version_authors_and_licence_are_the_packages():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "roadtopo_lib.__version__"}
    assert CITATION["version"] == roadtopo_lib.__version__
    assert CITATION["license"] == PROJECT["project"]["license"]
    (author,) = CITATION["authors"]
    assert f"Copyright (c) 2026 {author['name']}\n" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_papers_that_the_library_builds_on_are_named():
    papers = {(work["authors"][0]["family-names"], work["year"]): work for work in CITATION["references"]}
    assert set(papers) == {("De Brabandere", 2017), ("Xie", 2021)}
    for work in papers.values():
        assert work["type"] in ("article", "conference-paper")
        assert work["url"].startswith("https://arxiv.org/abs/")
        assert all({"family-names", "given-names"} == set(author) for author in work["authors"])
    # The library's own references name the same titles.
    cited = {
        name: " ".join((ROOT / "roadtopo_lib" / name).read_text(encoding="utf-8").split())
        for name in ("losses/discriminative.py", "segformer.py")
    }
    assert papers["De Brabandere", 2017]["title"] in cited["losses/discriminative.py"]
    assert papers["Xie", 2021]["title"] in cited["segformer.py"]
