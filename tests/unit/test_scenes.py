"""The scene renderer: geometry against independent formulas, labels against the picture, files against the promises."""

import errno
import json
import multiprocessing
import os
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from roadtopo_lib.data import SPLITS
from roadtopo_lib.files import UNFINISHED
from roadtopo_lib.labels import (
    CROSSWALK,
    CROSSWALK_CLASS_IDS,
    LANE_CLASS_IDS,
    LANE_MARKING,
    NUM_CLASSES,
    ROAD,
)
from roadtopo_lib.scenes import Camera, Road, Scene, render, render_scene, synth, write_dataset
from roadtopo_lib.scenes.annotate import annotate, label_width
from roadtopo_lib.scenes.canvas import OWN_VEHICLE, RIDER, Canvas
from roadtopo_lib.scenes.layout import Crosswalk, Layout, Line, Strip, Stroke, mirrored
from roadtopo_lib.scenes.render import PRESETS
from roadtopo_lib.scenes.road import band_coverage, dash_coverage, road_pixels
from roadtopo_lib.scenes.streets import sample_layout
from roadtopo_lib.scenes.surface import strip_index
from roadtopo_lib.scenes.weather import sample_light

SIZE = (128, 256)
SEEDS = range(24)


@cache
def scene(seed: int, preset: str = "all", size: tuple[int, int] = SIZE) -> Scene:
    return render_scene(seed, size, preset)


def scenes(preset: str = "all") -> list[Scene]:
    return [scene(seed, preset) for seed in SEEDS]


def explicit_matrix(camera: Camera) -> np.ndarray:
    """K [R | t] for points (x, y down from the ground, z), written out with OpenCV's rotation vectors."""
    h, w = camera.size
    fx = 0.5 * w / np.tan(np.deg2rad(camera.fov) * 0.5)
    k = np.array([[fx, 0, 0.5 * (w - 1)], [0, fx * camera.pixel_aspect, 0.5 * (h - 1)], [0, 0, 1]])
    axes = ((0, 0, np.deg2rad(camera.roll)), (np.deg2rad(camera.pitch), 0, 0), (0, np.deg2rad(-camera.yaw), 0))
    r = np.eye(3)
    for axis in axes:
        r = r @ cv2.Rodrigues(np.array(axis, dtype=np.float64))[0]
    t = r @ np.array([[0], [camera.height], [0]])  # the ground lies one camera height below the camera
    return k @ np.hstack([r, t])


def independent_centre(road: Road, z: float) -> tuple[float, float]:
    """Centre line and slope by summing the change of heading in centimetre steps."""
    t = np.arange(0, z, 1e-2) + 5e-3
    slope = road.heading + road.curvature * t + road.change * t**2 / 2
    end = road.heading + road.curvature * z + road.change * z**2 / 2
    return road.start + slope.sum() * 1e-2, end


# Geometry


def test_projection_equals_an_explicit_matrix():
    camera = Camera(height=1.6, pitch=3.0, roll=-1.5, yaw=4.0, fov=55, lateral=0, size=(256, 512), pixel_aspect=0.9)
    points = np.array([[0, 0, 5.0], [-4, 1.5, 12], [7, 0, 60], [0.3, 4, 30]])
    homogeneous = np.column_stack([points * [1, -1, 1], np.ones(4)]) @ explicit_matrix(camera).T
    seen, depth = camera.project(points)
    np.testing.assert_allclose(seen, homogeneous[:, :2] / homogeneous[:, 2:], rtol=1e-9)
    np.testing.assert_allclose(depth, homogeneous[:, 2], rtol=1e-9)


def test_every_ground_pixel_projects_back_onto_itself():
    for seed in range(5):
        camera = scene(seed).camera
        ground = camera.ground()
        rows, cols = np.nonzero(ground.seen & (ground.z < 300))
        points = np.stack([ground.x[rows, cols], 0 * rows, ground.z[rows, cols], np.ones(len(rows))])
        u, v, w = explicit_matrix(camera) @ points
        np.testing.assert_allclose(u / w, cols, atol=0.02)
        np.testing.assert_allclose(v / w, rows + ground.top, atol=0.02)


def test_horizon_separates_sky_from_ground():
    camera = Camera(height=1.3, pitch=-2.0, roll=2.0, yaw=0, fov=70, lateral=0, size=SIZE)
    ground = camera.ground()
    first = ground.top + ground.seen.argmax(axis=0)
    assert np.abs(first - camera.horizon()).max() < 1.5


def test_lanes_lie_at_a_constant_offset_from_an_independent_curve():
    checked = 0
    for s in scenes("day")[:25]:
        inverse = np.linalg.inv(explicit_matrix(s.camera)[:, [0, 2, 3]])  # ground plane (x, z) ↔ pixel
        for lane in s.lanes:
            x, z, w = inverse @ np.vstack([lane.T.astype(np.float64), np.ones(len(lane))])
            x, z = x / w, z / w
            offsets = []
            for k in np.flatnonzero(z < 45)[::12]:
                centre, slope = independent_centre(s.road, z[k])
                if abs(slope) < 0.85:
                    offsets.append((x[k] - centre) / np.hypot(1, slope))
            if len(offsets) > 2:
                assert np.ptp(offsets) < 0.05
                checked += 1
    assert checked > 30


def test_ground_points_projected_by_the_explicit_matrix_land_on_their_label():
    hits = []
    for s in scenes("day")[:25]:
        matrix = explicit_matrix(s.camera)
        inverse = np.linalg.inv(matrix[:, [0, 2, 3]])
        for number, lane in enumerate(s.lanes, start=1):
            x, z, w = inverse @ [*lane[len(lane) // 2].astype(np.float64), 1]
            centre, slope = independent_centre(s.road, z / w)
            offset = (x / w - centre) / np.hypot(1, slope)
            for distance in (z / w * 0.8, z / w * 1.2):  # other points of the same line
                centre, slope = independent_centre(s.road, distance)
                u, v, d = matrix @ [centre + offset * np.hypot(1, slope), 0, distance, 1]
                col, row = round(u / d), round(v / d)
                if lane[0, 1] < row < lane[-1, 1] and 0 <= col < SIZE[1] and s.semantic_amodal[row, col] != CROSSWALK:
                    hits.append(s.instance_amodal[row, col] == number)
    assert len(hits) > 60
    assert np.mean(hits) > 0.97  # the rest lies behind a barrier


def test_line_and_to_road_are_inverse():
    road = Road(0.4, 0.03, 1 / 300, -2e-5)
    z = np.linspace(3, 90, 50)
    for offset in (-5.25, 0.0, 8.75):
        x, zs = road.line(offset, z).T
        np.testing.assert_allclose(road.to_road(x, zs)[1], offset, atol=1e-9)


def test_coverage_equals_counting_samples_in_the_footprint():
    rng = np.random.default_rng(0)
    centre, span = rng.uniform(-30, 30, 200), rng.uniform(0.01, 20, 200)
    inside = centre[:, None] + span[:, None] * (np.arange(4000) / 4000 - 0.5)
    np.testing.assert_allclose(
        dash_coverage(centre, span, 3, 9, 1.7), (np.mod(inside + 1.7, 12) < 3).mean(axis=1), atol=2e-3
    )
    np.testing.assert_allclose(
        band_coverage(centre, span, -2, 3.5), ((inside > -2) & (inside < 3.5)).mean(axis=1), atol=2e-3
    )


def test_mirroring_a_road_twice_gives_the_road():
    for seed in range(20):
        layout = sample_layout(np.random.default_rng(seed))
        again = mirrored(mirrored(layout))
        assert again.lines == layout.lines
        assert [s.material for s in again.strips] == [s.material for s in layout.strips]
        np.testing.assert_allclose(again.borders, layout.borders)


def test_the_camera_drives_in_the_ego_lane_of_a_road_and_of_its_mirror_image():
    for seed in range(40):
        layout = sample_layout(np.random.default_rng(seed))
        for road in (layout, mirrored(layout)):
            assert road.borders[road.ego] < 0 < road.borders[road.ego + 1]
            assert (np.diff(road.borders) > 2).all()
            assert road.ego not in road.oncoming


# Scenes


def test_the_same_seed_gives_the_same_bytes():
    for seed in (3, 4, 5):
        fresh = render_scene(seed, SIZE)
        kept = scene(seed)
        for name in ("image", "semantic_visible", "instance_visible", "semantic_amodal", "instance_amodal"):
            assert getattr(fresh, name).tobytes() == getattr(kept, name).tobytes()
        assert fresh.attributes == kept.attributes
        assert all(np.array_equal(a, b) for a, b in zip(fresh.lanes, kept.lanes, strict=True))


def test_other_seeds_give_other_scenes():
    assert len({scene(seed).image.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("kind", ["visible", "amodal"])
def test_masks_are_valid(kind: str):
    for s in scenes():
        semantic, instance = getattr(s, f"semantic_{kind}"), getattr(s, f"instance_{kind}")
        assert s.image.shape == (*SIZE, 3)
        assert s.image.dtype == np.uint8
        assert semantic.shape == instance.shape == SIZE
        assert (semantic.dtype, instance.dtype) == (np.uint8, np.uint16)
        assert semantic.max() < NUM_CLASSES
        ids = np.unique(instance[instance > 0])
        assert ids.tolist() == list(range(1, len(ids) + 1))
        lanes = len(s.lanes)
        for number in ids:
            allowed = LANE_CLASS_IDS if number <= lanes else CROSSWALK_CLASS_IDS
            classes = np.unique(semantic[instance == number])
            assert len(classes) == 1
            assert classes[0] in allowed
        bears_instance = np.isin(semantic, LANE_CLASS_IDS + CROSSWALK_CLASS_IDS)
        assert np.array_equal(bears_instance, instance > 0)


def test_visible_and_amodal_masks_hold_the_same_instances():
    for s in scenes():
        assert np.array_equal(np.unique(s.instance_visible), np.unique(s.instance_amodal))


def test_amodal_lanes_contain_visible_lanes():
    for s in scenes():
        lane = (s.instance_visible > 0) & (s.instance_visible <= len(s.lanes))
        assert np.array_equal(s.instance_visible[lane], s.instance_amodal[lane])


def test_amodal_crossings_contain_their_stripes():
    found = 0
    for s in scenes():
        stripes = (s.instance_visible > len(s.lanes)) & (s.instance_visible > 0)
        found += stripes.any()
        assert np.array_equal(s.instance_visible[stripes], s.instance_amodal[stripes])
    assert found >= 2


def test_lanes_are_numbered_left_to_right_where_they_meet_the_lower_edge():
    for s in scenes():
        meets = []
        for lane in s.lanes:
            near = lane[lane[:, 1] > lane[-1, 1] - 0.35 * np.ptp(lane[:, 1]) - 1]
            slope, start = np.polyfit(near[:, 1], near[:, 0], 1)
            meets.append(slope * 2 * SIZE[0] + start)  # well below every lane's end
        if abs(s.road.curvature) < 1 / 400:  # a straight continuation is exact enough there
            assert meets == sorted(meets)


def test_lane_curves_run_top_to_bottom_through_their_amodal_label():
    for s in scenes():
        for number, lane in enumerate(s.lanes, start=1):
            assert lane.ndim == 2
            assert lane[-1, 1] > lane[0, 1]
            x, y = np.clip(np.round(lane), 0, [SIZE[1] - 1, SIZE[0] - 1]).astype(int).T
            on = s.instance_amodal[y, x] == number
            crossing = s.semantic_amodal[y, x] == CROSSWALK
            assert (on | crossing).mean() > 0.9


def test_label_lines_are_thick_and_never_touch():
    width = label_width(SIZE[1])
    assert width >= 0.014 * SIZE[1] - 1
    for s in scenes():
        for number in range(1, len(s.lanes) + 1):
            own = (s.instance_amodal == number).astype(np.uint8)
            inside = cv2.distanceTransform(np.pad(own, 1), cv2.DIST_L2, 5)
            assert inside.max() >= width / 2 - 1
            neighbours = s.instance_amodal[cv2.dilate(own, np.ones((3, 3), np.uint8)) > 0]
            assert not ((neighbours > 0) & (neighbours <= len(s.lanes)) & (neighbours != number)).any()


def hand_made_labels(moving: np.ndarray, fixed: np.ndarray, crossing: bool = False):
    """Labels of a straight lane between two solid lines, seen by a level camera, with some pixels hidden."""
    camera = Camera(height=1.5, pitch=0, roll=0, yaw=0, fov=60, lateral=0, size=SIZE)
    road, ground = Road(0, 0, 0, 0), camera.ground()
    lines = [Line(u, LANE_MARKING, (Stroke(0, 0.15),)) for u in (-1.75, 1.75)]
    strips = [Strip(-np.inf, "grass"), Strip(-4.0, "asphalt"), Strip(4.0, "grass")]
    layout = Layout("rural", np.array([-1.75, 1.75]), 0, lines, strips)
    if crossing:
        layout.crosswalks.append(Crosswalk(7, 11, -3, 3, 0.5, 1.0, 1.0))
    px = road_pixels(road, ground)
    return annotate(camera, ground, road, layout, px, strip_index(layout, px.u), fixed, moving, 60)


def test_vehicles_hide_visible_labels_and_amodal_lanes_go_on_behind_them():
    nothing, car = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    car[75:110, 40:200] = True
    free, hidden = hand_made_labels(nothing, nothing), hand_made_labels(car, nothing)
    assert (free.instance_visible[car] > 0).any()
    assert not hidden.semantic_visible[car].any()
    assert not hidden.instance_visible[car].any()
    assert np.array_equal(hidden.instance_amodal, free.instance_amodal)
    assert np.array_equal(hidden.instance_visible[~car], free.instance_visible[~car])


def test_crossings_are_stripes_where_visible_and_their_whole_hull_where_amodal():
    nothing, car = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    car[:, :128] = True
    labels = hand_made_labels(car, nothing, crossing=True)
    assert not (labels.semantic_visible[car] == CROSSWALK).any()
    # the hull between 7 and 11 m: rows of the horizon + focal · height / distance, offset −3..3 m
    focal, row = 128 / np.tan(np.deg2rad(30)), 100
    distance = focal * 1.5 / (row - 63.5)
    cols = np.arange(SIZE[1])
    inside = np.abs((cols - 127.5) * distance / focal) < 3
    assert 7 < distance < 11
    assert np.array_equal(labels.semantic_amodal[row] == CROSSWALK, inside)
    offset = (cols - 127.5) * distance / focal + 3
    stripes = inside & (np.mod(offset, 1) < 0.5)
    differ = (labels.semantic_visible[row] == CROSSWALK) != (stripes & ~car[row])
    assert differ[128:].mean() < 0.05
    lanes = labels.instance_visible[row][inside]
    assert not ((lanes > 0) & (lanes <= len(labels.lanes))).any()


def test_nothing_is_labelled_on_the_fixed_world():
    nothing, wall = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    wall[60:, 170:] = True
    labels = hand_made_labels(nothing, wall)
    for mask in (labels.semantic_visible, labels.semantic_amodal, labels.instance_visible, labels.instance_amodal):
        assert not mask[wall].any()
        assert mask.any()
    assert all(lane[:, 0].max() < 170 for lane in labels.lanes)


def test_paint_lies_under_the_visible_label():
    gains = []
    for seed in SEEDS:
        s = scene(seed, "day")
        grey = s.image.astype(float).max(axis=2)  # the maximum of RGB sees yellow and white alike
        width = label_width(SIZE[1])
        for number, lane in enumerate(s.lanes, start=1):
            x, y = np.clip(np.round(lane), 0, [SIZE[1] - 1, SIZE[0] - 1]).astype(int).T
            use = (s.instance_visible[y, x] == number) & (s.semantic_visible[y, x] == LANE_MARKING)
            use &= (x > 3 * width) & (x < SIZE[1] - 3 * width) & (y > lane[0, 1] + 8)
            x, y = x[use], y[use]
            beside = [(x + d, y) for d in (-2 * width, 2 * width)]
            sides = [grey[b, a][s.semantic_visible[b, a] == ROAD] for a, b in beside]
            around = np.concatenate(sides)
            if len(x) > 5 and len(around) > 5:
                gains.append(grey[y, x].mean() - around.mean())
    assert len(gains) > 20
    assert np.mean(np.array(gains) > 0) > 0.9
    assert np.median(gains) > 20


def test_day_preset_has_neither_night_nor_rain():
    for s in scenes("day"):
        assert s.attributes["light"] == "day"
        assert s.attributes["rain"] == 0
    kinds = {s.attributes["light"] for s in scenes("all")}
    assert kinds == {"day", "dusk", "night"}
    assert any(s.attributes["rain"] > 0 for s in scenes("all"))


def test_attributes_are_plain_values_for_json():
    assert json.loads(json.dumps(scene(0).attributes)) == scene(0).attributes


def test_many_seeds_and_odd_sizes_render():
    for seed in range(40):
        render_scene(seed, (32, 64))
    assert render_scene(1, (96, 64)).image.shape == (96, 64, 3)
    assert render_scene(2, (540, 960)).image.shape == (540, 960, 3)
    for seed in range(20):  # odd numbers; rain, blur and compression work on fractions of a size
        view = render_scene(seed, (33 + seed, 101 - seed))
        shapes = {getattr(view, name).shape for name in ("semantic_visible", "instance_visible", "semantic_amodal")}
        assert shapes == {view.image.shape[:2]} == {(33 + seed, 101 - seed)}


@pytest.mark.parametrize("size", [(0, 512), (-256, 512), (31, 64), (64, 31)])
def test_impossible_sizes_are_refused(size: tuple[int, int]):
    with pytest.raises(ValueError, match="each 32 to 8192"):
        render_scene(0, size)


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="twilight"):
        render_scene(0, SIZE, "twilight")


# Files

SMALL = (32, 64)


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_data_set_has_the_promised_layout(tmp_path):
    write_dataset(tmp_path, {"train": 2, "val": 1}, SMALL, seed=5, workers=1, progress=False)
    assert sorted(contents(tmp_path)) == sorted(
        ["meta.json"]
        + [f"{split}/{folder}/{split}_{k:05d}{end}"
           for split, n in (("train", 2), ("val", 1)) for k in range(n)
           for folder, end in (("images", ".jpg"), ("semantic_masks", ".png"), ("instance_masks", ".png"))]
    )  # fmt: skip
    assert not (tmp_path / "test").exists()  # no folder of a split that nobody asked for
    instance = cv2.imread(str(tmp_path / "train/instance_masks/train_00001.png"), cv2.IMREAD_UNCHANGED)
    semantic = cv2.imread(str(tmp_path / "train/semantic_masks/train_00001.png"), cv2.IMREAD_UNCHANGED)
    assert (instance.dtype, instance.shape) == (np.uint16, SMALL)
    assert (semantic.dtype, semantic.shape) == (np.uint8, SMALL)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["seed"], meta["preset"], meta["size"], meta["labels"]) == (5, "all", [32, 64], "visible")
    assert len(meta["images"]) == 3
    again = render_scene(meta["images"][1]["seed"], SMALL)
    assert np.array_equal(again.instance_visible, instance)
    assert np.array_equal(again.semantic_visible, semantic)
    assert meta["images"][1]["camera"]["height"] == pytest.approx(again.camera.height, abs=1e-5)
    image = cv2.imread(str(tmp_path / "train/images/train_00001.jpg"))[..., ::-1].astype(float)
    assert np.abs(image - again.image).mean() < 6


def test_amodal_data_set_holds_amodal_masks(tmp_path):
    write_dataset(tmp_path, {"test": 1}, SMALL, seed=5, amodal=True, workers=1, progress=False)
    meta = json.loads((tmp_path / "meta.json").read_text())
    mask = cv2.imread(str(tmp_path / "test/instance_masks/test_00000.png"), cv2.IMREAD_UNCHANGED)
    assert meta["labels"] == "amodal"
    assert np.array_equal(mask, render_scene(meta["images"][0]["seed"], SMALL).instance_amodal)


def test_splits_share_no_seed():
    seeds = [synth.image_seed(0, split, k) for split in SPLITS for k in range(500)]
    assert len(set(seeds)) == len(seeds)


def test_number_of_workers_does_not_change_a_byte(tmp_path):
    counts = {"train": 5, "val": 2}
    one = write_dataset(tmp_path / "one", counts, SMALL, seed=1, workers=1, progress=False)
    two = write_dataset(tmp_path / "two", counts, SMALL, seed=1, workers=2, progress=False)
    assert contents(one) == contents(two)


def test_a_run_that_was_broken_off_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    whole = write_dataset(tmp_path / "whole", {"train": 6}, SMALL, seed=2, workers=1, progress=False)
    rendered = []

    def fails_on_the_fourth(seed, size, preset):
        rendered.append(seed)
        if len(rendered) == 4:
            raise KeyboardInterrupt
        return render_scene(seed, size, preset)

    monkeypatch.setattr(synth, "render_scene", fails_on_the_fourth)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        write_dataset(broken, {"train": 6}, SMALL, seed=2, workers=1, progress=False)
    assert len(list((broken / "train/images").iterdir())) == 3
    write_dataset(broken, {"train": 6}, SMALL, seed=2, workers=1, progress=False)
    assert len(rendered) == 4 + 3  # three were left, none was done twice
    assert contents(broken) == contents(whole)


def test_a_killed_run_has_kept_every_finished_image(tmp_path, monkeypatch):
    rendered = []

    def dies_on_the_fourth(seed, size, preset):
        rendered.append(seed)
        if len(rendered) == 4:
            os._exit(9)
        return render_scene(seed, size, preset)

    def run():
        monkeypatch.setattr(synth, "render_scene", dies_on_the_fourth)
        write_dataset(tmp_path, {"train": 6}, SMALL, seed=2, workers=1, progress=False)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 9
    monkeypatch.setattr(synth, "render_scene", lambda *a: rendered.append(a) or render_scene(*a))
    write_dataset(tmp_path, {"train": 6}, SMALL, seed=2, workers=1, progress=False)
    assert len(rendered) == 3


def test_only_missing_files_are_rendered_again(tmp_path, monkeypatch):
    out = write_dataset(tmp_path, {"train": 4}, SMALL, seed=3, workers=1, progress=False)
    before = contents(out)
    (out / "train/semantic_masks/train_00002.png").unlink()
    rendered = []
    monkeypatch.setattr(synth, "render_scene", lambda *a: rendered.append(a) or render_scene(*a))
    write_dataset(tmp_path, {"train": 4}, SMALL, seed=3, workers=1, progress=False)
    assert len(rendered) == 1
    assert contents(out) == before
    write_dataset(tmp_path, {"train": 5}, SMALL, seed=3, workers=1, progress=False)  # a data set may grow
    assert len(rendered) == 2
    assert len(json.loads((out / "meta.json").read_text())["images"]) == 5


def test_other_settings_are_refused_naming_both(tmp_path):
    write_dataset(tmp_path, {"train": 1}, SMALL, seed=3, workers=1, progress=False)
    before = contents(tmp_path)
    for change in ({"seed": 4}, {"preset": "day"}, {"size": (64, 64)}, {"amodal": True}):
        settings = {"size": SMALL, "seed": 3, **change}
        with pytest.raises(ValueError, match=r"found .*'seed': 3.*expected "):
            write_dataset(tmp_path, {"train": 1}, workers=1, progress=False, **settings)
    with pytest.raises(ValueError, match="already holds 1 train images"):
        write_dataset(tmp_path, {"train": 0}, SMALL, seed=3, workers=1, progress=False)
    assert contents(tmp_path) == before


def test_a_failing_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    replace = os.replace

    def full_disk(source, target):
        if str(target).endswith("train_00001.jpg"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match=r"train_00001\.jpg: cannot be written \(No space left") as refusal:
        write_dataset(tmp_path, {"train": 3}, SMALL, seed=3, workers=1, progress=False)
    assert type(refusal.value) is OSError, "a full disk is no matter of permissions"
    assert not [name for name in contents(tmp_path) if name.endswith(UNFINISHED)]
    assert not (tmp_path / "train/images/train_00001.jpg").exists()
    for name, data in contents(tmp_path).items():
        if name.endswith((".png", ".jpg")):
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[:2] == SMALL


@pytest.mark.parametrize("victim", ["meta.json", "train_00000.png", "train_00000.jpg"])
def test_temporary_files_of_a_killed_run_are_cleared_away(tmp_path, victim):
    def run():
        replace = os.replace
        # Killed between writing a file and naming it.
        os.replace = lambda source, path: os._exit(9) if path.name == victim else replace(source, path)
        write_dataset(tmp_path, {"train": 1}, SMALL, workers=1, progress=False)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 9
    assert len([name for name in contents(tmp_path) if name.endswith(UNFINISHED)]) == 1
    (tmp_path / "notes.tmp").write_text("mine")
    write_dataset(tmp_path, {"train": 1}, SMALL, workers=1, progress=False)
    assert (tmp_path / "notes.tmp").exists()
    assert not [name for name in contents(tmp_path) if name.endswith(UNFINISHED)]


def test_a_folder_of_other_images_is_left_alone(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/images/mine.jpg").write_bytes(b"photo")
    with pytest.raises(ValueError, match=r"no meta\.json"):
        write_dataset(tmp_path, {"train": 1}, SMALL, workers=1, progress=False)
    assert list(contents(tmp_path)) == ["train/images/mine.jpg"]


def test_an_output_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_dataset(tmp_path / "file", {"train": 1}, SMALL, workers=1, progress=False)

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(PermissionError, match=r"new: cannot be written \(read-only\)"):
        write_dataset(tmp_path / "new", {"train": 1}, SMALL, workers=1, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": {"train": -1}}, "-1"),
        ({"counts": {"training": 1}}, "training"),
        ({"counts": {"train": 1.5}}, "1.5"),
        ({"seed": -1}, "seed"),
        ({"preset": "noon"}, "noon"),
        ({"workers": 0}, "workers"),
        ({"size": (31, 64)}, "31"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, change: dict, message: str):
    arguments = {"counts": {"train": 1}, "size": SMALL, "workers": 1, "progress": False, **change}
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_day_paint_is_in_good_order_and_all_paint_need_not_be(monkeypatch):
    worn = Line(0.0, LANE_MARKING, opacity=0.4, wear=0.9, gone=((1.0, 5.0),))
    kept = worn.in_good_order()
    assert (kept.opacity, kept.wear, kept.gone, kept.u, kept.label) == (0.7, 0.5, (), 0.0, LANE_MARKING)

    def without_paint(rng):
        layout = sample_layout(rng)
        layout.lines = [replace(line, gone=((-10.0, 500.0),)) for line in layout.lines if line.strokes]
        layout.crosswalks.clear()
        return layout

    monkeypatch.setattr(render, "sample_layout", without_paint)
    labelled = {preset: [render_scene(s, SIZE, preset).instance_visible.any() for s in range(6)] for preset in PRESETS}
    assert not any(labelled["all"])
    assert all(labelled["day"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_scene_without_its_vehicles_is_the_same_scene(preset):
    for seed in (0, 3, 4):
        full, empty = (render_scene(seed, (128, 256), preset, vehicles=kept) for kept in (True, False))
        assert full.attributes["vehicles"] > 0 == empty.attributes["vehicles"]
        differs = (full.image != empty.image).any(axis=2)
        assert differs.mean() > 0
        if preset not in ("wild", "painted"):  # a style changes the whole picture
            assert differs.mean() < 0.5  # the vehicles and their shadows
        lanes = [np.isin(scene.semantic_amodal, LANE_CLASS_IDS) for scene in (full, empty)]
        assert not (lanes[0] & ~lanes[1]).any()  # a lane that vehicles hide from end to end shows without them
        changed = {"vehicles", "lane_lines"}
        assert {k: v for k, v in full.attributes.items() if k not in changed} == {
            k: v for k, v in empty.attributes.items() if k not in changed
        }


def test_a_night_ride_is_dark_and_shows_motorcycle_rider_and_vehicles_where_its_masks_say():
    scenes = [render_scene(seed, (135, 240), "night-ride") for seed in range(4)]
    for seed, scene in enumerate(scenes):
        assert scene.attributes["light"] == "night"
        assert scene.image.mean() < 70
        bike, rider = ((scene.own == owner) for owner in (OWN_VEHICLE, RIDER))
        assert 0.04 < bike.mean() < 0.2
        assert 0.02 < rider.mean() < 0.1
        assert not (bike | rider)[:67].any()
        assert not (scene.cars & (scene.own > 0)).any()
        assert not scene.instance_visible[scene.cars | (scene.own > 0)].any()
        empty = render_scene(seed, (135, 240), "night-ride", vehicles=False)
        assert not empty.cars.any()
        assert np.array_equal(empty.own, scene.own)
        differs = np.abs(scene.image.astype(int) - empty.image).max(axis=2) > 12
        assert (differs & scene.cars).sum() > 0.4 * scene.cars.sum()  # parts of a dark car are as dark as the road
    assert any(scene.cars.any() for scene in scenes)
    assert max(abs(scene.camera.roll) for scene in scenes) > 2  # more than a car rolls


def test_what_stands_before_a_vehicle_is_no_vehicle():
    camera = render_scene(0, (64, 128)).camera
    canvas = Canvas(camera, sample_light(np.random.default_rng(0), "day"), np.zeros((64, 128, 3), np.uint8))
    wall = np.array([[-2.0, 0, 20], [2, 0, 20], [2, 2, 20], [-2, 2, 20]])
    canvas.polygon(wall, (0.5, 0.5, 0.5), "car")
    assert np.array_equal(canvas.cars, canvas.moving)
    assert canvas.cars.any()
    canvas.polygon(wall * [0.5, 1, 0.5], (0.5, 0.5, 0.5), "fixed")
    assert not canvas.cars.any()
