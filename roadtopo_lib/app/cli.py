"""The command line: parses arguments, calls the library, prints the results. It contains no logic.

Wrong input ends with exit code 2 and one line; ``--debug`` shows the traceback instead.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from roadtopo_lib import __version__
from roadtopo_lib.console import open_streams, say
from roadtopo_lib.data import SPLITS

EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError)
"""What wrong input raises; anything else is a bug of ours and keeps its traceback."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a line in one line, without the usage that ``--help`` shows."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; default those of the process.

    Returns:
        Exit code: 0 done, 1 a failed check (``doctor``, ``check-data``) or done but for damaged files or frames
        (``infer``, ``convert``, ``horizon``), 2 wrong input, 130 stopped by Ctrl-C (SIGINT), 143 by SIGTERM.

    Raises:
        SystemExit: with code 2, a line that cannot be parsed; with code 0, after ``--help`` or ``--version``.
    """
    open_streams()
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except EXPECTED_ERRORS as error:
        if arguments.debug:
            raise
        say(f"road-topology: {one_line(error)}", error=True)
        return 2
    except KeyboardInterrupt as stop:
        if arguments.debug:
            raise
        say(f"road-topology: {str(stop) or 'interrupted'}", error=True)
        return getattr(stop, "exit_code", 130)


def one_line(error: Exception) -> str:
    """What an error says, without line breaks.

    A ``DataLoader`` raises the error of a worker process anew, with that process's traceback in the message: what the
    error itself says stands behind its name, at the end.
    """
    text = str(error)
    if "in DataLoader worker process" in text:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return " ".join(text.split())


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    debug = {"action": "store_true", "help": "show the traceback of an error"}
    common = Parser(add_help=False)
    common.add_argument("--debug", **debug, default=argparse.SUPPRESS)  # unless given, what stands in front counts

    parser = Parser(
        prog="road-topology", description="Separates lanes and crosswalks into instances.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", **debug)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = _task(commands, "train", "train a model", common)
    train.add_argument("--config", required=True, help="YAML file, or a preset: tiny, own-data, finetune, b0 .. b5")
    train.add_argument("--init", metavar="MODEL", help="begin with the weights of this .safetensors file of a run")
    train.add_argument("--data", required=True, type=Path, help="folder with train/ and val/")
    train.add_argument("--epochs", type=int, help="instead of the config's")
    train.add_argument("--output", type=Path, default=Path("runs/lane"), help="folder of the run (default %(default)s)")
    train.add_argument("--seed", type=int, help="instead of the config's")
    train.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    train.add_argument("--overwrite", action="store_true", help="replace a run that is already in the output folder")
    train.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if there is one")
    train.add_argument(
        "--checkpoint-every", type=int, metavar="STEPS", help="also save after that many steps (default: each 10 min)"
    )
    train.set_defaults(run=_train)

    evaluate = _task(commands, "evaluate", "score a model on labelled images", common)
    evaluate.add_argument("--model", required=True, type=Path, help="a .safetensors file of a run")
    evaluate.add_argument("--data", required=True, type=Path, help="data folder, or one of its splits")
    evaluate.add_argument("--split", help="train, val or test (default: the split that --data names; test; val)")
    evaluate.add_argument("--baselines", action="store_true", help="score the two baselines on the same images")
    evaluate.add_argument(
        "--metrics", default="semantic,instance", help="some of semantic,instance,culane,tusimple (default %(default)s)"
    )
    evaluate.add_argument("--output", type=Path, help="write the scores to this JSON file")
    evaluate.add_argument("--device")
    evaluate.set_defaults(run=_evaluate)

    infer = _task(commands, "infer", "separate lanes in images or a video", common)
    infer.add_argument("--model", required=True, type=Path, help="a .safetensors file of a run")
    infer.add_argument("--input", required=True, type=Path, help="an image, a folder of images, or a video")
    infer.add_argument("--output", required=True, type=Path, help="a picture (for one image) or a folder")
    infer.add_argument("--visualize", action="store_true", help="also paint the lanes over the image")
    infer.add_argument(
        "--format",
        choices=("json", "tusimple", "culane", "labelme"),
        help="write what other tools read, also for subfolders",
    )
    infer.add_argument("--h-samples", type=Path, metavar="GT.json", help="TuSimple's labels: its images, at its rows")
    infer.add_argument(
        "--resume", action="store_true", help="leave out what has complete results of this model; not with --format"
    )
    infer.add_argument("--device")
    infer.set_defaults(run=_infer)

    horizon = commands.add_parser(
        "horizon", help="find the horizon, and the crop_top for a config", parents=[common], allow_abbrev=False
    )
    horizon.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    horizon.add_argument("--model", type=Path, help="a .safetensors file of a run, which finds the lanes")
    horizon.add_argument(
        "--lines", nargs="+", type=_line, metavar="x1,y1,x2,y2", help="lanes drawn by hand, in place of a model"
    )
    horizon.add_argument("--device")
    horizon.set_defaults(run=_horizon)

    synth = commands.add_parser("synth", help="render a labelled data set", parents=[common], allow_abbrev=False)
    synth.add_argument("--out", required=True, type=Path, help="folder to write")
    for split in SPLITS:
        synth.add_argument(f"--{split}", type=int, default=0, metavar="N", help=f"scenes in {split}/")
    synth.add_argument("--size", type=_size, default=(256, 512), metavar="HxW", help="pixels (default 256x512)")
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument("--preset", choices=("day", "all"), default="all", help="kinds of scenes (default %(default)s)")
    synth.add_argument("--amodal", action="store_true", help="labels run on through gaps and behind vehicles")
    synth.add_argument("--workers", type=int, help="processes (default: all cores)")
    synth.set_defaults(run=_synth)

    convert = commands.add_parser(
        "convert", help="turn label files of another format into a data set", parents=[common], allow_abbrev=False
    )
    convert.add_argument("format", choices=("labelme", "tusimple", "culane", "bdd100k", "coco", "camvid"))
    convert.add_argument("src", type=Path, help="label file or folder")
    convert.add_argument("dst", type=Path, help="folder of the data set")
    convert.add_argument("--images", type=Path, help="folder of the images, if not beside the labels")
    convert.add_argument(
        "--split", choices=SPLITS, help="split of all images (default: what the format says, or train)"
    )
    convert.add_argument("--val-share", type=float, default=0.0, help="share of the recordings in train that go to val")
    convert.add_argument("--line-width", type=float, help="of lanes: pixels from 1 on, a share of the width below 1")
    convert.add_argument("--limit", type=int, help="stop after that many images")
    convert.add_argument("--workers", type=int, help="processes (default: all cores)")
    convert.add_argument("--classes", type=Path, help="YAML: their names to ours, or a class table of your own")
    convert.set_defaults(run=_convert)

    check = commands.add_parser(
        "check-data", help="find everything that is wrong with a data set", parents=[common], allow_abbrev=False
    )
    check.add_argument("root", type=Path, help="data folder, or one of its splits")
    check.add_argument("--json", type=Path, help="write the report to this file, too")
    check.add_argument("--fix", action="store_true", help="set unusable samples aside, in ROOT/_set_aside")
    check.add_argument("--undo", action="store_true", help="put back what the last --fix changed, and check nothing")
    check.add_argument("--split", help="look at this split only")
    settings = check.add_mutually_exclusive_group()
    settings.add_argument("--config", default="tiny", help="class table and image size (default: the preset tiny)")
    settings.add_argument("--model", type=Path, help="the same, as a .safetensors file of a run was trained with")
    check.set_defaults(run=_check_data)

    doctor = commands.add_parser("doctor", help="check this installation", parents=[common])
    doctor.set_defaults(run=_doctor)
    return parser


def _task(commands: argparse._SubParsersAction, name: str, text: str, common: argparse.ArgumentParser):
    """``road-topology NAME lane``: the task has its own level, as other road-topology tasks may follow."""
    tasks = commands.add_parser(name, help=text).add_subparsers(title="tasks", metavar="TASK", required=True)
    return tasks.add_parser("lane", help=f"{text}: lanes and crosswalks", parents=[common], allow_abbrev=False)


# The rooms are imported where they are used: `--help` and `doctor` answer at once, even where torch is missing.


def _train(arguments: argparse.Namespace) -> None:
    from roadtopo_lib.app.initial import load_run_config
    from roadtopo_lib.app.train import train_lane_model
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
    )
    say(f"best validation loss {trainer.state.best_val_loss:.4f}; model: {arguments.output / 'best.safetensors'}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from roadtopo_lib.data.samples import locate_split
    from roadtopo_lib.dataset import LaneInstanceDataset
    from roadtopo_lib.files import check_writable, write_json
    from roadtopo_lib.inference.evaluation import evaluate
    from roadtopo_lib.pipeline import LaneSegmenter

    root, split = locate_split(arguments.data, arguments.split)
    segmenter = LaneSegmenter.from_checkpoint(arguments.model, _device(arguments))
    dataset = LaneInstanceDataset(root, split, classes=segmenter.classes)
    if arguments.output is not None:
        check_writable(arguments.output)
    metrics = [name.strip() for name in arguments.metrics.split(",")]
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


def _infer(arguments: argparse.Namespace) -> int:
    from roadtopo_lib.inference.files import infer_to_files
    from roadtopo_lib.pipeline import LaneSegmenter

    segmenter = LaneSegmenter.from_checkpoint(arguments.model, _device(arguments))
    faults: list[str] = []

    def on_fault(text: str) -> None:
        faults.append(text)
        say(f"road-topology: {text}", error=True)

    options = {"visualize": arguments.visualize, "form": arguments.format, "h_samples": arguments.h_samples}
    if arguments.resume:
        options["newer_than"] = arguments.model.stat().st_mtime
    made = 0
    try:
        for path, lanes in infer_to_files(segmenter, arguments.input, arguments.output, on_fault=on_fault, **options):
            made += 1
            say(f"{path}  {lanes} lanes")
    except KeyboardInterrupt:
        told = f"results of {made} images are complete in {arguments.output}"
        told += "; --resume makes the others" if arguments.format is None else ""
        raise KeyboardInterrupt(f"interrupted; {told}") from None
    return 1 if faults else 0


def _horizon(arguments: argparse.Namespace) -> int:
    from roadtopo_lib.app.horizon import report_horizon

    return report_horizon(arguments.images, arguments.model, arguments.lines, _device(arguments))


def _synth(arguments: argparse.Namespace) -> None:
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


def _convert(arguments: argparse.Namespace) -> int:
    from roadtopo_lib.data.convert import FORMATS
    from roadtopo_lib.data.convert.names import read_classes

    names = ("images", "split", "val_share", "line_width", "limit", "workers")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.classes is not None:
        options |= read_classes(arguments.classes)
    report = FORMATS[arguments.format](arguments.src, arguments.dst, **options)
    say(report)
    return 1 if report.damaged else 0


def _check_data(arguments: argparse.Namespace) -> int:
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


def _doctor(arguments: argparse.Namespace) -> int:
    from roadtopo_lib.app import doctor

    return doctor.main()


def _device(arguments: argparse.Namespace):
    """The torch device asked for; one clear line if it does not exist."""
    import torch

    if arguments.device is None:
        return None
    try:
        device = torch.device(arguments.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {arguments.device}: not available ({str(error).splitlines()[0]})") from None
    return device


def _line(text: str) -> list[tuple[float, float]]:
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x1,y1,x2,y2, for example 300,719,560,420") from None
    return [(x1, y1), (x2, y2)]


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, for example 256x512") from None
    return height, width


if __name__ == "__main__":
    sys.exit(main())
