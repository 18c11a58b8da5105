# %% [markdown]
# # 1 · Config: what each setting changes
#
# This notebook changes the settings of a model that finds and numbers the lanes of a road, one at a
# time, and shows the effect.

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
from roadtopo_lib.course.strip import shipped_segmenter, strip

PHOTO = None  # the path of a photograph of your own road
strip(1, photo=PHOTO)

# %% [markdown]
# From left to right: the image; a class for each pixel; an embedding, a list of numbers, for each
# lane pixel (three directions drawn as red, green, blue); clusters of similar embeddings; numbered
# lanes. A cluster has the colour of its lane. The grey one became no lane: the network is
# sure of too few of its pixels (notebook 6). Boxes 3 and 4 leave out the
# crosswalk, C1: its pixels are clustered in the same way, apart from those of lanes.
#
# **You will be able to** say what goes in and out of each box, say what the settings change, start
# from a preset, store a run's settings as YAML, and read a message that refuses a wrong value.
#
# **You need** Python and some PyTorch. Nothing about lanes.
#
# **Time** to run: about a minute on two CPU cores. To work through: forty minutes.
#
# **How the course works.** All seven notebooks use this image, *the frame*. Write the path of a
# photograph into `PHOTO` once, and every notebook shows it beside the frame.
#
# **Stored pages**, as on GitHub, keep outputs of predictions empty on purpose until you run them.
#
# From notebook 2 on, the last exercise is a part of a lane detector of your own: `keep` stores it,
# and notebook 7 assembles the parts on top of the shipped model's encoder. `progress()` prints how
# many exercises you have solved and how many parts you have kept.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/01_config.ipynb`, write the same address into `REPOSITORY`
# in the first code cell, and run that cell again.
# **On your machine:** `make lab`.

# %% tags=["folded"]
# @title Imports
import math
import tempfile
from dataclasses import FrozenInstanceError, asdict, fields

import cv2
import numpy as np
import torch
import yaml

from roadtopo_lib.config import LaneSegmentationConfig, check_margins_on_sphere, load_config
from roadtopo_lib.course import frame, progress, reveal, schematics, show
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.lessons.config import (
    SETTINGS,
    compare,
    seen_in_training,
    settings_table,
    trained_further,
    try_values,
    try_wide_radius,
    two_lanes,
)
from roadtopo_lib.course.strip import boxes_of
from roadtopo_lib.labels import CLASSES
from roadtopo_lib.models import build
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess.clustering import radius_from_margins
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler

# %% [markdown]
# ## The five boxes
#
# A car's front camera sees a road. We want every *[lane](GLOSSARY.md#lane)* and every
# [crosswalk](GLOSSARY.md#crosswalk) as a thing of its own, the lanes numbered from left to right.
# As in lane benchmarks, a lane is one painted line or kerb. It lies between or beside
# *[driving lanes](GLOSSARY.md#driving-lane)*, the strips of road that one drives in.

# %%
show(schematics.boxes(), schematics.ALT["boxes"])

# %% [markdown]
# A network computes the second and the third box. They answer two questions about each pixel:
#
# * **Which class?** [Semantic segmentation](GLOSSARY.md#semantic-segmentation) chooses one of six.
# * **Which [instance](GLOSSARY.md#instance)?** The third lane from the left, say. The network
#   answers with an [embedding](GLOSSARY.md#embedding): numbers that are alike within one lane.
#
# [Post-processing](GLOSSARY.md#post-processing) computes the last two boxes.
# [Clustering](GLOSSARY.md#clustering) groups the embeddings, and a curve is fitted to each group.

# %% [markdown]
# The network is [SegFormer](GLOSSARY.md#segformer) (Xie et al. 2021). It has two kinds of parts:
#
# * An [encoder](GLOSSARY.md#encoder) turns the image into four
#   [feature maps](GLOSSARY.md#feature-map). A map is a grid, coarser than the image, with many
#   numbers, its [channels](GLOSSARY.md#channel), at each position. All channels of one position are
#   a [token](GLOSSARY.md#token).
# * Two [heads](GLOSSARY.md#head) read the maps. One gives [logits](GLOSSARY.md#logits), a score for
#   each class. The other gives embeddings.

# %%
model = shipped_segmenter().model.eval()
with torch.no_grad():
    images = torch.rand(1, 3, 96, 256)  # (B, 3, H, W)
    maps, outputs = model.encode(images), model(images)
print([tuple(x.shape) for x in maps])
print({name: tuple(x.shape) for name, x in outputs.items()})

# %% [markdown]
# The maps have 1/4, 1/8, 1/16 and 1/32 of the image's height and width. The outputs are as large as
# the image again: 6 logits and 32 embedding numbers for each pixel.
#
# One table names the classes. Its last column says which are separated into instances:

# %%
for c in CLASSES:
    print(c.id, f"{c.name:14s}", c.instances or "")

# %% [markdown]
# `lane_marking` (orange in the strip) is paint between two driving lanes. `lane_boundary` (sky
# blue) is the edge of the carriageway. The truth is stored as a [mask](GLOSSARY.md#mask): a whole
# number for each pixel.
#
# > **Predict first.** Which share of the frame's pixels belongs to a lane, in percent? Write your
# > guess in place of `None` and run the cell. Then run the folded cell below it.

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
image, semantic_mask, instance_mask = frame()
lane_share = 100 * float(np.isin(semantic_mask, CLASSES.lane_ids).mean())
reveal(my_guess, lane_share, "% of the pixels")

# %% [markdown]
# <details><summary>What happened</summary>
#
# About 5.5 % of the pixels belong to a lane. A model that never finds a lane can therefore reach a
# high [pixel accuracy](GLOSSARY.md#pixel-accuracy), the share of pixels with the right class.
# Notebook 4 answers with losses that give small classes more weight.
#
# </details>

# %% [markdown]
# ## A config that checks itself
#
# A [config](GLOSSARY.md#config) holds all settings of a run. Many scripts keep it in a dictionary,
# which takes any key and any value. A wrong setting is then noticed hours later, or never. The
# library's config checks each value when it is made. It cannot be changed in the middle of a run;
# `replace` makes a changed copy, and checks the copy, too.
#
# You rarely fill in a config yourself. A [preset](GLOSSARY.md#preset) is a config whose settings fit
# together. The shipped model was trained with the preset `tiny`.

# %%
tiny = LaneSegmentationConfig.preset("tiny")
assert shipped_segmenter().config == tiny
print(tiny.backbone, tiny.image_size, tiny.epochs)

# %% [markdown]
# Each of these changes sets one value that cannot work. Every message names the setting, the value
# and what was expected.

# %%
nonsense = [{"lr": 0}, {"delta_var": 2.0}, {"epochs": 2.5}, {"reference_row": 450}]
refused = []
for change in nonsense:
    try:
        tiny.replace(**change)
    except ValueError as error:
        refused.append(change)
        print(error)
assert refused == nonsense

# %% [markdown]
# > **Predict first.** A camera gives images of 480 × 854. The config refuses
# > `image_size=(480, 854)`. Which is the next larger width that it accepts beside a height of 480?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess


def accepts(width):
    try:
        tiny.replace(image_size=(480, width))
    except ValueError:
        return False
    return True


width = next(width for width in range(854, 1025) if accepts(width))
reveal(my_guess, width, "pixels")

# %% [markdown]
# <details><summary>What happened</summary>
#
# 864 is 27 · 32, and 480 is 15 · 32. The encoder's last stage has one token for every 32 × 32
# pixels. The config insists on whole tokens, so that every map is exactly 1/4 … 1/32 of the image.
#
# </details>

# %% [markdown]
# ## Settings of the image
#
# `try_values(setting, values, boxes)` runs the shipped model with each value of one setting. It
# draws the boxes that change, a column for each value, and returns the results. We begin with the
# size to which the network scales the image:

# %%
sizes = [(32, 96), (96, 256), (384, 1024)]
title = "Of these sizes, only that of the training gives all four lanes"
results = try_values("image_size", sizes, ("classes",), title=title)
assert results[1]["lane_count"] == 4 > max(results[k]["lane_count"] for k in (0, 2))

# %% [markdown]
# At 32 × 96 a lane is less than half as wide, in pixels, as in [training](GLOSSARY.md#training). At
# 384 × 1024 it is four times as wide.
#
# `crop_top` cuts rows off above. The sky takes computing time and holds no lane. Pixels that are
# cut off get the class background.

# %%
title = "Cutting off too much loses lanes"
results = try_values("crop_top", [0.25, 0.7], ("classes",), title=title)
assert results[0]["lane_count"] == 4 > results[1]["lane_count"]

# %% [markdown]
# ## Settings of the classes
#
# `classes` takes a table of your own. Its column `instances` gives a class its role. Below,
# `lane_boundary` loses the role, or `crosswalk` becomes a lane.


# %%
def with_role(name, role):
    return [c | {"instances": role} if c["name"] == name else c for c in CLASSES.to_list()]


tables = [with_role("lane_boundary", None), with_role("crosswalk", "lane")]
captions = ["lane_boundary: no role", "crosswalk: a lane"]
results = try_values("classes", tables, ("lanes",), captions, title="Roles decide what is a lane")
assert results[0]["lane_count"] == 2 and results[0]["crosswalk_count"] == 1
assert results[1]["lane_count"] > 4 and results[1]["crosswalk_count"] == 0

# %% [markdown]
# The network is the same in both columns. Only the post-processing treats the classes differently.
#
# ## Settings of the embeddings
#
# Training lowers a [loss](GLOSSARY.md#loss), one number that says how wrong the outputs are. The
# loss of the embeddings (De Brabandere et al. 2017) has two terms:
#
# * The [pull term](GLOSSARY.md#pull-term) draws the pixels of a lane to their mean. It is zero once
#   all lie within `delta_var`, $\delta_\text{var}$, of it.
# * The [push term](GLOSSARY.md#push-term) drives the means of two lanes apart. It is zero once all
#   means lie at least 2 · `delta_dist`, $2\,\delta_\text{dist}$, apart.
#
# The two settings are called [margins](GLOSSARY.md#margin). The next drawing does not show the image.
# It shows the space of the embeddings: each point is the embedding of one pixel, and a distance says
# how different two embeddings are. Both terms are zero. The filled circles hold the embeddings of two
# lanes. A dashed circle is a ball around the embedding of one pixel:

# %%
figure = two_lanes(tiny.delta_var, tiny.delta_dist)
show(figure, "Two filled circles, two lanes. A dashed circle around a pixel holds one lane.")

# %% [markdown]
# Clustering needs the radius of such a ball. [Notebook 4](04_losses.ipynb) derives the rule:
#
# $$2\,\delta_\text{var} < \text{radius} < 2\,(\delta_\text{dist} - \delta_\text{var})$$
#
# The library takes $\delta_\text{dist}$, the middle.

# %%
delta_var, delta_dist = tiny.delta_var, tiny.delta_dist
lowest, highest = 2 * delta_var, 2 * (delta_dist - delta_var)
radius = radius_from_margins(delta_var, delta_dist)
assert lowest < radius < highest and radius == (lowest + highest) / 2
print(f"{lowest} < {radius} < {highest}")

# %% [markdown]
# The radius follows from `delta_dist`, so this setting changes the clusters of a trained model,
# too. With 0.6 the rule leaves no radius: none lies between 1.0 and 0.2. The config accepts 0.6 all
# the same, since it only asks that `delta_dist` exceeds `delta_var`. So check the rule yourself.
#
# Below, the four lanes survive the small radius, because this model brought their embeddings close
# together. Those of the crosswalk lie farther from their mean, so they become several clusters:

# %%
title = "Too small a radius splits the crosswalk"
results = try_values("delta_dist", [0.6, 1.5], ("lanes",), title=title)
assert results[0]["crosswalk_count"] > results[1]["crosswalk_count"] == 1

# %% [markdown]
# > **Predict first.** How many lanes does the model find with `delta_dist = 6`, a radius far above
# > the range?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
wide = try_wide_radius(6.0)
reveal(my_guess, wide["lane_count"], "lanes")

# %% [markdown]
# <details><summary>What happened</summary>
#
# The ball around the embedding of any lane pixel holds the embeddings of all lane pixels. All of them
# become one cluster.
#
# </details>
#
# `clustering` chooses the method. `fast` is the library's own, and looks at a sample of the pixels.
# `dbscan` is a textbook method. It looks at all pixels and is slow, so we give it a small image.
# The network's outputs are the same in both columns.
#
# The radius is the same, too, and safe by the rule. But the rule holds where both terms are zero. A
# trained model leaves stray pixels between two lanes, and `dbscan` joins lanes across such a bridge
# (notebook 6):

# %%
small = cv2.resize(image, (256, 128), interpolation=cv2.INTER_AREA)
title = "On this image DBSCAN joins lanes"
results = try_values("clustering", ["fast", "dbscan"], ("clusters",), image=small, title=title)
assert results[0]["lane_count"] == 4 > results[1]["lane_count"]

# %% [markdown]
# ### Margins on a sphere
#
# Some losses compare only the directions of embeddings. For them,
# `normalize_embeddings` divides each embedding by its length
# ([L2-normalises](GLOSSARY.md#l2-normalise) it). All embeddings then lie on a sphere of radius 1,
# whose diameter is 2. The smallest distance of $K$ means is at most $\sqrt{2K/(K-1)}$: 2.0 for two
# means, 1.51 for eight. With $\delta_\text{dist} = 1.5$ the push term asks for 3.0, so it can never
# become zero. The config refuses the two settings together:

# %%
try:
    tiny.replace(normalize_embeddings=True)
except ValueError as error:
    message = str(error)
assert "delta_dist <= 0.75" in message
print(message)

# %% [markdown]
# <details><summary>Where the root comes from</summary>
#
# The squared distances of all pairs of $K$ vectors $\mu_k$ of length 1 sum to
# $K^2 - |\sum_k \mu_k|^2$, so to $K^2$ at most. There are $K(K-1)/2$ pairs. The mean of the squared
# distances is therefore at most $2K/(K-1)$, and the smallest distance at most the root of that.
#
# </details>

# %% [markdown]
# ## A setting of the order
#
# `reference_row` is the image row, as a share of the height, at which lanes are numbered from left
# to right. The default is 0.9, near the car. The row 0.3 lies above the horizon, where the continued
# curves have crossed. Compare the numbers of the two columns:

# %%
title = "Above the horizon the order is reversed"
near, far = try_values("reference_row", [0.9, 0.3], ("lanes",), title=title)
assert near["lane_count"] == far["lane_count"] == 4
assert near["lane_centers"][0, 0] < near["lane_centers"][-1, 0]
assert far["lane_centers"][0, 0] > far["lane_centers"][-1, 0]

# %% [markdown]
# ## Settings that act in training
#
# All other settings act while a model is trained. Three settings of
# [augmentation](GLOSSARY.md#augmentation) vary the training images. `seen_in_training` draws the
# frame as the network would get it, once for each setting:

# %%
figure = seen_in_training({"flip_probability": 1, "crop_scale": 0.3, "color_jitter": 0.8})
show(figure, "The frame as training shows it: mirrored, cropped, recoloured.", photo=True)

# %% [markdown]
# `pretrained` says where the encoder starts. `tiny` starts from random weights. `compare` draws the
# boxes of several models, here before the first step and after the training:

# %%
torch.manual_seed(tiny.seed)
pair = {"before the first step": LaneSegmenter(build(tiny), tiny), "trained": shipped_segmenter()}
untrained, trained = compare(pair, ("classes",), "Random weights give arbitrary classes")
road = CLASSES.names.index("road")
hits = [np.mean(r["semantic_mask"][semantic_mask == road] == road) for r in (untrained, trained)]
assert hits[0] < 0.6 < hits[1]

# %% [markdown]
# The [optimiser](GLOSSARY.md#optimiser) turns [gradients](GLOSSARY.md#gradient), the directions in
# which the loss rises, into changes of the weights. The [learning
# rate](GLOSSARY.md#learning-rate), `lr`, is the size of these changes. `trained_further(steps, lr)`
# gives the shipped model after some more steps on the frame:

# %%
pair = {f"lr = {lr}": trained_further(3, lr) for lr in (0.003, 0.3)}
results = compare(pair, ("classes",), "Three steps at too high a rate destroy the model")
hits = [np.mean(r["semantic_mask"][semantic_mask == road] == road) for r in results]
assert hits[0] > 0.6 > hits[1]

# %% [markdown]
# The counts below the right picture are meaningless, like its classes.
#
# A [scheduler](GLOSSARY.md#scheduler) changes the rate from step to step.
# [Warm-up](GLOSSARY.md#warm-up) raises it in the first steps, then it falls to zero: exercise 1. A
# pretrained encoder gets a tenth of the rate, because it knows something already. Notebook 5
# explains the other settings of the training.

# %% [markdown]
# ## Presets
#
# `preset("tiny")` trains on a CPU in minutes. `preset("b0")` to `preset("b5")`
# [fine-tune](GLOSSARY.md#fine-tune) published weights, which means that they train them further.
# NVIDIA trained these weights on street scenes and allows research and evaluation only. The setting
# `backbone` ([backbone](GLOSSARY.md#backbone) is another word for encoder) chooses the size. These
# settings of
# `tiny` differ from `b5`:

# %%
b5 = LaneSegmentationConfig.preset("b5")
for name, value in asdict(tiny).items():
    if value != getattr(b5, name):
        print(f"{name:18s} tiny {value!s:12s} b5 {getattr(b5, name)}")

# %% [markdown]
# Random weights hold nothing to preserve, so encoder and heads of `tiny` learn at the same, high
# rate. A small image and few epochs (passes over the training images) save time on a CPU. So does the
# activation ReLU, a function between layers that takes less time than GELU. `muon_lr` belongs to a
# second optimiser, [Muon](GLOSSARY.md#muon) (notebook 5).
#
# > **Predict first.** `tiny` has 1.3 million parameters. How many million has `b5`?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
with torch.device("meta"):  # shapes, but no memory
    tiny_model, b5_model = (SegFormerModel(name, pretrained=False) for name in ("tiny", "b5"))
size, largest = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (tiny_model, b5_model))
reveal(my_guess, largest, "million parameters")

# %% [markdown]
# <details><summary>What happened</summary>
#
# `b5` has 88 million with our two heads, nearly 70 times as many as `tiny`. With one head it has
# 84.6 million, the number in notebook 3. The encoder holds more than nine tenths of them.
#
# </details>

# %% [markdown]
# ## Store it: YAML
#
# The trainer writes the settings of every run into its folder as YAML, a text format of names and
# values. Reading the file back gives the same config.

# %%
folder = tempfile.TemporaryDirectory()
path = f"{folder.name}/config.yaml"
tiny.to_yaml(path)
assert load_config(path) == load_config("tiny") == tiny  # a file, or a preset's name
print(open(path).read()[:100], "…")

# %% [markdown]
# ## Trap: a learning rate that is text
#
# **Broken.** Many training scripts read their settings like this:

# %% tags=["trap:broken"]
settings = yaml.safe_load("lr: 6e-5")
print(repr(settings["lr"] * 2))  # twice the learning rate?

# %% [markdown]
# <details><summary>Why</summary>
#
# YAML 1.1 reads `6.0e-5` as a number. Without the dot, `6e-5` is text, and PyYAML follows the
# standard. Multiplying text repeats it. Some optimisers then raise an error. Elsewhere the text
# ends up in a log, and looks right there.
#
# </details>
#
# **Fixed.** The config knows that `lr` is a number, and reads the text as one.

# %% tags=["trap:mended"]
with open(path, "w") as file:
    file.write("lr: 6e-5\n")
assert settings["lr"] * 2 == "6e-56e-5"  # the symptom
assert load_config(path).lr == 6e-5  # the fix
print(load_config(path).lr)

# %% [markdown]
# ## Trap: the typo that nobody notices
#
# **Broken.** Settings with defaults, read by `get`:

# %% tags=["trap:broken"]
settings = {"delta_vars": 0.2}  # one letter too many
delta_var = settings.get("delta_var", 0.5)
print("training with delta_var =", delta_var)

# %% [markdown]
# <details><summary>Why</summary>
#
# Nobody asks for the unknown key, so nobody learns of it. The run takes hours with a setting that
# you did not choose.
#
# </details>
#
# **Fixed.** An unknown key is an error, and the message lists the known ones.

# %% tags=["trap:mended"]
try:
    LaneSegmentationConfig.from_dict(settings)
    message = ""
except ValueError as error:
    message = str(error)
assert delta_var == 0.5  # the symptom: 0.2 was asked for
assert "delta_vars" in message  # the fix
print(message[:60], "…")

# %% [markdown]
# ## All settings
#
# For reference: every setting, its value in `tiny`, and what it is, under the notebook that teaches
# it. That notebook explains the terms that you do not know yet.

# %%
print(settings_table(tiny))
listed = [name for group in SETTINGS.values() for name in group]
assert sorted(listed) == sorted(field.name for field in fields(tiny))  # none is left out

# %% [markdown]
# ## Exercises
#
# Replace the `...`, run the cell, then the check below it. The hint says what is wrong, one thing
# at a time. An answer leaves its arguments as they are.
#
# ### 1. The schedule
#
# Write the learning rate of step `step` (0, 1, 2 …): `warmup` steps rise in equal steps, from
# `base / warmup` at step 0 to `base` at the last; then half a cosine falls from `base` at step
# `warmup` to 0 at step `total`. `warmup` may be 0.


# %% tags=["exercise:lr_at"]
def lr_at(step, total, warmup, base):
    return ...


# %% tags=["check:lr_at"]
check("lr_at", lr_at)

# %% [markdown] tags=["solution:lr_at"]
# <details><summary>Solution</summary>
#
# ```python
# def lr_at(step, total, warmup, base):
#     if step < warmup:
#         return base * (step + 1) / warmup
#     progress = (step - warmup) / (total - warmup)
#     return base * 0.5 * (1 + math.cos(math.pi * progress))
# ```
# </details>

# %% [markdown]
# ### 2. A reader that refuses
#
# Write `read_settings(text, defaults)`: parse YAML text, return a dictionary of all defaults with
# the given values on top, and raise `ValueError` naming any key that `defaults` does not have.
# Empty text means "all defaults". Leave the dictionary `defaults` itself as it is: the next caller
# needs it, too.


# %% tags=["exercise:read_settings"]
def read_settings(text, defaults):
    return ...


# %% tags=["check:read_settings"]
check("read_settings", read_settings)

# %% [markdown] tags=["solution:read_settings"]
# <details><summary>Solution</summary>
#
# ```python
# def read_settings(text, defaults):
#     settings = yaml.safe_load(text) or {}
#     unknown = set(settings) - set(defaults)
#     if unknown:
#         raise ValueError(f"unknown settings: {sorted(unknown)}")
#     return {**defaults, **settings}
# ```
# </details>

# %% [markdown]
# ### 3. Tokens
#
# How many tokens does each of the encoder's four maps hold for an image of `height` × `width`? Both
# are multiples of 32. Return a list of four whole numbers, the largest map first. *The five boxes*
# says what you need.


# %% tags=["exercise:tokens_per_stage"]
def tokens_per_stage(height, width):
    return ...


# %% tags=["check:tokens_per_stage"]
check("tokens_per_stage", tokens_per_stage)

# %% [markdown] tags=["solution:tokens_per_stage"]
# <details><summary>Solution</summary>
#
# ```python
# def tokens_per_stage(height, width):
#     return [(height // stride) * (width // stride) for stride in (4, 8, 16, 32)]
# ```
# </details>

# %% [markdown]
# ## What we claimed
#
# The folded cells assert what the text states.

# %% tags=["folded"]
# @title Claims of this notebook, asserted: the predictions
assert 5.5 < lane_share < 5.6
assert width == 864 == 27 * 32 and not accepts(854) and 480 == 15 * 32
assert wide["lane_count"] == 1
assert round(size, 1) == 1.3 and round(largest) == 88 and 65 < largest / size < 70
narrow, trained_at, broad = (columns for _, columns in sizes)
assert tiny.image_size == (96, trained_at) and 2 * narrow < trained_at and broad == 4 * trained_at

# %% tags=["folded"]
# @title Claims of this notebook, asserted
assert len(CLASSES) == outputs["logits"].shape[1] == 6 and outputs["embeddings"].shape[1] == 32
assert outputs["logits"].shape[2:] == outputs["embeddings"].shape[2:] == (96, 256)
assert [96 // m.shape[2] for m in maps] == [256 // m.shape[3] for m in maps] == [4, 8, 16, 32]
assert np.array_equal(np.unique(instance_mask), range(6))  # four lanes, one crosswalk
clusters = boxes_of(image, shipped_segmenter())["clusters"]  # half the frame's size
grey = (clusters == 150).all(axis=2)
sure = shipped_segmenter().predict(image)["confidence"][::2, ::2][grey] >= 0.7
assert grey.any() and 4 * sure.sum() < 0.001 * image.shape[0] * image.shape[1]  # "too few"
colors = {c.name: c.color for c in CLASSES}
assert colors["lane_marking"][0] > colors["lane_marking"][2]  # orange
assert colors["lane_boundary"][2] > colors["lane_boundary"][0]  # sky blue
cut_off = shipped_segmenter().predict(image)["semantic_pred"][:128]  # a quarter of 512 rows
assert tiny.crop_top == 0.25 and (cut_off == CLASSES.names.index("background")).all()
try:
    tiny.lr = 5
except FrozenInstanceError:
    pass  # "cannot be changed"
else:
    raise AssertionError("a frozen config was changed")
assert tiny.replace(epochs=8).epochs == 8 and tiny.epochs == 4  # a copy

# %% tags=["folded"]
# @title Claims of this notebook, asserted
# The rule of the radius, on points as the margins leave them: the worst case in one dimension.
for margins in ((0.5, 1.5), (0.2, 0.7), (0.3, 2.0)):
    lane = margins[0] * np.array([-1, 0, 1])
    at = np.array([lane, 2 * margins[1] + lane])
    of_one = np.abs(at[:, :, None] - at[:, None, :]).max()
    of_two = np.abs(at[0][:, None] - at[1][None, :]).min()
    assert np.isclose(of_one, 2 * margins[0]) and np.isclose(of_two, 2 * (margins[1] - margins[0]))
    assert of_one < radius_from_margins(*margins) < of_two
assert 0.6 < lowest < highest < 6  # the two values that were tried lie outside


def distances(means):
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    return apart[np.triu_indices(len(means), 1)]


rng = np.random.default_rng(0)
for k in range(2, 11):
    reach = math.sqrt(2 * k / (k - 1))
    corners = np.eye(k) - 1 / k  # all equally far apart, seen from their centre
    random = rng.normal(size=(k, 3))
    corners, random = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (corners, random))
    assert np.allclose(distances(corners), reach) and distances(random).min() <= reach <= 2.0
    assert np.isclose((distances(random) ** 2).sum(), k**2 - (random.sum(axis=0) ** 2).sum())
    check_margins_on_sphere(reach / 2, k)  # the largest that fits passes without a word
    assert k != 8 or round(reach, 2) == 1.51

# %% tags=["folded"]
# @title Claims of this notebook, asserted
steps, rates = 200, []
optimizer = build_optimizer(model, b5)
scheduler = build_scheduler(optimizer, steps, b5.warmup_fraction)
for _ in range(steps + 1):
    rates.append([group["lr"] for group in optimizer.param_groups])
    optimizer.step()
    scheduler.step()
rates = np.array(rates)
assert [group["name"] for group in optimizer.param_groups] == ["encoder", "heads"]
assert np.allclose(rates[:, 0], 0.1 * rates[:, 1])  # a tenth for the encoder
top = int(rates[:, 1].argmax())
assert rates[top, 1] == b5.lr and 0 < rates[0, 1] < rates[top, 1]
assert (np.diff(rates[:top, 1]) > 0).all() and (np.diff(rates[top + 1 :, 1]) < 0).all()
assert rates[-1, 1] < 1e-12
in_encoder, in_head = (
    sum(p.numel() for p in part.parameters()) / 1e6
    for part in (b5_model.encoder, b5_model.embedding_head)
)
assert in_encoder > 0.9 * largest and round(largest - in_head, 1) == 84.6
assert tiny.encoder_lr_scale == 1 and tiny.lr > 10 * b5.lr and tiny.muon_lr > 0 == b5.muon_lr
folder.cleanup()
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Where the guide differs
#
# This course grew from the Road Topology ML guide, a Korean document; this list is for its
# readers. In bold stands what the guide states, in brackets where that is tested, and then what
# was measured.
#
# <details><summary>Three statements of the guide</summary>
#
# * **L2-normalised, and δ_dist = 1.5** ("Margins on a sphere"): Asked for 3.0 apart, at most 2.0
#   possible.
# * **radii of 0.3 and 0.5 for the clustering** ("Settings of the embeddings"): 1.0 < radius < 2.0
#   is safe.
# * **AdamW's `weight_decay` is L2 regularisation** (the folded cell below): In the first step,
#   without a gradient, AdamW takes the same share off each weight, Adam with L2 the same amount.
#
# </details>

# %% [markdown]
# [Weight decay](GLOSSARY.md#weight-decay) shrinks each weight by a share of itself.
# [L2 regularisation](GLOSSARY.md#l2-regularisation) adds a multiple of the weight to its gradient,
# which Adam then divides by its size ([notebook 5](05_training.ipynb) shows AdamW's formula).


# %% tags=["folded"]
# @title Measured: weight decay is not L2 regularisation
def after_one_step(optimizer_class):
    weights = torch.nn.Parameter(torch.tensor([10.0, 0.1]))
    weights.grad = torch.zeros(2)
    optimizer_class([weights], lr=0.05, weight_decay=0.01).step()
    return weights.tolist()


for name, optimizer_class in {"Adam, L2": torch.optim.Adam, "AdamW": torch.optim.AdamW}.items():
    print(f"{name:9s}", " ".join(f"{weight:.5f}" for weight in after_one_step(optimizer_class)))
assert np.allclose(after_one_step(torch.optim.Adam), [9.95, 0.05], atol=1e-4)
assert np.allclose(after_one_step(torch.optim.AdamW), np.array([10.0, 0.1]) * (1 - 1 / 2000))

# %% [markdown]
# ## Next
#
# **2 · Dataset** reads what lies on disk, and shows how masks go wrong without an error message.

# %%
strip(1, closing=True)
progress()
