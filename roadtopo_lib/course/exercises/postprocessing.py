"""Exercises of notebook 6: partitions, mean shift, ids, numbers from left to right."""

import numpy as np

from roadtopo_lib.course.exercises._base import Hint, exercise, expect, expect_close, expect_written, time_limit


@exercise("same_partition", keeps=("a", "b"))
def same_partition(answer) -> None:
    def same(a: list[int] | np.ndarray, b: list[int] | np.ndarray) -> bool:
        value = answer(np.array(a, dtype=int), np.array(b, dtype=int))
        expect_written(value)
        expect(
            isinstance(value, (bool, np.bool_)),
            f"the result should be True or False, it is of type {type(value).__name__}",
        )
        return bool(value)

    expect(
        same([0, 0, 1, 2], [7, 7, 3, -1]),
        "[0, 0, 1, 2] and [7, 7, 3, -1] are the same partition: names do not count",
    )
    hint = "one cluster was split in two and nobody noticed: look from both sides"
    expect(not same([0, 0, 0, 1], [0, 0, 2, 1]), hint)
    expect(not same([0, 0, 2, 1], [0, 0, 0, 1]), hint)
    expect(
        not same([0, 0, 1, 1], [0, 1, 0, 1]),
        "[0, 0, 1, 1] and [0, 1, 0, 1] have equally many names of equal sizes, and share no cluster",
    )
    hint = "-1 is a name like any other: its points are a cluster"
    expect(not same([-1, -1, 0, 0], [3, 4, 0, 0]), hint)
    expect(same([-1, -1, 0, 4], [1, 1, -1, 0]), hint)
    expect(same([], []), "two empty arrays are the same partition")
    rng = np.random.default_rng(0)
    a = rng.integers(0, 40, size=300)
    b = rng.permutation(120)[a] - 1
    expect(same(a, b), "300 points in 40 clusters, with new names, are the same partition")
    moved = b.copy()
    moved[5] = b[b != b[5]][0]
    expect(not same(a, moved), "of 300 points in 40 clusters one has changed its cluster, unnoticed")


@exercise("mean_shift", keeps=("x", "start"))
def mean_shift(answer) -> None:
    pair = np.array([[0.0, 0.0], [0.6, 0.2], [9.0, 9.0]])
    rest = answer(pair, np.array([0.0, 0.0]), 1.0)
    expect_written(rest)
    expect(np.shape(rest) == (2,), f"the result should have shape (2,), it has {np.shape(rest)}")
    expect(not np.allclose(rest, pair.mean(axis=0)), "all points were averaged: only those within the radius count")
    expect(not np.allclose(rest, [0.0, 0.0]), "it stayed at the start, though another point is within the radius")
    expect_close(rest, [0.3, 0.1], "of three points, two are within 1.0 of the start: it rests at their mean")
    lone = answer(pair, np.array([9.2, 9.0]), 1.0)
    expect_close(lone, [9.0, 9.0], "a single point within the radius counts, too: its place is the mean")
    edge = np.array([[0.0, 0.0], [3.0, 4.0]])  # exactly 5 apart
    expect_close(
        answer(edge, edge[0].copy(), 5.0), [1.5, 2.0], "a point exactly `radius` away counts: at most, not below"
    )
    corner = answer(np.array([[0.0, 0.0], [0.8, 0.8]]), np.array([0.0, 0.0]), 1.0)
    expect_close(corner, [0.0, 0.0], "(0.8, 0.8) is 1.13 away from the start, outside of 1.0: Euclid's distance counts")
    chain = np.column_stack([np.linspace(0, 1.8, 10), np.zeros(10)])
    rest = answer(chain, chain[0].copy(), 1.05)
    expect(not np.allclose(rest, [0.5, 0.0]), "it stopped after one step: new points are within reach now")
    expect_close(
        rest, [0.9, 0.0], "from the end of a row of points, 1.8 long, it should climb to the middle", atol=1e-3
    )
    _no_point_near(answer, pair)
    _slow_climb(answer)
    rng = np.random.default_rng(0)
    cloud = rng.normal(0, 0.1, size=(100, 3))
    cloud[50:, 2] += 2.0
    rest = answer(cloud, cloud[70].copy(), 1.0)
    expect_close(rest, cloud[50:].mean(axis=0), "right in the plane; it should hold for points of three numbers", 1e-3)


def _slow_climb(answer) -> None:
    """The points become denser from left to right: 397 steps to the rest point, the longest 0.0076."""
    along = np.sqrt(60.0**2 + (np.arange(800) + 0.5) / 800 * (64.0**2 - 60.0**2)) - 60.0  # 0 to 4
    rest = answer(np.column_stack([along, np.zeros(800)]), np.array([1.0, 0.0]), 1.0)
    expect(
        np.ravel(rest)[0] > 1.02,
        "it stopped at a step of less than a hundredth of the radius: it rests where the mean moves no farther",
    )
    expect_close(rest, [3.0089, 0.0], "a long way was not walked to its end: it takes as many steps as it needs", 0.01)


def _no_point_near(answer, points: np.ndarray) -> None:
    start = np.array([100.0, 0.0])
    with time_limit(3, "without a point within the radius it never comes to rest"), np.errstate(all="ignore"):
        far = answer(points, start, 1.0)
    expect_written(far, "without a point within the radius your function")
    expect(not np.isnan(far).any(), "without a point within the radius the result is NaN: the mean of nothing")
    expect_close(far, [100.0, 0.0], "without a point within the radius it should stay at the start")


@exercise("ids_from_labels", keeps=("labels",))
def ids_from_labels(answer) -> None:
    def ids(labels: list[int], min_pixels: int) -> list[int]:
        found = answer(np.array(labels, dtype=int), min_pixels)
        expect_written(found)
        expect(
            np.shape(found) == (len(labels),),
            f"the result should have one id per pixel, shape ({len(labels)},), it has {np.shape(found)}",
        )
        return [int(i) for i in found]

    found = ids([3, 3, 3, 0, 0, 5, 5], 1)  # every cluster is larger than min_pixels
    expect(min(found) > 0, "a cluster got id 0, which means none: ids begin at 1")
    hint = "ids follow the ascending labels, not the order in which they appear, nor size"
    expect(found not in ([1, 1, 1, 2, 2, 3, 3], [1, 1, 1, 3, 3, 2, 2]), hint)
    expect(found == [2, 2, 2, 1, 1, 3, 3], "labels 0, 3, 5 should become ids 1, 2, 3")
    found = ids([3, 3, 3, 0, 0, 5], 2)
    expect(found[5] == 0, "a cluster smaller than min_pixels should get id 0")
    expect(found[3] > 0, "a cluster of exactly min_pixels stays: at least min_pixels, not more")
    expect(found == [2, 2, 2, 1, 1, 0], "labels 0 and 3 should become ids 1 and 2 where 5 is dropped")
    expect(
        ids([2, 2, 1, 0, 0], 2) == [2, 2, 0, 1, 1], "a dropped cluster leaves a gap in the ids: number after dropping"
    )
    found = ids([-1, -1, -1, 4, 4], 2)
    expect(not any(found[:3]), "noise (-1) became an instance: it is no cluster, however large")
    expect(found == [0, 0, 0, 1, 1], "with noise and one cluster, the cluster should be 1")
    for labels, called in (([-1, -1], "noise alone"), ([], "an empty frame")):
        try:
            found = ids(labels, 2)
        except (ValueError, IndexError) as error:
            raise Hint(f"{called} makes your code raise {type(error).__name__}") from None
        expect(not any(found), f"{called} gives zeros, one for each pixel")
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 2, 3, 70, 71, 300], p=[0.25, 0.25, 0.02, 0.2, 0.1, 0.03, 0.15], size=400)
    large = [int(label) for label in np.unique(labels[labels >= 0]) if (labels == label).sum() >= 25]
    truth = [large.index(label) + 1 if label in large else 0 for label in labels.tolist()]
    expect(ids(labels, 25) == truth, "right for a few pixels; wrong for 400 pixels with labels up to 300")


@exercise("number_lanes", keeps=("polylines", "row"))
def number_lanes(answer) -> None:
    def upright(*columns: float) -> list[np.ndarray]:
        return [np.array([[x, 0.0], [x, 50.0], [x, 100.0]]) for x in columns]

    def numbers(polylines: list[np.ndarray], row: float) -> list[int]:
        found = answer(polylines, row)
        expect_written(found)
        count = len(polylines)
        expect(
            np.shape(found) == (count,),
            f"{count} lanes should give {count} numbers, the result has shape {np.shape(found)}",
        )
        return [int(number) for number in found]

    expect(min(numbers(upright(10.0, 20.0), 90)) == 1, "numbers begin at 1")
    found = numbers(upright(20.0, 30.0, 10.0), 90)
    expect(
        found != [3, 1, 2],
        "argsort says which lane comes first; asked is which place each lane has",
    )
    expect(found != [2, 1, 3], "numbers count from the left: the smallest x is 1")
    expect(found == [2, 3, 1], "lanes at x = 20, 30, 10 have the numbers 2, 3, 1")
    slanted = [np.array([[50.0, 0.0], [0.0, 100.0]]), np.array([[20.0, 0.0], [20.0, 100.0]])]
    expect(numbers(slanted, 90) == [1, 2], "a slanted lane counts where it meets the row, not by its mean")
    expect(numbers(slanted, 10) == [2, 1], "at a row near the top, the slanted lane is the right one")
    bowed = [np.array([[0.0, 0.0], [80.0, 50.0], [0.0, 100.0]]), np.array([[40.0, 0.0], [40.0, 100.0]])]
    expect(numbers(bowed, 45) == [2, 1], "between its ends a lane runs through all its points, not straight")
    far_piece = [np.array([[60.0, 0.0], [50.0, 20.0], [45.0, 30.0]]), np.array([[30.0, 0.0], [30.0, 100.0]])]
    hint = "a lane ends above the row and was not continued: np.interp repeats the last x"
    expect(numbers(far_piece, 90) == [1, 2], hint)
    bent = [np.array([[0.0, 0.0], [60.0, 20.0], [60.0, 30.0]]), np.array([[80.0, 0.0], [80.0, 100.0]])]
    expect(numbers(bent, 90) == [1, 2], "continue a lane in the direction of its last two points, not of the whole")
    near_piece = [np.array([[40.0, 60.0], [20.0, 80.0], [15.0, 100.0]]), np.array([[60.0, 0.0], [60.0, 100.0]])]
    expect(numbers(near_piece, 10) == [2, 1], "a lane that begins below the row is continued upwards")
    near_bent = [np.array([[40.0, 60.0], [40.0, 80.0], [15.0, 100.0]]), np.array([[60.0, 0.0], [60.0, 100.0]])]
    expect(numbers(near_bent, 10) == [1, 2], "upwards a lane goes on in the direction of its first two points")
    fine = np.column_stack([np.full(20, 50.0), np.arange(0.0, 20.0)])
    fine[-1, 0] = 51.0  # of 20 points, only the last two lean to the right
    pair = [fine, np.array([[100.0, 0.0], [100.0, 100.0]])]
    expect(numbers(pair, 90) == [2, 1], "a lane of 20 points goes on through its last two, not through more of them")
    try:
        numbers([], 90)
    except (ValueError, IndexError) as error:
        raise Hint(
            f"a frame without lanes makes your code raise {type(error).__name__}: no lanes, no numbers"
        ) from None
