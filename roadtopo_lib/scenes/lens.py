"""Between the scene and the file: rain on road and windscreen, blur, exposure, colour, noise, compression."""

import cv2
import numpy as np

from roadtopo_lib.scenes.weather import DAY, Light


def rain_on(rng: np.random.Generator, image: np.ndarray, horizon: float, wet: np.ndarray, rain: float) -> np.ndarray:
    """A wet road mirrors what stands above it; drops streak the air and blur the windscreen.

    Args:
        rng: source of randomness.
        image: (H, W, 3) uint8.
        horizon: row about which the road mirrors.
        wet: (H, W) bool, open ground.
        rain: 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    h, w = image.shape[:2]
    rows = np.arange(h)
    mirrored = image[np.clip(2 * int(horizon) - rows, 0, h - 1)]
    small = cv2.resize(mirrored, (w // 4, h // 4), interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.8, sigmaY=4), (w, h), interpolation=cv2.INTER_LINEAR)
    grazing = 0.3 + 0.7 * np.exp(-np.maximum(rows - horizon, 0) / (0.2 * h))
    share = (rain * 0.5 * grazing).astype(np.float32)[:, None] * wet  # (H, W)
    out = image + (blurred.astype(np.float32) - image) * share[..., None]
    streaks = np.zeros((h, w), np.uint8)
    slant = rng.normal(0, 0.15)
    for x, y, length in rng.uniform(0, 1, (int(90 * rain), 3)) * [w, h, h / 9]:
        cv2.line(streaks, (int(x), int(y)), (int(x + slant * length), int(y + length)), 255, 1, cv2.LINE_AA)
    out += streaks[..., None] * np.float32(rng.uniform(0.03, 0.14))
    drops = np.zeros((h, w), np.uint8)
    for x, y, size in rng.uniform(0, 1, (rng.integers(0, 25), 3)) * [w, h, h / 28]:
        cv2.circle(drops, (int(x), int(y)), int(size + 1), 255, -1, cv2.LINE_AA)
    through = cv2.resize(cv2.resize(image, (w // 16, h // 16), interpolation=cv2.INTER_AREA), (w, h))
    cover = cv2.GaussianBlur(drops, (0, 0), 1.0).astype(np.float32)[..., None] * np.float32(0.8 / 255)
    out += (through - out) * cover
    return np.clip(out, 0, 255).astype(np.uint8)


def sensor(rng: np.random.Generator, image: np.ndarray, light: Light, good: bool = False) -> np.ndarray:
    """What the camera makes of the scene: blur, exposure, colour, vignette, noise, compression.

    Args:
        rng: source of randomness.
        image: (H, W, 3) uint8 RGB.
        light: decides how bad it gets.
        good: a good camera: little blur, noise and compression.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    hard = light.kind != DAY or light.rain > 0
    image = _blur(rng, image, hard, good)
    h, w = image.shape[:2]
    exposure = np.exp(rng.normal(0, 0.14))
    gamma = np.exp(rng.normal(0, 0.12))
    white = np.exp(rng.normal(0, 0.025, 3))
    contrast = rng.uniform(0.82, 1.12)
    level = np.arange(256) / 255
    table = np.clip((level[:, None] ** gamma * exposure * white - 0.45) * contrast + 0.45, 0, 1.2) * 255  # (256, 3)
    out = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.5:
        x, y = np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32)[:, None]
        vignette = 1 - np.float32(rng.uniform(0, 0.35) / 2) * (x * x + y * y)
        out = cv2.multiply(out, cv2.merge([vignette] * 3), dtype=cv2.CV_8U)
    out = _add_noise(rng, out, rng.uniform(0.3, 1.5 if good else 3.0) if not hard else rng.uniform(1, 8))
    quality = int(rng.uniform(80 if good else 55, 97)) if rng.random() < 0.7 else 0
    if quality:
        # OpenCV's byte order does not matter here: what goes in comes out
        _, data = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return out


def _blur(rng: np.random.Generator, image: np.ndarray, hard: bool, good: bool) -> np.ndarray:
    """A coarse sensor, a lens out of focus, or movement."""
    h, w = image.shape[:2]
    pick = rng.random()
    if pick < 0.3:
        scale = rng.uniform(0.8 if good else 0.45 if hard else 0.55, 0.95)
        small = cv2.resize(image, (max(8, round(w * scale)), max(8, round(h * scale))), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    if pick < 0.6:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3 if hard else 0.8) * w / 512 + 1e-3)
    if pick < 0.68 and hard:
        length, angle = rng.uniform(2, 7) * w / 512, rng.uniform(0, np.pi)
        size = 2 * int(length / 2) + 3
        kernel = np.zeros((size, size), np.float32)
        reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        a, b = ((size // 2 + d * reach).round().astype(int).tolist() for d in (-1, 1))
        cv2.line(kernel, a, b, 1.0, 1, cv2.LINE_AA)
        return cv2.filter2D(image, -1, kernel / kernel.sum())
    return image


def _add_noise(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """Sensor noise: the sum of two random bytes is bell-shaped (std 104.5) and ten times as fast as a normal draw."""
    a, b = (np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape) for _ in range(2))
    scale = sigma / 104.5
    return cv2.add(image, cv2.addWeighted(a, scale, b, scale, -255 * scale, dtype=cv2.CV_16S), dtype=cv2.CV_8U)
