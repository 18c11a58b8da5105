"""What each command does: calls the library, prints the results.

The rooms are imported where they are used: ``--help`` and ``doctor`` answer at once, even where torch is missing.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module

from roadtopo_lib.console import progress_bar, say
from roadtopo_lib.data import SPLITS


def train(arguments: argparse.Namespace) -> None:
    """Trains a model, and prints where the best one lies."""
    from roadtopo_lib.app.initial import load_run_config
    from roadtopo_lib.app.train import PRESET_KEEPS, train_lane_model
    from roadtopo_lib.training.recorders import PrintEpochs

    changes = {name: getattr(arguments, name) for name in ("epochs", "seed") if getattr(arguments, name) is not None}
    run = arguments.output if arguments.resume else None
    config = load_run_config(arguments.config, arguments.init, run).replace(**changes)
    trainer = train_lane_model(
        config,
        arguments.data,
        arguments.output,
        device=_device(arguments),
        overwrite=arguments.overwrite,
        recorders=[PrintEpochs()],
        resume=arguments.resume,
        checkpoint_every=arguments.checkpoint_every,
        keep=PRESET_KEEPS.get(arguments.config, "") if arguments.keep is None else arguments.keep,
    )
    say(f"best validation loss {trainer.state.best_val_loss:.4f}; model: {arguments.output / 'best.safetensors'}")


def sweep(arguments: argparse.Namespace) -> None:
    """Trains with many settings, and prints the best runs."""
    from roadtopo_lib.app.initial import load_run_config
    from roadtopo_lib.app.sweep import grid, random_draws, read_space, run_sweep, shown

    if arguments.runs is not None and arguments.runs < 1:
        raise ValueError(f"--runs is {arguments.runs}, expected at least 1")
    space = read_space(arguments.space)
    settings = grid(space) if arguments.runs is None else random_draws(space, arguments.runs, arguments.seed)
    config = load_run_config(arguments.config, None, None)
    if arguments.epochs is not None:
        config = config.replace(epochs=arguments.epochs)
    rows = run_sweep(config, settings, arguments.data, arguments.output, arguments.score, _device(arguments))
    for row in rows[:5]:
        say(", ".join(f"{name} {shown(value)}" for name, value in row.items()))
    say(f"all runs: {arguments.output / 'sweep.csv'}, {arguments.output / 'sweep.png'}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Prints the scores of a model."""
    from roadtopo_lib.confidence import load_segmenter
    from roadtopo_lib.data.checks import check_every_file
    from roadtopo_lib.data.samples import locate_split
    from roadtopo_lib.dataset import LaneInstanceDataset
    from roadtopo_lib.files import check_writable, write_json
    from roadtopo_lib.inference.evaluation import evaluate

    root, split = locate_split(arguments.data, arguments.split)
    segmenter = load_segmenter(arguments.model, _device(arguments), arguments.confidence)
    dataset = LaneInstanceDataset(root, split, classes=segmenter.classes)
    if arguments.output is not None:
        check_writable(arguments.output)
    check_every_file(dataset)  # a damaged one is found now, not when most is scored
    metrics = [name.strip() for name in arguments.metrics.split(",") if name.strip()]
    scores = evaluate(segmenter, dataset, baselines=arguments.baselines, progress=True, metrics=metrics)
    if arguments.output is not None:
        write_json(arguments.output, scores)
    if split == "val" and arguments.split is None and root == arguments.data:
        say(f"no test split in {root}: scores of val, which has chosen the epoch")
    print_scores(scores)
    if arguments.output is not None:
        say(f"scores: {arguments.output}")


def print_scores(scores: dict) -> None:
    """The scores as a small table, those that are there."""
    if "miou" in scores:
        miou, accuracy = (_decimals(scores[name]) for name in ("miou", "pixel_accuracy"))
        say(f"{scores['images']} images   mIoU {miou}   pixel accuracy {accuracy}")
        for name, iou in scores["class_iou"].items():
            say(f"  {name:14s} IoU, boundary IoU  {_decimals(iou)}    {_decimals(scores['boundary_iou'][name])}")
        bands = ", ".join(str(band) for band in scores["boundary_band_px"])
        say(f"  {'':14s} boundary: {scores['boundary_ratio']} of the diagonal, {bands} px")
    else:
        say(f"{scores['images']} images")
    rows = {"model": scores, **scores.get("baselines", {})}
    if "lane_f1" in scores:
        _print_rows(
            rows, "lane F1   precision   recall   instance F1", "lane_f1 lane_precision lane_recall instance_f1"
        )
    for name, title in (("culane", "CULane F1   precision   recall"), ("tusimple", "TuSimple accuracy   FP   FN")):
        if name in scores:
            part = {method: row[name] for method, row in rows.items()}
            _print_rows(part, title, "f1 precision recall" if name == "culane" else "accuracy fp fn")


def _print_rows(rows: dict[str, dict], title: str, names: str) -> None:
    """A line for each method, each number at the right end of its title."""
    say(f"  {'':14s} {title}")
    widths = [len(word) for word in title.split("   ")]
    for method, row in rows.items():
        values = [f"{row[name]:{width}.3f}" for name, width in zip(names.split(), widths, strict=True)]
        say(f"  {method:14s} {'   '.join(values)}")


def _decimals(value: float | None) -> str:
    """Three decimals, or a dash for what could not be measured."""
    return "  –  " if value is None else f"{value:.3f}"


def infer(arguments: argparse.Namespace) -> int:
    """Prints a line for each image; exit code 1 if one could not be read."""
    from roadtopo_lib.confidence import load_segmenter
    from roadtopo_lib.distributed import connected
    from roadtopo_lib.electives.tiled_segmenter import TiledSegmenter, segment_file
    from roadtopo_lib.inference.files import infer_to_files, is_video
    from roadtopo_lib.tracking.video import is_film

    faults: list[str] = []

    def on_fault(text: str) -> None:
        faults.append(text)
        say(f"road-topology: {text}", error=True)

    extra = {"visualize": arguments.visualize, "form": arguments.format, "h_samples": arguments.h_samples}
    if arguments.resume:
        extra["newer_than"] = arguments.model.stat().st_mtime
    places, made = (arguments.input, arguments.output), 0
    if is_film(arguments.output) and is_video(arguments.input):
        _film(arguments, on_fault)
        return int(bool(faults))
    if arguments.tile is not None and arguments.confidence is not None:
        raise ValueError("--confidence does not go with --tile: what is found in tiles has no calibrated confidence")
    is_array = arguments.input.suffix.lower() == ".npy"
    try:
        with connected():
            segmenter = load_segmenter(arguments.model, _device(arguments), arguments.confidence)
            segmenter.tta = not arguments.fast
            if arguments.tile is not None:
                tiles = arguments.tile, arguments.overlap
                segmenter = TiledSegmenter(segmenter.model, segmenter.config, segmenter.device, *tiles)
            results = (
                segment_file(segmenter, *places)
                if is_array
                else infer_to_files(segmenter, *places, on_fault=on_fault, **extra)
            )
            for path, lanes in results:
                made += 1
                say(f"{path}  {lanes} {'lane' if lanes == 1 else 'lanes'}")
    except KeyboardInterrupt:
        rest = "; --resume makes the others" if arguments.format is None else ""
        told = f"interrupted; results of {made} images are complete in {arguments.output}{rest}"
        raise KeyboardInterrupt(told) from None
    return 1 if faults else 0


def export_onnx(arguments: argparse.Namespace) -> None:
    """Writes an ONNX file."""
    from roadtopo_lib.app.export import export_onnx

    export_onnx(arguments.model, arguments.output, arguments.probabilities, arguments.int8)


def export_folder(arguments: argparse.Namespace) -> None:
    """Writes a folder with weights, config and model card."""
    from roadtopo_lib.app.export import export_folder

    export_folder(arguments.model, arguments.output)


def _film(arguments: argparse.Namespace, on_fault: Callable[[str], None]) -> None:
    """``infer`` of a video into a film."""
    from roadtopo_lib.confidence import load_segmenter
    from roadtopo_lib.distributed import connected, world_size
    from roadtopo_lib.tracking import follow_video

    given = {"--format": arguments.format, "--h-samples": arguments.h_samples, "--tile": arguments.tile}
    wrong = [name for name, value in given.items() if value is not None] + ["--resume"] * arguments.resume
    if wrong:
        raise ValueError(f"{arguments.output}: a film does not go with {', '.join(wrong)}")
    with connected():
        if world_size() > 1:
            raise ValueError(f"{arguments.output}: a film is one file of all frames: use one process")
    segmenter = load_segmenter(arguments.model, _device(arguments), arguments.confidence)
    segmenter.tta = not arguments.fast
    began, tracks, frames = time.perf_counter(), 0, 0
    followed = follow_video(segmenter, arguments.input, arguments.output, on_fault)
    for frame in progress_bar(followed, "film", unit="frame", leave=False, disable=None):
        frames, tracks = frames + 1, max([tracks, *(lane.track for lane in frame.lanes)])
    seconds = time.perf_counter() - began
    say(f"{arguments.output}  {frames} frames, {tracks} lanes followed, {frames / seconds:.1f} frames/s")


def calibrate(arguments: argparse.Namespace) -> None:
    """Fits a model's confidence, and prints what it is worth."""
    from roadtopo_lib.app.calibrate import calibrate, draw_reliability
    from roadtopo_lib.data.samples import locate_split
    from roadtopo_lib.dataset import LaneInstanceDataset
    from roadtopo_lib.files import check_writable
    from roadtopo_lib.pipeline import LaneSegmenter

    root, split = locate_split(arguments.data, arguments.split)
    classes = LaneSegmenter.from_checkpoint(arguments.model, "cpu").classes
    for path in (arguments.model, arguments.picture):
        if path is not None:
            check_writable(path)
    report = calibrate(arguments.model, LaneInstanceDataset(root, split, classes=classes), _device(arguments))
    for kind, threshold in report["thresholds"].items():
        if (about := report[kind]) is None:
            say(f"{kind}: too few, or all alike: no calibration")
            continue
        found = f"{about['right']} of {about['count']} right"
        error = f"calibration error {about['error']:.3f}, before {about['error_before']:.3f}"
        say(f"{kind}: {found}; {error}; kept from confidence {threshold:.2f} on")
    if arguments.picture is not None:
        draw_reliability(report, arguments.picture)
    say(f"model: {arguments.model}")


def horizon(arguments: argparse.Namespace) -> int:
    """Prints the horizon of images; exit code as ``report_horizon`` gives it."""
    from roadtopo_lib.app.horizon import report_horizon

    return report_horizon(arguments.images, arguments.model, arguments.lines, _device(arguments))


def synth(arguments: argparse.Namespace) -> None:
    """Renders a data set."""
    from roadtopo_lib.scenes import write_dataset

    counts = {split: getattr(arguments, split) for split in SPLITS}
    if not any(counts.values()):
        raise ValueError("nothing to render: give at least one of --train, --val, --test")
    write_dataset(
        arguments.out,
        counts,
        size=arguments.size,
        seed=arguments.seed,
        preset=arguments.preset,
        amodal=arguments.amodal,
        workers=arguments.workers,
    )
    say(f"{sum(counts.values())} scenes in {arguments.out}")


def convert(arguments: argparse.Namespace) -> int:
    """Converts label files, and prints the report; exit code 1 if a file is damaged, or nothing was written."""
    from roadtopo_lib.config import PRESETS, LaneSegmentationConfig
    from roadtopo_lib.data.convert import FORMATS
    from roadtopo_lib.data.convert.names import read_classes

    names = ("images", "split", "val_share", "line_width", "limit", "workers")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if str(arguments.classes) in PRESETS:
        options["classes"] = LaneSegmentationConfig.preset(str(arguments.classes)).class_table
    elif arguments.classes is not None:
        options |= read_classes(arguments.classes)
    report = FORMATS[arguments.format](arguments.src, arguments.dst, **options)
    say(report)
    if not report.written:
        hint = "" if arguments.images else "; if the images lie elsewhere, give their folder: --images FOLDER"
        say(f"road-topology: nothing was written{hint}", error=True)
    return 1 if report.damaged or not report.written else 0


def check_data(arguments: argparse.Namespace) -> int:
    """Prints what is wrong with a data set; exit code 1 if training would suffer."""
    from roadtopo_lib.app.check_data import check_data
    from roadtopo_lib.app.set_aside import undo
    from roadtopo_lib.config import load_config

    if arguments.undo:
        for line in undo(arguments.root):
            say(line)
        return 0
    if arguments.model is not None:
        from roadtopo_lib.pipeline import LaneSegmenter

        config = LaneSegmenter.from_checkpoint(arguments.model, "cpu").config
    else:
        config = load_config(arguments.config)
    return check_data(arguments.root, config, arguments.split, arguments.json, arguments.fix)


def doctor(arguments: argparse.Namespace) -> int:
    """Checks the installation, or a model with data."""
    if arguments.determinism:
        return import_module("roadtopo_lib.app.determinism").main()
    return import_module("roadtopo_lib.app.doctor").main(arguments.model, arguments.data)


def _device(arguments: argparse.Namespace):
    """The torch device asked for; one clear line if it does not exist."""
    import torch

    if arguments.device is None:
        return None
    try:
        device = torch.device(arguments.device)
        torch.zeros(1, device=device).item()  # "meta" exists, but holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {arguments.device}: not available ({str(error).splitlines()[0]})") from None
    return device
