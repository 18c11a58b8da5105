"""Roads from above: exact masks, decided by one integer, of any size."""

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial import cKDTree

from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import BINARY_CLASSES
from roadtopo_lib.scenes import render_aerial, write_dataset


@pytest.fixture(scope="module")
def scene():
    return render_aerial(1, (384, 512))


def test_one_integer_decides_everything(scene):
    again, other = render_aerial(1, (384, 512)), render_aerial(2, (384, 512))
    assert (again.image == scene.image).all()
    assert (again.instance == scene.instance).all()
    assert (other.semantic != scene.semantic).any()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_pixel_is_road_exactly_where_a_centre_line_is_within_half_a_width(seed):
    scene = render_aerial(seed, (200, 256))
    pixels = np.stack(np.meshgrid(np.arange(256), np.arange(200)), axis=-1).reshape(-1, 2)
    gap = np.full(len(pixels), np.inf)  # distance to the nearest road's edge
    for points, width in zip(scene.roads, scene.widths, strict=True):
        pieces = [np.linspace(a, b, 33) for a, b in pairwise(points)]
        gap = np.minimum(gap, cKDTree(np.concatenate(pieces)).query(pixels)[0] - width / 2)
    road = scene.semantic.ravel() > 0
    assert road[gap < -1].all()
    assert not road[gap > 1].any()
    assert 0.01 < road.mean() < 0.2


def test_roads_are_3_to_12_pixels_wide(scene):
    assert min(scene.widths) >= 3
    assert max(scene.widths) <= 12
    for number, width in enumerate(scene.widths, start=1):
        inside = distance_transform_edt(scene.instance == number)
        if (inside > 0).sum() > 40 * width:
            assert inside.max() <= width / 2 + 1.5  # its edge where it curves or crosses nothing


def test_ids_are_those_of_the_list_of_roads_and_cover_the_class(scene):
    ids = set(np.unique(scene.instance)) - {0}
    assert ids <= set(range(1, len(scene.roads) + 1))
    assert ((scene.instance > 0) == (scene.semantic == 1)).all()


def test_shadows_fall_over_roads_and_change_no_mask(scene):
    brightness = scene.image.mean(axis=2)
    dark = (scene.semantic == 1) & (brightness < 0.65 * np.median(brightness[scene.semantic == 1]))
    assert label(dark)[1] >= 3


def test_there_are_buildings_and_trees(scene):
    assert scene.attributes["buildings"] >= 5
    assert scene.attributes["trees"] >= 50


def test_a_data_set_of_aerial_scenes_is_read_with_two_classes(tmp_path):
    write_dataset(tmp_path, {"train": 2}, (64, 96), seed=3, preset="aerial", workers=1, progress=False)
    sample = LaneInstanceDataset(tmp_path, "train", classes=BINARY_CLASSES)[1]
    assert sample["image"].shape == (3, 64, 96)
    assert set(np.unique(sample["semantic_mask"])) <= {0, 1}


def test_a_data_set_of_aerial_scenes_grows_from_its_journal_and_is_not_made_again(tmp_path):
    options = {"size": (64, 96), "preset": "aerial", "workers": 1, "progress": False}
    write_dataset(tmp_path, {"train": 1}, **options)
    first = tmp_path / "train" / "images" / "train_00000.jpg"
    made = first.stat().st_mtime_ns
    (tmp_path / "meta.partial.jsonl").write_text(
        json.dumps(json.loads((tmp_path / "meta.json").read_text())["images"][0])
    )
    write_dataset(tmp_path, {"train": 2}, **options)
    assert first.stat().st_mtime_ns == made
    assert len(json.loads((tmp_path / "meta.json").read_text())["images"]) == 2


def test_a_size_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="each 32 to 8192"):
        render_aerial(0, (16, 64))
