"""Writes ``data_samples/broken``: one small example of every kind of bad input that the library must refuse.

    python data_samples/make_broken.py

Each example is one folder; its ``README.md`` row says what is wrong and what the library answers. The test
``tests/unit/test_bad_input.py`` feeds every one of them in.
"""

import pickle
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from roadtopo_lib.data.samples import sample_files, write_sample

BROKEN = Path(__file__).parent / "broken"
SIZE = (48, 64)  # height, width


def sample(name: str, split: str = "train", stem: str = "scene") -> tuple[Path, Path, Path]:
    """Writes one correct sample into ``broken/NAME/SPLIT`` and returns its image, semantic and instance paths."""
    height, width = SIZE
    rng = np.random.default_rng(0)
    semantic = np.zeros(SIZE, np.uint8)
    semantic[height // 2 :] = 1
    semantic[height // 2 :, 20:23] = 2
    instance = np.where(semantic == 2, 1, 0).astype(np.uint16)
    image = (60 + 120 * (semantic == 2)[..., None] + rng.integers(0, 20, (height, width, 3))).astype(np.uint8)
    write_sample(BROKEN / name / split, stem, image, semantic, instance)
    return sample_files(BROKEN / name / split, stem)


def data_sets() -> None:
    """Data folders that are wrong in one way each."""
    sample("missing_split")  # train only: ask for val
    _, _, instance = sample("missing_folder")
    shutil.rmtree(instance.parent)
    _, semantic, _ = sample("image_without_mask")
    sample("image_without_mask", stem="second")
    semantic.unlink()
    image, _, _ = sample("mask_without_image")
    sample("mask_without_image", stem="second")
    image.unlink()

    _, semantic, _ = sample("mask_of_another_size")
    Image.fromarray(np.zeros((SIZE[0] // 2, SIZE[1] // 2), np.uint8)).save(semantic)
    image, _, _ = sample("unreadable_image")
    image.write_text("this is not a picture\n", encoding="utf-8")
    image, _, _ = sample("truncated_image")
    image.write_bytes(image.read_bytes()[:600])
    _, semantic, _ = sample("semantic_id_out_of_range")
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(semantic)
    _, semantic, _ = sample("instance_id_shared")
    classes = np.array(Image.open(semantic))
    classes[40:][classes[40:] == 2] = 3  # the lower end of the lane becomes a crosswalk that keeps the lane's id
    Image.fromarray(classes).save(semantic)

    _, semantic, _ = sample("float_mask")
    Image.fromarray(np.zeros(SIZE, np.float32)).save(semantic, format="TIFF")  # PNG has no float pixels
    _, semantic, _ = sample("palette_mask")
    indexed = Image.new("P", SIZE[::-1])
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.save(semantic)
    _, _, instance = sample("rgba_mask")
    Image.fromarray(np.zeros((*SIZE, 4), np.uint8)).save(instance)
    _, _, instance = sample("rgb_instances_without_black")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:, :32] = (255, 0, 0)
    colors[:, 32:] = (0, 255, 0)
    Image.fromarray(colors).save(instance)

    for folder in ("images", "semantic_masks", "instance_masks"):
        keep = BROKEN / "empty_data_set" / "train" / folder / ".gitkeep"
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.touch()


def configs() -> None:
    """Config files that are wrong in one way each."""
    folder = BROKEN / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "unknown_key": "backbone: tiny\nlearning_rate: 0.001\n",
        "negative_margin": "backbone: tiny\ndelta_var: -0.5\n",
        "unreachable_margin": "backbone: tiny\nnormalize_embeddings: true\ndelta_dist: 1.5\n",
        "not_yaml": "backbone: [tiny\n",
    }.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


class Explosive:
    """Unpickling this calls a function of the file's choice: here a harmless ``print``."""

    def __reduce__(self):
        return print, ("the pickle ran code",)


def checkpoints() -> None:
    """Model files that must not be loaded."""
    from safetensors.numpy import save_file

    folder = BROKEN / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pickle_with_code.pth").write_bytes(pickle.dumps(Explosive(), protocol=4))
    save_file({"weight": np.zeros(4, np.float32)}, folder / "other_kind.safetensors")
    whole = (folder / "other_kind.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) - 8])


if __name__ == "__main__":
    for child in BROKEN.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
    data_sets()
    configs()
    checkpoints()
