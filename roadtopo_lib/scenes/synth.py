"""A data set of rendered scenes on disk: parallel, resumable, the same bytes however many processes work on it.

Layout, for each split:
    ``OUT/{train,val,test}/{images/NAME.jpg, semantic_masks/NAME.png, instance_masks/NAME.png}``, and ``OUT/meta.json``.

Every image has a seed of its own, made from (seed, split, index), so no split sees another one's scenes. While a run
is under way each finished image is noted in ``meta.partial.jsonl``; a run that was broken off goes on from there.
"""

import json
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib import __version__
from roadtopo_lib.console import progress_bar
from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.samples import FOLDERS, sample_files, write_sample
from roadtopo_lib.files import check_file, clear_unfinished, list_files, naming, write_atomic
from roadtopo_lib.labels import BINARY_CLASSES
from roadtopo_lib.processes import check_main_guard, locked, start_worker
from roadtopo_lib.scenes.aerial import render_aerial
from roadtopo_lib.scenes.render import PRESETS, Scene, check_size, render_scene

KINDS = (*PRESETS, "aerial")
"""What a data set shows: scenes of ``render_scene``'s presets, or of ``render_aerial``."""

CHOOSING = {("wild", "val"): "painted"}
"""Preset of a split that chooses among models by a style which their training never shows."""

META, JOURNAL = "meta.json", "meta.partial.jsonl"
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What values that are no record raise, or text that is no JSON."""
MOST_SCENES = 1_000_000
"""Of a split, at most."""


@dataclass(frozen=True)
class _Task:
    """One image to render."""

    out: Path
    split: str
    index: int
    seed: int
    size: tuple[int, int]
    preset: str
    amodal: bool

    @property
    def name(self) -> str:
        return f"{self.split}_{self.index:05d}"


def image_seed(seed: int, split: str, index: int) -> int:
    """The seed of one image, from the data set's seed, its split and its place in the split."""
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), index))
    return int(sequence.generate_state(1, np.uint64)[0])


def write_dataset(
    out: str | Path,
    counts: dict[str, int],
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    preset: str = "all",
    amodal: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render a data set of scenes, or the part of it that is still missing.

    Args:
        out: folder to write to; made if missing.
        counts: images per split, keys of train, val, test; a finished data set may be asked to grow, not to shrink.
        size: (H, W) in pixels.
        seed: non-negative integer that decides everything.
        preset: one of `render_scene`'s, or "aerial": roads from above, two classes. The split ``val`` of "wild" is
            "painted".
        amodal: write the amodal labels instead of the visible ones.
        workers: processes; ``None`` takes one per CPU, 1 works in this process.
        progress: show a progress bar on stderr (on a terminal only).

    Returns:
        ``out`` as a Path.

    Raises:
        ValueError: if an argument is out of range, or ``out`` holds other data.
        OSError: if ``out`` cannot be written to.
    """
    out = Path(out)
    size = check_size(size)
    _check(counts, seed, preset, workers)
    settings = {
        "version": __version__, "seed": int(seed), "preset": preset, "size": list(size),
        "labels": "amodal" if amodal else "visible",
    }  # fmt: skip
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is a folder to write to, but {out} is a file")
    with locked(out, "synth"):
        records = _open(out, settings, counts)
        tasks = [
            _Task(out, split, k, image_seed(seed, split, k), size, CHOOSING.get((preset, split), preset), amodal)
            for split in SPLITS
            for k in range(counts.get(split, 0))
        ]
        _render_missing(out, tasks, records, workers or os.cpu_count() or 1, progress)
        write_atomic(out / META, _meta(settings, counts, records))
        (out / JOURNAL).unlink()
    return out


def _render_missing(out: Path, tasks: list[_Task], records: dict[str, dict], workers: int, progress: bool) -> None:
    """Render what has no record or no files, and add its records."""
    missing = [t for t in tasks if f"{t.split}/{t.name}" not in records or not _complete(t)]
    finished = len(tasks) - len(missing)
    with (
        open(out / JOURNAL, "ab", buffering=0) as journal,
        progress_bar(total=len(tasks), initial=finished, desc=f"scenes → {out}", unit="scene",
                     disable=None if progress else True) as bar,
    ):  # fmt: skip
        try:
            for record in _run(missing, workers):
                line = f"{json.dumps(record)}\n".encode()
                with naming(out / JOURNAL):
                    while line:  # a disk that is nearly full takes a part
                        line = line[journal.write(line) :]
                records[f"{record['split']}/{record['name']}"] = record
                finished += 1
                bar.update()
        except KeyboardInterrupt:
            told = f"{out} holds {finished} of {len(tasks)} scenes; the same call makes the others"
            raise KeyboardInterrupt(f"interrupted; {told}") from None


def _check(counts: dict[str, int], seed: int, preset: str, workers: int | None) -> None:
    """Raise ValueError for an argument that is out of range."""
    for split, count in counts.items():
        if split not in SPLITS:
            raise ValueError(f"counts has keys of {SPLITS}, got {split!r}")
        if isinstance(count, bool) or int(count) != count or not 0 <= count <= MOST_SCENES:
            raise ValueError(f"counts[{split!r}] is a whole number from 0 to {MOST_SCENES}, got {count!r}")
    if isinstance(seed, bool) or int(seed) != seed or not 0 <= seed < 2**63:
        raise ValueError(f"seed is a whole number from 0 to 2⁶³ − 1, got {seed!r}")
    if preset not in KINDS:
        raise ValueError(f"preset is one of {KINDS}, got {preset!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is at least 1 (or None for one per CPU), got {workers!r}")


def _open(out: Path, settings: dict, counts: dict[str, int]) -> dict[str, dict]:
    """Make the folders, or check that what lies there belongs to these settings; return the finished records."""
    records: dict[str, dict] = {}
    if (out / META).exists():
        check_file(out / META)
        records = _read(out, settings, counts)
    elif any((out / split / "images").is_dir() and list_files(out / split / "images", "") for split in SPLITS):
        raise ValueError(f"{out} holds images but no {META}: expected an empty folder or one that synth has written")
    folders = [out / split / folder for split in SPLITS if counts.get(split) for folder in FOLDERS]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (out, *folders):
        clear_unfinished(folder)
    if not records:
        write_atomic(out / META, _meta(settings, counts, {}))
    return records


def _read(out: Path, settings: dict, counts: dict[str, int]) -> dict[str, dict]:
    """Records of an earlier run; ValueError if it was another data set."""
    try:
        meta = json.loads((out / META).read_text(encoding="utf-8"))
        records = {_key(record): record for record in meta["images"]}
    except DAMAGED:
        raise ValueError(f"{out / META}: not a list of scenes, expected an empty folder or one of synth's") from None
    found = {key: meta.get(key) for key in settings}
    if found != settings:
        raise ValueError(f"{out} was written with other settings: found {found}, expected {settings}")
    if (out / JOURNAL).exists():
        check_file(out / JOURNAL)
        for line in (out / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(*DAMAGED):  # the run was broken off in the middle of a line: that image is done again
                record = json.loads(line)
                records[_key(record)] = record
    for split in SPLITS:
        held = sum(record["split"] == split for record in records.values())
        if held > counts.get(split, 0):
            raise ValueError(
                f"{out} already holds {held} {split} images, more than the {counts.get(split, 0)} asked for"
            )
    return records


def _key(record: dict) -> str:
    """Which image a record is of; raises one of ``DAMAGED`` for what is no record."""
    if record.keys() - {"camera"} != {"split", "name", "seed", "attributes"} or record["split"] not in SPLITS:
        raise ValueError(f"no record of an image: {record}")
    return f"{record['split']}/{record['name']}"


def _meta(settings: dict, counts: dict[str, int], records: dict[str, dict]) -> str:
    """Text of meta.json: the settings, then one line per image."""
    head = {**settings, "counts": {split: int(counts.get(split, 0)) for split in SPLITS}}
    order = sorted(records.values(), key=lambda r: (SPLITS.index(r["split"]), r["name"]))
    images = ",\n".join("  " + json.dumps(record) for record in order)
    return f'{json.dumps(head, indent=1)[:-2]},\n "images": [\n{images}\n ]\n}}\n'


def _complete(task: _Task) -> bool:
    """Whether all files of an image exist. They appear by rename; only after a power cut may a file be empty."""
    files = sample_files(task.out / task.split, task.name)
    return all(path.exists() and path.stat().st_size > 0 for path in files)


def _run(tasks: list[_Task], workers: int):
    """Render tasks, in this process or in several; yields their records in order."""
    if workers == 1 or len(tasks) < 2:
        yield from map(_render, tasks)
        return
    # A forked child needs no re-import of the caller's script, so that this works without a __main__ guard and in
    # a notebook. It touches nothing but NumPy and OpenCV, hence the warning about threads does not apply.
    method = "fork" if sys.platform == "linux" else "spawn"
    check_main_guard(workers if method == "spawn" else 0)
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            results = pool.map(_render, tasks, chunksize=4)
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    start_worker()
    cv2.setNumThreads(0)


def _render(task: _Task) -> dict:
    """Render one image, write its files and return its record."""
    if task.preset == "aerial":
        view = render_aerial(task.seed, task.size)
        write_sample(task.out / task.split, task.name, view.image, view.semantic, view.instance, BINARY_CLASSES)
        return {"split": task.split, "name": task.name, "seed": task.seed, "attributes": view.attributes}
    scene = render_scene(task.seed, task.size, task.preset)
    semantic = scene.semantic_amodal if task.amodal else scene.semantic_visible
    instance = scene.instance_amodal if task.amodal else scene.instance_visible
    write_sample(task.out / task.split, task.name, scene.image, semantic, instance)
    return _record(task, scene)


def _record(task: _Task, scene: Scene) -> dict:
    """What meta.json says about one image."""
    camera = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(scene.camera).items() if k != "size"}
    return {
        "split": task.split, "name": task.name, "seed": task.seed, "camera": camera, "attributes": scene.attributes,
    }  # fmt: skip
