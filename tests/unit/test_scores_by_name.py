"""``evaluate lane --metrics``: scores by name, computed by hand, and read back from the files that are written."""

import json

import cv2
import numpy as np
import pytest
import torch
from test_formats_out import Knows
from test_metrics_lanes import culane_iou, tusimple_by_the_rules

from roadtopo_lib.app import cli
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.convert.export import culane_lanes, tusimple_lanes, tusimple_rows
from roadtopo_lib.data.samples import instances_by_role, write_sample
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.evaluation import METRICS, evaluate
from roadtopo_lib.inference.files import infer_to_files
from roadtopo_lib.labels import LANE_MARKING, ROAD, ClassTable, LabelClass
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.segformer import SegFormerModel

SIZE = (720, 1280)


class Hidden(Knows):
    """Knows the lanes of each image by the value of its first pixel."""

    def __init__(self, lanes):
        super().__init__()
        self.lanes = lanes

    def predict(self, image):
        self.polylines = self.lanes[int(image[0, 0, 0])]
        return super().predict(image)


def upright(x, top=100.0, bottom=719.0):
    return np.array([[x, top], [x, bottom]])


def data_set(root, scenes, size=SIZE):
    """Writes lanes as samples, lines 23 px wide; the first pixel of each image is its number, from 20 on."""
    for number, lanes in enumerate(scenes, start=20):
        instance = np.zeros(size, np.uint16)
        for k, lane in enumerate(lanes, start=1):
            canvas = np.zeros(size, np.uint8)
            cv2.polylines(canvas, [np.rint(lane * 16).astype(np.int32)[:, None]], False, 1, 22, cv2.LINE_8, 4)
            instance[canvas > 0] = k
        semantic = np.where(instance > 0, LANE_MARKING, ROAD)
        image = np.full((*size, 3), number, np.uint8)
        write_sample(root / "test", f"{number}", image, semantic, instance, suffix=".png")
    return LaneInstanceDataset(root, "test")


def random_scenes(count, size=SIZE):
    """True lanes, and what is found of them: shifted, bent, cut, missed and invented."""
    rng = np.random.default_rng(5)
    truth, found = [], {}
    for number in range(20, 20 + count):
        y = np.linspace(0.4, 1, 60) * (size[0] - 1)
        fall = (y - y[0]) / size[0]
        lanes = [
            np.stack([(x + rng.uniform(-0.15, 0.15) * fall + 0.2 * fall**2) * size[1], y], axis=1)
            for x in np.linspace(0.15, 0.85, int(rng.integers(2, 6)))
        ]
        truth.append(lanes)
        kept = [lane for lane in lanes if rng.random() < 0.85]
        shifts = rng.choice([0.0, 3.0, 9.0, 40.0], len(kept)) * size[1] / 1280
        cuts = rng.choice([0, 0, 6], len(kept))
        found[number] = [
            lane[cut:] + np.array([shift, 0]) for lane, shift, cut in zip(kept, shifts, cuts, strict=True)
        ] + [lanes[0] + np.array([0.05 * size[1], 0])] * int(rng.random() < 0.4)
    found[20].append(upright(40.0, 501.0, 515.0))  # on one of CULane's rows only: its file has no such lane
    return truth, found


def test_scores_of_a_case_computed_by_hand(tmp_path):
    # Image 20: of three lanes one is hit, one is 30 px off, one is missing. Image 21: both lanes are hit, the second of
    # them only from row 440 on, and a third is invented.
    truth = [[upright(200.0), upright(600.0), upright(1000.0)], [upright(300.0), upright(800.0)]]
    found = {
        20: [upright(203.0), upright(630.0)],
        21: [upright(300.0), upright(800.0, top=440.0), upright(1100.0)],
    }
    dataset = data_set(tmp_path, truth)
    rows = np.array(tusimple_rows(SIZE[0]))
    centres = [polylines_from_instances(dataset.read(k)[2], [1])[0] for k in range(2)]
    assert all(line[0, 1] < 160 and line[-1, 1] > 700 for line in centres)
    seen = (rows <= centres[0][-1, 1]).mean()  # the mask's centre line may end a little before the image does
    assert seen == 1.0
    scores = evaluate(Hidden(found), dataset, metrics=("tusimple", "culane"))
    assert list(scores) == ["images", "culane", "tusimple"]
    # TuSimple: 27 of the 56 rows are ≥ 440 (440 … 700, 710): 28. A lane that is 30 px off has no right row.
    late = 28 / 56
    assert (rows >= 440).mean() == late
    first, second = (1 / 3, 1 / 2, 2 / 3), ((1 + late) / 2, 2 / 3, 1 / 2)
    for name, a, b in zip(("accuracy", "fp", "fn"), first, second, strict=True):
        assert scores["tusimple"][name] == pytest.approx((a + b) / 2, abs=1e-9), name
    # CULane, 1640 px wide: 3 px are 3.84 px there, IoU (31 − 4)/(31 + 4); 30 px are 38 px, none. Of lane 800, 270 of
    # 610 rows remain: IoU 0.44 < 0.5.
    assert {name: scores["culane"][name] for name in ("tp", "fp", "fn")} == {"tp": 2, "fp": 3, "fn": 3}
    assert scores["culane"]["f1"] == pytest.approx(2 * 2 / (2 * 2 + 3 + 3), abs=1e-9)
    assert scores["culane"]["precision"] == pytest.approx(2 / 5, abs=1e-9)
    assert scores["culane"]["recall"] == pytest.approx(2 / 5, abs=1e-9)


def official_tusimple(predictions, labels):
    """Accuracy, FP and FN of two files, by the rules of the benchmark's evaluator."""
    predictions, labels = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (predictions, labels)
    )
    assert len(predictions) == len(labels), "the evaluator demands each image once"
    truth = {label["raw_file"]: label for label in labels}
    scores = []
    for prediction in predictions:
        assert {"raw_file", "lanes", "run_time"} <= set(prediction)
        label = truth[prediction["raw_file"]]
        assert all(len(lane) == len(label["h_samples"]) for lane in prediction["lanes"])
        run_time = min(prediction["run_time"], 200)  # the score in memory does not depend on the machine
        scores.append(tusimple_by_the_rules(prediction["lanes"], label["lanes"], label["h_samples"], run_time))
    return np.mean(scores, axis=0)


def read_culane(path):
    return [np.array(line.split(), float).reshape(-1, 2) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set, what is found in it, files of predictions and labels in both formats, and the scores in memory."""
    root = tmp_path_factory.mktemp("scored")
    truth, found = random_scenes(8)
    dataset = data_set(root, truth)
    for form in ("tusimple", "culane"):
        list(infer_to_files(Hidden(found), root / "test" / "images", root / form, form=form))
    labels = []
    (root / "gt").mkdir()
    for number in range(len(dataset)):
        _, semantic, instance = dataset.read(number)
        lines = polylines_from_instances(instance, instances_by_role(semantic, instance))
        rows, name = list(range(160, 720, 10)), dataset.image_paths[number].name
        labels.append({"raw_file": name, "lanes": tusimple_lanes(lines, rows, SIZE[1]), "h_samples": rows})
        text = "".join(" ".join(f"{x:.3f} {y:.0f}" for x, y in lane) + "\n" for lane in culane_lanes(lines))
        (root / "gt" / name).with_suffix(".lines.txt").write_text(text)
    (root / "labels.json").write_text("".join(json.dumps(label) + "\n" for label in labels))
    return root, dataset, found, evaluate(Hidden(found), dataset, metrics=METRICS)


def test_written_tusimple_files_score_as_in_memory(written):
    root, _, _, scores = written
    expected = official_tusimple(root / "tusimple" / "tusimple.json", root / "labels.json")
    assert 0.3 < expected[0] < 0.95
    assert min(expected[1:]) > 0.05
    for name, value in zip(("accuracy", "fp", "fn"), expected, strict=True):
        assert scores["tusimple"][name] == pytest.approx(value, abs=1e-9), name


def test_written_culane_files_score_as_in_memory(written):
    root, dataset, _, scores = written
    ours, tp, predicted, true = LaneF1(), 0, 0, 0
    for path in dataset.image_paths:
        found, truth = (read_culane((root / part / path.name).with_suffix(".lines.txt")) for part in ("culane", "gt"))
        ours.update(found, truth, SIZE)
        # By the benchmark's rules in loops, at its width: greedy matching is the best one, as lanes lie far apart.
        scaled = [[(lane + 0.5) * 1640 / 1280 - 0.5 for lane in lanes] for lanes in (found, truth)]
        iou = np.array([[culane_iou_at(a, b) for b in scaled[1]] for a in scaled[0]]).reshape(len(found), len(truth))
        assert (np.abs(iou - 0.5) > 0.012).all(), "the threshold does not hang on a rounding"
        assert ((iou > 0.5).sum(axis=0) <= 1).all()
        assert ((iou > 0.5).sum(axis=1) <= 1).all()
        tp, predicted, true = tp + int((iou > 0.5).sum()), predicted + len(found), true + len(truth)
    culane = scores["culane"]
    assert (culane["tp"], culane["fp"], culane["fn"]) == (ours.tp, ours.fp, ours.fn) == (tp, predicted - tp, true - tp)
    assert min(culane["tp"], culane["fp"], culane["fn"]) >= 3
    assert culane["f1"] == pytest.approx(2 * tp / (predicted + true), abs=1e-9)


def culane_iou_at(a, b):
    """``culane_iou``, for images of 720 rows at CULane's width: 922 rows."""
    import test_metrics_lanes

    before, test_metrics_lanes.CULANE_SIZE = test_metrics_lanes.CULANE_SIZE, (922, 1640)
    try:
        return culane_iou(a, b)
    finally:
        test_metrics_lanes.CULANE_SIZE = before


def test_scores_of_small_images_are_those_of_the_benchmarks_size(tmp_path):
    """The same lanes at 360×640: TuSimple's 20 px are of 1280."""
    truth = [[upright(100.0, 50, 359), upright(300.0, 50, 359)]]
    dataset = data_set(tmp_path, truth, (360, 640))
    for shift, accuracy in ((9.0, 1.0), (11.0, 0.0)):  # 18 and 22 px there
        found = {20: [lane + np.array([shift, 0]) for lane in truth[0]]}
        scores = evaluate(Hidden(found), dataset, metrics=("tusimple",))
        assert scores["tusimple"]["accuracy"] == pytest.approx(accuracy, abs=1e-9)


def test_without_metrics_the_scores_are_those_that_they_were(written):
    _, dataset, found, scores = written
    before = evaluate(Hidden(found), dataset, baselines=True)
    assert list(before) == [
        "images", "miou", "pixel_accuracy", "class_iou", "boundary_iou", "boundary_ratio", "boundary_band_px",
        "lane_f1", "lane_precision", "lane_recall", "instance_f1", "baselines",
    ]  # fmt: skip
    assert list(before["baselines"]["opencv"]) == ["lane_f1", "lane_precision", "lane_recall", "instance_f1"]
    assert {name: scores[name] for name in before if name != "baselines"} == {
        name: value for name, value in before.items() if name != "baselines"
    }
    assert list(evaluate(Hidden(found), dataset, metrics=("semantic",))) == list(before)[:7]
    named = evaluate(Hidden(found), dataset, baselines=True, metrics=("tusimple",))
    assert list(named["baselines"]["opencv"]) == ["tusimple"]


@pytest.fixture
def command(tmp_path):
    torch.manual_seed(0)
    data_set(tmp_path / "data", [[upright(300.0)]])

    def run(*words, classes=None):
        config = LaneSegmentationConfig.preset("tiny").replace(image_size=(64, 128), classes=classes)
        model = SegFormerModel("tiny", pretrained=False, num_classes=config.num_classes)
        model.save(tmp_path / "m.safetensors", training=config.to_dict())
        where = ["--model", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "data"), "--device", "cpu"]
        return cli.main(["evaluate", "lane", *where, *words])

    return run


def test_the_command_prints_and_writes_what_is_asked_for(tmp_path, command, capsys):
    assert command("--metrics", "culane, tusimple", "--output", str(tmp_path / "scores.json"), "--baselines") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["images", "culane", "tusimple", "baselines"]
    assert list(scores["culane"]) == ["f1", "precision", "recall", "tp", "fp", "fn"]
    out = capsys.readouterr().out
    assert "mIoU" not in out
    assert "instance F1" not in out
    culane, tusimple = out.index("CULane F1"), out.index("TuSimple accuracy")
    assert f"{scores['baselines']['opencv']['culane']['f1']:.3f}" in out[culane:tusimple]
    assert f"{scores['baselines']['opencv']['tusimple']['accuracy']:.3f}" in out[tusimple:]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [("culane,miou", "metrics are miou, expected some of semantic, instance, culane, tusimple"), ("", "metrics are ")],
)
def test_an_unknown_metric_is_one_line(command, capsys, metrics, message):
    assert command("--metrics", metrics) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("metric", ["culane", "tusimple"])
def test_lane_metrics_for_a_class_table_without_lanes_are_one_line(command, capsys, metric):
    bare = ClassTable((LabelClass(0, "rest", (0, 0, 0)), *(LabelClass(k, f"c{k}", (9, 9, k)) for k in range(1, 6))))
    assert command("--metrics", metric, classes=bare) == 2
    error = capsys.readouterr().err
    assert "the class table has no class of lanes" in error
    assert error.count("\n") == 1
    assert command(classes=bare) == 0, "classes alone can be scored"
