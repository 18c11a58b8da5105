"""Training of the fusion: it learns, and two processes compute what one does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from roadtopo_lib.electives import train_amodal
from roadtopo_lib.electives.amodal import EncoderDistance
from roadtopo_lib.electives.occlusions import Occlusions, write_occlusions
from roadtopo_lib.segformer import SegFormerModel


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("occlusions")
    write_occlusions(root, {"train": 5, "val": 3}, (48, 64), seed=2)
    return root


def test_it_learns_which_guess_is_near(root):
    data = Occlusions(root)
    model, losses = train_amodal.train(data, steps=60, batch_size=5, lr=3e-3, d_model=16, heads=2, layers=1)
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    even = []
    for sample in data:
        mean = sample["completions"][sample["present"]].mean(dim=0)
        inside = sample["mask"].expand_as(mean) > 0
        even.append((mean - sample["target"]).abs()[inside])
    assert train_amodal.mean_error(model, data) < 0.9 * float(torch.cat(even).mean())


def test_the_perceptual_term_adds_its_share_and_has_a_gradient(root):
    torch.manual_seed(0)
    distance = EncoderDistance(SegFormerModel("tiny", pretrained=False))
    batch = {name: value[None] for name, value in Occlusions(root)[1].items()}
    model = train_amodal.AmodalFusionTransformer(d_model=16, heads=2, layers=1)
    plain, half, whole = (train_amodal.loss_of(model, batch, distance, share)[0] for share in (0.0, 0.5, 1.0))
    assert (whole - plain).item() == pytest.approx(2 * (half - plain).item(), rel=1e-4)
    assert whole > half > plain
    whole.backward()
    assert model.judge[4].weight.grad.any()


def test_two_processes_train_what_one_does_and_the_error_is_of_all_pixels(root, tmp_path):
    """Five images in batches of two, three validation images for two processes: the last parts are uneven."""
    told, models = [], []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.safetensors"
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        line = [*start, "-m", "roadtopo_lib.electives.train_amodal", root, path]
        options = ["--steps", "4", "--batch-size", "2", "--width", "16"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        job = subprocess.run(
            [sys.executable, *map(str, line), *options], env=environment, capture_output=True, text=True, timeout=300
        )
        assert job.returncode == 0, job.stdout + job.stderr
        (found,) = re.findall(r"loss (\S+) → (\S+); val: (\S+)", job.stdout)  # one line: one process prints
        told.append([float(value) for value in found])
        models.append(train_amodal.load(path))
    assert told[0] == pytest.approx(told[1], abs=1e-4)
    for name, weight in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], weight, atol=2e-4, rtol=1e-3)
    val = Occlusions(root, "val")
    errors, counts = [], []
    for sample in val:
        parts = [sample[name][None] for name in ("partial", "mask", "completions")]
        with torch.inference_mode():
            fused = train_amodal.fuse(*parts, models[0](*parts, sample["present"][None]))
        inside = sample["mask"].expand(3, -1, -1) > 0
        errors.append((fused[0] - sample["target"]).abs()[inside])
        counts.append(int(inside.sum()))
    assert len(set(counts)) == 3
    assert told[0][2] == pytest.approx(float(torch.cat(errors).mean()), abs=1e-4)
    assert abs(np.mean([float(e.mean()) for e in errors]) - told[0][2]) > 1e-3  # what a mean of means would say
    SegFormerModel("tiny", pretrained=False).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a model of kind 'amodal-fusion', found 'segformer'"):
        train_amodal.load(tmp_path / "other.safetensors")
