"""A rendered night ride in the files of a public data set: photographs from a motorcycle, outlines in COCO's JSON.

The set is "Motorcycle Night Ride" (elective 3): six categories, one JSON file, and a folder of images with, beside
each, two pictures of its labels, which no reader may take for images.

    road-topology convert coco RIDE DATA --classes night-ride
"""

from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from roadtopo_lib.data.images import write_image
from roadtopo_lib.files import write_json
from roadtopo_lib.labels import CROSSWALK, LANE_BOUNDARY, LANE_MARKING, NIGHT_RIDE, ROAD
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.canvas import OWN_VEHICLE
from roadtopo_lib.scenes.canvas import RIDER as RIDER_SHOWS
from roadtopo_lib.scenes.synth import image_seed

CLASSES = NIGHT_RIDE
UNDRIVABLE, NIGHT_ROAD, LANE_MARK, MOVEABLE, MY_BIKE, RIDER = (row.id for row in CLASSES)

JSON_NAME = "COCO_motorcycle (pixel).json"


def class_mask(scene: Scene) -> np.ndarray:
    """(H, W) uint8 ids of ``CLASSES`` of a scene with the preset ``night-ride``: of what shows, paint included."""
    semantic = scene.semantic_visible
    mask = np.full(semantic.shape, UNDRIVABLE, np.uint8)
    mask[semantic == ROAD] = NIGHT_ROAD
    mask[np.isin(semantic, (LANE_MARKING, LANE_BOUNDARY, CROSSWALK))] = LANE_MARK
    mask[scene.cars] = MOVEABLE
    mask[scene.own == OWN_VEHICLE] = MY_BIKE
    mask[scene.own == RIDER_SHOWS] = RIDER
    return mask


def outlines(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Class id and outline (M, 2) of every connected part of a class mask (H, W), those with the largest box first.

    Drawn in this order they give the mask back: what lies in the hole of a part comes after it.
    """
    found = []
    for class_id in np.unique(mask).tolist():
        count, parts = cv2.connectedComponents((mask == class_id).astype(np.uint8), connectivity=4)
        for part in range(1, count):
            ring = cv2.findContours((parts == part).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
            found.append((int(np.prod(np.ptp(ring[:, 0], axis=0) + 1)), class_id, ring[:, 0]))
    return [(class_id, ring) for _, class_id, ring in sorted(found, key=lambda item: -item[0])]


def write_night_ride(
    folder: str | Path, count: int, seed: int = 0, size: tuple[int, int] = (270, 480), progress: bool = True
) -> Path:
    """Renders a ride into a folder.

    Args:
        folder: made if missing; gets the JSON, and in ``images`` ``night ride (N).png``, ``….png___fuse.png`` and
            ``….png___save.png``.
        count: images.
        seed: decides every image.
        size: (H, W) in pixels.
        progress: show a progress bar (on a terminal only).

    Returns:
        The JSON file.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in tqdm(range(1, count + 1), desc="night ride", disable=None if progress else True):
        name = f"night ride ({number}).png"
        scene = render_scene(image_seed(seed, "train", number), size, "night-ride")
        mask = class_mask(scene)
        colours = np.array([row.color for row in CLASSES], np.uint8)[mask]
        blend = cv2.addWeighted(scene.image, 0.5, colours, 0.5, 0)
        for ending, picture in (("___save", colours), ("___fuse", blend), ("", scene.image)):
            write_image(folder / "images" / (f"{name}{ending}.png" if ending else name), picture)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for class_id, ring in outlines(mask):
            if len(ring) < 3:
                continue  # a pixel or a row of them: no person outlines it
            left, top, width, height = cv2.boundingRect(ring)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": class_id + 1, "iscrowd": 0,
                "segmentation": [ring.ravel().tolist()], "bbox": [left, top, width, height],
                "area": float(cv2.contourArea(ring)),
            })  # fmt: skip
    categories = [{"id": row.id + 1, "name": row.name} for row in CLASSES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / JSON_NAME, content)
    return folder / JSON_NAME
