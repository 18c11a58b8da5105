"""What the rider of a motorcycle sees of it and of themselves: tank, dash, handlebars, mirrors, gloves and sleeves."""

import cv2
import numpy as np

from roadtopo_lib.scenes.canvas import OWN_VEHICLE, RIDER, Canvas


def draw_cockpit(rng: np.random.Generator, canvas: Canvas) -> None:
    """Paint the own motorcycle and its rider over the lower part of the picture; both hide all that is behind them.

    Places are shares of the picture: x from its middle in units of its width, y from its lower edge upwards in units
    of its height.
    """
    h, w = canvas.image.shape[:2]
    middle, bar, reach = rng.normal(0.5, 0.03), rng.uniform(0.13, 0.24), rng.uniform(0.27, 0.4)
    paint, cloth = (rng.uniform(0.15, 0.9, 3) for _ in range(2))
    metal = np.full(3, rng.uniform(0.08, 0.3))

    def at(x: float, y: float) -> tuple[int, int]:
        return round((middle + x) * w), round((1 - y) * h)

    def shape(points: list[tuple[float, float]], color: np.ndarray, owner: int, width: float = 0.0) -> None:
        """A filled outline, or with ``width`` (share of the picture's width) a line along the points."""
        corners = np.array([at(*point) for point in points], np.int32)
        shown = np.clip(color * canvas.light.ambient * rng.uniform(0.7, 1.1), 0, 1) * 255
        for picture, value in ((canvas.image, shown.astype(int).tolist()), (canvas.own, owner)):
            smooth = cv2.LINE_AA if picture is canvas.image else cv2.LINE_8
            if width:
                cv2.polylines(picture, [corners], False, value, max(1, round(width * w)), smooth)
            else:
                cv2.fillPoly(picture, [corners], value, smooth)

    def oval(x: float, y: float, across: float, up: float) -> list[tuple[float, float]]:
        angle = np.linspace(0, 2 * np.pi, 25)[:-1]
        return list(zip(x + across * np.cos(angle), y + up * np.sin(angle), strict=True))

    for side in (-1, 1):  # mirrors on their stalks
        if rng.random() < 0.8:
            top = bar + rng.uniform(0.08, 0.15)
            shape([(side * 0.6 * reach, bar), (side * 0.85 * reach, top)], metal, OWN_VEHICLE, 0.008)
            shape(oval(side * 0.9 * reach, top, 0.05, 0.035), metal, OWN_VEHICLE)
    shape(oval(0, 0.0, rng.uniform(0.14, 0.2), bar * rng.uniform(0.75, 0.95)), paint, OWN_VEHICLE)  # tank
    shape(
        [(-reach, bar - 0.03), (-0.3 * reach, bar), (0.3 * reach, bar), (reach, bar - 0.03)], metal, OWN_VEHICLE, 0.02
    )
    dash = rng.uniform(0.06, 0.1)
    shape([(-dash, bar - 0.03), (dash, bar - 0.03), (0.8 * dash, bar + 0.05), (-0.8 * dash, bar + 0.05)], metal,
          OWN_VEHICLE)  # fmt: skip
    for side in (-1, 1):  # sleeves, then gloves around the grips
        elbow = (side * (reach + rng.uniform(0.05, 0.2)), -0.1)
        shape([elbow, (side * reach * 0.98, bar - 0.05)], cloth, RIDER, rng.uniform(0.06, 0.09))
        shape(oval(side * reach * 0.95, bar - 0.03, 0.045, 0.04), cloth * 0.5, RIDER)
    own = canvas.own > 0
    canvas.fixed[own], canvas.cars[own], canvas.rough[own], canvas.glow[own] = 1, 0, 12, 0
    lit = rng.uniform(0.2, 1, 3)  # what the dash shows, by its own light
    left, right = at(-0.6 * dash, bar + 0.035), at(0.6 * dash, bar - 0.015)
    cv2.rectangle(canvas.image, left, right, (lit * 160).astype(int).tolist(), -1, cv2.LINE_AA)
