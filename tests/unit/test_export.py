"""Models that leave: ONNX files that answer as PyTorch does, also in 8 bits and where there is no torch; folders."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from roadtopo_lib import models
from roadtopo_lib.app import export as command
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.export import SIZES, TOLERANCE, Outputs, largest_deviation, to_onnx
from roadtopo_lib.data.images import list_images, read_image
from roadtopo_lib.electives.unet import ResUNet, UNet
from roadtopo_lib.pipeline import LaneSegmenter

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "data_samples" / "tiny.safetensors"
IMAGES = list_images(ROOT / "data_samples" / "test" / "images")

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def tiny():
    return models.load_with_info(TINY)


@pytest.fixture(scope="module")
def exported(tiny):
    model, info = tiny
    return to_onnx(model, info=info)


def training_of(content):
    """The settings of the training that a file holds."""
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    return json.loads(properties["roadtopo_lib"])["training"]


def run(content, images):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


@pytest.mark.parametrize("size", [(1, 96, 256), (2, 96, 256), (1, 32, 32), (5, 64, 32), (1, 33, 95), (1, 160, 416)])
def test_the_file_answers_as_the_model_does_at_any_batch_height_and_width(tiny, exported, size):
    batch, height, width = size
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.inference_mode():
        expected = tiny[0](images, upsample=False)
    logits, embeddings = run(exported, images)
    torch.testing.assert_close(torch.from_numpy(logits), expected["logits"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(embeddings), expected["embeddings"], rtol=0, atol=TOLERANCE)


def test_what_is_compared_has_six_sizes_a_batch_of_one_and_sides_that_differ():
    assert len(set(SIZES)) >= 6
    assert {batch for batch, _, _ in SIZES} > {1}
    assert {height == width for _, height, width in SIZES} == {True, False}


def test_batch_height_and_width_have_names_in_the_file_and_the_settings_travel(tiny, exported):
    (images,) = onnx.load_from_string(exported).graph.input
    batch, channels, height, width = images.type.tensor_type.shape.dim
    assert channels.dim_value == 3
    assert len({side.dim_param for side in (batch, height, width)} - {""}) == 3
    assert training_of(exported) == tiny[1]["training"]


@pytest.mark.parametrize(
    "model",
    [
        UNet(embedding_dim=4, widths=(8, 16)),
        ResUNet(num_classes=1, embedding_dim=4, widths=(8, 16), norm="group", upsampling="bilinear"),
    ],
    ids=["unet", "resunet"],
)
def test_unets_leave_too_and_give_class_probabilities_on_request(model):
    model.eval()
    content = to_onnx(model, probabilities=True)
    assert largest_deviation(content, model, probabilities=True) < TOLERANCE
    images = torch.rand(1, 3, 45, 70)
    probabilities, embeddings = run(content, images)
    assert probabilities.shape == (1, model.num_classes, 45, 70)
    assert embeddings.shape == (1, 4, 45, 70)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    model.semantic_head.bias.data += 1  # a deviation is seen
    if model.num_classes == 2:
        assert largest_deviation(content, model, probabilities=True) > TOLERANCE


def test_probabilities_are_the_softmax_of_the_enlarged_logits(tiny):
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        found, _ = Outputs(tiny[0], probabilities=True)(images)
        torch.testing.assert_close(found, tiny[0](images)["logits"].softmax(dim=1))


def test_a_folder_of_something_else_is_not_written_over(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    command = ["export", "folder", "--model", str(TINY), "--output"]
    assert main([*command, str(tmp_path)]) == 2
    assert "README.md would be written over" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    for _ in range(2):  # one of ours is replaced
        assert main([*command, str(tmp_path / "new")]) == 0


def test_a_model_without_embeddings_is_one_line(tmp_path, capsys):
    UNet(embedding_dim=0, widths=(8, 16)).save(tmp_path / "m.safetensors")
    command = ["export", "onnx", "--model", str(tmp_path / "m.safetensors"), "--output", str(tmp_path / "m.onnx")]
    assert main(command) == 2
    assert "embedding_dim 0" in capsys.readouterr().err


class TestCommand:
    def call(self, monkeypatch, exported, *arguments):
        """The command without the exporter's half minute."""
        monkeypatch.setattr(command, "to_onnx", lambda *_, **__: exported)
        return main(["export", "onnx", "--model", str(TINY), *map(str, arguments)])

    def test_it_says_size_and_largest_difference_and_writes_what_was_compared(
        self, monkeypatch, exported, tmp_path, capsys
    ):
        assert self.call(monkeypatch, exported, "--output", tmp_path / "sub" / "m.onnx") == 0
        told = capsys.readouterr().out
        assert "MB; largest difference from PyTorch " in told
        assert "at 6 sizes" in told
        assert (tmp_path / "sub" / "m.onnx").read_bytes() == exported
        assert [path.name for path in (tmp_path / "sub").iterdir()] == ["m.onnx"]

    @pytest.mark.parametrize("deviation", [0.1, float("nan")])
    def test_a_file_that_answers_otherwise_is_not_written(self, monkeypatch, exported, tmp_path, capsys, deviation):
        monkeypatch.setattr(command, "largest_deviation", lambda *_, **__: deviation)
        assert self.call(monkeypatch, exported, "--output", tmp_path / "m.onnx") == 2
        assert "the exported model differs by" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
    def test_without_the_extra_one_line_says_what_to_install(self, monkeypatch, tmp_path, capsys, package):
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["export", "onnx", "--model", str(TINY), "--output", str(tmp_path / "m.onnx")]) == 2
        assert capsys.readouterr().err == (
            f"road-topology: {package} is not installed: pip install 'roadtopo-lib[export]'\n"
        )

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--output", "m.pt"], "m.pt: expected a name ending in .onnx"),
            (["--output", "m.onnx", "--int8", "nowhere"], "nowhere: no such folder, expected images"),
            (["--output", "m.onnx", "--int8", "."], r"no image"),
        ],
    )
    def test_wrong_arguments_are_one_line(self, monkeypatch, exported, tmp_path, capsys, arguments, told):
        monkeypatch.chdir(tmp_path)
        assert self.call(monkeypatch, exported, *arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_int8_is_small_and_keeps_the_class_of_nearly_all_pixels(self, monkeypatch, exported, tmp_path, capsys):
        monkeypatch.setattr(command, "CALIBRATION_IMAGES", 4)
        data = ROOT / "data_samples"
        assert self.call(monkeypatch, exported, "--output", tmp_path / "m.onnx", "--int8", data) == 0
        share = float(capsys.readouterr().out.split("int8, ")[1].split("%")[0])
        assert 98 < share < 100
        small = (tmp_path / "m.onnx").read_bytes()
        assert len(small) < len(exported) / 3
        assert training_of(small) == training_of(exported)


def test_calibration_images_of_a_data_set_are_those_of_training(tmp_path):
    files = command.calibration_images(ROOT / "data_samples")
    assert len(files) == command.CALIBRATION_IMAGES
    assert {file.parent for file in files} == {ROOT / "data_samples" / "train" / "images"}
    assert command.calibration_images(IMAGES[0].parent) == IMAGES


WITHOUT_TORCH = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "torch" not in sys.modules
"""


def test_the_example_finds_the_segmenters_lanes_without_torch(exported, tmp_path):
    (tmp_path / "m.onnx").write_bytes(exported)
    (tmp_path / "free.py").write_text(WITHOUT_TORCH)
    segmenter = LaneSegmenter.from_checkpoint(TINY, "cpu")
    segmenter.tta = False
    expected = segmenter(read_image(IMAGES[0]))
    example = [sys.executable, tmp_path / "free.py", ROOT / "examples" / "onnx_lanes.py", tmp_path / "m.onnx"]
    done = subprocess.run([*example, IMAGES[0]], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["lane_count"] == expected["lane_count"] >= 2
    assert found["crosswalk_count"] == expected["crosswalk_count"]
    for ours, theirs in zip(found["lane_polylines"], expected["lane_polylines"], strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, atol=0.5)  # pixels; a pixel at a border may tip over


class WithProbabilities:
    """A session of a file of logits that answers as one of ``--probabilities`` does, without another export."""

    def __init__(self, content):
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.get_modelmeta = self.session.get_modelmeta

    def get_outputs(self):
        return [SimpleNamespace(name="probabilities")]

    def run(self, _, inputs):
        logits, embeddings = self.session.run(None, inputs)
        large = models.upsample_to(torch.from_numpy(logits), inputs["images"].shape[2:])
        return large.softmax(dim=1).numpy(), embeddings


@pytest.mark.parametrize("size", [(256, 512), (40, 64), (1600, 2000)])
def test_the_example_takes_either_form_and_any_size_of_image(exported, size):
    segment = runpy.run_path(str(ROOT / "examples" / "onnx_lanes.py"))["segment"]
    segmenter = LaneSegmenter.from_checkpoint(TINY, "cpu")
    segmenter.tta = False
    image = cv2.resize(read_image(IMAGES[0]), size[::-1])
    expected, found = segmenter(image), segment(WithProbabilities(exported), image)
    assert found["lane_count"] == expected["lane_count"] > 0
    assert found["lane_instances"].shape == size
    assert (found["semantic_mask"] == expected["semantic_mask"]).mean() > 0.998
    np.testing.assert_allclose(found["lane_centers"], expected["lane_centers"], atol=0.01 * size[1])
