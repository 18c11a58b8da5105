# %% [markdown]
# # 2 · Dataset: what lies on disk, and how it goes wrong quietly
#
# **You will be able to** build a data set folder of your own, read any mask without harming its ids, transform an
# image and its masks in step, and recognise six mistakes that raise no error where they are made.
#
# **You need** notebook 1, and NumPy.
#
# **Time** to run: under half a minute on two CPU cores; about the same on a Colab T4 (estimated). To work through:
# two hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/02_dataset.ipynb`, and write the same address into `REPOSITORY` below.
# **On your machine:** `make lab`.

# %% tags=["set-up"]
# @title Set-up: run this cell first
# The same cell opens every notebook: it finds the library, or fetches it on Colab.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # where to clone from if there is no clone around this notebook

if importlib.util.find_spec("roadtopo_lib") is None:
    here = Path.cwd()
    around = (p for p in (here, *here.parents) if (p / "roadtopo_lib" / "course").is_dir())
    root = next(around, None)
    if root is None:
        root = here / "road-topology"
        if not root.is_dir():
            if not REPOSITORY:
                raise SystemExit("No clone here: write your fork's address into REPOSITORY.")
            clone = ["git", "clone", "-q", "--depth", "1", REPOSITORY, str(root)]
            subprocess.run(clone, check=True)
        # --no-deps: Colab's own torch, numpy and OpenCV stay as they are.
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", str(root)]
        subprocess.run(install, check=True)
    sys.path.insert(0, str(root))

from roadtopo_lib.course import start

device = start(seed=0)

# %%
import math
import os
import re
import tempfile
import time

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no look-up of newer versions
import albumentations as A

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import reveal, samples
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.widgets import AugmentationInStep
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.data.images import read_image, read_instance_mask, read_semantic_mask, rgb_to_instance_ids
from roadtopo_lib.data.sampling import EpochSampler, repeat_factors
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.labels import (
    CLASS_NAMES,
    CLASSES,
    CROSSWALK,
    IGNORE_INDEX,
    LANE_CLASS_IDS,
    LANE_MARKING,
    NUM_CLASSES,
    ROAD,
    SIDEWALK,
    palette,
)
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.viz import color_instances, color_semantic, overlay_labels

# %% [markdown]
# ## The labels
#
# Every pixel of a *semantic mask* (의미론적 마스크) holds a class id. Here is the whole table, drawn from the library's
# `labels.py`. Come back to it whenever a colour in a picture of *classes* puzzles you. Pictures of *instances* reuse
# the same colours freely: there a colour only says "not the same thing".

# %%
rows = [(c.id, c.name, f"instances: {c.instances}" if c.instances else "") for c in CLASSES]
rows.append((IGNORE_INDEX, "unlabelled", "skipped by semantic loss and scores"))
figure, ax = plt.subplots(figsize=(5, 2.4))
for y, (value, name, note) in enumerate(rows):
    ax.add_patch(plt.Rectangle((0, y - 0.4), 0.6, 0.8, facecolor=palette()[value] / 255, edgecolor="black"))
    for x, text in ((0.8, value), (1.4, name), (3.6, note)):
        ax.text(x, y, text, va="center")
ax.set(title="Seven values may stand in a semantic mask", xlim=(0, 6), ylim=(6.6, -0.6))
ax.axis("off")
plt.show()

# %% [markdown]
# Three classes bear *instances* (인스턴스), things to be told apart: lane markings and lane boundaries are lanes,
# crosswalks (횡단보도) are the other kind. Road, sidewalk and background are not counted; they are just there.

# %% [markdown]
# 255 says that nobody labelled the pixel: the semantic loss and the scores of classes skip it. (Leave its instance id
# at 0.) It is not background: *background* is a class, and the model is asked to find it.
#
# Labels come in two kinds: *visible* ones mark the paint that shows, *amodal* ones continue a line through its gaps
# and behind vehicles. Lines and crosswalks of our samples are amodal (the grey road is not: it ends at a vehicle); you
# will see both kinds below.

# %% [markdown]
# ## What lies on disk
#
# A sample is one name in three folders: the image, its semantic mask and its *instance mask* (인스턴스 마스크), which
# numbers the instances. The name is the only thing that ties them together.
#
# A data set has three *splits* (분할): the model learns from `train`, `val` tells when to stop, and `test` is kept for
# the score at the end.

# %%
for split in ("train", "val", "test"):
    stems = []
    for kind in ("images", "semantic_masks", "instance_masks"):
        files = sorted((samples() / split / kind).iterdir())
        stems.append([file.stem for file in files])
        print(f"{split + '/' + kind:22s} {len(files)} files, the first is {files[0].name}")
    assert stems[0] == stems[1] == stems[2]

# %% [markdown]
# ## One sample by hand
#
# First the image, with OpenCV, as the guide does. Pillow is another library that reads and writes images;
# to learn what OpenCV's `imread` returns, Pillow writes a file with one red pixel.
#
# ### The guide says / we measured: "`cv2.imread(path)  # (H, W, 3) RGB`"
#
# So the guide comments the call in its list of mistakes. Its data set code converts from BGR.

# %%
folder = tempfile.TemporaryDirectory()
Image.fromarray(np.array([[[255, 0, 0]]], dtype=np.uint8)).save(f"{folder.name}/red.png")
print("written as RGB [255, 0, 0], read as", cv2.imread(f"{folder.name}/red.png")[0, 0])

# %% [markdown]
# Blue comes first. The data set code is right, the comment is not. Forgetting the conversion raises no error; the
# model meets a world with swapped colours. Look at the sky, and at the car on the right:

# %%
raw = LaneInstanceDataset(samples(), "train")
SCENE = 45  # the one to look at
bgr = cv2.imread(str(raw.image_paths[SCENE]))  # (H, W, 3) uint8
rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def show(pictures, titles, size=(12, 2.4)):
    axes = plt.subplots(1, len(pictures), figsize=size)[1]
    for ax, picture, title in zip(axes, pictures, titles):
        ax.imshow(picture)
        ax.set(title=title, xticks=[], yticks=[])
    plt.show()


show((bgr, rgb), ("imread: the sky is orange", "After BGR → RGB"), size=(8, 2.3))

# %% [markdown]
# The semantic mask has a single *channel* (채널), one number a pixel, of 8 bits. For such a file `IMREAD_GRAYSCALE` is
# right, as the guide says.
#
# The instance mask says *which* one: 0 is none, lanes are 1, 2 … from left to right, then come crosswalks. Ours have
# 16 bits, enough for 65535 ids; `IMREAD_UNCHANGED` keeps them.

# %%
semantic = cv2.imread(str(raw.semantic_paths[SCENE]), cv2.IMREAD_GRAYSCALE)
print(semantic.shape, semantic.dtype, {int(i): CLASS_NAMES[i] for i in np.unique(semantic)})
instance = cv2.imread(str(raw.instance_paths[SCENE]), cv2.IMREAD_UNCHANGED)
print(instance.shape, instance.dtype, np.unique(instance))
print("every 24th pixel of row 150:", instance[150, ::24])

# %% [markdown]
# The library's data set gives the same three as tensors. The image becomes float in [0, 1], channels first; the masks
# become `int64`, which PyTorch's losses and indexing ask for. In your own lines, then compared:

# %%
item = raw[SCENE]
for name in ("image", "semantic_mask", "instance_mask"):
    value = item[name]
    print(f"{name:14s} {tuple(value.shape)!s:16s} {value.dtype!s:14s} {value.min():.0f} … {value.max():.0f}")
own_image = torch.from_numpy(rgb.transpose(2, 0, 1).copy()).float() / 255  # (H, W, 3) → (3, H, W)
# Two JPEG decoders may differ by a rounding step or two.
torch.testing.assert_close(item["image"], own_image, atol=2 / 255, rtol=0)
torch.testing.assert_close(item["semantic_mask"], torch.from_numpy(semantic.astype(np.int64)), atol=0, rtol=0)
torch.testing.assert_close(item["instance_mask"], torch.from_numpy(instance.astype(np.int64)), atol=0, rtol=0)
print("[OK] own lines and library agree")

# %% [markdown]
# Pretrained weights expect images whose colours were shifted and scaled (*normalised*, 정규화) as in their own
# training. The data set does *not* do that. The model does it itself (notebook 3), so that nobody can forget it.

# %% [markdown]
# ## Three formats of instance masks
#
# Annotation tools write grey masks with 8 or 16 bits, or RGB masks with one colour for each instance. Here is one
# mask, small enough to read, in all three. The library's reader asks Pillow which format a file has, and treats each
# as it must:

# %%
ids = np.array([[0, 1, 0, 2, 0, 3], [1, 1, 0, 2, 0, 3]])
colors = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0]], dtype=np.uint8)  # black, blue, green, red
arrays = {"grey8": ids.astype(np.uint8), "grey16": ids.astype(np.uint16), "rgb": colors[ids]}
for name, array in arrays.items():
    Image.fromarray(array).save(f"{folder.name}/{name}.png")
    found = read_instance_mask(f"{folder.name}/{name}.png")
    assert (found == ids).all()
    print(f"{name:7s} {found.dtype} {found.tolist()}")

# %% [markdown]
# The guide's table calls red 1 and green 2. We number colours by (red, green, blue), so blue is 1. Which number a
# lane gets does not matter to the loss that separates instances (notebook 4), as long as each lane has its own. The
# last section of this notebook checks that.

# %% [markdown]
# ## Trap: a colour mask used as it is
#
# The guide's third common mistake. `DiscriminativeLoss` is the loss that separates instances; it takes embeddings,
# vectors for every pixel, and the ids. **Broken.** The RGB mask goes in without conversion:

# %% tags=["trap:broken"]
embeddings = torch.randn(1, 4, 2, 6)  # (B, D, H, W)
mask = torch.from_numpy(cv2.imread(f"{folder.name}/rgb.png")).long()
print("shape", tuple(mask.shape), "ids", mask.unique().tolist())
try:
    DiscriminativeLoss()(embeddings, mask[None])
except ValueError as error:
    print("the loss says:", error)

# %% [markdown]
# **Why.** `imread` returns three channels whatever the file holds. Three lanes, and only two values: 0 and 255.
# Making the tensor raises nothing; the error comes from the loss, far from its cause.
#
# **Mended.** Colours become ids when the file is read.

# %% tags=["trap:mended"]
mended = torch.from_numpy(rgb_to_instance_ids(np.asarray(Image.open(f"{folder.name}/rgb.png"))).astype(np.int64))
assert mask.shape == (2, 6, 3) and mask.unique().tolist() == [0, 255]  # the symptom
assert mended.shape == (2, 6) and mended.unique().tolist() == [0, 1, 2, 3]  # the mend
DiscriminativeLoss()(embeddings, mended[None])
print("shape", tuple(mended.shape), "ids", mended.unique().tolist())

# %% [markdown]
# ### The guide says / we measured: "`None`, then read it in colour"
#
# The guide's loader reads in grey first. If that gave `None`, so it reasons, the mask must be an RGB one, and it
# converts colours to ids. The cell below does the same, and notes whenever the conversion is reached.
#
# > **Predict first.** Of our three little masks, one is RGB. For how many is the conversion reached?


# %%
def guides_reader(path):
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        conversions.append(path)
    return mask


my_guess = None
conversions = []
for name in ("grey8", "grey16", "rgb"):
    guides_reader(f"{folder.name}/{name}.png")
reveal(my_guess, len(conversions), "of three masks")
guides_reader(samples() / "broken/unreadable_image/train/images/scene.jpg")
print("with a file that is no image:", len(conversions))

# %% [markdown]
# `None` means "cannot be read", never "has colours". The conversion is dead code. What arrives in place of ids is
# worse, as the next cell shows.

# %% [markdown]
# ## Trap: luminance is not an id
#
# **Broken.** A colour mask with five lanes, read in grey:

# %% tags=["trap:broken", "nbval-ignore-output"]
five_colors = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 130, 0], [255, 255, 255]]
Image.fromarray(np.array([five_colors], dtype=np.uint8)).save(f"{folder.name}/five.png")
grey = cv2.imread(f"{folder.name}/five.png", cv2.IMREAD_GRAYSCALE)
print("none, red, green, blue, dark green, white:", grey[0])

# %% [markdown]
# **Why.** Grey is the *luminance* (휘도), brightness as an eye weighs colours: 0.299 R + 0.587 G + 0.114 B. Pure red
# is 76, pure green 149 or 150 (OpenCV versions round differently), blue 29.
#
# The shape is right, the type is right, and two lanes have merged: red and dark green are both 76.
#
# **Mended.** Read colours as colours.

# %% tags=["trap:mended"]
mended = read_instance_mask(f"{folder.name}/five.png")
assert grey[0, 1] == grey[0, 4] == 76 and grey[0, 2] in (149, 150) and grey[0, 3] == 29  # the symptom
assert len(np.unique(grey)) == 5 < len(five_colors)  # one lane is gone
assert sorted(np.unique(mended)) == [0, 1, 2, 3, 4, 5]  # the mend
print(mended[0])

# %% [markdown]
# ## Trap: a palette index is not an id
#
# Many labelling tools write *palette* (팔레트) PNGs: each pixel holds an index, and a list in the file says which
# colour an index shows. Pillow calls this format mode "P". Two programs save the same four pixels: background, road,
# road, lane marking. The second lists its colours the other way round; on the screen the files look alike.
#
# **Broken.** The indices as they are, and the file read in grey:

# %% tags=["trap:broken"]
classes = np.array([[0, 1, 1, 2]])
in_grey, indices = {}, {}
for name, order in (("tool", np.arange(6)), ("editor", np.arange(6)[::-1])):
    picture = Image.fromarray(order[classes].astype(np.uint8))
    picture.putpalette(palette()[order].tobytes())  # (6, 3): the colour of every index
    picture.save(f"{folder.name}/{name}.png")
    indices[name] = np.asarray(Image.open(f"{folder.name}/{name}.png"))
    in_grey[name] = cv2.imread(f"{folder.name}/{name}.png", cv2.IMREAD_GRAYSCALE)
    print(f"{name:7s} indices {indices[name][0]}, read in grey {in_grey[name][0]}")

# %% [markdown]
# **Why.** Read in grey, a palette mask gives luminances, like any colour picture. Its indices may be class ids, as in
# the tool's file; but nothing in the format says so, and the editor's file shows it. So our reader refuses mode "P".
#
# **Mended.** Believe the colours: look each entry of the palette up in the class table, and refuse a colour that is no
# class. Then store plain class ids.

# %% tags=["trap:mended"]
table = {c.color: c.id for c in CLASSES}
for name in ("tool", "editor"):
    picture = Image.open(f"{folder.name}/{name}.png")
    entries = np.reshape(picture.getpalette(), (-1, 3)).tolist()
    class_of_entry = np.array([table.get(tuple(entry), -1) for entry in entries])
    mended = class_of_entry[np.asarray(picture)]
    assert mended.min() >= 0, "a colour that is no class"
    assert in_grey[name][0].tolist() == [0, 128, 128, 162]  # the symptom
    assert (indices[name] == classes).all() == (name == "tool")  # right by luck only
    assert (mended == classes).all()  # the mend
    try:
        read_semantic_mask(f"{folder.name}/{name}.png")
    except ValueError as error:
        print("before:", str(error).replace(folder.name, "…").replace(os.sep, "/"))
    Image.fromarray(mended.astype(np.uint8)).save(f"{folder.name}/{name}_ids.png")
    print("after: ", read_semantic_mask(f"{folder.name}/{name}_ids.png")[0])

# %% [markdown]
# For an *instance* mask any numbers will do, so the indices can stay, if index 0 shows the background. Check that, and
# store them as grey.

# %% [markdown]
# ## Trap: sixteen bits in eight
#
# > **Predict first.** A 16-bit grey mask holds the id 300. Which number does `IMREAD_GRAYSCALE` make of it?
#
# **Broken.** The whole row, before and after:

# %% tags=["trap:broken"]
my_guess = None
wide = np.array([[0, 1, 2, 255, 256, 300]], dtype=np.uint16)
Image.fromarray(wide).save(f"{folder.name}/wide.png")
narrow = cv2.imread(f"{folder.name}/wide.png", cv2.IMREAD_GRAYSCALE)
reveal(my_guess, int(narrow[0, 5]))
print("written:", wide[0], wide.dtype)
print("read:   ", narrow[0], narrow.dtype)

# %% [markdown]
# **Why.** OpenCV turns 16-bit grey into 8-bit grey by keeping the high byte: id // 256. Every id below 256 becomes 0.
# A photograph survives that; an id does not.
#
# **Mended.** The library's reader keeps all 16 bits. With OpenCV, read with `IMREAD_UNCHANGED` and look at the type.

# %% tags=["trap:mended"]
mended = read_instance_mask(f"{folder.name}/wide.png")
unchanged = cv2.imread(f"{folder.name}/wide.png", cv2.IMREAD_UNCHANGED)
assert (narrow == wide // 256).all() and narrow.max() == 1  # the symptom
assert (mended == wide).all() and (unchanged == wide).all() and unchanged.dtype == np.uint16  # the mend
print(mended[0])

# %% [markdown]
# ### The guide says / we measured: "right example 1: load in grey"
#
# The guide recommends this call for instance masks. Is it right for our three little files? And how many instances are
# left in the 48 masks of the training split?

# %%
for name in ("grey8", "grey16", "rgb"):
    right = (guides_reader(f"{folder.name}/{name}.png") == ids).all()
    print(f"{name:7s} {'right' if right else 'wrong'}")
true_count = sum(int(read_instance_mask(path).max()) for path in raw.instance_paths)
guides_count = sum(int(guides_reader(path).max()) for path in raw.instance_paths)
print(f"instances in 48 training masks: {true_count}; read in grey: {guides_count}")

# %% [markdown]
# Right for 8-bit grey only. On our samples every instance is lost, without a word. Training would run, and the
# instance loss would be exactly 0, which looks like success.

# %% [markdown]
# ### The guide says / we measured: each colour an id, if black is among them
#
# The guide's converter, the code that was never reached, sorts the colours, numbers them from 0, and skips black.
# Sorting and counting in three lines, on a mask with black and on one without:


# %%
def ids_by_enumeration(rgb):
    _, index = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    return index.reshape(rgb.shape[:2])  # black sorts first, so it becomes 0


full = colors[np.array([[1, 1, 2, 2]])]  # a crop without background: blue, blue, green, green
print("with black:   ", ids_by_enumeration(colors[ids]).tolist())
print("without black:", ids_by_enumeration(full).tolist())
try:
    rgb_to_instance_ids(full)
except ValueError as error:
    print("the library:  ", error)

# %% [markdown]
# Without black, the first lane becomes 0 and vanishes. We refuse such a mask: it may be a crop full of lanes, or one
# whose background is white, and nothing in the file tells which.

# %% [markdown]
# ## Transforms in step
#
# *Data augmentation* (데이터 증강) shows the model variants of each scene: cropped and resized, mirrored, in other
# colours. What moves pixels must move all three arrays alike; what changes colours must leave the masks alone.
#
# `build_transform` makes such a *transform* (변환) from the config. An *epoch* (에포크) is one pass over the training
# images. Follow one line through a column below: in image, classes and instances it lies at the same place.

# %%
config = LaneSegmentationConfig(image_size=(128, 256), crop_scale=0.5, color_jitter=0.4)
augmented = LaneInstanceDataset(samples(), "train", build_transform(config, train=True), seed=0)
figure, axes = plt.subplots(3, 4, figsize=(12, 5))
for column in range(4):
    augmented.set_epoch(column)
    item = augmented[SCENE]
    axes[0, column].imshow(item["image"].permute(1, 2, 0))  # (3, H, W) → (H, W, 3)
    axes[1, column].imshow(color_semantic(item["semantic_mask"].numpy()))
    axes[2, column].imshow(color_instances(item["instance_mask"].numpy()))
    axes[0, column].set_title(f"epoch {column}")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
figure.suptitle("One scene in four epochs: the masks follow the image", fontweight="bold")
plt.show()

# %% [markdown]
# ### Move them yourself
#
# In a running notebook these sliders crop, mirror and recolour a scene by hand, here one with lanes only. Watch the
# sentence above the pictures while you do. Then switch to separate draws.
#
# > **Predict first.** The masks then take another crop, and may be mirrored. How large is the share of the instance
# > pixels that still fit the image?

# %%
AugmentationInStep(index=28)

# %% [markdown]
# It changes from draw to draw. Lanes are a few pixels wide and hardly ever overlap themselves. A wide crosswalk often
# does, and hides the trap: try sample 45. A relative of this trap follows below, in code.

# %% [markdown]
# ### Which random numbers?
#
# Three numbers decide every draw: the *seed* (시드) of the run, the epoch and the sample's index. So a sample looks the
# same whichever process loads it, after whichever other samples, and in a run that was interrupted. The draw by hand:

# %%
augmented.set_epoch(2)
augmented[7], augmented[1]  # other samples first: they must not matter
draw = np.random.SeedSequence((0, 2, SCENE)).generate_state(1)[0]  # seed, epoch, index
by_hand = augmented.transform(*raw.read(SCENE), int(draw))[0]
torch.testing.assert_close(augmented[SCENE]["image"], torch.from_numpy(by_hand).permute(2, 0, 1) / 255)
print("[OK] the same three numbers, the same sample")

# %% [markdown]
# ### A flip turns the order round
#
# *Albumentations* is the library of image transforms that the guide and we use; its `Compose` makes one call of
# several transforms. Our lane ids run from left to right. What does a horizontal flip make of them?

# %%
flip = A.Compose([A.HorizontalFlip(p=1.0)])
flipped = flip(image=np.zeros((2, 6, 3), np.uint8), masks=[ids.astype(np.uint16)])["masks"][0]
print("before:", ids[0])
print("after: ", flipped[0])

# %% [markdown]
# They run from right to left now. The mask is still true, for each lane keeps its number; but never read an *order*
# from augmented ids.

# %% [markdown]
# > **Predict first.** The guide's seventh mistake: one `Compose([HorizontalFlip()])`, called once for each mask. The
# > flip has its default probability. In how many of 100 samples do the two masks disagree?

# %%
my_guess = None
flip = A.Compose([A.HorizontalFlip()], seed=0)
blank, arrow = np.zeros((1, 3, 3), np.uint8), np.array([[1, 2, 3]], dtype=np.uint8)
pairs = [[flip(image=blank, mask=arrow)["mask"][0, 0] for _ in range(2)] for _ in range(100)]
disagree = sum(first != second for first, second in pairs)
reveal(my_guess, disagree, "of 100")

# %% [markdown]
# About half. The two calls share one generator of random numbers; the second call simply draws the next number. And a
# test with `p=1.0` would never find it.

# %% [markdown]
# ## Trap: a call for each mask
#
# **Broken.** On a real scene. `agreement` says which share of the lane pixels has an instance id:


# %% tags=["trap:broken"]
def agreement(semantic, instance):
    return (instance > 0)[np.isin(semantic, LANE_CLASS_IDS)].mean()


image, semantic, instance = raw.read(SCENE)
flip = A.Compose([A.HorizontalFlip()], seed=1)
torn_semantic = flip(image=image, mask=semantic)["mask"]
torn_instance = flip(image=image, mask=instance)["mask"]
torn = agreement(torn_semantic, torn_instance)
print(f"lane pixels with an instance: {agreement(semantic, instance):.0%} in the files, {torn:.0%} after two calls")
pictures = (image, color_semantic(torn_semantic), color_instances(torn_instance))
show(pictures, ("The scene", "First call: classes mirrored", "Second call: instances are not"), size=(10, 2))

# %% [markdown]
# **Why.** One mask was mirrored, the other was not. Shapes, types and ids are all right, so nothing complains; but the
# two labels contradict each other.
#
# **Mended.** One call for everything. The guide's two ways both keep step: `masks=[…]`, and a second name in
# `additional_targets`.

# %% tags=["trap:mended"]
joint = A.Compose([A.HorizontalFlip()], seed=1, additional_targets={"mask2": "mask"})
listed, named = [], []
for _ in range(20):
    out = joint(image=image, masks=[semantic, instance])
    listed.append(agreement(*out["masks"]))
    out = joint(image=image, mask=semantic, mask2=instance)
    named.append(agreement(out["mask"], out["mask2"]))
assert torn < 0.5 and (torn_semantic == semantic[:, ::-1]).all() and (torn_instance == instance).all()  # the symptom
assert min(listed) == min(named) == 1.0  # the mend
print(f"20 draws each way: {min(listed):.0%} at worst")

# %% [markdown]
# ## Trap: the mean of two ids
#
# Resizing needs *interpolation* (보간): values for the pixels of the new size. *Bilinear* (쌍선형) interpolation
# takes the weighted mean of the four nearest old pixels. Photographs look good so.
#
# > **Predict first.** A motorway scene holds background, road, lane marking and lane boundary: four classes. How many
# > does its mask hold after a bilinear resize to 96 × 256?
#
# **Broken.** The motorway, and a row that is easy to read:

# %% tags=["trap:broken"]
my_guess = None
motorway = raw.read(2)[1]  # (256, 512) uint8
bilinear = cv2.resize(motorway, (256, 96), interpolation=cv2.INTER_LINEAR)  # OpenCV wants (width, height)
reveal(my_guess, len(np.unique(bilinear)), "classes")
print("it gained:", [CLASS_NAMES[i] for i in np.setdiff1d(bilinear, motorway)])
row = np.array([[0, 0, 5, 5]], dtype=np.uint8)  # background, then lane boundary
print("row, twice as wide:", cv2.resize(row, (8, 1), interpolation=cv2.INTER_LINEAR)[0])

# %% [markdown]
# **Why.** Between 0 and 5 lie 1, 2, 3 and 4, and the mean of two class ids is a third class: the motorway has a
# sidewalk. With instance ids it is the same: between lanes 1 and 3 a thin lane 2 appears.
#
# **Mended.** *Nearest neighbour* (최근접 이웃) copies ids and never invents one. Albumentations does so for masks by
# default, and `build_transform` asks for it.

# %% tags=["trap:mended"]
nearest = cv2.resize(motorway, (256, 96), interpolation=cv2.INTER_NEAREST)
resized = build_transform(config, train=False)(*raw.read(2), seed=0)[1]
by_default = A.Compose([A.Resize(96, 256)])(image=raw.read(2)[0], mask=motorway)["mask"]
along_boundary = (slice(56, 86), slice(84, 148))  # rows, columns: there is no lane marking here
assert {CROSSWALK, SIDEWALK} == set(np.unique(bilinear)) - set(np.unique(motorway))  # the symptom
assert LANE_MARKING in bilinear[along_boundary] and LANE_MARKING not in nearest[along_boundary]
for mask in (nearest, resized, by_default):  # the mend
    assert set(np.unique(mask)) == set(np.unique(motorway))
pictures = [color_semantic(mask[56:86, 84:164]) for mask in (bilinear, nearest)]
show(pictures, ("Bilinear: dots of three false classes", "Nearest: none of them"), size=(9, 2.6))

# %% [markdown]
# Look along the green boundary in the left picture. Blue dots are crosswalk, pink ones sidewalk: classes that this
# scene does not have. The orange dots are false lane markings, and worse: that class does exist in the scene (top
# right), so a list of the ids would not give them away.

# %% [markdown]
# For the same reason masks are PNG, never JPEG: JPEG smooths, and smoothing invents ids.

# %% [markdown]
# ## What to label: paint, or lines?
#
# Dashes have gaps, and vehicles hide paint. Visible labels mark the paint that shows; *amodal* (아모달) labels continue
# each line. The renderer of our scenes knows both. Compare the dashed lines, and those behind the white car:

# %%
scene = render_scene(24)
visible, amodal = (np.isin(m, LANE_CLASS_IDS) for m in (scene.semantic_visible, scene.semantic_amodal))
shown = visible.sum() / amodal.sum()
pictures = (scene.image, color_instances(scene.instance_visible), color_instances(scene.instance_amodal))
show(pictures, ("The scene", "Visible: paint only", "Amodal: whole lines"))
assert shown < 0.8
print(f"visible lane pixels are {shown:.0%} of the amodal ones")

# %% [markdown]
# Lane benchmarks (TuSimple, CULane) label whole lines, and so do our samples. Never mix the two kinds in one training
# set: the same gap would be road in one image and lane in the next.

# %% [markdown]
# ## Class imbalance (클래스 불균형)
#
# Which share of the pixels does each class hold? And in how many images does it appear at all? Both are counted over
# the training split, in our own lines and with the library.
#
# > **Predict first.** How many of the 48 training images show a crosswalk?

# %%
my_guess = None
masks = [raw.read(i)[1] for i in range(len(raw))]
counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
shares = counts[:NUM_CLASSES] / counts[:NUM_CLASSES].sum()
assert counts[IGNORE_INDEX] == 0  # our samples label every pixel
torch.testing.assert_close(torch.from_numpy(counts[:NUM_CLASSES]), count_class_pixels(raw, NUM_CLASSES).pixels)
images_with = np.array([sum(bool((mask == c).any()) for mask in masks) for c in range(NUM_CLASSES)])
reveal(my_guess, images_with[CROSSWALK], "of 48 images")

# %% [markdown]
# Left: how much of all pixels a class holds. Right: how many images show it. The two do not go together.

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 2.8), sharey=True)
bar_colors = palette()[:NUM_CLASSES] / 255
left = axes[0].barh(CLASS_NAMES, 100 * shares, color=bar_colors)
axes[0].bar_label(left, labels=[f" {100 * s:.1f} %" for s in shares])
axes[0].set(title="Two classes hold 93 % of the pixels", xlabel="share of all pixels (%)", xlim=(0, 80))
right = axes[1].barh(CLASS_NAMES, images_with, color=bar_colors)
axes[1].bar_label(right, labels=[f" {n}" for n in images_with])
axes[1].set(title="Crosswalks are rare twice over", xlabel="images that show the class (of 48)", xlim=(0, 55))
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# Two kinds of rare: a lane marking is small, but in nearly every image. A crosswalk is small *and* seldom there.
#
# Training takes images in *batches* (배치), a few at a time. Of random batches of four, 38 % show no crosswalk. No
# class weight (클래스 가중치, notebook 4), which only makes a class's pixels count more, can change that.

# %% [markdown]
# Drawing such images more often can. By *repeat-factor sampling* (반복 계수 샘플링; LVIS, Gupta et al. 2019) a class
# shown by a share f of the images gets the factor max(1, √(t / f)); an image takes the largest factor of its classes.
# The setting `repeat_threshold` is t; the preset `tiny` takes 0.5.
#
# > **Predict first.** With t = 0.5, which factor does the crosswalk get?

# %%
my_guess = None
by_hand = np.maximum(1, np.sqrt(0.5 / (images_with / len(raw))))  # (6,), one factor a class
reveal(my_guess, by_hand[CROSSWALK], "times")

# %%
factors = repeat_factors(raw, 0.5)
has_crosswalk = np.array([(mask == CROSSWALK).any() for mask in masks])
np.testing.assert_allclose(factors[has_crosswalk], by_hand[CROSSWALK])
sampler, drawn = EpochSampler(len(raw), repeats=factors), []
for epoch in range(100):
    sampler.epoch = epoch
    drawn += list(sampler)
print(f"crosswalk in {has_crosswalk.mean():.0%} of the files, in {has_crosswalk[drawn].mean():.0%} of those drawn")
assert len(drawn) == 100 * len(raw) and has_crosswalk[drawn].mean() > 1.2 * has_crosswalk.mean()
assert np.bincount(drawn, minlength=len(raw))[factors == 1].mean() < 100

# %% [markdown]
# An epoch is no longer than before, so images that show no rare class come less often. An image that is drawn twice in
# one epoch is augmented alike both times; the next epoch differs.

# %% [markdown]
# ## Your own data set
#
# The practical of this chapter: you build a data set folder, see it accepted, and then break it. Any tool will do, as
# long as the files end up in the right place. We paint with NumPy.
#
# `road` gives you the two masks of an empty road with two lines. `save` paints an image to match, leaves one corner
# unlabelled, and writes the three files.


# %%
def road(shift, height=48, width=96):
    y, x = np.mgrid[:height, :width]
    semantic = np.where(y > 16, ROAD, 0).astype(np.uint8)  # background above the horizon
    instance = np.zeros((height, width), dtype=np.uint16)
    for lane, slope in enumerate((-0.6, 0.5), start=1):
        line = (y > 16) & (np.abs(x - 48 - shift - slope * (y - 16)) < 2)
        semantic[line], instance[line] = LANE_MARKING, lane
    return semantic, instance


def save(root, name, semantic, instance):
    colors = np.full((256, 3), 240, dtype=np.uint8)  # what is painted is white
    colors[:2] = (150, 190, 230), (90, 90, 90)  # sky, asphalt
    image = colors[semantic]  # (H, W, 3)
    semantic[:10, :20] = IGNORE_INDEX
    for kind, array in zip(("images", "semantic_masks", "instance_masks"), (image, semantic, instance)):
        os.makedirs(f"{root}/train/{kind}", exist_ok=True)
        Image.fromarray(array).save(f"{root}/train/{kind}/{name}.png")


# %% [markdown]
# Does the library accept a folder? Only reading every sample tells, so `complaint` does that. It answers "fine", or
# when and why a sample was refused.


# %%
def complaint(root, split="train"):
    """When and why the library refuses a data set, without the folder's name; or "fine"."""
    moment = "on opening"
    try:
        dataset = LaneInstanceDataset(root, split)
        moment = "on reading"
        for index in range(len(dataset)):
            dataset[index]
    except (ValueError, FileNotFoundError) as error:
        return f"{moment}: {error}".replace(str(root), "…").replace(os.sep, "/")
    return "fine"


# %% [markdown]
# **Your turn: paint.** `my_paint` draws into both masks. As it stands it adds a crosswalk: a plain bar, stripes and
# gaps together, as our samples label it. Change it, run the cell, and look. Move the bar, slant it, or give the road
# a third line, to the right of both.
#
# Two rules: the semantic mask gets the class, the instance mask the next free number. Lanes come before crosswalks,
# from left to right. So the third line is 3, and the crosswalk becomes 4.


# %%
def my_paint(semantic, instance):
    semantic[36:43, 24:72] = CROSSWALK  # rows, columns
    instance[36:43, 24:72] = 3


own = f"{folder.name}/own"
for number, shift in enumerate((-10, 0)):
    semantic, instance = road(shift)
    my_paint(semantic, instance)
    save(own, f"image_{number:03d}", semantic, instance)
accepted = complaint(own)
mine = LaneInstanceDataset(own, "train")
image, semantic, instance = mine.read(1)
print(accepted, "·", len(mine), "samples · classes", np.unique(semantic), "· instances", np.unique(instance))
pictures = (overlay_labels(image, semantic), color_instances(instance))
show(pictures, ("Classes; pale is unlabelled", "Instances"), size=(8, 2.4))

# %% [markdown]
# Always look at your labels before you train. A picture shows what no loader can know: whether the crosswalk is where
# the road has one.

# %% [markdown]
# > **Predict first.** You paint the crosswalk into the semantic mask, and forget the instance mask. Does the loader
# > complain? Answer "yes" or "no".


# %%
def contradictions(semantic, instance):
    """Pixels whose class bears instances but that have no id, and the other way round."""
    bears_instances = np.isin(semantic, [c.id for c in CLASSES if c.instances])
    return int((bears_instances != (instance > 0)).sum())


my_guess = None
forgetful = road(0)
my_paint(forgetful[0], forgetful[1].copy())  # the copy is thrown away
save(f"{folder.name}/forgetful", "image_000", *forgetful)
reveal(my_guess, "no" if complaint(f"{folder.name}/forgetful") == "fine" else "yes")
print("contradictions:", contradictions(semantic, instance), "in yours,", contradictions(*forgetful), "in this one")

# %% [markdown]
# It does not: each file is right by itself. So check what must hold *between* files yourself. `contradictions` is
# such a check, in two lines; in our 48 samples it finds nothing.

# %% [markdown]
# **Your turn: break it.** `my_sabotage` gets the masks of a sound sample and returns spoilt ones. As it stands it
# paints class 7. Try others, one at a time:
#
# * colours in place of ids: `return palette()[semantic], instance`, then `return semantic, palette()[instance]`;
# * half the size: `return semantic[::2, ::2], instance`; floats: `return semantic.astype(np.float32), instance`;
# * one mask moved by ten columns: `return semantic, np.roll(instance, 10, axis=1)`.
#
# Which are refused, and which pass? The last two lines then remove a file. That is noticed at another moment; see when.


# %%
def my_sabotage(semantic, instance):
    semantic[40, 50] = 7
    return semantic, instance


broken = tempfile.mkdtemp(dir=folder.name)  # a fresh folder at every run of this cell
for name in ("image_000", "image_001"):
    save(broken, name, semantic.copy(), instance)
spoilt = my_sabotage(semantic.copy(), instance.copy())
try:
    for kind, mask in zip(("semantic_masks", "instance_masks"), spoilt):
        Image.fromarray(mask).save(f"{broken}/train/{kind}/image_001.png")
    print(complaint(broken))
except (TypeError, OSError) as error:
    print("not even saved:", error)
os.remove(f"{broken}/train/instance_masks/image_000.png")
print(complaint(broken))

# %% [markdown]
# A coloured *instance* mask passes rightly: RGB is one of its three formats. A moved one passes wrongly: once more only
# `contradictions`, or your eye, would find it.

# %% [markdown]
# The files' names are checked at once, when the data set opens; their content when a sample is read. So load every
# sample once before you start a long run, as `complaint` does.

# %% [markdown]
# ## A gallery of broken data sets
#
# `data_samples/broken` holds fourteen more, each broken in another way. Each is refused, by the name of the file, with
# what is wrong. Read them once: you will meet them again.

# %%
gallery = {
    path.name: complaint(path, "val" if path.name == "missing_split" else "train")
    for path in sorted((samples() / "broken").iterdir())
    if path.is_dir() and path.name not in ("checkpoints", "configs")
}
for name, text in gallery.items():
    print(f"{name}\n    {re.sub(r' image [(].*', ' image', text)}")  # Pillow's own words differ between versions

# %% [markdown]
# ## Batches, in an order that can be repeated
#
# `build_loader` stacks samples to batches. Training shuffles; the order depends on the seed and the epoch only. So
# epoch 0 below looks the same twice.
#
# A *worker* (워커) is a process that loads samples beside the training. It must not change them: the cell compares its
# first batch. (Starting it takes a few seconds: it imports PyTorch.)

# %%
tiny = LaneSegmentationConfig.preset("tiny")
small = LaneInstanceDataset(samples(), "train", build_transform(tiny, train=True))
batch = next(iter(build_loader(small, tiny, shuffle=True)))
print({name: tuple(batch[name].shape) for name in ("image", "semantic_mask", "instance_mask")})
sampler = EpochSampler(8, seed=0)
for epoch in (0, 1, 0):
    sampler.epoch = epoch
    print("epoch", epoch, list(sampler))
by_worker = next(iter(build_loader(small, tiny.replace(num_workers=1), shuffle=True)))
for name in ("image", "semantic_mask", "instance_mask"):
    torch.testing.assert_close(by_worker[name], batch[name], atol=0, rtol=0)
print("[OK] with and without a worker: the same batch")

# %% [markdown]
# ## Where the time goes
#
# A fast model waits for a slow loader. So time the parts of one sample: decoding the image (JPEG), decoding two masks
# (PNG), transforming to a small and to a large size. *Colour jitter* is the transform that changes brightness, contrast
# and colours.


# %%
def ms_per_sample(function, arguments):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for these in arguments:
            function(*these)
        times.append(1000 * (time.perf_counter() - started) / len(arguments))
    return min(times)  # the quietest of five: other programs only add time


def read_masks(index):
    return read_semantic_mask(raw.semantic_paths[index]), read_instance_mask(raw.instance_paths[index])


# %% tags=["nbval-ignore-output"]
arrays = [(*raw.read(i), i) for i in range(12)]
large = LaneSegmentationConfig.preset("b0")
calm = large.replace(color_jitter=0.0)
little = large.replace(image_size=tiny.image_size)  # only the size is another
parts = {
    "decode the image": ms_per_sample(read_image, [(path,) for path in raw.image_paths[:12]]),
    "decode both masks": ms_per_sample(read_masks, [(i,) for i in range(12)]),
    "transform to 96 × 256": ms_per_sample(build_transform(little, train=True), arrays),
    "transform to 512 × 1024": ms_per_sample(build_transform(large, train=True), arrays),
    "the same without colour jitter": ms_per_sample(build_transform(calm, train=True), arrays),
}
figure, ax = plt.subplots(figsize=(9, 2.4))
bars = ax.barh(list(parts), list(parts.values()))
ax.bar_label(bars, fmt=" %.1f ms")
ax.set(title="The size you train at decides what takes long", xlabel="time for one sample (ms)")
ax.margins(x=0.15)
ax.invert_yaxis()
plt.show()
assert max(parts.values()) == parts["transform to 512 × 1024"]
assert parts["the same without colour jitter"] < parts["transform to 512 × 1024"]
assert parts["transform to 96 × 256"] < parts["decode the image"] + parts["decode both masks"]

# %% [markdown]
# At the small size decoding dominates. At 512 × 1024 the transform does, and colour jitter over half a million pixels
# is a good part of it. If the GPU waits, raise `num_workers`: the samples stay the same.

# %% [markdown]
# ## Exercises
#
# Replace the `...`, run the cell, then the check below it. The hint says what is wrong, one thing at a time.
#
# ### 1. Colours to classes
#
# Some data sets give the classes as colours, too, in RGB masks without a palette. `rgb` is an (H, W, 3) `uint8` array,
# `table` a dictionary from (red, green, blue) to class ids. Return the (H, W) mask of class ids as `uint8`.
#
# Colours may share a luminance or a sum, and the table may hold colours that the mask does not. A colour that is not in
# the table must not become a class, nor 255: raise `ValueError` with the colour's three numbers in the message.


# %% tags=["exercise:classes_from_colors"]
def classes_from_colors(rgb, table):
    return ...


# %% tags=["check:classes_from_colors"]
check("classes_from_colors", classes_from_colors)

# %% [markdown] tags=["solution:classes_from_colors"]
# <details><summary>Solution</summary>
#
# ```python
# def classes_from_colors(rgb, table):
#     classes = np.zeros(rgb.shape[:2], dtype=np.uint8)
#     known = np.zeros(rgb.shape[:2], dtype=bool)
#     for color, class_id in table.items():
#         here = (rgb == color).all(axis=2)  # (H, W, 3) → (H, W)
#         classes[here] = class_id
#         known |= here
#     if not known.all():
#         raise ValueError(f"{rgb[~known][0].tolist()} is no colour of the table")
#     return classes
# ```
# </details>

# %% [markdown]
# ### 2. Flip in step
#
# Mirror the image (H, W, 3) and both masks (H, W) from left to right with probability `p`, all three or none. Draw
# with `rng.random()`, a NumPy generator's method: a number from 0 up to, but not including, 1. Flip if it lies below
# `p`, so that `p = 0` never flips, not even at a draw of exactly 0.
#
# Return three arrays of the same shapes and types, and leave the arguments as they are. `torch.from_numpy` must take
# the results; it refuses negative strides, which a mirrored *view* has.


# %% tags=["exercise:flip_together"]
def flip_together(image, semantic, instance, rng, p=0.5):
    return ...


# %% tags=["check:flip_together"]
check("flip_together", flip_together)

# %% [markdown] tags=["solution:flip_together"]
# <details><summary>Solution</summary>
#
# One draw, three flips. The copy gives `torch.from_numpy` an array without negative strides.
#
# ```python
# def flip_together(image, semantic, instance, rng, p=0.5):
#     if rng.random() >= p:
#         return image, semantic, instance
#     return tuple(array[:, ::-1].copy() for array in (image, semantic, instance))
# ```
# </details>

# %% [markdown]
# ### 3. Resize a mask
#
# Return the mask at `height` × `width` by nearest neighbour. Keep its type and invent no ids; 16-bit ids must
# survive. At twice the size every pixel becomes a block of 2 × 2; at half the size each comes from its own block of 2
# × 2; at the same size nothing changes. NumPy indexing is enough.


# %% tags=["exercise:resize_mask"]
def resize_mask(mask, height, width):
    return ...


# %% tags=["check:resize_mask"]
check("resize_mask", resize_mask)

# %% [markdown] tags=["solution:resize_mask"]
# <details><summary>Solution</summary>
#
# ```python
# def resize_mask(mask, height, width):
#     rows = np.arange(height) * mask.shape[0] // height
#     columns = np.arange(width) * mask.shape[1] // width
#     return mask[rows][:, columns]
# ```
#
# With OpenCV: `cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)`; the width comes first.
# </details>

# %% [markdown]
# ### 4. Shares that ignore what nobody labelled
#
# Return an array with the share of each class, one for every class, also for those that never appear. Count the pixels
# of all masks of the list together: a large mask weighs more than a small one.
#
# Pixels of 255 count nowhere: the shares of the labelled pixels sum to 1. Without any labelled pixel every share is 0,
# not 0 / 0.


# %% tags=["exercise:class_shares"]
def class_shares(masks, num_classes=6):
    return ...


# %% tags=["check:class_shares"]
check("class_shares", class_shares)

# %% [markdown] tags=["solution:class_shares"]
# <details><summary>Solution</summary>
#
# ```python
# def class_shares(masks, num_classes=6):
#     counts = np.zeros(num_classes)
#     for mask in masks:
#         counts += np.bincount(mask.ravel(), minlength=256)[:num_classes]  # 255 is cut off
#     return counts / max(counts.sum(), 1)
# ```
# </details>

# %% [markdown]
# ## What we claimed
#
# What the text above states of measured numbers, asserted.

# %%
assert len(raw) == 48 and tiny.repeat_threshold == 0.5
assert (raw.read(SCENE)[1][raw.read(SCENE)[2] > 0] == CROSSWALK).mean() > 0.5  # "most of the labelled pixels here"
assert not (raw.read(10)[1] == CROSSWALK).any()  # "lanes only"
assert (bgr[..., ::-1] == rgb).all()
renumbered = np.array([0, 3, 2, 1])[ids]  # the guide's order: red 1, green 2, blue 3
assert (ids_by_enumeration(cv2.imread(f"{folder.name}/rgb.png")) == renumbered).all()  # BGR puts red first
assert len(conversions) == 1  # only the file that is no image
by_number = [DiscriminativeLoss()(embeddings, torch.from_numpy(numbers)[None])[0] for numbers in (ids, renumbered)]
torch.testing.assert_close(*by_number)  # other numbers, same loss
assert (true_count, guides_count) == (154, 0)
lost = DiscriminativeLoss()(torch.randn(1, 4, 64, 128), torch.zeros(1, 64, 128, dtype=torch.int64))[0]
assert lost == 0  # "exactly 0"
assert ids_by_enumeration(full).tolist() == [[0, 0, 1, 1]]
assert flipped[0].tolist() == ids[0, ::-1].tolist()
assert 30 < disagree < 70  # "about half" of 100: four standard deviations either way
assert len(np.unique(motorway)) == 4
lanes_1_and_3 = np.array([[1, 1, 3, 3]], dtype=np.uint16)
assert 2 in cv2.resize(lanes_1_and_3, (8, 1), interpolation=cv2.INTER_LINEAR)  # "a thin lane 2"
cv2.imwrite(f"{folder.name}/mask.jpg", motorway)
assert len(np.unique(cv2.imread(f"{folder.name}/mask.jpg", cv2.IMREAD_GRAYSCALE))) > 4  # "JPEG invents ids"
assert large.image_size == (512, 1024)  # "half a million pixels"

# %%
assert round(100 * (shares[0] + shares[1])) == 93
assert images_with[CROSSWALK] == 10 and images_with[LANE_MARKING] == 43  # "nearly every image"
assert round(100 * math.comb(48 - 10, 4) / math.comb(48, 4)) == 38
assert accepted == "fine" and "fine" not in gallery.values() and len(gallery) == 14
assert all(contradictions(*raw.read(i)[1:]) == 0 for i in range(len(raw)))
save(f"{folder.name}/moved", "image_000", semantic.copy(), np.roll(instance, 10, axis=1))
assert complaint(f"{folder.name}/moved") == "fine"  # "a moved one passes"
assert batch["image"].shape == (4, 3, 96, 256)
folder.cleanup()
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Next
#
# **3 · Model**: how an encoder and two heads turn the image into class logits and embeddings.
