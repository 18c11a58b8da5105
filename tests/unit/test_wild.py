"""Scenes in styles beyond the renderer's own: to train models for photographs, and to choose among them."""

import numpy as np
import pytest

from roadtopo_lib.data.images import read_image
from roadtopo_lib.scenes import render_scene, write_dataset
from roadtopo_lib.scenes.synth import image_seed
from roadtopo_lib.scenes.wild import paint_over, restyle, sample_any_camera, spectral_noise

SIZE = (90, 160)


@pytest.fixture(scope="module")
def picture():
    return render_scene(8, SIZE, "day").image


@pytest.mark.parametrize("style", [restyle, paint_over])
def test_a_style_changes_the_picture_and_repeats_itself(picture, style):
    results = [style(np.random.default_rng(seed), picture) for seed in (0, 0, 1, 2, 3)]
    assert all(result.shape == picture.shape and result.dtype == np.uint8 for result in results)
    assert np.array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results}) == 4
    assert picture.tobytes() == render_scene(8, SIZE, "day").image.tobytes()


def test_noise_on_the_spectrum_keeps_the_phases_and_the_mean():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert np.abs(spectral_noise(np.random.default_rng(0), grey).astype(int) - 128).max() <= 1
    x = np.arange(64)
    wave = np.repeat((128 + 60 * np.cos(2 * np.pi * (4 * x) / 64)).round().astype(np.uint8)[None, :, None], 64, 0)
    wave = np.repeat(wave, 3, 2)
    noisy = spectral_noise(np.random.default_rng(1), wave).astype(float)
    before, after = np.fft.fft(wave[0, :, 0].astype(float))[4], np.fft.fft(noisy[0, :, 0])[4]
    assert abs(after) != pytest.approx(abs(before), rel=0.02)
    assert np.angle(after / before) == pytest.approx(0, abs=0.05)


def test_horizons_reach_from_a_third_to_six_tenths_of_the_height():
    rng = np.random.default_rng(0)
    cameras = [sample_any_camera(rng, SIZE) for _ in range(200)]
    rows = np.array([camera.horizon().mean() / SIZE[0] for camera in cameras])
    assert rows.min() < 0.35
    assert rows.max() > 0.58
    assert (rows < 0.42).mean() > 0.15  # of ``sample_camera`` 9 %


def test_the_road_is_rougher_and_its_labels_stay_those_of_its_lines():
    scenes = [render_scene(seed, SIZE, "wild") for seed in range(6)]
    assert any(scene.instance_visible.any() for scene in scenes)
    for scene in scenes:
        assert len(scene.lanes) == len(scene.lines)
        for k, lane in enumerate(scene.lanes, start=1):
            x, y = np.clip(lane.round().astype(int).T, 0, [[SIZE[1] - 1], [SIZE[0] - 1]])
            assert (scene.instance_amodal[y, x] == k).mean() > 0.5


def test_a_wild_set_is_chosen_by_painted_scenes(tmp_path):
    write_dataset(tmp_path, {"train": 1, "val": 1, "test": 1}, SIZE, 4, "wild", workers=1, progress=False)
    for split, preset in (("train", "wild"), ("val", "painted"), ("test", "wild")):
        scene = render_scene(image_seed(4, split, 0), SIZE, preset)
        stored = read_image(tmp_path / split / "images" / f"{split}_00000.jpg")
        assert np.abs(stored.astype(int) - scene.image).mean() < 8  # but for the compression
