"""Files of strangers: what is absurd, or no file, is refused by name, and nothing outside of a data set is read."""

import base64
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from roadtopo_lib.app.cli import main, one_line
from roadtopo_lib.app.set_aside import undo
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.convert import (
    convert_bdd100k,
    convert_camvid,
    convert_coco,
    convert_culane,
    convert_labelme,
    convert_tusimple,
)
from roadtopo_lib.data.convert.drawing import MOST_POINTS, Shape
from roadtopo_lib.data.convert.export import read_h_samples
from roadtopo_lib.data.images import picture_format, read_image, read_instance_mask, write_image
from roadtopo_lib.data.samples import MOST_INSTANCES, check_instances
from roadtopo_lib.decoding import decoded
from roadtopo_lib.electives.tiled_segmenter import TiledSegmenter, segment_file
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.files import check_file, list_files, load_weights, write_atomic
from roadtopo_lib.inference.files import is_video, read_video
from roadtopo_lib.inference.records import find
from roadtopo_lib.labels import CROSSWALK, LANE_MARKING
from roadtopo_lib.models import load, upsample_to
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.plain_yaml import MAX_DEPTH, MAX_NODES, parse_yaml
from roadtopo_lib.postprocess import all_instances
from roadtopo_lib.processes import LOCK, locked
from roadtopo_lib.scenes.render import check_size
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.strips import upsampled_strips
from roadtopo_lib.viz import overlay

HERE = {"workers": 1, "progress": False}
PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def read_array(path):
    """As ``infer`` reads a .npy file; the segmenter is not asked for anything."""
    list(segment_file(object.__new__(TiledSegmenter), path, Path("unused")))


READERS = [check_file, read_image, read_instance_mask, load_weights, LaneSegmentationConfig.from_yaml, read_array]
OUTSIDE = "the image lies outside of the labels' folder; --images FOLDER names another"
CONFIG = LaneSegmentationConfig.preset("tiny").replace(image_size=(64, 128))


def picture(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(path, **options)


# --- No file ----------------------------------------------------------------------------------------------------------


@PIPES
@pytest.mark.parametrize("read", READERS)
def test_pipes_devices_and_folders_are_refused_by_name_and_not_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    for path, found in ((tmp_path / "pipe.png", "a pipe"), ("/dev/zero", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"{path}: this is {found}.*, expected a"):
            read(path)
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such .*, expected a"):
        read(tmp_path / "none.png")


@PIPES
def test_a_pipe_in_a_folder_is_not_listed_and_a_link_that_leads_nowhere_is(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    picture(tmp_path / "c.png")
    assert [path.name for path in list_files(tmp_path, ".png")] == ["b.png", "c.png"]
    assert picture_format(tmp_path / "a.png") is None


@PIPES
@pytest.mark.parametrize("convert", [convert_labelme, convert_tusimple, convert_culane, convert_bdd100k, convert_coco])
def test_a_pipe_that_a_label_names_is_an_image_that_is_missing(tmp_path, convert):
    label(tmp_path, convert, "a.jpg")
    os.mkfifo(tmp_path / "a.jpg")
    report = convert(tmp_path, tmp_path / "out", **HERE)
    assert (report.written, dict(report.dropped)) == (0, {"the image is missing": 1})


def label(root, convert, name):
    """A label file of a format that names one image."""
    root.mkdir(parents=True, exist_ok=True)
    if convert is convert_labelme:
        (root / "labels.json").write_text(json.dumps({"shapes": [], "imagePath": name}))
    elif convert is convert_tusimple:
        (root / "labels.json").write_text(json.dumps({"raw_file": name, "lanes": [], "h_samples": []}))
    elif convert is convert_culane:
        (root / "list").mkdir(exist_ok=True)
        (root / "list" / "train.txt").write_text(name)
        lines = root / name.replace(".jpg", ".lines.txt")
        if ".." not in name and not lines.exists():
            lines.write_text("")
    elif convert is convert_bdd100k:
        (root / "labels.json").write_text(json.dumps([{"name": name, "labels": []}]))
    else:
        content = {"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}
        (root / "labels.json").write_text(json.dumps(content))


@pytest.mark.parametrize("way", ["dots", "link", "linked folder"])
@pytest.mark.parametrize("convert", [convert_labelme, convert_tusimple, convert_culane, convert_bdd100k, convert_coco])
def test_no_label_reads_an_image_outside_of_the_data_set(tmp_path, convert, way):
    picture(tmp_path / "secret" / "a.jpg")
    (tmp_path / "secret" / "a.lines.txt").write_text("")
    root = tmp_path / "in"
    name = {"dots": "../secret/a.jpg", "link": "a.jpg", "linked folder": "clips/a.jpg"}[way]
    root.mkdir()
    if way == "link":
        (root / "a.jpg").symlink_to(tmp_path / "secret" / "a.jpg")
    elif way == "linked folder":
        (root / "clips").symlink_to(tmp_path / "secret")
    label(root, convert, name)
    report = convert(root, tmp_path / "out", **HERE)
    assert (report.written, dict(report.dropped)) == (0, {OUTSIDE: 1})


def test_a_label_file_of_culane_behind_a_link_that_leads_out_is_not_read_as_no_lane(tmp_path):
    picture(tmp_path / "in" / "a.jpg")
    (tmp_path / "secret.txt").write_text("1 2 3 4")
    (tmp_path / "in" / "a.lines.txt").symlink_to(tmp_path / "secret.txt")
    label(tmp_path / "in", convert_culane, "a.jpg")
    report = convert_culane(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, dict(report.dropped)) == (0, {"a label file that is missing or cannot be read": 1})


def test_rows_of_tusimple_name_no_image_outside_of_the_folder(tmp_path):
    picture(tmp_path / "secret.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    for name in ("a.jpg", "../secret.jpg"):
        (tmp_path / "gt.json").write_text(json.dumps({"raw_file": name, "h_samples": [1]}))
        with pytest.raises(ValueError, match=f"line 1 names no row, or {name}, which is not in"):
            read_h_samples(tmp_path / "gt.json", tmp_path / "in")


@pytest.mark.parametrize("entry", [{"file": "../b", "kept": "a"}, {"file": "b", "kept": "../a"}, {"file": "b"}, 3])
def test_a_log_that_names_files_outside_moves_nothing(tmp_path, entry):
    log = tmp_path / "in" / "_set_aside" / "1" / "log.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"done": [entry]}))
    (tmp_path / "a").write_text("")
    (tmp_path / "in" / "a").write_text("")
    with pytest.raises(ValueError, match=r"log\.json: damaged"):
        undo(tmp_path / "in")
    assert (tmp_path / "a").exists()
    assert (tmp_path / "in" / "a").exists()


# --- Pictures ---------------------------------------------------------------------------------------------------------


def chunk(name, data):
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(rows, height=10, width=8, level=0):
    """A grey PNG whose stream ends after some rows."""
    head = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    stream = zlib.compress((b"\0" + bytes([level] * width)) * rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


@pytest.mark.parametrize("level", [0, 7])
@pytest.mark.parametrize("rows", [1, 5, 9])
def test_a_png_whose_stream_lacks_rows_is_damaged(tmp_path, rows, level):
    (tmp_path / "a.png").write_bytes(png(rows, level=level))
    for read in (read_image, read_instance_mask):
        with pytest.raises(ValueError, match=r"a\.png: damaged or truncated image \(it ends before its last row\)"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_whole_png_whose_last_rows_are_zero_is_read(mode):
    content = io.BytesIO()
    Image.new(mode, (9, 7)).save(content, "PNG")
    assert decoded(content.getvalue()).size == (9, 7)
    assert decoded(png(10, level=0)).size == (8, 10)


BROKEN = png(10)[:33] + chunk(b"IDAT", zlib.compress(bytes(90))[:6]) + chunk(b"\0IEN", b"")
"""Pillow looks for more of the pixels, and raises SyntaxError for the name of the last chunk."""


@pytest.mark.parametrize("content", [BROKEN, b"no picture", png(1, 1 << 20, 1 << 20)])
def test_a_damaged_mask_inside_a_label_file_is_a_damaged_shape(tmp_path, content):
    picture(tmp_path / "in" / "a.jpg")
    mask = {"label": "lane", "shape_type": "mask", "points": [[1, 1], [8, 10]]}
    shapes = [mask | {"mask": base64.b64encode(data).decode()} for data in (content, png(10, level=1))]
    (tmp_path / "in" / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.jpg"}))
    report = convert_labelme(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, sum(report.dropped.values())) == (1, 1)
    assert set(report.dropped) <= {"a damaged shape", "a mask that is too large"}


def test_a_damaged_mask_of_camvid_is_a_label_file_that_cannot_be_read(tmp_path):
    picture(tmp_path / "in" / "train" / "a.png")
    (tmp_path / "in" / "trainannot").mkdir()
    (tmp_path / "in" / "trainannot" / "a.png").write_bytes(BROKEN)
    report = convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, dict(report.dropped)) == (0, {"a label file that cannot be read": 1})
    with pytest.raises(ValueError, match="broken PNG file"):
        decoded(BROKEN)


@pytest.mark.parametrize("form", ["DDS", "PPM", "TGA", "ICO", "EPS"])
def test_formats_that_nobody_photographs_in_are_not_decoded_whatever_they_are_called(tmp_path, form):
    picture(tmp_path / "a.png", format=form)
    with pytest.raises(ValueError, match=r"a\.png: not an image that can be read, expected a JPEG or PNG"):
        read_image(tmp_path / "a.png")


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1, 1 << 20, 1 << 20))
    with pytest.raises(ValueError, match=r"a\.png: too large to be read safely"):
        read_image(tmp_path / "a.png")


def test_the_decoder_of_pictures_says_nothing_of_its_own(tmp_path):
    picture(tmp_path / "large.png")
    picture(tmp_path / "damaged.png", format="TIFF", compression="tiff_lzw")
    content = (tmp_path / "damaged.png").read_bytes()
    (tmp_path / "damaged.png").write_bytes(content[:-100])
    code = "import sys; from PIL import Image; from roadtopo_lib.data.images import read_images\n"
    code += "Image.MAX_IMAGE_PIXELS = 1000  # a warning from there on, an error from twice as many\n"
    code += "for file, image in read_images(sys.argv[1:], print): print(file, image.shape)"
    files = [str(tmp_path / name) for name in ("large.png", "damaged.png")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{files[0]} (32, 48, 3)\n{files[1]}: not an image that can be read")


def test_a_large_mask_in_a_label_file_is_put_in_order_by_a_part_of_its_pixels():
    mask = np.ones((4000, 3000), bool)
    points = Shape([], 0, mask=mask, corner=(7, 9)).points()
    assert 1 << 18 < len(points) <= MOST_POINTS
    assert abs(points.mean(axis=0) - (1499.5 + 7, 1999.5 + 9)).max() < 5
    mask[::3, ::3] = False
    assert len(Shape([], 0, mask=mask).points()) > 0
    few = np.eye(5, dtype=bool)
    assert Shape([], 0, mask=few).points().tolist() == [[k, k] for k in range(5)]


def test_a_mask_of_thousands_of_instances_is_refused_with_their_number():
    ids = np.arange(1, MOST_INSTANCES + 1, dtype=np.uint16)[None]
    check_instances(np.zeros_like(ids, np.uint8), ids, "mask.png")
    many = np.arange(10_000, 10_001 + MOST_INSTANCES, dtype=np.uint16)[None]
    with pytest.raises(ValueError, match=f"mask.png: {MOST_INSTANCES + 1} instances, expected at most"):
        check_instances(np.zeros_like(many, np.uint8), many, "mask.png")


# --- Names that are not UTF-8, and videos -----------------------------------------------------------------------------


NO_UTF8 = os.fsdecode(b"\xff")
REFUSED = "the name of this file is not UTF-8, expected one that is"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_read_written_or_refused_in_a_sentence(tmp_path):
    picture(tmp_path / f"{NO_UTF8}.png")
    write_image(tmp_path / NO_UTF8 / "b.png", read_image(tmp_path / f"{NO_UTF8}.png"))
    assert read_image(tmp_path / NO_UTF8 / "b.png").shape == (32, 48, 3)
    for name, read in ((f"{NO_UTF8}.safetensors", load_weights), (f"{NO_UTF8}.avi", video), (NO_UTF8 * 2, is_video)):
        (tmp_path / name).write_bytes(b"RIFF")
        with pytest.raises(ValueError, match=REFUSED):
            read(tmp_path / name)


def video(path):
    return next(read_video(path))


@pytest.mark.parametrize("content", [b"", b"RIFF\xdc'\0\0AVI LIST", b"text"])
def test_a_file_that_is_no_video_is_refused_by_name_and_nothing_else_is_printed(tmp_path, capfd, content):
    (tmp_path / "a%02d.avi").write_bytes(content)
    with pytest.raises(ValueError, match=r"a%02d\.avi: not a video that can be decoded"):
        video(tmp_path / "a%02d.avi")
    assert capfd.readouterr() == ("", "")


# --- Settings and models ----------------------------------------------------------------------------------------------


DOUBLED = "\n".join(f"- &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, f"more than {MAX_DEPTH} levels"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("[" + "1," * MAX_NODES + "]", f"more than {MAX_NODES} values"),
        (f"- &a0 [x, x]\n{DOUBLED}", f"more than {MAX_NODES} values"),
        ("a: &a [*a]", "an alias within what it stands for"),
        ("a: &a {<<: *a}", "an alias within what it stands for"),
        ("a: !!timestamp x", "a value that is not of its tag"),
        ("a: !!bool x", "a value that is not of its tag"),
    ],
)
def test_yaml_without_measure_is_refused_in_a_short_line(text, found):
    with pytest.raises(yaml.YAMLError, match=found) as refusal:
        parse_yaml(text)
    assert len(str(refusal.value)) < 200


def test_aliases_stand_for_what_they_name():
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_yaml("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}")["d"] == {"b": [1, 2], "e": 3}
    assert parse_yaml(f"a: {deep}")["a"] is not None


def test_a_config_file_of_megabytes_is_refused_by_its_size_and_a_long_value_in_a_short_line(tmp_path):
    path = tmp_path / "lane.yaml"
    path.write_text("lr: " + "x" * 1_000_000)
    with pytest.raises(ValueError, match=r"lane\.yaml: has 1000004 bytes, expected at most 262144"):
        LaneSegmentationConfig.from_yaml(path)
    path.write_text("lr: " + "x" * 100_000)
    with pytest.raises(ValueError, match=r"lr is 'xxx.*, expected a valid number") as refusal:
        LaneSegmentationConfig.from_yaml(path)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("name", "value"), [("image_size", (10**9, 32)), ("embedding_dim", 10**8), ("num_workers", 2**31 - 1)]
)
def test_sizes_that_no_memory_holds_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        LaneSegmentationConfig(**{name: value})


HUGE = [
    (SegFormerModel, {"num_classes": 5_000_000}),
    (SegFormerModel, {"num_classes": 10**30}),
    (SegFormerModel, {"embedding_dim": 10**8}),
    (SegFormerModel, {"backbone": "b5"}),
    (SegFormerModel, {"backbone": ["tiny"]}),
    (UNet, {"widths": [80_000, 80_000]}),
    (UNet, {"widths": [8] * 100_000}),
    (UNet, {"widths": 5}),
]


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
@pytest.mark.parametrize(("kind", "changes"), HUGE)
def test_absurd_sizes_in_a_model_file_are_refused_before_memory_is_taken(tmp_path, kind, changes):
    arguments = {"widths": (8, 16)} if kind is UNet else {"backbone": "tiny", "pretrained": False}
    model = kind(**arguments)
    header = json.dumps({"kind": kind.kind, "config": model.settings() | changes, "info": {}})
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors", {"roadtopo_lib": header})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"m\.safetensors: weights do not fit the settings in the file"):
        load(tmp_path / "m.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_refused_by_type(tmp_path, dtype):
    header = json.dumps({"kind": "segformer", "config": {}, "info": {}})
    safetensors.torch.save_file({"a": torch.zeros(2).to(dtype)}, tmp_path / "m.safetensors", {"roadtopo_lib": header})
    with pytest.raises(ValueError, match=r"m\.safetensors: a is of type torch\.float8.*, expected 16 bits at least"):
        load_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000 + "]" * 100_000])
def test_settings_that_no_parser_can_hold_are_damaged(tmp_path, value):
    header = '{"kind": "segformer", "info": {}, "config": ' + value + "}"
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"roadtopo_lib": header})
    with pytest.raises(ValueError, match=r"m\.safetensors: the model's settings .* missing or damaged"):
        load_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
        {name: {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]} for name in "ab"},
        {"a": {"dtype": "F32", "shape": [10**18, 10**18], "data_offsets": [0, 400]}},
    ],
)
@pytest.mark.parametrize("length", [None, 1 << 40])
def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path, tensors, length):
    content = json.dumps(tensors).encode()
    head = struct.pack("<Q", length or len(content)) + content
    (tmp_path / "m.safetensors").write_bytes(head + bytes(400))
    with pytest.raises(ValueError, match=r"m\.safetensors: truncated or not a safetensors file"):
        load_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("text", ['"[' + "{}," * 6_000_000 + '{}]"', "{" + " " * (1 << 24) + "}"])
def test_a_header_of_many_megabytes_is_refused_before_it_is_parsed(tmp_path, text):
    content = f'{{"__metadata__": {{"roadtopo_lib": {text}}}}}'.encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    with pytest.raises(ValueError, match=rf"m\.safetensors: truncated .*a header of {len(content)} bytes, expected"):
        load_weights(tmp_path / "m.safetensors")


# --- Large images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(37, 53), (8, 64), (5, 4), (16, 16)])
def test_strips_of_a_map_equal_the_map(monkeypatch, size):
    x = torch.randn(1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    whole = upsample_to(x, size)[0]
    assert torch.equal(next(upsampled_strips(x, size))[1], whole)
    monkeypatch.setattr("roadtopo_lib.strips.MOST_VALUES", 3 * size[1] * 3)
    tops, strips = zip(*upsampled_strips(x, size), strict=True)
    assert tops == tuple(range(0, size[0], 3))
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, rtol=1e-5, atol=1e-6)


def test_what_is_written_for_a_large_image_takes_a_small_multiple_of_it(monkeypatch):
    size = (1200, 1600)
    lanes, crosswalks = np.zeros((2, *size), np.int32)
    lanes[:, 100:110], crosswalks[:, 300:] = 1, 1
    result = {"lane_instances": lanes, "crosswalk_instances": crosswalks, "lane_count": 1, "lane_polylines": []}
    image = np.zeros((*size, 3), np.uint8)
    monkeypatch.setattr("roadtopo_lib.viz.STRIP_PIXELS", 1 << 17)
    for work, most in ((lambda: all_instances(result), 7), (lambda: overlay(image, result), 9)):
        tracemalloc.start()
        found = work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * lanes.size, f"{peak / lanes.size} bytes a pixel"
        assert [found[9, x].any() for x in (0, 100, 300)] == [False, True, True]
    assert np.unique(all_instances(result)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(30, 70), (97, 64), (1, 5000), (5000, 1)])
def test_a_large_image_is_told_apart_in_a_smaller_size_and_the_result_is_in_its_own_pixels(monkeypatch, size):
    seen = []

    class Halves(LaneSegmenter):
        """Finds a lane in the left half of whatever it sees, and a crosswalk in the right one."""

        def predict(self, image):
            seen.append(image.shape[:2])
            semantic = np.full(image.shape[:2], CROSSWALK)
            semantic[:, : max(1, image.shape[1] // 2)] = LANE_MARKING
            sure = (semantic == LANE_MARKING).astype(np.float32)
            return {"semantic_pred": semantic, "embeddings": np.zeros((2, 1, 1), np.float32), "confidence": sure}

    segmenter = Halves(SegFormerModel("tiny", pretrained=False), CONFIG, "cpu")
    image = np.zeros((*size, 3), np.uint8)
    whole = segmenter(image)
    assert seen == [size]
    segmenter.most_pixels = 1500
    result = segmenter(image)
    assert np.prod(seen[1]) <= 1500
    for name in ("semantic_mask", "lane_instances", "crosswalk_instances"):
        assert result[name].shape == size
        assert result[name].flags.c_contiguous
        assert (result[name] != whole[name]).mean() <= 1 / 30
    factor = np.array(size[::-1]) / seen[1][::-1]
    assert abs(result["lane_centers"] - whole["lane_centers"]).max() <= factor.max() / 2
    assert abs(result["lane_polylines"][0][[0, -1]] - whole["lane_polylines"][0][[0, -1]]).max() <= factor.max()
    assert find(segmenter, image, "a", None)[0]["lanes"][0]["class"] == "lane_marking"


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (20, 3000), (64, 128)])
def test_the_network_sees_no_more_pixels_of_a_sliver_than_of_any_image(size):
    model = SegFormerModel("tiny", pretrained=False)
    view = LaneSegmenter(model, CONFIG, "cpu").make_views(np.zeros((*size, 3), np.uint8))[1]
    assert np.prod(view.pixels.shape[2:]) <= 3 * np.prod(CONFIG.image_size)


# --- The command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("synth --out OUT --train 1 --size 1000000x1000000", "each 32 to 8192"),
        ("synth --out OUT --train 1000000000000 --size 64x96", "from 0 to 1000000"),
        ("synth --out OUT --train 1 --size 64x96 --seed 18446744073709551616", "seed is a whole number from 0"),
        ("evaluate lane --model m --data . --device meta", "--device meta: not available"),
    ],
)
def test_an_absurd_option_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, line, found):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert found in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.jpg")
    with pytest.raises(SystemExit, match="2"):
        main(["infer", "lane", "--model", "m", "--input", "", "--output", "out"])
    assert "--input: an empty name, expected a file or folder" in capsys.readouterr().err


def test_a_scene_of_any_size_that_is_accepted_can_be_asked_for():
    assert check_size((32, 8192)) == (32, 8192)
    for size in ((31, 64), (64, 8193)):
        with pytest.raises(ValueError, match="each 32 to 8192"):
            check_size(size)


def test_a_long_quotation_in_an_error_is_shortened_and_its_end_stays(capsys):
    assert one_line(ValueError("x" * 5000 + "\n; all faults: here")).endswith("x ; all faults: here")
    assert len(one_line(ValueError("x" * 5000))) < 1100
    with pytest.raises(SystemExit, match="2"):
        main(["infer", "x" * 5000])
    assert len(capsys.readouterr().err) < 1100


@PIPES
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "device")
    with pytest.raises(OSError, match=r"device: cannot be written \(a pipe, socket or device lies there\)"):
        write_atomic(tmp_path / "device", "text")
    assert (tmp_path / "device").is_fifo()


@PIPES
def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_what_it_leads_to_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("text")
    for name, make in (("link", lambda path: path.symlink_to(tmp_path / "precious")), ("pipe", os.mkfifo)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / LOCK)
        with pytest.raises(OSError, match=f"{name}: cannot be written"), locked(tmp_path / name, "a training"):
            pass
    assert (tmp_path / "precious").read_text() == "text"


SYNTH = ["synth", "--train", "2", "--size", "64x96", "--workers", "1", "--out"]


@pytest.mark.parametrize("text", ["[]", "3", '{"split": "train"}', '{"split": [], "name": 1}', "[" * 100_000, "\udcff"])
def test_a_line_of_the_journal_that_is_no_record_is_left_out(tmp_path, text):
    assert main([*SYNTH, str(tmp_path)]) == 0
    meta = (tmp_path / "meta.json").read_bytes()
    (tmp_path / "meta.partial.jsonl").write_text(f"{text}\n", errors="surrogateescape")
    assert main([*SYNTH, str(tmp_path)]) == 0
    assert (tmp_path / "meta.json").read_bytes() == meta
