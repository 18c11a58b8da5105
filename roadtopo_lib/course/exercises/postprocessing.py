"""Exercises of notebook 6: partitions, mean shift, ids, numbers from left to right."""

import numpy as np

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_written


@exercise("same_partition")
def same_partition(answer) -> None:
    renamed = np.array([0, 0, 1, 2]), np.array([7, 7, 3, -1])
    value = answer(*renamed)
    expect_written(value)
    expect(
        isinstance(value, (bool, np.bool_)), f"the result should be True or False, it is of type {type(value).__name__}"
    )
    expect(bool(value), "[0, 0, 1, 2] and [7, 7, 3, -1] are the same partition: names do not count")
    hint = "one cluster was split in two and nobody noticed: look from both sides"
    expect(not answer(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1])), hint)
    expect(not answer(np.array([0, 0, 2, 1]), np.array([0, 0, 0, 1])), hint)
    expect(
        not answer(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])),
        "[0, 0, 1, 1] and [0, 1, 0, 1] have equally many names of equal sizes, and share no cluster",
    )
    empty = np.array([], dtype=int)
    expect(bool(answer(empty, empty)), "two empty arrays are the same partition")


@exercise("mean_shift")
def mean_shift(answer) -> None:
    pair = np.array([[0.0, 0.0], [0.6, 0.2], [9.0, 9.0]])
    rest = answer(pair, np.array([0.0, 0.0]), 1.0)
    expect_written(rest)
    expect(np.shape(rest) == (2,), f"the result should have shape (2,), it has {np.shape(rest)}")
    expect(not np.allclose(rest, pair.mean(axis=0)), "all points were averaged: only those within the radius count")
    expect_close(rest, [0.3, 0.1], "of three points, two are within 1.0 of the start: it rests at their mean")
    chain = np.column_stack([np.linspace(0, 1.8, 10), np.zeros(10)])
    rest = answer(chain, chain[0], 1.0)
    expect(not np.allclose(rest, [0.5, 0.0]), "it stopped after one step: new points are within reach now")
    expect_close(
        rest, [0.9, 0.0], "from the end of a row of points, 1.8 long, it should climb to the middle", atol=1e-3
    )
    far = answer(pair, np.array([100.0, 0.0]), 1.0)
    expect(not np.isnan(far).any(), "without a point within the radius the result is NaN: the mean of nothing")
    expect_close(far, [100.0, 0.0], "without a point within the radius it should stay at the start")
    start = np.array([0.0, 0.0])
    answer(pair, start, 1.0)
    expect(not start.any(), "the start was changed in place")


@exercise("ids_from_labels")
def ids_from_labels(answer) -> None:
    labels = np.array([3, 3, 3, 0, 0, 5])
    ids = answer(labels, 1)
    expect_written(ids)
    expect(np.shape(ids) == (6,), f"the result should have one id per pixel, shape (6,), it has {np.shape(ids)}")
    expect(np.min(ids) > 0, "a cluster got id 0, which means none: ids begin at 1")
    expect(list(ids) == [2, 2, 2, 1, 1, 3], "labels 0, 3, 5 should become ids 1, 2, 3")
    expect(list(labels) == [3, 3, 3, 0, 0, 5], "the labels were changed in place")
    ids = answer(labels, 2)
    expect(ids[5] == 0, "a cluster smaller than min_pixels should get id 0")
    expect(ids[3] == 1 and ids[0] == 2, "a cluster of exactly min_pixels stays, and the ids are 1, 2")
    ids = answer(np.array([2, 2, 1, 0, 0]), 2)
    expect(list(ids) == [2, 2, 0, 1, 1], "a dropped cluster leaves a gap in the ids: number after dropping")
    ids = answer(np.array([-1, -1, -1, 4, 4]), 2)
    expect(not any(ids[:3]), "noise (-1) became an instance: it is no cluster, however large")
    expect(list(ids) == [0, 0, 0, 1, 1], "with noise and one cluster, the cluster should be 1")
    expect(not np.any(answer(np.array([-1, -1]), 1)), "noise alone gives zeros")
    expect(len(answer(np.array([], dtype=int), 1)) == 0, "an empty frame gives an empty array")


@exercise("number_lanes")
def number_lanes(answer) -> None:
    def upright(*columns: float) -> list[np.ndarray]:
        return [np.array([[x, 0.0], [x, 50.0], [x, 100.0]]) for x in columns]

    numbers = answer(upright(10.0, 20.0), 90)
    expect_written(numbers)
    expect(np.shape(numbers) == (2,), f"two lanes should give two numbers, the result has shape {np.shape(numbers)}")
    expect(np.min(numbers) == 1, "numbers begin at 1")
    numbers = answer(upright(20.0, 30.0, 10.0), 90)
    expect(
        list(numbers) != [3, 1, 2],
        "argsort says which lane comes first; asked is which place each lane has",
    )
    expect(list(numbers) == [2, 3, 1], "lanes at x = 20, 30, 10 have the numbers 2, 3, 1")
    slanted = [np.array([[50.0, 0.0], [0.0, 100.0]]), np.array([[20.0, 0.0], [20.0, 100.0]])]
    expect(list(answer(slanted, 90)) == [1, 2], "a slanted lane counts where it meets the row, not by its mean")
    expect(list(answer(slanted, 10)) == [2, 1], "at a row near the top, the slanted lane is the right one")
    far_piece = [np.array([[60.0, 0.0], [50.0, 20.0], [45.0, 30.0]]), np.array([[30.0, 0.0], [30.0, 100.0]])]
    hint = "a lane ends above the row and was not continued: np.interp repeats the last x"
    expect(list(answer(far_piece, 90)) == [1, 2], hint)
    bent = [np.array([[0.0, 0.0], [60.0, 20.0], [60.0, 30.0]]), np.array([[80.0, 0.0], [80.0, 100.0]])]
    expect(
        list(answer(bent, 90)) == [1, 2], "continue a lane in the direction of its last two points, not of the whole"
    )
    near_piece = [np.array([[40.0, 60.0], [20.0, 80.0], [15.0, 100.0]]), np.array([[60.0, 0.0], [60.0, 100.0]])]
    expect(list(answer(near_piece, 10)) == [2, 1], "a lane that begins below the row is continued upwards")
    expect(len(answer([], 90)) == 0, "no lanes, no numbers")
