"""The command line: parses arguments and runs a command. It contains no logic.

Wrong input ends with exit code 2 and one line; ``--debug`` shows the traceback instead.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from roadtopo_lib import __version__
from roadtopo_lib.app import commands
from roadtopo_lib.console import open_streams, say
from roadtopo_lib.data import SPLITS

EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError)
"""What wrong input raises; anything else is a bug of ours and keeps its traceback."""

LONGEST = 1000
"""Characters of what is said of an error."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a line in one line, without the usage that ``--help`` shows."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {shortened(message)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; default those of the process.

    Returns:
        Exit code: 0 done, 1 a failed check (``doctor``, ``check-data``) or done but for damaged files or frames
        (``infer``, ``convert``, ``horizon``) or nothing written (``convert``), 2 wrong input, 130 stopped by Ctrl-C
        (SIGINT), 143 by SIGTERM.

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
    """What an error says, without line breaks and ``shortened``: it may quote a file of strangers.

    A ``DataLoader`` raises the error of a worker process anew, with that process's traceback in the message: what the
    error itself says stands behind its name, at the end.
    """
    text = str(error)
    if "in DataLoader worker process" in text:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return shortened(" ".join(text.split()))


def shortened(text: str) -> str:
    """A text without its middle if it has more than ``LONGEST`` characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


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
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = _task(subparsers, "train", "train a model", common)
    train.add_argument("--config", required=True, help="YAML file, or a preset, such as tiny, unet or own-data")
    train.add_argument("--init", metavar="MODEL", help="begin with the weights of this .safetensors file of a run")
    train.add_argument("--data", required=True, type=_path, help="folder with train/ and val/")
    train.add_argument("--epochs", type=int, help="instead of the config's")
    train.add_argument("--output", type=_path, default=Path("runs/lane"), help="of the run (default %(default)s)")
    train.add_argument("--seed", type=int, help="instead of the config's")
    train.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    train.add_argument("--overwrite", action="store_true", help="replace a run that is already in the output folder")
    train.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if there is one")
    train.add_argument(
        "--checkpoint-every", type=int, metavar="STEPS", help="also save after that many steps (default: each 10 min)"
    )
    train.add_argument(
        "--keep", metavar="MODELS", help="more than best and last: best_miou,best_mbou,last3 (default: the preset's)"
    )
    train.set_defaults(run=commands.train)

    sweep = subparsers.add_parser("sweep", help="compare settings", parents=[common], allow_abbrev=False)
    sweep.add_argument("space", type=_path, help="YAML: setting → list of values, or low, high and log")
    sweep.add_argument("--config", required=True, help="what all runs have in common: YAML file, or a preset")
    sweep.add_argument("--data", required=True, type=_path, help="folder with train/ and val/")
    sweep.add_argument("--output", type=_path, default=Path("runs/sweep"), help="of all runs (default %(default)s)")
    sweep.add_argument("--runs", type=int, help="so many random draws (default: every combination of the values)")
    sweep.add_argument("--seed", type=int, default=0, help="of the draws")
    sweep.add_argument("--epochs", type=int, help="instead of the config's")
    sweep.add_argument("--score", default="val_miou", help="column of the history that judges (default %(default)s)")
    sweep.add_argument("--device")
    sweep.set_defaults(run=commands.sweep)

    evaluate = _task(subparsers, "evaluate", "score a model on labelled images", common)
    evaluate.add_argument("--model", required=True, type=_path, help="a .safetensors file of a run")
    evaluate.add_argument("--data", required=True, type=_path, help="data folder, or one of its splits")
    evaluate.add_argument("--split", help="train, val or test (default: the split that --data names; test; val)")
    evaluate.add_argument("--baselines", action="store_true", help="score the two baselines on the same images")
    evaluate.add_argument(
        "--metrics", default="semantic,instance", help="some of semantic,instance,culane,tusimple (default %(default)s)"
    )
    evaluate.add_argument("--confidence", type=float, help="leave out what is less sure (default: the model's own)")
    evaluate.add_argument("--output", type=_path, help="write the scores to this JSON file")
    evaluate.add_argument("--device")
    evaluate.set_defaults(run=commands.evaluate)

    infer = _task(subparsers, "infer", "separate lanes in images or a video", common)
    infer.add_argument("--model", required=True, type=_path, help="a .safetensors file of a run")
    infer.add_argument("--input", required=True, type=_path, help="an image, a folder of images, or a video")
    infer.add_argument(
        "--output", required=True, type=_path, help="a picture (for one image), a folder, or of a video FILM.mp4"
    )
    infer.add_argument("--visualize", action="store_true", help="also paint the lanes over the image")
    infer.add_argument(
        "--format",
        choices=("json", "tusimple", "culane", "labelme"),
        help="write what other tools read, also for subfolders",
    )
    infer.add_argument("--h-samples", type=_path, metavar="GT.json", help="TuSimple's labels: its images, at its rows")
    infer.add_argument("--confidence", type=float, help="leave out what is less sure (default: the model's own)")
    infer.add_argument(
        "--resume",
        action="store_true",
        help="leave out what has complete results of this model; give the same --confidence",
    )
    infer.add_argument(
        "--tile", type=int, metavar="PIXELS", help="see the image in tiles, at its own resolution; keeps all lanes"
    )
    infer.add_argument("--fast", action="store_true", help="one view of an image in place of two: finds a little less")
    infer.add_argument("--overlap", type=int, default=64, help="pixels that tiles share (default %(default)s)")
    infer.add_argument("--device")
    infer.set_defaults(run=commands.infer)

    export = subparsers.add_parser("export", help="write a model for other programs", allow_abbrev=False)
    forms = export.add_subparsers(title="forms", metavar="FORM", required=True)
    onnx = forms.add_parser("onnx", help="an ONNX file, for runtimes without PyTorch", parents=[common])
    onnx.add_argument("--model", required=True, type=_path, help="a .safetensors file of a run")
    onnx.add_argument("--output", required=True, type=_path, metavar="FILE.onnx", help="the file to write")
    onnx.add_argument(
        "--probabilities", action="store_true", help="class probabilities at the images' size in place of logits"
    )
    onnx.add_argument(
        "--int8", type=_path, metavar="IMAGES", help="in 8 bits: images, or a data set, that show the usual ranges"
    )
    onnx.set_defaults(run=commands.export_onnx)
    folder = forms.add_parser("folder", help="a folder with weights, config and model card", parents=[common])
    folder.add_argument("--model", required=True, type=_path, help="a .safetensors file of a run")
    folder.add_argument("--output", required=True, type=_path, metavar="FOLDER", help="the folder to write")
    folder.set_defaults(run=commands.export_folder)

    calibrate = _task(subparsers, "calibrate", "fit how sure a model may be, into its file", common)
    calibrate.add_argument("--model", required=True, type=_path, help="a .safetensors file; it is replaced")
    calibrate.add_argument("--data", required=True, type=_path, help="labelled images that no training saw")
    calibrate.add_argument("--split", help="train, val or test (default: as of evaluate)")
    calibrate.add_argument("--picture", type=_path, metavar="PNG", help="the reliability diagrams")
    calibrate.add_argument("--device")
    calibrate.set_defaults(run=commands.calibrate)

    horizon = subparsers.add_parser(
        "horizon", help="find the horizon, and the crop_top for a config", parents=[common], allow_abbrev=False
    )
    horizon.add_argument("images", nargs="+", type=_path, metavar="IMAGE", help="an image, or a folder of images")
    horizon.add_argument("--model", type=_path, help="a .safetensors file of a run, which finds the lanes")
    horizon.add_argument(
        "--lines", nargs="+", type=_line, metavar="x1,y1,x2,y2", help="lanes drawn by hand, in place of a model"
    )
    horizon.add_argument("--device")
    horizon.set_defaults(run=commands.horizon)

    synth = subparsers.add_parser("synth", help="render a labelled data set", parents=[common], allow_abbrev=False)
    synth.add_argument("--out", required=True, type=_path, help="folder to write")
    for split in SPLITS:
        synth.add_argument(f"--{split}", type=int, default=0, metavar="N", help=f"scenes in {split}/")
    synth.add_argument("--size", type=_size, default=(256, 512), metavar="HxW", help="pixels (default 256x512)")
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument(
        "--preset",
        choices=("day", "all", "night-ride", "wild", "painted", "aerial"),
        default="all",
        help="kinds of scenes (all); wild: to train models for photographs, its val is painted",
    )
    synth.add_argument("--amodal", action="store_true", help="labels run on through gaps and behind vehicles")
    synth.add_argument("--workers", type=int, help="processes (default: all cores)")
    synth.set_defaults(run=commands.synth)

    convert = subparsers.add_parser(
        "convert", help="turn label files of another format into a data set", parents=[common], allow_abbrev=False
    )
    convert.add_argument("format", choices=("labelme", "tusimple", "culane", "bdd100k", "coco", "camvid"))
    convert.add_argument("src", type=_path, help="label file or folder")
    convert.add_argument("dst", type=_path, help="folder of the data set")
    convert.add_argument("--images", type=_path, help="folder of the images, if not beside the labels")
    convert.add_argument(
        "--split", choices=SPLITS, help="split of all images (default: what the format says, or train)"
    )
    convert.add_argument("--val-share", type=float, default=0.0, help="share of the recordings in train that go to val")
    convert.add_argument("--line-width", type=float, help="of lanes: pixels from 1 on, a share of the width below 1")
    convert.add_argument("--limit", type=int, help="stop after that many images")
    convert.add_argument("--workers", type=int, help="processes (default: all cores)")
    convert.add_argument(
        "--classes", type=_path, help="YAML: their names to ours, or a class table; or a preset's name"
    )
    convert.set_defaults(run=commands.convert)

    check = subparsers.add_parser(
        "check-data", help="find everything that is wrong with a data set", parents=[common], allow_abbrev=False
    )
    check.add_argument("root", type=_path, help="data folder, or one of its splits")
    check.add_argument("--json", type=_path, help="write the report to this file, too")
    change = check.add_mutually_exclusive_group()
    change.add_argument("--fix", action="store_true", help="set unusable samples aside, in ROOT/_set_aside")
    change.add_argument("--undo", action="store_true", help="put back what the last --fix changed, and check nothing")
    check.add_argument("--split", help="look at this split only")
    settings = check.add_mutually_exclusive_group()
    settings.add_argument("--config", default="tiny", help="class table and image size (default: the preset tiny)")
    settings.add_argument("--model", type=_path, help="the same, as a .safetensors file of a run was trained with")
    check.set_defaults(run=commands.check_data)

    doctor = subparsers.add_parser("doctor", help="check this installation, or a model with data", parents=[common])
    doctor.add_argument("--model", type=Path, help="a .safetensors file of a run, to be tried on --data")
    doctor.add_argument("--data", type=Path, help="data folder, or one of its splits")
    doctor.add_argument("--determinism", action="store_true", help="say which operations are not deterministic here")
    doctor.set_defaults(run=commands.doctor)
    return parser


def _task(subparsers: argparse._SubParsersAction, name: str, text: str, common: argparse.ArgumentParser):
    """``road-topology NAME lane``: the task has its own level, as other road-topology tasks may follow."""
    tasks = subparsers.add_parser(name, help=text).add_subparsers(title="tasks", metavar="TASK", required=True)
    return tasks.add_parser("lane", help=f"{text}: lanes and crosswalks", parents=[common], allow_abbrev=False)


def _path(text: str) -> Path:
    if not text.strip("\0") or "\0" in text:
        raise argparse.ArgumentTypeError("an empty name, expected a file or folder")
    return Path(text)


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
