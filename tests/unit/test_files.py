"""Model files carry their settings and appear complete or not at all."""

import stat

import torch

from roadtopo_lib.files import load_weights, save_weights, write_text_atomic


def test_weights_config_and_info_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(4, 4).t()}
    save_weights(tmp_path / "deep" / "model.safetensors", tensors, {"backbone": "tiny"}, epoch=3)
    loaded, config, info = load_weights(tmp_path / "deep" / "model.safetensors")
    assert config == {"backbone": "tiny"}
    assert info == {"epoch": 3}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_written_file_replaces_the_old_one_and_is_readable_by_others(tmp_path):
    path = tmp_path / "note.txt"
    write_text_atomic(path, "first")
    write_text_atomic(path, "second")
    assert path.read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044, "a result is not private to the user who made it"


def test_a_file_is_replaced_not_rewritten(tmp_path):
    """Who reads the old file while the new one is written reads the old one to its end."""
    path = tmp_path / "text"
    write_text_atomic(path, "old")
    with path.open() as reader:
        write_text_atomic(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_equal_models_make_equal_files(tmp_path):
    """The library that writes the format orders what is not a tensor at random, anew in every process."""
    info = dict.fromkeys("hijklmnop", 1)
    for name in ("one", "two"):
        save_weights(tmp_path / name, {"weight": torch.arange(3.0)}, {"backbone": "tiny"}, **info)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert content.index(b'"config"') < content.index(b'"info"') < content.index(b'"kind"')
    tensors, config, found = load_weights(tmp_path / "one")
    assert (tensors["weight"].tolist(), config, found) == ([0.0, 1.0, 2.0], {"backbone": "tiny"}, info)
