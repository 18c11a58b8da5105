# %% [markdown]
# # 2 · Dataset: read labels without damaging them
#
# This notebook reads the frame and its labels from disk and transforms them together, so that the
# labels stay true.

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
from roadtopo_lib.course.strip import strip

PHOTO = None  # the path of a photograph of your own road
strip(2, photo=PHOTO)

# %% [markdown]
# The first box is the input, an image. To learn the other boxes, the model needs labels. This
# notebook is about both, and about six mistakes that raise no error where they are made.
#
# **You will be able to** build a data set folder of your own, read any mask without damaging its
# ids, [transform](GLOSSARY.md#transform) an image and its masks together, and check what no loader
# checks.
#
# **You need** notebook 1, and NumPy.
#
# **Time** to run: about half a minute on two CPU cores. To work through: a hundred minutes.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/02_dataset.ipynb`, write the same address into `REPOSITORY`
# in the first code cell, and run that cell again.
# **On your machine:** `make lab`.

# %% tags=["folded"]
# @title Imports
import math
import os
import tempfile

import cv2
import numpy as np
import torch
from PIL import Image

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no look-up of newer versions
import albumentations as A

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import frame, progress, render_frame, reveal, samples, schematics, show
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.lessons.dataset import (
    broken_folders,
    class_table,
    complaint,
    loading_times,
    refusal,
    share_bar,
    show_pixels,
    show_resized,
)
from roadtopo_lib.course.parts import keep
from roadtopo_lib.course.widgets import AugmentationInStep
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.data.images import read_instance_mask, rgb_to_instance_ids
from roadtopo_lib.data.samples import read_sample, sample_files, write_sample
from roadtopo_lib.data.sampling import EpochSampler, repeat_factors
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.labels import (
    CLASS_NAMES,
    CLASSES,
    CROSSWALK,
    CROSSWALK_CLASS_IDS,
    IGNORE_INDEX,
    LANE_BOUNDARY,
    LANE_CLASS_IDS,
    LANE_MARKING,
    NUM_CLASSES,
    ROAD,
    SIDEWALK,
    palette,
)
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.metrics import BoundaryIoU, ConfusionMatrix
from roadtopo_lib.scenes.annotate import label_width
from roadtopo_lib.viz import color_instances, color_semantic

folder = tempfile.TemporaryDirectory()  # all files that this notebook writes

# %% [markdown]
# ## The frame and its labels
#
# A labelled sample is three arrays of one height and width. The first is the image. The second, the
# [semantic mask](GLOSSARY.md#semantic-mask), holds a class id for each pixel. The third, the
# [instance mask](GLOSSARY.md#instance-mask), says *which* one: 0 is none, lanes are 1, 2 … from
# left to right, and crosswalks come after them.
#
# `frame()` returns the three arrays of the frame. `color_semantic` and `color_instances` turn ids
# into colours, and `show_pixels(pictures, title, alt, captions)` shows arrays pixel by pixel. The
# classes use two colours for the four lanes: orange for lines between driving lanes, sky blue for
# the edges of the carriageway. The instances use one colour for each lane, and one for the
# crosswalk.

# %%
image, semantic, instance = frame()
title, alt = "The frame: four lanes and one crosswalk", "A bend with parked cars and a crosswalk."
show_pixels([image[128:]], title, alt)  # without most of the sky
pictures = [color_semantic(semantic)[128::2, ::2], color_instances(instance)[128::2, ::2]]
title = "Two classes of lanes, four instances of lanes"
alt = "Two masks of the frame: left a colour a class, right a colour an id."
show_pixels(pictures, title, alt, ("classes", "instances"))

# %% [markdown]
# On disk a sample is one name in three folders. The name is the only thing that ties the three
# files together. (The drawing shows the frame's pictures; the names are those of the first training
# sample.)

# %%
show(schematics.sample_files(), schematics.ALT["sample_files"], colors=64)

# %% [markdown]
# A data set has three [splits](GLOSSARY.md#split). The model learns from `train`.
# [Validation](GLOSSARY.md#validation) scores it on `val`, again and again, and tells when to stop.
# `test` is kept for the score at the end.
#
# Split by drive, not by image. Neighbouring images of one drive are nearly alike. If one of them is
# in `train` and the next in `test`, the score says how well the model remembers, and no loader
# complains. Each of our samples is a road of its own, so here any split will do. They come in these
# three splits, and the frame is a split of its own:

# %%
for split in ("train", "val", "test", "frame"):
    dataset = LaneInstanceDataset(samples(), split)
    print(f"{split:6s}{len(dataset):3d} samples, the first is {dataset.image_paths[0].name}")

# %% [markdown]
# ### The classes
#
# The table comes from the library's `labels.py`. Come back to it whenever a colour in a picture of
# *classes* puzzles you. In a picture of *instances* a colour only says "not the same thing".

# %%
show(class_table(), "Ids 0 to 5 and 255: colour, name, and which have instances.", colors=20)

# %% [markdown]
# Three classes have instances: lane markings and lane boundaries are lanes, crosswalks are the
# other kind. Road, sidewalk and background have none.
#
# 255 marks an unlabelled pixel. The semantic loss and the scores of classes skip it; its instance
# id is 0. Background (0) is a class that the model predicts; 255 is not.

# %% [markdown]
# ### Paint, or whole lanes?
#
# Dashes have gaps, and vehicles hide paint. *Visible* labels mark the paint that shows.
# [Amodal](GLOSSARY.md#amodal) labels continue each lane through gaps and behind vehicles.
# `render_frame()` draws the frame again and returns both. Compare the lane behind the blue car, and
# the dashed one:

# %%
scene = render_frame()
masks = scene.instance_visible, scene.instance_amodal
pictures = [color_instances(mask)[230::2, ::2] for mask in masks]
title = "Amodal labels continue through gaps and behind the car"
show_pixels(pictures, title, "Left visible labels, right amodal ones.", ("visible", "amodal"))
assert (scene.instance_amodal == instance).all()  # the frame's file is amodal

# %% [markdown]
# TuSimple and CULane, public sets of labelled road images, label whole lanes, and so do our
# samples: lanes and crosswalks are amodal. (The grey road is not: it ends at a vehicle.) Never mix
# the two kinds in one training set: the same gap would be road in one image and lane in the next.
#
# *Who wins a pixel?* A mask holds one id a pixel. Where a crosswalk crosses a lane, the pixel
# belongs to the crosswalk, so three of the four lanes are interrupted there.
#
# *How wide is a label?* 1.8 % of the image width, the width at which CULane's score draws and
# compares lanes (notebook 7): 19 pixels in the frame, 9 in the samples. (Where the paint itself is
# wider, as that of the near double line, the label is as wide as the paint.) A label as thin as the
# paint would fall to pieces: 12 cm of paint at a distance of 80 m are 1.4 pixels in the frame, and
# a third of a pixel in the image that `tiny` sees. Lanes run together in the distance: a label ends
# where the next one is nearer than two label widths.

# %% [markdown]
# ## Three files, read by hand
#
# OpenCV reads the image. Its `imread` returns blue first, then green, then red. Forgetting the
# conversion raises no error; the model then sees swapped colours. `sample_files(folder, name)`
# gives the three paths of a sample.

# %%
files = sample_files(samples() / "frame", "frame", ".png")
bgr = cv2.imread(str(files[0]))  # (H, W, 3) uint8
rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
pictures = [picture[225:345, 290:470] for picture in (bgr, rgb)]
title, alt = "Without the conversion the car is brown", "The parked car in brown, and in blue."
show_pixels(pictures, title, alt, ("as read", "converted"))

# %% [markdown]
# A mask has a single channel. The semantic mask has 8 bits. Ours of instances have 16, enough for
# 65535 ids, and `IMREAD_UNCHANGED` keeps them. Look at the ids along one row, from left to right:

# %%
classes = cv2.imread(str(files[1]), cv2.IMREAD_UNCHANGED)
ids = cv2.imread(str(files[2]), cv2.IMREAD_UNCHANGED)
print("classes  ", classes.shape, classes.dtype, np.unique(classes))
print("instances", ids.shape, ids.dtype, np.unique(ids))
print("every 32nd id of row 300:", ids[300, ::32])

# %% [markdown]
# `read_sample` does the same three reads and checks what it finds.
#
# PyTorch needs tensors. The library's data set makes the image a float in [0, 1], channels first,
# and the masks `int64`, the type that PyTorch's losses and indexing need.

# %%
item = LaneInstanceDataset(samples(), "frame")[0]
for name in ("image", "semantic_mask", "instance_mask"):
    print(f"{name:14s} {tuple(item[name].shape)!s:16s} {item[name].dtype}")
own_image = torch.from_numpy(rgb.transpose(2, 0, 1).copy()).float() / 255  # (H, W, 3) → (3, H, W)
torch.testing.assert_close(item["image"], own_image)

# %% [markdown]
# Pretrained weights expect images whose colours were [normalised](GLOSSARY.md#normalised) as in
# their own training. The data set does *not* do that. The model does it itself (notebook 3), so
# the caller cannot forget it.

# %% [markdown]
# ## Three formats of instance masks
#
# Annotation tools write grey masks with 8 or 16 bits, or RGB masks with one colour for each
# instance. Here is one mask, small enough to read, in all three. The library's reader finds out
# which format a file has:

# %%
little = np.array([[0, 1, 0, 2, 0, 3], [1, 1, 0, 2, 0, 3]])
colors = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0]], dtype=np.uint8)
formats = {"grey8": np.uint8(little), "grey16": np.uint16(little), "rgb": colors[little]}
for name, array in formats.items():
    Image.fromarray(array).save(f"{folder.name}/{name}.png")
    found = read_instance_mask(f"{folder.name}/{name}.png")
    print(f"{name:7s} {found.dtype} {found.tolist()}")
    assert (found == little).all()

# %% [markdown]
# In an RGB mask black is 0, and the library numbers the other colours by (red, green, blue): blue
# becomes 1, red 3. Which number a lane gets does not matter to the loss that separates instances
# (notebook 4), as long as each lane has its own.

# %% [markdown]
# ## Trap: a colour mask used as it is
#
# `DiscriminativeLoss` is the loss that separates instances. It takes embeddings, a vector for each
# pixel, and the ids. **Broken.** The RGB mask goes in without conversion:

# %% tags=["trap:broken"]
embeddings = torch.randn(1, 4, 2, 6)  # (B, D, H, W)
mask = torch.from_numpy(cv2.imread(f"{folder.name}/rgb.png")).long()
print("shape", tuple(mask.shape), "ids", mask.unique().tolist())
try:
    DiscriminativeLoss()(embeddings, mask[None])
except ValueError as error:
    print("the loss says:", error)

# %% [markdown]
# <details><summary>Why</summary>
#
# `imread` returns three channels whatever the file holds. The file has three lanes, and the tensor
# only two values: 0 and 255. Making the tensor raises nothing; the error comes from the loss, far
# from its cause.
#
# </details>
#
# **Fixed.** Colours become ids when the file is read. The loss accepts them:

# %% tags=["trap:mended"]
fixed = torch.from_numpy(read_instance_mask(f"{folder.name}/rgb.png").astype(np.int64))
assert mask.shape == (2, 6, 3) and mask.unique().tolist() == [0, 255]  # the symptom
assert fixed.tolist() == little.tolist()  # the fix
loss, _ = DiscriminativeLoss()(embeddings, fixed[None])
assert loss.isfinite()
print("shape", tuple(fixed.shape), "ids", fixed.unique().tolist())

# %% [markdown]
# ## Trap: luminance is not an id
#
# A tool wrote the frame's five instances as colours: lane 1 red, lane 2 green, lane 3 blue, lane 4
# dark green, the crosswalk white. Somebody reads the file in grey, because a mask has one channel.
#
# > **Predict first.** Five instances are in the file. How many different ids are left after reading
# > it in grey?

# %%
my_guess = None

# %% [markdown]
# **Broken.** The frame's instances through a colour file and back:

# %% tags=["trap:broken"]
five = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 130, 0], [255, 255, 255]]
Image.fromarray(np.array(five, dtype=np.uint8)[instance]).save(f"{folder.name}/five.png")
grey = cv2.imread(f"{folder.name}/five.png", cv2.IMREAD_GRAYSCALE)

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
reveal(my_guess, len(np.unique(grey)) - 1, "ids besides 0")
for k, name in enumerate(("red", "green", "blue", "dark green", "white"), start=1):
    print(f"instance {k}, {name}: {np.unique(grey[instance == k])}")

# %% [markdown]
# <details><summary>Why</summary>
#
# Grey is the luminance, brightness as an eye weighs colours: 0.299 R + 0.587 G + 0.114 B. Pure red
# is 76, pure green 149 or 150 (OpenCV versions round differently), blue 29, and this dark green is
# 76, too. The shape is right, the type is right, and the left and the right edge of the road are
# one instance. Nothing complains.
#
# </details>
#
# **Fixed.** Read colours as colours. Each instance of the frame then has an id of its own:

# %% tags=["trap:mended"]
fixed = read_instance_mask(f"{folder.name}/five.png")
pairs = np.stack([instance, fixed], axis=2).reshape(-1, 2)  # (H·W, 2): true id, id read
pairs = np.unique(pairs, axis=0)  # each pair once
assert np.unique(grey[(instance == 1) | (instance == 4)]).tolist() == [76]  # the symptom
assert len(np.unique(grey)) == 5 and len(np.unique(instance)) == 6
assert pairs.tolist() == [[0, 0], [1, 4], [2, 3], [3, 1], [4, 2], [5, 5]]  # the fix
print("true id → id read:", {int(true): int(read) for true, read in pairs})

# %% [markdown]
# ## Trap: a palette index is not an id
#
# Many labelling tools write PNGs with a [palette](GLOSSARY.md#palette): each pixel holds an index,
# and a list in the file says which colour an index shows. Pillow calls this format mode "P". Two
# programs save the same four pixels: background, road, road, lane marking. The second lists its
# colours the other way round; on the screen the files look alike.
#
# **Broken.** The indices as they are, and the file read in grey:

# %% tags=["trap:broken", "nbval-ignore-output"]
four = np.array([[0, 1, 1, 2]])
for name, order in (("tool", np.arange(6)), ("editor", np.arange(6)[::-1])):
    picture = Image.fromarray(order[four].astype(np.uint8))
    picture.putpalette(palette()[order].tobytes())  # (6, 3): the colour of every index
    picture.save(f"{folder.name}/{name}.png")
    grey = cv2.imread(f"{folder.name}/{name}.png", cv2.IMREAD_GRAYSCALE)
    print(f"{name:7s} indices {np.asarray(picture)[0]}, read in grey {grey[0]}")

# %% [markdown]
# <details><summary>Why</summary>
#
# Read in grey, a palette mask gives [luminances](GLOSSARY.md#luminance), like any colour picture.
# Its indices may be class ids, as in the tool's file. But nothing in the format says so, and the
# editor's file shows it. So the library refuses mode "P".
#
# </details>
#
# **Fixed.** Use the colours: look each entry of the palette up in the class table, refuse a colour
# that is no class, and store plain class ids.


# %% tags=["trap:mended"]
def classes_of_palette(picture):
    table = {c.color: c.id for c in CLASSES}
    entries = np.reshape(picture.getpalette(), (-1, 3)).tolist()
    classes = np.array([table.get(tuple(entry), -1) for entry in entries])[np.asarray(picture)]
    if classes.min() < 0:
        raise ValueError("a colour that is no class")
    return classes


for name in ("tool", "editor"):
    picture = Image.open(f"{folder.name}/{name}.png")
    assert (np.asarray(picture) == four).all() == (name == "tool")  # right by luck only
    assert grey.max() > NUM_CLASSES  # luminances
    assert (classes_of_palette(picture) == four).all()  # the fix
    print(f"{name:7s} {classes_of_palette(picture)[0]}")

# %% [markdown]
# For an *instance* mask any numbers will do, so the indices can stay, if index 0 shows the
# background. Check that, and store them as grey.

# %% [markdown]
# ## Trap: sixteen bits in eight
#
# > **Predict first.** A 16-bit grey mask holds the id 300. Which number does `IMREAD_GRAYSCALE`
# > make of it?

# %%
my_guess = None

# %% [markdown]
# **Broken.** Six ids, written with 16 bits and read in grey:

# %% tags=["trap:broken"]
wide = np.array([[0, 1, 2, 255, 256, 300]], dtype=np.uint16)
cv2.imwrite(f"{folder.name}/wide.png", wide)
narrow = cv2.imread(f"{folder.name}/wide.png", cv2.IMREAD_GRAYSCALE)

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
reveal(my_guess, int(narrow[0, 5]))
print("written:", wide[0], "read:", narrow[0])
print("ids of the frame, read so:", np.unique(cv2.imread(str(files[2]), cv2.IMREAD_GRAYSCALE)))

# %% [markdown]
# <details><summary>Why</summary>
#
# OpenCV turns 16-bit grey into 8-bit grey by keeping the high byte: id // 256. Every id below 256
# becomes 0. A photograph survives that; an id does not. The frame loses all five instances.
# Training would run, and the instance loss would be exactly 0, which looks like success.
#
# </details>
#
# **Fixed.** The library's reader keeps all 16 bits. With OpenCV, read with `IMREAD_UNCHANGED` and
# look at the type.

# %% tags=["trap:mended"]
unchanged = cv2.imread(f"{folder.name}/wide.png", cv2.IMREAD_UNCHANGED)
assert (narrow == wide // 256).all()  # the symptom
assert cv2.imread(str(files[2]), cv2.IMREAD_GRAYSCALE).max() == 0
assert (unchanged == wide).all() and unchanged.dtype == np.uint16  # the fix
assert (read_instance_mask(f"{folder.name}/wide.png") == wide).all()
print(unchanged[0], unchanged.dtype)

# %% [markdown]
# ## Transforms of image and masks together
#
# Data augmentation shows the model variants of each scene: cropped and resized, mirrored, in other
# colours. What moves pixels must move all three arrays alike. What changes colours must leave the
# masks alone.

# %%
show(schematics.flip_together(), schematics.ALT["flip_together"], colors=64)

# %% [markdown]
# `build_transform` makes such a transform from the config. An [epoch](GLOSSARY.md#epoch) is one
# pass over the training images, and each epoch draws anew. The pictures show the frame in three
# epochs. Follow one lane down a column, through image, classes and instances:

# %%
config = LaneSegmentationConfig(image_size=(96, 192), crop_scale=0.5, color_jitter=0.4)
augmented = LaneInstanceDataset(samples(), "frame", build_transform(config, train=True), seed=0)
items = []
for epoch in range(3):
    augmented.set_epoch(epoch)
    items.append(augmented[0])
pictures = [(255 * item["image"]).byte().permute(1, 2, 0).numpy() for item in items]  # (H, W, 3)
title, alt = "Images: other crops, other colours", "The frame in three epochs: crops, colours."
show_pixels(pictures, title, alt, ("epoch 0", "epoch 1", "epoch 2"))
for name, color in (("semantic_mask", color_semantic), ("instance_mask", color_instances)):
    pictures = [color(item[name].numpy()) for item in items]
    show_pixels(pictures, f"{name}: the same crops", f"The {name} of the same three epochs.")

# %% [markdown]
# ### Move them yourself
#
# `AugmentationInStep(index)` shows a training sample, here one with lanes and no crosswalk. In a
# running notebook its sliders crop, mirror and recolour the sample. Watch the sentence while you
# do. Then switch to separate draws: the masks take another crop, and may be mirrored. Guess before:
# how large is the share of the instance pixels that still fit the image?

# %%
AugmentationInStep(index=38)

# %% [markdown]
# <details><summary>What happens</summary>
#
# The share changes from draw to draw. Lanes are a few pixels wide and hardly ever overlap
# themselves. A wide crosswalk often does, and hides the mistake: try sample 45.
#
# </details>

# %% [markdown]
# ### Which random numbers?
#
# Three numbers decide every draw: the [seed](GLOSSARY.md#seed) of the run, the epoch, and the
# sample's index. So a sample looks the same whichever process loads it, after whichever other
# samples, and in a run that was interrupted.

# %% tags=["folded"]
# @title Checked: sample 7 in epoch 2, drawn by hand from these three numbers
raw = LaneInstanceDataset(samples(), "train")
moving = LaneInstanceDataset(samples(), "train", build_transform(config, train=True), seed=0)
moving.set_epoch(2)
moving[3], moving[1]  # other samples first: they must not matter
draw = np.random.SeedSequence((0, 2, 7)).generate_state(1)[0]  # seed, epoch, index
by_hand = moving.transform(*raw.read(7), int(draw))[0]
torch.testing.assert_close(moving[7]["image"], torch.from_numpy(by_hand).permute(2, 0, 1) / 255)
print("[OK] the same three numbers, the same sample")

# %% [markdown]
# ### A flip reverses the order
#
# *Albumentations* is the library of image transforms that we use. Its `Compose` makes one call of
# several transforms. In the frame the ids along row 300 rise from left to right. Here they are
# before and after mirroring:

# %%
mirror = A.Compose([A.HorizontalFlip(p=1.0)])
flipped = mirror(image=image, masks=[semantic, instance])["masks"][1]
for row in (instance[300], flipped[300]):
    ids_of_row = row[row > 0]  # (n,) from left to right, with repetitions
    print("from left to right:", list(dict.fromkeys(ids_of_row.tolist())))  # each id once

# %% [markdown]
# The mask is still true, for each lane keeps its number. But never read an *order* from augmented
# ids.

# %% [markdown]
# ## Trap: a call for each mask
#
# Somebody makes one `Compose([HorizontalFlip()])` and calls it twice: once for each mask. The flip
# has its default probability of one half.
#
# > **Predict first.** In how many of 100 samples do the two masks disagree?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
flip = A.Compose([A.HorizontalFlip()], seed=0)
blank, arrow = np.zeros((1, 3, 3), np.uint8), np.array([[1, 2, 3]], dtype=np.uint8)
pairs = [[flip(image=blank, mask=arrow)["mask"][0, 0] for _ in range(2)] for _ in range(100)]
disagree = sum(first != second for first, second in pairs)
reveal(my_guess, disagree, "of 100")

# %% [markdown]
# <details><summary>What happened</summary>
#
# About half disagree. The two calls share one generator of random numbers, and the second call
# draws the next number. A test with `p=1.0` would never find it.
#
# </details>
#
# **Broken.** The same on the frame, with a seed at which only the first call mirrors. `agreement`
# returns the share of the lane pixels that have an instance id:


# %% tags=["trap:broken"]
def agreement(semantic, instance):
    return (instance > 0)[np.isin(semantic, LANE_CLASS_IDS)].mean()


flip = A.Compose([A.HorizontalFlip()], seed=1)
torn = [flip(image=image, mask=mask)["mask"] for mask in (semantic, instance)]
print(f"lane pixels with an id: {agreement(semantic, instance):.0%}; torn: {agreement(*torn):.0%}")
pictures = [color_semantic(torn[0])[230::2, ::2], color_instances(torn[1])[230::2, ::2]]
title = "The classes are mirrored, the instances are not"
show_pixels(pictures, title, "Two masks that contradict each other.", ("classes", "instances"))

# %% [markdown]
# <details><summary>Why</summary>
#
# One mask was mirrored, the other was not. Shapes, types and ids are all right, so nothing
# complains. But the two labels contradict each other.
#
# </details>
#
# **Fixed.** One call for everything. There are two ways: a list `masks=[…]`, and a second name in
# `additional_targets`.

# %% tags=["trap:mended"]
joint = A.Compose([A.HorizontalFlip()], seed=1, additional_targets={"mask2": "mask"})
kept = []
for _ in range(10):
    kept.append(agreement(*joint(image=image, masks=[semantic, instance])["masks"]))
    out = joint(image=image, mask=semantic, mask2=instance)
    kept.append(agreement(out["mask"], out["mask2"]))
assert (torn[0] == semantic[:, ::-1]).all() and (torn[1] == instance).all()  # the symptom
assert agreement(*torn) < 0.5 and min(kept) == 1.0  # … and the fix
print(f"lane pixels with an id, in the worst of 20 draws: {min(kept):.0%}")

# %% [markdown]
# ## Trap: a mask resized like a photograph
#
# Resizing needs [interpolation](GLOSSARY.md#interpolation): values for the pixels of the new size.
# [Bilinear](GLOSSARY.md#bilinear) interpolation takes the weighted mean of the four nearest old
# pixels. It suits photographs.
#
# Take a piece of the frame just above the crosswalk: the dashed lane on the left, the edge of the
# carriageway on the right. It holds road (1), lane marking (2) and lane boundary (5).

# %%
piece = semantic[312:354, 660:860]  # rows, columns
alt = "A piece of the frame's classes: road and two lanes."
show_pixels([color_semantic(piece)], "The piece holds three classes", alt, zoom=3)
print([CLASS_NAMES[i] for i in np.unique(piece)])

# %% [markdown]
# > **Predict first.** How many classes does the piece hold after a bilinear resize to half its
# > size?

# %%
my_guess = None

# %% [markdown]
# **Broken.** Most functions that resize are bilinear unless told otherwise:

# %% tags=["trap:broken"]
half = (piece.shape[1] // 2, piece.shape[0] // 2)  # OpenCV takes (width, height)
bilinear = cv2.resize(piece, half)

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
reveal(my_guess, len(np.unique(bilinear)), "classes")
show_resized(color_semantic(bilinear))

# %% [markdown]
# <details><summary>Why</summary>
#
# The mean of two class ids is a third class, and between 1 and 5 lie 2, 3 and 4. Look along the
# sky-blue lane boundary. Pale-yellow dots are crosswalk, rosy-grey ones sidewalk: classes that this
# piece does not have. Orange dots are false lane markings. These are worse: that class exists in
# the piece, so a list of the ids would not show the mistake.
#
# </details>
#
# With instance ids it is the same:

# %%
show(schematics.nearest_and_bilinear(), schematics.ALT["nearest_and_bilinear"], colors=16)

# %% [markdown]
# **Fixed.** The [nearest neighbour](GLOSSARY.md#nearest-neighbour) copies ids and never invents
# one. Albumentations uses it for masks by default, and `build_transform` sets it.

# %% tags=["trap:mended"]
nearest = cv2.resize(piece, half, interpolation=cv2.INTER_NEAREST)
assert LANE_MARKING in bilinear[:, 60:] and LANE_MARKING not in piece[:, 120:]  # the symptom
assert set(np.unique(nearest)) == set(np.unique(piece))  # the fix
arrays = (image[312:354, 660:860], piece, instance[312:354, 660:860])
for train in (True, False):
    transform = build_transform(config.replace(image_size=(32, 96)), train=train)
    for seed in range(5):
        _, resized, numbers = transform(*arrays, seed)
        assert np.isin(resized, piece).all() and np.isin(numbers, arrays[2]).all()
print("[OK] no id but those of the piece")

# %% [markdown]
# For the same reason masks are PNG, never JPEG: JPEG smooths, and smoothing invents ids.

# %% [markdown]
# ## Class imbalance
#
# Which share of the pixels does each class hold? Large differences are called
# [class imbalance](GLOSSARY.md#class-imbalance). We count over the training split. `share_bar`
# draws a bar from the six shares:

# %%
masks = [raw.read(i)[1] for i in range(len(raw))]
counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)[:NUM_CLASSES]  # no 255
shares = counts / counts.sum()
print({name: f"{share:.1%}" for name, share in zip(CLASS_NAMES, shares)})
show(share_bar(shares), "A bar in the classes' colours: background and road fill most.", colors=20)

# %% [markdown]
# Background and road hold 93 % of the pixels. Lanes, crosswalks and sidewalks share the rest. A
# class can be rare in a second way, too: few images show it.
#
# > **Predict first.** How many of the 48 training images show a crosswalk?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
images_with = np.array([sum(bool((mask == c).any()) for mask in masks) for c in range(NUM_CLASSES)])
reveal(my_guess, images_with[CROSSWALK], "of 48 images")
print({name: int(n) for name, n in zip(CLASS_NAMES, images_with)})

# %% [markdown]
# <details><summary>What it means</summary>
#
# 43 of the images show a lane marking, and 10 a crosswalk. Training takes images in batches: 38 %
# of random batches of four images contain no crosswalk.
#
# </details>
#
# The images of one training step are a [batch](GLOSSARY.md#batch). A [class
# weight](GLOSSARY.md#class-weight) (notebook 4) makes a class's pixels count more. In a batch
# without the class it has no effect. Drawing images with the class more often makes such batches
# rarer.

# %% [markdown]
# By [repeat-factor sampling](GLOSSARY.md#repeat-factor-sampling) (Gupta et al. 2019, made for LVIS,
# a data set with many rare classes) a class shown by a share $f$ of the images gets the factor
#
# $$\max\left(1, \sqrt{t / f}\right),$$
#
# and an image takes the largest factor of its classes. The setting `repeat_threshold` is $t$; the
# preset `tiny` takes 0.5.
#
# > **Predict first.** With $t = 0.5$, which factor does the crosswalk get?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
factor_of_class = np.maximum(1, np.sqrt(0.5 / (images_with / len(raw))))  # (6,)
reveal(my_guess, factor_of_class[CROSSWALK], "times")
factors = repeat_factors(raw, 0.5)  # one factor an image
shows_one = np.array([(mask == CROSSWALK).any() for mask in masks])

# %% [markdown]
# <details><summary>What it means</summary>
#
# $f$ is 10 / 48, so the factor is $\sqrt{0.5 / 0.21} = 1.55$.
#
# </details>
#
# Does it work? The sampler draws 100 epochs. The folded cell counts how often a drawn image shows a
# crosswalk. (It contains both answers, so its output is not stored either.)

# %%
sampler, drawn = EpochSampler(len(raw), repeats=factors), []
for epoch in range(100):
    sampler.epoch = epoch
    drawn += list(sampler)

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare the files with the draws
print(f"{shows_one.mean():.0%} of the files show one, {shows_one[drawn].mean():.0%} of those drawn")

# %% [markdown]
# <details><summary>What it shows</summary>
#
# 21 % of the files show a crosswalk, and 28 % of the images drawn.
#
# </details>
#
# An epoch is no longer than before, so images that show no rare class come less often. An image
# that is drawn twice in one epoch is augmented alike both times; the next epoch differs.

# %% [markdown]
# ## Your own data set
#
# The practical of this chapter: you label something, see it accepted, and then break it. Any
# labelling tool will do, as long as the files end up in the right place. We paint with OpenCV.
#
# **Your turn: paint.** `my_paint` draws into the image and both masks. As it stands it adds a white
# lane between the double yellow one and the dashed one. Change it, run the cell, and look.
#
# Two rules: the semantic mask gets the class, and the instance mask a number of its own. Lanes are
# numbered from left to right, then come crosswalks. So the new lane is 3, and those after it move
# up. The paint is 6 pixels wide, the label 19, as all labels of the frame are.


# %%
def my_paint(image, semantic, instance):
    instance[instance >= 3] += 1
    ends = (624, 412), (634, 511)  # (column, row)
    cv2.line(image, *ends, (230, 230, 230), 6)
    cv2.line(semantic, *ends, LANE_MARKING, 19)
    cv2.line(instance, *ends, 3, 19)


painted = [array.copy() for array in frame()]
my_paint(*painted)
near = slice(390, None), slice(380, 860)
alt = "The near part of the frame with one more lane."
show_pixels([painted[0][near]], "The image has one more lane", alt)
show_pixels([color_instances(painted[2])[near]], "The new lane has an id of its own", alt)

# %% [markdown]
# `write_sample` writes the three files, with the image as PNG or JPEG. `complaint(folder)` then
# reads every sample of the folder. It returns "fine", or when and why the library refused.

# %%
write_sample(f"{folder.name}/own/train", "image_000", *painted, suffix=".png")
accepted = complaint(f"{folder.name}/own")
print(accepted, "· ids", np.unique(LaneInstanceDataset(f"{folder.name}/own", "train").read(0)[2]))

# %% [markdown]
# > **Predict first.** You paint the lane into the image and the semantic mask, and forget the
# > instance mask. Does the library complain? Answer "yes" or "no".

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
forgetful = [array.copy() for array in frame()]
my_paint(*forgetful[:2], forgetful[2].copy())  # the copy is thrown away
on_writing, on_reading = (
    refusal(f"{folder.name}/forgetful", *forgetful),
    complaint(f"{folder.name}/forgetful"),
)
reveal(my_guess, "no" if on_writing == on_reading == "fine" else "yes")

# %% [markdown]
# <details><summary>What happened</summary>
#
# It does not complain: each file is right by itself. Of what must hold *between* files, the library
# checks the size, and that no id lies on two classes that have instances. Check the rest yourself.
#
# </details>
#
# Here is a check of your own. `contradictions` counts the pixels that have an id but no class for
# it, or such a class but no id:


# %%
def contradictions(semantic, instance):
    has_instances = np.isin(semantic, LANE_CLASS_IDS + CROSSWALK_CLASS_IDS)
    return int((has_instances != (instance > 0)).sum())


print(contradictions(*painted[1:]), "in the painted frame")
print(sum(contradictions(*raw.read(i)[1:]) for i in range(len(raw))), "in the 48 samples")
assert contradictions(*forgetful[1:]) > 0

# %% [markdown]
# **Your turn: break it.** `my_sabotage` gets the masks of the frame and returns spoilt ones. As it
# stands it paints class 7. `refusal` tries to write the sample and returns why the library refuses
# it, or "fine". Try others, one at a time:
#
# * colours: `return palette()[semantic], instance`; floats: `return semantic / 1.0, instance`;
# * half the size: `return semantic[::2, ::2], instance`;
# * a mask moved by ten columns: `return semantic, np.roll(instance, 10, axis=1)`;
# * two lanes as one: `return semantic, np.where(instance == 3, 2, instance)`.
#
# Which are refused, and which pass? Of those that pass, which does `contradictions` find?


# %%
def my_sabotage(semantic, instance):
    semantic[400, 500] = 7
    return semantic, instance


spoilt = my_sabotage(semantic.copy(), instance.copy())
print(refusal(f"{folder.name}/own", image, *spoilt))

# %% [markdown]
# <details><summary>What passes</summary>
#
# The moved mask is refused on this frame only because the id of the crosswalk then lies on lanes.
# Without a crosswalk it passes, and `contradictions` finds it. Two lanes as one pass both checks;
# only a picture shows them.
#
# </details>
#
# Always look at your labels before you train.

# %% [markdown]
# ### A gallery of broken data sets
#
# `data_samples/broken` holds fourteen more, each broken in another way. The library refuses each,
# and names the file and what is wrong. `broken_folders` returns these messages by the folder's
# name. The files' names are checked when the data set opens, their content when a sample is read.
# So load every sample once before you start a long run.

# %%
gallery = broken_folders()
for name, words in gallery.items():
    print(f"{name}\n    {words}")

# %% [markdown]
# ## Batches, and where the time goes
#
# `build_loader` stacks samples to batches. Training shuffles; the order depends on the seed and the
# epoch only. So epoch 0 below looks the same twice.

# %%
sampler = EpochSampler(8, seed=0)
for epoch in (0, 1, 0):
    sampler.epoch = epoch
    print("epoch", epoch, list(sampler))

# %% [markdown]
# A [worker](GLOSSARY.md#worker) is a process that loads samples beside the training. It must not
# change them, so the cell compares its first batch with one that was loaded without a worker.
# (Starting a worker takes a few seconds: it imports PyTorch.)

# %%
tiny = LaneSegmentationConfig.preset("tiny")
small = LaneInstanceDataset(samples(), "train", build_transform(tiny, train=True))
batch, by_worker = (
    next(iter(build_loader(small, tiny.replace(num_workers=n), shuffle=True))) for n in (0, 1)
)
for name in ("image", "semantic_mask", "instance_mask"):
    torch.testing.assert_close(by_worker[name], batch[name], atol=0, rtol=0)
    print(name, tuple(batch[name].shape))

# %% [markdown]
# A fast model waits for a slow loader. `loading_times` measures the parts of one sample: decoding
# the image (JPEG), decoding two masks (PNG), transforming to a small and to a large size. *Colour
# jitter* changes brightness, contrast and colours.

# %% tags=["folded", "nbval-ignore-output"]
# @title Measured: milliseconds for each part of a sample
times = loading_times(raw, LaneSegmentationConfig.preset("b0"))
for step, milliseconds in times.items():
    print(f"{step:32s}{milliseconds:6.1f} ms")
assert max(times.values()) == times["transform to 512 × 1024"]
assert times["the same without colour jitter"] < times["transform to 512 × 1024"]
assert times["transform to 96 × 256"] < times["decode the image"] + times["decode both masks"]

# %% [markdown]
# At the small size decoding dominates. At 512 × 1024 the transform does, and colour jitter over
# half a million pixels is a good part of it. If the GPU waits, raise `num_workers`: the samples
# stay the same.

# %% [markdown]
# ## Exercises
#
# Replace the `...`, run the cell, then the check below it. The hint says what is wrong, one thing
# at a time. An answer leaves its arguments as they are.
#
# ### 1. Colours to classes
#
# Some data sets give the classes as colours, too, in RGB masks without a palette. `rgb` is an (H,
# W, 3) `uint8` array, `table` a dictionary from (red, green, blue) to class ids. Return the (H, W)
# mask of class ids as `uint8`.
#
# Colours may share a luminance or a sum, and the table may hold colours that the mask does not. A
# colour that is not in the table must not become a class, nor 255: raise `ValueError` with the
# colour's three numbers in the message.


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
#
# </details>

# %% [markdown]
# ### 2. Flip in step
#
# Mirror the image (H, W, 3) and both masks (H, W) from left to right with probability `p`, all
# three or none. Draw with `rng.random()`, a NumPy generator's method: a number from 0 up to, but
# not including, 1. Flip if it lies below `p`, so that `p = 0` never flips, not even at a draw of
# exactly 0.
#
# Return three arrays of the same shapes and types. `torch.from_numpy` must take the results; it
# refuses negative strides, which a mirrored *view* has.


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
#
# </details>

# %% [markdown]
# ### 3. Resize a mask
#
# Return the mask at `height` × `width` by nearest neighbour. The new sizes may be any; each axis
# has its own ratio. Keep its type and invent no ids; 16-bit ids must survive. At twice the size
# every pixel becomes a block of 2 × 2; at half the size each comes from its own block of 2 × 2; at
# the same size nothing changes. NumPy indexing is enough.


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
# With OpenCV: `cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)`; the width comes
# first.
# </details>

# %% [markdown]
# ### 4. Shares that ignore what nobody labelled
#
# Return the share of each class, one number for every class, also for those that never appear.
# Count the pixels of all masks of the list together: a large mask weighs more than a small one.
#
# Pixels of 255 count nowhere: the shares of the labelled pixels sum to 1. Without any labelled
# pixel every share is 0, not 0 / 0.


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
#
# </details>

# %% [markdown]
# ### 5. A part of your detector: read a labelled sample
#
# The last exercise of each notebook from here to 7 is a part of a detector of your own: read, fuse,
# loss, training step, separate, score. `keep` tests a part and stores its source. Notebook 7
# assembles the six and trains them.

# %% [markdown]
# A kept part stands alone: `np`, `torch`, `F` (`torch.nn.functional`), `nn`, `math` and `cv2` are
# there; whatever else it needs is imported or defined inside the function.

# %% [markdown]
# Given three paths (`str`), return three NumPy arrays: the image (H, W, 3) as `uint8` RGB, the
# semantic mask (H, W) and the instance mask (H, W). Both masks keep the numbers of their files: 255
# in the semantic mask, and ids of 8 or of 16 bits in the instance mask. A missing file raises
# `FileNotFoundError`; `cv2.imread` only returns `None`.


# %% tags=["exercise:read_labelled"]
def read_labelled(image_path, semantic_path, instance_path):
    return ...


# %% tags=["check:read_labelled"]
keep(read_labelled)

# %% [markdown] tags=["solution:read_labelled"]
# <details><summary>Solution</summary>
#
# ```python
# def read_labelled(image_path, semantic_path, instance_path):
#     image = cv2.imread(image_path)  # (H, W, 3) uint8, blue first
#     semantic = cv2.imread(semantic_path, cv2.IMREAD_UNCHANGED)
#     instance = cv2.imread(instance_path, cv2.IMREAD_UNCHANGED)
#     if image is None or semantic is None or instance is None:
#         raise FileNotFoundError(f"{image_path}, or a mask of it, cannot be read")
#     return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), semantic, instance
# ```
#
# </details>

# %% [markdown]
# ## What we claimed
#
# What the text above states of measured numbers, asserted.

# %% tags=["folded"]
# @title Claims of this notebook, asserted: files, ids, transforms
assert np.unique(instance).tolist() == [0, 1, 2, 3, 4, 5]  # "four lanes and one crosswalk"
assert {int(semantic[instance == k][0]) for k in (1, 4)} == {LANE_BOUNDARY}  # the edges, sky blue
assert {int(semantic[instance == k][0]) for k in (2, 3)} == {LANE_MARKING}
assert (semantic[instance == 5] == CROSSWALK).all()
paint, lines = (np.isin(m, LANE_CLASS_IDS) for m in (scene.semantic_visible, scene.semantic_amodal))
assert (paint & ~lines).sum() == 0 and paint.sum() < 0.9 * lines.sum()
interrupted = []
for k in (1, 2, 3, 4):
    rows = np.flatnonzero((instance == k).any(axis=1))
    interrupted.append(len(rows) < rows[-1] - rows[0] + 1)
assert sum(interrupted) == 3  # "three of the four lanes"
assert (label_width(1024), label_width(512)) == (19, 9) and image.shape[1] == 1024
far_paint = 0.12 * scene.camera.focal / 80  # pixels
assert round(far_paint, 1) == 1.4 and round(3 * far_paint * 256 / 1024) == 1
for k in (1, 2, 3, 4):
    to_edge = cv2.distanceTransform(np.uint8(instance == k), cv2.DIST_L2, 5).max(axis=1)
    widths = 2 * to_edge[to_edge > 0] - 1  # of each row, across the lane
    assert (widths.max() > 40) if k == 2 else (18 < np.median(widths) < 22)  # 2: wide paint
for own, library in zip((rgb, classes, ids), read_sample(*files)):
    np.testing.assert_array_equal(own, library)  # "the same three reads"
assert (bgr[..., ::-1] == rgb).all() and (rgb == image).all()
renumbered = torch.from_numpy(np.array([0, 3, 2, 1])[little])[None]  # red 1, green 2, blue 3
numbered = torch.from_numpy(little)[None]
losses = [DiscriminativeLoss()(embeddings, these)[0] for these in (numbered, renumbered)]
torch.testing.assert_close(*losses)  # "which number a lane gets does not matter"
nothing = torch.zeros(1, 64, 128, dtype=torch.int64)
assert DiscriminativeLoss()(torch.randn(1, 4, 64, 128), nothing)[0] == 0  # "exactly 0"
assert list(dict.fromkeys(ids_of_row.tolist())) == [4, 3, 2, 1]
as_image = color_semantic(semantic)  # an image whose colours are the classes
for seed in range(8):
    moves, recolours = (build_transform(config.replace(color_jitter=j), True) for j in (0, 0.8))
    picture, moved, numbers = moves(as_image, semantic, instance, seed)
    assert contradictions(moved, numbers) == 0  # "must move all three arrays alike"
    assert (picture == color_semantic(moved)).all(axis=2).mean() > 0.9  # all but edges
    _, *same = recolours(as_image, semantic, instance, seed)
    assert (same[0] == moved).all() and (same[1] == numbers).all()  # "must leave the masks alone"
foreign = Image.fromarray(four.astype(np.uint8))
foreign.putpalette([1, 2, 3] * 256)
try:
    classes_of_palette(foreign)
except ValueError:
    pass  # "refuse a colour that is no class"
else:
    raise AssertionError("a colour that is no class was accepted")
assert len(np.unique(piece)) == 3
in_bilinear = {ROAD, LANE_MARKING, CROSSWALK, SIDEWALK, LANE_BOUNDARY}
assert set(np.unique(bilinear)) == in_bilinear
assert 30 < disagree < 70  # "about half", four standard deviations either way
cv2.imwrite(f"{folder.name}/mask.jpg", piece)
assert len(np.unique(cv2.imread(f"{folder.name}/mask.jpg", cv2.IMREAD_GRAYSCALE))) > 3
print("[OK] every claim on files, ids and transforms holds")

# %% tags=["folded"]
# @title Claims of this notebook, asserted: counts and folders
assert round(100 * (shares[0] + shares[ROAD])) == 93
assert (count_class_pixels(raw, NUM_CLASSES).pixels.numpy() == counts).all()
assert len(raw) == 48 and all((mask != IGNORE_INDEX).all() for mask in masks)
assert round(100 * math.comb(48 - 10, 4) / math.comb(48, 4)) == 38
assert images_with[CROSSWALK] == 10 and images_with[LANE_MARKING] == 43
np.testing.assert_allclose(factors[shows_one], factor_of_class[CROSSWALK])
assert len(drawn) == 100 * len(raw) and shows_one[drawn].mean() > 1.2 * shows_one.mean()
assert on_writing == on_reading == "fine"  # "It does not complain"
assert tiny.repeat_threshold == 0.5 and batch["image"].shape == (4, 3, 96, 256)
assert np.bincount(drawn, minlength=len(raw))[factors == 1].mean() < 100
assert "fine" not in gallery.values() and len(gallery) == 14
assert "none of them black" in gallery["rgb_instances_without_black"]
assert "found a palette" in gallery["palette_mask"]  # "the library refuses mode"
assert contradictions(semantic, instance) == 0
for score in (ConfusionMatrix(NUM_CLASSES), BoundaryIoU(NUM_CLASSES)):  # "skip it"
    score.update(
        np.full((4, 8), ROAD), np.where(np.arange(8) < 4, ROAD, IGNORE_INDEX) * np.ones((4, 1), int)
    )
    assert score.class_iou()[ROAD] == score.miou() == 1
own = f"{folder.name}/claims"
refused = {
    "colours for classes": (palette()[semantic], instance),
    "floats": (semantic / 1.0, instance),
    "half the size": (semantic[::2, ::2], instance),
    "moved": (semantic, np.roll(instance, 10, axis=1)),
    "one id on lane and crosswalk": (semantic, np.where(instance == 5, 4, instance)),
    "class 7": (np.where(instance == 1, 7, semantic), instance),
}
assert all(refusal(own, image, *masks_of) != "fine" for masks_of in refused.values())
merged = np.where(instance == 3, 2, instance)
assert refusal(own, image, semantic, merged) == "fine" and contradictions(semantic, merged) == 0
far = slice(None, 350)  # without the crosswalk
moved = np.roll(instance, 10, axis=1)[far]
assert not (semantic[far] == CROSSWALK).any()
assert refusal(own, image[far], semantic[far], moved) == "fine"
assert contradictions(semantic[far], moved) > 1000
print("[OK] every claim on counts and folders holds")

# %% [markdown]
# ## Where the guide differs
#
# This course grew from the Road Topology ML guide, a Korean document; this list is for its
# readers. In bold stands what the guide states, in brackets where that is tested, and then what
# was measured.
#
# <details><summary>The guide's statements on data, and what we measured</summary>
#
# * **`cv2.imread(path)` gives (H, W, 3) RGB** (Three files, read by hand): Blue comes first.
# * **In an RGB mask red is 1 and green is 2** (Three formats of instance masks): Any numbers do:
#   the loss is the same.
# * **An RGB mask read in grey gives `None`** (cell below; Trap: luminance is not an id): It gives
#   luminances in place of ids; `None` means "cannot be read".
# * **Instance masks are loaded in grey** (cell below): Right for 8-bit grey only. Of the 154
#   instances of our training split none is left.
# * **Colours are sorted and numbered from 0, so that black is 0** (cell below): Without a black
#   pixel the first colour becomes 0, and that instance vanishes.
#
# </details>

# %% tags=["folded"]
# @title Measured for the list: reading in grey
conversions, right = [], []
for name in ("grey8", "grey16", "rgb"):
    in_grey = cv2.imread(f"{folder.name}/{name}.png", cv2.IMREAD_GRAYSCALE)
    conversions += [name] if in_grey is None else []
    right += [name] if (in_grey == little).all() else []
unreadable = samples() / "broken/unreadable_image/train/images/scene.jpg"
assert conversions == [] and cv2.imread(str(unreadable), cv2.IMREAD_GRAYSCALE) is None
assert right == ["grey8"]
in_file = sum(int(read_instance_mask(path).max()) for path in raw.instance_paths)
grey_masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in raw.instance_paths]
assert in_file == 154 and max(int(mask.max()) for mask in grey_masks) == 0
print(f"read rightly in grey: {right}; instances left of {in_file}: 0")

# %% tags=["folded"]
# @title Measured for the list: colours numbered from 0


def ids_by_enumeration(rgb):
    _, index = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    return index.reshape(rgb.shape[:2])  # black sorts first, so it becomes 0


full = colors[np.array([[1, 1, 2, 2]])]  # a crop without background: blue, blue, green, green
print("with black:   ", ids_by_enumeration(colors[little]).tolist())
print("without black:", ids_by_enumeration(full).tolist())
assert (ids_by_enumeration(colors[little]) == little).all()
assert ids_by_enumeration(full).tolist() == [[0, 0, 1, 1]]
try:
    rgb_to_instance_ids(full)
except ValueError as error:
    print("the library:  ", error)
else:
    raise AssertionError("a mask without black was accepted")

# %% [markdown]
# ## Next
#
# **3 · Model**: how an encoder and two heads turn the image into class logits and embeddings.

# %%
folder.cleanup()
strip(2, closing=True, photo=PHOTO)
progress()
