"""Do the notebooks notice when the library goes wrong? Plants faults in a copy, one at a time, and runs nbval.

``make soak`` runs all of them, one to four minutes a fault; ``make test`` runs those in ``SAMPLE``. A line for each
fault names the notebook and the first cell that failed. Exit code 1 if a fault went unnoticed, or if a notebook fails
without any.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    """One change of one line."""

    what: str
    file: str
    old: str
    new: str
    notebook: str


FAULTS = [
    Fault(
        "the sphere's reach is taken for 3",
        "config.py",
        "reach = math.sqrt(2 * instances / (instances - 1))",
        "reach = 3.0",
        "01_config",
    ),
    Fault(
        "the encoder learns at the full rate",
        "training/optimizer.py",
        'config.lr * part["lr_scale"]',
        "config.lr",
        "01_config",
    ),
    Fault(
        "masks are resampled bilinearly",
        "dataset.py",
        "mask_interpolation=cv2.INTER_NEAREST",
        "mask_interpolation=cv2.INTER_LINEAR",
        "02_dataset",
    ),
    Fault("RGB masks without black are accepted", "data/images.py", "if colors[0] != 0:", "if False:", "02_dataset"),
    Fault(
        "the model forgets the mean",
        "segformer.py",
        "normalized = (images - self.pixel_mean) / self.pixel_std",
        "normalized = images / self.pixel_std",
        "03_model",
    ),
    Fault(
        "B5 gets the depths of B4",
        "segformer.py",
        '"b5": {"depths": [3, 6, 40, 3]',
        '"b5": {"depths": [3, 8, 27, 3]',
        "03_model",
    ),
    Fault(
        "a sign in the pull hinge",
        "losses/discriminative.py",
        "(deviation - self.delta_var).relu()",
        "(deviation + self.delta_var).relu()",
        "04_losses",
    ),
    Fault(
        "the push margin is halved",
        "losses/discriminative.py",
        "(2 * self.delta_dist - apart)",
        "(self.delta_dist - apart)",
        "04_losses",
    ),
    Fault(
        "two class ids are exchanged",
        "labels.py",
        "BACKGROUND, ROAD, LANE_MARKING, CROSSWALK,",
        "BACKGROUND, ROAD, CROSSWALK, LANE_MARKING,",
        "06_postprocessing",
    ),
    Fault(
        "gradients are clipped before unscaling",
        "trainer_lane.py",
        "self.scaler.unscale_(self.optimizer)",
        "pass",
        "05_training",
    ),
    Fault(
        "emulated bfloat16 counts as native",
        "training/amp.py",
        "torch.cuda.is_bf16_supported(including_emulation=False)",
        "torch.cuda.is_bf16_supported()",
        "05_training",
    ),
    Fault(
        "lanes are ordered by their mean x",
        "postprocess/curves.py",
        'return np.argsort([x_at_row(polyline, reference_row) for polyline in polylines], kind="stable")',
        "return np.argsort([lane[:, 0].mean() for lane in polylines])",
        "06_postprocessing",
    ),
    Fault(
        "the radius is twice the margin",
        "postprocess/clustering.py",
        "return float(delta_dist)",
        "return float(2 * delta_dist)",
        "06_postprocessing",
    ),
    Fault(
        "the model is left in training mode",
        "pipeline.py",
        "self.model = model.to(self.device).eval()",
        "self.model = model.to(self.device).train()",
        "06_postprocessing",
    ),
    Fault(
        "Boundary IoU's band is halved",
        "metrics/semantic.py",
        "BOUNDARY_RATIO = 0.02",
        "BOUNDARY_RATIO = 0.01",
        "07_end_to_end",
    ),
    Fault(
        "lanes match at any overlap",
        "metrics/lanes.py",
        "matched, _ = match_by_iou(iou, self.iou_threshold)",
        "matched, _ = match_by_iou(iou, 0.1)",
        "07_end_to_end",
    ),
    Fault(
        "crossings are numbered from far to near",
        "postprocess/__init__.py",
        "np.argsort(-crossing_centers[:, 1]",
        "np.argsort(crossing_centers[:, 1]",
        "06_postprocessing",
    ),
    Fault(
        "a crossing takes the id of a lane",
        "postprocess/__init__.py",
        'np.add(crosswalks, result["lane_count"], out=',
        "np.add(crosswalks, 0, out=",
        "06_postprocessing",
    ),
    Fault(
        "crossings are numbered by their lower ends",
        "postprocess/__init__.py",
        'near_to_far = np.argsort(-crossing_centers[:, 1], kind="stable")',
        'near_to_far = np.argsort([-p.max() for p in crossings], kind="stable").astype(int)',
        "06_postprocessing",
    ),
    Fault(
        "crossings are never separated",
        "postprocess/__init__.py",
        "crossings = _split(*crosswalks, min_pixels)",
        "crossings = [crosswalks[0]] if len(crosswalks[0]) else []",
        "06_postprocessing",
    ),
    Fault(
        "a lane's centre is the mean of its pixels",
        "postprocess/__init__.py",
        "[center_on_curve(polylines[i], lane_pixels[i] % width, lane_pixels[i] // width) for i in order]",
        "[((lane_pixels[i] % width).mean(), (lane_pixels[i] // width).mean()) for i in order]",
        "06_postprocessing",
    ),
    Fault(
        "an image without instances pulls the mean down",
        "losses/discriminative.py",
        "images = (instances > 0).sum()",
        "images = torch.tensor(len(instances))",
        "04_losses",
    ),
    Fault(
        "an image without instances counts if it comes first",
        "losses/discriminative.py",
        "images = (instances > 0).sum()",
        "images = ((instances > 0) * torch.arange(1, len(instances) + 1)).amax()",
        "04_losses",
    ),
    Fault(
        "Dice counts pixels that nobody labelled",
        "losses/region.py",
        "probabilities = probabilities * valid[:, None]",
        "pass",
        "04_losses",
    ),
    Fault(
        "validation runs in training mode",
        "trainer_lane.py",
        "        self.model.eval()\n        meter = Meter()",
        "        self.model.train()\n        meter = Meter()",
        "05_training",
    ),
    Fault(
        "an epoch trains in evaluation mode",
        "trainer_lane.py",
        "        self.model.train()\n        self.state.model = None",
        "        self.state.model = None",
        "05_training",
    ),
    Fault(
        "predict runs a head in training mode",
        "segformer.py",
        "        self.eval()\n        try",
        "        self.semantic_head.eval()\n        try",
        "03_model",
    ),
    Fault(
        "predict leaves the model in evaluation mode",
        "segformer.py",
        "self.train(was_training)",
        "pass",
        "03_model",
    ),
    Fault(
        "only the first epoch trains in training mode",
        "trainer_lane.py",
        "        self.model.train()\n        self.state.model = None",
        "        self.model.train(self.state.epoch == 0)\n        self.state.model = None",
        "05_training",
    ),
    Fault(
        "the decay of the settings does not reach Muon",
        "training/optimizer.py",
        "return Muon(groups, **shared)",
        "return Muon(groups, betas=config.betas)",
        "05_training",
    ),
    Fault(
        "Muon's matrices do not decay",
        "training/optimizer.py",
        'p.mul_(1 - lr * group["weight_decay"])',
        "p",
        "05_training",
    ),
    Fault(
        "the old file is removed before the new one is in place",
        "files.py",
        "        temporary.replace(path)",
        "        Path(path).unlink(missing_ok=True)\n        temporary.replace(path)",
        "05_training",
    ),
    Fault(
        "a file is written in place",
        "files.py",
        "        temporary.replace(path)",
        "        path.write_bytes(temporary.read_bytes())",
        "05_training",
    ),
    Fault(
        "Muon does not look ahead",
        "training/optimizer.py",
        "wide = _wide(p.grad.lerp(average, momentum))",
        "wide = _wide(average)",
        "05_training",
    ),
    Fault(
        "a skipped step moves the schedule",
        "trainer_lane.py",
        "            return  # the step was skipped",
        "            pass  # the step was skipped",
        "05_training",
    ),
    Fault(
        "a run that goes on begins its schedule again",
        "trainer_lane.py",
        "self.config.warmup_fraction, self.state.step)",
        "self.config.warmup_fraction, 0)",
        "05_training",
    ),
    Fault(
        "what crop_top cuts off becomes road",
        "pipeline.py",
        "np.full(size, BACKGROUND, dtype=np.int64)",
        "np.full(size, 1, dtype=np.int64)",
        "01_config",
    ),
    Fault(
        "scores of classes count unlabelled pixels",
        "metrics/semantic.py",
        "        counted = target != self.ignore_index\n        pairs",
        "        target = np.where(target == self.ignore_index, 0, target)\n"
        "        counted = target >= 0\n        pairs",
        "02_dataset",
    ),
    Fault(
        "predict keeps gradients",
        "segformer.py",
        "    @torch.inference_mode()\n    def predict",
        "    def predict",
        "03_model",
    ),
    Fault(
        "a group without parameters is accepted",
        "segformer.py",
        "if not encoder or not heads or len(encoder)",
        "if len(encoder)",
        "03_model",
    ),
    Fault(
        "weighted Dice counts absent classes",
        "losses/region.py",
        "present * self.class_weights.to(truth)",
        "self.class_weights.to(truth)",
        "04_losses",
    ),
    Fault(
        "unlabelled pixels count in the shares of a step",
        "losses/criterion.py",
        "labelled = mask != self.ignore_index",
        "labelled = mask >= 0",
        "05_training",
    ),
    Fault(
        "images without instances count in the shares of a step",
        "losses/criterion.py",
        '(batch["instance_mask"] != NO_INSTANCE).flatten(1).any(dim=1).sum()',
        "torch.tensor(len(mask))",
        "05_training",
    ),
    Fault(
        "less sure pixels decide",
        "postprocess/__init__.py",
        "MIN_CONFIDENCE = 0.7",
        "MIN_CONFIDENCE = 0.6",
        "06_postprocessing",
    ),
    Fault(
        "half the size is large enough",
        "postprocess/__init__.py",
        "MIN_PIXELS_SHARE = 1e-3",
        "MIN_PIXELS_SHARE = 5e-4",
        "06_postprocessing",
    ),
    Fault(
        "a lane may span less of its curve",
        "postprocess/road.py",
        "SUPPORT = 0.2",
        "SUPPORT = 0.15",
        "06_postprocessing",
    ),
    Fault(
        "TuSimple forgives no lane",
        "metrics/lanes.py",
        "TUSIMPLE_COUNTED_LANES = 4",
        "TUSIMPLE_COUNTED_LANES = 99",
        "07_end_to_end",
    ),
    Fault(
        "a row without lane and prediction is wrong",
        "metrics/lanes.py",
        "right = distance < thresholds.reshape(-1, 1, 1)",
        "right = (distance < thresholds.reshape(-1, 1, 1)) & (target[:, None] >= 0)",
        "07_end_to_end",
    ),
    Fault(
        "logits of two views are averaged",
        "pipeline.py",
        "logs.logsumexp(dim=0) - np.log(len(outputs))",
        "logs.mean(dim=0)",
        "07_end_to_end",
    ),
    Fault(
        "the best model's file holds the latest epoch",
        "training/recorders.py",
        "if not earlier or latest < min(",
        "if True or latest < min(",
        "07_end_to_end",
    ),
    Fault(
        "the instance mask is moved by a second draw",
        "dataset.py",
        'return out["image"], out["masks"][0], out["masks"][1]',
        'return out["image"], out["masks"][0], self.compose(image=image, mask=instance)["mask"]',
        "02_dataset",
    ),
    Fault(
        "the image is moved by a second draw",
        "dataset.py",
        'return out["image"], out["masks"][0], out["masks"][1]',
        'return self.compose(image=image)["image"], out["masks"][0], out["masks"][1]',
        "02_dataset",
    ),
    Fault(
        "the network sees an image at its own size",
        "pipeline.py",
        "area = scale**2 * np.prod(self.config.image_size)",
        "area = scale**2 * max(height * width / 4, np.prod(self.config.image_size))",
        "03_model",
    ),
    Fault(
        "the files of val are not checked before a training",
        "app/train.py",
        "        check_every_file(val_set)\n",
        "",
        "05_training",
    ),
    Fault(
        "a run writes no state after an epoch",
        "training/run_folder.py",
        "            file.on_epoch(trainer, row)\n        self._write_state(trainer)",
        "            file.on_epoch(trainer, row)",
        "05_training",
    ),
    Fault(
        "a run that is resumed begins anew",
        "app/train.py",
        "state = folder.newest() if resume else RunState()",
        "state = RunState()",
        "05_training",
    ),
    Fault(
        "the schedule counts batches",
        "trainer_lane.py",
        "math.ceil(len(train_loader) / self.config.accumulation_steps)",
        "len(train_loader)",
        "05_training",
    ),
    Fault(
        "the 20 % rule does without a confidence",
        "postprocess/__init__.py",
        "share_road = curves_of_given_lanes if confidence is None else curves_of_road",
        "share_road = curves_of_road",
        "06_postprocessing",
    ),
    Fault(
        "one sure pixel is enough",
        "postprocess/__init__.py",
        "if len(core) >= min_pixels",
        "if len(core) > 0",
        "06_postprocessing",
    ),
    Fault(
        "val is scored where a test split lies beside it",
        "data/samples.py",
        '"val" if list_splits(data)[-1:] == ["val"] else "test"',
        '"val" if "val" in list_splits(data) else "test"',
        "07_end_to_end",
    ),
    Fault(
        "lanes of labels keep the order of their file",
        "data/convert/drawing.py",
        'sorted(by_role["lane"].values(), key=lambda lane: _x_at_reference(_points_of(lane), size[0]))',
        'list(by_role["lane"].values())',
        "07_end_to_end",
    ),
    Fault(
        "lanes of labels are drawn over crosswalks",
        "data/convert/drawing.py",
        "for number, members in enumerate(instances, start=1):",
        "for number, members in reversed([*enumerate(instances, start=1)]):",
        "07_end_to_end",
    ),
    Fault(
        "a recording is divided between train and val",
        "data/convert/writing.py",
        "splits.setdefault(record.recording,",
        "splits.setdefault(record.name,",
        "07_end_to_end",
    ),
    Fault(
        "neighbours in two splits are not reported",
        "app/survey.py",
        "elif distance <= NEAR_BITS:",
        "elif False:",
        "07_end_to_end",
    ),
    Fault(
        "all splits hold the same scenes",
        "scenes/synth.py",
        "_Task(out, split, k, image_seed(seed, split, k),",
        '_Task(out, split, k, image_seed(seed, "train", k),',
        "07_end_to_end",
    ),
    Fault(
        "a confusion matrix holds the last image only",
        "metrics/semantic.py",
        "self.matrix += np.bincount",
        "self.matrix = np.bincount",
        "07_end_to_end",
    ),
    Fault(
        "matches are those of the last image",
        "metrics/instances.py",
        "self.tp += matches",
        "self.tp = matches",
        "07_end_to_end",
    ),
    Fault(
        "the second view is not mirrored",
        "pipeline.py",
        "View(self._resized(image, SECOND_VIEW_SCALE).flip(3), mirrored=True)",
        "View(self._resized(image, SECOND_VIEW_SCALE))",
        "07_end_to_end",
    ),
    Fault(
        "an epoch of fine-tuning has the length of the set",
        "dataset.py",
        "draws = config.steps_per_epoch * config.batch_size * config.accumulation_steps or None if shuffle else None",
        "draws = None",
        "07_end_to_end",
    ),
    Fault(
        "crop_top cuts the horizon off",
        "app/horizon.py",
        "np.quantile(shares, 0.05) - CROP_MARGIN",
        "np.quantile(shares, 0.05) + CROP_MARGIN",
        "07_end_to_end",
    ),
    Fault(
        "old counts are taken from the cache",
        "data/counting.py",
        'if entry["fingerprint"] == fingerprint:',
        "if entry:",
        "E1_class_imbalance",
    ),
    Fault(
        "Dice adds its weighted classes up",
        "losses/region.py",
        "mean = ((loss * weights).sum(dim=-1) / _not_zero(total)).sum() / _not_zero(images)",
        "mean = (loss * weights).sum(dim=-1).sum() / _not_zero(images)",
        "E1_class_imbalance",
    ),
]


SAMPLE = ("the sphere's reach is taken for 3", "RGB masks without black are accepted", "a sign in the pull hinge")
"""Faults that ``make test`` plants, in three notebooks that run quickly."""


def main() -> int:
    """Runs all faults, or those whose notebook is named on the command line."""
    faults = [fault for fault in FAULTS if len(sys.argv) < 2 or fault.notebook in sys.argv[1:]]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_course(Path(folder))
        for notebook in sorted({fault.notebook for fault in faults}):
            failed = first_failing_cell(copy, notebook)
            if failed:  # then a fault would prove nothing
                raise SystemExit(f"{notebook} fails without any fault: {failed}")
        for fault in faults:
            caught = caught_by(copy, fault)
            unnoticed += caught is None
            print(f"{fault.what:40s} {fault.notebook:18s} {caught or 'NOT NOTICED'}", flush=True)
    return 1 if unnoticed else 0


def copy_of_course(folder: Path) -> Path:
    """A copy of the clone in which faults may be planted."""
    left_out = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", "*.egg-info")
    return Path(shutil.copytree(ROOT, folder / "course", ignore=left_out))


def caught_by(copy: Path, fault: Fault) -> str | None:
    """Plants a fault, runs its notebook and mends the copy; returns what ``first_failing_cell`` says."""
    path = copy / "roadtopo_lib" / fault.file
    sound = path.read_text(encoding="utf-8")
    if fault.old not in sound:
        raise SystemExit(f"{fault.file}: {fault.old!r} is not there any more: bring the list up to date")
    path.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    try:
        return first_failing_cell(copy, fault.notebook)
    finally:
        path.write_text(sound, encoding="utf-8")


def first_failing_cell(copy: Path, notebook: str) -> str | None:
    """What nbval calls the first cell that fails, and the first line of that cell."""
    # PYTHONPATH: the copy must win over an installed library.
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    (path,) = (copy / "notebooks").rglob(f"{notebook}.ipynb")  # an elective's lies one folder down
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--nbval", str(path.relative_to(copy))]
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if run.returncode == 0:
        return None
    cell = re.search(r"^(?:FAILED|ERROR) \S+::(Cell \d+)", run.stdout, re.MULTILINE)
    source = re.search(r"Input:\s*\n(?:\x1b\[[0-9;]*m)*(.+)", run.stdout)
    return f"{cell[1] if cell else 'a cell'}: {source[1].strip() if source else run.stdout.strip().splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main())
