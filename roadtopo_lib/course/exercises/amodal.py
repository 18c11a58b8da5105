"""Exercises of elective 4: positions, weights of what is there, pasting, an error of several processes."""

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_written, number


def _tensor(found: object, shape: tuple[int, ...]) -> Tensor:
    expect_written(found)
    found = torch.as_tensor(np.array(found) if isinstance(found, (list, np.ndarray)) else found)
    expect(tuple(found.shape) == shape, f"the result should have shape {shape}, it has {tuple(found.shape)}")
    expect(not found.isnan().any(), "there is a NaN in the result")
    return found.detach().double()


@exercise("E4_positions")
def positions(answer) -> None:
    def code(channels: int, height: int, width: int) -> Tensor:
        return _tensor(answer(channels, height, width), (channels, height, width))

    tall = code(8, 5, 3)
    expect(tall.abs().max() <= 1 + 1e-6, "sines and cosines lie between −1 and 1")
    rows, columns = tall[:4], tall[4:]
    expect_close(rows.amax(2), rows.amin(2), "the first half of the channels encodes the row: it is equal along a row")
    expect_close(columns.amax(1), columns.amin(1), "the second half encodes the column: it is equal along a column")
    first = torch.arange(5.0, dtype=torch.float64)
    expect_close(rows[0, :, 0], first.sin(), "channel 0 is sin(row · 1): the first rate is 1, the first row is 0", 1e-4)
    expect(
        not torch.allclose(rows[1, :, 0], first.cos(), atol=1e-4),
        "sine and cosine alternate: asked are all sines of the row first, then all cosines",
    )
    expect_close(rows[1, :, 0], (first / 100).sin(), "the second of two rates is 10000^(−1/2) = 0.01", 1e-4)
    expect_close(rows[2, :, 0], first.cos(), "after the sines of the row come its cosines", 1e-4)
    expect_close(columns[0, 0], first[:3].sin(), "the columns are encoded as the rows are", 1e-4)
    one = code(4, 2, 2)
    expect_close(one[:, 1, 0], [np.sin(1), np.cos(1), 0, 1], "with 4 channels the only rate is 1", 1e-4)
    many = code(64, 6, 9)
    rates = 10000 ** (-np.arange(16) / 16)
    angles = [np.outer(rates, np.arange(n)) for n in (6, 9)]
    halves = [np.concatenate([np.sin(a), np.cos(a)]) for a in angles]
    truth = np.concatenate([np.repeat(halves[0][:, :, None], 9, 2), np.repeat(halves[1][:, None], 6, 1)])
    expect_close(many, truth, "right for 8 channels; wrong for 64 channels on a map of 6 × 9", 1e-4)


@exercise("E4_weights", keeps=("scores", "present"))
def weights(answer) -> None:
    def found(scores: Tensor, present: list) -> Tensor:
        value = answer(scores.clone(), torch.tensor(present))
        if isinstance(value, Tensor) and all(map(all, present)):
            expect(not value.isnan().any(), "there is a NaN though all guesses are present: True means present")
        return _tensor(value, tuple(scores.shape))

    flat = torch.zeros(1, 3, 2, 2)
    value = found(flat, [[True, True, True]])
    expect_close(value.sum(dim=1), torch.ones(1, 2, 2), "the weights of a pixel add up to 1 over the guesses")
    expect_close(value, torch.full((1, 3, 2, 2), 1 / 3), "three guesses of equal scores get a third each")
    value = found(flat, [[True, True, False]])
    expect(
        not value[0, 2].any(),
        f"a guess that is not there has weight {value[0, 2].max():.2g}, it should be exactly 0",
    )
    expect_close(value[0, :2], torch.full((2, 2, 2), 0.5), "what is left should add up to 1 again: a half each", 1e-5)
    low = torch.full((1, 3, 2, 2), -20_000.0)
    low[:, 2] = 5
    value = found(low, [[True, True, False]])
    hint = "all scores are low and the padded one is high: it must still count for nothing, and the others for a half"
    expect_close(value[0, :, 0, 0], [0.5, 0.5, 0], hint)
    value = found(flat, [[False, True, False]])
    expect_close(value[0, :, 0, 0], [0, 1, 0], "a single guess gets all the weight")
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(4, 5, 6, 7, generator=generator)
    present = [[True] * 5, [True, False, True, False, True], [False] * 4 + [True], [True, True, False, True, False]]
    truth = torch.zeros(4, 5, 6, 7, dtype=torch.float64)
    for k, there in enumerate(present):
        truth[k, there] = scores[k, there].double().softmax(dim=0)
    expect_close(found(scores, present), truth, "right for one image; wrong for four whose guesses differ", 1e-4)


@exercise("E4_paste", keeps=("partial", "mask", "completions", "weights"))
def paste(answer) -> None:
    def pasted(partial: Tensor, mask: Tensor, completions: Tensor, shares: Tensor) -> Tensor:
        found = answer(partial.clone(), mask.clone(), completions.clone(), shares.clone())
        expect_written(found)
        return _tensor(found, tuple(partial.shape)).float()

    generator = torch.Generator().manual_seed(0)
    partial = torch.rand(2, 3, 4, 5, generator=generator)
    completions = torch.rand(2, 3, 3, 4, 5, generator=generator)
    shares = torch.randn(2, 3, 4, 5, generator=generator).softmax(dim=1)
    everywhere = torch.ones(2, 1, 4, 5)
    merged = torch.stack([sum(shares[k, n] * completions[k, n] for n in range(3)) for k in range(2)])
    found = pasted(partial, everywhere, completions, shares)
    expect_close(found, merged, "where all is hidden, the result is the weighted sum of the guesses", 1e-5)
    mask = torch.zeros(2, 1, 4, 5)
    mask[0, :, 1:3, 1:4] = mask[1, :, :2, 2:] = 1
    inside = mask.bool().expand_as(partial)
    found = pasted(partial, mask, completions, shares)
    of_first = torch.where(mask[:1].bool(), merged, partial)
    expect(not torch.allclose(found[1], of_first[1], atol=1e-5), "each image has a mask of its own")
    expect(
        not torch.allclose(found[inside], partial[inside], atol=1e-6),
        "inside the mask the image itself is left: the mask is 1 where something is hidden",
    )
    expect_close(found[inside], merged[inside], "inside the mask stand the weighted guesses", 1e-5)
    hint = "outside the mask every value should be the image's own, bit for bit"
    expect(torch.equal(found[~inside], partial[~inside]), hint)
    broken = completions.clone()
    broken[:, :, :, 0] = torch.inf  # outside the mask
    found = answer(partial.clone(), mask.clone(), broken, shares.clone())
    expect(
        torch.equal(torch.as_tensor(found)[~inside], partial[~inside]),
        "an infinite value outside the mask came through: 0 · ∞ is NaN, so choose values instead of multiplying them",
    )


@exercise("E4_mean_error", keeps=("processes",))
def mean_error(answer) -> None:
    def mean(*processes: list) -> float:
        given = [[tuple(np.array(part, float) for part in batch) for batch in batches] for batches in processes]
        return number(answer(given))

    def batch(*images: tuple[float, int]) -> tuple:
        """Images of four pixels: an error in each of so many hidden ones."""
        masks = [[1] * count + [0] * (4 - count) for _, count in images]
        return [[error * m for m in mask] for (error, _), mask in zip(images, masks, strict=True)], masks

    expect_close(mean([batch((0.2, 4))]), 0.2, "one image, all pixels hidden, error 0.2 in each: 0.2", 1e-6)
    value = mean([batch((0.2, 1))])
    expect(abs(value - 0.05) > 1e-6, "the error was divided by all pixels: divide by the hidden ones")
    expect_close(value, 0.2, "one of four pixels is hidden, with error 0.2: the mean over what is hidden is 0.2", 1e-6)
    value = mean([batch((0.1, 4), (0.1, 4)), batch((0.4, 4))])
    expect(abs(value - 0.25) > 1e-6, "a batch of one image counted as much as a batch of two")
    expect_close(value, 0.2, "two images of error 0.1 and one of 0.4, all pixels hidden: 0.2", 1e-6)
    value = mean([batch((0.1, 4))], [batch((0.5, 2))])
    expect(abs(value - 0.3) > 1e-6, "a process with two hidden pixels counted as much as one with four")
    expect_close(value, (0.4 + 1.0) / 6, "four pixels of error 0.1 and two of 0.5, in two processes", 1e-6)
    value = mean([batch((0.1, 4)), batch((0.1, 4))], [batch((0.4, 4))])
    expect_close(value, 0.2, "processes may have different numbers of batches", 1e-6)
    value = mean([batch((0.3, 2))], [batch((0.9, 0))])
    expect_close(value, 0.3, "a process without a hidden pixel changes nothing", 1e-6)
    far = [[9.0, 0.1, 0.1, 0.1]], [[0, 1, 1, 1]]
    expect_close(mean([far]), 0.1, "an error outside the mask should not count", 1e-6)
    rng = np.random.default_rng(0)
    processes = [[(rng.random((n, 6, 7)), rng.random((n, 6, 7)) < 0.3) for n in sizes] for sizes in ((4, 4, 1), (4, 2))]
    total = sum((error * mask).sum() for batches in processes for error, mask in batches)
    count = sum(mask.sum() for batches in processes for _, mask in batches)
    expect_close(mean(*processes), total / count, "right for rows of four pixels; wrong for 15 images of 6 × 7", 1e-6)
