"""Machinery of notebook 2: pictures in their own pixels, complaints about folders, times."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import frame, samples
from roadtopo_lib.course.lessons import dataset as lesson
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import CLASSES, palette
from roadtopo_lib.viz import color_instances


@pytest.fixture
def displayed(monkeypatch):
    """What a cell would get: (kind, picture, alt)."""
    caught = []

    def catch(bundle, raw, metadata):
        (kind,) = metadata
        picture = Image.open(io.BytesIO(base64.b64decode(bundle[kind]))).convert("RGB")
        caught.append((kind, np.asarray(picture), metadata[kind]["alt"]))

    monkeypatch.setattr(lesson, "display", catch)
    return caught


def test_masks_keep_their_colours_side_by_side(displayed):
    mask = color_instances(np.array([[0, 1, 2], [3, 4, 5]]))
    lesson.show_pixels([mask, mask[:, ::-1]], "A title that is wider than both", "two masks", ["left", "right"], zoom=2)
    kind, pixels, alt = displayed[0]
    assert (kind, alt) == ("image/png", "two masks")
    np.testing.assert_array_equal(pixels[-4::2, :6:2], mask)
    np.testing.assert_array_equal(pixels[-4::2, 10:16:2], mask[:, ::-1])
    assert (pixels[-4:, 16:] == 255).all()


def test_a_title_and_captions_stand_above_the_pictures(displayed):
    pictures = [np.full((8, 200, 3), 90, np.uint8)] * 2
    for captions in ((), ("left", ""), ("", "right")):
        lesson.show_pixels(pictures, "Title", "grey", captions)
    title, left, right = (pixels for _, pixels, _ in displayed)
    assert [len(picture) for picture in (title, left, right)] == [8 + 23, 8 + 46, 8 + 46]
    for picture in (title, left, right):
        assert (picture[:23] < 90).any()
        assert len(np.unique(picture)) <= 17  # 16 greys and the picture's: the palette keeps all colours
        assert (picture[-8:, :200] == 90).all()
    dark = [np.flatnonzero((picture[23:46] < 90).any(axis=(0, 2))) for picture in (left, right)]
    assert dark[0].max() < 200
    assert dark[1].min() >= 204


def test_a_photograph_is_stored_in_its_own_size(displayed):
    image = frame()[0]
    lesson.show_pixels([image], "The frame", "the frame")
    kind, pixels, _ = displayed[0]
    assert kind == "image/jpeg"
    assert pixels.shape[1:] == image.shape[1:]
    assert np.abs(pixels[-len(image) :].astype(int) - image).mean() < 3


def test_a_sound_folder_is_fine_and_a_broken_one_is_named_without_its_folder(tmp_path):
    image, semantic, instance = frame()
    write_sample(tmp_path / "train", "scene", image, semantic, instance, suffix=".png")
    assert lesson.complaint(tmp_path) == "fine"
    Image.fromarray(semantic + 7).save(tmp_path / "train/semantic_masks/scene.png")
    assert lesson.complaint(tmp_path).startswith("on reading: …/train/semantic_masks/scene.png: semantic ids")
    (tmp_path / "train/instance_masks/scene.png").unlink()
    assert lesson.complaint(tmp_path).startswith("on opening: …/train/instance_masks/scene.png: missing")


def test_a_spoilt_sample_is_refused_without_its_folder(tmp_path):
    image, semantic, instance = frame()
    assert lesson.refusal(tmp_path, image, semantic, instance) == "fine"
    assert lesson.refusal(tmp_path, image, semantic[::2], instance).startswith("…/train/semantic_masks/spoilt.png: ")


def test_every_broken_folder_is_complained_about_in_words_of_our_own():
    said = lesson.broken_folders()
    assert len(said) == 14
    assert "fine" not in said.values()
    assert said["truncated_image"].endswith("damaged or truncated image, expected a whole JPEG or PNG")


def test_the_time_of_a_call_is_the_quietest_mean(monkeypatch):
    clock = iter(np.cumsum([0, 4, 0, 2, 0, 9, 0, 9, 0, 9]))  # seconds: start and end of each round
    monkeypatch.setattr(lesson.time, "perf_counter", lambda: next(clock))
    assert lesson.milliseconds(lambda x: x, [(1,), (2,)]) == 1000


def test_each_step_of_loading_is_timed():
    raw = LaneInstanceDataset(samples(), "val")
    times = lesson.loading_times(raw, LaneSegmentationConfig(image_size=(128, 256)), count=1)
    assert "transform to 128 × 256" in times
    assert len(times) == 5
    assert min(times.values()) > 0


def test_the_picture_of_classes_names_them():
    words = {text.get_text() for text in lesson.class_table().axes[0].texts}
    assert {"crosswalk", "255", "instances: lane"} <= words


def test_the_bar_of_shares_gives_each_class_its_width_its_colour_and_its_name():
    shares = [0.6, 0.3, 0.04, 0.01, 0.03, 0.02]
    (ax,) = lesson.share_bar(shares).axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([100 * share for share in shares])
    for bar, color in zip(ax.patches, palette(), strict=False):
        np.testing.assert_allclose(bar.get_facecolor()[:3], color / 255)
    words = {text.get_text(): text for text in ax.texts}
    assert words.keys() == set(CLASSES.names)
    assert words["crosswalk"].xy[0] == pytest.approx(94.5)  # the middle of its piece
    assert "90%" in ax.get_title()
