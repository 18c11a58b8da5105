"""Valid files and command lines for ``fuzz.py``, and how they are changed."""

import base64
import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from kill_test import write_data
from PIL import Image
from pycocotools import mask as masks

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.training.run_state import RunState

ODD_WORDS = [b"", b"0", b"-1", b"1e999", b"-0.5", b"NaN", b"null", b"true", b"9" * 400, b'""', b'"\\ud800"',
             b'"../x"', b"[]", b"{}", b"[" * 3000, b'"' + b"x" * 5000 + b'"', b"!!timestamp x", b"&a [*a]",
             b"\xff\xfe"]  # fmt: skip
ODD_NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
WORD = re.compile(rb'"[^"\n]*"|-?\d+\.?\d*|\w+')

LINES = [line.split() for line in (
    "train lane --config tiny.yaml --data data --output run --epochs 1 --seed 0 --device cpu --checkpoint-every 1",
    "train lane --config tiny.yaml --init model.safetensors --data data --output run --resume --overwrite",
    "evaluate lane --model model.safetensors --data data --split val --metrics culane --baselines --output a.json",
    "infer lane --model model.safetensors --input in/a.png --output out --visualize --format json --device cpu",
    "infer lane --model model.safetensors --input data/train/images --output out --tile 64 --overlap 8 --resume",
    "horizon in/a.png --lines 10,30,20,10 50,30,40,10 --model model.safetensors --device cpu",
    "synth --out scenes --train 1 --val 1 --size 64x96 --seed 0 --preset day --amodal --workers 1",
    "convert labelme in out --images in --split val --val-share 0.5 --line-width 3 --limit 1 --classes classes.yaml",
    "check-data data --json report.json --config tiny.yaml --fix --undo --split val --model model.safetensors",
)]  # fmt: skip
ODD_ARGUMENTS = ["", " ", "0", "-1", "nan", "inf", "1e400", "9" * 400, "x" * 5000, "\udcff.png", "ä", "missing",
                 ".", "pipe.png", "in", "data", "tiny.yaml", "model.safetensors", "clip.avi", "--", "--help",
                 "a,b"]  # fmt: skip


def write_template() -> None:
    """Valid files of every kind, in the current folder."""
    write_data(Path("data"))
    write_dataset("in", {"train": 1}, size=(64, 96), workers=1, progress=False)
    picture = Image.open("in/train/images/train_00000.jpg").convert("RGB")
    shutil.rmtree("in")
    Path("in/list").mkdir(parents=True)
    Path("in/a.lines.txt").write_text("")
    picture.save("in/a.png")
    config = LaneSegmentationConfig.preset("unet").replace(image_size=(32, 64), epochs=1)
    config.to_yaml("tiny.yaml")
    torch.manual_seed(0)
    model = UNet(embedding_dim=8, widths=(8, 8))
    model.save("model.safetensors", training=config.to_dict(), epoch=1)
    RunState(config=config.to_dict(), model=model.state_dict(), history=[{"epoch": 1}]).save("state.safetensors")
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, picture.size)
    for level in range(5):
        video.write(np.asarray(picture) // (level + 1))
    video.release()
    for folder in ("camvid/train", "camvid/trainannot", "stills/701_StillsRaw_full", "stills/LabeledApproved_full"):
        Path(folder).mkdir(parents=True)
        picture.convert("L" if "annot" in folder else "RGB").save(f"{folder}/a{'_L' * ('Label' in folder)}.png")
    Path("classes.yaml").write_text("lane: lane_marking\nkerb: lane_boundary\nno: none\n")


def pictures(*modes: str, **options: object) -> list[bytes]:
    """The template's picture in Pillow's modes, as files."""
    exif = Image.Exif()
    exif[0x112], exif[0x010F] = 6, "a camera"
    files = []
    for mode in modes:
        grey = Image.fromarray((np.asarray(Image.open("in/a.png").convert("L")) // 64).astype(np.uint8))
        stored = Image.open("in/a.png").convert(mode) if mode in ("RGB", "P", "RGBA") else grey.convert(mode)
        stored.save("picture", exif=exif, **options)
        files.append(Path("picture").read_bytes())
    return files


def labels() -> dict[str, tuple[str, str, bytes]]:
    """Name → format, the file that is changed, and its valid content; folders with images lie in the current one."""
    lane, other = [[20, 60], [30, 40.5], [34, 20]], [[70, 60], [60, 40], [56, 20]]
    content = base64.b64encode(Path("in/a.png").read_bytes()).decode()
    shapes = [{"label": "lane", "points": lane, "shape_type": "linestrip", "group_id": None},
              {"label": "crosswalk", "points": other, "shape_type": "polygon", "group_id": 1},
              {"label": "lane", "points": [[10, 10], [20, 20]], "shape_type": "mask", "mask": content}]  # fmt: skip
    edge = {
        "category": "lane",
        "attributes": {"laneTypes": "road curb"},
        "poly2d": [{"vertices": lane, "types": "LLC"}],
    }
    runs = masks.encode(np.asfortranarray(np.eye(64, 96, dtype=np.uint8)))
    areas = [[[10, 10, 20, 10, 20, 40]], {"size": [64, 96], "counts": [1000, 300, 4844]},
             {"size": [64, 96], "counts": runs["counts"].decode()}]  # fmt: skip
    coco = {"images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}],
            "categories": [{"id": 1, "name": "lane"}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": area} for area in areas]}  # fmt: skip
    rows = {"raw_file": "a.png", "lanes": [[20, 30, -2], [70, 60, 56]], "h_samples": [60, 40, 20]}
    values = {
        "labelme": {"shapes": shapes, "imagePath": "a.png", "imageData": None, "imageHeight": 64, "imageWidth": 96},
        "labelme with its image": {"shapes": shapes, "imagePath": "b.png", "imageData": content},
        "tusimple": rows,
        "bdd100k": [{"name": "a.png", "labels": [edge]}],
        "coco": coco,
    }
    found = {name: (name.split()[0], "in/a.json", json.dumps(value).encode()) for name, value in values.items()}
    return found | {
        "culane": ("culane", "in/a.lines.txt", b"20 60 30 40.5 34 20 \n70 60 60 40 56 20 \n"),
        "culane, a list": ("culane", "in/list/train.txt", b"/a.png /a_mask.png 0 1 1 0\nb.png\n"),
        "camvid": ("camvid", "camvid/trainannot/a.png", with_checksums(pictures("L", format="PNG")[0])),
        "camvid, colours": ("camvid", "stills/label_colors.txt", b"128 64 128\tRoad\n128 0 192\tLaneMkgsDriv\n"),
    }


def with_checksums(png: bytes) -> bytes:
    """A changed PNG with chunks that fit: decoders look at what is in them."""
    content, at = png[:8], 8
    while at + 12 <= len(png):
        length = min(int.from_bytes(png[at : at + 4], "big"), len(png) - at - 12)
        chunk = png[at + 4 : at + 8 + length]
        content += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return content


@st.composite
def changed(draw, valid: bytes | list[bytes]) -> bytes:
    """A valid file after one or two changes."""
    content = draw(st.sampled_from(valid if isinstance(valid, list) else [valid]))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 64)))
        change = draw(st.sampled_from(["bit", "number", "word", "word", "cut out", "twice", "cut off"]))
        new = content[start:end]
        if change == "bit":
            end, new = start + 1, bytes(c ^ (1 << draw(st.integers(0, 7))) for c in content[start : start + 1])
        elif change == "number":
            form = draw(st.sampled_from(["B", ">H", "<H", ">I", "<I", "<Q"]))
            size = struct.calcsize(form)
            end, new = start + size, struct.pack(form, draw(st.sampled_from(ODD_NUMBERS)) % 256**size)
        elif change == "word":
            words = list(WORD.finditer(content)) or [re.match(b"", content)]
            start, end = draw(st.sampled_from(words)).span()
            new = draw(st.sampled_from(ODD_WORDS))
        elif change == "cut out":
            new = b""
        elif change == "twice":
            new = 2 * new
        else:
            end, new = len(content), b""
        content = content[:start] + new + content[end:]
    return content


@st.composite
def changed_line(draw) -> list[str]:
    """A valid command line after up to three changes of its words."""
    words = list(draw(st.sampled_from(LINES)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(1, len(words)))
        new = draw(st.lists(st.sampled_from(ODD_ARGUMENTS + words), max_size=1))
        words[place : place + draw(st.integers(0, 2))] = new
    return words


def drawn(inputs: st.SearchStrategy, count: int) -> list:
    """That many inputs, the same ones each time."""
    found = []

    @seed(0)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(inputs)
    def draw(content: object) -> None:
        found.append(content)

    draw()
    return found
