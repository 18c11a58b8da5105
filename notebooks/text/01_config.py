# %% [markdown]
# # 1 · Config: every number that can be turned
#
# **You will be able to** say what each setting of the lane model moves, start from a preset, store a run's settings
# as YAML, and read an error message that refuses a nonsense value.
#
# **You need** Python and some PyTorch. Nothing about lanes.
#
# **Time** to run: under a minute on two CPU cores; about the same on a Colab T4 (estimated). To work through: an hour.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/01_config.ipynb`, and write the same address into `REPOSITORY` below.
# **On your machine:** `make lab`.

# %% tags=["set-up"]
# The same cell opens every notebook: it finds the library, or fetches it on Colab.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # where to clone from if there is no clone around this notebook

if importlib.util.find_spec("roadtopo_lib") is None:
    here = Path.cwd()
    root = next((p for p in (here, *here.parents) if (p / "roadtopo_lib" / "course").is_dir()), None)
    if root is None:
        root = here / "road-topology"
        if not root.is_dir():
            if not REPOSITORY:
                raise SystemExit("No clone found here: write your fork's address into REPOSITORY, then run again.")
            subprocess.run(["git", "clone", "-q", "--depth", "1", REPOSITORY, str(root)], check=True)
        # --no-deps: Colab's own torch, numpy and OpenCV stay as they are.
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", str(root)], check=True)
    sys.path.insert(0, str(root))

from roadtopo_lib.course import start

device = start(seed=0)

# %%
import math
import tempfile
import textwrap
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml

from roadtopo_lib.config import (
    CLASS_WEIGHT_METHODS,
    CLUSTERING_METHODS,
    LaneSegmentationConfig,
    check_margins_on_sphere,
    load_config,
)
from roadtopo_lib.course import reveal, samples
from roadtopo_lib.course.exercises import check
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import CLASSES
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler, orthogonalized
from roadtopo_lib.viz import color_instances, color_semantic

# %% [markdown]
# ## The task in one picture
#
# This course grew from the Road Topology ML guide, a Korean document; "the guide says" always means that one. "The
# paper" is De Brabandere et al. 2017, *Semantic Instance Segmentation with a Discriminative Loss Function*.

# %% [markdown]
# A car's front camera sees a road. We want every lane line (차선) and every crosswalk (횡단보도) as a thing of its
# own, the lines numbered from left to right. From here on *lane* is short for lane line, as lane benchmarks use the
# word; it is not the strip that one drives in. That takes two answers for each pixel:
#
# * **which class** is it? Semantic segmentation (의미론적 분할), six classes;
# * **which instance** (인스턴스) is it? The third line from the left, say, or the second crosswalk.

# %% [markdown]
# Here is one rendered scene of `data_samples`, with both answers. Each answer is a *mask* (마스크): an array of the
# image's height and width that holds a whole number for every pixel.

# %%
scenes = LaneInstanceDataset(samples(), "val")
image, semantic_mask, instance_mask = scenes.read(7)
print(image.shape, semantic_mask.shape, instance_mask.shape)
figure, axes = plt.subplots(1, 3, figsize=(12, 2.4))
axes[0].imshow(image)
axes[1].imshow(color_semantic(semantic_mask))
axes[2].imshow(color_instances(instance_mask))
for ax, title in zip(axes, ["What the camera sees", "Six classes", "One colour for each instance"]):
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Look at the van on the right: the lines run on behind it, as lane benchmarks label them. In the middle picture a line
# between two lanes is orange, `lane_marking`. The edge of the carriageway, a painted line or else the kerb, is green,
# `lane_boundary`. Grey is road, pink sidewalk, light blue crosswalk; all else, vehicles too, is black background. The
# right picture has colours of its own, one for each instance.

# %% [markdown]
# The class table stands in one file, `labels.py`. The rest of the library takes class ids from there, by name. You will
# see in notebook 6 what happens when a number is written instead.

# %%
for c in CLASSES:
    print(f"{c.id}  {c.name:14s} {'instances: ' + c.instances if c.instances else ''}")

# %% [markdown]
# > **Predict first.** Which share of this image's pixels belongs to a lane line? Write your guess, in percent, in
# > place of `None`, then run the cell.
#
# The notebooks are stored with their outputs. The output of such a cell stays folded until you run it. If your viewer
# shows it all the same, clear all outputs before you begin.

# %%
my_guess = None
lane_ids = [c.id for c in CLASSES if c.instances == "lane"]
lane_share = float(np.isin(semantic_mask, lane_ids).mean())
reveal(my_guess, 100 * lane_share, "% of the pixels")

# %% [markdown]
# So few. This number explains much of what follows: losses that weigh small classes up (notebook 4), and why a model
# that never finds a single lane can look good by *pixel accuracy*, the share of pixels with the right class.

# %% [markdown]
# ## The model in one look
#
# The settings below speak of the model's parts, so here they are, a sentence each. Notebook 3 builds them by hand.
#
# The network is *SegFormer* (Xie et al. 2021). Its *encoder* (인코더), or *backbone* (백본), describes the image by
# *feature maps* (특징 맵): coarse pictures with many channels (채널) in place of three colours.

# %% [markdown]
# Two small networks, the *heads* (헤드), read the feature maps, one for each answer:
#
# * The semantic head gives *logits* (로짓): for each pixel one score a class. The highest score wins.
# * The embedding head gives each pixel an *embedding* (임베딩): a list of numbers, read as a point in space. Pixels of
#   one lane shall lie close together there, pixels of two lanes far apart.
#
# The next cell sends one image of noise through the smallest model. Only the shapes matter:

# %%
model = SegFormerModel("tiny", pretrained=False).eval()
noise = torch.rand(1, 3, 96, 256)  # (B, 3, H, W): one image
with torch.no_grad():
    maps, outputs = model.encode(noise), model(noise)
for stage, features in enumerate(maps, start=1):
    print(f"feature map {stage}  {tuple(features.shape)}")
for name, value in outputs.items():
    print(f"{name:14s} {tuple(value.shape)}")

# %% [markdown]
# The encoder works in four stages; their maps have 1/4, 1/8, 1/16 and 1/32 of the image's height and width. One
# position of a map, all its channels, is a *token* (토큰): a vector that stands for a patch of the image.
#
# The outputs are as large as the image again: 6 logits and 32 embedding numbers for every pixel.

# %% [markdown]
# SegFormer was published in six sizes, `b0` (the smallest) to `b5`. We add `tiny`, for CPUs.
#
# Training (학습) lowers a *loss* (손실), one number that says how wrong the outputs are. The logits have one. The
# embeddings have another, with a *pull term* (분산항), which draws pixels to the mean of their lane, and a *push term*
# (거리항), which drives the means of two lanes apart.

# %% [markdown]
# ## The map of the course
#
# | notebook | the question that it answers |
# |---|---|
# | 1 config | Which numbers can be turned, and what do they move? |
# | 2 dataset | What lies on disk, and how does it go wrong quietly? |
# | 3 model | How do encoder and heads turn an image into logits and embeddings? |
# | 4 losses | What is the model asked to want? |
# | 5 training | What happens in one step, and why does a run fail? |
# | 6 postprocessing | How do embeddings become numbered lanes? |
# | 7 end to end | How well does it all work together, and where not? |

# %% [markdown]
# Every setting belongs to one of these notebooks; notebook 7 runs everything and adds none. Do not learn the names
# now: "What the numbers move", below, explains each in a line.

# %%
CHAPTERS = {
    "2 dataset": "image_size crop_top crop_scale flip_probability color_jitter repeat_threshold num_workers seed",
    "3 model": "model backbone pretrained num_classes classes embedding_dim normalize_embeddings activation",
    "4 losses": "semantic_weight instance_weight ce_weight dice_weight class_weights ignore_index "
    "delta_var delta_dist alpha beta gamma max_instances",
    "5 training": "lr encoder_lr_scale muon_lr betas weight_decay warmup_fraction epochs batch_size accumulation_steps "
    "max_grad_norm patience amp",
    "6 postprocessing": "clustering reference_row",
}
for chapter, names in CHAPTERS.items():
    print(textwrap.fill(f"{chapter}: {names}", 100, subsequent_indent="    "))

# %% [markdown]
# ## A config that checks itself
#
# A *config* (설정) is the collection of all settings of a run. Many scripts keep it in a dictionary, which takes any
# key and any value. That is the trouble: a wrong setting is noticed hours later, or never.
#
# A small class can do better. First the idea in a few lines:


# %%
@dataclass(frozen=True)
class ToyConfig:
    lr: float = 1e-3
    epochs: int = 4

    def __post_init__(self):
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}, expected more than 0")


toy = ToyConfig(epochs=10)
toy

# %% [markdown]
# Two things make it safe. It refuses nonsense at the moment when it is made …

# %%
try:
    ToyConfig(lr=-1.0)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# … and it is *frozen*: nobody changes it half-way through a run. A changed copy is made with `replace`, and the copy
# is checked again.

# %%
try:
    toy.lr = 5.0
except FrozenInstanceError as error:
    print("refused:", error)
faster = replace(toy, lr=5e-3)
print(toy.lr, "stays;", faster.lr, "in the copy")

# %% [markdown]
# The library's config is the same idea, with more fields. Its `replace` is a method. Its defaults are
# for the largest model, `b5`.

# %%
big = LaneSegmentationConfig()
assert big.replace(lr=1e-4).lr == 1e-4
assert big.lr == 6e-5  # untouched
print(big.backbone, big.lr, big.delta_var, big.delta_dist)

# %% [markdown]
# ## What the numbers move
#
# This section also serves as reference. Each part opens with its settings, a line each; below the cell stand the
# defaults. A check at the end proves that none was left out.


# %%
moves = {}  # setting → what it moves
config = LaneSegmentationConfig()


def show_defaults(settings):
    moves.update(settings)
    values = [f"{name}={getattr(config, name)}" for name in settings]
    print(textwrap.fill(" · ".join(values), 100))


# %% [markdown]
# ### The data (notebook 2)
#
# What the network gets to see, and how often it looks different:

# %%
show_defaults(
    {
        "image_size": "height and width that the network sees: larger keeps thin lines, and costs time and memory",
        "crop_top": "share of the height that is cut off above: sky costs as much time as road",
        "crop_scale": "smallest share of the area that a random crop keeps: smaller gives more variety; 1 keeps all",
        "flip_probability": "how often an image is mirrored: left bends become right bends",
        "color_jitter": "how far brightness, contrast and colours vary: the weather must not matter",
        "repeat_threshold": "images with a class rarer than this share are drawn more often; 0 draws all alike",
        "num_workers": "processes that load images beside the training: raise it when the GPU waits",
        "seed": "all random draws follow from it: change it to see how much of a result is luck",
    }
)

# %% [markdown]
# ### The model (notebook 3)
#
# Which network, and where it starts:

# %%
show_defaults(
    {
        "model": "which kind of network: SegFormer, or one that you add",
        "backbone": "size of the encoder: a larger one can learn more, and costs time and memory",
        "pretrained": "where the encoder starts: published weights (True), a folder's, or random ones (False)",
        "num_classes": "logits for each pixel, one a class",
        "classes": "your own class table, with names, colours and which are lanes; None: the six of this course",
        "embedding_dim": "numbers in each pixel's embedding: more room to keep lanes apart, more memory",
        "normalize_embeddings": "scales every embedding to length 1: the margins must then fit, see below",
        "activation": "the bend between the encoder's layers: GELU as published, or ReLU, which is cheaper on a CPU",
    }
)

# %% [markdown]
# One of them has a price that is easy to work out: `embedding_dim`.
#
# > **Predict first.** One batch (배치) of 4 images at 512 × 1024, 32 float32 numbers for every pixel. How many
# > megabytes?

# %%
my_guess = None
height, width = big.image_size
full_size = big.batch_size * big.embedding_dim * height * width * 4  # float32: 4 bytes
reveal(my_guess, full_size / 1e6, "MB")

# %% [markdown]
# And that is one tensor; its *gradient* (그래디언트) takes as much again.
#
# The heads work at a quarter of the height and width, and the loss reads embeddings at labelled pixels only
# (notebook 4). So the trainer never builds this tensor.

# %%
quarter_size = full_size / 16
print(f"{full_size / 1e6:.0f} MB at full size, {quarter_size / 1e6:.0f} MB as the head gives it")

# %% [markdown]
# ### The losses: weights (notebook 4)
#
# The total loss is a weighted sum of the semantic loss and the instance loss. The semantic loss is itself a sum of two:
# *cross-entropy* (교차 엔트로피), which judges every pixel by itself, and *Dice*, which judges the overlap of a whole
# class, so that a small class counts like a large one.

# %%
show_defaults(
    {
        "semantic_weight": "how much the loss of the classes counts in the total",
        "instance_weight": "how much the loss of the embeddings counts in the total",
        "ce_weight": "how much cross-entropy counts in the semantic loss",
        "dice_weight": "how much Dice counts in the semantic loss: more of it favours small classes",
        "class_weights": "weighs rare classes up, by one of four formulas; None treats all alike",
        "ignore_index": "the semantic id of pixels that nobody labelled: semantic loss and class scores skip it",
    }
)

# %% [markdown]
# A weight says how much one unit of its loss matters. By hand:

# %%
semantic_loss, instance_loss = torch.tensor(0.9), torch.tensor(0.4)
total = config.semantic_weight * semantic_loss + config.instance_weight * instance_loss
print(f"{config.semantic_weight} · 0.9 + {config.instance_weight} · 0.4 = {total:.2f}")

# %% [markdown]
# ### The losses: margins (notebook 4)
#
# The pull and the push term of the embeddings' loss each have a *margin* (마진): once it is kept, the term is
# satisfied, and pushes or pulls no more.

# %%
show_defaults(
    {
        "delta_var": "pull margin δ_var: a pixel this near to the mean of its lane is left in peace",
        "delta_dist": "push margin δ_dist: two means repel each other until they are 2 · δ_dist apart",
        "alpha": "weight of the pull term",
        "beta": "weight of the push term",
        "gamma": "weight of a third term, which keeps all means near the origin",
        "max_instances": "lanes and crosswalks expected in an image: decides which margins fit on a sphere",
    }
)

# %% [markdown]
# Say both margins are kept: pixels lie within δ_var of the mean of their lane, and means are 2 · δ_dist apart. Then two
# pixels of one lane are at most 2 · δ_var apart. Pixels of different lanes are at least 2 · δ_dist − 2 · δ_var apart.

# %% [markdown]
# So take a ball around any pixel, with a radius between these two numbers. It holds the pixel's whole lane and no pixel
# of another. This is how lanes are told apart in the end. The library's radius is δ_dist, the middle. In the figure,
# follow the dashed balls around the two pixels that are nearest to each other.

# %%
lowest, highest = 2 * config.delta_var, 2 * config.delta_dist - 2 * config.delta_var
print(f"safe radii: {lowest} to {highest}; δ_dist = {config.delta_dist} is the middle")
assert config.delta_dist == (lowest + highest) / 2
figure, ax = plt.subplots(figsize=(7, 2.8))
for x, color, name in [(0, "#4477AA", "lane A"), (2 * config.delta_dist, "#EE6677", "lane B")]:
    ax.add_patch(plt.Circle((x, 0), config.delta_var, color=color, alpha=0.5))
    pixel = x + (config.delta_var if x == 0 else -config.delta_var)
    ax.add_patch(plt.Circle((pixel, 0), config.delta_dist, fill=False, linestyle="--", color=color))
    ax.plot(pixel, 0, "o", color=color, markersize=5)
    ax.annotate(name, (x, 0), ha="center", va="center")
ax.set(xlim=(-1.8, 4.8), ylim=(-1.7, 1.7), aspect="equal", xlabel="embedding dimension 1", ylabel="dimension 2")
ax.set_title("A dashed ball of δ_dist around a pixel holds its own lane (filled) only")
plt.show()

# %% [markdown]
# ### The guide says / we measured: margins on the sphere
#
# The guide L2-normalises (L2 정규화) the embeddings: it divides each by its length, so that all lie on a sphere of
# radius 1. And it asks for δ_dist = 1.5. Then two means should be 3.0 apart, on a sphere whose diameter is 2.

# %% [markdown]
# For K means the best arrangement is the regular simplex: all of them √(2K/(K−1)) apart. (It needs K − 1 dimensions; we
# have 32.)


# %%
def reach(k):
    return math.sqrt(2 * k / (k - 1))


ks = np.arange(2, 11)
figure, ax = plt.subplots(figsize=(7, 2.8))
ax.plot(ks, [reach(k) for k in ks], marker="o", label="farthest K unit vectors can be apart")
ax.axhline(2 * config.delta_dist, color="#EE6677", linestyle="--", label="asked for: 2 · δ_dist = 3.0")
ax.set(title="The asked distance is out of reach for every K", xlabel="lanes K", ylabel="distance", ylim=(1, 3.3))
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# The push term could then never reach zero, however long you train. The config refuses the pair, and names a margin
# that fits.

# %%
try:
    LaneSegmentationConfig(normalize_embeddings=True)
except ValueError as error:
    print("refused:", error)
on_sphere = LaneSegmentationConfig(normalize_embeddings=True, delta_var=0.2, delta_dist=0.7)
print("accepted:", on_sphere.delta_var, on_sphere.delta_dist)

# %% [markdown]
# Our default keeps (0.5, 1.5), the margins of the paper, and does not normalise.

# %% [markdown]
# ### The training: two learning rates (notebook 5)
#
# The *optimiser* (옵티마이저), here AdamW, turns gradients into changes of the weights. The *learning rate* (학습률)
# says how large these changes are. A second optimiser, *Muon* (K. Jordan and others, 2024), may move the matrices
# inside the network.

# %%
show_defaults(
    {
        "lr": "AdamW's learning rate of the heads: too low learns nothing in time, too high diverges",
        "encoder_lr_scale": "the encoder's share of lr and muon_lr: below 1 it protects pretrained weights",
        "muon_lr": "learning rate of Muon, for matrices inside the network; 0 leaves them to AdamW",
        "betas": "memory of AdamW's running means of the gradient and of its square: nearer to 1 is smoother",
        "weight_decay": "each step shrinks every weight by this share times the rate, whatever the gradient says",
        "warmup_fraction": "share of all steps in which the learning rate rises",
    }
)

# %% [markdown]
# A gradient matrix is strong in a few directions and weak in all others; its *singular values* say how strong. Muon
# steps about equally far in all of them. AdamW's first step keeps the gradient's signs only:

# %%
generator = torch.Generator().manual_seed(0)
left, right = (torch.linalg.qr(torch.randn(3, 3, generator=generator))[0] for _ in range(2))
gradient = left @ torch.diag(torch.tensor([100.0, 10.0, 1.0])) @ right
muon_step = orthogonalized(gradient[None])[0]
for name, step in {"gradient": gradient, "AdamW": gradient.sign(), "Muon": muon_step}.items():
    print(f"{name:9s}", " ".join(f"{value:6.1f}" for value in torch.linalg.svdvals(step)))

# %% [markdown]
# The preset `tiny` trains with Muon, as you will see below. The guide does not know it, and the chapters that follow
# the guide switch it off.
#
# Back to the rates. There are two: `lr` for the heads, which are new, and a tenth of it for the encoder, which knows
# something already. The optimiser holds them as two groups of parameters:

# %%
optimizer = build_optimizer(model, big)
for group in optimizer.param_groups:
    print(f"{group['name']:8s} lr {group['lr']:.1e}, {sum(p.numel() for p in group['params'])} parameters")

# %% [markdown]
# A *scheduler* (스케줄러) changes both rates from step to step. *Warm-up* (웜업) raises them from a small value, then
# half a cosine lowers them to zero.

# %%
steps = 200
scheduler = build_scheduler(optimizer, steps, big.warmup_fraction)
rates = []
for _ in range(steps):
    rates.append([group["lr"] for group in optimizer.param_groups])
    optimizer.step()
    scheduler.step()
rates = np.array(rates)
figure, ax = plt.subplots(figsize=(7, 2.6))
for column, group in enumerate(optimizer.param_groups):
    ax.plot(rates[:, column], label=group["name"])
ax.set(title="Warm-up, then half a cosine; the encoder stays ten times lower", xlabel="step", ylabel="learning rate")
ax.legend()
plt.show()

# %% [markdown]
# ### The guide says / we measured: weight decay
#
# *Weight decay* (가중치 감쇠) keeps weights small. The guide calls `weight_decay=0.01` in AdamW "L2 regularisation"
# (in Korean the same word as above, L2 정규화). L2 regularisation adds λ·w to the gradient of a weight w, where λ is
# `weight_decay`.

# %% [markdown]
# Plain Adam then divides that sum by its own running size. AdamW instead shrinks the weight directly, by the share
# lr · λ. The difference is easy to see on two weights without any gradient of their own.


# %%
def after_one_step(optimizer_class):
    weights = torch.nn.Parameter(torch.tensor([10.0, 0.1]))
    weights.grad = torch.zeros(2)
    optimizer_class([weights], lr=0.05, weight_decay=0.01).step()
    return weights.tolist()


for name, optimizer_class in {"Adam, L2 in the gradient": torch.optim.Adam, "AdamW": torch.optim.AdamW}.items():
    print(f"{name:24s}", " ".join(f"{weight:.5f}" for weight in after_one_step(optimizer_class)))

# %% [markdown]
# Adam takes the same step of 0.05 from the large weight and from the small one: half of the small one is gone. AdamW
# takes the same *share*, one part in two thousand. Decoupled decay is what the name says, and it is not L2.

# %% [markdown]
# ### The training: the run (notebook 5)
#
# A *batch* (배치) is the images that go through the network together. The *validation* (검증) images are never trained
# on; their loss shows whether the model still improves.

# %%
show_defaults(
    {
        "epochs": "passes over the training images",
        "batch_size": "images in one batch: memory sets the limit",
        "accumulation_steps": "batches whose gradients are added up before one step: a large batch on a small GPU",
        "max_grad_norm": "longest gradient allowed: longer ones are clipped, so that no batch wrecks the weights",
        "patience": "epochs without a better validation loss before the run stops early",
        "amp": "mixed precision (혼합 정밀도): 16-bit floats where they are safe, to save time and memory on a GPU",
    }
)

# %% [markdown]
# A GPU may hold two images only. `accumulation_steps` (누적) then makes the *effective* batch as large as you
# want. Notebook 5 shows how nearly this equals the large batch, if it is done right.

# %%
small_gpu = big.replace(batch_size=2, accumulation_steps=8)
print(f"{small_gpu.batch_size} images at a time, {small_gpu.batch_size * small_gpu.accumulation_steps} per step")

# %% [markdown]
# ### The post-processing (notebook 6)
#
# *Post-processing* (후처리) turns the network's outputs into numbered lanes. It groups embeddings that lie close
# together, which is called *clustering* (클러스터링). Two settings only:

# %%
show_defaults(
    {
        "clustering": "how embeddings are grouped: our own way (fast), or one of two from the textbooks",
        "reference_row": "the image row, as share of the height, where lanes are numbered from left to right",
    }
)

# %% [markdown]
# Was any setting left out? The fields of the class know.

# %%
in_the_config = {field.name for field in fields(LaneSegmentationConfig)}
on_the_map = [name for names in CHAPTERS.values() for name in names.split()]
assert set(moves) == in_the_config  # each is explained
assert sorted(on_the_map) == sorted(in_the_config)  # and stands once on the map of the course
print(f"{len(in_the_config)} settings, each explained, each in one notebook")

# %% [markdown]
# ## Presets
#
# You rarely start from zero. A *preset* is a starting point for one model size. `preset("tiny")` trains from random
# weights on a CPU, in minutes; it is the one that this course measures.
#
# `preset("b0")` to `preset("b5")` *fine-tune* (미세 조정): they go on from *pretrained* (사전학습) weights. These come
# from a model hub. NVIDIA trained them on street scenes, and allows research and evaluation only.
#
# What does `tiny` change?

# %%
tiny, b5 = LaneSegmentationConfig.preset("tiny"), LaneSegmentationConfig.preset("b5")
for name, value in asdict(tiny).items():
    if value != getattr(b5, name):
        print(f"{name:18s} tiny {value!s:12s} b5 {getattr(b5, name)}")

# %% [markdown]
# Every difference has a reason:
#
# * **Nothing is pretrained**, so the encoder has nothing to lose: it learns at the full rate, and that rate is high.
# * **Muon** (`muon_lr`) learns more from each of the few images. Pretrained weights stay with AdamW, as published.
# * **Four epochs** (에포크), passes over the training images, are too few to learn the images by heart (overfit,
#   과적합). So there is little *augmentation* (데이터 증강), the random changes that make an image look new.
# * **The image is small and its top is cut off** (`crop_top`): the sky costs as much time as the road.
# * **Instances weigh less** (`instance_weight`): in this short run they are learnt sooner than the classes.
# * **Rare classes come more often** (`repeat_threshold`): few images show a crosswalk (notebook 2).
# * **ReLU** (`activation`) bends like the published GELU, and costs a CPU less (notebook 3).

# %% [markdown]
# The most visible difference is the number of parameters. On torch's `meta` device a model has shapes but no memory,
# so even b5 is built in a second.


# %%
def million_parameters(backbone):
    with torch.device("meta"):
        model = SegFormerModel(backbone, pretrained=False)
    return sum(p.numel() for p in model.parameters()) / 1e6


# %% [markdown]
# > **Predict first.** How many times larger is b5 than tiny?

# %%
my_guess = None
sizes = {name: million_parameters(name) for name in ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")}
reveal(my_guess, sizes["b5"] / sizes["tiny"], "times")

# %%
figure, ax = plt.subplots(figsize=(7, 2.6))
bars = ax.bar(list(sizes), list(sizes.values()))
ax.bar_label(bars, fmt="%.1f M")
ax.set(title="From 1.3 to 88 million parameters, both heads included", ylabel="parameters (millions)", ylim=(0, 100))
plt.show()

# %% [markdown]
# ## Store it: YAML
#
# A trained model without its settings is a riddle. The trainer writes them as *YAML*, a text format of names and
# values, into the file `config.yaml` of every run folder. Reading the file back gives the same config.

# %%
folder = tempfile.TemporaryDirectory()
path = f"{folder.name}/config.yaml"
tiny.to_yaml(path)
assert LaneSegmentationConfig.from_yaml(path) == tiny
print(open(path).read()[:180], "…")
assert load_config("tiny") == load_config(path) == tiny  # a preset's name, or a file

# %% [markdown]
# `load_config` takes a file or the name of a preset. So does the command line: `road-topology train lane --config …`.

# %% [markdown]
# ## Trap: a learning rate that is text
#
# YAML 1.1 knows `6.0e-5` as a number. Without the dot, `6e-5` is text, and PyYAML follows the standard.
#
# **Broken.** This is how many training scripts read their settings:

# %% tags=["trap:broken"]
settings = yaml.safe_load("lr: 6e-5")
print(repr(settings["lr"]))
print(repr(settings["lr"] * 2))  # twice the learning rate?

# %% [markdown]
# **Why.** Multiplying text repeats it. If you are lucky the optimiser raises an error; if not, the value ends up in a
# file name or a log, and looks right there.
#
# **Mended.** Our config knows that `lr` is a number, and reads it as one.

# %% tags=["trap:mended"]
with open(path, "w") as file:
    file.write("lr: 6e-5\n")
read_back = load_config(path).lr
assert settings["lr"] * 2 == "6e-56e-5"  # the symptom
assert read_back == 6e-5  # the mend
print(read_back)

# %% [markdown]
# ## Trap: the typo that nobody notices
#
# **Broken.** Settings with defaults, read by `get`:

# %% tags=["trap:broken"]
settings = {"delta_vars": 0.2}  # one letter too many
delta_var = settings.get("delta_var", 0.5)
print("training with delta_var =", delta_var)

# %% [markdown]
# **Why.** The unknown key is never asked for, so nobody learns of it. The run takes hours and answers a question that
# you did not ask.
#
# **Mended.** An unknown key is an error, and the message shows the known ones.

# %% tags=["trap:mended"]
try:
    LaneSegmentationConfig.from_dict(settings)
    message = ""
except ValueError as error:
    message = str(error)
assert delta_var == 0.5  # the symptom: 0.2 was asked for
assert "delta_vars" in message  # the mend
print(message[:60], "…")

# %% [markdown]
# ## A gallery of nonsense
#
# Each line below changes one setting to something that cannot work. Read the messages: every one names the setting,
# the value and what was expected.

# %%
nonsense = [
    {"lr": 0},
    {"delta_var": -0.5},
    {"delta_var": 2.0},
    {"epochs": 2.5},
    {"image_size": [500, 1000]},
    {"betas": [0.9, 1.0]},
    {"backbone": "resnet50"},
    {"class_weights": "guess"},
    {"reference_row": 450},
]
refused = []
for change in nonsense:
    try:
        LaneSegmentationConfig.from_dict(change)
    except ValueError as error:
        refused.append(change)
        print(f"{change}: {error}")

# %% [markdown]
# > **Predict first.** Is `image_size=(480, 854)` accepted? Answer "yes" or "no".

# %%
my_guess = None
try:
    LaneSegmentationConfig(image_size=(480, 854))
    answer = "yes"
except ValueError:
    answer = "no"
reveal(my_guess, answer)

# %% [markdown]
# 480 is a multiple of 32, 854 is not. The encoder's last stage has one token for every 32 × 32 pixels. The network
# itself would round up; the config insists, so that every map is exactly 1/4 … 1/32 of the image.

# %% [markdown]
# ## Exercises
#
# Replace the `...`, run the cell, then the check below it. The hint says what is wrong, one thing at a time.
#
# ### 1. The schedule
#
# Write the learning rate of step `step` (0, 1, 2 …): `warmup` steps rise linearly, the first already above zero and
# the last at `base`; then half a cosine falls from `base` at step `warmup` to 0 at step `total`. `warmup` may be 0.


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
# ### 2. The largest margin that fits
#
# Embeddings of length 1, and `k` lanes in an image. Which is the largest `delta_dist` that k means on the sphere can
# satisfy? For a single lane every margin fits: return `math.inf`.


# %% tags=["exercise:largest_delta_dist"]
def largest_delta_dist(k):
    return ...


# %% tags=["check:largest_delta_dist"]
check("largest_delta_dist", largest_delta_dist)

# %% [markdown] tags=["solution:largest_delta_dist"]
# <details><summary>Solution</summary>
#
# Means must be `2 * delta_dist` apart, and can be √(2k/(k−1)) apart. A single lane has nothing to keep away from.
#
# ```python
# def largest_delta_dist(k):
#     if k < 2:
#         return math.inf
#     return math.sqrt(2 * k / (k - 1)) / 2
# ```
# </details>

# %% [markdown]
# ### 3. A reader that refuses
#
# Write `read_settings(text, defaults)`: parse YAML text, return a dictionary of all defaults with the given values
# on top, and raise `ValueError` naming any key that `defaults` does not have. Empty text means "all defaults". Leave
# the dictionary `defaults` itself as it is: the next caller needs it, too.


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
# ### 4. Tokens
#
# The encoder's four stages look at the image at 1/4, 1/8, 1/16 and 1/32 of its height and width. How many tokens
# does each stage hold for an image of `height` × `width`, both multiples of 32? Return a list of four whole numbers.


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
# What the text above states of measured numbers, asserted.

# %%
assert round(sizes["tiny"], 1) == 1.3
assert round(sizes["b5"]) == 88
assert len(CLASSES) == outputs["logits"].shape[1] == 6 and outputs["embeddings"].shape[1] == 32
assert [96 // m.shape[2] for m in maps] == [256 // m.shape[3] for m in maps] == [4, 8, 16, 32]
assert 100 * lane_share < 10  # "so few"
assert len(CLASS_WEIGHT_METHODS) == 4 and len(CLUSTERING_METHODS) == 3  # "four formulas", ours and two

# %%
assert (config.semantic_weight, config.instance_weight) == (1.0, 0.5)
assert (config.delta_var, config.delta_dist, config.gamma) == (0.5, 1.5, 0.001)
assert (config.betas, config.weight_decay, config.max_grad_norm) == ((0.9, 0.999), 0.01, 1.0)
assert config.encoder_lr_scale == 0.1
assert (lowest, highest) == (1.0, 2.0)
assert max(reach(k) for k in ks) == 2.0 < 2 * config.delta_dist

# %%
check_margins_on_sphere(reach(8) / 2, 8)  # the largest that fits passes without a word
assert np.allclose(rates[:, 0], 0.1 * rates[:, 1])
assert rates[:, 1].max() == big.lr
assert np.allclose(after_one_step(torch.optim.Adam), [9.95, 0.05])
assert np.allclose(after_one_step(torch.optim.AdamW), np.array([10.0, 0.1]) * (1 - 1 / 2000))

# %%
assert tiny.epochs == 4
assert refused == nonsense
folder.cleanup()
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Next
#
# **2 · Dataset**: what lies on disk, how masks are read, and the quiet ways in which they go wrong.
