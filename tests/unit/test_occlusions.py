"""Occluded scenes: what is hidden, how far off the guesses are, and what is read back."""

import itertools

import numpy as np
import pytest
import torch

from roadtopo_lib.data.images import read_image
from roadtopo_lib.electives.occlusions import (
    KINDS,
    Occlusions,
    as_batch,
    complete,
    hidden_pixels,
    occluded_scenes,
    window_around,
    write_occlusions,
)
from roadtopo_lib.scenes import render_scene

SIZE = (64, 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("occlusions")
    write_occlusions(root, {"train": 5, "val": 1}, SIZE, seed=2)
    return root


def test_what_is_hidden_holds_every_vehicle_and_little_else():
    for seed in (2, 4, 10):
        full, empty = (render_scene(seed, SIZE, "day", vehicles=kept) for kept in (True, False))
        hidden = hidden_pixels(full.image, empty.image)
        assert hidden[full.cars].mean() > 0.95
        assert np.abs(full.image.astype(int) - empty.image)[~hidden].mean() < 1
        assert not hidden_pixels(empty.image, empty.image).any()


def test_guesses_differ_inside_only_and_blur_is_nearer_than_a_wrong_texture():
    target = render_scene(4, SIZE, "day", vehicles=False).image
    hidden = np.zeros(SIZE, bool)
    hidden[30:55, 20:60] = True
    errors = {}
    for kind in KINDS:
        guesses = [complete(np.random.default_rng(k), kind, target, hidden) for k in range(3)]
        assert all(np.array_equal(guess[~hidden], target[~hidden]) for guess in guesses)
        errors[kind] = np.mean([np.abs(guess.astype(int) - target)[hidden].mean() for guess in guesses])
    assert min(errors.values()) > 0.5
    assert errors["blurred"] < errors["texture"]
    other = target.copy()
    other[hidden] = 255 - other[hidden]  # inpainting has not seen what is hidden
    args = np.random.default_rng(0), "inpainted"
    assert np.array_equal(complete(*args, target, hidden)[hidden], complete(*args, other, hidden)[hidden])
    with pytest.raises(ValueError, match="kind is 'none', expected one of blurred, shifted, texture, inpainted"):
        complete(np.random.default_rng(0), "none", target, hidden)


def test_what_is_written_is_read(root):
    train = Occlusions(root, "train")
    assert len(train) == 5
    counts = set()
    for sample, folder in zip(train, train.folders, strict=True):
        assert {name: tuple(value.shape) for name, value in sample.items()} == {
            "partial": (3, *SIZE), "target": (3, *SIZE), "mask": (1, *SIZE), "completions": (5, 3, *SIZE),
            "present": (5,),
        }  # fmt: skip
        outside = sample["mask"] == 0
        assert sample["mask"].mean() >= 0.01
        assert not (sample["partial"] * sample["mask"]).any()
        close = (sample["partial"] - sample["target"]).abs() * outside
        assert close.mean() < 0.01
        count = len(list(folder.glob("*_comp*.png")))
        assert sample["present"].tolist() == [slot < count for slot in range(5)]
        assert not sample["completions"][count:].any()
        for slot in range(count):
            assert torch.equal(sample["completions"][slot] * outside, sample["target"] * outside)
        counts.add(count)
    assert len(counts) > 1
    assert (
        train[0]["target"][:, 5, 7].mul(255).round().tolist()
        == read_image(train.folders[0] / "00000_target.png")[5, 7].tolist()
    )
    assert Occlusions(root, "val", n_max=1)[0]["completions"].shape == (1, 3, *SIZE)
    with pytest.raises(FileNotFoundError, match="test: no occluded image"):
        Occlusions(root, "test")


def test_a_crop_is_the_same_window_of_all_parts_around_a_hidden_pixel(root):
    whole, cut = Occlusions(root), Occlusions(root, crop=(32, 40))
    for index in range(5):
        sample = whole[index]
        crops = [cut[index, number] for number in range(4)]
        assert all(torch.equal(cut[index][name], value) for name, value in crops[0].items())
        for crop in crops:
            assert crop["mask"].any()
            shapes = {tuple(value.shape[-2:]) for name, value in crop.items() if name != "present"}
            assert shapes == {(32, 40)}
            places = (
                (slice(row, row + 32), slice(column, column + 40))
                for row in range(SIZE[0] - 31) for column in range(SIZE[1] - 39)
            )  # fmt: skip
            assert any(
                all(torch.equal(value, sample[name][..., rows, columns])
                    for name, value in crop.items() if name != "present")
                for rows, columns in places
                if torch.equal(crop["mask"], sample["mask"][..., rows, columns])
            )  # fmt: skip
        assert any(not torch.equal(crops[0]["target"], crop["target"]) for crop in crops[1:])


def test_a_window_lies_in_the_image():
    assert window_around((10, 20), (8, 6), (20, 30)) == (slice(6, 14), slice(17, 23))
    assert window_around((19, 29), (8, 6), (20, 30)) == (slice(12, 20), slice(24, 30))
    assert window_around((0, 1), (8, 6), (20, 30)) == (slice(0, 8), slice(0, 6))
    assert torch.zeros(20, 30)[window_around((5, 5), (50, 60), (20, 30))].shape == (20, 30)


def test_scenes_in_a_batch_are_what_is_read_from_the_disk(root):
    batch = as_batch(itertools.islice(occluded_scenes("train", SIZE, seed=2), 3))
    for k, sample in zip(range(3), Occlusions(root), strict=False):
        assert batch.keys() == sample.keys()
        for name, value in sample.items():
            torch.testing.assert_close(batch[name][k], value)


def test_the_scenes_of_a_data_set_are_those_on_disk(root):
    for scene, sample in zip(occluded_scenes("train", SIZE, seed=2), Occlusions(root), strict=False):
        assert np.array_equal(sample["mask"][0].numpy() > 0, scene.hidden)
        assert int(sample["present"].sum()) == len(scene.guesses)
        pixels = (sample["completions"][0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, scene.guesses[0])
        assert len(scene.empty.lanes) == len(scene.seen.lanes)


def test_what_is_complete_is_not_made_again_and_the_rest_is_the_same(root):
    files = {path: path.read_bytes() for path in root.rglob("*.png")}
    gone = root / "train" / "00003"
    (gone / "00003_target.png").unlink()
    kept = root / "train" / "00002" / "00002_mask.png"
    before = kept.stat().st_mtime_ns
    write_occlusions(root, {"train": 5, "val": 1}, SIZE, seed=2)
    assert kept.stat().st_mtime_ns == before
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == files
