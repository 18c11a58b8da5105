"""Elective 4's pictures, and the stored figures beside the benchmark that made them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from roadtopo_lib.course.lessons import amodal as lesson
from roadtopo_lib.electives.occlusions import hidden_pixels

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench_amodal


def test_the_stored_figures_are_of_the_benchmark_as_it_is():
    found = lesson.results()
    assert found["command"] == bench_amodal.COMMAND
    for name, value in (("counts", bench_amodal.COUNTS), ("steps", bench_amodal.STEPS), ("batch", bench_amodal.BATCH)):
        assert found[name] == value
    assert (tuple(found["size"]), lesson.TEST_SEED) == (lesson.TEST_SIZE, bench_amodal.SEED)
    for row in found["fusions"].values():
        for score in set(row) & {"psnr", "ssim", "l1"}:
            low, high = row[score]["interval"]
            assert low < row[score]["mean"] < high
    assert {row["image"] for row in found["lanes"]} <= set(lesson.IMAGES)


def test_the_frame_is_rendered_without_its_vehicles_and_its_hole_is_found():
    seen, empty = lesson.frame_scenes()
    assert seen.cars.any()
    assert not empty.cars.any()
    hidden = torch.from_numpy(hidden_pixels(seen.image, empty.image))
    rows, columns = lesson.around(hidden, margin=0)
    assert hidden[rows, columns].float().mean() > 0.5
    assert np.array_equal(lesson.picture(torch.from_numpy(seen.image).permute(2, 0, 1) / 255), seen.image)


def test_counts_of_lanes_become_scores():
    counts = np.array([[[3, 1, 0, 2, 1], [1, 0, 2, 1, 1]]])  # (S, n, 5)
    rows = bench_amodal.lane_rows({"seen": counts, "true": np.concatenate([counts, counts + 1])})
    assert rows[0]["lane_f1"] == pytest.approx(8 / 11, abs=1e-4)
    assert rows[0]["hidden_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert rows[0]["lane_f1_minus_seen"] == [0, 0]
    assert rows[1]["lane_f1"] == pytest.approx((8 / 11 + 12 / 19) / 2, abs=1e-4)


def test_tables_and_figures_name_what_was_measured():
    found = lesson.results()
    table = lesson.fusion_table(found)
    assert f"{found['fusions']['full']['l1']['mean']:.4f}" in table
    assert lesson.variant_table(found, {"full": "fusion"}).splitlines()[1].startswith("fusion ")
    figure, words = lesson.draw_lanes(found)
    assert len(figure.axes[0].get_yticks()) == len(found["lanes"])
    assert words.endswith(".")
    assert len(lesson.draw_numbers(found)[0].axes[0].lines) == 4
