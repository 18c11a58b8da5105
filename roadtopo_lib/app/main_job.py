"""``make run``: from nothing to separated lanes in minutes, on a CPU, without a network.

Renders road scenes, trains the tiny preset from random weights, scores it on scenes that it never saw beside two
baselines, and paints what it finds beside what a model finds that was trained for hours. It calls what the command line
calls; every step can be run by hand.
"""

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np

from roadtopo_lib.app.cli import EXPECTED_ERRORS, Parser, one_line
from roadtopo_lib.app.commands import print_scores
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.confidence import load_segmenter
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import open_streams, say
from roadtopo_lib.course.data import LANE_SMALL, samples
from roadtopo_lib.data.images import write_image
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import load_weights, write_atomic, write_json
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.inference.files import infer_to_files
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.training.recorders import PrintEpochs, save_model
from roadtopo_lib.viz import contact_sheet, overlay, training_curve

try:
    import resource
except ImportError:  # Windows has no such module: the job runs there all the same
    resource = None

TRAIN_SCENES, VAL_SCENES, DAY_TEST_SCENES, ALL_TEST_SCENES = 1500, 48, 200, 100
TRAIN_SIZE = (128, 256)
"""The preset's image_size before crop_top."""
TEST_SIZE = (256, 512)
TRAIN_SEED = 1
DAY_TEST_SEED = 2
ALL_TEST_SEED = 3
"""Different seeds never share a scene, so both test sets are unseen."""
PICTURES = 12


def main() -> int:
    """Does the job; see the module's text. Returns the exit code: 0 done, 2 what lies there is in the way."""
    parser = Parser(
        prog="main_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes and epochs, for a quick trial")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    open_streams()
    arguments = parser.parse_args()
    try:
        run(arguments.out, arguments.scale)
    except EXPECTED_ERRORS as error:
        if arguments.debug:
            raise
        say(f"main_job: {one_line(error)}", error=True)
        return 2
    except KeyboardInterrupt as stop:
        say(f"main_job: {str(stop) or 'interrupted'}", error=True)
        return getattr(stop, "exit_code", 130)
    return 0


def run(out: Path, scale: float = 1.0) -> dict:
    """Renders, trains, evaluates, infers.

    Args:
        out: folder of all results; an earlier run in it is replaced, rendered scenes are kept.
        scale: share of the scenes and epochs, more than 0; 1 is the real job.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: scenes of another job lie there, more or others than this one's; says what to delete.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    step("1/4  Rendering road scenes with exact labels")
    data = {"day": out / "data", "test": out / "data_test_day", "all": out / "data_test_all"}
    train, val, test_day, test_all = (
        max(8, round(scale * n)) for n in (TRAIN_SCENES, VAL_SCENES, DAY_TEST_SCENES, ALL_TEST_SCENES)
    )
    try:
        write_dataset(data["day"], {"train": train, "val": val}, TRAIN_SIZE, TRAIN_SEED, "day", amodal=True)
        write_dataset(data["test"], {"test": test_day}, TEST_SIZE, DAY_TEST_SEED, "day", amodal=True)
        write_dataset(data["all"], {"test": test_all}, TEST_SIZE, ALL_TEST_SEED, "all", amodal=True)
    except ValueError as error:
        # All at once: where one is of another job, the others most likely are, too.
        in_the_way = " and ".join(str(folder) for folder in data.values() if folder.exists())
        raise ValueError(f"{error}; delete {in_the_way}, then run this again") from None
    seconds["render"] = time.perf_counter() - started

    step(f"2/4  Training the tiny preset on {train} scenes, from random weights")
    started = time.perf_counter()
    config = LaneSegmentationConfig.preset("tiny")
    config = config.replace(epochs=max(1, round(scale * config.epochs)))
    trainer = train_lane_model(config, data["day"], out / "run", overwrite=True, recorders=[PrintEpochs()])
    curve = io.BytesIO()
    training_curve(trainer.history).savefig(curve, format="png", dpi=120)
    write_atomic(out / "training_curve.png", curve.getvalue())
    save_model(trainer.model, out / "model.safetensors", config, min(trainer.history, key=lambda row: row["val_loss"]))
    seconds["train"] = time.perf_counter() - started

    step("3/4  Scoring it on scenes of unseen seeds")
    started = time.perf_counter()
    segmenter = LaneSegmenter.from_checkpoint(out / "model.safetensors")
    scores = evaluate(segmenter, LaneInstanceDataset(data["test"], "test"), baselines=True, progress=True)
    say("the kind of scene it was trained on (preset day):")
    print_scores(scores)
    scores["all"] = evaluate(segmenter, LaneInstanceDataset(data["all"], "test"), baselines=True, progress=True)
    say("with night, dusk, rain and heavy degradation, never trained on (preset all):")
    print_scores(scores["all"])
    of_card = load_weights(samples() / LANE_SMALL).info["card"]["scores"]
    scores["shipped"] = {name: of_card[f"day, {name}"] for name in ("images", "miou", "lane_f1", "instance_f1")}
    told = "{images} scenes of preset day: mIoU {miou:.3f}, lane F1 {lane_f1:.3f}".format(**scores["shipped"])
    say(f"beside it data_samples/{LANE_SMALL}, trained for hours on many styles; its card, {told}")
    seconds["evaluate"] = time.perf_counter() - started

    step("4/4  Painting what it finds")
    started = time.perf_counter()
    shipped = load_segmenter(samples() / LANE_SMALL)
    write_pictures(segmenter, shipped, LaneInstanceDataset(data["test"], "test"), out)
    seconds["infer"] = time.perf_counter() - started

    scores["seconds"] = sum(seconds.values())
    scores["seconds_by_step"] = seconds
    scores["parameters"] = sum(p.numel() for p in trainer.model.parameters())
    scores["peak_memory_mb"] = peak_memory_mb()
    write_json(out / "metrics.json", scores)
    print_ending(out, scores)
    return scores


def write_pictures(segmenter: LaneSegmenter, shipped: LaneSegmenter, dataset: LaneInstanceDataset, out: Path) -> None:
    """Overlays of the first test images, and on one sheet: found, found by the shipped model, true."""
    for path in dataset.image_paths[:PICTURES]:
        for _ in infer_to_files(segmenter, path, out / "pictures" / f"{path.stem}.png", visualize=True):
            pass
    pictures = []
    for index in range(min(PICTURES, len(dataset)) // 2):
        image, _, instance = dataset.read(index)
        pictures += [overlay(image, segmenter(image)), overlay(image, shipped(image)), true_picture(image, instance)]
    sheet = contact_sheet(pictures, columns=3)
    write_image(out / "overview.png", sheet)


def true_picture(image: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """The labels painted as ``overlay`` paints predictions, without numbers."""
    nothing = np.zeros_like(instance)
    return overlay(image, {"lane_instances": instance, "crosswalk_instances": nothing, "lane_polylines": []})


def step(text: str) -> None:
    """Announces a step."""
    say(f"\n{text}")


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process and of its largest child, in MB (10⁶ bytes); ``None`` on Windows."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    own, child = (resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child) / 1e6


def print_ending(out: Path, scores: dict) -> None:
    """Says where everything is and what to do next."""
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in scores["seconds_by_step"].items())
    memory = scores["peak_memory_mb"]
    at_most = "" if memory is None else f", at most {memory / 1000:.1f} GB"
    say(
        f"\nDone in {scores['seconds'] / 60:.1f} minutes ({parts}){at_most}.\n"
        f"  scores          {out / 'metrics.json'}\n"
        f"  overview        {out / 'overview.png'}: found, found by the shipped model, true\n"
        f"  overlays        {out / 'pictures'}\n"
        f"  training curve  {out / 'training_curve.png'}\n"
        f"  model           {out / 'model.safetensors'}\n"
        f"Open the course:  make lab\n"
        f"Your own image:   .venv/bin/road-topology infer lane --model data_samples/{LANE_SMALL}"
        f" --input IMAGE --output found.png --visualize"
    )


if __name__ == "__main__":
    sys.exit(main())
