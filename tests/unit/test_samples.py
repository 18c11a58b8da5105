"""A sample that is written comes back; what breaks the contract is refused by name, in writing and in reading."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from roadtopo_lib.data.images import write_image
from roadtopo_lib.data.samples import (
    check_instances,
    instances_by_role,
    list_samples,
    read_sample,
    sample_files,
    write_sample,
)
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import (
    BACKGROUND,
    CLASSES,
    CROSSWALK,
    IGNORE_INDEX,
    LANE_BOUNDARY,
    LANE_MARKING,
    ROAD,
    ClassTable,
)

SIZE = (32, 48)


@pytest.fixture
def sample():
    """A marking (1), a boundary (2), a crosswalk (300), one unlabelled row; a smooth image."""
    semantic = np.full(SIZE, ROAD, np.int64)
    semantic[:, 10:13], semantic[:, 44:46] = LANE_MARKING, LANE_BOUNDARY
    semantic[20:24, 20:40] = CROSSWALK
    semantic[0] = IGNORE_INDEX
    instance = np.zeros(SIZE, np.int32)
    instance[1:, 10:13], instance[1:, 44:46], instance[20:24, 20:40] = 1, 2, 300
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([4 * x, 4 * y, 200 - 2 * x], axis=2).astype(np.uint8)
    return image, semantic, instance


def test_a_written_sample_comes_back(tmp_path, sample):
    write_sample(tmp_path / "train", "scene.01", *sample)
    assert list_samples(tmp_path, "train") == tuple([path] for path in sample_files(tmp_path / "train", "scene.01"))
    image, semantic, instance = LaneInstanceDataset(tmp_path, "train").read(0)
    np.testing.assert_array_equal(semantic, sample[1])
    np.testing.assert_array_equal(instance, sample[2])
    assert (semantic.dtype, instance.dtype, image.dtype) == (np.uint8, np.uint16, np.uint8)
    assert np.abs(image.astype(int) - sample[0]).mean() < 3, "JPEG, red first"


def test_masks_are_stored_with_8_and_16_bits(tmp_path, sample):
    write_sample(tmp_path, "a", *sample)
    _, semantic, instance = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sample_files(tmp_path, "a"))
    assert (semantic.dtype, instance.dtype) == (np.uint8, np.uint16)


def test_the_image_is_written_last(tmp_path, sample, monkeypatch):
    written = []
    monkeypatch.setattr(
        "roadtopo_lib.data.images.write_atomic", lambda path, content, **_: written.append(path.parent.name)
    )
    write_sample(tmp_path, "a", *sample)
    assert written == ["semantic_masks", "instance_masks", "images"]


WRONG = {
    "a float image": (0, lambda a: a.astype(np.float32), r"images.a\.jpg: image must be .* uint8 RGB, got float32"),
    "an image with alpha": (0, lambda a: np.dstack([a, a[..., :1]]), r"images.a\.jpg: image must be"),
    "a grey image": (0, lambda a: a[..., 0], r"images.a\.jpg: image must be"),
    "float classes": (
        1,
        lambda a: a.astype(np.float32),
        r"semantic_masks.a\.png: mask must hold integers",
    ),
    "bool instances": (2, lambda a: a > 0, r"instance_masks.a\.png: mask must hold integers, got bool"),
    "a class that is none": (
        1,
        lambda a: a + (a == ROAD) * 6,
        r"semantic_masks.a\.png: semantic ids \[7\] found",
    ),
    "a class beyond 8 bits": (1, lambda a: a + 256, r"semantic_masks.a\.png: ids 257\.\.511 found, expected 0\.\.255"),
    "a negative class": (1, lambda a: a - 2, r"semantic_masks.a\.png: ids -1\.\.253 found, expected 0\.\.255"),
    "an id beyond 16 bits": (2, lambda a: a * 300, r"instance_masks.a\.png: ids 0\.\.90000 found, expected 0\.\.65535"),
    "a negative id": (2, lambda a: -a, r"instance_masks.a\.png: ids -300\.\.0 found"),
    "a smaller mask": (1, lambda a: a[::2], r"semantic_masks.a\.png: mask is 16×48 .* its image a\.jpg is 32×48"),
    "a mask in colour": (2, lambda a: np.stack([a] * 3, 2), r"instance_masks.a\.png: mask is 32×48×3"),
    "one id on both": (
        2,
        lambda a: np.minimum(a, 1),
        r"instance_masks.a\.png: instance ids \[1\] lie on pixels of more than one class \(1 on lane_marking and",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_sample_that_breaks_the_contract_is_not_written(tmp_path, sample, name):
    place, change, message = WRONG[name]
    arrays = list(sample)
    arrays[place] = change(arrays[place])
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path, "a", *arrays)
    assert list(tmp_path.iterdir()) == []


def test_a_shared_id_is_refused_in_reading_with_the_file(tmp_path, sample):
    write_sample(tmp_path / "val", "a", *sample)
    files = sample_files(tmp_path / "val", "a")
    write_image(files[2], np.where(sample[2] == 300, 1, sample[2]).astype(np.uint16))
    for read in (lambda: read_sample(*files), lambda: LaneInstanceDataset(tmp_path, "val")[0]):
        with pytest.raises(ValueError, match=rf"{re.escape(str(files[2]))}: instance ids \[1\] lie on pixels of more"):
            read()


def test_no_two_classes_share_an_id_and_nothing_is_shared_by_the_background():
    semantic = np.array([[LANE_MARKING, LANE_BOUNDARY, CROSSWALK, BACKGROUND, LANE_MARKING, CROSSWALK, IGNORE_INDEX]])
    check_instances(semantic, np.array([[1, 3, 2, 2, 0, 0, 1]]))
    with pytest.raises(ValueError, match=r"ids \[1, 2\] lie .* \(1 on lane_marking and crosswalk\)"):
        check_instances(semantic, np.array([[1, 2, 2, 0, 1, 1, 0]]))
    with pytest.raises(ValueError, match=r"ids \[1\] lie .* \(1 on lane_marking and lane_boundary\)"):
        check_instances(semantic, np.array([[1, 1, 0, 0, 0, 0, 0]]))


def other_roles(**roles):
    """The default table with other roles, by class name; the classes not named bear no instances."""
    return ClassTable(tuple(replace(c, instances=roles.get(c.name)) for c in CLASSES))


def test_the_roles_can_be_those_of_another_class_table(tmp_path, sample):
    image, semantic, instance = sample
    shared = np.where(instance > 0, 1, 0)
    lanes_only = other_roles(lane_marking="lane")
    write_sample(tmp_path / "val", "a", image, semantic, shared, lanes_only)
    assert read_sample(*sample_files(tmp_path / "val", "a"), lanes_only)[2].max() == 1
    assert LaneInstanceDataset(tmp_path, "val", classes=lanes_only)[0]["instance_mask"].max() == 1
    exchanged = other_roles(lane_marking="lane", lane_boundary="crosswalk")
    with pytest.raises(ValueError, match="1 on lane_marking and lane_boundary"):
        write_sample(tmp_path, "b", image, semantic, shared, exchanged)
    three = ClassTable(CLASSES[:3])
    with pytest.raises(ValueError, match=r"semantic ids \[3, 5\] found, expected 0\.\.2 or 255"):
        write_sample(tmp_path, "b", image, semantic, instance, three)
    with pytest.raises(ValueError, match=r"semantic ids \[3, 5\] found, expected 0\.\.2 or 255"):
        read_sample(*sample_files(tmp_path / "val", "a"), three)


def test_an_instance_has_the_role_of_most_of_its_pixels():
    semantic = np.array([[LANE_MARKING, LANE_BOUNDARY, CROSSWALK], [CROSSWALK, CROSSWALK, LANE_MARKING], [ROAD] * 3])
    instance = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 2]])
    assert instances_by_role(semantic, instance) == [1]
    assert instances_by_role(semantic, instance, "crosswalk") == [2]
    tie = np.array([[LANE_MARKING, CROSSWALK]])
    assert instances_by_role(tie, np.array([[4, 4]])) == []
    assert instances_by_role(tie, np.array([[4, 4]]), classes=other_roles(lane_marking="lane")) == [4]
    assert instances_by_role(tie, np.array([[0, 0]])) == []
    assert all(isinstance(i, int) for i in instances_by_role(semantic, instance))
