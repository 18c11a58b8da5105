"""Class weights: the formulas on numbers worked by hand, and a cache that never outlives its data."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES
from roadtopo_lib.losses import WEIGHT_METHODS, class_weights, weights_from_counts


class MaskFolder:
    """A data set of PNG masks that counts how often it is read."""

    num_classes = 3

    def __init__(self, folder: Path, masks: list[list[list[int]]]) -> None:
        self.semantic_paths = [folder / f"{i}.png" for i in range(len(masks))]
        self.reads = 0
        for path, mask in zip(self.semantic_paths, masks, strict=True):
            Image.fromarray(np.array(mask, dtype=np.uint8)).save(path)

    def __len__(self) -> int:
        return len(self.semantic_paths)

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        mask = np.asarray(Image.open(self.semantic_paths[index])).astype(np.int64)
        return {"semantic_mask": torch.from_numpy(mask)}


def samples(*masks: list[list[int]]) -> list[dict]:
    return [{"semantic_mask": torch.tensor(mask)} for mask in masks]


def test_inverse_frequency_on_the_documents_example():
    """500,000 road pixels and 1,000 of pedestrians: the weights differ 500 times."""
    weights = weights_from_counts([500_000, 1_000, 499_000], "inverse")
    assert (weights[1] / weights[0]).item() == pytest.approx(500)


def test_square_root_softens_the_inverse_frequency():
    weights = weights_from_counts([500_000, 1_000, 499_000], "sqrt_inverse")
    assert (weights[1] / weights[0]).item() == pytest.approx(500**0.5)  # 31.6 / 1.41


def test_mean_one_of_two_weights_by_hand():
    """1.41 and 100 over two classes become 0.028 and 1.972, not 0.8 and 58.2."""
    weights = weights_from_counts([5_000, 1], "sqrt_inverse")  # 1/√f up to a factor: 1 and √5000 = 70.7
    assert weights.tolist() == pytest.approx([2 / (1 + 5_000**0.5), 2 * 5_000**0.5 / (1 + 5_000**0.5)])
    assert [round(2 * w / (1.41 + 100.0), 3) for w in (1.41, 100.0)] == [0.028, 1.972]


def test_effective_number_by_hand():
    """With β = 0.5, n = 1, 2, 3 samples are worth 1, 1.5 and 1.75."""
    raw = np.array([1 / 1, 1 / 1.5, 1 / 1.75])
    assert weights_from_counts([1, 2, 3], "effective_number", beta=0.5).tolist() == pytest.approx(raw / raw.mean())


def test_effective_number_runs_from_equal_weights_to_the_inverse_frequency():
    counts = [10, 200, 3_000]
    equal = weights_from_counts(counts, "effective_number", beta=0.0)
    torch.testing.assert_close(equal, torch.ones(3))
    for beta in (1 - 1e-9, 1 - 1e-15):
        weights = weights_from_counts(counts, "effective_number", beta)
        torch.testing.assert_close(weights, weights_from_counts(counts, "inverse"))


def test_effective_number_saturates_on_pixel_counts():
    """At β = 0.9999, 100,000 pixels are worth as much as 100 million."""
    weights = weights_from_counts([10**8, 10**5], "effective_number", beta=0.9999)
    torch.testing.assert_close(weights, torch.ones(2), atol=1e-4, rtol=0)


def test_median_frequency_counts_only_images_that_show_the_class():
    # Class 1 fills half of the only image it is in; class 2 a quarter of both; class 0 the rest.
    data = samples([[0, 2], [1, 1]], [[0, 0], [0, 2]])
    frequency = np.array([4 / 8, 2 / 4, 2 / 8])
    raw = np.median(frequency) / frequency
    assert class_weights(data, "median_frequency", 3).tolist() == pytest.approx(raw / raw.mean())
    assert class_weights(data, "inverse", 3).tolist() == pytest.approx([0.6, 1.2, 1.2])


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_weights_have_mean_one_and_rare_classes_weigh_more(method):
    weights = weights_from_counts([10, 200, 3_000, 40_000], method, beta=0.999)
    assert weights.dtype == torch.float32
    assert weights.mean().item() == pytest.approx(1)
    assert (weights.diff() < 0).all()


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_an_absent_class_weighs_one_and_moves_no_other(method):
    without = weights_from_counts([10, 200], method)
    weights = weights_from_counts([10, 0, 200], method)
    assert weights[1] == 1
    torch.testing.assert_close(weights[[0, 2]], without)
    assert weights.mean().item() == pytest.approx(1)


def test_unlabelled_pixels_count_nowhere():
    data = samples([[0, IGNORE_INDEX], [1, IGNORE_INDEX]], [[IGNORE_INDEX] * 2] * 2)
    counts = count_class_pixels(data, 3)
    assert counts.pixels.tolist() == [1, 1, 0]
    assert counts.image_pixels.tolist() == [2, 2, 0]


def test_max_samples_are_spread_evenly_over_the_data():
    data = samples(*([[label]] for label in range(10)))
    assert count_class_pixels(data, 10, max_samples=3).pixels.nonzero().flatten().tolist() == [0, 3, 6]
    assert count_class_pixels(data, 10, max_samples=99).pixels.tolist() == [1] * 10


def test_any_iterable_of_samples_will_do():
    data = samples([[0, 1]], [[1, 1]])
    assert count_class_pixels(iter(data), 2).pixels.tolist() == [1, 3]


def test_number_of_classes_comes_from_the_data_set_or_the_class_table(tmp_path):
    assert len(class_weights(MaskFolder(tmp_path, [[[0, 1]]]))) == 3
    assert len(class_weights(samples([[0, 1]]))) == NUM_CLASSES


def test_cached_counts_are_used_again(tmp_path):
    data = MaskFolder(tmp_path, [[[0, 1]], [[1, 2]], [[2, 2]]])
    first = class_weights(data, cache=tmp_path / "new folder" / "counts.json")
    data.reads = 0
    torch.testing.assert_close(class_weights(data, cache=tmp_path / "new folder" / "counts.json"), first)
    assert data.reads == 1  # one look at the first mask, to see that the transform is the same
    class_weights(data, "inverse", cache=tmp_path / "new folder" / "counts.json")
    assert data.reads == 2  # another method needs no new counts


def test_settings_reach_the_weights():
    data = samples([[0, 0, 0, 0, 1]])
    torch.testing.assert_close(class_weights(data, num_classes=2), weights_from_counts([4, 1], "sqrt_inverse"))
    weights = class_weights(data, "effective_number", 2, beta=0.5)
    torch.testing.assert_close(weights, weights_from_counts([4, 1], "effective_number", 0.5))


@pytest.mark.parametrize("change", ["content", "touched", "grown", "renamed", "added", "removed"])
def test_changed_files_are_counted_afresh(tmp_path, change):
    cache = tmp_path / "counts.json"
    data = MaskFolder(tmp_path, [[[0, 1]], [[1, 2]], [[2, 2]]])
    assert count_class_pixels(data, 3, cache=cache).pixels.tolist() == [1, 2, 3]
    path = data.semantic_paths[1]
    expected = [1, 2, 3]
    if change == "content":
        status = path.stat()
        Image.fromarray(np.array([[0, 0]], dtype=np.uint8)).save(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
        expected = [3, 1, 2]
    elif change == "touched":
        os.utime(path, ns=(0, 0))
    elif change == "grown":
        status = path.stat()
        path.write_bytes(path.read_bytes() + b"0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "renamed":
        data.semantic_paths[1] = path.rename(tmp_path / "other.png")
    elif change == "added":
        data.semantic_paths.append(tmp_path / "3.png")
        Image.fromarray(np.array([[0, 0]], dtype=np.uint8)).save(tmp_path / "3.png")
        expected = [3, 2, 3]
    else:
        data.semantic_paths.pop()
        expected = [1, 2, 1]
    data.reads = 0
    assert count_class_pixels(data, 3, cache=cache).pixels.tolist() == expected
    assert data.reads > len(data)


def test_another_transform_of_the_same_files_is_counted_afresh(tmp_path):
    cache = tmp_path / "counts.json"
    data = MaskFolder(tmp_path, [[[0, 1]], [[1, 2]]])
    count_class_pixels(data, 3, cache=cache)

    class Cropped(MaskFolder):
        def __getitem__(self, index: int) -> dict:
            return {"semantic_mask": super().__getitem__(index)["semantic_mask"][:, 1:]}

    assert count_class_pixels(Cropped(tmp_path, [[[0, 1]], [[1, 2]]]), 3, cache=cache).pixels.tolist() == [0, 1, 1]


def test_samples_in_memory_are_known_by_their_content(tmp_path):
    cache = tmp_path / "counts.json"
    count_class_pixels(samples([[0, 1]], [[1, 1]]), 3, cache=cache)
    written = cache.stat().st_mtime_ns
    assert count_class_pixels(samples([[0, 1]], [[1, 1]]), 3, cache=cache).pixels.tolist() == [1, 3, 0]
    assert cache.stat().st_mtime_ns == written
    assert count_class_pixels(samples([[0, 1]], [[2, 2]]), 3, cache=cache).pixels.tolist() == [1, 1, 2]
    # The same pixels in a row, but in images of other sizes.
    for sizes, image_pixels in (((2, 4), [6, 6, 0]), ((4, 2), [4, 6, 0])):
        masks = torch.tensor([0, 1, 0, 0, 1, 1]).split(sizes)
        data = [{"semantic_mask": mask[None]} for mask in masks]
        assert count_class_pixels(data, 3, cache=cache).image_pixels.tolist() == image_pixels


def test_other_settings_are_counted_afresh(tmp_path):
    cache = tmp_path / "counts.json"
    data = MaskFolder(tmp_path, [[[0]], [[1]], [[1]]])
    assert count_class_pixels(data, 2, cache=cache).pixels.tolist() == [1, 2]
    assert count_class_pixels(data, 2, max_samples=1, cache=cache).pixels.tolist() == [1, 0]
    assert count_class_pixels(data, 3, max_samples=1, cache=cache).pixels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 3}', "\x00\xff"])
def test_a_damaged_cache_is_replaced(tmp_path, content):
    cache = tmp_path / "counts.json"
    cache.write_text(content, encoding="latin-1")
    assert count_class_pixels(samples([[0, 1]]), 2, cache=cache).pixels.tolist() == [1, 1]
    assert json.loads(cache.read_text())["pixels"] == [1, 1]


def test_a_cache_that_cannot_be_completed_leaves_the_old_one(tmp_path, monkeypatch):
    cache = tmp_path / "counts.json"
    count_class_pixels(samples([[0, 1]]), 2, cache=cache)
    before = cache.read_text()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        count_class_pixels(samples([[1, 1]]), 2, cache=cache)
    assert cache.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["counts.json"]


def test_wrong_input_is_refused_by_name():
    data = samples([[0, 1]])
    with pytest.raises(ValueError, match="method is 'inverted', expected one of inverse"):
        class_weights([], "inverted")  # before anything is counted
    for beta in (1, -0.1):
        with pytest.raises(ValueError, match=f"beta is {beta}"):
            class_weights(data, "effective_number", beta=beta)
    with pytest.raises(ValueError, match="max_samples is 0"):
        class_weights(data, max_samples=0)
    with pytest.raises(ValueError, match="no sample"):
        class_weights([])
    with pytest.raises(ValueError, match=r"sample 1: semantic ids 2\.\.7 found, expected 0\.\.5"):
        class_weights(samples([[0, 1]], [[2, 7]]))
    with pytest.raises(ValueError, match=r"sample 0: semantic ids -1\.\.1 found"):
        class_weights(samples([[-1, 1]]))
    for pixels in ([0, 0], [-1, 2], [[1, 2]]):
        with pytest.raises(ValueError, match="pixels is"):
            weights_from_counts(pixels, "inverse")
