"""Drawings of notebook 7: IoU, the matching behind lane F1, and metres from pixels."""

import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    PURPLE,
    RED,
    WIDTH,
    Sheet,
    backdrop,
    drawing,
    frame_sample,
    frame_scene,
    tint,
)
from roadtopo_lib.course.schematics.losses import two_lines
from roadtopo_lib.metrics.instances import match_by_iou
from roadtopo_lib.metrics.lanes import LaneF1, interpolate_lane
from roadtopo_lib.scenes.camera import Camera


@drawing(
    "Two slanted lines on a grid that partly cover each other; the cells of both, the intersection, are counted over "
    "the cells of either, the union, and the fraction is the IoU."
)
def iou_drawing(shift: int = 1) -> Figure:
    """Intersection over union of two masks.

    Args:
        shift: columns by which the prediction lies beside the truth, 0..3.
    """
    truth, predicted = two_lines(shift)
    both, either = truth & predicted, truth | predicted
    sheet = Sheet(3.6, "IoU: what both hold over what either holds")
    fills = {0: "white", 1: tint(BLUE, 0.5), 2: tint(RED, 0.5), 3: tint(PURPLE, 0.75), 4: tint(GREEN, 0.5)}

    def fill(value: float) -> object:
        return fills[int(value)]

    sheet.text(0.2, 0.78, "truth", color=BLUE, weight="bold", ha="left")
    sheet.text(3.2, 0.78, "prediction", color=RED, weight="bold", ha="right")
    sheet.cells(truth + 2 * predicted, 0.2, 1.0, 0.3, fill, words=None, edge=FAINT)
    for y, mask, value, name, color in ((0.62, both, 3, "intersection", PURPLE), (2.25, either, 4, "union", GREEN)):
        sheet.cells(value * mask, 4.35, y, 0.2, fill, words=None, edge=FAINT)
        sheet.text(6.5, y + 0.45, name, color=color, weight="bold", ha="left")
        sheet.text(6.5, y + 0.77, f"{mask.sum()} cells", ha="left")
    sheet.line([4.3, 7.75], [2.04, 2.04], INK, lw=2)
    sheet.text(4.22, 2.04, "IoU  =", weight="bold", ha="right")
    sheet.text(
        0.2,
        3.25,
        f"IoU  =  {both.sum()} / {either.sum()}  =  {both.sum() / either.sum():.2f}",
        weight="bold",
        ha="left",
    )
    return sheet.figure


@drawing(
    "The frame with its true lanes as wide pale lines and predicted ones beside them in another colour; a table gives "
    "the IoU of every pair, the best one-to-one matching is framed, and only pairs above the threshold count as found."
)
def lane_matching(
    predictions: tuple[tuple[int, float], ...] = ((0, 0.12), (0, -0.28), (1, 0.6), (2, -0.12)),
    threshold: float = LaneF1().iou_threshold,
) -> Figure:
    """Matching of drawn lines for lane F1, on the frame's own lanes.

    Args:
        predictions: for each predicted line which true lane it is like (0, 1, 2 from the left), and by how many line
            widths it lies beside it.
        threshold: IoU that a pair must exceed.
    """
    scene, score = frame_scene(), LaneF1(iou_threshold=threshold)
    height, width = scene.image.shape[:2]
    true = [np.asarray(line, dtype=float) for line in scene.lanes[:3]]
    unit = score.width * width
    predicted = [_beside(true[lane], shift * unit) for lane, shift in predictions]
    iou = score.iou_matrix(predicted, true, (height, width))
    score.update(predicted, true, (height, width))
    sheet = Sheet(4.0, "Lane F1 draws lines wide, then pairs them one to one")
    wide, part = 4.3, 0.7  # of the picture, the lower part with these lanes is shown
    rows, columns = round(part * height), round(part * width)
    left, top = (
        int(np.clip(np.mean([line[:, 0].mean() for line in true]) - columns / 2, 0, width - columns)),
        height - rows,
    )
    scale, corner = wide / columns, np.array([0.15, 0.68])
    shown = backdrop(scene.image[top:, left : left + columns])
    box = (0.15, 0.15 + wide, 0.68, 0.68 + sheet.image(shown, *corner, wide, smooth=False))
    for lines, color in ((true, BLUE), (predicted, RED)):
        for line in lines:
            drawn = interpolate_lane(line) - (left, top)
            drawn = drawn[(drawn >= 0).all(axis=1) & (drawn < (columns, rows)).all(axis=1)] * scale + corner
            sheet.line(*drawn.T, color, lw=unit * scale * 72, solid_capstyle="butt", alpha=0.5)
    for number, line in enumerate(true):
        places = (line - (left, top)) / (columns, rows)
        inside = line[(places[:, 0] > 0.05) & (places[:, 0] < 0.95) & (places[:, 1] < 0.9)]
        sheet.badge(corner + (inside[-1] - (left, top)) * scale, str(number + 1), BLUE)
        alike = [str(k + 1) for k, (lane, _) in enumerate(predictions) if lane == number]
        x, y = corner + (inside[0] - (left, top)) * scale
        sheet.text(x, y - 0.17, ", ".join(alike), color=RED, weight="bold", zorder=8)
    sheet.text(0.15, box[3] + 0.24, "true lanes", color=BLUE, weight="bold", ha="left")
    sheet.text(box[1], box[3] + 0.24, "predicted lanes", color=RED, weight="bold", ha="right")
    side, left, top = 0.56, 5.75, 1.22
    sheet.text(left + side * len(true) / 2, 0.75, "IoU with true lane", weight="bold")
    for k in range(len(true)):
        sheet.text(left + (k + 0.5) * side, 1.05, str(k + 1), color=BLUE, weight="bold")
    for k in range(len(predicted)):
        sheet.text(left - 0.2, top + (k + 0.5) * side, str(k + 1), color=RED, weight="bold")
    sheet.text(
        left - 0.55, top + side * len(predicted) / 2, "predicted", rotation=90, color=RED, weight="bold", va="center"
    )
    sheet.cells(iou, left, top, side, words="{:.2f}", edge=FAINT)
    for row, column in zip(*match_by_iou(iou, 0.0), strict=True):
        color, style = (GREEN, {}) if iou[row, column] > threshold else (GREY, {"ls": ":"})
        sheet.rectangle(
            left + column * side + 0.04, top + row * side + 0.04, side - 0.08, side - 0.08, color, lw=3, **style
        )
    y = box[3] + 0.62
    sheet.text(0.15, y, f"paired, above {threshold:g}: found", color=GREEN, weight="bold", ha="left")
    sheet.text(0.15, y + 0.3, "paired, not above: dotted", color=GREY, ha="left")
    counts = f"TP {score.tp}    FP {score.fp}    FN {score.fn}    F1 {score.f1():.2f}"
    sheet.text(WIDTH - 0.3, y + 0.3, counts, weight="bold", ha="right")
    return sheet.figure


def _beside(line: np.ndarray, distance: float) -> np.ndarray:
    """A line (M, 2) moved across its main direction, in pixels."""
    along = line[-1] - line[0]
    return line + distance * np.array([along[1], -along[0]]) / np.linalg.norm(along)


@drawing(
    "A side view: a camera at a known height looks along the flat road, tilted slightly down; the ray of a pixel row "
    "below the horizon meets the ground at a distance; rows nearer to the horizon meet it much farther away."
)
def metres_from_pixels(camera: Camera | None = None, distances: tuple[float, ...] = (8.0, 14.0, 30.0)) -> Figure:
    """From a pixel row to metres on flat ground.

    Args:
        camera: default that of the frame; its roll is left out.
        distances: metres ahead of the three points that are drawn, ascending.
    """
    camera = camera or frame_scene().camera
    pixels, depth = camera.project(np.array([[0.0, 0.0, z] for z in distances]))
    assert (depth > 0).all(), "the points lie before the camera"
    image = frame_sample()[0]
    height, width = image.shape[:2]
    rows = pixels[:, 1] * height / camera.size[0]
    horizon = float(camera.horizon()[camera.size[1] // 2]) * height / camera.size[0]
    sheet = Sheet(5.15, "On flat ground, a row below the horizon is a distance")
    ground, eye = 2.35, np.array([0.75, 1.15])
    scale = 6.6 / max(distances)
    sheet.line([0.2, 7.85], [ground, ground], INK, lw=2.4)
    sheet.line([eye[0], 7.85], [eye[1], eye[1]], INK, lw=1.4, ls="--")
    sheet.text(7.85, eye[1] - 0.18, "to the horizon", ha="right")
    sheet.polygon([(0.55, 1.02), (0.85, 1.02), (0.85, 1.28), (0.55, 1.28)], INK, fc=INK, zorder=7)
    sheet.text(0.2, 0.82, f"camera, tilted {abs(camera.pitch):.1f}° {'down' if camera.pitch >= 0 else 'up'}", ha="left")
    sheet.arrow((0.35, eye[1]), (0.35, ground), INK, arrowstyle="<|-|>", mutation_scale=10, lw=1.4)
    sheet.text(0.45, 1.95, f"{camera.height:.2f} m", ha="left", weight="bold")
    x0, y0, wide = 0.2, 2.92, 3.9
    pixel = wide / width
    sheet.image(backdrop(image), x0, y0, wide, smooth=False)
    level = y0 + horizon * pixel
    sheet.line([x0, x0 + wide], [level, level], "white", lw=3.2, zorder=6)
    sheet.line([x0, x0 + wide + 0.1], [level, level], INK, lw=1.6, ls="--", zorder=6)
    labels = _apart([level, *(y0 + np.sort(rows) * pixel)], 0.27)
    sheet.text(x0 + wide + 0.35, labels[0], "horizon", ha="left")
    sheet.line([x0 + wide + 0.1, x0 + wide + 0.3], [level, labels[0]], INK, lw=1.2)
    for z, color, row, label in zip(distances, (RED, GREEN, BLUE), rows, labels[:0:-1], strict=True):
        foot = np.array([eye[0] + z * scale, ground])
        sheet.line([eye[0], foot[0]], [eye[1], foot[1]], color, lw=2)
        sheet.dots(foot, color, 70, zorder=6)
        sheet.text(foot[0], ground + 0.24, f"{z:g} m", color=color, weight="bold")
        y = y0 + row * pixel
        sheet.line([x0, x0 + wide + 0.1], [y, y], color, lw=2, zorder=6)
        sheet.line([x0 + wide + 0.1, x0 + wide + 0.3], [y, label], color, lw=1.2)
        sheet.text(x0 + wide + 0.35, label, f"{row - horizon:.0f} rows below: {z:g} m", color=color, ha="left")
    return sheet.figure


def _apart(places: list[float], gap: float) -> list[float]:
    """Ascending places, each moved down until it is ``gap`` below the one before."""
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    return places
