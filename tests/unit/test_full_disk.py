"""A disk that fills up: one line that names the file, nothing half-written, and the same command goes on later."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.images import is_picture, read_image
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.files import UNFINISHED, load_weights
from roadtopo_lib.processes import LOCK
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.training.recorders import Recorder
from roadtopo_lib.training.run_folder import STATES
from roadtopo_lib.training.run_state import RunState

CONFIG = LaneSegmentationConfig.preset("unet").replace(image_size=(32, 64), epochs=3, batch_size=2)


class Disk:
    """A file system of 4 MB with a file that fills it."""

    def __init__(self, root):
        self.root, self.ballast = root, root / "ballast"

    def fill(self, but):
        """Leaves so many bytes free."""
        try:
            with self.ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass
        with self.ballast.open("rb+") as file:
            file.truncate(max(0, self.ballast.stat().st_size - but))


@pytest.fixture
def disk(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield Disk(root)
    subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A data set, a small model, and the settings of a training."""
    root = tmp_path_factory.mktemp("places")
    write_dataset(root / "data", {"train": 5, "val": 1}, size=(64, 96), workers=1, progress=False)
    torch.manual_seed(0)
    UNet(embedding_dim=8, widths=(8, 8)).save(root / "m.safetensors", training=CONFIG.to_dict())
    CONFIG.replace(model="pixel", embedding_dim=8).to_yaml(root / "lane.yaml")
    (root / "in").mkdir()
    for number in range(12):
        picture = Image.open(root / "data" / "train" / "images" / f"train_{number % 5:05d}.jpg")
        picture.save(root / "in" / f"{number}.jpg")
        (root / "in" / f"{number}.lines.txt").write_text("20 60 30 40 34 20\n")
    return root


COMMANDS = {
    "infer": "infer lane --model PLACES/m.safetensors --input PLACES/in --output DISK/out --visualize --device cpu",
    "convert": "convert culane PLACES/in DISK/out --workers 1",
    "synth": "synth --out DISK/out --train 12 --size 64x96 --workers 1",
}


@pytest.mark.parametrize("free", [0, 30_000, 90_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_names_the_file_and_goes_on_once_there_is_room(disk, places, capsys, name, free):
    line = COMMANDS[name].replace("PLACES", str(places)).replace("DISK", str(disk.root)).split()
    disk.fill(but=free)
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"road-topology: {disk.root}/out")
    assert error.endswith("(No space left on device)\n")
    assert error.count("\n") == 1
    whole = [path for path in disk.root.rglob("*") if path.is_file() and path != disk.ballast]
    assert not [path for path in whole if path.name.endswith((UNFINISHED, LOCK))]
    for path in whole:
        if is_picture(path):
            read_image(path)
        assert path.stat().st_size > 0, path
    disk.ballast.unlink()
    assert main(line) == 0
    assert len([path for path in disk.root.rglob("*.png") if "sheet" not in path.name]) == 24


class FullAfterAnEpoch(Recorder):
    """Fills the disk."""

    def __init__(self, disk, but):
        self.disk, self.but = disk, but

    def on_epoch(self, trainer, row):
        if row["epoch"] == 1:
            self.disk.fill(self.but)


@pytest.mark.parametrize(("free", "unwritten"), [(0, "history.csv"), (12_000, "state.safetensors")])
def test_a_training_on_a_full_disk_names_the_file_keeps_its_states_and_ends_as_if_there_had_been_room(
    disk, places, capsys, monkeypatch, free, unwritten
):
    monkeypatch.setitem(models.KINDS, "pixel", ("small_model", "PixelModel"))

    def line(run):
        names = {"--config": places / "lane.yaml", "--data": places / "data", "--output": run, "--device": "cpu"}
        return ["train", "lane", *(str(x) for pair in names.items() for x in pair)]

    assert main([*line(places / "whole"), "--overwrite"]) == 0
    run = disk.root / "run"
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: FullAfterAnEpoch(disk, free))
        capsys.readouterr()
        assert main(line(run)) == 2
    error = capsys.readouterr().err
    assert error == f"road-topology: {run / unwritten}: cannot be written (No space left on device)\n"
    assert not [path for path in run.iterdir() if path.name.endswith((UNFINISHED, LOCK))]
    assert max(RunState.load(run / name).epoch for name in STATES if (run / name).exists()) == 1
    for path in run.glob("[bl]*.safetensors"):
        load_weights(path)
    disk.ballast.unlink()
    assert main([*line(run), "--resume"]) == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert (run / name).read_bytes() == (places / "whole" / name).read_bytes()
