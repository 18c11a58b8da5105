"""Label files as people have them: damaged lines, other spellings of names, turned photographs, second attempts."""

import base64
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.app.cli import main
from roadtopo_lib.data import samples as samples_module
from roadtopo_lib.data.convert import (
    FORMATS,
    convert_bdd100k,
    convert_coco,
    convert_culane,
    convert_labelme,
    convert_tusimple,
)
from roadtopo_lib.data.convert.bdd100k import _paired
from roadtopo_lib.data.convert.drawing import Shape, draw_masks
from roadtopo_lib.data.convert.reading import recording_of, sample_name
from roadtopo_lib.data.images import note_of
from roadtopo_lib.data.samples import list_samples, read_sample, sample_files
from roadtopo_lib.decoding import turned, turned_points
from roadtopo_lib.files import UNFINISHED
from roadtopo_lib.labels import CROSSWALK, LANE_BOUNDARY, LANE_MARKING, ROAD
from roadtopo_lib.processes import LOCK, locked

HERE = {"workers": 1, "progress": False}
SIZE = (72, 128)
ROWS = list(range(20, 71, 10))
STRAIGHT = [[64.0, 71.0], [64.0, 20.0]]


def picture(path, size=SIZE, tag=1, level=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if tag != 1:
        exif[0x112] = tag
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path, exif=exif)


def sample(dst, name, split="train"):
    return read_sample(*sample_files(dst / split, name))


def frame(raw_file, *lanes):
    return json.dumps({"raw_file": raw_file, "lanes": [[x] * len(ROWS) for x in lanes], "h_samples": ROWS}) + "\n"


def shape(label, points, kind="linestrip", group=None, **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, **more}


def labelme(path, *shapes, image=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"shapes": shapes, "imagePath": image or f"{path.stem}.jpg", "imageData": None}
    path.write_text(json.dumps(values | more))


def lane_of(category, vertices, types=None, closed=False, **attributes):
    part = {"vertices": vertices, "types": types or "L" * len(vertices), "closed": closed}
    return {"category": category, "attributes": attributes, "poly2d": [part]}


def coco(path, segmentations, category="lane", **image):
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = [{"image_id": 1, "category_id": 1, "segmentation": values} for values in segmentations]
    images = [{"id": 1, "file_name": "a.png", **image}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": category}]})
    )


# --- Damaged labels ---------------------------------------------------------------------------------------------------


NO_TUSIMPLE = [
    "[]", "5", "null", '"x"', "{}", "not json", '{"raw_file": "a.jpg"', "[" * 100_000, "\udcff\udcfe",
    '{"raw_file": 5, "lanes": [], "h_samples": []}', '{"raw_file": ["a.jpg"], "lanes": [], "h_samples": []}',
    '{"raw_file": "a.jpg", "lanes": [[1e999]], "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": [["a"]], "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": [[null]], "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": [[1, 2]], "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": [[[1, 2]]], "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": {"a": 1}, "h_samples": [3]}',
    '{"raw_file": "a.jpg", "lanes": [[' + "1" * 400 + ']], "h_samples": [3]}',
]  # fmt: skip


def test_a_damaged_line_of_tusimple_costs_nothing_but_itself(tmp_path):
    picture(tmp_path / "in" / "a.jpg")
    names, missing = ["", "/", "..", "a\0b.jpg", "x" * 5000 + ".jpg", "b\ud800.jpg"], [".", "b.jpg"]
    empty = [json.dumps({"raw_file": name, "lanes": [], "h_samples": []}) for name in (*names, *missing)]
    text = "\r\n".join([*NO_TUSIMPLE, *empty, frame("a.jpg", 30, 90)])
    (tmp_path / "in" / "label_data.json").write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8", "surrogateescape"))
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    assert report.dropped == {
        "a line that is no TuSimple label": len(NO_TUSIMPLE),
        "the image lies outside of the labels' folder; --images FOLDER names another": len(names),
        "the image is missing": len(missing),
    }
    assert report.written == 1
    assert sample(tmp_path / "out", "a")[2].max() == 2


@pytest.mark.filterwarnings("error")  # of numbers that overflow
def test_a_damaged_file_or_shape_of_labelme_costs_nothing_but_itself(tmp_path):
    src = tmp_path / "in"
    picture(src / "a.jpg")
    wrong = [
        5, None, {}, {"label": "lane"}, shape("lane", None), shape("lane", [[1, 2, 3], [4, 5, 6]]),
        shape("lane", [["x", 1], [2, 3]]), shape("crosswalk", [[5, 5], [9, 9]], "mask", mask="!!"),
        shape("crosswalk", [], "mask", mask=base64.b64encode(b"x").decode()),
    ]  # fmt: skip
    odd = [
        shape("lane", [["20", "71"], ["20", "20"]], group=[1]),
        shape("lane", [[100, 1e300], [100, -1e300]]),
        shape("crosswalk", [[1e300, 0], [1, 1e300]], "circle"),
        shape("lane", [[1e308, -1e308]] * 3),
        shape("lane", []),
    ]
    labelme(src / "a.json", *wrong, *odd)
    for name, content in (("cut", b'{"shapes": ['), ("deep", b"[" * 100_000), ("binary", b"\xff\xd8\xff")):
        (src / f"{name}.json").write_bytes(content)
    (src / "wide.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}), encoding="utf-16")
    report = convert_labelme(src, tmp_path / "out", **HERE)
    assert (report.read, report.written, report.damaged) == (5, 2, 3)
    assert report.dropped == {
        "a damaged shape": len(wrong),
        "a lane without a point": 1,
        "a label file that cannot be read": 3,
        "a lane of a single point": 1,
        "a lane or crossing that others hide, or outside of the image": 1,
    }
    instance = sample(tmp_path / "out", "a")[2]
    assert [int(np.flatnonzero(instance[60] == k).mean()) for k in (1, 2)] == [20, 100]


def test_a_damaged_entry_of_coco_costs_nothing_but_itself(tmp_path):
    picture(tmp_path / "in" / "a.png")
    draws = random.Random(0)
    counts = ["".join(chr(draws.randrange(48, 112)) for _ in range(n)) for n in (1, 5, 50, 500) for _ in range(10)]
    counts += [
        "",
        "é",
        "o" * 1_000_000,
        5,
        [2**62] * 4 + [72 * 128],
        [2**62] * 4 + [0, 72 * 128],  # the sum of these in 64 bits is that of the mask
        [1, 2],
        [-5, 72 * 128 + 5],
        [72 * 128],
        [0.5, 72 * 128 - 0.5],
    ]
    wrong = [{"size": list(SIZE), "counts": value} for value in counts]
    wrong += [
        {"size": [10**9, 10**9], "counts": "000"}, {"size": "ab", "counts": "0"}, {"size": list(SIZE)}, {"counts": "0"},
        [], [[]], [[1]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], None, 5, "x", [5], [[None] * 6], [{"a": 1}],
    ]  # fmt: skip
    right = [[10.0, 20.0, 20.0, 20.0, 20.0, 70.0, 10.0, 70.0]]
    coco(tmp_path / "in" / "x.json", [*wrong, right], height=SIZE[0], width=SIZE[1])
    values = json.loads((tmp_path / "in" / "x.json").read_text())
    values["images"] += [5, {"id": 3}, {"id": 4, "file_name": 7}, {"file_name": "b.png"}, {"id": "z", "file_name": "z"}]
    values["annotations"] += [7, None, {"category_id": 1}, {"image_id": 99}, {"image_id": 1, "category_id": [1]}]
    values["categories"] += [{"id": 2}, "x"]
    values["info"] = {"contributor": ["a", {"b": [1]}], "n": 12345}
    (tmp_path / "in" / "x.json").write_text(json.dumps(values))
    report = convert_coco(tmp_path / "in", tmp_path / "out", **HERE)
    dropped = report.dropped
    assert dropped == {
        "an annotation without a region": len(wrong),
        "a damaged entry of images": 4,
        "a damaged entry of annotations": 3,
        "a damaged entry of categories": 2,
        "an annotation of no image": 1,
        "an annotation of no category": 1,
        "the image is missing": 1,
    }
    assert sample(tmp_path / "out", "a")[1][50, 15] == LANE_MARKING


def test_a_run_length_mask_of_more_pixels_than_an_image_has_is_not_decoded(tmp_path):
    picture(tmp_path / "in" / "a.png")
    coco(tmp_path / "in" / "x.json", [{"size": [1 << 14, 1 << 13], "counts": [0, 1 << 27]}])  # a byte a pixel
    tracemalloc.start()
    report = convert_coco(tmp_path / "in", tmp_path / "out", **HERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.dropped["an annotation without a region"] == 1
    assert peak < 1 << 26


@pytest.mark.parametrize("text", ["", "\0", "{}", "[]", "5", '{"images": [{"id": 1, "file_name": "a.png"}]'])
@pytest.mark.parametrize("convert", [convert_coco, convert_bdd100k])
def test_a_file_that_is_not_whole_or_of_no_such_format_is_refused_by_name(tmp_path, convert, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: "):
        convert(tmp_path, tmp_path / "out", **HERE)
    assert not (tmp_path / "out").exists()


def test_a_label_file_that_ends_too_early_gives_its_first_frames_and_the_other_files_theirs(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "in" / name)
    both = json.dumps(
        [{"name": name, "labels": [lane_of("lane/single white", STRAIGHT)]} for name in ("a.png", "b.png")]
    )
    (tmp_path / "in" / "lane_train.json").write_text(both[:-20])
    (tmp_path / "in" / "lane_val.json").write_text(both.replace("b.png", "c.png").replace("a.png", "gone.png"))
    report = convert_bdd100k(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.splits, report.damaged) == ({"train": 1, "val": 1}, 1)
    assert report.dropped == {"a label file that cannot be read": 1, "the image is missing": 1}
    assert report.examples["a label file that cannot be read"] == ["lane_train"]


def test_damaged_files_or_nothing_written_make_the_commands_exit_code_and_missing_ones_do_not(tmp_path, capsys):
    src = tmp_path / "in"
    labelme(src / "a.json", shape("lane", STRAIGHT))
    command = ["convert", "labelme", str(src), str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "dropped 1: the image is missing, as in a\n" in said.out
    assert said.err.splitlines() == [
        "road-topology: nothing was written; if the images lie elsewhere, give their folder: --images FOLDER"
    ]
    labelme(src / "c.json", shape("lane", STRAIGHT))
    picture(src / "c.jpg")
    assert main(command) == 0
    said = capsys.readouterr()
    assert "dropped 1: the image is missing, as in a\n" in said.out
    assert said.err == ""
    picture(src / "a.jpg")
    whole = (src / "a.jpg").read_bytes()
    (src / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert main(command) == 1
    (src / "a.jpg").write_bytes(whole)
    (src / "b.json").write_text("{")
    assert main(command) == 1


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_label_finds_its_image_in_either_unicode_form_and_with_backslashes(tmp_path, forms):
    written, on_disk = ([unicodedata.normalize(form, part) for part in ("Straße ü", "ä b.jpg")] for form in forms)
    picture(tmp_path / "in" / on_disk[0] / on_disk[1])
    (tmp_path / "in" / "labels.json").write_text(frame("\\".join(written), 60))
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, dict(report.dropped)) == (1, {})
    assert len(list_samples(tmp_path / "out", "train")[0]) == 1
    assert os.listdir(tmp_path / "out" / "train" / "images") == [unicodedata.normalize("NFC", "Straße ü_ä b.jpg")]


def test_different_images_of_one_name_are_both_converted_and_the_same_one_once(tmp_path):
    src = tmp_path / "in"
    for name in ("a/b_c.jpg", "a_b/c.jpg", "A_B_C.jpg", "a_b_c.png"):
        picture(src / name)
    names = ["a/b_c.jpg", "a_b/c.jpg", "A_B_C.jpg", "a_b_c.png", "a_b/c.jpg", "./a/b_c.jpg"]
    (src / "labels.json").write_text("".join(frame(name, 60) for name in names))
    report = convert_tusimple(src, tmp_path / "out", **HERE)
    assert (report.written, report.dropped) == (4, {"the image is named more than once": 2})
    written = sorted(path.stem for path in list_samples(tmp_path / "out", "train")[0])
    assert len({name.casefold() for name in written}) == 4, "some file systems do not tell A from a"


@pytest.mark.parametrize(
    ("path", "name"),
    [("", "unnamed"), ("..", "unnamed"), (".a/b.jpg", "a_b"), ("a.b/c.d.jpg", "a.b_c.d"), ("n (1).png", "n (1)")],
)
def test_the_name_of_a_sample_is_never_empty_hidden_or_too_long(path, name):
    assert sample_name(path) == name
    assert len(sample_name("ü" * 500 + "/1.jpg").encode()) <= 200
    assert sample_name("a\ud800.jpg") == "a"


def test_links_are_followed_inside_the_data_set_and_out_of_it_only_into_the_folder_of_images(tmp_path):
    for disk in ("in/disk/pictures", "disk/clips"):
        picture(tmp_path / disk / "1" / "20.jpg")
    labels = tmp_path / "in" / "labels.json"
    labels.write_text(frame("clips/1/20.jpg", 60))
    (tmp_path / "in" / "clips").symlink_to(tmp_path / "in" / "disk" / "pictures")
    assert convert_tusimple(labels, tmp_path / "inside", **HERE).written == 1
    (tmp_path / "in" / "clips").unlink()
    (tmp_path / "in" / "clips").symlink_to(tmp_path / "disk" / "clips")
    report = convert_tusimple(labels, tmp_path / "outside", **HERE)
    assert report.dropped == {"the image lies outside of the labels' folder; --images FOLDER names another": 1}
    assert convert_tusimple(labels, tmp_path / "named", images=tmp_path / "disk", **HERE).written == 1


@pytest.mark.parametrize("form", ["labelme", "culane"])
def test_folders_of_labels_may_be_links_that_lead_round_in_a_circle(tmp_path, form):
    for folder in ("in/a", "in/disk/deeper"):
        picture(tmp_path / folder / "x.jpg")
        labelme(tmp_path / folder / "x.json", shape("lane", STRAIGHT))
        (tmp_path / folder / "x.lines.txt").write_text("64 71 64 20 \n")
    os.symlink(tmp_path / "in" / "disk", tmp_path / "in" / "b")
    os.symlink(tmp_path / "in", tmp_path / "in" / "disk" / "deeper" / "back")
    os.symlink(tmp_path / "in" / "a", tmp_path / "in" / "z")
    report = FORMATS[form](tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.read, report.written, report.dropped) == (2, 2, {})
    assert [path.stem for path in list_samples(tmp_path / "out", "train")[0]] == ["a_x", "b_deeper_x"]


def test_the_copy_of_tusimple_on_kaggle_is_converted_as_it_is(tmp_path):
    root = tmp_path / "TUSimple"
    picture(root / "train_set" / "clips" / "1" / "20.jpg")
    picture(root / "test_set" / "clips" / "9" / "20.jpg")
    (root / "train_set" / "label_data_0313.json").write_text(frame("clips/1/20.jpg", 60))
    (root / "test_set" / "test_tasks_0627.json").write_text(frame("clips/9/20.jpg"))  # frames without their lanes
    (root / "test_label.json").write_text(frame("clips/9/20.jpg", 60))
    report = convert_tusimple(root, tmp_path / "out", **HERE)
    assert (report.splits, dict(report.dropped)) == ({"train": 1, "test": 1}, {})
    assert sample(tmp_path / "out", "clips_9_20", "test")[2].max() == 1


def test_labelme_files_find_images_beside_elsewhere_and_by_their_bare_name(tmp_path):
    picture(tmp_path / "photos" / "a.jpg")
    picture(tmp_path / "labels" / "b.jpg")
    labelme(tmp_path / "labels" / "a.json", shape("lane", STRAIGHT), image="../photos/a.jpg")
    labelme(tmp_path / "labels" / "b.json", shape("lane", STRAIGHT), image="C:\\Users\\me\\b.jpg")
    report = convert_labelme(tmp_path / "labels", tmp_path / "one", **HERE)
    assert report.dropped == {"the image lies outside of the labels' folder; --images FOLDER names another": 1}
    assert convert_labelme(tmp_path, tmp_path / "all", **HERE).written == 2
    (tmp_path / "labels" / "b.jpg").rename(tmp_path / "photos" / "b.jpg")
    report = convert_labelme(tmp_path / "labels", tmp_path / "two", images=tmp_path / "photos", **HERE)
    assert (report.written, dict(report.dropped)) == (2, {})
    one = convert_labelme(tmp_path / "labels" / "a.json", tmp_path / "three", images=tmp_path / "photos", **HERE)
    assert one.written == 1


def test_paths_that_lead_out_of_the_labels_folder_are_followed_into_the_folder_of_images_only(tmp_path):
    photos = tmp_path / "photos"
    picture(photos / "day 1" / "a.jpg")
    labelme(tmp_path / "labels" / "day 1" / "a.json", shape("lane", STRAIGHT), image="..\\..\\photos\\day 1\\a.jpg")
    images = [{"id": 1, "file_name": "../photos/day 1/a.jpg", "width": 128, "height": 72}]
    coco = {"images": images, "categories": [], "annotations": []}
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "coco.json").write_text(json.dumps(coco))
    for form, labels in (("labelme", "labels"), ("coco", "coco")):
        report = FORMATS[form](tmp_path / labels, tmp_path / form, **HERE)
        reason = "the image lies outside of the labels' folder; --images FOLDER names another"
        assert (report.written, dict(report.dropped)) == (0, {reason: 1})
        for images in (photos, photos / "day 1"):
            report = FORMATS[form](tmp_path / labels, tmp_path / form, images=images, **HERE)
            assert (report.written, dict(report.dropped)) == (1, {}), (form, images)
        assert FORMATS[form](tmp_path / labels, tmp_path / "x", images=tmp_path / "labels", **HERE).written == 0


def test_images_of_bdd100k_lie_in_a_folder_for_each_split(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / f"{split}.jpg")
        path = tmp_path / "labels" / f"lane_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([{"name": f"{split}.jpg", "labels": []}]))
    report = convert_bdd100k(tmp_path / "labels", tmp_path / "out", images=tmp_path / "images", **HERE)
    assert (report.splits, dict(report.dropped)) == ({"train": 1, "val": 1}, {})


def test_lists_of_culane_name_images_with_blanks_and_lose_none_without_a_word(tmp_path):
    src = tmp_path / "in"
    for name in ("a b.jpg", "none.jpg", "C.JPG"):
        picture(src / "my drive" / name)
    (src / "my drive" / "a b.lines.txt").write_text("30 71 30 20 \n\n90 71 90 20\n1 2 nan 3\n1 2 3\n1e400 5 6 7\n5 5\n")
    (src / "my drive" / "C.lines.txt").write_bytes(b"\xef\xbb\xbf60 71 60 20\r\n\xff\xfe 1\r\n")
    (src / "list").mkdir()
    lines = [
        "/my drive/a b.jpg /seg/a b.png 1 1 0 0",
        "/my drive/none.jpg /seg/n.png 0",
        "my drive/C.JPG",
        "/",
        "..",
        "",
    ]
    (src / "list" / "train_gt.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    (src / "list" / "val.txt").write_text("/my drive/a b.jpg\n")
    report = convert_culane(src, tmp_path / "out", **HERE)
    assert (report.read, report.splits) == (6, {"train": 2})
    assert report.dropped == {
        "a line that is no CULane lane": 4,
        "a lane of a single point": 1,
        "a label file that is missing or cannot be read": 1,
        "the image lies outside of the labels' folder; --images FOLDER names another": 2,
        "the image is named more than once": 1,
    }
    assert sample(tmp_path / "out", "my drive_a b")[2].max() == 2
    assert sample(tmp_path / "out", "my drive_C")[2].max() == 1


def test_reports_and_results_beside_the_labels_are_no_labels(tmp_path):
    for name, convert in FORMATS.items():
        src = tmp_path / name
        picture(src / "a.png")
        if name == "culane":
            (src / "a.lines.txt").write_text("60 71 60 20\n")
        elif name == "coco":
            coco(src / "x.json", [[[10, 20, 20, 20, 20, 70]]])
        elif name == "camvid":
            picture(src / "a_L.png")
            (src / "label_colors.txt").write_text("90 90 90\tRoad\n")
        elif name == "labelme":
            labelme(src / "a.json", shape("lane", STRAIGHT), image="a.png")
            (src / "found.json").write_text('{"lane_count": 2}')
            (src / "found2.json").write_text('{"version": "roadtopo_lib 0.1.0", "lanes": []}')
        else:
            (src / "x.json").write_text(
                frame("a.png", 60) if name == "tusimple" else json.dumps([{"name": "a.png", "labels": []}])
            )
        reports = [convert(src, src, **HERE).to_dict() for _ in range(2)]
        assert reports[0] == reports[1], name
        assert (reports[0]["read"], reports[0]["written"], reports[0]["dropped"]) == (1, 1, {}), name


# --- Turned photographs -----------------------------------------------------------------------------------------------


def bright_lane(path, tag):
    """A picture stored on its side or so, with a bright stripe; the stripe's outline in stored pixels."""
    stored = np.full((*SIZE, 3), 60, np.uint8)
    stored[40:, 20:26] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = tag
    Image.fromarray(stored).save(path, exif=exif)
    return np.array([[20.0, 40.0], [25.0, 40.0], [25.0, 71.0], [20.0, 71.0]])


@pytest.mark.parametrize("tag", range(1, 9))
def test_points_are_turned_as_pixels_are(tag):
    pixels = np.zeros(SIZE, np.uint8)
    pixels[10, 30] = 1
    (x, y), *_ = turned_points(np.array([[30.0, 10.0]]), tag, SIZE)
    assert np.argwhere(turned(pixels, tag)).tolist() == [[y, x]]


@pytest.mark.parametrize("tag", range(1, 9))
def test_labelme_labels_are_those_of_the_turned_photograph(tmp_path, tag):
    outline = turned_points(bright_lane(tmp_path / "in" / "a.png", tag), tag, SIZE)
    shown = SIZE if tag < 5 else SIZE[::-1]
    for number, size in enumerate(({}, {"imageHeight": shown[0], "imageWidth": shown[1]})):
        labelme(tmp_path / "in" / "a.json", shape("lane", outline.tolist(), "polygon"), image="a.png", **size)
        assert not convert_labelme(tmp_path / "in", tmp_path / f"{number}", **HERE).dropped
        image, _, instance = sample(tmp_path / f"{number}", "a")
        assert image.shape[:2] == shown
        assert image[instance == 1].mean() > 220


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["polygon", "run lengths"])
def test_the_size_says_which_way_up_coco_labels_are(tmp_path, tag, kind):
    masks = pytest.importorskip("pycocotools.mask")
    outline = bright_lane(tmp_path / "in" / "a.png", tag)
    mask = np.zeros(SIZE, np.uint8)
    mask[40:, 20:26] = 1
    for name, points, pixels in (
        ("stored", outline, mask),
        ("turned", turned_points(outline, tag, SIZE), turned(mask, tag)),
    ):
        packed = masks.encode(np.asfortranarray(pixels))
        runs = {"size": packed["size"], "counts": packed["counts"].decode()}
        values = [points.ravel().tolist()] if kind == "polygon" else runs
        coco(tmp_path / "in" / "x.json", [values], height=pixels.shape[0], width=pixels.shape[1])
        assert not convert_coco(tmp_path / "in", tmp_path / name, **HERE).dropped
        image, _, instance = sample(tmp_path / name, "a")
        assert image.shape[:2] == SIZE[::-1]
        assert (instance == 1).sum() == mask.sum()
        assert image[instance == 1].mean() > 220


def test_labels_of_which_nothing_says_whether_they_are_turned_are_dropped_by_a_reason_that_names_exif(tmp_path):
    reason = "EXIF orientation {} turns the image, and nothing says whether its labels, too"
    for tag in (3, 6):
        outline = bright_lane(tmp_path / "in" / "a.png", tag).ravel().tolist()
        size = {"height": SIZE[0], "width": SIZE[1]} if tag == 3 else {}  # a half turn leaves the size as it is
        coco(tmp_path / "coco.json", [[outline]], **size)
        (tmp_path / "bdd.json").write_text(
            json.dumps([{"name": "a.png", "labels": [lane_of("lane/single white", STRAIGHT)]}])
        )
        (tmp_path / "tusimple.json").write_text(frame("a.png", 60))
        (tmp_path / "a.lines.txt").write_text("60 71 60 20\n")
        for name in ("coco", "bdd100k", "tusimple", "culane"):
            src = tmp_path / ("a.lines.txt" if name == "culane" else f"{name.removesuffix('100k')}.json")
            report = FORMATS[name](src, tmp_path / f"{name}{tag}", images=tmp_path / "in", **HERE)
            assert (report.written, report.dropped) == (0, {reason.format(tag): 1}), name


@pytest.mark.parametrize(
    "sizes", [{"imageHeight": 72}, {"imageWidth": 128}, {"imageHeight": 0, "imageWidth": None}, {}]
)
def test_labelme_files_that_name_half_a_size_or_none_are_read(tmp_path, sizes):
    picture(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", shape("lane", STRAIGHT), **sizes)
    report = convert_labelme(tmp_path, tmp_path / "out", **HERE)
    assert (report.written, report.dropped) == (1, {})


def test_an_image_held_in_a_label_file_is_read_like_any_other(tmp_path):
    exif, held = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(np.full(SIZE, 40000, np.uint16)).save(held, "PNG", exif=exif)
    labelme(
        tmp_path / "in" / "a.json", shape("lane", [[30, 127], [30, 10]]), image="gone.png", imageHeight=128,
        imageWidth=72, imageData=base64.b64encode(held.getvalue()).decode(),
    )  # fmt: skip
    labelme(tmp_path / "in" / "b.json", image="gone.png", imageData="xxxx")
    report = convert_labelme(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, report.dropped) == (1, {"the image cannot be read": 1})
    image = sample(tmp_path / "out", "a")[0]
    assert (image.shape, abs(int(image.mean()) - 156) <= 1) == ((128, 72, 3), True)


# --- Drawing ----------------------------------------------------------------------------------------------------------


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


@pytest.mark.parametrize(
    ("rings", "pixels"),
    [
        ([square(10, 10, 30), square(25, 25, 30)], 31**2 + 31**2 - 16**2),  # parts that overlap
        ([square(10, 10, 50), square(20, 20, 10)], 51**2 - 11**2),  # a hole
        ([square(20, 20, 10), square(10, 10, 50)], 51**2 - 11**2),  # a hole that comes first
        ([square(10, 10, 50), square(20, 20, 30), square(25, 25, 5)], 51**2 - 31**2 + 6**2),  # an island in a hole
        ([square(5, 5, 10), square(50, 50, 10)], 2 * 11**2),
        ([square(5, 5, 10), square(5, 5, 10)], 11**2),  # twice the same
    ],
)
def test_outlines_are_joined_and_one_inside_another_is_a_hole(rings, pixels):
    semantic, _, _ = draw_masks((80, 80), [Shape(rings, ROAD)], 5)
    assert (semantic == ROAD).sum() == pixels
    over = draw_masks((80, 80), [Shape([square(0, 0, 79)], LANE_BOUNDARY), Shape(rings, CROSSWALK)], 5)[0]
    assert (over == CROSSWALK).sum() == pixels, "a hole shows what lies under it"
    assert (over == LANE_BOUNDARY).sum() == 80 * 80 - pixels


def test_far_points_do_not_bend_a_line():
    for far in (1e3, 1e5, 9e5):
        points = np.array([[10.0, 10.0], [10.0 + far, 10.0 + far / 2]])
        instance = draw_masks((72, 128), [Shape([points], LANE_MARKING, filled=False)], 5)[1]
        assert np.flatnonzero(instance[60]).mean() == pytest.approx(110, abs=1)


def test_ids_run_from_one_without_gaps_where_lanes_hide_each_other_or_lie_outside():
    lines = [np.array([[x, 0.0], [x, 79.0]]) for x in (-400, 10, 10, 40, 500)]
    semantic, instance, hidden = draw_masks((80, 80), [Shape([p], LANE_MARKING, filled=False) for p in lines], 3)
    assert (np.unique(instance).tolist(), hidden) == ([0, 1, 2], 3)
    assert (instance > 0).tolist() == (semantic == LANE_MARKING).tolist()


def test_crossing_lanes_are_numbered_by_where_they_are_near_the_bottom(tmp_path):
    picture(tmp_path / "a.jpg")
    one, other = np.linspace(100, 20, 6).tolist(), np.linspace(20, 100, 6).tolist()
    for number, lanes in enumerate(([one, other], [other, one])):
        line = json.dumps({"raw_file": "a.jpg", "lanes": lanes, "h_samples": ROWS})
        (tmp_path / "x.json").write_text(line)
        convert_tusimple(tmp_path / "x.json", tmp_path / f"{number}", line_width=3, **HERE)
        instance = sample(tmp_path / f"{number}", "a")[2]
        assert [int(instance[69, x]) for x in (21, 99)] == [1, 2]


def test_more_lanes_than_ids_are_refused_and_thousands_are_drawn(tmp_path):
    picture(tmp_path / "a.jpg", (16, 4000))
    for count, written in ((1300, 1), (70000, 0)):
        xs = np.linspace(0, 3999, count).tolist()
        (tmp_path / "x.json").write_text(
            json.dumps({"raw_file": "a.jpg", "lanes": [[x, x] for x in xs], "h_samples": [0, 15]})
        )
        report = convert_tusimple(tmp_path / "x.json", tmp_path / f"{count}", line_width=1, **HERE)
        assert report.written == written
    assert report.dropped == {"70000 lanes and crossings, expected at most 2048": 1}
    assert sample(tmp_path / "1300", "a")[2].max() == 1300


@pytest.mark.parametrize("width", [1, 2, 7, 30, 1e9, 0.05, 1e-9])
def test_any_line_width_draws_a_line(tmp_path, width):
    instance = draw_masks((72, 128), [Shape([np.array(STRAIGHT)], LANE_MARKING, filled=False)], width)[1]
    wanted = min(128, max(1, width * 128 if width < 1 else width))
    assert np.count_nonzero(instance[50]) == pytest.approx(wanted, abs=1)


def test_what_is_no_lane_in_bdd100k_is_left_out_and_the_files_of_2018_are_read(tmp_path):
    picture(tmp_path / "a.jpg", (720, 1280))
    labels = [
        {"category": "car", "box2d": {"x1": 1}},
        lane_of("drivable area", [[0, 500], [500, 500], [500, 700]], closed=True, areaType="direct"),
        lane_of("lane", [[100, 700], [300, 400]], laneTypes="road curb", laneStyle="solid"),
        lane_of("lane", [[500, 700], [600, 400]], laneTypes="single white", laneStyle="dashed"),
        lane_of("single yellow", [[1000, 700], [800, 400]]),
        lane_of("lane/crosswalk", [[700, 600], [900, 600], [900, 650], [700, 650]], closed=True),
    ]
    (tmp_path / "x.json").write_text(json.dumps({"frames": [{"name": "a.jpg", "labels": labels}], "config": {}}))
    report = convert_bdd100k(tmp_path / "x.json", tmp_path / "out", **HERE)
    assert report.dropped == {f"category '{name}' is not in the class table": 1 for name in ("car", "drivable area")}
    _, semantic, instance = sample(tmp_path / "out", "a")
    found = [int(semantic[instance == k][0]) for k in range(1, instance.max() + 1)]
    assert found == [LANE_BOUNDARY, LANE_MARKING, LANE_MARKING, CROSSWALK]
    report = convert_bdd100k(
        tmp_path / "x.json", tmp_path / "own", names={"drivable area": "road", "Car": None}, **HERE
    )
    assert not report.dropped
    assert sample(tmp_path / "own", "a")[1][550, 450] == ROAD


def test_edges_of_bdd100k_by_the_thousand_take_linear_time_and_pair_as_few_do():
    left = np.array([[0.0, 0.0], [0.0, 100.0]])
    right, seconds = np.add(left[::-1], (8, 0)), []
    for count in (500, 2000):
        places = [(60 * (k % 100), 200 * (k // 100)) for k in range(count)]
        start = time.process_time()
        pairs = _paired([np.add(edge, place) for place in places for edge in (left, right)], 25.0)
        assert len(pairs) == count
        assert all(np.allclose(np.abs(first - second), [8, 0]) for first, second in pairs)
        _paired([left] * count, 25.0)  # a crowd in one place
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0]


# --- Once more --------------------------------------------------------------------------------------------------------


def drive(root, count=4, clips=1, level=90):
    names = [f"clips/{clip}/{number}.jpg" for clip in range(clips) for number in range(count)]
    for name in names:
        picture(root / name, level=level)
    (root / "label_data.json").write_text("".join(frame(name, 60) for name in names))
    return names


def test_corrected_labels_and_other_options_are_converted_again(tmp_path):
    names = drive(tmp_path / "in")
    convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    (tmp_path / "in" / "label_data.json").write_text(frame(names[0], 30, 90) + "".join(frame(n, 60) for n in names[1:]))
    times = {path: path.stat().st_mtime_ns for path in list_samples(tmp_path / "out", "train")[2]}
    assert convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE).written == 4
    assert [path.stem for path, time in times.items() if path.stat().st_mtime_ns != time] == ["clips_0_0"]
    assert sample(tmp_path / "out", "clips_0_0")[2].max() == 2
    convert_tusimple(tmp_path / "in", tmp_path / "out", line_width=9, **HERE)
    assert np.count_nonzero(sample(tmp_path / "out", "clips_0_1")[2][50]) == pytest.approx(9, abs=1)


def test_an_image_that_is_converted_to_another_split_leaves_its_earlier_one(tmp_path):
    drive(tmp_path / "in")
    assert convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE).splits == {"train": 4}
    for split in ("val", "train"):
        assert convert_tusimple(tmp_path / "in", tmp_path / "out", split=split, **HERE).splits == {split: 4}
        assert {path.parts[-3] for path in (tmp_path / "out").glob("*/*/*")} == {split}


def test_a_sample_of_another_image_is_never_written_over(tmp_path):
    drive(tmp_path / "one")
    drive(tmp_path / "two", level=20)
    convert_tusimple(tmp_path / "one", tmp_path / "out", **HERE)
    report = convert_tusimple(tmp_path / "two", tmp_path / "out", **HERE)
    assert (report.written, report.dropped) == (0, {"another image of that name is in the data set": 4})
    assert sample(tmp_path / "out", "clips_0_0")[0].mean() == pytest.approx(90, abs=1)
    assert convert_tusimple(tmp_path / "two", tmp_path / "out", split="val", **HERE).splits == {"val": 4}
    (tmp_path / "one").rename(tmp_path / "moved")
    assert convert_tusimple(tmp_path / "moved", tmp_path / "out", **HERE).written == 4


def test_an_image_is_never_in_train_and_val_at_once(tmp_path):
    drive(tmp_path / "in", count=3, clips=8)
    seen = {}
    for share in (0.0, 0.25, 0.5, 1.0, 0.1):
        report = convert_tusimple(tmp_path / "in", tmp_path / "out", val_share=share, **HERE)
        stems = {s: {p.stem for p in (tmp_path / "out" / s / "images").glob("*.jpg")} for s in ("train", "val")}
        assert not stems["train"] & stems["val"]
        assert len(stems["train"] | stems["val"]) == 24
        assert {split: len(names) for split, names in stems.items() if names} == dict(report.splits)
        recordings = [{name[:7] for name in names} for names in stems.values()]
        assert not recordings[0] & recordings[1], "a recording is never divided"
        seen[share] = report.splits["val"]
    assert seen == {0.0: 0, 0.25: pytest.approx(6, abs=3), 0.5: pytest.approx(12, abs=3), 1.0: 24, 0.1: 3}


def test_a_sample_that_a_killed_run_left_in_its_earlier_split_is_removed(tmp_path):
    drive(tmp_path / "in", count=2)
    convert_tusimple(tmp_path / "in", tmp_path / "out", val_share=1.0, **HERE)
    shutil.copytree(tmp_path / "out" / "val", tmp_path / "out" / "train")
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", val_share=1.0, **HERE)
    assert (report.splits, report.written) == ({"val": 2}, 2)
    assert [path.name for path in (tmp_path / "out" / "train").glob("*/*")] == []


def test_photographs_of_one_folder_are_divided_by_blocks_of_their_numbers(tmp_path):
    for number in range(60):
        name = f"IMG_{number:04d}"
        labelme(tmp_path / "in" / f"{name}.json", imageData=None)
        picture(tmp_path / "in" / f"{name}.jpg", (8, 16))
    report = convert_labelme(tmp_path / "in", tmp_path / "out", val_share=0.2, **HERE)
    assert report.splits == {"train": 50, "val": 10}
    numbers = sorted(int(path.stem[4:]) for path in list_samples(tmp_path / "out", "val")[0])
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert recording_of("a/b/1.jpg") == "a/b"
    assert (
        recording_of("night ride (57).png") == recording_of("night ride (50).png") != recording_of("night ride (6).png")
    )


def test_neighbouring_clips_of_tusimple_come_into_one_split(tmp_path):
    second, first = 10**9, 1_492_626_000 * 10**9
    clips = [f"clips/0531/{first + k * second + k * 7_654_321}" for k in range(100)]
    picture(tmp_path / "in" / "x.jpg")
    lines = []
    for clip in random.Random(0).sample(clips, 100):  # label files are in no order
        (tmp_path / "in" / clip).mkdir(parents=True)
        os.link(tmp_path / "in" / "x.jpg", tmp_path / "in" / clip / "20.jpg")
        lines.append(frame(f"{clip}/20.jpg", 60))
    (tmp_path / "in" / "label_data_0531.json").write_text("".join(lines))
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", val_share=0.2, **HERE)
    assert report.splits == {"train": 80, "val": 20}
    names = {path.stem for path in list_samples(tmp_path / "out", "val")[0]}
    in_val = [f"{clip.replace('/', '_')}_20" in names for clip in clips]
    assert np.count_nonzero(np.diff(in_val)) <= 4  # ends of two blocks


def test_two_conversions_never_write_into_one_folder_and_what_a_killed_one_left_is_cleared(tmp_path, capsys):
    drive(tmp_path / "in")
    left = tmp_path / "out" / "train" / "images" / f"clips_0_0.jpg.5.{UNFINISHED}"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    command = ["convert", "tusimple", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    with locked(tmp_path / "out", "a conversion"):
        assert main(command) == 2
        assert "out: a conversion is running there already" in capsys.readouterr().err
        assert left.exists()
    assert main(command) == 0
    assert len(list_samples(tmp_path / "out", "train")[0]) == 4
    assert sorted(path.name for path in left.parent.iterdir()) == [f"clips_0_{k}.jpg" for k in range(4)]
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_killed_conversion_goes_on_where_it_was(tmp_path):
    names = drive(tmp_path / "in", count=150)
    command = [sys.executable, "-m", "roadtopo_lib.app.cli", "convert", "tusimple", tmp_path / "in", tmp_path / "out"]
    process = subprocess.Popen([*command, "--workers", "2"], start_new_session=True, stdout=subprocess.PIPE)
    images, end = tmp_path / "out" / "train" / "images", time.monotonic() + 100
    while len(list(images.glob("*.jpg"))) < 30 and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in images.glob("*.jpg")}
    assert 30 <= len(done) < len(names)
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.read, report.written) == (150, 150)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert len(list_samples(tmp_path / "out", "train")[0]) == 150
    convert_tusimple(tmp_path / "in", tmp_path / "whole", **HERE)
    contents = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "out", tmp_path / "whole")
    ]
    assert contents[0] == contents[1]


def test_a_sample_with_a_file_that_a_power_cut_left_empty_is_converted_again(tmp_path):
    drive(tmp_path / "in", count=2)
    convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    for path in sample_files(tmp_path / "out" / "train", "clips_0_0")[1:]:
        before = path.read_bytes()
        path.write_bytes(b"")
        assert convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE).written == 2
        assert path.read_bytes() == before


def test_a_note_is_no_part_of_the_picture(tmp_path):
    drive(tmp_path / "in", count=1)
    convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    image = sample_files(tmp_path / "out" / "train", "clips_0_0")[0]
    assert len(note_of(image).split()) == 3
    assert cv2.imread(str(image)).shape == (*SIZE, 3)
    assert note_of(tmp_path / "in" / "clips" / "0" / "0.jpg") == note_of(tmp_path / "nothing") == ""


SCRIPT = "from roadtopo_lib.data.convert import convert_tusimple\nprint(convert_tusimple('in', 'out'{}))\n"


def test_a_script_without_a_main_guard_converts_in_its_own_process_unless_it_asks_for_more(tmp_path):
    drive(tmp_path / "in")
    for options, code, found in (("", 0, "4 written"), (", workers=2", 1, "worker processes run this script again")):
        (tmp_path / "mine.py").write_text(SCRIPT.format(options))
        done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert (done.returncode, found in done.stdout + done.stderr) == (code, True), done.stderr


def test_a_closed_stderr_ends_no_conversion(tmp_path):
    drive(tmp_path / "in")
    (tmp_path / "mine.py").write_text(SCRIPT.format(""))
    subprocess.run(["sh", "-c", 'exec "$0" mine.py >&- 2>&-', sys.executable], cwd=tmp_path, check=True, timeout=100)
    assert len(list_samples(tmp_path / "out", "train")[0]) == 4


def test_the_bar_of_a_poor_terminal_ends_no_conversion(tmp_path):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    drive(tmp_path / "ä")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # rows and columns
    command = [sys.executable, "-m", "roadtopo_lib.app.cli", "convert", "tusimple", "ä", "ö", "--workers", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=tmp_path, stderr=follower, stdout=subprocess.PIPE, env=environment, timeout=100)
    os.close(follower)
    shown = os.read(leader, 100_000).decode("ascii")
    assert done.returncode == 0
    assert "4image" in shown.replace(" ", "")
    assert len(list_samples(tmp_path / "ö", "train")[0]) == 4


def test_a_line_of_equal_points_is_a_single_point(tmp_path):
    dot, line = [[64.0, 40.0]] * 2, STRAIGHT
    for name in ("culane", "labelme", "bdd100k"):
        picture(tmp_path / name / "a.jpg")
    lanes = (" ".join(f"{x} {y}" for x, y in points) for points in (dot, line))
    (tmp_path / "culane" / "a.lines.txt").write_text("\n".join(lanes))
    labelme(tmp_path / "labelme" / "a.json", shape("lane", dot), shape("lane", line))
    labels = [lane_of("lane/single white", points) for points in (dot, line)]
    (tmp_path / "bdd100k" / "lane_train.json").write_text(json.dumps([{"name": "a.jpg", "labels": labels}]))
    for name in ("culane", "labelme", "bdd100k"):
        report = FORMATS[name](tmp_path / name, tmp_path / "out" / name, **HERE)
        assert report.dropped == {"a lane of a single point": 1}, name
        assert sample(tmp_path / "out" / name, "a")[2].max() == 1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("latest", "train"), ("contest_train", "train"), ("interval_2", "train"), ("lane_val", "val"),
        ("Validation", "val"), ("bdd100k_labels_images_test", "test"), ("test2", "test"),
    ],
)  # fmt: skip
def test_the_split_of_bdd100k_is_a_word_of_the_files_name_and_no_part_of_one(tmp_path, name, split):
    picture(tmp_path / "a.jpg")
    (tmp_path / f"{name}.json").write_text(json.dumps([{"name": "a.jpg", "labels": []}]))
    assert convert_bdd100k(tmp_path, tmp_path / "out", **HERE).splits == {split: 1}


def test_labels_that_reach_below_smaller_copies_of_their_images_are_dropped(tmp_path):
    for name, size in (("whole", SIZE), ("half", (36, 64))):
        picture(tmp_path / "in" / f"{name}.jpg", size)
    text = frame("whole.jpg", 30, 60, 90) + frame("half.jpg", 30, 60, 90)
    (tmp_path / "in" / "label_data.json").write_text(text)
    report = convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.written, report.dropped) == (1, {"the image has another size than its labels": 1})
    assert report.examples["the image has another size than its labels"] == ["half"]


def test_a_run_that_ends_between_two_masks_leaves_none_that_an_earlier_run_vouches_for(tmp_path, monkeypatch):
    names, write = drive(tmp_path / "in"), samples_module.write_image
    convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE)
    whole = sample(tmp_path / "out", "clips_0_0")[1:]

    def until_instances(path, *values, **more):
        if path.parent.name == "instance_masks":
            raise OSError("no space left")
        write(path, *values, **more)

    monkeypatch.setattr(samples_module, "write_image", until_instances)
    with pytest.raises(OSError, match="no space"):
        convert_tusimple(tmp_path / "in", tmp_path / "out", line_width=9, **HERE)
    monkeypatch.undo()
    assert convert_tusimple(tmp_path / "in", tmp_path / "out", **HERE).written == len(names)
    for before, after in zip(whole, sample(tmp_path / "out", "clips_0_0")[1:], strict=True):
        np.testing.assert_array_equal(before, after)
