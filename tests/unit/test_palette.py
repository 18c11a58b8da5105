"""The class colours are told apart by every reader, with the common colour vision deficiencies too.

References:
    WCAG 2.1, success criterion 1.4.11 (relative luminance and contrast; 3 : 1 for graphics).
    G. Machado, M. Oliveira, L. Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
    IEEE TVCG 2009 (matrices of severity 1.0, for linear RGB).
    G. Sharma, W. Wu, E. Dalal, "The CIEDE2000 Color-Difference Formula", Color Research & Application 2005.
"""

from itertools import combinations

import numpy as np
import pytest

from roadtopo_lib.labels import BACKGROUND, BINARY_CLASSES, CLASSES, LANE_MARKING, ROAD, SIDEWALK

VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
WHITE = (255, 255, 255)


def linear(color: tuple[int, int, int]) -> np.ndarray:
    """sRGB, each 0..255, to linear RGB 0..1."""
    value = np.asarray(color) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """WCAG contrast of two sRGB colours, 1..21."""
    dark, light = sorted(float(linear(color) @ (0.2126, 0.7152, 0.0722)) for color in (first, second))
    return (light + 0.05) / (dark + 0.05)


def lab(color: tuple[int, int, int], vision: str = "normal") -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as a reader with this vision sees it."""
    seen = np.clip(VISION[vision] @ linear(color), 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    ratio = to_xyz @ seen / to_xyz.sum(axis=1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Colour difference of two L*a*b* colours; Sharma 2005, equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = np.arctan2(b1, stretch * a1) % (2 * np.pi), np.arctan2(b2, stretch * a2) % (2 * np.pi)
    turn = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi if c1 * c2 > 0 else 0.0
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.degrees(h1 + turn / 2) % 360 if c1 * c2 > 0 else np.degrees(h1 + h2)
    weight = 1 - 0.17 * np.cos(np.radians(hue - 30)) + 0.24 * np.cos(np.radians(2 * hue))
    weight += 0.32 * np.cos(np.radians(3 * hue + 6)) - 0.20 * np.cos(np.radians(4 * hue - 63))
    rotation = -np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))) * 2
    rotation *= np.sqrt(chroma**7 / (chroma**7 + 25**7))
    light = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    colorful = (c2 - c1) / (1 + 0.045 * chroma)
    tinted = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * chroma * weight)
    return float(np.sqrt(light**2 + colorful**2 + tinted**2 + rotation * colorful * tinted))


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ],
)
def test_color_difference_equals_the_published_table(first, second, published):
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(published, abs=1e-4)


def test_simulated_vision_keeps_grey_and_confuses_red_with_green():
    for vision in VISION:
        assert np.abs(lab((128, 128, 128), vision) - lab((128, 128, 128))).max() < 0.1, vision
    confused = (190, 90, 60), (120, 120, 50)
    assert ciede2000(*(lab(color) for color in confused)) > 30
    assert ciede2000(*(lab(color, "deuteranopia") for color in confused)) < 10


@pytest.mark.parametrize("name", [c.name for c in CLASSES if c.instances])
def test_a_class_that_bears_instances_stands_out_from_road_and_background(name):
    color = next(c.color for c in CLASSES if c.name == name)
    assert contrast(color, CLASSES[ROAD].color) >= 3
    assert contrast(color, CLASSES[BACKGROUND].color) >= 3


def test_the_lane_of_the_binary_table_has_the_colour_of_a_lane_marking():
    assert BINARY_CLASSES[1].color == CLASSES[LANE_MARKING].color


def test_the_sidewalk_stands_out_from_the_road():
    assert contrast(CLASSES[SIDEWALK].color, CLASSES[ROAD].color) >= 1.5


@pytest.mark.parametrize("vision", VISION)
def test_every_pair_of_classes_and_unlabelled_pixels_differ_for_every_reader(vision):
    colors = {c.name: c.color for c in CLASSES} | {"unlabelled": WHITE}
    difference = {
        (one, other): ciede2000(lab(colors[one], vision), lab(colors[other], vision))
        for one, other in combinations(colors, 2)
    }
    pair = min(difference, key=difference.get)
    assert difference[pair] >= 20, f"{vision}: {pair} differ by {difference[pair]:.1f}"
