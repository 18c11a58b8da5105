"""Wrong input on the command line: one line, exit code 2, and nothing lost."""

import numpy as np
import pytest
import torch
from PIL import Image

from roadtopo_lib.app.cli import build_parser, main
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader
from roadtopo_lib.segformer import SegFormerModel

CONFIG = LaneSegmentationConfig.preset("tiny").replace(image_size=(64, 128))
PHOTO = np.full((64, 128, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def infer(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    SegFormerModel("tiny", pretrained=False).save(path, training=CONFIG.to_dict())
    return lambda source, output, *more: main(
        [
            "infer",
            "lane",
            "--model",
            str(path),
            "--device",
            "cpu",
            "--input",
            str(source),
            "--output",
            str(output),
            *more,
        ]
    )


def photos(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(PHOTO).save(folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("name", ["me.jpg", "me.png"])
def test_infer_never_paints_over_its_input(infer, tmp_path, capsys, name):
    before = photos(tmp_path / "in", name)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in (tmp_path / "in" / name, tmp_path / "in" / ".." / "in" / name, tmp_path / "link" / name):
        assert infer(tmp_path / "in" / name, output, "--visualize") == 2
        assert f"{output}: would be written over an input image" in one_line(capsys)
    assert contents(tmp_path / "in") == before


def test_infer_into_the_folder_it_reads_only_where_no_name_is_taken(infer, tmp_path, capsys):
    folder = tmp_path / "in"
    photos(folder, "a.png", "b.jpg")
    assert infer(folder, folder) == 0
    assert {"a_instances.png", "b_instances.png", "a.json", "b.json"} < set(contents(folder))
    before = contents(folder)
    assert infer(folder, folder) == 0, "results are no photographs"
    assert contents(folder) == before
    capsys.readouterr()
    photos(folder, "a_instances.png")  # a photograph of that name is
    before = contents(folder)
    assert infer(folder, folder) == 2
    assert f"{folder / 'a_instances.png'}: would be written over an input image" in one_line(capsys)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["result.bmp", "result.TIFF", "result.mp4"])
def test_infer_refuses_pictures_that_it_does_not_write(infer, tmp_path, capsys, name):
    photos(tmp_path / "in", "a.png")
    assert infer(tmp_path / "in" / "a.png", tmp_path / name, "--visualize") == 2
    assert f"{name}: expected a folder, or for one image a name ending in .jpg, .jpeg, .png" in one_line(capsys)
    assert not (tmp_path / name).exists()


def test_a_folder_may_have_a_dot_in_its_name(infer, tmp_path):
    photos(tmp_path / "in", "a.png")
    assert infer(tmp_path / "in" / "a.png", tmp_path / "found.v2") == 0
    assert (tmp_path / "found.v2" / "a.json").is_file()


def _never_called(*_, **__):
    pytest.fail("scored before the check")


def test_evaluate_looks_at_its_output_before_it_scores(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for split_folder in ("images", "semantic_masks", "instance_masks"):
        (tmp_path / "data" / "test" / split_folder).mkdir(parents=True)
        Image.fromarray(PHOTO[..., 0] * 0).save(tmp_path / "data" / "test" / split_folder / "a.png")
    SegFormerModel("tiny", pretrained=False).save(tmp_path / "model.safetensors", training=CONFIG.to_dict())
    monkeypatch.setattr("roadtopo_lib.inference.evaluation.evaluate", _never_called)
    command = ["evaluate", "lane", "--model", str(tmp_path / "model.safetensors"), "--data", str(tmp_path / "data")]
    assert main([*command, "--output", str(tmp_path / "file" / "scores.json")]) == 2
    assert f"{tmp_path / 'file' / 'scores.json'}: cannot be written (Not a directory)" in one_line(capsys)
    assert main([*command, "--output", str(tmp_path)]) == 2
    assert f"{tmp_path}: this is a folder" in one_line(capsys)


def test_checking_the_output_of_evaluate_leaves_earlier_scores_and_no_trace(tmp_path):
    from roadtopo_lib.files import check_writable

    (tmp_path / "scores.json").write_text("earlier")
    check_writable(tmp_path / "scores.json")
    assert contents(tmp_path) == {"scores.json": b"earlier"}


def test_a_bad_file_is_named_alike_with_and_without_worker_processes(tmp_path, capsys, monkeypatch):
    for folder in ("images", "semantic_masks", "instance_masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        (tmp_path / "train" / folder / "a.png").write_text("no image")

    def load(config, data, *_, **__):  # train itself reads every file once before: this one goes bad later
        list(build_loader(LaneInstanceDataset(data, "train"), config, shuffle=False))

    monkeypatch.setattr("roadtopo_lib.app.train.train_lane_model", load)
    errors = []
    for workers in (0, 1):
        CONFIG.replace(num_workers=workers).to_yaml(tmp_path / "lane.yaml")
        assert main(["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(tmp_path)]) == 2
        errors.append(one_line(capsys))
    assert errors[0].startswith(f"road-topology: {tmp_path / 'train' / 'images' / 'a.png'}: ")
    assert errors[0] == errors[1]


def test_debug_may_stand_before_or_behind_the_command(tmp_path):
    command = ["infer", "lane", "--model", str(tmp_path / "none"), "--input", "x", "--output", "y"]
    for line in (["--debug", *command], [*command, "--debug"]):
        with pytest.raises(FileNotFoundError):
            main(line)
    assert main(command) == 2
    assert build_parser().parse_args(["--debug", "synth", "--out", "x"]).debug
    assert not build_parser().parse_args(["doctor"]).debug


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "road-topology: error: the following arguments are required: COMMAND"),
        (["infer", "lane"], "road-topology infer lane: error: the following arguments are required: --model, "),
        (["paint"], "road-topology: error: argument COMMAND: invalid choice: 'paint'"),
        (["synth", "--out", "x", "--size", "big"], "road-topology synth: error: argument --size: 'big' is not HxW"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_one_line_and_code_2(capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 2
    assert one_line(capsys).startswith(message)
