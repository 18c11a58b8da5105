"""From a checkpoint to instances: shapes, coordinates, files, scores, and the command line around them."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from roadtopo_lib.app.cli import main
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import list_splits, locate_split, write_sample
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.inference.files import read_video
from roadtopo_lib.labels import BACKGROUND, BINARY_CLASSES, CLASSES, LANE_MARKING, ROAD, ClassTable, LabelClass
from roadtopo_lib.pipeline import LaneSegmenter, View
from roadtopo_lib.postprocess import all_instances
from roadtopo_lib.segformer import SegFormerModel

CONFIG = LaneSegmentationConfig.preset("tiny").replace(image_size=(64, 128), crop_top=0.0)
LINES = (28, 68, 108)


def striped_scene(height=128, width=256, scale=1):
    """Three upright bright lines on grey, with their masks; ``scale`` enlarges all of it."""
    instance = np.zeros((height, width), np.uint16)
    for number, x in enumerate(LINES, start=1):
        instance[32:, 2 * x - 8 : 2 * x + 8] = number
    semantic = np.where(instance > 0, LANE_MARKING, ROAD).astype(np.uint8)
    image = np.where(instance[..., None] > 0, 230, 70).astype(np.uint8).repeat(3, axis=2)
    size = (width * scale, height * scale)
    return tuple(cv2.resize(a, size, interpolation=cv2.INTER_NEAREST) for a in (image, semantic, instance))


class BrightIsLane(torch.nn.Module):
    """Stands in for a trained network: bright pixels are lane markings, and the embedding is the third of the image."""

    num_classes = 6

    def forward(self, images, upsample=False):
        quarter = torch.nn.functional.avg_pool2d(images, 4)  # (B, 3, h, w)
        brightness = quarter.mean(dim=1)
        logits = torch.full((len(images), 6, *brightness.shape[1:]), -10.0)
        logits[:, LANE_MARKING] = (brightness - 0.6) * 100
        logits[:, ROAD] = 0.0
        column = torch.linspace(0, 1, brightness.shape[2]).expand_as(brightness)
        embeddings = torch.zeros(len(images), 32, *brightness.shape[1:])
        embeddings[:, 0] = 10.0 * (column > 0.375) + 10.0 * (column > 0.6875)  # left, middle, right third
        return {"logits": logits, "embeddings": embeddings}


@pytest.fixture
def segmenter():
    return LaneSegmenter(BrightIsLane(), CONFIG, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    SegFormerModel("tiny", pretrained=False).save(path, training=CONFIG.to_dict())
    return path


@pytest.mark.parametrize("scale", [1, 3])
def test_instances_come_back_in_the_coordinates_of_the_image(segmenter, scale):
    image, _, instance = striped_scene(scale=scale)
    result = segmenter(image)
    assert result["lane_count"] == 3
    assert result["lane_instances"].shape == image.shape[:2]
    for number, polyline in enumerate(result["lane_polylines"], start=1):
        x = np.nonzero(instance == number)[1].mean()
        assert abs(polyline[:, 0].mean() - x) < 3 * scale
    overlap = (result["lane_instances"] == instance)[instance > 0].mean()
    assert overlap > 0.9


def test_what_crop_top_cuts_off_is_background_and_the_rest_stays_in_place(segmenter):
    image, _, instance = striped_scene()
    image[:32] = 255  # a bright sky, which this network takes for lane
    config = CONFIG.replace(image_size=(32, 64), crop_top=0.25)
    cropped = LaneSegmenter(BrightIsLane(), config, device="cpu")(image)
    assert (LaneSegmenter(BrightIsLane(), CONFIG, device="cpu")(image)["semantic_mask"][:16] == LANE_MARKING).any()
    assert (cropped["semantic_mask"][:32] == BACKGROUND).all()
    assert cropped["lane_instances"].shape == image.shape[:2]
    assert (cropped["lane_instances"] == instance)[instance > 0].mean() > 0.85
    for polyline, x in zip(cropped["lane_polylines"], LINES, strict=True):
        assert abs(polyline[:, 0].mean() - 2 * x) < 4
        assert 28 <= polyline[0, 1] <= 40
        assert polyline[-1, 1] == 127


class RightIsLane(BrightIsLane):
    """Notes what it is shown, and takes the right half of every image for lane, however the image lies."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, images, upsample=False):
        self.shown.append(images)
        right = torch.linspace(0, 1, images.shape[3]) > 0.5
        return super().forward(right.float().expand_as(images), upsample)


def test_the_second_view_is_mirrored_and_larger_and_both_have_a_say():
    image, _, _ = striped_scene()
    image[:, :64] = 20
    once, twice = (LaneSegmenter(RightIsLane(), CONFIG, device="cpu", tta=tta) for tta in (False, True))
    assert (once(image)["semantic_mask"][:, 130:] == LANE_MARKING).all()
    # Mirrored back, the second view says left where the first says right: neither is outvoted.
    assert (twice(image)["semantic_mask"][:, :120] == LANE_MARKING).all()
    first, second = twice.model.shown
    assert len(once.model.shown) == 1
    assert (first.shape[2:], second.shape[2:]) == ((64, 128), (96, 160))  # 1.35 times, in multiples of 32
    assert first[..., :30].mean() < first[..., -30:].mean()
    assert second[..., :30].mean() > second[..., -30:].mean()


def test_other_aspects_and_small_images_are_accepted(segmenter):
    for size in ((540, 960), (100, 100), (32, 400)):
        result = segmenter(np.full((*size, 3), 90, np.uint8))
        assert result["lane_count"] == 0
        assert result["semantic_mask"].shape == size
        assert result["lane_centers"].shape == (0, 2)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 128), (180, 180)])
def test_images_far_below_the_working_size_are_accepted(size):
    config = CONFIG.replace(image_size=(512, 1024))  # its embeddings, at a quarter, have more rows than the image
    result = LaneSegmenter(BrightIsLane(), config, device="cpu")(np.full((*size, 3), 230, np.uint8))
    assert result["lane_instances"].shape == size
    assert (result["semantic_mask"] == LANE_MARKING).all()


@pytest.mark.parametrize("side", [32, 34, 46])
def test_the_tiny_preset_accepts_its_smallest_images(side):
    config = LaneSegmentationConfig.preset("tiny")
    result = LaneSegmenter(BrightIsLane(), config, device="cpu")(np.full((side, side, 3), 90, np.uint8))
    assert result["lane_instances"].shape == (side, side)


def test_lanes_of_a_small_image_stay_in_place():
    image, _, instance = (array[::2, ::2] for array in striped_scene())  # (64, 128), embeddings of (128, 256)
    result = LaneSegmenter(BrightIsLane(), CONFIG.replace(image_size=(512, 1024)), device="cpu")(image)
    assert result["lane_count"] == 3
    assert (result["lane_instances"] == instance)[instance > 0].mean() > 0.9


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_rgb_image_are_refused(segmenter, image):
    with pytest.raises(ValueError, match="image must be"):
        segmenter(image)


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (31, 400), (300, 7)])
def test_images_of_any_size_are_segmented(segmenter, size):
    result = segmenter(np.full((*size, 3), 90, np.uint8))
    assert result["semantic_mask"].shape == result["lane_instances"].shape == size


def test_a_checkpoint_brings_its_settings(checkpoint):
    loaded = LaneSegmenter.from_checkpoint(checkpoint, device="cpu")
    assert loaded.config == CONFIG


def test_a_model_without_training_settings_is_refused_rather_than_guessed_at(tmp_path):
    SegFormerModel("tiny", pretrained=False).save(tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"bare\.safetensors: holds no settings of its training"):
        LaneSegmenter.from_checkpoint(tmp_path / "bare.safetensors", device="cpu")


def test_training_settings_that_contradict_the_model_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    SegFormerModel("tiny", num_classes=4, pretrained=False).save(path, training=CONFIG.to_dict())
    with pytest.raises(ValueError, match=r"model\.safetensors: the model has num_classes 4, the config says 6"):
        LaneSegmenter.from_checkpoint(path)


def test_training_settings_of_another_version_are_refused_by_file_name(tmp_path):
    path = tmp_path / "model.safetensors"
    SegFormerModel("tiny", pretrained=False).save(path, training=CONFIG.to_dict() | {"warp": 9})
    with pytest.raises(ValueError, match=r"model\.safetensors: settings of the training: .*warp"):
        LaneSegmenter.from_checkpoint(path)


def table(*roles):
    """A class table with a class of each role, ``None`` for classes that bear no instances."""
    return ClassTable(tuple(LabelClass(i, f"c{i}", (i, i, i), role) for i, role in enumerate(roles)))


class BrightIs(BrightIsLane):
    """The same, with another number of classes and another one for bright pixels; all others count as class 0."""

    def __init__(self, num_classes, bright):
        super().__init__()
        self.num_classes, self.bright = num_classes, bright

    def forward(self, images, upsample=False):
        outputs = super().forward(images)
        logits = torch.full((len(images), self.num_classes, *outputs["logits"].shape[2:]), -10.0)
        logits[:, 0], logits[:, self.bright] = 0.0, outputs["logits"][:, LANE_MARKING]
        return {**outputs, "logits": logits}


TABLES = {
    "binary": (BINARY_CLASSES, 1),
    "lanes last of three": (table(None, "crosswalk", "lane"), 2),
    "lanes first of nine": (table(None, "lane", *[None] * 7), 1),
}


@pytest.mark.parametrize(("classes", "bright"), TABLES.values(), ids=TABLES)
def test_a_class_table_of_ones_own_says_what_is_a_lane(tmp_path, classes, bright):
    config = CONFIG.replace(classes=classes, num_classes=len(classes))
    segmenter = LaneSegmenter(BrightIs(len(classes), bright), config, device="cpu")
    image, semantic, instance = striped_scene()
    assert segmenter(image)["lane_count"] == 3
    assert segmenter.predict(image)["confidence"].max() > 0.99
    write_split(
        tmp_path, [(image, np.where(semantic == LANE_MARKING, bright, 0).astype(np.uint8), instance)], classes=classes
    )
    scores = evaluate(segmenter, LaneInstanceDataset(tmp_path, "test", classes=classes), baselines=True)
    assert list(scores["class_iou"]) == list(classes.names)
    assert scores["lane_f1"] == scores["instance_f1"] == scores["baselines"]["components"]["lane_f1"] == 1.0


def test_where_bright_things_are_crosswalks_there_is_no_lane():
    classes = table(None, "crosswalk")
    config = CONFIG.replace(classes=classes, num_classes=2)
    result = LaneSegmenter(BrightIs(2, 1), config, device="cpu")(striped_scene()[0])
    assert (result["lane_count"], result["crosswalk_count"]) == (0, 3)


def test_two_classes_are_background_and_lane_unless_a_table_says_otherwise(tmp_path):
    config = CONFIG.replace(num_classes=2)
    SegFormerModel("tiny", num_classes=2, pretrained=False).save(tmp_path / "m.safetensors", training=config.to_dict())
    loaded = LaneSegmenter.from_checkpoint(tmp_path / "m.safetensors", device="cpu")
    assert loaded.classes == BINARY_CLASSES
    with pytest.raises(ValueError, match=r"num_classes is 4.*give the setting `classes`"):
        LaneSegmenter(BrightIs(4, 1), CONFIG.replace(num_classes=4), device="cpu")


def test_a_class_table_travels_in_the_model_file(tmp_path):
    classes = table(None, "lane", "crosswalk")
    config = CONFIG.replace(classes=classes, num_classes=3)
    SegFormerModel("tiny", num_classes=3, pretrained=False).save(tmp_path / "m.safetensors", training=config.to_dict())
    assert LaneSegmenter.from_checkpoint(tmp_path / "m.safetensors", device="cpu").classes == classes


class Certain(BrightIsLane):
    """So sure of itself that the softmax of all but one class is zero in float32."""

    def forward(self, images, upsample=False):
        outputs = super().forward(images)
        return {**outputs, "logits": outputs["logits"] * 1e4}


def test_probabilities_that_underflow_leave_no_hole():
    image, _, instance = striped_scene()
    segmenter = LaneSegmenter(Certain(), CONFIG, device="cpu")
    predicted = segmenter.predict(image)
    assert np.isfinite(predicted["confidence"]).all()
    assert segmenter(image)["lane_count"] == 3
    assert (segmenter(image)["lane_instances"] == instance)[instance > 0].mean() > 0.9


class Damaged(BrightIsLane):
    """One weight was lost: one logit is not a number."""

    def forward(self, images, upsample=False):
        outputs = super().forward(images)
        outputs["logits"][0, 0, 3, 3] = torch.nan
        return {**outputs, "another": None}  # only the two named outputs are read


@pytest.mark.parametrize("tta", [False, True])
def test_a_network_that_answers_nonsense_is_refused_rather_than_read(tta):
    with pytest.raises(ValueError, match="logits are not finite"):
        LaneSegmenter(Damaged(), CONFIG, device="cpu", tta=tta)(striped_scene()[0])


def test_tiles_may_come_between_view_and_classes():
    """Two halves through the network, one after the other, merged by hand, give what the whole image gives."""
    image, _, _ = striped_scene()
    segmenter = LaneSegmenter(BrightIsLane(), CONFIG, device="cpu", tta=False)
    (view,) = segmenter.make_views(image)
    halves = [segmenter.run_network(View(half)) for half in view.pixels.chunk(2, dim=3)]
    logits = torch.cat([half["logits"] for half in halves], dim=3)
    embeddings = segmenter.run_network(view)["embeddings"]
    predicted = segmenter.read_classes({"logits": logits, "embeddings": embeddings}, image.shape[:2], first_row=0)
    whole = segmenter.predict(image)
    for name in ("semantic_pred", "embeddings", "confidence"):
        np.testing.assert_array_equal(predicted[name], whole[name])


def test_four_threads_give_what_one_gives(segmenter, checkpoint):
    """Pictures of four sizes with one to three lanes, each looked at three times."""
    images = [striped_scene()[0][:, : 60 * k + 16].repeat(1 + k % 2, axis=0) for k in range(1, 5)] * 3
    for one in (segmenter, LaneSegmenter.from_checkpoint(checkpoint, "cpu")):
        expected = [one(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(one, images))
        for result, other in zip(found, expected, strict=True):
            assert result["lane_count"] == other["lane_count"]
            for name in ("semantic_mask", "lane_instances", "crosswalk_instances", "lane_centers"):
                np.testing.assert_array_equal(result[name], other[name])
    assert len({segmenter(image)["lane_count"] for image in images}) > 1


def test_files_and_folders_give_what_arrays_give(segmenter, tmp_path):
    image, _, _ = striped_scene()
    for name in ("b", "a"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    expected = segmenter(image)["lane_instances"]
    assert np.array_equal(segmenter(tmp_path / "a.png")["lane_instances"], expected)
    results = list(segmenter(str(tmp_path)))
    assert [r["image_path"] for r in results] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert np.array_equal(results[1]["lane_instances"], expected)
    with pytest.raises(FileNotFoundError):
        segmenter(tmp_path / "none.png")
    (tmp_path / "b.png").write_text("damaged since")
    results = segmenter(tmp_path)
    assert np.array_equal(next(results)["lane_instances"], expected), "one result at a time"
    with pytest.warns(UserWarning, match=r"b\.png: not an image"):
        assert list(results) == [], "a damaged file ends no folder"


def write_split(root, scenes, split="test", classes=CLASSES):
    for number, scene in enumerate(scenes):
        write_sample(root / split, str(number), *scene, classes, suffix=".png")


def test_a_perfect_model_scores_high_and_components_too_where_lines_are_whole(segmenter, tmp_path):
    write_split(tmp_path, [striped_scene(), striped_scene(scale=2)])
    scores = evaluate(segmenter, LaneInstanceDataset(tmp_path, "test"), baselines=True)
    assert scores["images"] == 2
    assert scores["lane_f1"] == scores["lane_precision"] == scores["lane_recall"] == 1.0
    assert scores["instance_f1"] == 1.0
    assert scores["miou"] > 0.85
    assert scores["class_iou"]["crosswalk"] is None
    assert (scores["boundary_ratio"], scores["boundary_band_px"]) == (0.02, [6, 11])
    assert scores["baselines"]["components"]["lane_f1"] == 1.0
    assert set(scores["baselines"]) == {"components", "opencv"}
    json.dumps(scores, allow_nan=False)


def test_components_fall_short_where_a_line_is_broken_and_embeddings_do_not(segmenter, tmp_path):
    image, semantic, instance = striped_scene(scale=2)
    for top in (100, 180):
        for array, value in ((image, 70), (semantic, ROAD), (instance, 0)):
            array[top : top + 40] = value
    write_split(tmp_path, [(image, semantic, instance)])
    scores = evaluate(segmenter, LaneInstanceDataset(tmp_path, "test"), baselines=True)
    assert scores["lane_f1"] == 1.0
    assert scores["baselines"]["components"]["lane_f1"] < 0.7


def test_a_missed_and_an_invented_lane_cost_what_they_should(segmenter, tmp_path):
    image, semantic, instance = striped_scene()
    semantic[instance == 1] = ROAD  # the labels know two lanes, the model sees three
    instance[instance == 1] = 0
    write_split(tmp_path, [(image, semantic, instance)])
    scores = evaluate(segmenter, LaneInstanceDataset(tmp_path, "test"))
    assert scores["lane_precision"] == pytest.approx(2 / 3)
    assert scores["lane_recall"] == 1.0


def test_all_instances_numbers_crosswalks_after_lanes():
    result = {
        "lane_instances": np.array([[1, 2, 0, 0]]),
        "crosswalk_instances": np.array([[0, 1, 1, 0]]),
        "lane_count": 2,
    }
    assert all_instances(result).tolist() == [[1, 2, 3, 0]]


def test_a_data_folder_and_one_of_its_splits_are_both_understood(tmp_path):
    write_split(tmp_path, [striped_scene()], "val")
    write_split(tmp_path, [striped_scene()], "train")
    (tmp_path / "test" / "images").mkdir(parents=True)  # as a renderer that was asked for no test scenes leaves it
    assert (locate_split(tmp_path), list_splits(tmp_path)) == ((tmp_path, "val"), ["train", "val"])
    write_split(tmp_path, [striped_scene()], "test")
    assert (locate_split(tmp_path), list_splits(tmp_path)) == ((tmp_path, "test"), ["train", "val", "test"])
    assert locate_split(tmp_path, "val") == (tmp_path, "val")
    assert locate_split(tmp_path / "val") == (tmp_path, "val")
    with pytest.raises(ValueError, match="is a split itself"):
        locate_split(tmp_path / "val", "train")


def test_infer_writes_ids_json_and_overlays(checkpoint, tmp_path, capsys):
    image, _, _ = striped_scene()
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "one.png")
    command = ["infer", "lane", "--model", str(checkpoint), "--device", "cpu"]
    assert main([*command, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--visualize"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"one_instances.png", "one.json", "one_overlay.png"}
    ids = cv2.imread(str(tmp_path / "out" / "one_instances.png"), cv2.IMREAD_UNCHANGED)
    assert ids.dtype == np.uint16
    assert ids.shape == image.shape[:2]
    values = json.loads((tmp_path / "out" / "one.json").read_text())
    assert values["lane_count"] == len(values["lane_polylines"]) == len(values["lane_centers"])
    one = ["--input", str(tmp_path / "in" / "one.png"), "--output", str(tmp_path / "result.png"), "--visualize"]
    assert main([*command, *one]) == 0
    assert cv2.imread(str(tmp_path / "result.png")).shape == image.shape
    assert (tmp_path / "result.json").is_file()
    assert "result.png" in capsys.readouterr().out
    to_file = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "result.png")]
    assert main([*command, *to_file]) == 2
    assert "must be a folder" in capsys.readouterr().err


def test_a_video_is_read_frame_by_frame(checkpoint, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "road.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV build writes no video")
    for level in (50, 200):
        writer.write(np.full((64, 128, 3), (0, 0, level), np.uint8))
    writer.release()
    frames = list(read_video(tmp_path / "road.avi"))
    assert [round(frame[..., 0].mean() / 50) for frame in frames] == [1, 4], "red comes first"
    command = ["infer", "lane", "--model", str(checkpoint), "--input", str(tmp_path / "road.avi")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "road_frame_000001.json").is_file()
    (tmp_path / "not.avi").write_text("no video")
    with pytest.raises(ValueError, match="not a video"):
        list(read_video(tmp_path / "not.avi"))


def test_train_evaluate_infer_by_the_guides_commands(tmp_path, capsys):
    write_split(tmp_path / "data", [striped_scene()] * 2, "train")
    write_split(tmp_path / "data", [striped_scene()], "val")
    CONFIG.replace(batch_size=2).to_yaml(tmp_path / "lane.yaml")
    run = tmp_path / "run"
    train = ["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(tmp_path / "data")]
    train += ["--epochs", "1", "--output", str(run), "--seed", "5", "--device", "cpu"]
    assert main(train) == 0
    files = {"config.yaml", "history.csv", "best.safetensors", "last.safetensors", "state.safetensors"}
    assert {p.name for p in run.iterdir()} == files
    assert LaneSegmentationConfig.from_yaml(run / "config.yaml").seed == 5
    assert "epoch   1/1" in capsys.readouterr().out
    assert main(train) == 2, "a second run must not replace the first unasked"
    assert "already holds a run" in capsys.readouterr().err

    model = ["--model", str(run / "best.safetensors"), "--device", "cpu"]
    evaluation = [*model, "--data", str(tmp_path / "data" / "val"), "--output", str(tmp_path / "scores.json")]
    assert main(["evaluate", "lane", *evaluation]) == 0
    assert "lane F1" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "scores.json").read_text())["miou"] <= 1
    assert "opencv" not in (tmp_path / "scores.json").read_text()
    assert main(["evaluate", "lane", *evaluation, "--baselines"]) == 0
    assert "opencv" in capsys.readouterr().out
    assert main(["evaluate", "lane", *model, "--data", str(tmp_path / "data"), "--split", "dev"]) == 2
    assert "no such split" in capsys.readouterr().err


def test_synth_renders_what_is_asked_for(tmp_path, capsys):
    for name, extra in (("visible", []), ("amodal", ["--amodal", "--preset", "day"])):
        command = ["synth", "--out", str(tmp_path / name), "--val", "2", "--size", "64x96", "--seed", "5"]
        assert main([*command, "--workers", "1", *extra]) == 0
        assert "2 scenes" in capsys.readouterr().out
        meta = json.loads((tmp_path / name / "meta.json").read_text())
        assert (meta["labels"], meta["size"], meta["seed"]) == (name, [64, 96], 5)
        assert meta["preset"] == ("day" if extra else "all")
        assert LaneInstanceDataset(tmp_path / name, "val").read(1)[0].shape == (64, 96, 3)


def test_a_device_that_is_not_there_is_one_clear_line(checkpoint, tmp_path, capsys):
    command = ["evaluate", "lane", "--model", str(checkpoint), "--data", str(tmp_path), "--device", "cuda:99"]
    assert main(command) == 2
    assert "--device cuda:99: not available" in capsys.readouterr().err
