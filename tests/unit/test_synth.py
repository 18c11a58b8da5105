"""``synth`` refuses a folder whose meta.json is not one of its own, and leaves the file as it is."""

import pytest

from roadtopo_lib.app.cli import main


@pytest.mark.parametrize(
    "text", [b"{bad", b"\xff\xfe", b"[]", b"3", b'{"seed": 0}', b'{"images": 3}', b'{"images": [{}]}']
)
def test_a_foreign_meta_json_is_refused_by_name(tmp_path, capsys, text):
    (tmp_path / "meta.json").write_bytes(text)
    assert main(["synth", "--out", str(tmp_path), "--train", "1", "--size", "64x96", "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "meta.json") in error
    assert error.count("\n") == 1
    assert (tmp_path / "meta.json").read_bytes() == text
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]


def test_a_split_that_nobody_asked_for_gets_no_folder(tmp_path):
    assert main(["synth", "--out", str(tmp_path / "D"), "--val", "1", "--size", "64x96", "--workers", "1"]) == 0
    assert [path.name for path in (tmp_path / "D").iterdir() if path.is_dir()] == ["val"]
