"""One scene from one number: the order in which the other modules are called."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from roadtopo_lib.scenes.annotate import LABEL_Z, annotate
from roadtopo_lib.scenes.camera import Camera, sample_camera
from roadtopo_lib.scenes.canvas import Canvas
from roadtopo_lib.scenes.cockpit import draw_cockpit
from roadtopo_lib.scenes.layout import TOWN, Layout
from roadtopo_lib.scenes.lens import rain_on, sensor
from roadtopo_lib.scenes.marks import paint_across, paint_distractors
from roadtopo_lib.scenes.overhead import draw_bonnet, sample_overpass, span
from roadtopo_lib.scenes.road import Road, band_coverage, road_pixels, sample_road
from roadtopo_lib.scenes.shadows import cast_shadows
from roadtopo_lib.scenes.sky import paint_sky
from roadtopo_lib.scenes.streets import sample_layout
from roadtopo_lib.scenes.surface import leaf_noise, paint_line, sample_texture, shade_ground, strip_index
from roadtopo_lib.scenes.surroundings import build, plant
from roadtopo_lib.scenes.vehicles import draw_vehicle, drive_on, sample_vehicles
from roadtopo_lib.scenes.weather import Light, sample_light
from roadtopo_lib.scenes.wild import paint_over, restyle, roughen, sample_any_camera

PRESETS = ("day", "all", "night-ride", "wild", "painted")
MIN_SIZE, MAX_SIZE = 32, 8192  # pixels


@dataclass(frozen=True)
class Scene:
    """A picture with its exact labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        semantic_visible: (H, W) uint8 class ids of what shows.
        instance_visible: (H, W) uint16: lanes 1..L left to right, then crosswalks, 0 elsewhere.
        semantic_amodal: (H, W) uint8 class ids with lanes continued through gaps and behind vehicles.
        instance_amodal: (H, W) uint16, the same ids.
        lanes: L polylines (M, 2) float32 of (x, y), top to bottom: centres of the amodal lanes 1..L.
        lines: L numbers: which line of the road each lane is, the same at every moment of a drive.
        camera: the exact camera.
        road: the exact curve.
        attributes: what kind of scene this is, plain Python values.
        cars: (H, W) bool, where a vehicle shows.
        own: (H, W) uint8, ``OWN_VEHICLE`` or ``RIDER`` where the own vehicle or its rider shows, 0 elsewhere.
    """

    image: np.ndarray
    semantic_visible: np.ndarray
    instance_visible: np.ndarray
    semantic_amodal: np.ndarray
    instance_amodal: np.ndarray
    lanes: list[np.ndarray]
    lines: tuple[int, ...]
    camera: Camera
    road: Road
    attributes: dict
    cars: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Moment:
    """Where the camera is on its way, compared with the scene's own place.

    Args:
        along: metres along the road; the traffic has gone on meanwhile.
        aside: metres to the right.
        pitch, yaw: degrees by which the camera looks farther down and to the right.
    """

    along: float = 0.0
    aside: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0


START = Moment()


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (H, W) as integers, or raise ValueError if one is below 32 or above 8192."""
    h, w = (int(v) for v in size)
    if not (MIN_SIZE <= h <= MAX_SIZE and MIN_SIZE <= w <= MAX_SIZE):
        raise ValueError(f"size is (height, width), each {MIN_SIZE} to {MAX_SIZE}, got {tuple(size)}")
    return h, w


def render_scene(
    seed: int, size: tuple[int, int] = (256, 512), preset: str = "all", crosswalks: bool = True, vehicles: bool = True,
    moment: Moment = START,
) -> Scene:  # fmt: skip
    """Render one road scene.

    Args:
        seed: non-negative integer; the same seed, size and preset give the same bytes.
        size: (H, W) in pixels, each at least 32.
        preset: "day" for dry daylight, paint in good order and a good camera; "all" for dusk, night, rain and fog,
            paint that is nearly gone and cameras of all kinds as well; "night-ride" for dry nights seen by the rider
            of a motorcycle; "wild" for "all" as seen by more kinds of cameras, on rougher roads, in many styles, to
            train models for photographs; "painted" for "all" in a style of its own, to choose among such models.
        crosswalks: ``False`` paints no crossing; all else in the scene stays as it is.
        vehicles: ``False`` leaves the vehicles and their shadows out; all else in the scene stays as it is. The styles
            of "wild" and "painted" mix pixels, so there the picture differs elsewhere, too.
        moment: of a drive through the scene, see ``scenes.drive``.

    Returns:
        The scene.

    Raises:
        ValueError: if size or preset is none of these.
    """
    size = check_size(size)
    if preset not in PRESETS:
        raise ValueError(f"preset is one of {PRESETS}, got {preset!r}")
    rng = np.random.default_rng(seed)
    layout = sample_layout(rng)
    if not crosswalks:
        layout.crosswalks = []
    if preset == "day":
        layout.lines = [line.in_good_order() for line in layout.lines]
    rides = preset == "night-ride"
    style = np.random.default_rng((seed, 2))
    camera = (sample_any_camera if preset in ("wild", "painted") else sample_camera)(rng, size, rides)
    road = sample_road(rng, camera.lateral, layout.kind == TOWN)
    light = sample_light(rng, preset)
    cars = sample_vehicles(rng, road, layout)
    if not vehicles:
        cars = []
    if moment != START:
        start, road = road, road.after(moment.along, moment.aside)
        cars = drive_on(cars, layout, start, road, seed)
        camera = replace(camera, pitch=camera.pitch + moment.pitch, yaw=camera.yaw + moment.yaw)
    ground = camera.ground()
    px = road_pixels(road, ground)
    strips = strip_index(layout, px.u)

    concrete = bool(rng.random() < 0.16)
    texture = sample_texture(rng, px)
    color = shade_ground(rng, layout, px, texture, strips, concrete)
    if preset == "wild":
        roughen(style, color, layout, px)
    breaks = [(c.start - 0.2, c.stop + 0.2) for c in layout.crosswalks]
    for line in layout.lines:
        paint_line(color, line, px, texture, light.rain, breaks)
    paint_across(color, layout, px, texture)
    paint_distractors(rng, color, camera, road, layout, texture, ground.top)
    over = sample_overpass(rng, layout)
    shade, contact = cast_shadows(rng, camera, ground, road, layout, light, cars)
    if over and over.bridge:
        shade = np.maximum(shade, band_coverage(px.s, px.ds + 0.3, over.start, over.start + over.depth))
    if cars:
        color *= (1 - 0.6 * contact)[..., None]
    color = light.on_ground(color, ground.x, ground.z, shade)

    picture, rough = paint_sky(rng, camera, light, layout.kind == TOWN)
    np.copyto(picture[ground.top :], color, where=ground.seen[..., None])
    canvas = Canvas(camera, light, cv2.convertScaleAbs(picture, alpha=255))
    canvas.rough[:] = rough
    things = plant(rng, canvas, road, layout)
    for wall in layout.walls:
        things += build(rng, canvas, road, wall)
    things += [(float(car.corners[:2, 1].mean()), lambda car=car: draw_vehicle(canvas, car)) for car in cars]
    if over:
        things += span(rng, canvas, road, layout, over)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()
    if rides:
        draw_cockpit(rng, canvas)
    elif rng.random() < 0.22:
        draw_bonnet(rng, canvas)
    image = _finish(rng, canvas)
    if light.rain:
        hidden = canvas.fixed | canvas.moving
        wet = (hidden == 0) & (np.arange(size[0])[:, None] >= camera.horizon())
        image = rain_on(rng, image, float(camera.horizon().mean()), wet, light.rain)
    image = sensor(rng, image, light, good=preset == "day")
    if preset in ("wild", "painted"):
        image = (restyle if preset == "wild" else paint_over)(style, image)
    labels = annotate(
        camera, ground, road, layout, px, strips, canvas.fixed > 0, canvas.moving > 0, rng.uniform(*LABEL_Z)
    )
    attributes = _attributes(layout, road, light, len(cars), concrete, labels)
    return Scene(
        image, **vars(labels), camera=camera, road=road, attributes=attributes, cars=canvas.cars > 0, own=canvas.own
    )


def _finish(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Roughen leaves and grass, then add the light of lamps."""
    h, w = canvas.image.shape[:2]
    y, x = rng.integers(0, 256, 2)
    noise = np.tile(leaf_noise(), (h // 256 + 2, w // 256 + 2))[y : y + h, x : x + w]
    tone = 1 + noise * (canvas.rough * np.float32(0.3 / 255))
    image = cv2.multiply(canvas.image, cv2.merge([tone] * 3), dtype=cv2.CV_8U)
    if not canvas.light.glows:
        return image
    near, far = (cv2.GaussianBlur(canvas.glow, (0, 0), sigma * w / 512) for sigma in (1, 5))
    lamps = cv2.add(canvas.glow, cv2.add(near, cv2.addWeighted(far, 1.2, far, 0, 0)))
    return cv2.add(image, lamps)


def _attributes(layout: Layout, road: Road, light: Light, vehicles: int, concrete: bool, labels) -> dict:
    """What kind of scene this is, for an analysis of failures by kind."""
    return {
        "road": layout.kind,
        "light": light.kind,
        "rain": round(light.rain, 3),
        "visibility": round(light.visibility, 1),
        "sunlit": bool(light.shadow > 0),
        "surface": "concrete" if concrete else "asphalt",
        "curvature": round(road.curvature, 6),
        "lanes": len(layout.borders) - 1,
        "ego_lane": layout.ego,
        "vehicles": vehicles,
        "lane_lines": len(labels.lanes),
        "crosswalks": int(labels.instance_visible.max()) - len(labels.lanes),
    }
