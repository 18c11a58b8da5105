"""``check-data`` finds each kind of fault once, whatever else is wrong, and ``--fix`` can be undone."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.app.check_data import CELL, CHECKS, ERROR, NOTE, WARNING, Report
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.faults import View, line_width, picture_hashes
from roadtopo_lib.app.survey import NEAR_BITS
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.images import write_image
from roadtopo_lib.data.samples import sample_files, write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.decoding import ORIENTATION
from roadtopo_lib.labels import (
    BACKGROUND,
    BINARY_CLASSES,
    CROSSWALK,
    IGNORE_INDEX,
    LANE_BOUNDARY,
    LANE_MARKING,
    ROAD,
    SIDEWALK,
)
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.camera import Camera, Ground, sample_camera
from roadtopo_lib.segformer import SegFormerModel

SAMPLES = Path(__file__).parents[2] / "data_samples"
BROKEN = SAMPLES / "broken"
TINY = LaneSegmentationConfig.preset("tiny")
SIZE = (128, 256)
TRAIN, VAL = "abcd", "ef"
LANE, EDGE, ZEBRA = np.s_[40:, 60:66], np.s_[40:, 200:206], np.s_[100:120, 100:160]


def labels(size=SIZE):
    """A lane marking, a lane boundary and a crosswalk, with sidewalk; semantic mask, instance mask."""
    semantic, instance = np.full(size, BACKGROUND), np.zeros(size, int)
    semantic[40:], semantic[40:, 220:] = ROAD, SIDEWALK
    for i, (where, of_class) in enumerate(((LANE, LANE_MARKING), (EDGE, LANE_BOUNDARY), (ZEBRA, CROSSWALK)), 1):
        semantic[where], instance[where] = of_class, i
    return semantic, instance


def photo(seed, size=SIZE):
    """Smooth patches of light that no other seed has."""
    small = np.random.default_rng(seed).integers(0, 256, (10, 20, 3)).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def root(tmp_path):
    """Four training and two validation samples without a fault."""
    for seed, name in enumerate(TRAIN + VAL):
        write_sample(tmp_path / "D" / ("train" if name in TRAIN else "val"), name, photo(seed), *labels())
    return tmp_path / "D"


def findings(root, config=TINY, splits=None):
    return {(f.check, f.severity, f.split): f.files for f in Report(root, splits, config).findings}


def file(root, kind, name="b", split="train"):
    return sample_files(root / split, name)[kind]


def put(path: Path, array: np.ndarray, orientation: int = 1, **options) -> None:
    exif = Image.Exif()
    if orientation != 1:
        exif[ORIENTATION] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)


def relabel(root, change: Callable, name="b", split="train"):
    """Writes both masks of a sample after ``change`` has worked on their arrays, past all checks."""
    semantic, instance = labels()
    change(semantic, instance)
    put(file(root, 1, name, split), semantic.astype(np.uint8))
    put(file(root, 2, name, split), instance.astype(np.uint16))


def relabel_all(root, change, names=TRAIN, split="train"):
    for name in names:
        relabel(root, change, name, split)


# --- Each fault, alone ------------------------------------------------------------------------------------------------

BREAKS: dict[str, tuple[str, str, list[str], Callable]] = {}
"""By name: check, severity, files named, and what breaks a clean data set so."""


def breaks(check, severity, *files):
    def keep(function):
        BREAKS[function.__name__] = (check, severity, list(files), function)
        return function

    return keep


@breaks("missing_folder", ERROR, "train/instance_masks")
def a_folder_is_missing(root):
    shutil.rmtree(root / "train" / "instance_masks")


@breaks("no_images", ERROR, "train/images")
def no_image_at_all(root):
    shutil.rmtree(root / "train" / "images")
    (root / "train" / "images").mkdir()


@breaks("same_name", ERROR, "train/images/b.png")
def two_images_of_one_name(root):
    put(root / "train" / "images" / "b.png", photo(77))


@breaks("missing_mask", ERROR, "train/images/b.jpg")
def an_instance_mask_is_missing(root):
    file(root, 2).unlink()


@breaks("missing_mask", ERROR, "train/images/b.jpg")
def both_masks_are_missing(root):
    file(root, 1).unlink()
    file(root, 2).unlink()


@breaks("missing_image", ERROR, "train/semantic_masks/b.png")
def an_image_is_missing(root):
    file(root, 0).unlink()


@breaks("unreadable", ERROR, "train/images/b.jpg")
def a_text_called_jpg(root, name="b"):
    file(root, 0, name).write_text("no picture")


@breaks("unreadable", ERROR, "train/semantic_masks/b.png")
def an_empty_file(root):
    file(root, 1).write_bytes(b"")


@breaks("unreadable", ERROR, "train/images/b.jpg")
def a_link_that_leads_nowhere(root):
    file(root, 0).unlink()
    file(root, 0).symlink_to(root / "gone.jpg")


@breaks("truncated", ERROR, "train/images/b.jpg")
def half_a_jpeg(root, name="b"):
    data = file(root, 0, name).read_bytes()
    file(root, 0, name).write_bytes(data[: len(data) // 2])


@breaks("truncated", ERROR, "train/instance_masks/b.png")
def half_a_png(root, name="b"):
    data = file(root, 2, name).read_bytes()
    file(root, 2, name).write_bytes(data[: len(data) // 2])


@breaks("lossy_mask", ERROR, "train/semantic_masks/b.png")
def a_jpeg_called_png_as_semantic_mask(root):
    put(file(root, 1), labels()[0].astype(np.uint8), format="JPEG")


@breaks("lossy_mask", ERROR, "train/instance_masks/b.png")
def a_webp_called_png_as_instance_mask(root):
    put(file(root, 2), np.dstack([labels()[1].astype(np.uint8)] * 3), format="WEBP")


@breaks("renamed", WARNING, "train/images/b.jpg")
def a_png_called_jpg_as_image(root):
    put(file(root, 0), photo(77), format="PNG")


@breaks("pixel_format", ERROR, "train/semantic_masks/b.png")
def a_semantic_mask_in_colours(root):
    put(file(root, 1), np.dstack([labels()[0].astype(np.uint8)] * 3))


@breaks("pixel_format", ERROR, "train/instance_masks/b.png")
def an_instance_mask_with_alpha(root):
    put(file(root, 2), np.dstack([labels()[1].astype(np.uint8)] * 4))


@breaks("class_ids", ERROR, "train/semantic_masks/b.png")
def a_class_out_of_range(root, name="b"):
    relabel(root, lambda semantic, _: np.putmask(semantic, semantic == LANE_MARKING, 9), name)


@breaks("binary_mask", ERROR, "train/semantic_masks/b.png")
def a_mask_of_0_and_255_with_instances(root, name="b"):
    relabel(root, lambda semantic, instance: np.copyto(semantic, np.where(instance > 0, 255, 0)), name)


@breaks("binary_mask", ERROR, *(f"train/semantic_masks/{name}.png" for name in TRAIN))
def only_masks_of_0_and_255_without_instances(root):
    def change(semantic, instance):
        semantic[:] = np.where(instance > 0, 255, 0)
        instance[:] = 0

    relabel_all(root, change)


@breaks("maybe_binary_mask", WARNING, "train/semantic_masks/b.png")
def one_mask_of_0_and_255_without_instances(root):
    def change(semantic, instance):
        semantic[:], instance[:] = 0, 0
        semantic[:20] = 255

    relabel(root, change)


@breaks("orientation", ERROR, "train/semantic_masks/b.png", "train/instance_masks/b.png")
def an_image_upside_down_by_its_tag(root):
    put(file(root, 0), photo(77), 3)


@breaks("orientation_tag", WARNING, "train/images/b.jpg")
def all_three_files_mirrored_by_their_tags(root):
    for kind, array in enumerate((photo(77), *(mask.astype(np.uint8) for mask in labels()))):
        put(file(root, kind), array, 2)


@breaks("orientation_tag", WARNING, "train/images/b.jpg")
def an_image_on_its_side_whose_size_shows_how_the_masks_lie(root):
    put(file(root, 0), np.rot90(photo(77)), 6)


@breaks("size", ERROR, "train/semantic_masks/b.png")
def a_mask_half_as_large(root):
    put(file(root, 1), labels()[0][::2, ::2].astype(np.uint8))


@breaks("shared_id", ERROR, "train/instance_masks/b.png")
def ids_that_begin_anew_in_each_class(root, name="b"):
    relabel(root, lambda semantic, instance: np.copyto(instance, np.where(instance == 3, 1, instance)), name)


@breaks("instances_on_unlabelled", ERROR, "train/instance_masks/b.png")
def an_instance_on_unlabelled_pixels(root):
    relabel(root, lambda semantic, instance: np.putmask(semantic, instance == 1, IGNORE_INDEX))


@breaks("instances_off_lanes", ERROR, "train/instance_masks/b.png")
def an_instance_on_road(root):
    relabel(root, lambda semantic, instance: np.putmask(semantic, instance == 1, ROAD))


@breaks("empty_instances", WARNING, "train/instance_masks/b.png")
def a_lane_without_an_id(root):
    relabel(root, lambda semantic, instance: np.putmask(instance, instance == 3, 0))


@breaks("empty_instances", WARNING, "train/instance_masks/b.png")
def an_empty_instance_mask(root):
    relabel(root, lambda semantic, instance: instance.fill(0))


@breaks("no_instances", ERROR, "train/instance_masks")
def no_instance_in_all_of_train(root):
    relabel_all(root, lambda semantic, instance: instance.fill(0))


@breaks("id_gaps", NOTE, "train/instance_masks/b.png")
def an_id_without_pixels(root):
    relabel(root, lambda semantic, instance: np.putmask(instance, instance == 3, 4))


@breaks("binary_instances", WARNING, "train/instance_masks/b.png")
def an_instance_mask_of_0_and_255(root):
    def change(semantic, instance):
        semantic[ZEBRA] = ROAD
        instance[:] = 255 * np.isin(semantic, (LANE_MARKING, LANE_BOUNDARY))
        semantic[EDGE] = LANE_MARKING

    relabel(root, change)


@breaks("nothing_labelled", ERROR, "train/semantic_masks")
def nothing_is_labelled(root):
    relabel_all(root, lambda semantic, instance: (semantic.fill(IGNORE_INDEX), instance.fill(0)))


@breaks("no_lanes", ERROR, "train/semantic_masks")
def no_lane_is_labelled(root):
    def change(semantic, instance):
        semantic[instance > 0] = ROAD
        instance[:] = 0

    relabel_all(root, change)


@breaks("class_balance", WARNING, "train/semantic_masks")
def a_class_that_only_val_shows(root):
    relabel_all(root, lambda semantic, instance: np.putmask(semantic, semantic == SIDEWALK, ROAD))


@breaks("thin_lines", WARNING, "train/semantic_masks/b.png")
def lines_two_pixels_wide(root):
    def change(semantic, instance):
        for x in (62, 202):
            semantic[40:, x : x + 4], instance[40:, x : x + 4] = ROAD, 0

    relabel(root, change)


@breaks("thin_lines", WARNING, "train/semantic_masks/b.png")
def a_line_one_pixel_wide_and_ten_cells_long(root):
    def change(semantic, instance):
        semantic[:], instance[:] = ROAD, 0
        semantic[60:100, 60], instance[60:100, 60] = LANE_MARKING, 1

    relabel(root, change)


@breaks("aspect", WARNING, "train/images/b.jpg")
def a_portrait_frame(root):
    for path, array in zip(sample_files(root / "train", "b"), (photo(77), *labels()), strict=True):
        big = cv2.resize(array.astype(np.uint16), (240, 320), interpolation=cv2.INTER_NEAREST)
        put(path, big.astype(np.uint8))


@breaks("duplicates", ERROR, "val/images/f.jpg")
def one_picture_in_two_splits(root):
    shutil.copy(file(root, 0), file(root, 0, "f", "val"))


@breaks("near_duplicates", WARNING, "val/images/f.jpg")
def one_picture_saved_again_in_another_split(root):
    image = np.clip(photo(1).astype(int) + 12, 0, 255).astype(np.uint8)
    write_image(file(root, 0, "f", "val"), image, jpeg_quality=60)


@breaks("ignored_file", WARNING, "train/images/more.bmp")
def a_picture_that_no_listing_takes(root):
    put(root / "train" / "images" / "more.bmp", photo(77))


@breaks("missing_split", WARNING, "val")
def train_without_val(root):
    shutil.rmtree(root / "val")


def test_a_clean_data_set_has_no_finding(root):
    report = Report(root, None, TINY)
    assert report.findings == []
    assert {split: seen.read for split, seen in report.survey.splits.items()} == {"train": 4, "val": 2}


@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_found_once_and_nothing_else(root, name):
    check, severity, files, function = BREAKS[name]
    function(root)
    found = findings(root)
    split = "val" if files[0].startswith("val") else "train"
    assert found == {(check, severity, split): files}


def test_a_test_split_without_an_image_stops_no_training(root):
    for kind in ("images", "semantic_masks", "instance_masks"):
        (root / "test" / kind).mkdir(parents=True)
    assert findings(root) == {("no_images", WARNING, "test"): ["test/images"]}


def test_every_check_is_broken_here_once():
    assert {check for check, *_ in BREAKS.values()} == set(CHECKS)
    assert all(CHECKS[check][0] == severity for check, severity, *_ in BREAKS.values())


# --- Together ---------------------------------------------------------------------------------------------------------


def test_all_faults_are_found_at_once_and_none_hides_another(root):
    half_a_jpeg(root, "a")
    half_a_png(root, "a")
    a_text_called_jpg(root, "b")
    ids_that_begin_anew_in_each_class(root, "b")
    ids_that_begin_anew_in_each_class(root, "c")
    a_class_out_of_range(root, "d")
    assert findings(root) == {
        ("truncated", ERROR, "train"): ["train/images/a.jpg", "train/instance_masks/a.png"],
        ("unreadable", ERROR, "train"): ["train/images/b.jpg"],
        ("shared_id", ERROR, "train"): ["train/instance_masks/b.png", "train/instance_masks/c.png"],
        ("class_ids", ERROR, "train"): ["train/semantic_masks/d.png"],
    }


def test_masks_of_0_and_255_count_as_wrong_beside_others_that_surely_are_and_hide_no_lack_of_lanes(root):
    one_mask_of_0_and_255_without_instances(root)
    a_mask_of_0_and_255_with_instances(root, "d")
    files = ["train/semantic_masks/b.png", "train/semantic_masks/d.png"]
    assert findings(root) == {("binary_mask", ERROR, "train"): files}
    no_lane_is_labelled(root)
    one_mask_of_0_and_255_without_instances(root)
    assert findings(root) == {
        ("maybe_binary_mask", WARNING, "train"): files[:1],
        ("no_lanes", ERROR, "train"): ["train/semantic_masks"],
    }


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("missing_folder", "missing_folder"), ("image_without_mask", "missing_mask"), ("empty_data_set", "no_images"),
        ("mask_without_image", "missing_image"), ("mask_of_another_size", "size"), ("unreadable_image", "unreadable"),
        ("truncated_image", "truncated"), ("semantic_id_out_of_range", "class_ids"), ("float_mask", "pixel_format"),
        ("instance_id_shared", "shared_id"), ("palette_mask", "pixel_format"), ("rgba_mask", "pixel_format"),
        ("rgb_instances_without_black", "pixel_format"), ("missing_split", None),
    ],
)  # fmt: skip
def test_the_broken_examples_are_found(name, check):
    found = findings(BROKEN / name)
    assert {key[0] for key in found if key[1] == ERROR} == ({check} if check else set())
    assert ("missing_split", WARNING, "val") in found


def test_the_committed_samples_are_clean():
    for preset in ("tiny", "b0"):
        assert findings(SAMPLES, LaneSegmentationConfig.preset(preset)) == {}


def test_thousands_of_wrong_ids_are_one_fault_and_no_work(root):
    many = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    put(file(root, 2), many)
    found = {f.check: f for f in Report(root, None, TINY).findings}
    assert found["instances_off_lanes"].files == ["train/instance_masks/b.png"]
    assert found["instances_off_lanes"].found[0].startswith("instances 1, 2, 3, 4, 5: ")
    put(file(root, 1), (many % 256).astype(np.uint8))
    (finding,) = Report(root, None, TINY).findings
    assert finding.check == "class_ids"
    assert len(finding.found[0]) < 250


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_the_smallest_pictures_stop_nothing(root, size):
    for path, array in zip(
        sample_files(root / "train", "b"),
        (np.zeros((*size, 3), np.uint8), *np.zeros((2, *size), np.uint8)),
        strict=True,
    ):
        put(path, array)
    config = TINY.replace(crop_top=0.9)
    assert {key[0] for key in findings(root, config)} <= {"aspect", "thin_lines"}
    assert Report(root, None, config).survey.splits["train"].read == 4


def test_hidden_files_results_and_other_texts_are_no_fault(root):
    for kind in range(3):
        path = file(root, kind)
        path.with_name("._" + path.name).write_bytes(b"\0\5\x16\7")
        path.with_name("Thumbs.db").write_bytes(b"index")
    write_image(root / "train" / "images" / "b_overlay.png", photo(1), is_result=True)
    assert findings(root) == {}


def test_one_split_alone_and_any_two_can_be_checked(root):
    write_sample(root / "test", "g", photo(50), *labels())
    assert findings(root) == {}
    assert main(["check-data", str(root / "val")]) == 0
    shutil.rmtree(root / "train")
    assert set(findings(root)) == {("missing_split", WARNING, "train")}
    assert findings(root, splits=["test"]) == {}


def test_a_class_table_of_ones_own_decides_which_ids_are_right(root):
    relabel_all(root, lambda semantic, instance: np.copyto(semantic, instance > 0))
    relabel_all(root, lambda semantic, instance: np.copyto(semantic, instance > 0), VAL, "val")
    assert ("instances_off_lanes", ERROR, "train") in findings(root)
    assert findings(root, TINY.replace(num_classes=2)) == {}


def test_data_without_instances_suit_a_model_that_learns_none(root):
    no_instance_in_all_of_train(root)
    assert set(findings(root, TINY.replace(instance_weight=0.0))) == {("no_instances", WARNING, "train")}


def test_a_class_in_few_masks_is_named(root, monkeypatch):
    relabel_all(root, lambda semantic, instance: np.putmask(semantic, semantic == SIDEWALK, ROAD), "abc")
    assert findings(root) == {}
    monkeypatch.setattr("roadtopo_lib.app.survey.RARE", 0.3)
    report = Report(root, None, TINY)
    assert [f.found for f in report.findings] == [["sidewalk is in 1 of 4 masks, and in 2 of val"]]
    assert report.class_balance()["train"]["classes"]["sidewalk"]["masks"] == 1


# --- Lines and pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 3, 5, 8, 12, 23])
@pytest.mark.parametrize("slope", [0.0, 0.4, 1.0])
def test_the_width_of_lines_is_measured_to_a_pixel(width, slope):
    y, x = np.mgrid[:300, :400]
    distance = np.abs((x - 150.3) - slope * (y - 150)) / np.hypot(1, slope)
    assert line_width(distance < width / 2) == pytest.approx(width, abs=1.2)


@pytest.mark.parametrize("angle", np.linspace(0, 3, 13))
def test_lines_as_wide_as_a_cell_and_short_pieces_of_them_are_not_called_thin(root, angle):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    along, across = ((x - 128) * np.cos(a) + (y - 64) * np.sin(a) for a in (angle, angle + np.pi / 2))

    def change(semantic, instance):
        lane = (np.abs(across) < width / 2) & (np.abs(along) < length / 2)
        semantic[:], instance[:] = np.where(lane, LANE_MARKING, ROAD), lane

    width = View(TINY.image_size, TINY.crop_top, build_transform(TINY, train=True).ratios, CELL).cell_in(*SIZE)
    for length in (width / 3, width, 100):
        relabel(root, change)
        assert findings(root) == {}, length
    width -= 3
    relabel(root, change)
    assert findings(root) == {("thin_lines", WARNING, "train"): ["train/semantic_masks/b.png"]}


def test_lines_are_measured_in_cells_of_the_network_that_sees_them(root):
    assert findings(root) == {}
    assert set(findings(root, TINY.replace(image_size=(32, 96)))) == {
        ("thin_lines", WARNING, "train"), ("thin_lines", WARNING, "val"),
    }  # fmt: skip


@dataclass(frozen=True)
class Moved(Camera):
    """The same camera some metres further on."""

    forward: float = 0.0

    def ground(self):
        here = super().ground()
        return Ground(here.top, here.x, here.z + self.forward, here.seen)

    def project(self, points):
        return super().project(np.asarray(points, np.float64) - np.array([0, 0, self.forward]))


def test_neighbours_of_a_drive_are_told_from_other_scenes(monkeypatch):
    """The camera of the second frame is 0.5 m further on, and the car has swayed a little."""

    def bits(seed):
        return picture_hashes(render_scene(seed, (128, 256)).image)[1]

    def distance(a, b):
        return int(np.bitwise_count(a ^ b).sum())

    def moved(rng, size, rider):
        camera = sample_camera(rng, size, rider)
        sway = np.random.default_rng(int(camera.focal * 1000)).normal(0, 0.1, 3)
        angles = {name: getattr(camera, name) + turn for name, turn in zip(("pitch", "yaw", "roll"), sway, strict=True)}
        return Moved(**asdict(camera) | angles, forward=0.5)

    first = [bits(seed) for seed in range(24)]
    monkeypatch.setattr("roadtopo_lib.scenes.render.sample_camera", moved)
    second = [bits(seed) for seed in range(24)]
    near = [distance(a, b) for a, b in zip(first, second, strict=True)]
    far = [distance(a, b) for i, a in enumerate(first) for b in first[:i]]
    assert min(near) > 0
    assert np.quantile(near, 0.85) <= NEAR_BITS < min(far) - 20


def test_equal_pictures_have_equal_hashes_and_equal_bytes_of_other_shape_do_not():
    image = photo(3)
    assert picture_hashes(image)[0] == picture_hashes(np.asfortranarray(image))[0]
    assert picture_hashes(image)[0] != picture_hashes(image.reshape(256, 128, 3))[0]


def test_each_picture_is_compared_with_all_earlier_splits_however_few_fit_at_a_time(root, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.app.survey.PAIRS_AT_ONCE", 1)
    for name, source in (("x", file(root, 0, "d")), ("y", file(root, 0, "f", "val")), ("z", None)):
        write_sample(root / "test", name, photo(60), *labels())
        if source:
            shutil.copy(source, file(root, 0, name, "test"))
    report = Report(root, None, TINY)
    assert [(f.check, f.files) for f in report.findings] == [("duplicates", ["test/images/x.jpg", "test/images/y.jpg"])]
    assert report.findings[0].found[1] == "the same picture as val/images/f.jpg"


# --- Command line -----------------------------------------------------------------------------------------------------


def test_exit_codes_say_whether_training_would_suffer(root, capsys):
    assert main(["check-data", str(root)]) == 0
    assert capsys.readouterr().out.endswith("0 errors, 0 warnings, 0 notes\n")
    a_png_called_jpg_as_image(root)
    assert main(["check-data", str(root)]) == 0
    assert "0 errors, 1 warning, 0 notes" in capsys.readouterr().out
    a_mask_half_as_large(root)
    assert main(["check-data", str(root)]) == 1
    assert "1 error, 1 warning, 0 notes: training would suffer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], r"nowhere: no such data folder"),
        (["."], r"\.: holds D, expected train, val, test"),
        (["D", "--split", "test"], r"D: holds train, val, expected test"),
        (["D/val", "--split", "train"], r"is a split itself"),
        (["D", "--config", "none.yaml"], r"none\.yaml: no such config file"),
        (["D", "--json", "D"], r"D: this is a folder"),
        (["D", "--undo"], r"_set_aside: nothing was set aside"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(root, monkeypatch, capsys, words, message):
    monkeypatch.chdir(root.parent)
    assert main(["check-data", *words]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_the_table_names_a_few_files_and_counts_the_others(root, capsys):
    relabel_all(root, lambda semantic, instance: np.putmask(instance, instance == 3, 1))
    assert main(["check-data", str(root)]) == 1
    text = capsys.readouterr().out
    assert "error   train  shared_id × 4" in text
    assert "train/instance_masks/a.png, train/instance_masks/b.png, train/instance_masks/c.png and 1 more\n" in text
    assert "on lane_marking and crosswalk); expected ids that are unique in an image" in text
    assert re.search(r"sidewalk +9\.67% +\(4\) +9\.67% +\(2\)\n", text)


def test_json_holds_counts_findings_and_class_balance(root, tmp_path):
    relabel_all(root, lambda semantic, instance: np.putmask(instance, instance == 3, 1))
    assert main(["check-data", str(root), "--json", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == [
        "root", "image_size", "crop_top", "read", "splits", "counts", "findings", "class_balance", "fixed",
    ]  # fmt: skip
    assert report["read"] == 6
    assert report["splits"]["train"] == {"images": 4, "semantic_masks": 4, "instance_masks": 4, "read": 4}
    assert report["counts"] == {"error": 1, "warning": 0, "note": 0}
    (finding,) = report["findings"]
    assert [finding[key] for key in ("check", "severity", "split", "count")] == ["shared_id", "error", "train", 4]
    assert finding["files"] == [f"train/instance_masks/{name}.png" for name in TRAIN]
    balance = report["class_balance"]["train"]
    semantic = labels()[0]
    assert balance["unlabelled"] == 0
    assert balance["classes"]["sidewalk"] == {"share": pytest.approx((semantic == SIDEWALK).mean()), "masks": 4}
    assert sum(row["share"] for row in balance["classes"].values()) == pytest.approx(1)


def test_the_table_and_size_of_a_model_are_taken_from_its_file(root, tmp_path):
    config, model = TINY.replace(num_classes=2, image_size=(64, 160)), tmp_path / "m.safetensors"
    SegFormerModel("tiny", num_classes=2, pretrained=False).save(model, training=config.to_dict())
    assert main(["check-data", str(root), "--model", str(model), "--json", str(tmp_path / "j")]) == 1
    report = json.loads((tmp_path / "j").read_text())
    assert report["image_size"] == [64, 160]
    assert [f["check"] for f in report["findings"]] == ["class_ids", "class_ids"]
    config.to_yaml(tmp_path / "c.yaml")
    assert main(["check-data", str(root), "--config", str(tmp_path / "c.yaml"), "--json", str(tmp_path / "k")]) == 1
    assert json.loads((tmp_path / "k").read_text()) == report


def test_a_file_that_may_not_be_read_stops_nothing(root):
    if os.geteuid() == 0:
        pytest.skip("the administrator may read everything")
    file(root, 0).chmod(0)
    assert findings(root) == {("unreadable", ERROR, "train"): ["train/images/b.jpg"]}


# --- Repair -----------------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "function",
    [
        an_instance_mask_is_missing, an_image_is_missing, a_text_called_jpg, half_a_jpeg, half_a_png, an_empty_file,
        a_jpeg_called_png_as_semantic_mask, a_semantic_mask_in_colours, a_class_out_of_range, a_mask_half_as_large,
        a_mask_of_0_and_255_with_instances, an_image_upside_down_by_its_tag, ids_that_begin_anew_in_each_class,
        a_png_called_jpg_as_image,
    ],
)  # fmt: skip
def test_what_fix_does_is_said_clean_afterwards_and_can_be_undone(root, capsys, function):
    function(root)
    before = contents(root)
    assert main(["check-data", str(root), "--fix"]) == 0
    said = capsys.readouterr().out
    assert findings(root) == {}
    if function is not a_png_called_jpg_as_image:
        for split in ("train", "val"):
            dataset = LaneInstanceDataset(root, split)
            assert [path.stem for path in dataset.image_paths] == (["a", "c", "d"] if split == "train" else ["e", "f"])
    log = json.loads((root / "_set_aside" / "1" / "log.json").read_text())["done"]
    assert log
    assert all(f"{entry['file']} ({entry['why']}): {entry['kept']}" in said for entry in log)
    now = contents(root)
    assert sorted(before.values()) == sorted(data for name, data in now.items() if not name.endswith("log.json"))
    assert main(["check-data", str(root), "--fix"]) == 0
    assert contents(root) == now, "there was nothing more to do"
    assert main(["check-data", str(root), "--undo"]) == 0
    assert contents(root) == before


def test_binary_masks_are_rewritten_where_the_table_has_one_lane_class_only(root, capsys):
    config = TINY.replace(num_classes=2)
    config.to_yaml(root.parent / "c.yaml")
    (lane,) = BINARY_CLASSES.lane_ids
    for names, split in ((TRAIN, "train"), (VAL, "val")):
        relabel_all(root, lambda semantic, instance: np.copyto(semantic, np.where(instance > 0, 255, 0)), names, split)
    before = contents(root)
    assert main(["check-data", str(root), "--fix"]) == 1, "two classes may be meant by 255"
    assert "left train as it is: 4 of its images are unusable, more than half" in capsys.readouterr().out
    assert contents(root) == before
    assert main(["check-data", str(root), "--fix", "--config", str(root.parent / "c.yaml")]) == 0
    assert findings(root, config) == {}
    _, semantic, instance = LaneInstanceDataset(root, "train", classes=BINARY_CLASSES).read(0)
    np.testing.assert_array_equal(semantic == lane, instance > 0)
    assert main(["check-data", str(root / "train"), "--undo"]) == 0
    assert contents(root) == before


def test_a_binary_mask_beside_a_damaged_image_is_kept_as_it_is(root):
    TINY.replace(num_classes=2).to_yaml(root.parent / "c.yaml")
    for names, split in ((TRAIN, "train"), (VAL, "val")):
        relabel_all(root, lambda semantic, instance: np.copyto(semantic, np.where(instance > 0, 255, 0)), names, split)
    half_a_jpeg(root)
    before = contents(root)
    assert main(["check-data", str(root), "--fix", "--config", str(root.parent / "c.yaml")]) == 0
    kept = root / "_set_aside" / "1" / "train" / "semantic_masks" / "b.png"
    assert kept.read_bytes() == before["train/semantic_masks/b.png"]
    assert main(["check-data", str(root), "--undo"]) == 0
    assert contents(root) == before


def test_a_whole_split_is_never_set_aside(root, capsys):
    for name in "abc":
        file(root, 2, name).unlink()
    before = contents(root)
    assert main(["check-data", str(root), "--fix"]) == 1
    assert contents(root) == before
    assert "left train as it is: 3 of its images" in capsys.readouterr().out
    put(file(root, 2, "c"), labels()[1].astype(np.uint16))
    assert main(["check-data", str(root), "--fix"]) == 0, "half may go"


def test_undo_leaves_what_has_come_since_and_runs_are_undone_one_by_one(root, capsys):
    before = contents(root)
    file(root, 0, "a").write_text("no picture")
    assert main(["check-data", str(root), "--fix"]) == 0
    file(root, 0, "b").write_text("no picture")
    assert main(["check-data", str(root), "--fix"]) == 0
    assert main(["check-data", str(root), "--undo"]) == 0
    write_image(file(root, 0, "a"), photo(0))
    capsys.readouterr()
    assert main(["check-data", str(root), "--undo"]) == 0
    said = capsys.readouterr().out
    assert "left _set_aside/1/train/images/a.jpg: there is another train/images/a.jpg now" in said
    assert "put back train/semantic_masks/a.png" in said
    file(root, 0, "a").unlink()
    (root / "_set_aside" / "mine.txt").write_text("a note")
    assert main(["check-data", str(root), "--undo"]) == 0
    assert list(contents(root / "_set_aside")) == ["mine.txt"], "nothing of others is deleted"
    shutil.rmtree(root / "_set_aside")
    assert contents(root).keys() == before.keys()


def test_a_fix_that_was_interrupted_can_be_undone(root, monkeypatch):
    half_a_jpeg(root)
    before = contents(root)
    moves = []

    def stop(source, target):
        if moves:
            raise KeyboardInterrupt
        moves.append(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.app.set_aside._move", stop)
        assert main(["check-data", str(root), "--fix"]) == 130
    assert contents(root) != before
    assert main(["check-data", str(root), "--undo"]) == 0
    assert contents(root) == before


# --- Before training --------------------------------------------------------------------------------------------------


class Trainer:
    """Trains nothing."""

    def __init__(self, model, config, *_, **__):
        self.config, self.optimizer = config, SimpleNamespace(state={})

    def fit(self, *_, **__):
        pass


def _never_called(*_, **__):
    pytest.fail("training has begun")


def instances_of_other_images(root):
    relabel_all(root, lambda semantic, instance: np.copyto(instance, np.roll(instance, 70, axis=1)), TRAIN[:3])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing_is_labelled, r"train.semantic_masks: every pixel is 255, unlabelled"),
        (no_lane_is_labelled, r"train.semantic_masks: no pixel of a lane or crosswalk"),
        (only_masks_of_0_and_255_without_instances, r"train.semantic_masks: every mask holds 0 and 255 only"),
        (a_mask_of_0_and_255_with_instances, r"b\.png: holds 0 and 255 only"),
        (an_instance_mask_is_missing, r"b\.png: missing; 1 of 4 images lack it"),
        (half_a_png, r"b\.png: damaged or truncated"),
        (train_without_val, r"val: no such split"),
        (instances_of_other_images, r"train.instance_masks: 9 of 12 instances lie mostly on pixels of no lane"),
    ],
)
def test_training_refuses_what_would_train_nothing_and_points_to_check_data(
    root, monkeypatch, capsys, function, message
):
    function(root)
    monkeypatch.setattr("roadtopo_lib.app.train.LaneSegmentationTrainer", _never_called)
    words = ["train", "lane", "--config", "tiny", "--data", str(root), "--output", str(root / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.endswith(f"; all faults: road-topology check-data {root}\n")
    assert error.count("\n") == 1
    assert not (root / "run").exists()


@pytest.mark.parametrize(("weight", "warned"), [(0.1, True), (0.0, False)])
def test_training_without_a_single_instance_says_so_once(root, monkeypatch, capsys, weight, warned):
    monkeypatch.setattr("roadtopo_lib.app.train.LaneSegmentationTrainer", Trainer)
    train_lane_model(TINY.replace(instance_weight=weight), root, root / "run")
    assert capsys.readouterr().err == ""
    no_instance_in_all_of_train(root)
    train_lane_model(TINY.replace(instance_weight=weight), root, root / "run")
    error = capsys.readouterr().err
    assert error.count("no instance mask in train holds an id") == warned


def test_training_bears_a_few_instances_on_other_pixels(root, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.app.train.LaneSegmentationTrainer", Trainer)
    an_instance_on_road(root)
    train_lane_model(TINY, root, root / "run")


def test_validation_without_lanes_is_allowed(root, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.app.train.LaneSegmentationTrainer", Trainer)
    relabel_all(root, lambda semantic, instance: (semantic.fill(ROAD), instance.fill(0)), VAL, "val")
    assert set(findings(root)) == {("no_lanes", WARNING, "val")}
    train_lane_model(TINY, root, root / "run")
