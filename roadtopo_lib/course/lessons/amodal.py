"""What elective 4 shows: the frame with its vehicles taken out, stored figures, and pictures of both."""

import json

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from roadtopo_lib.course.data import FRAME_PRESET, FRAME_SEED, samples
from roadtopo_lib.scenes import Scene, render_scene

FRAME_SIZE = (256, 512)
"""Of the frame in this elective: half its height and width."""

TEST_SIZE, TEST_SEED = (96, 192), 4
"""Of the test scenes of ``tests/benchmarks/bench_amodal.py``, of which the notebook takes the first."""

IMAGES = {
    "seen": "with vehicles, as seen", "black": "vehicles black", "inpainted": "inpainted", "mean": "mean of guesses",
    "fused": "fused", "best": "best guess", "oracle": "oracle per pixel", "true": "true background",
}  # fmt: skip
"""What lanes were looked for in, and its name."""


def frame_scenes() -> tuple[Scene, Scene]:
    """The frame with its vehicles and without them."""
    seen, empty = (render_scene(FRAME_SEED, FRAME_SIZE, FRAME_PRESET, vehicles=kept) for kept in (True, False))
    return seen, empty


def results() -> dict:
    """The stored figures of ``tests/benchmarks/bench_amodal.py``."""
    return json.loads((samples() / "amodal.json").read_text(encoding="utf-8"))


def picture(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of (3, H, W) in [0, 1]."""
    return (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def around(mask: Tensor, margin: int = 24) -> tuple[slice, slice]:
    """Rows and columns around the largest connected part of a mask (H, W)."""
    _, _, parts, _ = cv2.connectedComponentsWithStats((mask > 0).numpy().astype(np.uint8))
    x, y, width, height = parts[1 + parts[1:, cv2.CC_STAT_AREA].argmax()][:4]
    return (
        slice(max(0, y - margin), min(mask.shape[0], y + height + margin)),
        slice(max(0, x - margin), min(mask.shape[1], x + width + margin)),
    )


def weight_picture(weights: Tensor, mask: Tensor) -> np.ndarray:
    """A weight map (H, W) inside a mask (H, W), dark to light in steps of a tenth; grey outside: (H, W, 3) uint8."""
    inside = plt.get_cmap("cividis")(np.round(weights.detach().numpy() * 10) / 10)[..., :3]
    return np.where((mask > 0).numpy()[..., None], inside * 255, 200).astype(np.uint8)


def fusion_table(found: dict) -> str:
    """PSNR, SSIM and L1 with their intervals, and the interval of the difference of L1 to ``full``."""
    names = {"mean": "mean", "best": "best guess *", "oracle": "oracle per pixel *", "full": "fusion"}
    lines = [f"{'':20s} {'PSNR (dB)':22s} {'SSIM':22s} {'L1':22s} L1 minus fusion"]
    for key, name in names.items():
        row, cells = found["fusions"][key], []
        for score, digits in (("psnr", 2), ("ssim", 3), ("l1", 4)):
            low, high = row[score]["interval"]
            cells.append(f"{row[score]['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        low, high = row["l1"]["minus_full"]
        cells = [f"{cell:22s}" for cell in cells]
        lines.append(f"{name:20s} {' '.join(cells)} " + ("" if key == "full" else f"{low:+.4f} to {high:+.4f}"))
    return "\n".join([*lines, "* looks at the truth"])


def variant_table(found: dict, names: dict[str, str]) -> str:
    """L1 of variants of the model, and the paired interval of the difference to ``full``.

    Args:
        found: ``results``.
        names: key of the variant → its name in the table.
    """
    lines = [f"{'':28s} {'L1':8s} {'minus fusion':22s} {'PSNR':8s} {'SSIM':8s} s a step"]
    for key in (key for key in names if key in found["fusions"]):
        row = found["fusions"][key]
        low, high = row["l1"]["minus_full"]
        difference = "" if key == "full" else f"{low:+.4f} to {high:+.4f}"
        scores = f"{row['psnr']['mean']:<8.2f} {row['ssim']['mean']:<8.3f}"
        lines.append(
            f"{names[key]:28s} {row['l1']['mean']:<8.4f} {difference:22s} {scores} {np.mean(row['seconds']):.2f}"
        )
    return "\n".join(lines)


# What answers a question to the learner has its title and its words here, not in the cell that shows it.


def draw_numbers(found: dict) -> tuple[Figure, str]:
    """L1 by the number of guesses: figure, and what it shows."""
    figure, ax = plt.subplots(figsize=(5.4, 2.9))
    counts = [int(count) for count in found["by_number"]]
    for marker, (key, name) in zip("os^d", (("mean", "mean"), ("full", "fusion"), ("best", "best guess"),
                                            ("oracle", "oracle per pixel")), strict=True):  # fmt: skip
        values = [row[key] for row in found["by_number"].values()]
        ax.plot(counts, values, f"{marker}-", label=name)
    ax.set(title="More guesses: a smaller error, most of all for the oracle")
    ax.set(xlabel="guesses of an image", ylabel="L1 inside the mask")
    ax.set(xticks=counts, ylim=(0, None))
    ax.legend(fontsize="small", ncols=2)
    return figure, "L1 inside the mask over the number of guesses, for the mean, the fusion, best guess and oracle."


def draw_lanes(found: dict) -> tuple[Figure, str]:
    """Lane F1 by the image in which lanes were looked for, with intervals: figure, and what it shows."""
    rows = {row["image"]: row for row in found["lanes"]}
    names = {key: name for key, name in IMAGES.items() if key in rows}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True)
    for ax, score, label in zip(axes, ("lane_f1", "hidden_recall"), ("lane F1", "recall of hidden lanes"), strict=True):
        for place, key in enumerate(names):
            low, high = rows[key][f"{score}_interval"]
            ax.plot([low, high], [place, place], color="black", lw=1)
            ax.plot(rows[key][score], place, "o", color="C0")
        ax.axvline(rows["seen"][score], color="C0", lw=0.8, ls=":")
        ax.set(xlabel=label, yticks=range(len(names)), yticklabels=list(names.values()))
    axes[0].invert_yaxis()
    figure.suptitle("Only the true background is shown to beat the image as seen (dotted)", fontweight="bold")
    return figure, "Lane F1 and recall of hidden lanes, with intervals, for the image as seen and seven others."
