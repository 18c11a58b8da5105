"""Label files in the formats of others become samples: fixtures written here from the formats' descriptions."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.app.cli import main
from roadtopo_lib.data.convert import (
    FORMATS,
    convert_bdd100k,
    convert_coco,
    convert_culane,
    convert_labelme,
    convert_tusimple,
)
from roadtopo_lib.data.convert.drawing import Shape, draw_masks
from roadtopo_lib.data.convert.reading import json_items, sample_name
from roadtopo_lib.data.convert.writing import Options
from roadtopo_lib.data.samples import read_sample, sample_files
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import CROSSWALK, LANE_BOUNDARY, LANE_MARKING, LINE_WIDTH, ROAD, ClassTable, LabelClass

HERE = {"workers": 1, "progress": False}
ROWS = list(range(160, 711, 10))


def picture(path, size=(720, 1280)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def sample(dst, name, split="train"):
    return read_sample(*sample_files(dst / split, name))


def slanted(x, slope):
    """x at the rows of TuSimple; −2 above row 300."""
    return [-2 if row < 300 else round(x + slope * (row - 300)) for row in ROWS]


def tusimple(root, lines, name="label_data_0531.json"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


def frame_of(number, lanes, clip="0531"):
    return {"raw_file": f"clips/{clip}/{number}/20.jpg", "lanes": lanes, "h_samples": ROWS}


@pytest.fixture
def tusimple_root(tmp_path):
    root = tmp_path / "tusimple"
    right, left, middle = slanted(700, 1.0), slanted(500, -1.0), slanted(640, 0.0)
    one_point, absent = [-2] * 55 + [400], [-2] * 56
    tusimple(
        root,
        [
            frame_of(1, [right, left, middle, one_point, absent]),
            "not json\n",
            "\n",
            json.dumps({"raw_file": "clips/0531/2/20.jpg"}) + "\n",
            frame_of(3, [[5, 6]]),  # fewer x than rows
            frame_of(4, [left]),  # its image is missing
            {**frame_of(5, [left]), "raw_file": "../outside.jpg"},
            frame_of(1, [left]),  # once more
            frame_of(6, [left]),  # its image is damaged
        ],
    )
    tusimple(root, [frame_of(9, [middle, left], clip="0601")], "test_label.json")
    for number, clip in ((1, "0531"), (9, "0601")):
        picture(root / f"clips/{clip}/{number}/20.jpg")
    picture(tmp_path / "outside.jpg")
    (root / "clips/0531/6").mkdir()
    (root / "clips/0531/6/20.jpg").write_bytes(b"no image")
    return root


def test_tusimple_lanes_are_numbered_from_left_to_right_whatever_their_order_in_the_file(tusimple_root, tmp_path):
    report = convert_tusimple(tusimple_root, tmp_path / "out", **HERE)
    _, semantic, instance = sample(tmp_path / "out", "clips_0531_1_20")
    assert instance.max() == 3
    at = [np.flatnonzero(instance[500] == k).mean() for k in (1, 2, 3)]
    assert at == pytest.approx([300, 640, 900], abs=2)
    assert set(np.unique(semantic)) == {0, LANE_MARKING}
    assert (semantic[: 300 - 13] == 0).all()  # half a line's width above its first point
    assert np.flatnonzero(instance[600] == 2).size == pytest.approx(LINE_WIDTH * 1280, abs=1)
    assert sample(tmp_path / "out", "clips_0601_9_20", "test")[2].max() == 2
    assert (report.read, report.written) == (9, 2)
    assert dict(report.splits) == {"train": 1, "test": 1}


def test_what_is_dropped_is_counted_by_reason_in_both_reports(tusimple_root, tmp_path):
    report = convert_tusimple(tusimple_root, tmp_path / "out", **HERE)
    expected = {
        "a line that is no TuSimple label": 3,
        "a lane of a single point": 1,
        "a lane without a point": 1,
        "the image is missing": 1,
        "the image cannot be read": 1,
        "the image lies outside of the labels' folder; --images FOLDER names another": 1,
        "the image is named more than once": 1,
    }
    assert dict(report.dropped) == expected
    written = json.loads((tmp_path / "out" / "convert_report.json").read_text())
    assert written == report.to_dict()
    assert written["dropped"] == expected
    text = (tmp_path / "out" / "convert_report.txt").read_text()
    assert "9 images read, 2 written (1 test, 1 train)" in text
    assert all(f"dropped {count}: {reason}" in text for reason, count in expected.items())


def test_a_contact_sheet_shows_the_first_samples(tusimple_root, tmp_path):
    convert_tusimple(tusimple_root, tmp_path / "out", **HERE)
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))[..., ::-1].astype(int)
    assert sheet.shape == (225, 4 * 404 - 4, 3)
    assert (np.abs(sheet - [90, 90, 90]).max(axis=2) > 40).any()  # painted lanes


def test_what_is_complete_is_not_made_again(tusimple_root, tmp_path):
    first = convert_tusimple(tusimple_root, tmp_path / "out", **HERE)
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file() and "convert" not in p.name)
    before = {p: p.stat().st_mtime_ns for p in files if p.parent.name != "out"}
    mask = sample_files(tmp_path / "out" / "test", "clips_0601_9_20")[2]
    mask.unlink()  # as after an interruption
    assert convert_tusimple(tusimple_root, tmp_path / "out", **HERE).to_dict() == first.to_dict()
    changed = {p.stem for p, time in before.items() if p.stat().st_mtime_ns != time}
    assert changed == {"clips_0601_9_20"}


def test_workers_give_what_one_process_gives(tusimple_root, tmp_path):
    one = convert_tusimple(tusimple_root, tmp_path / "one", **HERE)
    two = convert_tusimple(tusimple_root, tmp_path / "two", workers=2, progress=False)
    assert one == two
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_limit_split_and_width(tusimple_root, tmp_path):
    report = convert_tusimple(tusimple_root, tmp_path / "a", limit=1, split="val", line_width=9, **HERE)
    assert dict(report.splits) == {"val": 1}
    instance = sample(tmp_path / "a", "clips_0531_1_20", "val")[2]
    assert np.flatnonzero(instance[600] == 2).size == pytest.approx(9, abs=1)
    convert_tusimple(tusimple_root, tmp_path / "b", limit=1, line_width=0.01, **HERE)
    assert np.flatnonzero(sample(tmp_path / "b", "clips_0531_1_20")[2][600] == 2).size == pytest.approx(13, abs=1)


@pytest.mark.parametrize(
    "wrong", [{"split": "dev"}, {"val_share": 1.5}, {"line_width": 0}, {"limit": 0}, {"workers": 0}, {"bogus": 1}]
)
def test_wrong_options_are_refused(tmp_path, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Options(**wrong)


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_without_labels_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._hidden.json").write_bytes(b"\0")
    with pytest.raises(FileNotFoundError, match="empty: "):
        FORMATS[name](tmp_path / "empty", tmp_path / "out", **HERE)
    assert not (tmp_path / "out").exists()


def test_culane_lists_name_the_splits_and_x_may_leave_the_image(tmp_path):
    root = tmp_path / "culane"
    clip = root / "driver_23_30frame" / "05151640_0419.MP4"
    for name in ("00000", "00030"):
        picture(clip / f"{name}.jpg", (590, 1640))
    rows = range(590, 300, -10)
    right = " ".join(f"{1200 + (590 - y) * -0.5:.3f} {y}" for y in rows)
    left = " ".join(f"{-90.5 + (590 - y) * 1.5:.3f} {y}" for y in rows)
    (clip / "00000.lines.txt").write_text(f"{right} \n{left} \n\n12.5 590\nx y\n1 2 3\n")
    (clip / "00030.lines.txt").write_text("")
    (root / "list").mkdir()
    head = "/driver_23_30frame/05151640_0419.MP4"
    (root / "list" / "train_gt.txt").write_text(f"{head}/00000.jpg /laneseg/0.png 1 1 0 0\n")
    (root / "list" / "train.txt").write_text(f"{head}/00030.jpg\n")  # the list with labels wins
    (root / "list" / "val.txt").write_text(f"{head}/00030.jpg\n")
    report = convert_culane(root, tmp_path / "out", **HERE)
    assert dict(report.splits) == {"train": 1, "val": 1}
    assert dict(report.dropped) == {"a lane of a single point": 1, "a line that is no CULane lane": 2}
    instance = sample(tmp_path / "out", "driver_23_30frame_05151640_0419.MP4_00000")[2]
    assert instance.max() == 2
    assert np.flatnonzero(instance[500] == 1).mean() == pytest.approx(-90.5 + 90 * 1.5, abs=1)
    assert np.flatnonzero(instance[500] == 2).mean() == pytest.approx(1200 - 45, abs=1)
    assert np.flatnonzero(instance[500] == 2).size == pytest.approx(30 * np.hypot(1, 0.5), abs=2)  # cut level
    assert sample(tmp_path / "out", "driver_23_30frame_05151640_0419.MP4_00030", "val")[2].max() == 0


def labelme(path, shapes, image="a.jpg", size=(720, 1280), **more):
    values = {"version": "5.4", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    if size:
        values |= {"imageHeight": size[0], "imageWidth": size[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values | more))


def shape(label, points, kind="linestrip", group=None, **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}, **more}


def test_labelme_lines_areas_groups_and_masks(tmp_path):
    src = tmp_path / "labelme"
    picture(src / "day" / "a.jpg")
    mask = io.BytesIO()
    Image.fromarray(np.full((11, 21), 255, np.uint8)).save(mask, "PNG")
    shapes = [
        shape("road", [[0, 300], [1279, 300], [1279, 719], [0, 719]], "polygon"),
        shape("Lane-Marking", [[900, 719], [700, 400]]),
        shape("lane_marking", [[300, 719], [400, 600]], group=7),
        shape("lane_marking", [[450, 540], [550, 420]], "line", group=7),
        shape("kerb", [[100, 719], [100, 400]]),
        shape("crosswalk", [[200, 560], [1000, 590]], "rectangle"),
        shape("crosswalk", [[600, 350], [620, 360]], "mask", mask=base64.b64encode(mask.getvalue()).decode()),
        shape("sidewalk", [[1200, 650], [1230, 650]], "circle"),
        shape("tree", [[0, 0], [5, 5], [9, 0]], "polygon"),
        shape("lane_marking", [[5, 5]], "point"),
        shape("lane_marking", [[5, 5]]),
        shape("road", [[5, 5], [7, 7]], "polygon"),
        {"label": "road"},
    ]
    labelme(src / "day" / "a.json", shapes, image="..\\day\\a.jpg")
    report = convert_labelme(src, tmp_path / "out", **HERE)
    assert (report.read, report.written) == (1, 1)
    assert dict(report.dropped) == {
        "label 'tree' is not in the class table": 1,
        "a shape of type point": 1,
        "a lane of a single point": 1,
        "a polygon of fewer than three points": 1,
        "a damaged shape": 1,
    }
    _, semantic, instance = sample(tmp_path / "out", "day_a")
    assert instance.max() == 5
    classes = {k: int(semantic[instance == k][0]) for k in range(1, 6)}
    assert classes == {1: LANE_BOUNDARY, 2: LANE_MARKING, 3: LANE_MARKING, 4: CROSSWALK, 5: CROSSWALK}
    assert instance[660, 350] == instance[480, 500] == 2  # joined by their group
    assert instance[575, 600] == 4  # the nearer crossing, over the lines
    assert instance[355, 610] == 5
    assert (instance == 5).sum() == 11 * 21
    assert semantic[650, 1200] == 4
    assert semantic[705, 640] == ROAD


def test_labelme_images_may_lie_in_the_label_file_and_old_files_name_no_size(tmp_path):
    image = io.BytesIO()
    Image.fromarray(np.full((100, 200, 3), 7, np.uint8)).save(image, "PNG")
    held = base64.b64encode(image.getvalue()).decode()
    lane = [shape("lane", [[50, 99], [90, 20]])]
    labelme(tmp_path / "in" / "old.json", lane, "gone.jpg", None, imageData=held)
    labelme(tmp_path / "in" / "wrong.json", lane, "gone.jpg", (50, 50), imageData=held)
    labelme(tmp_path / "in" / "missing.json", lane, "gone.jpg")
    labelme(tmp_path / "in" / "outside.json", lane, "../../x.jpg")
    (tmp_path / "in" / "other.json").write_text("[1, 2]")
    report = convert_labelme(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.read, report.written) == (5, 1)
    assert sample(tmp_path / "out", "old")[2].max() == 1
    assert dict(report.dropped) == {
        "the image is missing": 1,
        "the image lies outside of the labels' folder; --images FOLDER names another": 1,
        "the image has another size than its labels": 1,
        "a label file that cannot be read": 1,
    }


def test_names_of_ones_own_are_mapped_or_left_out(tmp_path):
    picture(tmp_path / "in" / "a.jpg")
    labelme(
        tmp_path / "in" / "a.json",
        [shape("spur", [[100, 719], [100, 300]]), shape("egal", [[500, 719], [500, 300]])],
    )
    names = {"Spur": "lane_boundary", "egal": None}
    report = convert_labelme(tmp_path / "in", tmp_path / "out", names=names, **HERE)
    assert not report.dropped
    assert set(np.unique(sample(tmp_path / "out", "a")[1])) == {0, LANE_BOUNDARY}
    with pytest.raises(ValueError, match=r"Lampe: no class of that name, expected one of background"):
        convert_labelme(tmp_path / "in", tmp_path / "x", names={"spur": "Lampe"}, **HERE)


def test_a_class_table_of_ones_own(tusimple_root, tmp_path):
    table = ClassTable((LabelClass(0, "rest", (0, 0, 0)), LabelClass(1, "line", (9, 9, 9), instances="lane")))
    convert_tusimple(tusimple_root, tmp_path / "out", classes=table, **HERE)
    assert set(np.unique(LaneInstanceDataset(tmp_path / "out", "train", classes=table).read(0)[1])) == {0, 1}
    bare = ClassTable((LabelClass(0, "rest", (0, 0, 0)), LabelClass(1, "road", (9, 9, 9))))
    with pytest.raises(ValueError, match="no class whose instances are lanes"):
        convert_tusimple(tusimple_root, tmp_path / "y", classes=bare, **HERE)


def bdd(category, *parts, style="solid"):
    poly2d = [
        {"vertices": vertices, "types": types or "L" * len(vertices), "closed": closed}
        for vertices, types, closed in parts
    ]
    return {"category": f"lane/{category}", "attributes": {"laneStyle": style}, "poly2d": poly2d}


def test_bdd100k_edges_become_lines_and_crossings(tmp_path):
    src = tmp_path / "bdd"
    picture(src / "a.jpg")
    picture(src / "b.jpg")
    labels = [
        bdd("single white", ([[300, 719], [500, 400]], None, False)),
        bdd("single white", ([[508, 400], [312, 719]], None, False)),  # the other edge, drawn the other way
        bdd("single yellow", ([[900, 719], [900, 600], [880, 500], [800, 400]], "LCCC", False)),
        bdd("road curb", ([[60, 719], [200, 450]], None, False)),
        bdd("crosswalk", ([[350, 560], [850, 560]], None, False)),
        bdd("crosswalk", ([[350, 620], [850, 620]], None, False)),
        bdd("crosswalk", ([[350, 420], [850, 425]], "LL", False), style="other"),
        {"category": "lane/single white"},
        bdd("single white", ([[1, 1]], None, False)),
        bdd("single white", ([[1, 1], [2, 2]], "L", False)),
    ]
    frames = [{"name": "a.jpg", "labels": labels}, {"name": "b.jpg", "labels": None}, {"noname": 1}, 5]
    (src / "lane_val.json").write_text(json.dumps(frames))
    report = convert_bdd100k(src, tmp_path / "out", **HERE)
    assert dict(report.splits) == {"val": 2}
    assert dict(report.dropped) == {
        "an area of one edge": 1,
        "a lane of a single point": 1,
        "a lane without a point": 1,
        "a damaged label": 1,
        "a frame that is no BDD100K label": 2,
    }
    _, semantic, instance = sample(tmp_path / "out", "a", "val")
    assert [int(semantic[instance == k][0]) for k in range(1, 5)] == [
        LANE_BOUNDARY,
        LANE_MARKING,
        LANE_MARKING,
        CROSSWALK,
    ]
    assert np.flatnonzero(instance[700] == 2).mean() == pytest.approx((311.9 + 323.7) / 2, abs=2)
    t = 0.5  # of the cubic Bézier curve
    x = (1 - t) ** 3 * 900 + 3 * (1 - t) ** 2 * t * 900 + 3 * (1 - t) * t**2 * 880 + t**3 * 800
    y = (1 - t) ** 3 * 719 + 3 * (1 - t) ** 2 * t * 600 + 3 * (1 - t) * t**2 * 500 + t**3 * 400
    assert instance[round(y), round(x)] == 3
    assert instance[590, 600] == 4


def test_a_json_list_is_read_item_by_item(tmp_path, monkeypatch):
    items = [{"name": "x" * 50, "n": k, "deep": [[1, [2]], "a]b,[c"]} for k in range(200)]
    path = tmp_path / "list.json"
    for indent in (None, 2):
        path.write_text("\ufeff" + json.dumps(items, indent=indent), encoding="utf-8")
        for chunk in (1, 7, 1 << 20):
            monkeypatch.setattr("roadtopo_lib.data.convert.reading.CHUNK", chunk)
            assert list(json_items(path)) == [(None, item) for item in items]
    monkeypatch.setattr("roadtopo_lib.data.convert.reading.CHUNK", 1)
    path.write_text('{"n": 12345, "a": [123, 456.5], "b": [], "c": {"d": [1]}, "e": [{"f": 1}]}')
    assert list(json_items(path)) == [("a", 123), ("a", 456.5), ("e", {"f": 1})]
    path.write_text(json.dumps(items)[:-20])
    with pytest.raises(ValueError, match=r"list\.json: damaged JSON"):
        list(json_items(path))
    path.write_text("5")
    with pytest.raises(ValueError, match="neither a list nor an object"):
        list(json_items(path))


@pytest.mark.parametrize("folder", ["", "images"])
def test_coco_polygons_are_mapped_by_category_name_and_other_pictures_stay_out(folder, tmp_path):
    src = tmp_path / "night"
    size = (1080, 1920)
    for name in ("night ride (1).png", "night ride (1).png___fuse.png", "night ride (1).png___save.png"):
        picture(src / folder / name, size)
    square = [100, 800, 300, 800, 300, 1000, 100, 1000]
    hole = [150, 850, 250, 850, 250, 950, 150, 950]
    coco = {
        "images": [
            {"id": 4, "file_name": "night ride (1).png", "height": 1080, "width": 1920},
            {"id": 5, "file_name": "night ride (2).png", "height": 1080, "width": 1920},
        ],
        "categories": [{"id": 9, "name": "Lane Mark"}, {"id": 2, "name": "Road"}, {"id": 3, "name": "Rider"}],
        "annotations": [
            {"image_id": 4, "category_id": 2, "segmentation": [square, hole]},
            {"image_id": 4, "category_id": 9, "segmentation": [[1000, 700, 1020, 700, 1040, 1079, 1000, 1079]]},
            {"image_id": 4, "category_id": 9, "segmentation": [[600, 700, 620, 700, 640, 1079, 600, 1079]]},
            {"image_id": 4, "category_id": 3, "segmentation": [square]},
            {"image_id": 4, "category_id": 9, "segmentation": [[1, 2]]},
        ],
    }
    (src / "COCO_motorcycle (pixel).json").write_text(json.dumps(coco))
    report = convert_coco(src, tmp_path / "out", **HERE)
    assert (report.read, report.written) == (2, 1)
    assert dict(report.dropped) == {
        "category 'Rider' is not in the class table": 1,
        "an annotation without a region": 1,
        "the image is missing": 1,
    }
    _, semantic, instance = sample(tmp_path / "out", "night ride (1)")
    assert (semantic[820, 200], semantic[900, 200]) == (ROAD, 0)
    assert (instance[1000, 615], instance[1000, 1015], instance.max()) == (1, 2, 2)
    assert semantic[1000, 615] == LANE_MARKING


def test_coco_run_length_masks_equal_their_polygons(tmp_path):
    masks = pytest.importorskip("pycocotools.mask")
    src = tmp_path / "coco"
    picture(src / "a.jpg", (100, 200))
    truth = np.zeros((100, 200), np.uint8, order="F")
    truth[40:90, 50:60] = 1
    packed = masks.encode(truth)
    runs = np.diff(np.flatnonzero(np.concatenate([[1], np.diff(truth.ravel(order="F").astype(int)) != 0, [1]])))
    for name, segmentation in (
        ("packed", {**packed, "counts": packed["counts"].decode()}),
        ("plain", {"size": [100, 200], "counts": runs.tolist()}),
    ):
        coco = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "categories": [{"id": 1, "name": "lane"}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
        }
        (src / "x.json").write_text(json.dumps(coco))
        convert_coco(src / "x.json", tmp_path / name, **HERE)
        np.testing.assert_array_equal(sample(tmp_path / name, "a")[2], truth)


def test_several_json_files_are_one_too_many(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(ValueError, match="holds 2 JSON files"):
        convert_coco(tmp_path, tmp_path / "out", **HERE)
    with pytest.raises(ValueError, match=r"a\.json: no COCO file"):
        convert_coco(tmp_path / "a.json", tmp_path / "out", **HERE)


def test_lines_are_drawn_unbroken_without_anti_aliasing_and_far_points_do_no_harm():
    points = np.array([[-1e12, 50.0], [50.0, 50.0], [60.25, 99.0], [60.25, 1e12]])
    semantic, instance, _ = draw_masks((100, 100), [Shape([points], LANE_MARKING, filled=False)], 5)
    assert set(np.unique(semantic)) == {0, LANE_MARKING}
    assert set(np.unique(instance)) == {0, 1}
    assert cv2.connectedComponents((instance > 0).astype(np.uint8))[0] == 2
    assert np.flatnonzero(instance[90])[[0, -1]].tolist() == pytest.approx([56, 60], abs=2)


@pytest.mark.parametrize(
    ("path", "name"),
    [("clips/0313-1/6040/20.jpg", "clips_0313-1_6040_20"), ("/a/b.MP4/0.jpg", "a_b.MP4_0"), ("..\\x\\y.png", "x_y")],
)
def test_folders_are_joined_in_the_name_of_a_sample(path, name):
    assert sample_name(path) == name


def test_the_command_converts_and_says_what_it_did(tusimple_root, tmp_path, capsys):
    command = ["convert", "tusimple", str(tusimple_root), str(tmp_path / "out"), "--workers", "1", "--line-width", "20"]
    assert main(command) == 1, "an image is damaged"
    assert (
        "9 images read, 2 written (1 test, 1 train)\n  dropped 3: a line that is no TuSimple label"
        in capsys.readouterr().out
    )
    assert np.flatnonzero(sample(tmp_path / "out", "clips_0531_1_20")[2][600] == 2).size == pytest.approx(20, abs=1)


def test_the_command_takes_names_and_tables(tmp_path, capsys):
    picture(tmp_path / "in" / "a.jpg")
    labelme(tmp_path / "in" / "a.json", [shape("spur", [[100, 719], [100, 300]])])
    yaml = tmp_path / "classes.yaml"
    command = [
        "convert",
        "labelme",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--classes",
        str(yaml),
    ]
    yaml.write_text("spur: lane_boundary\n")
    assert main(command) == 0
    assert LANE_BOUNDARY in sample(tmp_path / "out", "a")[1]
    yaml.write_text(
        "- {id: 0, name: rest, color: [0, 0, 0]}\n- {id: 1, name: Spur, color: [9, 9, 9], instances: lane}\n"
    )
    command[3] = str(tmp_path / "own")
    assert main(command) == 0
    assert sample(tmp_path / "own", "a")[1].max() == 1
    for text, message in (
        ("5", "expected a list of classes or a mapping"),
        ("a: [b", "classes.yaml"),
        ("a: b", "no class"),
    ):
        yaml.write_text(text)
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "none.yaml")]) == 2
    yaml.write_text("spur: lane_boundary\n")
    assert main(["convert", "culane", *command[2:]]) == 2
    assert "culane takes no names" in capsys.readouterr().err
