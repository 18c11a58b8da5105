"""What makes a network that has seen rendered scenes only work on photographs: pictures that differ more than they do.

Reference:
    J. Tobin et al., "Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World",
    IROS 2017; P. Chattopadhyay et al., "PASTA: Proportional Amplitude Spectrum Training Augmentation for Syn-to-Real
    Domain Generalization", ICCV 2023 (``spectral_noise``: equation 4 with its k and β, and a smaller α).
"""

import cv2
import numpy as np

from roadtopo_lib.scenes.camera import Camera, sample_camera
from roadtopo_lib.scenes.layout import Layout
from roadtopo_lib.scenes.road import RoadPixels, band_coverage

ALPHA, POWER, BETA = 1.5, 2.0, 0.25
"""Of PASTA: how much the noise grows with the frequency, by which power, and how much there is everywhere."""


def sample_any_camera(rng: np.random.Generator, size: tuple[int, int], rider: bool = False) -> Camera:
    """A camera as in ``sample_camera``, or one whose horizon lies anywhere, above a shorter or longer lens."""
    camera = sample_camera(rng, size, rider)
    fov, horizon = rng.uniform(36, 95), size[0] * rng.uniform(0.3, 0.62)
    if rng.random() < 0.4:
        return camera
    focal = size[1] / 2 / np.tan(np.radians(fov) / 2) * camera.pixel_aspect
    pitch = float(np.degrees(np.arctan2((size[0] - 1) / 2 - horizon, focal)))
    return Camera(camera.height, pitch, camera.roll * 1.5, camera.yaw, fov, camera.lateral, size, camera.pixel_aspect)


def roughen(rng: np.random.Generator, ground: np.ndarray, layout: Layout, px: RoadPixels) -> None:
    """Seams, tar and old paint along the lines, and bright or dark patches on the road, in place.

    Args:
        rng: source of randomness.
        ground: (Hg, W, 3) colours before the lines are painted.
        layout: the lines.
        px: road coordinates per pixel.
    """
    light = np.ones_like(px.u)
    for line in layout.lines:
        if rng.random() < 0.35:
            width, away = rng.uniform(0.03, 0.3), rng.uniform(0.0, 0.5)
            u = line.u + rng.choice([-1, 1]) * (line.half_width() + away + width / 2)
            if rng.random() < 0.25:  # the paint is bordered in black, or lies on a darker strip
                u, width = line.u, 2 * line.half_width() + rng.uniform(0.1, 0.6)
            tone = rng.choice([rng.uniform(0.5, 0.85), rng.uniform(1.06, 1.3)], p=[0.75, 0.25])
            light *= 1 + (tone - 1) * band_coverage(px.u, px.du, u - width / 2, u + width / 2)
    for _ in range(rng.choice([0, 1, 2, 4], p=[0.45, 0.25, 0.2, 0.1])):
        u, width = rng.uniform(*layout.road), rng.uniform(0.3, 4.0)
        s, length = np.exp(rng.uniform(np.log(2), np.log(60))), np.exp(rng.uniform(np.log(0.5), np.log(40)))
        cover = band_coverage(px.u, px.du, u, u + width) * band_coverage(px.s, px.ds, s, s + length)
        light *= 1 + cover * rng.choice([rng.uniform(-0.4, -0.1), rng.uniform(0.1, 0.6)])
    ground *= light[..., None]


def restyle(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Another film, another lens, another codec: (H, W, 3) uint8 RGB → the same.

    Each of these with some probability: noise on the amplitudes of the spectrum, a tone curve, other colours, local
    contrast, sharpening, blur, compression.
    """
    if rng.random() < 0.5:
        image = spectral_noise(rng, image)
    if rng.random() < 0.6:
        image = cv2.LUT(image, _tone_curves(rng))
    if rng.random() < 0.4:
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        hue = ((hue.astype(np.int32) + int(rng.normal(0, 5))) % 180).astype(np.uint8)
        saturation = cv2.convertScaleAbs(saturation, alpha=rng.choice([0, rng.uniform(0.3, 1.6)], p=[0.15, 0.85]))
        image = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
    if rng.random() < 0.15:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(rng.uniform(1, 3), (8, 8)).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if rng.random() < 0.3:
        soft, share = (
            cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.0) * image.shape[1] / 640),
            rng.uniform(-0.9, 1.0),
        )
        image = cv2.addWeighted(image, 1 + share, soft, -share, 0)  # below 0 it blurs, above it sharpens
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(25, 95))])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(image)


def spectral_noise(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Every frequency's amplitude times 1 + noise, which grows with the frequency; phases stay: (H, W, 3) uint8."""
    h, w = image.shape[:2]
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)) / np.hypot(0.5, 0.5)  # (H, W // 2 + 1)
    sigma = ALPHA * frequency**POWER + BETA
    noise = 1 + sigma * rng.standard_normal(sigma.shape)
    noise[0, 0] = 1  # the mean brightness
    spectrum = np.fft.rfft2(image.astype(np.float32), axes=(0, 1)) * noise[..., None]
    return np.clip(np.fft.irfft2(spectrum, (h, w), axes=(0, 1)), 0, 255).astype(np.uint8)


def _tone_curves(rng: np.random.Generator) -> np.ndarray:
    """A rising curve for each channel, all near a common one: (1, 256, 3) uint8."""
    knots = np.linspace(0, 255, 6)
    common = rng.gamma(4.0, 1.0, 5)
    curves = []
    for _ in range(3):
        steps = common * np.exp(rng.normal(0, 0.08, 5))
        low, high = rng.uniform(0, 25), rng.uniform(215, 255)
        curve = low + (high - low) * np.concatenate([[0], np.cumsum(steps) / steps.sum()])
        curves.append(np.interp(np.arange(256), knots, curve))
    return np.stack(curves, axis=-1).astype(np.uint8)[None]


def paint_over(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The picture as if painted, in flat strokes and colours of its own: (H, W, 3) uint8 RGB → the same.

    No picture of a training looks like that: what does well on it has not learnt the renderer's style by heart.
    """
    strokes = cv2.edgePreservingFilter(image, flags=cv2.NORMCONV_FILTER, sigma_s=rng.uniform(5, 15), sigma_r=0.25)
    levels = rng.integers(14, 28)
    flat = np.round(strokes / 255 * levels) / levels
    warm = np.eye(3) + rng.normal(0, 0.07, (3, 3))  # its pigments mix
    return np.clip(flat @ warm * 255, 0, 255).astype(np.uint8)
