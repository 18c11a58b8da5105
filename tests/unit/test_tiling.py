"""Large images in tiles: no seam, equal to the whole image where tiles can be, and instances that are joined."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from test_pipeline import CONFIG, BrightIsLane, striped_scene

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.course import samples
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.electives.patches import seam_ratio
from roadtopo_lib.electives.tiled_segmenter import TiledSegmenter, same_instances, segment_file
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.inference.tiling import blend, tile_starts, tiled_predict
from roadtopo_lib.labels import ROAD
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import all_instances

RADIUS = 12
"""Pixels around one that decide its class in ``small_unet``: 2 + 2 by convolutions at 1/1, 4 at 1/2, 1 by pooling."""


def noise(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def small_unet(norm="batch"):
    torch.manual_seed(0)
    return UNet(3, 4, (8, 16), norm).eval()


def whole(model, image):
    with torch.inference_mode():
        return model(image[None])["logits"][0].softmax(dim=0)


@pytest.mark.parametrize("length", [1, 31, 64, 65, 100, 512, 999, 20000])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 32), (96, 50), (512, 64)])
def test_tiles_cover_a_side_and_share_what_is_asked(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile >= length > (starts[-1] if len(starts) > 1 else 0)
    assert all(start % 32 == 0 for start in starts)
    assert all(overlap <= a + tile - b < tile for a, b in pairwise(starts))


@pytest.mark.parametrize("size", [(1, 1), (20, 45), (64, 64), (65, 300), (257, 33)])
def test_any_size_gives_probabilities_of_that_size(size):
    found = tiled_predict(small_unet(), noise(*size), 64, 32)
    assert found.shape == (3, *size)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(size))


@pytest.mark.parametrize("size", [(1, 1), (20, 45), (61, 63), (96, 50)])
def test_an_image_that_fits_into_a_tile_gives_what_it_gives_as_a_whole(size):
    model, image = small_unet(), noise(*size)
    torch.testing.assert_close(tiled_predict(model, image, 96, 32), whole(model, image))


def test_the_images_end_gives_what_it_gives_in_the_whole_image():
    model, image = small_unet(), noise(61, 230)
    found, expected = tiled_predict(model, image, 96, 32), whole(model, image)
    torch.testing.assert_close(found[:, :, 200:], expected[:, :, 200:])  # behind the last tile's window


def test_tiles_side_by_side_are_those_of_monai():
    model, image = small_unet(), noise(128, 192)
    with torch.inference_mode():
        other = sliding_window_inference(
            image[None], 64, 1, lambda x: model(x)["logits"].softmax(dim=1), overlap=0, mode="constant"
        )[0]
    torch.testing.assert_close(tiled_predict(model, image, 64, 0), other)


def put_together(blocks, size):
    """(C, H, W) of what ``blend`` yields: every pixel is in one block."""
    blocks = [*blocks]
    whole, times = torch.zeros(len(blocks[0][2]), *size), torch.zeros(size)
    for top, left, block in blocks:
        place = slice(top, top + block.shape[1]), slice(left, left + block.shape[2])
        whole[:, *place] = block
        times[place] += 1
    assert (times == 1).all()
    return whole


def test_a_smooth_window_weights_the_tiles():
    """Two tiles of 64 that share 32 columns, one all 0 and one all 1: the second's share rises to the right."""
    rows = put_together(blend(lambda top, left: torch.full((1, 64, 64), float(left > 0)), (64, 96), 64, 32), (64, 96))
    steps = np.arange(1, 33) / 33
    rising, falling = np.sin(np.pi / 2 * steps) ** 2, np.sin(np.pi / 2 * steps[::-1]) ** 2
    assert rows[0, 5].numpy() == pytest.approx(np.r_[np.zeros(32), rising / (rising + falling), np.ones(32)], abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (300, 40), (257, 390)])
@pytest.mark.parametrize("overlap", [0, 32, 50, 64])
def test_blocks_are_the_sums_over_all_tiles_divided_by_their_weights(size, overlap):
    """Also where three tiles of a side share pixels, as 64 of 96 do."""
    values, ramp = torch.rand(2, *size), np.minimum(np.arange(1, 97), np.arange(96, 0, -1)) / (overlap + 1)
    ramp = torch.from_numpy(np.sin(np.pi / 2 * ramp.clip(max=1)) ** 2).float()

    def tile_of(top, left):  # another offset in each tile
        return values[:, top : top + 96, left : left + 96] + top - 2 * left

    total, weights = torch.zeros(2, *size), torch.zeros(size)
    for top in tile_starts(size[0], 96, overlap):
        for left in tile_starts(size[1], 96, overlap):
            tile = tile_of(top, left)
            weight = ramp[: tile.shape[1], None] * ramp[: tile.shape[2]]
            place = slice(top, top + 96), slice(left, left + 96)
            total[:, *place] += tile * weight
            weights[place] += weight
    torch.testing.assert_close(put_together(blend(tile_of, size, 96, overlap), size), total / weights)


def test_away_from_the_tiles_borders_a_convolutional_network_gives_what_it_gives_for_the_whole_image():
    model, image = small_unet(), noise(200, 330)
    tiled, reference = tiled_predict(model, image, 128, 64), whole(model, image)
    far = np.ones((200, 330), bool)
    for axis, length in enumerate((200, 330)):
        starts = tile_starts(length, 128, 64)
        for border in [*starts[1:], *(start + 128 for start in starts[:-1]), length]:  # the end is padded to 32
            far[(slice(None),) * axis + (slice(border - RADIUS, border + RADIUS),)] = False
    assert 0.2 < far.mean() < 0.8
    torch.testing.assert_close(tiled[:, far], reference[:, far], atol=1e-5, rtol=0)
    difference = (tiled - reference).abs()[:, : 200 - RADIUS, : 330 - RADIUS]
    assert 1e-4 < difference.max() < 0.05  # context is missing, but where it is, the window is near zero


def test_normalisation_over_a_tile_differs_from_that_over_the_image_everywhere():
    model, image = small_unet("instance"), noise(200, 330)
    image[:, :, 165:] *= 0.3
    difference = (tiled_predict(model, image, 128, 64) - whole(model, image)).abs().amax(dim=0)
    assert (difference > 1e-4).float().mean() > 0.9


def seams(size, tile, overlap):
    sides = []
    for length in size:
        starts = tile_starts(length, tile, overlap)
        sides.append(sorted({*starts[1:], *(start + tile for start in starts[:-1])}))
    return tuple(sides)


def test_no_seam_shows_where_tiles_are_blended():
    model, image, size = models.load(samples() / "tiny.safetensors"), noise(288, 416), (288, 416)
    blended = tiled_predict(model, image, 128, 64).numpy()
    assert seam_ratio(blended, seams(size, 128, 64)) <= 1.05
    assert seam_ratio(tiled_predict(model, image, 128, 0).numpy(), seams(size, 128, 0)) > 1.3


def test_the_seam_ratio_is_the_height_of_a_step():
    values = np.tile(np.arange(10.0), (1, 10, 1)) + np.tile(np.arange(10.0), (1, 10, 1)).swapaxes(1, 2)
    assert seam_ratio(values, ([], [5])) == pytest.approx(1)
    values[:, :, 5:] += 2
    assert seam_ratio(values, ([], [5])) == pytest.approx(3)
    with pytest.raises(ValueError, match="0 borders"):
        seam_ratio(values, ([], [10]))


def test_blend_holds_a_tile_and_the_rows_that_tiles_share():
    held = {}
    for name, size in {"small": (300, 300), "high": (3000, 300), "wide": (300, 3000)}.items():
        blocks = blend(lambda top, left: torch.zeros(2, 64, 64), size, 64, 32)
        held[name] = 0
        for _ in blocks:
            stores = [
                part.untyped_storage()
                for value in blocks.gi_frame.f_locals.values()
                for part in (value if isinstance(value, list) else [value])
                if isinstance(part, torch.Tensor)
            ]
            held[name] = max(held[name], sum({store.data_ptr(): store.nbytes() for store in stores}.values()))
    assert held["high"] == held["small"]
    shared = 3 * 32 * 4 * (3000 - 300)  # of sums and weights, 32 rows of 4 bytes
    assert held["wide"] - held["small"] <= 2.1 * shared  # what the tiles above add, and what this row of tiles will


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (50, 10), (64, 64), (64, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(ValueError, match=f"tile is {tile} and overlap {overlap}"):
        tiled_predict(small_unet(), noise(8, 8), tile, overlap)


def test_a_model_in_training_mode_and_wrong_images_are_refused():
    with pytest.raises(ValueError, match="training mode"):
        tiled_predict(small_unet().train(), noise(8, 8))
    with pytest.raises(ValueError, match=r"image must be float \(3, H, W\)"):
        tiled_predict(small_unet(), noise(8, 8)[:1])


class OtherEmbeddingsInEachTile(BrightIsLane):
    """Bright pixels are lanes; their embedding is their third of the image, plus what only this tile has."""

    training = False

    def __init__(self):
        super().__init__()
        self.tiles = 0

    def forward(self, images, upsample=False):
        self.tiles += 1
        outputs = super().forward(images)
        outputs["embeddings"] = (images[:, :1] * 40 + 100 * self.tiles).repeat(1, 32, 1, 1)  # by brightness
        logits = torch.nn.functional.interpolate(outputs["logits"], images.shape[2:], mode="nearest")
        return outputs | {"logits": logits}


def scene():
    """Three lines of different brightness, through four rows of tiles."""
    image, semantic, instance = striped_scene(512, 256)
    for number, brightness in ((1, 180), (2, 215), (3, 250)):
        image[instance == number] = brightness
    return image, semantic, instance


def test_a_line_through_many_tiles_is_one_instance():
    image, semantic, instance = scene()
    model = OtherEmbeddingsInEachTile()
    result = TiledSegmenter(model, CONFIG, "cpu", tile=128, overlap=64)(image)
    assert model.tiles > 10
    assert result["lane_count"] == 3
    assert (all_instances(result) == instance).mean() > 0.98  # left to right, as in the mask
    assert (result["semantic_mask"] == semantic).mean() > 0.98


def test_without_overlap_nothing_is_joined():
    result = TiledSegmenter(OtherEmbeddingsInEachTile(), CONFIG, "cpu", tile=128, overlap=0)
    maps = result.run_network(scene()[0])
    assert maps["instances"].max() > 3


def test_lines_that_only_touch_in_an_overlap_stay_apart():
    known, found = np.zeros((64, 64), int), np.zeros((64, 64), int)
    known[:, 10:14], found[:, 10:14] = 1, 1
    known[:, 20:24], found[:, 23:27] = 2, 2  # a quarter of their pixels
    known[:9, 40], found[:9, 40] = 3, 3  # nine pixels
    assert same_instances(known, found) == [(1, 1), (2, 2)]
    found[:, 23:27] = 0
    found[:, 22:60][known[:, 22:60] == 0] = 2
    found[:, 10:12] = 2  # half of line 1 in the other tile's line 2
    assert (2, 2) not in same_instances(known, found)


def test_an_image_of_one_tile_gives_what_the_plain_segmenter_gives():
    plain = LaneSegmenter.from_checkpoint(samples() / "tiny.safetensors", "cpu")
    plain.tta, size = False, (256, 128)
    image = cv2.resize(read_image(samples() / "test" / "images" / "test_00000.jpg"), size, interpolation=cv2.INTER_AREA)
    tiled = TiledSegmenter(plain.model, plain.config, "cpu", tile=256, overlap=32)
    plain.postprocessor.min_pixels = tiled.postprocessor.whole.min_pixels
    one, other = plain(image), tiled(image)
    assert one["lane_count"] == other["lane_count"] > 0
    assert (one["semantic_mask"] == other["semantic_mask"]).all()
    assert (all_instances(one) == all_instances(other)).all()


def test_rows_that_the_config_cuts_off_are_background():
    image, _, _ = scene()
    result = TiledSegmenter(OtherEmbeddingsInEachTile(), CONFIG.replace(crop_top=0.25), "cpu", 128, 64)(image)
    assert (result["semantic_mask"][:128] == 0).all()
    assert (result["semantic_mask"][128:] == ROAD).any()
    assert result["lane_count"] == 3


def test_a_file_goes_from_disk_to_disk_with_the_same_result(tmp_path):
    image, _, _ = scene()
    np.save(tmp_path / "scene.npy", image)
    model = OtherEmbeddingsInEachTile()
    [(path, count)] = segment_file(TiledSegmenter(model, CONFIG, "cpu", 128, 64), tmp_path / "scene.npy", tmp_path)
    maps = TiledSegmenter(model, CONFIG, "cpu", 128, 64).run_network(image)
    assert path == tmp_path / "scene_instances.npy"
    assert count == 3
    assert (np.load(path) == maps["instances"]).all()
    assert (np.load(tmp_path / "scene_semantic.npy") == maps["semantic_pred"]).all()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stopped_file_leaves_nothing_behind(tmp_path, monkeypatch):
    np.save(tmp_path / "scene.npy", scene()[0])
    segmenter = TiledSegmenter(OtherEmbeddingsInEachTile(), CONFIG, "cpu", 128, 64)
    monkeypatch.setattr(segmenter, "fill", lambda *maps: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(segment_file(segmenter, tmp_path / "scene.npy", tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["scene.npy"]


@pytest.fixture(scope="module")
def checkpoint():
    return samples() / "tiny.safetensors"


def test_the_command_line_sees_images_and_arrays_in_tiles(checkpoint, tmp_path, capsys):
    image, _, _ = striped_scene(100, 150)
    write_image(tmp_path / "photo.png", image)
    np.save(tmp_path / "large.npy", image)
    for name, made in (("photo.png", "photo.json"), ("large.npy", "large_instances.npy")):
        line = f"infer lane --model {checkpoint} --input {tmp_path / name} --output {tmp_path / 'out'} --device cpu"
        assert main([*line.split(), "--tile", "64", "--overlap", "32"]) == 0
        assert (tmp_path / "out" / made).is_file()
    assert main([*line.split()]) == 2
    assert "give --tile" in capsys.readouterr().err
    assert main([*line.split(), "--tile", "50"]) == 2
    assert "tile is 50" in capsys.readouterr().err
    np.save(tmp_path / "large.npy", image[..., 0])
    assert main([*line.split(), "--tile", "64", "--overlap", "32"]) == 2
    assert "large.npy: expected (H, W, 3) uint8" in capsys.readouterr().err
