"""Every example of data_samples/broken is refused with one clear line: file, found, expected."""

import os
import shutil
from pathlib import Path

import pytest

from roadtopo_lib.app.cli import main
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import load_weights, write_atomic

BROKEN = Path(__file__).parents[2] / "data_samples" / "broken"

DATA_SETS = {
    "missing_split": (FileNotFoundError, r"missing_split.val.*no such split.*holds train", "val"),
    "missing_folder": (FileNotFoundError, r"instance_masks: missing; a split needs", "train"),
    "image_without_mask": (FileNotFoundError, r"semantic_masks.scene\.png: missing; 1 of 2 images", "train"),
    "mask_without_image": (FileNotFoundError, r"scene\.png: this mask has no image", "train"),
    "mask_of_another_size": (ValueError, r"scene\.png: mask is 24×32.*scene\.jpg is 48×64", "train"),
    "unreadable_image": (ValueError, r"scene\.jpg: not an image", "train"),
    "truncated_image": (ValueError, r"scene\.jpg: damaged or truncated", "train"),
    "instance_id_shared": (ValueError, r"scene\.png: instance ids \[1\] lie on pixels of more than one class", "train"),
    "semantic_id_out_of_range": (ValueError, r"scene\.png: semantic ids \[7\] found, expected 0\.\.5 or 255", "train"),
    "float_mask": (ValueError, r"scene\.png: semantic masks are single-channel 8-bit, found float", "train"),
    "palette_mask": (ValueError, r"scene\.png: semantic masks are single-channel 8-bit, found a palette", "train"),
    "rgba_mask": (ValueError, r"scene\.png: instance masks are grey .* or RGB, found RGBA", "train"),
    "rgb_instances_without_black": (ValueError, r"scene\.png: RGB instance mask with 2 colours, none.*black", "train"),
    "empty_data_set": (ValueError, r"images: no image found, expected files ending in", "train"),
}
CONFIGS = {
    "unknown_key": r"unknown_key\.yaml: unknown config key learning_rate; known keys: .*\blr\b",
    "negative_margin": r"negative_margin\.yaml: delta_var is -0\.5, expected greater than 0",
    "unreachable_margin": r"unreachable_margin\.yaml: delta_dist 1\.5 cannot be reached.*at most 1\.51 apart",
    "not_yaml": r"not_yaml\.yaml: not valid YAML",
}
CHECKPOINTS = {
    "pickle_with_code.pth": r"pickle_with_code\.pth: this is a pickled checkpoint.*refused",
    "other_kind.safetensors": r"other_kind\.safetensors: expected a model file of this library, found .* 1 tensors",
    "truncated.safetensors": r"truncated\.safetensors: truncated or not a safetensors file",
}


def read_everything(root: Path, split: str) -> None:
    dataset = LaneInstanceDataset(root, split)
    for index in range(len(dataset)):
        dataset[index]


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_broken_data_set_is_refused_by_name(name):
    error, message, split = DATA_SETS[name]
    with pytest.raises(error, match=message):
        read_everything(BROKEN / name, split)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_broken_config_is_refused_by_name(name):
    with pytest.raises(ValueError, match=CONFIGS[name]):
        LaneSegmentationConfig.from_yaml(BROKEN / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_broken_checkpoint_is_refused_by_name(name, capsys):
    with pytest.raises(ValueError, match=CHECKPOINTS[name]):
        load_weights(BROKEN / "checkpoints" / name)
    assert "ran code" not in capsys.readouterr().out


def test_every_broken_example_is_covered_and_described():
    data_sets = {path.name for path in BROKEN.iterdir() if path.is_dir()} - {"configs", "checkpoints"}
    assert data_sets == set(DATA_SETS)
    assert {path.stem for path in (BROKEN / "configs").iterdir()} == set(CONFIGS)
    assert {path.name for path in (BROKEN / "checkpoints").iterdir()} == set(CHECKPOINTS)
    text = (BROKEN / "README.md").read_text(encoding="utf-8")
    assert all(name in text for name in [*DATA_SETS, *CONFIGS, *CHECKPOINTS])


def test_a_missing_root_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such data folder"):
        LaneInstanceDataset(tmp_path / "nowhere", "train")


def test_a_place_that_cannot_be_written_to_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError, match=r"inside\.txt: cannot be written \(Not a directory\)"):
        write_atomic(tmp_path / "file" / "inside.txt", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_read_only_folder_is_refused_by_name(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"inside\.txt: cannot be written \(Permission denied\)"):
        write_atomic(tmp_path / "inside.txt", "text")


def test_the_command_line_answers_bad_input_with_one_line_and_code_2(tmp_path, capsys):
    run = tmp_path / "run"
    commands = [
        ["train", "lane", "--config", "tiny", "--data", str(BROKEN / "image_without_mask"), "--output", str(run)],
        ["train", "lane", "--config", str(BROKEN / "configs/unknown_key.yaml"), "--data", "x", "--output", str(run)],
        ["evaluate", "lane", "--model", str(BROKEN / "checkpoints/pickle_with_code.pth"), "--data", str(BROKEN)],
        ["infer", "lane", "--model", str(tmp_path / "none.safetensors"), "--input", "x", "--output", "y"],
        ["synth", "--out", str(tmp_path / "synth")],
    ]
    for command in commands:
        assert main(command) == 2, command
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("road-topology: ")
        assert printed.err.count("\n") == 1
    assert not run.exists(), "nothing may be written when the input is wrong"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["infer", "lane", "--model", str(tmp_path / "none"), "--input", "x", "--output", "y", "--debug"])


def test_the_broken_examples_are_what_their_script_writes(tmp_path):
    import runpy

    script = runpy.run_path(str(BROKEN.parent / "make_broken.py"), run_name="not_main")
    script["data_sets"].__globals__["BROKEN"] = tmp_path
    script["data_sets"]()
    script["configs"]()
    script["checkpoints"]()
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    kept = sorted(str(path.relative_to(BROKEN)) for path in BROKEN.rglob("*") if path.is_file())
    assert made == [name for name in kept if name != "README.md"]
    shutil.rmtree(tmp_path)
