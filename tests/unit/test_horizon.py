"""The row of the horizon, from lanes, and the ``crop_top`` that follows from it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from roadtopo_lib.app import cli
from roadtopo_lib.app.horizon import crop_top_for, horizon_row
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.images import write_image
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.road import Road

SAMPLES = Path(__file__).resolve().parents[2] / "data_samples"
SHIPPED = SAMPLES / "tiny.safetensors"
SIZE = (720, 1280)


def seen(camera, road, offsets):
    """Lines of a road at fixed offsets, as this camera projects them: exact, (M, 2) each."""
    lanes = []
    for offset in offsets:
        z = np.geomspace(4, 60, 200)
        x, z = road.line(offset, z).T
        pixels, _ = camera.project(np.stack([x, np.zeros_like(x), z], axis=1))
        lanes.append(pixels[(pixels[:, 1] < camera.size[0]) & (np.abs(pixels[:, 0] - 640) < 640)])
    return lanes


@pytest.mark.parametrize("pitch", [-4.0, 0.0, 5.0, 12.0])
def test_lanes_of_a_straight_road_meet_at_the_cameras_horizon(pitch):
    camera = Camera(height=1.4, pitch=pitch, roll=0.0, yaw=1.5, fov=60.0, lateral=0.2, size=SIZE)
    lanes = seen(camera, Road(-0.2, 0.01, 0.0, 0.0), (-5.2, -1.75, 1.75, 5.2))
    for chosen in (lanes, lanes[1:3], lanes[::-1]):
        assert horizon_row(chosen, SIZE[0]) == pytest.approx(camera.horizon()[640], abs=0.5)


def test_lanes_of_a_bend_do_not_meet_as_straight_lines_but_tell_the_horizon():
    camera = Camera(height=1.4, pitch=4.0, roll=0.0, yaw=0.0, fov=60.0, lateral=0.0, size=SIZE)
    left, right = seen(camera, Road(0.0, 0.0, 0.004, 0.0), (-1.75, 1.75))
    lanes = [left, right[right[:, 1] < 450]]  # near the car, something hides the right one
    assert horizon_row(lanes, SIZE[0]) == pytest.approx(camera.horizon()[640], abs=3.0)
    (m1, x1), (m2, x2) = (np.polyfit(*lane.T[::-1], 1) for lane in lanes)
    assert abs((x2 - x1) / (m1 - m2) - camera.horizon()[640]) > 10.0


def test_rendered_scenes_show_their_cameras_horizon():
    errors = []
    for seed in range(24):
        scene = render_scene(seed, (256, 512), "day")
        if len(scene.lanes) >= 2:
            errors.append((horizon_row(scene.lanes, 256) - scene.camera.horizon()[256]) / 256)
    assert len(errors) >= 20
    assert np.median(np.abs(errors)) < 0.003
    assert np.max(np.abs(errors)) < 0.03


@pytest.mark.parametrize("stray", [[(1100, 450), (900, 700)], [(560, 450), (250, 700)], [(690, 450), (700, 700)]])
def test_one_wrong_line_among_five_does_not_move_the_row(stray):
    camera = Camera(height=1.4, pitch=4.0, roll=0.0, yaw=0.0, fov=60.0, lateral=0.0, size=SIZE)
    lanes = seen(camera, Road(0.0, 0.0, 0.0, 0.0), (-5.2, -1.75, 1.75, 5.2))
    assert horizon_row([*lanes, stray], SIZE[0]) == pytest.approx(camera.horizon()[640], abs=2.0)


def test_two_lines_by_hand_meet_where_they_cross_even_without_common_rows():
    left, right = [(100, 700), (500, 300)], [(1180, 700), (780, 300)]  # x = 800 − y and 480 + y: row 160
    assert horizon_row([left, right], 720) == pytest.approx(160)
    assert horizon_row([left[::-1], right], 720) == pytest.approx(160)
    assert horizon_row([[(100, 700), (300, 500)], [(930, 450), (780, 300)]], 720) == pytest.approx(160)
    assert horizon_row([[(100, 700), (300, 300)], [(1300, 700), (1100, 300)]], 720) == pytest.approx(-500)


@pytest.mark.parametrize(
    ("lanes", "message"),
    [
        ([], "0 lanes found, expected at least two"),
        ([[(100, 700), (500, 300)]], "1 lane found, expected at least two"),
        ([[(100, 700), (500, 300)], [(100, 500), (900, 510)]], "1 lane found"),  # the second is level
        ([[(100, 700), (100, 300)], [(900, 700), (900, 300)]], "the 2 lanes do not meet"),  # parallel
        ([[(500, 700), (100, 300)], [(700, 700), (1100, 300)]], "the 2 lanes do not meet"),  # they part upwards
        (
            [[(500, 500), (100, 300)], [(700, 500), (1100, 300)]],
            "the 2 lanes do not meet",
        ),  # they meet below, in row 550
        ([[(100, 700), (150, 300)], [(1100, 700), (1050, 300)]], "the 2 lanes do not meet"),  # in row −3300
    ],
)
def test_what_shows_no_horizon_is_said_plainly(lanes, message):
    with pytest.raises(ValueError, match=message):
        horizon_row(lanes, 720)


def test_crop_top_keeps_the_horizon_of_nearly_all_images_and_is_one_that_a_config_takes():
    assert crop_top_for([0.5]) == 0.47
    assert crop_top_for([0.50, 0.58, 0.58]) == 0.47  # nearly the highest horizon
    assert crop_top_for([0.1] + [0.55] * 99) == 0.52, "one image in a hundred does not decide"
    assert crop_top_for([-0.2]) == crop_top_for([0.02]) == 0.0
    for share in (0.0, 0.3, 0.99):
        LaneSegmentationConfig.preset("tiny").replace(crop_top=crop_top_for([share]))


def test_the_shipped_model_finds_the_horizon_of_the_samples(capsys):
    assert cli.main(["horizon", str(SAMPLES / "test" / "images"), "--model", str(SHIPPED), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    rows = {Path(m[1]).stem: float(m[2]) for m in re.finditer(r"^(\S+)  row ([\d.]+) of 256", out, re.MULTILINE)}
    meta = {image["name"]: image for image in json.loads((SAMPLES / "meta.json").read_text())["images"]}
    horizons = {name: Camera(size=(256, 512), **meta[name]["camera"]).horizon()[256] for name in rows}
    assert len(rows) >= 8
    assert np.median([abs(rows[name] - horizons[name]) for name in rows]) < 0.02 * 256
    shares = np.array(list(rows.values())) / 256
    low, median, high = np.quantile(shares, (0.1, 0.5, 0.9))
    printed = re.search(r"horizon: ([\d.]+) of the height, .* eight in ten within ([\d.]+) \.\. ([\d.]+)", out)
    assert [float(value) for value in printed.groups()] == pytest.approx([median, low, high], abs=1e-3)
    assert f"median of {len(rows)} of 12 images" in out
    assert out.count("no horizon: ") == 12 - len(rows)
    crop = float(re.search(r"crop_top: ([\d.]+)", out)[1])
    assert crop == pytest.approx(crop_top_for(shares), abs=0.01)
    assert all(crop * 256 < row for row in list(horizons.values()) if row > np.quantile(list(horizons.values()), 0.1))


def run(*words):
    return cli.main(["horizon", *map(str, words)])


def test_lines_by_hand_need_no_model(tmp_path, capsys):
    write_image(tmp_path / "a.png", np.zeros((720, 1280, 3), np.uint8))
    lines = ["--lines", "100,700,500,300", "1180,700,780,300"]
    assert run(tmp_path / "a.png", *lines) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'a.png'}  row 160.0 of 720 (0.222), from 2 lanes" in out
    assert "crop_top: 0.19" in out
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert run(tmp_path, *lines) == 1, "what can be read is done"
    captured = capsys.readouterr()
    assert "b.png: not an image" in captured.err
    assert "median of 1 of 2 images" in captured.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --model, which finds the lanes, or --lines"),
        (["--lines", "100,700,500,300"], "no horizon in 1 image; "),
        (["--lines", "100,700,100,300", "900,700,900,300"], "the 2 lanes do not meet"),
    ],
)
def test_no_horizon_at_all_is_one_line(tmp_path, capsys, words, message):
    write_image(tmp_path / "a.png", np.zeros((720, 1280, 3), np.uint8))
    assert run(tmp_path / "a.png", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_files_and_wrong_lines_are_one_line(tmp_path, capsys):
    assert run(tmp_path / "none.png", "--lines", "1,2,3,4") == 2
    assert "none.png: no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path, "--lines", "1,2,3")
    assert "'1,2,3' is not x1,y1,x2,y2" in capsys.readouterr().err
