"""Road scenes that vehicles hide, the same scenes without them, and guesses of what is hidden, good and bad.

On disk, as the guide of elective 4 has it, a folder an image:

    ROOT/{train,val,test}/ID/ID_target.png      the scene without its vehicles
                             ID_partial.png     with them, black where the mask is set
                             ID_mask.png        255 where a vehicle, or its shadow, hides the scene
                             ID_comp1.png ...   one to five guesses

Axes: H and W image pixels, N completions.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.dataset import image_to_tensor
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.synth import image_seed

N_MAX = 5
DIFFERENCE = 12
"""Grey levels by which the scene with vehicles differs where it counts as hidden."""

LEAST_HIDDEN = 0.01
"""Share of the image; scenes that hide less are passed over."""


def hidden_pixels(full: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """(H, W) bool: where an image with vehicles differs from that without, holes closed, widened by two pixels."""
    differs = (np.abs(full.astype(np.int16) - empty).max(axis=2) > DIFFERENCE).astype(np.uint8)
    differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))  # noise of the sensor
    closed = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    return cv2.dilate(closed, np.ones((5, 5), np.uint8)) > 0


def complete(rng: np.random.Generator, kind: str, target: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """One guess (H, W, 3) of what is hidden; outside it is the target.

    Args:
        rng: decides how far off it is.
        kind: ``"blurred"``, ``"shifted"``, ``"texture"`` (mirrored, so a wrong one) or ``"inpainted"``, which sees only
            what is not hidden.
        target: (H, W, 3) uint8, the truth.
        hidden: (H, W) bool.
    """
    if kind == "blurred":
        guess = cv2.GaussianBlur(target, (0, 0), float(rng.uniform(1.5, 6)))
    elif kind == "shifted":
        across, down = (int(rng.choice([-1, 1]) * rng.integers(2, 12)) for _ in range(2))
        guess = np.roll(target, (down, across), axis=(0, 1))
    elif kind == "texture":
        guess = target[:, ::-1]
    elif kind == "inpainted":
        guess = cv2.inpaint(np.where(hidden[..., None], 0, target), hidden.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    else:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return np.where(hidden[..., None], guess, target)


KINDS = ("blurred", "shifted", "texture", "inpainted")


class Occluded(NamedTuple):
    """One scene with and without its vehicles."""

    seen: Scene
    empty: Scene
    hidden: np.ndarray
    """(H, W) bool."""
    guesses: list[np.ndarray]
    """One to five of ``complete``."""


def occluded_scenes(split: str, size: tuple[int, int] = (96, 192), seed: int = 0) -> Iterator[Occluded]:
    """Scenes without end of which at least ``LEAST_HIDDEN`` is hidden.

    Args:
        split: ``train``, ``val`` or ``test``; no two share a scene.
        size: (H, W) in pixels.
        seed: decides every image and every guess.
    """
    for index in itertools.count():
        rng = np.random.default_rng((seed, index, SPLITS.index(split)))
        scene_seed = image_seed(seed, split, index)
        seen, empty = (render_scene(scene_seed, size, "day", vehicles=kept) for kept in (True, False))
        hidden = hidden_pixels(seen.image, empty.image)
        if hidden.mean() >= LEAST_HIDDEN:
            count = int(rng.integers(1, N_MAX + 1))
            guesses = [complete(rng, str(rng.choice(KINDS)), empty.image, hidden) for _ in range(count)]
            yield Occluded(seen, empty, hidden, guesses)


def write_occlusions(
    root: str | Path, counts: dict[str, int], size: tuple[int, int] = (96, 192), seed: int = 0
) -> None:
    """Renders a data set; an image that is complete is not written again.

    Args:
        root: made if missing.
        counts: images of ``train``, ``val`` and ``test``.
        size, seed: see ``occluded_scenes``.
    """
    for split, count in counts.items():
        for made, scene in enumerate(itertools.islice(occluded_scenes(split, size, seed), count)):
            name = f"{made:05d}"
            folder = Path(root) / split / name
            if (folder / f"{name}_target.png").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for number, guess in enumerate(scene.guesses, start=1):
                write_image(folder / f"{name}_comp{number}.png", guess)
            write_image(folder / f"{name}_mask.png", np.where(scene.hidden, 255, 0).astype(np.uint8))
            write_image(folder / f"{name}_partial.png", np.where(scene.hidden[..., None], 0, scene.seen.image))
            write_image(folder / f"{name}_target.png", scene.empty.image)  # last: it says that the others are there


def window_around(place: tuple[int, int], size: tuple[int, int], within: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a window of ``size`` with a pixel in its middle, moved so that it lies in an image (H, W)."""
    starts = [
        max(0, min(length - side, middle - side // 2)) for middle, side, length in zip(place, size, within, strict=True)
    ]
    return slice(starts[0], starts[0] + size[0]), slice(starts[1], starts[1] + size[1])


def as_batch(scenes: Iterable[Occluded]) -> dict[str, Tensor]:
    """Scenes of one size as a batch, with what ``Occlusions`` gives of each."""
    samples = []
    for seen, empty, hidden, guesses in scenes:
        completions = torch.zeros(N_MAX, 3, *hidden.shape)
        completions[: len(guesses)] = torch.stack([image_to_tensor(guess) for guess in guesses])
        samples.append({
            "partial": image_to_tensor(np.where(hidden[..., None], 0, seen.image)),
            "target": image_to_tensor(empty.image), "mask": torch.from_numpy(hidden)[None].float(),
            "completions": completions, "present": torch.arange(N_MAX) < len(guesses),
        })  # fmt: skip
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


class Occlusions(Dataset):
    """The images of a split; slots without a guess are black.

    Args:
        root: see the module.
        split: one of its folders.
        n_max: guesses of a sample; further ones are left out.
        crop: (H, W) in pixels, cut out around a hidden pixel; default the whole image.

    Raises:
        FileNotFoundError: no such split, or no image in it.
    """

    def __init__(
        self, root: str | Path, split: str = "train", n_max: int = N_MAX, crop: tuple[int, int] | None = None
    ) -> None:
        folder = Path(root) / split
        self.folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not self.folders:
            raise FileNotFoundError(f"{folder}: no occluded image")
        self.n_max, self.crop = n_max, crop

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        """``partial`` (3, H, W), ``target`` (3, H, W), ``mask`` (1, H, W), ``completions`` (N, 3, H, W), all float in
        [0, 1], and ``present`` (N,) bool."""
        index, number = index if isinstance(index, tuple) else (index, 0)
        folder = self.folders[index]

        def read(part: str) -> Tensor:
            return image_to_tensor(read_image(folder / f"{folder.name}_{part}.png"))

        target = read("target")
        completions = torch.zeros(self.n_max, *target.shape)
        present = torch.zeros(self.n_max, dtype=torch.bool)
        for slot in range(self.n_max):
            if (folder / f"{folder.name}_comp{slot + 1}.png").exists():
                completions[slot], present[slot] = read(f"comp{slot + 1}"), True
        mask = (read("mask")[:1] > 0.5).float()
        rows = columns = slice(None)
        if self.crop is not None:
            place = np.random.default_rng((index, number)).choice(mask[0].nonzero().numpy())
            rows, columns = window_around(place.tolist(), self.crop, mask[0].shape)
        images = {"partial": read("partial"), "target": target, "mask": mask, "completions": completions}
        return {name: image[..., rows, columns] for name, image in images.items()} | {"present": present}
