"""The guided filter against ridge regressions, window by window."""

import numpy as np
import pytest

from roadtopo_lib.electives.guided_filter import guided_filter


def window_by_window(guide, values, radius, epsilon):
    """Each window's line by least squares, with the penalty as one more row; then the mean of the lines."""
    height, width = guide.shape
    lines, count = np.zeros((2, height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            place = (
                slice(max(0, row - radius), row + radius + 1),
                slice(max(0, column - radius), column + radius + 1),
            )
            x, y = guide[place].ravel(), values[place].ravel()
            design = np.stack([np.append(x, np.sqrt(epsilon * len(x))), np.append(np.ones(len(x)), 0)], axis=1)
            lines[(slice(None), *place)] += np.linalg.lstsq(design, np.append(y, 0), rcond=None)[0][:, None, None]
            count[place] += 1
    a, b = lines / count
    return a * guide + b


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-3), (2, 0.1), (4, 1e-4)])
def test_it_is_the_mean_of_the_windows_ridge_regressions(radius, epsilon):
    guide, values = np.random.default_rng(radius).random((2, 14, 19))
    np.testing.assert_allclose(
        guided_filter(guide, values, radius, epsilon), window_by_window(guide, values, radius, epsilon), atol=1e-9
    )


def test_it_keeps_an_edge_of_the_image_and_smooths_where_there_is_none():
    step = np.repeat(np.arange(20) >= 10, 20).reshape(20, 20).T.astype(np.float32)
    noisy = step + np.random.default_rng(0).normal(0, 0.2, step.shape)
    kept, blurred = guided_filter(step, noisy, 4, 1e-4), guided_filter(np.zeros_like(step), noisy, 4, 1e-4)
    assert np.abs(kept - step).mean() < 0.3 * np.abs(noisy - step).mean()
    assert (kept[:, 10] - kept[:, 9]).mean() > 5 * (blurred[:, 10] - blurred[:, 9]).mean()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        guided_filter(np.zeros((4, 5)), np.zeros((4, 4)))
    for radius, epsilon in ((0, 0.1), (1, 0.0), (1, float("nan"))):
        with pytest.raises(ValueError, match="radius"):
            guided_filter(np.zeros((4, 4)), np.zeros((4, 4)), radius, epsilon)
