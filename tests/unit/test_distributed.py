"""Several processes: what they compute together equals what one computes alone, and they end together."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_model import PixelModel

from roadtopo_lib import distributed
from roadtopo_lib.app.cli import main as command_line
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.data.sampling import EpochSampler
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.losses import CombinedLoss, DiscriminativeLoss, FocalLoss, LaneCriterion, MeanOverImages
from roadtopo_lib.models import KINDS
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.meter import Meter
from roadtopo_lib.training.recorders import Recorder

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    image_size=(32, 64), crop_top=0.0, crop_scale=0.6, batch_size=4, epochs=2, color_jitter=0.0, max_grad_norm=1e9,
    model="pixel", repeat_threshold=0.0, muon_lr=0.0,
)  # fmt: skip
WEIGHTS = torch.tensor([0.2, 0.2, 5.0, 1.0, 1.0, 1.0])
PIXEL = ("small_model", "PixelModel")


@pytest.fixture(scope="module", autouse=True)
def pixel_kind():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "pixel", PIXEL)
        yield


def red_apart(outputs, batch):
    """A mean over images that is no mean over pixels."""
    loss = outputs["logits"].square().mean(dim=(1, 2, 3)).sqrt().mean()
    return loss, {"apart": loss.detach()}


def criteria():
    """Every way in which a loss is averaged."""
    instance = DiscriminativeLoss()
    semantic = {
        "combined": CombinedLoss(), "weighted": CombinedLoss(class_weights=WEIGHTS), "focal": FocalLoss(),
        "per image": CombinedLoss(per_image=True),
    }  # fmt: skip
    made = {name: LaneCriterion(loss, instance) for name, loss in semantic.items()}
    made["weighted"].class_weights = WEIGHTS
    return made | {"mean over images": MeanOverImages(red_apart)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven training and five validation images: from no lane to four, some of them half unlabelled."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 5)):
        for number in range(count):
            instance = np.zeros((32, 64), np.uint16)
            for place in range(number % 5):
                instance[8 - number :, 5 + 14 * place : 6 + 14 * place + number] = place + 1
            semantic = np.where(instance > 0, 2, 1).astype(np.uint8)
            semantic[: 5 * (number % 4)] = IGNORE_INDEX
            instance[semantic == IGNORE_INDEX] = 0
            image = 60 + 150 * (instance > 0)[..., None] + rng.integers(0, 30, (32, 64, 3))
            write_sample(root / split, str(number), image.astype(np.uint8), semantic, instance, suffix=".png")
    return root


def torchrun(processes, *command, wait=True, **options):
    """A command in several processes, with the tests' small model among the kinds."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    line = [sys.executable, *start, *map(str, command)]
    job = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if not wait:
        return job
    out, err = job.communicate(timeout=300)
    return job.returncode, out, err


def run(processes, *command):
    code, out, err = torchrun(processes, *command)
    assert code == 0, out + err
    return out


def measure(root, folder):
    """Gradients, losses and scores, as each process finds them, and which samples it has read."""
    found, seen = {}, {}
    for accumulation in (1, 2):
        for name, criterion in criteria().items():
            config = CONFIG.replace(accumulation_steps=accumulation)
            sets = [LaneInstanceDataset(root, split, build_transform(config, False), 0) for split in ("train", "val")]
            train, val = (build_loader(part, config, shuffle=False) for part in sets)
            model = PixelModel()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            trainer = LaneSegmentationTrainer(model, config, criterion, optimizer, "cpu", progress=False)
            batches, meter = list(train), Meter()
            key = f"{name} {accumulation}"
            for number in range(0, len(batches), accumulation):
                gradients = {}
                hook = optimizer.register_step_pre_hook(
                    lambda *_, g=gradients, m=model: g.update({n: p.grad.clone() for n, p in m.named_parameters()})
                )
                trainer.train_step(batches[number : number + accumulation], meter)
                hook.remove()
                found |= {f"{key} {number} {name}": gradient for name, gradient in gradients.items()}
            trainer.validate(val)
            values = {f"train {k}": v for k, v in meter.means().items()} | trainer.val_metrics
            found |= {f"{key} {k}": torch.tensor(v) for k, v in values.items()}
            seen = {
                part: [Path(path).stem for batch in loader for path in batch["image_path"] if path]
                for part, loader in (("train", train), ("val", val))
            }
    save_file({k: v.contiguous() for k, v in found.items()}, Path(folder) / f"found_{distributed.rank()}.safetensors")
    (Path(folder) / f"seen_{distributed.rank()}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    """What one process and each of two have measured: (tensors, samples)."""
    results = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp("measured")
        measure(data, folder) if processes == 1 else run(2, "measure", data, folder)
        results[processes] = [
            (load_file(folder / f"found_{rank}.safetensors"), json.loads((folder / f"seen_{rank}.json").read_text()))
            for rank in range(processes)
        ]
    return results


def test_gradients_losses_and_scores_are_those_of_a_single_process(measured):
    ((alone, _),) = measured[1]
    assert any("heads.weight" in name for name in alone)
    for together, _ in measured[2]:
        assert together.keys() == alone.keys()
        for name in alone:
            # Parts of gradients that cancel leave the rounding of the parts: it is measured against the largest.
            scale = max(1e-3, alone[name].abs().max().item())
            torch.testing.assert_close(
                together[name] / scale, alone[name] / scale, rtol=0, atol=2e-5, equal_nan=True, msg=name
            )


def test_each_sample_is_seen_once_in_training_and_in_validation(measured):
    for split, count in (("train", 7), ("val", 5)):
        seen = [name for _, samples in measured[2] for name in samples[split]]
        assert sorted(seen) == [str(number) for number in range(count)]


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 4, 9, 12, 13])
def test_parts_make_up_the_batches_of_a_single_process(monkeypatch, processes, length):
    monkeypatch.setattr("roadtopo_lib.distributed.world_size", lambda: processes)
    whole = EpochSampler(length, seed=3)
    whole.epoch = 2
    order, size = list(whole), 12 // processes
    parts = []
    for rank in range(processes):
        monkeypatch.setattr("roadtopo_lib.distributed.rank", lambda rank=rank: rank)
        own = distributed.OwnSampler(EpochSampler(length, seed=3), batch_size=12)
        own.epoch = 2
        drawn = list(own)
        assert len(drawn) == len(own)
        own.first = size
        assert list(own) == drawn[size:]
        parts.append([drawn[start : start + size] for start in range(0, len(drawn), size)])
    assert {len(part) for part in parts} == {-(-length // 12)}, "all take part in every step"
    for number in range(len(parts[0])):
        drawn = [index for part in parts for index in part[number]]
        assert all(part[number] == [None] or None not in part[number] for part in parts)
        assert sorted(index for index in drawn if index is not None) == sorted(order[12 * number : 12 * number + 12])


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr("roadtopo_lib.distributed.world_size", lambda: 3)
    with pytest.raises(ValueError, match="batch_size is 4, expected a multiple of 3"):
        distributed.OwnSampler(EpochSampler(5), batch_size=4)


def train_command(data, output, *more):
    command = ("train", "lane", "--config", data / "lane.yaml", "--data", data, "--output", output, "--device", "cpu")
    return [str(part) for part in (*command, *more)]


def rows(run):
    rows = csv.DictReader((run / "history.csv").open())
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


class StopAtStepSix(Recorder):
    """Sends this process a signal."""

    def on_step(self, trainer, values):
        if trainer.state.step == 6:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_of_two_processes_equals_that_of_one_and_goes_on_with_another_number(data, tmp_path, capsys):
    CONFIG.replace(batch_size=2).to_yaml(data / "lane.yaml")
    assert command_line(train_command(data, tmp_path / "alone")) == 0
    told = run(2, *train_command(data, tmp_path / "together"))
    assert told.count("epoch ") == capsys.readouterr().out.count("epoch ") == 2, "one process prints"
    assert told.count("best validation loss") == 1
    code, _, err = torchrun(2, "stop", *train_command(data, tmp_path / "resumed"))
    assert code != 0
    assert "(step 3)" in err, "a signal to one process stops both after the same step"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", StopAtStepSix)
        assert command_line(train_command(data, tmp_path / "resumed", "--resume")) == 130, "goes on alone"
    told = capsys.readouterr()
    assert "going on" in told.out
    assert "(step 6)" in told.err
    assert "(step 6)" in run(2, *train_command(data, tmp_path / "resumed", "--resume")), "and with two again"
    for name in ("together", "resumed"):
        left, expected = ({path.name for path in (tmp_path / run).iterdir()} for run in (name, "alone"))
        assert left == expected
        for mine, other in zip(rows(tmp_path / name), rows(tmp_path / "alone"), strict=True):
            assert mine == pytest.approx(other, rel=1e-3)
        last, expected = (load_weights(tmp_path / run / "last.safetensors").tensors for run in (name, "alone"))
        for tensor in expected:
            torch.testing.assert_close(last[tensor], expected[tensor], rtol=1e-3, atol=1e-4)


def test_a_process_that_dies_ends_all_with_a_message_within_a_minute(data, tmp_path):
    CONFIG.replace(batch_size=2, epochs=10000, patience=10000).to_yaml(data / "lane.yaml")
    job = torchrun(2, "pids", tmp_path, *train_command(data, tmp_path / "run"), wait=False, start_new_session=True)
    try:
        for _ in range(600):
            if (tmp_path / "run" / "history.csv").exists():
                break
            time.sleep(0.1)
        numbers = [int((tmp_path / f"pid_{rank}").read_text()) for rank in range(2)]
        os.kill(numbers[1], signal.SIGKILL)
        started = time.monotonic()
        _, err = job.communicate(timeout=60)
        assert time.monotonic() - started < 60
        assert job.returncode != 0
        assert "Signal 9" in err or "lost the others" in err
        for number in numbers:
            with pytest.raises(ProcessLookupError):
                os.kill(number, 0)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def test_infer_shares_a_folder_out_and_every_image_is_done_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for number in range(5):
        Image.fromarray(np.full((32, 64, 3), 50 * number, np.uint8)).save(tmp_path / "in" / f"{number}.png")
    PixelModel().save(tmp_path / "model.safetensors", training=CONFIG.to_dict())
    model = str(tmp_path / "model.safetensors")
    command = ("infer", "lane", "--model", model, "--input", str(tmp_path / "in"), "--device", "cpu")
    assert command_line([*command, "--output", str(tmp_path / "alone")]) == 0
    told = run(2, *command, "--output", tmp_path / "together")
    assert sorted(Path(line.split()[0]).name for line in told.splitlines() if "lanes" in line) == [
        f"{number}_instances.png" for number in range(5)
    ]
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == names
    for name in names:
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    monkeypatch.setattr("roadtopo_lib.inference.files.world_size", lambda: 2)
    assert command_line([*command, "--output", str(tmp_path / "lines"), "--format", "tusimple"]) == 2
    assert "one file of all images: use one process" in capsys.readouterr().err


def main():
    """What a process of ``torchrun`` does here: measure, or a command, by the name that comes first."""
    KINDS["pixel"] = PIXEL
    kind, *rest = sys.argv[1:]
    if kind == "measure":
        with distributed.connected():
            measure(*rest)
        return 0
    if kind == "pids":
        (Path(rest[0]) / f"pid_{os.environ['RANK']}").write_text(str(os.getpid()))
        return command_line(rest[1:])
    if kind == "stop":  # a signal that reaches one process only, in its third step
        step = LaneSegmentationTrainer.train_step

        def train_step(trainer, *arguments):
            step(trainer, *arguments)
            if trainer.state.step == 3 and distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        LaneSegmentationTrainer.train_step = train_step
        return command_line(rest)
    return command_line([kind, *rest])


if __name__ == "__main__":
    sys.exit(main())
