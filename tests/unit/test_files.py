"""Files appear complete or not at all and errors name them; model files carry their settings."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from roadtopo_lib.files import (
    UNFINISHED,
    check_writable,
    clear_unfinished,
    load_weights,
    save_weights,
    write_atomic,
    write_json,
)


def test_bytes_and_text_are_written_as_they_are(tmp_path):
    write_atomic(tmp_path / "deep" / "er" / "raw", b"\x00\r\n\xff")
    write_atomic(tmp_path / "text", "mü\n")
    assert (tmp_path / "deep" / "er" / "raw").read_bytes() == b"\x00\r\n\xff"
    assert (tmp_path / "text").read_bytes() == b"m\xc3\xbc\n"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_written_file_replaces_the_old_one_and_has_the_permissions_of_any_new_file(tmp_path, umask, mode):
    path = tmp_path / "note.txt"
    before = os.umask(umask)
    try:
        write_atomic(path, "first")
        write_atomic(path, "second")
    finally:
        os.umask(before)
    assert path.read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_file_is_replaced_not_rewritten(tmp_path):
    """Who reads the old file while the new one is written reads the old one to its end."""
    path = tmp_path / "text"
    write_atomic(path, "old")
    with path.open() as reader:
        write_atomic(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, OSError), (errno.EACCES, PermissionError), (errno.EROFS, OSError), (errno.EIO, OSError)],
)
@pytest.mark.parametrize("method", ["touch", "write_bytes", "replace", "mkdir"])
def test_an_error_of_the_system_keeps_its_kind_and_names_the_file_and_the_reason(
    tmp_path, monkeypatch, method, number, kind
):
    path = tmp_path / "new" / "result.txt"
    if method != "mkdir":
        path.parent.mkdir()
        path.write_text("old")

    def fail(self: Path, *_, **__) -> None:
        if method == "write_bytes":
            with self.open("wb") as file:
                file.write(b"half")
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, method, fail)
    with pytest.raises(OSError, match="cannot be written") as refusal:
        write_atomic(path, "text")
    monkeypatch.undo()
    assert type(refusal.value) is kind
    assert refusal.value.errno == number
    assert str(refusal.value) == f"{path}: cannot be written ({os.strerror(number)})"
    if method != "mkdir":
        assert [p.name for p in path.parent.iterdir()] == ["result.txt"], "no temporary file is left"
        assert path.read_text() == "old"


def disk_calls(monkeypatch):
    """What a write asks of the disk, in order; a folder that is synchronised is called so."""
    calls, sync, replace = [], os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        calls.append("sync the folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync the file")
        if calls[-1] == "sync the file":
            assert os.fstat(handle).st_size == 4, "the content is written before"
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    return calls


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_call_returns(tmp_path, monkeypatch):
    calls = disk_calls(monkeypatch)
    write_atomic(tmp_path / "result.txt", "text")
    assert calls == ["sync the file", "rename", "sync the folder"]
    calls.clear()
    write_atomic(tmp_path / "result.txt", "text", durable=False)
    assert calls == ["rename"]


def test_a_disk_that_fails_at_the_last_moment_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    write_atomic(path, "old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"result\.txt: cannot be written \(Input/output error\)"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_an_interrupted_write_leaves_neither_the_file_nor_a_temporary(tmp_path, monkeypatch):
    def interrupt(self: Path, _) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "result.txt", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, "text"), check_writable])
@pytest.mark.parametrize("inside", ["inside.txt", "deep/inside.txt"])
def test_a_file_where_a_folder_is_needed_is_said(tmp_path, write, inside):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / inside
    with pytest.raises(NotADirectoryError) as refusal:
        write(path)
    assert str(refusal.value) == f"{path}: cannot be written (Not a directory)"
    assert (tmp_path / "file").read_text() == "in the way"


def test_checking_a_place_leaves_no_trace_and_what_lies_there_stays(tmp_path):
    (tmp_path / "scores.json").write_text("earlier")
    check_writable(tmp_path / "scores.json")
    check_writable(tmp_path / "other.json")
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]
    assert (tmp_path / "scores.json").read_text() == "earlier"
    with pytest.raises(IsADirectoryError, match="this is a folder"):
        check_writable(tmp_path)


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "scores.json", {"lane_f1": 0.5, "name": "ü"})
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == {"lane_f1": 0.5, "name": "ü"}


def test_kind_weights_config_and_info_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(4, 4).t()}
    save_weights(tmp_path / "deep" / "model.safetensors", "segformer", tensors, {"backbone": "tiny"}, epoch=3)
    loaded = load_weights(tmp_path / "deep" / "model.safetensors")
    assert (loaded.kind, loaded.config, loaded.info) == ("segformer", {"backbone": "tiny"}, {"epoch": 3})
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded.tensors[name], tensor, rtol=0, atol=0)


def test_equal_models_make_equal_files(tmp_path):
    """Whatever the order in which settings were made; safetensors orders several entries of a header at random."""
    names = list("hijklmnop")
    for name, order in (("one", names), ("two", names[::-1])):
        config = dict.fromkeys(order, {"b": 1, "a": 2} if name == "one" else {"a": 2, "b": 1})
        save_weights(tmp_path / name, "unet", {"weight": torch.arange(3.0)}, config, **dict.fromkeys(order, 1))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safetensors.safe_open(tmp_path / "one", framework="pt") as file:
        assert list(file.metadata()) == ["roadtopo_lib"]


@pytest.mark.parametrize("metadata", [None, {"kind": "roadtopo_lib.lane_model", "config": "{}"}, {"format": "pt"}])
def test_a_model_file_of_another_project_is_refused_with_what_was_found(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match=r"other\.safetensors: expected a model file of this library, .* 2 tensors"):
        load_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        "no JSON", "[]", "3", "{}", '{"kind": "segformer", "config": {}}',
        '{"kind": "segformer", "config": [1], "info": {}}', '{"kind": "segformer", "config": {}, "info": [1]}',
        '{"kind": ["segformer"], "config": {}, "info": {}}',
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused_by_name(tmp_path, header):
    path = tmp_path / "damaged.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"roadtopo_lib": header})
    with pytest.raises(ValueError, match=r"damaged\.safetensors: the model's settings .* missing or damaged"):
        load_weights(path)


def test_header_and_weights_of_a_model_file_come_from_one_opening(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(path, "segformer", {"a": torch.zeros(1)}, {})
    opened = []
    real = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", lambda *a, **k: opened.append(a) or real(*a, **k))
    load_weights(path)
    assert len(opened) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_with_the_first_that_is_not(tmp_path, value):
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(3), "b": torch.tensor([1.0, value]), "steps": torch.tensor(4)}
    save_weights(path, "segformer", tensors, {})
    with pytest.raises(ValueError, match=r"model\.safetensors: NaN or infinite weights in 1 of 3 tensors, b first"):
        load_weights(path)
    assert load_weights(path, finite=False).tensors["b"][0] == 1


def test_what_is_half_written_is_cleared_and_nothing_else(tmp_path):
    for name in (f".a{UNFINISHED}", f".b{UNFINISHED}", "notes.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / f".a{UNFINISHED}", (0, 0))
    clear_unfinished(tmp_path, older_than=60)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".b{UNFINISHED}", ".hidden", "notes.tmp"]
    clear_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "notes.tmp"]
    clear_unfinished(tmp_path / "nowhere")
