"""Masks are read as what they are, and both move together with the image."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.images import read_image, read_instance_mask, read_semantic_mask, rgb_to_instance_ids
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.data.sampling import EpochSampler, repeat_factors
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform

SIZE = (64, 96)


@pytest.fixture
def root(tmp_path):
    """Six images whose red channel equals 20 × instance id and whose green channel equals 40 × class id."""
    rng = np.random.default_rng(0)
    for number in range(6):
        instance = np.kron(rng.integers(0, 4, (8, 12)), np.ones((8, 8))).astype(np.uint16)
        semantic = np.where(instance > 0, 2, 1).astype(np.uint8)
        image = np.stack([instance * 20, semantic * 40, np.full(SIZE, number * 10)], axis=2).astype(np.uint8)
        write_sample(tmp_path / "train", f"scene_{number}", image, semantic, instance, suffix=".png")
    return tmp_path


def test_a_sample_has_the_documented_types_shapes_and_ranges(root):
    sample = LaneInstanceDataset(root, "train")[2]
    assert sample["image"].shape == (3, *SIZE)
    assert sample["image"].dtype == torch.float32
    assert sample["image"].min() >= 0
    assert sample["image"].max() <= 1
    for mask in (sample["semantic_mask"], sample["instance_mask"]):
        assert mask.shape == SIZE
        assert mask.dtype == torch.int64
    assert sample["image_path"].endswith("scene_2.png")
    assert torch.equal((sample["image"][0] * 255).round().long(), sample["instance_mask"] * 20)


def test_jpg_jpeg_and_png_images_are_found(tmp_path):
    blank = np.zeros(SIZE, np.uint8)
    for number, suffix in enumerate((".jpg", ".jpeg", ".png", ".JPG")):
        write_sample(tmp_path / "train", f"s{number}", np.zeros((*SIZE, 3), np.uint8), blank, blank, suffix=suffix)
    assert len(LaneInstanceDataset(tmp_path, "train")) == 4


def test_endings_may_be_written_in_capitals(root):
    for folder, ending in (("images", "PNG"), ("semantic_masks", "PNG"), ("instance_masks", "Png")):
        path = root / "train" / folder / "scene_1.png"
        path.rename(path.with_suffix(f".{ending}"))
    dataset = LaneInstanceDataset(root, "train")
    assert [len(paths) for paths in (dataset.image_paths, dataset.semantic_paths, dataset.instance_paths)] == [6, 6, 6]
    assert dataset[1]["image_path"].endswith("scene_1.PNG")
    assert torch.equal((dataset[1]["image"][0] * 255).round().long(), dataset[1]["instance_mask"] * 20)


def test_a_mask_without_an_image_is_named_as_it_is_written(root):
    path = root / "train" / "instance_masks" / "scene_1.png"
    path.with_name("lonely.PNG").write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"lonely\.PNG: this mask has no image"):
        LaneInstanceDataset(root, "train")


def test_two_masks_of_one_name_are_refused(root):
    path = root / "train" / "instance_masks" / "scene_1.png"
    other = path.with_suffix(".PNG")
    other.write_bytes(path.read_bytes())
    if other.samefile(path):
        pytest.skip("this file system does not tell capitals apart")
    with pytest.raises(ValueError, match="several instance masks are named 'scene_1'"):
        LaneInstanceDataset(root, "train")


def test_sixteen_bit_ids_are_read_whole_where_opencv_grayscale_divides_by_256(tmp_path):
    ids = np.array([[0, 1, 300], [65535, 2, 7]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "m.png")
    assert np.array_equal(read_instance_mask(tmp_path / "m.png"), ids)
    grey = cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE)
    assert grey[0, 1] == 0
    assert grey[0, 2] == 1


def test_rgb_ids_are_colours_where_opencv_grayscale_reads_luminance(tmp_path):
    colors = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colors).save(tmp_path / "m.png")
    ids = read_instance_mask(tmp_path / "m.png")
    assert ids[0, 0] == 0
    assert sorted(ids.ravel().tolist()) == [0, 1, 2, 3]
    grey = cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE)
    assert grey.ravel().tolist() == [0, 76, 150, 29] or grey.ravel().tolist() == [0, 76, 149, 29]


def test_colours_of_equal_luminance_stay_apart():
    colors = np.zeros((2, 2, 3), np.uint8)
    colors[0, 1], colors[1, 0] = (0, 0, 200), (77, 0, 0)
    assert len(np.unique(rgb_to_instance_ids(colors))) == 3


def test_sixteen_bit_images_become_eight_bit_ones_in_grey_and_in_colour(tmp_path):
    levels = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(SIZE)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "colour.png"), np.stack([levels] * 3, axis=2))
    for name, error in (("grey", 0.5), ("colour", 1.0)):  # colours are Pillow's: the upper byte, not the nearest
        image = read_image(tmp_path / f"{name}.png")
        assert (image.shape, image.dtype) == ((*SIZE, 3), np.uint8)
        assert np.abs(image - levels[..., None] / 65535 * 255).max() <= error


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90°
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize("train", [True, False])
def test_image_and_both_masks_move_together(root, train):
    config = LaneSegmentationConfig(image_size=(64, 96), color_jitter=0.0)
    dataset = LaneInstanceDataset(root, "train", build_transform(config, train), seed=3)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            sample = dataset[index]
            red = (sample["image"][0] * 255).round() / 20
            # Interpolated colours at edges fall between ids; inside a cell they must agree with the mask.
            inside = (red - red.round()).abs() < 1e-3
            agree = (red.round().long() == sample["instance_mask"])[inside].float().mean()
            assert agree > 0.97
            assert torch.equal(sample["semantic_mask"], torch.where(sample["instance_mask"] > 0, 2, 1))


@pytest.mark.parametrize("train", [True, False])
def test_crop_top_cuts_off_the_sky_before_anything_else(root, train):
    config = LaneSegmentationConfig(image_size=(64, 96), crop_top=0.4)
    image, semantic, instance = (a.copy() for a in LaneInstanceDataset(root, "train").read(0))
    top = round(0.4 * len(image))
    image[:top], semantic[:top], instance[:top] = 255, 5, 77  # must leave no trace
    cut = build_transform(config, train)(image, semantic, instance, 1)
    whole = build_transform(config.replace(crop_top=0.0), train)(image[top:], semantic[top:], instance[top:], 1)
    for ours, reference in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(ours, reference)


def test_masks_are_never_interpolated(root):
    config = LaneSegmentationConfig(image_size=(96, 128), crop_scale=0.3)
    dataset = LaneInstanceDataset(root, "train", build_transform(config, train=True))
    for index in range(len(dataset)):
        sample = dataset[index]
        assert set(sample["instance_mask"].unique().tolist()) <= {0, 1, 2, 3}
        assert set(sample["semantic_mask"].unique().tolist()) <= {1, 2}


def test_a_sample_depends_on_seed_epoch_and_index_alone(root):
    config = LaneSegmentationConfig(image_size=(64, 96))

    def images(seed, epoch, workers):
        dataset = LaneInstanceDataset(root, "train", build_transform(config, train=True), seed)
        dataset.set_epoch(epoch)
        loader = build_loader(dataset, config.replace(num_workers=workers), shuffle=False)
        return torch.cat([batch["image"] for batch in loader])

    assert torch.equal(images(0, 1, 0), images(0, 1, 2))
    assert not torch.equal(images(0, 1, 0), images(0, 2, 0))
    assert not torch.equal(images(0, 1, 0), images(1, 1, 0))


def test_workers_that_outlive_an_epoch_see_the_new_epoch(root):
    config = LaneSegmentationConfig(image_size=(64, 96), num_workers=1, batch_size=6)
    dataset = LaneInstanceDataset(root, "train", build_transform(config, train=True))
    loader = build_loader(dataset, config, shuffle=False)
    first = next(iter(loader))["image"]
    dataset.set_epoch(1)
    second = next(iter(loader))["image"]
    assert not torch.equal(first, second)


def test_the_shuffle_depends_on_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == list(range(50))
    assert list(EpochSampler(4, shuffle=False)) == [0, 1, 2, 3]


class TestRepeatFactorSampling:
    @pytest.fixture
    def rare(self, tmp_path):
        """Eight images of road and unlabelled pixels; four show a lane marking, two of these a crosswalk as well."""
        for number in range(8):
            semantic = np.ones(SIZE, np.uint8)
            semantic[0] = 255
            semantic[10:12] = 2 if number < 4 else 1
            semantic[20:30] = 3 if number < 2 else 1
            write_sample(
                tmp_path / "train", f"s{number}", np.zeros((*SIZE, 3), np.uint8), semantic, np.zeros(SIZE, np.uint8)
            )
        return LaneInstanceDataset(
            tmp_path, "train", build_transform(LaneSegmentationConfig(image_size=(32, 32)), True)
        )

    def test_the_factor_is_that_of_the_rarest_class(self, rare):
        wanted = [np.sqrt(0.8 / 0.25)] * 2 + [np.sqrt(0.8 / 0.5)] * 2 + [1.0] * 4
        np.testing.assert_allclose(repeat_factors(rare, 0.8), wanted)
        np.testing.assert_allclose(repeat_factors(rare, 0.25), 1.0)
        for wrong in (0.0, -0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="threshold"):
                repeat_factors(rare, wrong)

    def test_draws_follow_the_factors_and_an_epoch_keeps_its_length(self):
        repeats = np.array([1.0, 1.0, 1.5, 3.0])
        sampler, drawn = EpochSampler(4, seed=0, repeats=repeats), []
        for epoch in range(4000):
            sampler.epoch = epoch
            order = list(sampler)
            assert len(order) == len(sampler) == 4
            drawn += order
        np.testing.assert_allclose(np.bincount(drawn) / len(drawn), repeats / repeats.sum(), atol=0.015)
        assert order == list(sampler)  # by seed and epoch alone

    def test_only_training_repeats(self, rare):
        config = LaneSegmentationConfig(image_size=(32, 32), batch_size=8, repeat_threshold=0.8)
        loader = build_loader(rare, config, shuffle=True)
        np.testing.assert_allclose(loader.sampler.repeats, repeat_factors(rare, 0.8))
        assert build_loader(rare, config, shuffle=False).sampler.repeats is None
        assert build_loader(rare, config.replace(repeat_threshold=0.0), shuffle=True).sampler.repeats is None
        assert len(next(iter(loader))["image_path"]) == 8


def test_colour_changes_leave_the_masks_alone(root):
    still = LaneSegmentationConfig(image_size=SIZE, crop_scale=1.0, flip_probability=0.0, color_jitter=1.0)
    plain = LaneInstanceDataset(root, "train")
    dataset = LaneInstanceDataset(root, "train", build_transform(still.replace(image_size=(64, 96)), train=True))
    changed = [not torch.equal(dataset[i]["image"], plain[i]["image"]) for i in range(len(plain))]
    assert any(changed)


def test_two_images_of_one_name_are_refused(tmp_path):
    blank = np.zeros(SIZE, np.uint8)
    write_sample(tmp_path / "train", "same", np.zeros((*SIZE, 3), np.uint8), blank, blank, suffix=".jpg")
    write_sample(tmp_path / "train", "same", np.zeros((*SIZE, 3), np.uint8), blank, blank, suffix=".png")
    with pytest.raises(ValueError, match="several images are named 'same'"):
        LaneInstanceDataset(tmp_path, "train")


def write_small_grey(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of 2 or 4 bits, as tools that shrink files write it; Pillow itself writes 8."""
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel() for row in values.astype(np.uint8)]
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [2, 4])
def test_masks_of_fewer_bits_keep_their_ids(tmp_path, bits):
    ids = np.random.default_rng(0).integers(0, min(2**bits, 6), (5, 7))
    write_small_grey(tmp_path / "mask.png", ids, bits)
    np.testing.assert_array_equal(read_semantic_mask(tmp_path / "mask.png"), ids)
    np.testing.assert_array_equal(read_instance_mask(tmp_path / "mask.png"), ids)


def test_colours_of_16_bits_are_refused(tmp_path):
    colors = np.zeros((4, 4, 3), np.uint16)
    colors[1], colors[2] = (0, 0, 300), (0, 0, 301)  # equal once cut to 8 bits
    cv2.imwrite(str(tmp_path / "mask.png"), colors)
    with pytest.raises(ValueError, match=r"mask\.png: .* found RGB of 16 bits"):
        read_instance_mask(tmp_path / "mask.png")


def test_an_image_too_large_to_be_safe_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large\.png: too large"):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize("gpu", [False, True])
def test_batches_lie_in_pinned_memory_where_there_is_a_gpu(root, monkeypatch, gpu):
    """A copy to the GPU overlaps with work only from there; ``non_blocking`` alone does nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    loader = build_loader(LaneInstanceDataset(root, "train"), LaneSegmentationConfig.preset("tiny"), shuffle=True)
    assert loader.pin_memory is gpu
