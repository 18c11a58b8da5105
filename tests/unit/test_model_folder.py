"""``save_pretrained`` and ``from_pretrained``: a folder with weights, config and model card."""

import json
import shutil

import pytest
import torch

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.electives.unet import ResUNet, UNet
from roadtopo_lib.files import load_weights
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.segformer import SegFormerModel

SMALL = [
    SegFormerModel("tiny", num_classes=3, embedding_dim=5, pretrained=False, activation="relu"),
    UNet(num_classes=1, embedding_dim=4, widths=(8, 16)),
    ResUNet(embedding_dim=4, widths=(8, 16), norm="group", preactivation=False),
]


@pytest.fixture
def folder(tmp_path):
    SMALL[1].save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.kind)
def test_a_model_comes_back_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "a" / "b", epoch=3, folder="taken")
    again = type(model).from_pretrained(tmp_path / "a" / "b")
    assert again.settings() == model.settings()
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weights = tmp_path / "a" / "b" / "model.safetensors"
    assert sorted(path.name for path in weights.parent.iterdir()) == ["README.md", "config.json", weights.name]
    assert models.load_with_info(weights)[1] == {"epoch": 3, "folder": "taken"}
    config = json.loads((weights.parent / "config.json").read_text())
    assert (config["kind"], config["config"]) == (model.kind, model.settings())


def test_the_card_says_what_is_known_and_leaves_out_the_rest(tmp_path):
    card = {"command": "make run", "data": {"preset": "day", "seed": 1}, "scores": {"day, lane_f1": 0.77834}}
    card |= {"hours": 1.5, "limits": "Not for driving."}
    training = {"seed": 5, "image_size": [96, 256], "crop_top": 0.25, "lr": 0.003}
    SMALL[1].save_pretrained(tmp_path / "known", card=card, training=training, epoch=4, val_loss=0.237494)
    text = (tmp_path / "known" / "README.md").read_text()
    for row in (
        "| command | make run |", '| data | {"preset": "day", "seed": 1} |', "| seed | 5 |", "| epoch | 4 |",
        "| image size (height, width) | [96, 256] |", "| val_loss | 0.2375 |", "| day, lane_f1 | 0.7783 |",
        "| num_classes | 1 |",
    ):  # fmt: skip
        assert row in text
    assert "| hours of one core | 1.5 |\n| limits | Not for driving. |\n" in text
    SMALL[1].save_pretrained(tmp_path / "unknown", note="a | b")
    text = (tmp_path / "unknown" / "README.md").read_text()
    assert text.count("Not recorded.") == 2
    assert "None" not in text


def test_the_command_makes_a_folder_whose_weights_segment_images(tmp_path, capsys):
    model = "data_samples/tiny.safetensors"
    assert main(["export", "folder", "--model", model, "--output", str(tmp_path / "m")]) == 0
    assert "model.safetensors, config.json, README.md" in capsys.readouterr().out
    assert load_weights(tmp_path / "m" / "model.safetensors").info == load_weights(model).info
    assert "| day, lane_f1 | 0.7783 |" in (tmp_path / "m" / "README.md").read_text()
    LaneSegmenter.from_checkpoint(tmp_path / "m" / "model.safetensors", "cpu")


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (shutil.rmtree, FileNotFoundError, "config.json: no such file, expected a folder that save_pretrained wrote"),
        (lambda m: (m / "config.json").unlink(), FileNotFoundError, "config.json: no such file"),
        (lambda m: (m / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors: no such file"),
        (lambda m: (m / "config.json").write_text("{"), ValueError, "kind is None, expected 'unet'"),
        (lambda m: (m / "config.json").write_text("[" * 99999), ValueError, "kind is None, expected 'unet'"),
        (lambda m: (m / "config.json").write_text('{"model_type": "segformer"}'), ValueError, "kind is None"),
        (lambda m: SMALL[2].save_pretrained(m), ValueError, "kind is 'resunet', expected 'unet'"),
        (lambda m: SMALL[2].save(m / "model.safetensors"), ValueError, "kind 'unet', found 'resunet'"),
        (lambda m: (m / "model.safetensors").write_bytes(b"x" * 40), ValueError, "not a safetensors file"),
    ],
)  # fmt: skip
def test_each_fault_of_a_folder_is_one_sentence_that_names_it(folder, spoil, kind, told):
    spoil(folder)
    with pytest.raises(kind, match=told) as error:
        UNet.from_pretrained(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
