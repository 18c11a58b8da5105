"""Lanes found, written for other tools: JSON, TuSimple, CULane, LabelMe."""

import importlib.util
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.app import cli
from roadtopo_lib.data.convert import convert_labelme
from roadtopo_lib.data.convert.export import tusimple_rows
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import UNFINISHED
from roadtopo_lib.inference.files import infer_to_files
from roadtopo_lib.labels import BACKGROUND, CLASSES, CROSSWALK, LANE_BOUNDARY, LANE_MARKING, ROAD
from roadtopo_lib.scenes import render_scene

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data_samples" / "tiny.safetensors"
SIZE = (720, 1280)

LEFT = np.array([[500.0, 300.0], [290.0, 719.0]])  # x = 500 − (y − 300) / 2 + rounding at the end: see the tests
STRAIGHT = np.array([[600.0, 200.0], [600.0, 700.0]])
LEAVING = np.array([[1000.0, 400.0], [1400.0, 600.0]])  # x = 1000 + 2 (y − 400): outside of the image from row 540 on


class Knows:
    """Finds three lanes and a crosswalk wherever it looks; an image whose first pixel is black shows nothing."""

    classes, most_pixels = CLASSES, 1 << 30

    def __init__(self, polylines=(LEFT, STRAIGHT, LEAVING), pause=0.0):
        self.polylines = polylines
        self.pause = pause
        self.postprocessor = SimpleNamespace(process=lambda confidence, result: result)

    def predict(self, image):
        time.sleep(self.pause)
        lanes = [] if image[0, 0].max() < 10 else list(self.polylines)
        size = image.shape[:2]
        semantic, instance, crosswalks = np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, np.int32)
        confidence = np.zeros(size, np.float32)
        if lanes:
            cv2.fillPoly(crosswalks, [np.array([[200, 640], [900, 620], [950, 690], [150, 700]])], 1)
            semantic[crosswalks > 0] = CROSSWALK
        for number, lane in enumerate(lanes, start=1):
            cv2.polylines(instance, [lane.round().astype(np.int32)[:, None]], False, number, 9)
            semantic[instance == number] = LANE_BOUNDARY if number == 1 else LANE_MARKING
            confidence[instance == number] = 0.75 + number / 16
        semantic[:310][instance[:310] == 1] = LANE_MARKING  # a few pixels of the boundary line
        crosswalks[instance > 0] = 0
        result = {
            "semantic_mask": semantic, "lane_instances": instance, "lane_count": len(lanes), "lane_polylines": lanes,
            "lane_centers": np.zeros((len(lanes), 2)), "crosswalk_instances": crosswalks,
            "crosswalk_count": int(crosswalks.max()), "crosswalk_centers": np.zeros((int(crosswalks.max()), 2)),
        }  # fmt: skip
        return {"confidence": confidence, "result": result}

    def __call__(self, image):
        return self.predict(image)["result"]


def photo(path, size=SIZE, level=90):
    write_image(path, np.full((*size, 3), level, np.uint8))
    return path


def export(form, source, output, segmenter=None, **options):
    options = {"on_fault": pytest.fail, **options}
    return list(infer_to_files(segmenter or Knows(), source, output, form=form, **options))


def tree(folder):
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return sorted(path.as_posix() for path in files)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr("roadtopo_lib.confidence.load_segmenter", lambda *_: Knows())
    return lambda *words: cli.main(["infer", "lane", "--model", "none", *map(str, words)])


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_has_class_id_confidence_and_points_in_pixels_of_the_photograph(tmp_path):
    assert export("json", photo(tmp_path / "a.png"), tmp_path / "out") == [(tmp_path / "out" / "a.json", 3)]
    values = json.loads((tmp_path / "out" / "a.json").read_text())
    assert list(values) == ["version", "image", "frame", "width", "height", "lanes", "crosswalks", "areas"]
    assert (values["image"], values["frame"], values["width"], values["height"]) == ("a.png", None, 1280, 720)
    assert [list(lane) for lane in values["lanes"]] == [["class", "id", "confidence", "points"]] * 3
    assert [lane["class"] for lane in values["lanes"]] == ["lane_boundary", "lane_marking", "lane_marking"]
    assert [lane["id"] for lane in values["lanes"]] == [1, 2, 3]
    assert [lane["confidence"] for lane in values["lanes"]] == [0.8125, 0.875, 0.9375]
    assert values["lanes"][2]["points"] == [[1000.0, 400.0], [1400.0, 600.0]]


def test_a_crosswalk_cut_by_lanes_is_one_crosswalk_of_several_polygons(tmp_path):
    export("json", photo(tmp_path / "a.png"), tmp_path)
    (crosswalk,) = json.loads((tmp_path / "a.json").read_text())["crosswalks"]
    assert (crosswalk["class"], crosswalk["id"]) == ("crosswalk", 4)
    found = Knows()(read_image(tmp_path / "a.png"))["crosswalk_instances"] > 0
    assert len(crosswalk["polygons"]) == cv2.connectedComponents(found.astype(np.uint8))[0] - 1 == 3
    drawn = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(drawn, [np.array(polygon) for polygon in crosswalk["polygons"]], 1)
    far = cv2.distanceTransform((~found).astype(np.uint8), cv2.DIST_L2, 5)[drawn > 0].max()
    short = cv2.distanceTransform((drawn == 0).astype(np.uint8), cv2.DIST_L2, 5)[found].max()
    assert max(far, short) <= 1.5


class KnowsTheRoad(Knows):
    """Sees road below row 300, too."""

    def predict(self, image):
        outputs = super().predict(image)
        semantic = outputs["result"]["semantic_mask"]
        semantic[300:][semantic[300:] == BACKGROUND] = ROAD
        return outputs


def test_areas_without_instances_run_on_under_lanes_and_crosswalks(tmp_path):
    export("json", photo(tmp_path / "a.png"), tmp_path, KnowsTheRoad())
    (area,) = json.loads((tmp_path / "a.json").read_text())["areas"]
    assert area["class"] == "road"
    drawn = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(drawn, [np.array(polygon) for polygon in area["polygons"]], 1)
    assert not drawn[:299].any()
    semantic = KnowsTheRoad()(read_image(tmp_path / "a.png"))["semantic_mask"]
    assert drawn[semantic == ROAD].mean() > 0.999
    under = drawn[310:][np.isin(semantic[310:], CLASSES.lane_ids)]
    assert under.mean() > 0.95, "a line leaves no gap in the road"


def test_labelme_has_the_areas_first_and_without_instance(tmp_path):
    export("labelme", photo(tmp_path / "a.png"), tmp_path, KnowsTheRoad())
    shapes = json.loads((tmp_path / "a.json").read_text())["shapes"]
    places = [place for place, shape in enumerate(shapes) if shape["label"] == "road"]
    assert places == list(range(len(places))) != []
    assert {shapes[place]["group_id"] for place in places} == {None}


# --- TuSimple ---------------------------------------------------------------------------------------------------------


def test_tusimple_has_whole_x_at_its_rows_and_minus_two_where_a_lane_is_absent(tmp_path):
    photo(tmp_path / "in" / "a.png")
    assert export("tusimple", tmp_path / "in", tmp_path / "out") == [(tmp_path / "out" / "tusimple.json", 3)]
    (line,) = (json.loads(text) for text in (tmp_path / "out" / "tusimple.json").read_text().splitlines())
    assert set(line) == {"raw_file", "lanes", "h_samples", "run_time"}
    rows = list(range(160, 720, 10))
    assert line["h_samples"] == rows
    left, straight, leaving = line["lanes"]
    assert left == [-2 if y < 300 else round(500 - 210 * (y - 300) / 419) for y in rows]
    assert straight == [600 if 200 <= y <= 700 else -2 for y in rows]
    assert leaving == [1000 + 2 * (y - 400) if 400 <= y < 540 else -2 for y in rows]
    assert {type(x) for lane in line["lanes"] for x in lane} == {int}


def test_rows_of_another_height_are_the_same_shares_of_it():
    assert tusimple_rows(720) == list(range(160, 720, 10))
    assert tusimple_rows(1440) == list(range(320, 1440, 20))
    assert tusimple_rows(360) == [80 + 5 * k for k in range(56)]


def test_the_run_time_is_measured_and_slow_images_are_told_of(tmp_path, capsys):
    photo(tmp_path / "in" / "a.png")
    for pause, told in ((0.02, ""), (0.21, "1 of 1 images took more than 200 ms, for which the benchmark gives 0\n")):
        export("tusimple", tmp_path / "in", tmp_path / "out", Knows(pause=pause))
        line = json.loads((tmp_path / "out" / "tusimple.json").read_text())
        assert 1000 * pause <= line["run_time"] < 1000 * pause + 180
        assert capsys.readouterr().err.endswith(told)


def test_raw_files_are_paths_in_the_folder_and_a_blank_road_has_no_lanes(tmp_path):
    for name, level in (("clips/0530/1/20.png", 90), ("clips/0531/1/20.png", 0), ("b.png", 90)):
        photo(tmp_path / "in" / name, level=level)
    export("tusimple", tmp_path / "in", tmp_path / "out")
    lines = [json.loads(text) for text in (tmp_path / "out" / "tusimple.json").read_text().splitlines()]
    assert {line["raw_file"]: len(line["lanes"]) for line in lines} == {
        "b.png": 3, "clips/0530/1/20.png": 3, "clips/0531/1/20.png": 0
    }  # fmt: skip


def test_labels_of_tusimple_choose_images_and_rows(tmp_path, command, capsys):
    for name in ("clips/1/19.png", "clips/1/20.png", "clips/2/20.png"):
        photo(tmp_path / "in" / name)
    labels = tmp_path / "label_data.json"
    frames = [("clips/2/20.png", [250, 700]), ("clips/1/20.png", [300, 310, 320])]
    labels.write_text("".join(json.dumps({"raw_file": f, "lanes": [], "h_samples": r}) + "\n" for f, r in frames))
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--format", "tusimple", "--h-samples", labels]
    assert command(*words) == 0
    lines = [json.loads(text) for text in (tmp_path / "out" / "tusimple.json").read_text().splitlines()]
    assert [(line["raw_file"], line["h_samples"]) for line in lines] == frames
    assert [len(lane) for line in lines for lane in line["lanes"]] == [2, 2, 3, 3]
    assert lines[0]["lanes"] == [[-2, round(500 - 210 * 400 / 419)], [600, 600]]
    (tmp_path / "in" / "clips").rename(tmp_path / "in" / "Stra\u00dfe \u00fc")
    labels.write_text(labels.read_text().replace("clips", "Stra\u00dfe u\u0308"))
    (tmp_path / "out" / "tusimple.json").unlink()  # of other images now
    assert command(*words) == 0, "a name may be spelt in another of Unicode's forms"
    labels.write_text(labels.read_text().replace("Stra\u00dfe u\u0308", "clips"))
    (tmp_path / "in" / "Stra\u00dfe \u00fc").rename(tmp_path / "in" / "clips")
    (tmp_path / "in" / "clips" / "1" / "20.png").unlink()
    (tmp_path / "out" / "tusimple.json").unlink()
    capsys.readouterr()
    assert command(*words) == 1, "an image that is missing is reported, the rest is done"
    assert "clips/1/20.png: no such file" in capsys.readouterr().err
    assert len((tmp_path / "out" / "tusimple.json").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no label"),
        ('{"raw_file": "a.png"}\n', "line 1 is no label of TuSimple"),
        ('\n{"raw_file": "a.png", "h_samples": ["x"]}\n', "line 2 is no label of TuSimple"),
        ('{"raw_file": "../a.png", "h_samples": [1]}\n', "names no row, or ../a.png, which is not in"),
        ('{"raw_file": "a.png", "h_samples": []}\n', "line 1 names no row"),
    ],
)
def test_wrong_labels_of_tusimple_are_one_line(tmp_path, command, capsys, text, message):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "gt.json").write_text(text)
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--h-samples", tmp_path / "gt.json"]
    assert command(*words, "--format", "tusimple") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert command(*words, "--format", "json") == 2
    assert not (tmp_path / "out").exists()


# --- CULane -----------------------------------------------------------------------------------------------------------


def test_culane_has_a_lane_a_line_from_the_bottom_up_in_steps_of_ten(tmp_path):
    photo(tmp_path / "in" / "driver_1" / "b.MP4" / "00000.png")
    photo(tmp_path / "in" / "empty.png", level=0)
    export("culane", tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["driver_1/b.MP4/00000.lines.txt", "empty.lines.txt"]
    assert (tmp_path / "out" / "empty.lines.txt").read_text() == ""
    lines = (tmp_path / "out" / "driver_1" / "b.MP4" / "00000.lines.txt").read_text().splitlines()
    left, straight, leaving = ([float(value) for value in line.split()] for line in lines)
    assert left[1::2] == list(range(710, 290, -10))
    assert left[::2] == pytest.approx([500 - 210 * (y - 300) / 419 for y in left[1::2]], abs=5e-4)
    assert straight == [value for y in range(700, 190, -10) for value in (600, y)]
    assert leaving == [value for y in range(600, 390, -10) for value in (1000 + 2 * (y - 400), y)]


def test_a_lane_that_crosses_fewer_than_two_of_culanes_rows_is_left_out(tmp_path):
    short = np.array([[100.0, 301.0], [110.0, 315.0]])
    export("culane", photo(tmp_path / "a.png"), tmp_path / "out", Knows([short, STRAIGHT]))
    assert len((tmp_path / "out" / "a.lines.txt").read_text().splitlines()) == 1


# --- LabelMe ----------------------------------------------------------------------------------------------------------


AREAS = {c.name for c in CLASSES if c.instances is None}


def load_as_labelme_does(path):
    """What LabelMe demands of a file when it opens it: keys, types, and the photograph beside it."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    assert {"version", "imageData", "imagePath", "shapes", "imageHeight", "imageWidth"} <= set(values)
    assert values["imageData"] is None
    assert values["flags"] == {}
    assert "\\" not in values["imagePath"]
    image = Image.open(Path(path).parent / values["imagePath"])
    assert image.size == (values["imageWidth"], values["imageHeight"])
    for shape in values["shapes"]:
        assert isinstance(shape["label"], str)
        assert isinstance(shape["shape_type"], str)
        assert isinstance(shape["description"], str)
        assert type(shape["group_id"]) is (type(None) if shape["label"] in AREAS else int)
        assert shape["flags"] == {}
        assert shape["points"]
        for point in shape["points"]:
            assert isinstance(point, list)
            assert len(point) == 2
            assert all(isinstance(value, int | float) for value in point)
        assert len(shape["points"]) >= {"linestrip": 2, "polygon": 3}[shape["shape_type"]]
    return values


@pytest.mark.parametrize("output", ["in", "out", "in/labels"])
def test_labelme_opens_the_file_over_the_photograph(tmp_path, output):
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "day" / "b.jpg")
    export("labelme", tmp_path / "in", tmp_path / output)
    values = [load_as_labelme_does(tmp_path / output / name) for name in ("a.json", "day/b.json")]
    assert [shape["label"] for shape in values[0]["shapes"]] == ["lane_boundary", *["lane_marking"] * 2] + [
        "crosswalk"
    ] * 3
    assert [shape["group_id"] for shape in values[1]["shapes"]] == [1, 2, 3, 4, 4, 4]
    assert values[0]["shapes"][0]["description"] == "confidence 0.81"
    assert values[0]["imagePath"] == {"in": "a.png", "out": "../in/a.png", "in/labels": "../a.png"}[output]


@pytest.mark.parametrize(("output", "labels"), [("in", "in"), ("out", ".")])
def test_labelme_files_come_back_through_convert(tmp_path, output, labels):
    """Beside the photographs, or elsewhere: ``convert`` then looks through the folder that holds both."""
    photo(tmp_path / "in" / "day" / "a.png")
    export("labelme", tmp_path / "in", tmp_path / output)
    report = convert_labelme(tmp_path / labels, tmp_path / "set", workers=1, progress=False)
    assert (report.read, report.written, dict(report.dropped)) == (1, 1, {})
    _, semantic, instance = LaneInstanceDataset(tmp_path / "set", "train").read(0)
    classes = {i: int(semantic[instance == i][0]) for i in range(1, 5)}
    assert classes == {1: LANE_BOUNDARY, 2: LANE_MARKING, 3: LANE_MARKING, 4: CROSSWALK}
    assert instance.max() == 4, "the parts of the crosswalk are one"
    assert instance[500, 600] == 2


def test_a_bend_keeps_its_shape_with_fewer_points(tmp_path):
    y = np.arange(300.0, 720.0, 4.0)
    bend = np.stack([600 + (y - 300) ** 2 / 400, y], axis=1)
    export("labelme", photo(tmp_path / "a.png"), tmp_path, Knows([bend]))
    points = np.array(load_as_labelme_does(tmp_path / "a.json")["shapes"][0]["points"])
    assert len(points) < len(bend) / 4
    off = np.abs(np.interp(y, points[:, 1], points[:, 0]) - bend[:, 0])
    assert 0.1 < off.max() <= 0.5 * np.hypot(1, 2.1) + 0.01  # half a pixel across a line of slope 2.1


def test_what_was_corrected_in_labelme_is_not_written_over(tmp_path, command, capsys):
    photo(tmp_path / "a.png")
    words = ["--input", tmp_path, "--output", tmp_path, "--format", "labelme"]
    assert command(*words) == command(*words) == 0, "what nobody has touched is made anew"
    values = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(
        json.dumps(values | {"version": "5.8.1", "shapes": values["shapes"][:1]}, indent=2)
    )
    capsys.readouterr()
    assert command(*words) == 2
    assert "a.json: may hold labels" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "a.json").read_text())["shapes"]) == 1


# --- All --------------------------------------------------------------------------------------------------------------

ENDINGS = {"json": ".json", "culane": ".lines.txt", "labelme": ".json"}


@pytest.mark.parametrize("form", ENDINGS)
def test_subfolders_are_kept_and_pictures_come_on_demand(tmp_path, form):
    for name in ("x/1.png", "y/1.png", "2.jpg"):
        photo(tmp_path / "in" / name)
    export(form, tmp_path / "in", tmp_path / "out", visualize=True)
    names = [name + ending for name in ("2", "x/1", "y/1") for ending in (ENDINGS[form], "_overlay.png")]
    assert tree(tmp_path / "out") == sorted(names)


def test_overlays_and_one_file_of_tusimple(tmp_path):
    for name in ("x/1.png", "2.jpg"):
        photo(tmp_path / "in" / name)
    export("tusimple", tmp_path / "in", tmp_path / "out", visualize=True)
    assert tree(tmp_path / "out") == ["2_overlay.png", "tusimple.json", "x/1_overlay.png"]


@pytest.mark.parametrize("form", [*ENDINGS, "tusimple"])
def test_a_damaged_file_is_reported_and_the_rest_is_written(tmp_path, command, capsys, form):
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    whole = (tmp_path / "in" / "b.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(whole[: len(whole) // 2])
    assert command("--input", tmp_path / "in", "--output", tmp_path / "out", "--format", form) == 1
    assert "b.png: damaged or truncated image" in capsys.readouterr().err
    if form == "tusimple":
        lines = (tmp_path / "out" / "tusimple.json").read_text().splitlines()
        assert [json.loads(line)["raw_file"] for line in lines] == ["a.png", "c.png"]
    else:
        assert tree(tmp_path / "out") == [f"{name}{ENDINGS[form]}" for name in "ac"]


def test_frames_of_a_video_are_named_by_their_place(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    if not writer.isOpened():
        pytest.skip("this OpenCV build writes no video")
    for _ in range(3):
        writer.write(np.full((120, 160, 3), 90, np.uint8))
    writer.release()
    lane = Knows([np.array([[80.0, 20.0], [40.0, 110.0]])])
    for form in (*ENDINGS, "tusimple"):
        export(form, tmp_path / "clip.avi", tmp_path / form, lane)
    names = [f"clip_frame_00000{number}" for number in range(3)]
    assert tree(tmp_path / "culane") == [f"{name}.lines.txt" for name in names]
    assert tree(tmp_path / "labelme") == sorted(name + ending for name in names for ending in (".jpg", ".json"))
    assert load_as_labelme_does(tmp_path / "labelme" / f"{names[1]}.json")["imagePath"] == f"{names[1]}.jpg"
    values = [json.loads((tmp_path / "json" / f"{name}.json").read_text()) for name in names]
    assert [(value["image"], value["frame"]) for value in values] == [("clip.avi", number) for number in range(3)]
    lines = (tmp_path / "tusimple" / "tusimple.json").read_text().splitlines()
    assert [json.loads(line)["raw_file"] for line in lines] == names


def test_labelme_finds_the_photograph_from_a_folder_behind_a_link(tmp_path):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    export("labelme", tmp_path / "in", tmp_path / "link")
    load_as_labelme_does(tmp_path / "link" / "a.json")


@pytest.mark.parametrize("form", [*ENDINGS, "tusimple"])
def test_nothing_is_half_written(tmp_path, form, monkeypatch):
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png")
    segmenter = Knows()
    images = []

    def fails_at_the_second(image):
        images.append(image)
        if len(images) == 2:
            raise ValueError("the network's logits are not finite")
        return Knows.predict(segmenter, image)

    monkeypatch.setattr(segmenter, "predict", fails_at_the_second)
    with pytest.raises(ValueError, match="not finite"):
        export(form, tmp_path / "in", tmp_path / "out", segmenter)
    found = [path.name for path in (tmp_path / "out").glob("*")]  # hidden files, too
    assert found == ([] if form == "tusimple" else [f"a{ENDINGS[form]}"])


def test_labels_of_culane_beside_the_photographs_are_not_written_over(tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "a.lines.txt").write_text("1 590 2 580\n")
    with pytest.raises(ValueError, match=r"a\.lines\.txt: may hold labels"):
        export("culane", tmp_path, tmp_path)
    assert (tmp_path / "a.lines.txt").read_text() == "1 590 2 580\n"
    for _ in range(2):
        export("culane", tmp_path, tmp_path / "out")


def test_texts_of_culane_beside_the_photographs_are_made_again_until_somebody_corrects_one(tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "sub" / "b.png")
    for _ in range(2):
        export("culane", tmp_path, tmp_path)
    text = tmp_path / "sub" / "b.lines.txt"
    text.write_text(text.read_text() + "1 590 2 580\n")
    with pytest.raises(ValueError, match=r"b\.lines\.txt: may hold labels"):
        export("culane", tmp_path, tmp_path)
    assert text.read_text().endswith("1 590 2 580\n")


@pytest.mark.parametrize("output", ["a.json", "a.lines.txt", "a.png", "a.mp4"])
def test_an_output_that_is_no_folder_is_one_line(tmp_path, command, capsys, output):
    photo(tmp_path / "in" / "a.png")
    assert command("--input", tmp_path / "in", "--output", tmp_path / output, "--format", "json") == 2
    assert f"{output}: expected a folder" in capsys.readouterr().err
    assert not (tmp_path / output).exists()


def test_tusimple_with_resume_is_one_line(tmp_path, command, capsys):
    source, there = photo(tmp_path / "a.png"), tmp_path / "model"
    there.touch()
    options = ("--model", there, "--input", source, "--output", tmp_path / "out", "--resume")
    assert command(*options, "--format", "tusimple") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not go with --resume" in error
    assert not (tmp_path / "out").exists()
    assert command(*options, "--format", "json") == 0


@pytest.mark.parametrize("form", ["json", "culane", "labelme"])
def test_results_in_a_format_that_are_there_are_left_out_with_resume(tmp_path, form):
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    since = (tmp_path / "in" / "c.png").stat().st_mtime
    options = {"visualize": True, "newer_than": since}

    def made():
        return [path.name for path, _ in export(form, tmp_path / "in", tmp_path / "out", **options)]

    ending = ENDINGS[form]
    assert made() == [f"a{ending}", f"b{ending}", f"c{ending}"]
    assert made() == []
    (tmp_path / "out" / f"a{ending}").write_bytes(b"")  # a power cut
    (tmp_path / "out" / "b_overlay.png").unlink()
    os.utime(tmp_path / "in" / "c.png", (since + 3600, since + 3600))
    assert made() == [f"a{ending}", f"b{ending}", f"c{ending}"]
    assert (tmp_path / "out" / f"a{ending}").stat().st_size
    os.utime(tmp_path / "in" / "c.png", (since, since))
    options["newer_than"] = since + 3600  # the model is newer
    assert made() == [f"a{ending}", f"b{ending}", f"c{ending}"]


def test_an_unknown_format_is_one_line(tmp_path, command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("--input", tmp_path, "--output", tmp_path / "out", "--format", "xml")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="format is 'xml', expected one of json, tusimple, culane, labelme"):
        export("xml", photo(tmp_path / "a.png"), tmp_path / "out")


def test_the_shipped_model_writes_the_same_lanes_in_every_format(tmp_path):
    write_image(tmp_path / "in" / "a.png", render_scene(2, SIZE, "day").image)
    command = ["infer", "lane", "--model", str(SHIPPED), "--device", "cpu", "--input", str(tmp_path / "in")]
    for form in (*ENDINGS, "tusimple"):
        assert cli.main([*command, "--output", str(tmp_path / form), "--format", form]) == 0
    lanes = json.loads((tmp_path / "json" / "a.json").read_text())["lanes"]
    assert len(lanes) >= 2
    assert all(0.5 < lane["confidence"] <= 1 for lane in lanes)
    assert {lane["class"] for lane in lanes} <= {"lane_marking", "lane_boundary"}
    curves = [np.array(lane["points"]) for lane in lanes]
    (line,) = (json.loads(text) for text in (tmp_path / "tusimple" / "tusimple.json").read_text().splitlines())
    rows = np.array(line["h_samples"])
    for curve, xs in zip(curves, map(np.array, line["lanes"]), strict=True):
        present = xs >= 0
        np.testing.assert_allclose(np.interp(rows[present], curve[:, 1], curve[:, 0]), xs[present], atol=0.501)
    for curve, text in zip(curves, (tmp_path / "culane" / "a.lines.txt").read_text().splitlines(), strict=True):
        x, y = np.array(text.split(), float).reshape(-1, 2).T
        np.testing.assert_allclose(np.interp(y, curve[:, 1], curve[:, 0]), x, atol=6e-4)
    shapes = load_as_labelme_does(tmp_path / "labelme" / "a.json")["shapes"]
    lines = [shape["label"] for shape in shapes if shape["shape_type"] == "linestrip"]
    assert lines == [lane["class"] for lane in lanes]


# --- Round trips ------------------------------------------------------------------------------------------------------

BOUNDS = {  # pixels: sideways in the file and in the masks; rows lost at an end; crosswalk's outline
    "tusimple": {"points": 1.5, "masks": 1.0, "rows": 10.0},
    "culane": {"points": 1.5, "masks": 1.0, "rows": 10.0},
    "labelme": {"points": 0.52, "masks": 1.2, "rows": 0.01, "crosswalk": 1.5},
    "bdd100k": {"points": 0.01, "masks": 1.2, "rows": 0.01, "crosswalk": 1.5},
    "coco": {"masks": 2.5, "crosswalk": 1.5},
}


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", ROOT / "tests" / "benchmarks" / "bench_round_trips.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, SIZE, "day") for seed in (2, 4, 7, 9)]


@pytest.mark.parametrize("form", BOUNDS)
def test_ours_to_a_format_and_back_stays_within_its_bound(bench, scenes, tmp_path, form):
    worst = bench.measure(form, scenes, tmp_path)
    assert worst["lanes"] == sum(len(scene.lanes) for scene in scenes) >= 10
    assert worst["lost"] == 0
    for name, bound in BOUNDS[form].items():
        assert worst[name] <= bound, (name, worst)


@pytest.mark.parametrize("form", ["json", "culane", "labelme"])
def test_only_results_whose_names_collide_get_other_names(tmp_path, form):
    for name in ("x.png", "x.jpg", "x_jpg.png", "deep/A.JPG", "deep/x.png"):
        photo(tmp_path / "in" / name)
    export(form, tmp_path / "in", tmp_path / "out")
    names = [name.removesuffix(ENDINGS[form]) for name in tree(tmp_path / "out")]
    assert sorted(names) == ["deep/A", "deep/x", "x_jpg", "x_jpg_png", "x_png"]


def test_predictions_of_other_images_are_not_replaced_by_tusimple(tmp_path):
    for folder, name in (("first", "a.png"), ("second", "b.png")):
        photo(tmp_path / folder / name)
    export("tusimple", tmp_path / "first", tmp_path / "out")
    before = (tmp_path / "out" / "tusimple.json").read_bytes()
    with pytest.raises(ValueError, match=r"tusimple\.json: holds results of other images, such as a\.png"):
        export("tusimple", tmp_path / "second", tmp_path / "out")
    assert (tmp_path / "out" / "tusimple.json").read_bytes() == before
    photo(tmp_path / "first" / "c.png")  # the same job, grown, is made again
    export("tusimple", tmp_path / "first", tmp_path / "out")
    assert len((tmp_path / "out" / "tusimple.json").read_text().splitlines()) == 2


def test_what_a_killed_call_left_half_written_goes_from_subfolders_too(tmp_path):
    photo(tmp_path / "in" / "deep" / "a.png")
    old, young = (tmp_path / "out" / "deep" / f"{name}{UNFINISHED}" for name in ("old", "young"))
    for path in (old, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, (1, 1))
    export("json", tmp_path / "in", tmp_path / "out")
    assert not old.exists()
    assert young.exists(), "another process may be writing it"
