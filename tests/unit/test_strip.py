"""The frame, the strip and the pictures: what is in them is computed, exact where it must be, and said in words."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from roadtopo_lib.course import data, frame, my_photo, pictures, render_frame, samples, show
from roadtopo_lib.course.strip import (
    BOXES,
    CHAPTER_BOXES,
    DROPPED,
    alt_text,
    boxes_of,
    draw_strip,
    principal_colors,
    shipped_segmenter,
    strip,
)
from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import CLASSES, LANE_CLASS_IDS
from roadtopo_lib.scenes.synth import image_seed
from roadtopo_lib.viz import INSTANCE_COLORS, color_instances, color_semantic, instance_color


@pytest.fixture(scope="module")
def boxes():
    return boxes_of(frame()[0], shipped_segmenter())


@pytest.fixture
def shown(monkeypatch):
    """What ``show`` hands to the viewer."""
    calls = []
    monkeypatch.setattr(pictures, "display", lambda bundle, raw, metadata: calls.append((bundle, metadata)))
    return calls


def decoded(bundle):
    (kind,) = [kind for kind in bundle if kind.startswith("image/")]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle[kind]))).convert("RGB"))


def test_the_frame_is_what_the_renderer_makes():
    image, semantic, instance = frame()
    scene = render_frame()
    # Another OpenCV or processor may round a pixel at an edge differently.
    assert (semantic == scene.semantic_amodal).mean() > 0.999
    assert (instance == scene.instance_amodal).mean() > 0.999
    assert np.abs(image.astype(int) - scene.image).mean() < 0.5


def test_the_frame_shows_what_the_course_says_of_it():
    _, semantic, instance = frame()
    scene = render_frame()
    assert (scene.attributes["light"], len(scene.lanes), int(instance.max())) == ("day", 4, 5)  # the fifth: a crosswalk
    first = instance == 1
    hidden = np.isin(semantic, LANE_CLASS_IDS) & ~np.isin(scene.semantic_visible, LANE_CLASS_IDS)
    assert 0.25 < hidden[first].mean() < 0.6  # the parked car


def test_the_shipped_model_was_not_trained_on_the_frame():
    trained = load_weights(samples() / "tiny.safetensors").info["card"]["data"]
    seeds = {image_seed(trained["seed"], s, k) for s in ("train", "val") for k in range(trained["counts"][s])}
    assert data.FRAME_SEED not in seeds


def test_the_shipped_model_finds_the_frames_lanes_and_its_crosswalk(boxes):
    result = boxes["result"]
    assert (result["lane_count"], result["crosswalk_count"]) == (4, 1)


def test_the_boxes_are_the_pictures_of_the_models_outputs(boxes):
    segmenter = shipped_segmenter()
    image = frame()[0]
    predicted = segmenter.predict(image)
    half = {"classes": color_semantic(predicted["semantic_pred"])[::2, ::2]}
    assert (boxes["classes"] == half["classes"]).all(axis=2).mean() > 0.97  # reduced by nearest neighbour
    colors = {tuple(color) for color in boxes["classes"].reshape(-1, 3)}
    assert colors <= {c.color for c in CLASSES}
    colors = {tuple(color) for color in boxes["clusters"].reshape(-1, 3)}
    assert {(0, 0, 0)} < colors <= {(0, 0, 0), DROPPED, *map(tuple, INSTANCE_COLORS)}
    lanes = np.isin(predicted["semantic_pred"], LANE_CLASS_IDS)[::2, ::2]
    assert ((boxes["embeddings"] > 0).any(axis=2) == lanes).mean() > 0.97


def test_a_cluster_has_the_colour_of_the_lane_that_it_becomes(boxes):
    ids, clusters = boxes["result"]["lane_instances"][::2, ::2], boxes["clusters"]
    for lane in range(1, boxes["result"]["lane_count"] + 1):
        here = clusters[ids == lane]
        here = here[here.any(axis=1)]  # a curve also covers gaps, where the mask has no pixel
        assert (here == instance_color(lane)).all(axis=1).mean() > 0.9


def test_a_setting_changes_the_strip():
    narrow = boxes_of(frame()[0], shipped_segmenter(reference_row=0.3))
    assert not np.array_equal(narrow["lanes"], boxes_of(frame()[0], shipped_segmenter())["lanes"])


@pytest.mark.parametrize("vectors", [np.zeros((0, 32)), np.zeros((2, 32)), np.zeros((9, 32)), np.zeros((9, 2))])
def test_few_or_equal_embeddings_have_colours_too(vectors):
    assert principal_colors(vectors).shape == (len(vectors), 3)


def test_far_embeddings_have_far_colours_and_the_sign_is_fixed():
    rng = np.random.default_rng(0)
    centres = np.repeat(3 * rng.normal(size=(3, 32)), 50, axis=0)
    colors = principal_colors(centres + 0.01 * rng.normal(size=centres.shape)).astype(int)
    means = colors.reshape(3, 50, 3).mean(axis=1)
    assert min(np.abs(means[i] - means[j]).max() for i in range(3) for j in range(i)) > 60
    assert np.abs(colors - np.repeat(means, 50, axis=0)).max() < 20
    np.testing.assert_array_equal(principal_colors(centres), principal_colors(centres.copy()))


def drawn(boxes, chapter, closing):
    """For each box of the first row: is it in colour, is it framed."""
    figure = draw_strip([boxes], chapter, closing)
    state = {}
    for name, axes in zip(BOXES, figure.axes, strict=True):
        picture = axes.images[0].get_array()
        state[name] = (np.array_equal(picture, boxes[name]), axes.spines["left"].get_visible())
    return state


@pytest.mark.parametrize("chapter", [2, 3, 4, 5, 6])
def test_boxes_of_later_notebooks_are_grey_and_this_ones_are_framed_and_filled_at_the_end(boxes, chapter):
    for closing in (False, True):
        opened = set().union(*(CHAPTER_BOXES[k] for k in range(2, chapter + closing)))
        for name, (in_colour, framed) in drawn(boxes, chapter, closing).items():
            assert in_colour == (name in opened)
            assert framed == (name in CHAPTER_BOXES[chapter])


@pytest.mark.parametrize("chapter", [1, 7])
def test_the_first_and_the_last_notebook_show_all(boxes, chapter):
    assert set(drawn(boxes, chapter, False).values()) == {(True, False)}
    assert set(drawn(boxes, chapter, True).values()) == {(True, True)}


@pytest.mark.parametrize("chapter", [k for k in CHAPTER_BOXES if k != 5])  # 5 closes with the model that it has trained
def test_the_closing_strip_differs_from_the_opening_one_in_picture_and_words(boxes, chapter):
    pictures = []
    for closing in (False, True):
        canvas = FigureCanvasAgg(draw_strip([boxes], chapter, closing))
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()).copy())
    assert not np.array_equal(*pictures)
    assert alt_text(boxes, chapter, False) != alt_text(boxes, chapter, True)


def test_every_box_is_opened_by_a_notebook(boxes):
    assert {name for k in range(2, 7) for name in CHAPTER_BOXES[k]} == set(BOXES)
    assert all(name in alt_text(boxes, 2, False) for name in BOXES[:4])


def test_the_strip_shows_a_photograph_below_the_frame_and_remembers_it(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADTOPO_LEARNER", str(tmp_path / "learner"))
    path = tmp_path / "mine.png"
    Image.fromarray(np.full((90, 120, 3), 90, np.uint8)).save(path)
    strip(2)
    strip(2, photo=path)
    path.unlink()
    strip(3)
    without, with_photo, remembered = (decoded(bundle).shape[0] for bundle, _ in shown)
    assert remembered == with_photo > 1.5 * without
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        strip(1, photo=tmp_path / "none.png")


def test_another_photograph_takes_the_place_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADTOPO_LEARNER", str(tmp_path / "learner"))
    assert my_photo() is None
    for name, grey in (("a.png", 10), ("b.jpg", 200), ("c.JPG", 90)):
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(tmp_path / name)
        assert abs(int(my_photo(tmp_path / name)[0, 0, 0]) - grey) < 3
        assert abs(int(my_photo()[0, 0, 0]) - grey) < 3
    with pytest.raises(ValueError, match="upload works on Colab only"):
        my_photo("upload")


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROADTOPO_LEARNER", str(tmp_path / "file" / "learner"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert my_photo(tmp_path / "a.png").shape == (8, 8, 3)
    assert my_photo() is None


def masks_figure():
    """A photograph beside flat colours: more than 256 colours in all."""
    image, semantic, instance = frame()
    figure, axes = plt.subplots(1, 3, figsize=(9, 2))
    for ax, picture in zip(axes, (image, color_semantic(semantic), color_instances(instance)), strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.axis("off")
    return figure


def test_white_and_the_colours_of_classes_and_instances_are_exact(shown):
    show(masks_figure(), "the frame with its masks")
    picture = decoded(shown[0][0])
    unique = {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0)}
    assert len(unique) <= 256
    present = {tuple(color_instances(np.array([[k]]))[0, 0]) for k in (1, 2, 3, 4, 5)} | {c.color for c in CLASSES}
    assert present | {(255, 255, 255)} <= unique
    assert (picture == 255).all(axis=2).mean() > 0.1


def test_a_photograph_keeps_its_shades(shown):
    show(masks_figure(), "the frame with its masks")
    show(masks_figure(), "the frame with its masks", photo=True)
    png, jpeg = (decoded(bundle).astype(int) for bundle, _ in shown)
    assert next(iter(shown[1][0])) == "image/jpeg"
    assert np.abs(png - jpeg).mean() < 4
    sky = png[60:120, 30:400]
    assert len(np.unique(sky.reshape(-1, 3), axis=0)) > 12  # dithered, no bands


def test_a_picture_has_words_is_sharp_and_is_closed(shown):
    before = plt.get_fignums()
    figure = plt.figure(figsize=(4, 2))
    show(figure, "an empty page")
    (bundle, metadata) = shown[0]
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == "an empty page"
    assert metadata["image/png"]["width"] == 400
    assert decoded(bundle).shape == (320, 640, 3)
    assert plt.get_fignums() == before
    with pytest.raises(ValueError, match="alt is empty"):
        show(plt.figure(), " ")
    plt.close("all")
