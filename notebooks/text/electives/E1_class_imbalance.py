# %% [markdown]
# # E1 · Class imbalance: does the cure work?
#
# This notebook gives rare classes larger weights or other losses, and measures what that changes
# where a class becomes rarer step by step.

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
strip("E1", photo=PHOTO)

# %% [markdown]
# **You will be able to** compute class weights by four formulas, from a sample and with a cache
# that notices changes; take a combined loss apart; read a comparison of losses with intervals over
# scenes and seeds; and choose weights and a loss for your own data.
#
# **You need** notebooks 1 to 4.
#
# **Time** to run: about a minute and a half on two CPU cores; a GPU is not used. To work through:
# two and a half hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/electives/E1_class_imbalance.ipynb`, write the same address into `REPOSITORY`
# in the first code cell, and run that cell again.
# **On your machine:** `make lab`.

# %% tags=["folded"]
# @title Imports
import shutil
import tempfile
import tracemalloc
from functools import partial

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import frame, progress, reveal, samples, schematics, show
from roadtopo_lib.course.data import FRAME_PRESET, FRAME_SEED, FRAME_SIZE
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.lessons import imbalance as lesson
from roadtopo_lib.course.lessons import imbalance_pictures as picture
from roadtopo_lib.course.lessons.losses import draw_shares
from roadtopo_lib.course.lessons.training import SavedBytes
from roadtopo_lib.course.strip import shipped_segmenter
from roadtopo_lib.data.convert import convert_camvid
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.data.images import read_semantic_mask, write_image
from roadtopo_lib.dataset import LaneInstanceDataset, image_to_tensor
from roadtopo_lib.electives.auto_square import AutoSquareDice
from roadtopo_lib.electives.boundary_loss import BoundaryLoss
from roadtopo_lib.electives.sampled_weights import sampled_class_weights
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.labels import (
    BACKGROUND,
    CLASS_NAMES,
    CROSSWALK,
    NUM_CLASSES,
    ROAD,
    SIDEWALK,
)
from roadtopo_lib.losses import (
    WEIGHT_METHODS,
    CombinedLoss,
    DiceLoss,
    class_weights,
    weights_from_counts,
)
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.segformer import upsample_to

# %% [markdown]
# ## A promise, and a test of it
#
# A common cure for rare classes is the sum of cross-entropy (CE) and Dice, with class weights in
# both. One text that recommends it expects these gains, as IoU in per cent:
#
# | | road | car | pedestrian | mean |
# |---|---|---|---|---|
# | CE | 85 | 72 | 15 | 45.2 |
# | combined + weights | 86 | 78 | 48 | 52.3 |
#
# The rare class gains 33 points, the mean 7.1. The text names no data set, no model and no number
# of runs. So we build a test. Our rare class is the crosswalk. The renderer can leave a crossing
# unpainted, and nothing else in the scene changes:

# %%
bare = render_scene(FRAME_SEED, FRAME_SIZE, FRAME_PRESET, crosswalks=False)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.2))
for ax, image in zip(axes, (frame()[0], bare.image)):
    ax.imshow(image)
    ax.axis("off")
show(figure, "The frame twice: with its crosswalk, and without it.", photo=True)

# %% [markdown]
# The street of every training scene has a crossing. It is painted in each scene ("common"), in one
# scene of 3 ("rare"), or in one of 10 ("very rare"). A tiny SegFormer with random weights is
# trained on 192 such scenes for 160 steps, with one of seven losses. Five seeds draw five sets of
# scenes and of first weights: 7 × 3 × 5 = 105 runs. Every run is scored on the same 160 test
# scenes; half of them show a crossing.
#
# The runs take about 45 minutes of one core, so a script does them. Their results are a file:

# %%
measured = lesson.results()
print(measured["command"])
print(measured["train_scenes"], "training scenes,", measured["test_scenes"], "test scenes")
print(
    len(lesson.LOSSES), "losses,", len(measured["rarities"]), "rarities, seeds", measured["seeds"]
)

# %% [markdown]
# > **Predict first.** How many points of crosswalk IoU does "combined + weights" gain over plain CE
# > where the crossing is rare, one scene of 3? (A point is 0.01 of IoU.)

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
reveal(my_guess, lesson.gain(measured, "combined + weights", "rare"), "points")
show(*picture.draw_contest(measured), colors=32)

# %% [markdown]
# <details><summary>What happened</summary>
#
# The crosswalk gains about 6 points where crossings are rare or very rare. Where every scene shows
# one, it gains nothing: the interval of the difference holds 0. The promise was 33. The mean over
# the six classes gains 1 to 3 points in place of 7.1.
#
# The bars overlap all the same: they say how far the scores of a loss vary with scenes and seeds.
# All losses meet the same scenes, so their differences vary less. Part III compares them in pairs.
#
# How often the crossing shows matters much more than the loss. From every scene to one in 10, each
# loss falls by 18 to 30 points.
#
# </details>

# %% [markdown]
# # Part I · Weights
#
# ## From counts to weights

# %% tags=["folded"]
# @title Drawing: four formulas
show(schematics.class_weight_formulas(), schematics.ALT["class_weight_formulas"], colors=24)

# %% [markdown]
# A formula for class weights sees nothing but counts: the pixels $n_c$ of each class and, for one
# of them, the pixels of the images that show the class. We write the four for the table of the
# drawing. Only the proportions of the weights matter, so all are scaled to a mean of 1.
#
# **Inverse frequency**: a class with a hundredth of the pixels gets 100 times the weight. Then all
# classes hold the same sum of weights.

# %%
pixels = torch.tensor([500_000.0, 50_000, 5_000, 1_000])  # n: road, sidewalk, marking, crosswalk


def to_mean_1(raw):
    return raw / raw.mean()


inverse = to_mean_1(pixels.sum() / pixels)
assert_close(inverse, weights_from_counts(pixels, "inverse"))
print("weights", inverse.numpy().round(3), "weight × pixels", (inverse * pixels).numpy().round())

# %% [markdown]
# **Square root**: 100 times fewer pixels, 10 times the weight. Frequent classes keep a larger part
# of the sum.

# %%
root = to_mean_1((pixels.sum() / pixels).sqrt())
assert_close(root, weights_from_counts(pixels, "sqrt_inverse"))
print("weights", root.numpy().round(3), "weight × pixels", (root * pixels).numpy().round())

# %% [markdown]
# **[Effective number](../GLOSSARY.md#effective-number)** (Cui et al. 2019): samples of a class
# overlap, so each further one counts a little less. $n$ samples count as $(1 - \beta^n) / (1 -
# \beta)$, and the weight is one over that.

# %%
effective = to_mean_1((1 - 0.9999) / (1 - 0.9999 ** pixels.double())).float()
assert_close(effective, weights_from_counts(pixels, "effective_number", beta=0.9999))
print("weights", effective.numpy().round(3))

# %% [markdown]
# Road and sidewalk get the same weight, although one has ten times the pixels of the other. The
# effective number cannot exceed $1 / (1 - \beta)$, here 10,000.
#
# **[Median frequency](../GLOSSARY.md#median-frequency)** (Eigen and Fergus 2015): $f_c$ is the
# share of a class in the images that *show* it. The weight is the median of all $f$ over $f_c$. One
# image of ten shows the crosswalk:

# %%
shown_in = pixels.sum() * torch.tensor([1.0, 1.0, 1.0, 0.1])  # pixels of the images that show it
share = pixels / shown_in
median = to_mean_1(share.median() / share)
assert_close(median, weights_from_counts(pixels, "median_frequency", image_pixels=shown_in))
print("weights", median.numpy().round(3))

# %% [markdown]
# Where it shows, the crosswalk is larger than the marking, so it gets half of its weight. This
# formula balances classes *within* images. It does not make up for a class that few images show.

# %% [markdown]
# > **Predict first.** Two classes have the raw weights 1.41 and 100. Both are divided by their
# > mean. What is the larger weight then?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
two = to_mean_1(torch.tensor([1.41, 100.0]))
reveal(my_guess, float(two[1]))

# %% [markdown]
# <details><summary>What happened</summary>
#
# Weights with a mean of 1 sum to the number of classes, C. So no weight exceeds C, however rare the
# class. For the two classes they are 0.028 and 1.97. A weight of 58 needs more than 58 classes.
#
# </details>

# %% [markdown]
# ## The weights of a data set
#
# `class_weights(dataset, method)` counts the pixels and applies a formula. `weight_table` prints
# each class of the 48 training samples with its share of the pixels and its four weights.

# %%
street = LaneInstanceDataset(samples(), "train")
weights = {name: class_weights(street, name) for name in WEIGHT_METHODS}
print(picture.weight_table(street))

# %% [markdown]
# `effective_number` gives 1 everywhere. The default β = 0.9999 suits counts up to 10,000, say of
# images. Our rarest class has more pixels than that. A β closer to 1 moves the limit:

# %%
counts = count_class_pixels(street, NUM_CLASSES)
for limit in (10_000, 1_000_000, 100_000_000):
    values = weights_from_counts(counts.pixels, "effective_number", beta=1 - 1 / limit)
    print(f"limit {limit:11,} pixels:", *(f"{value:5.2f}" for value in values))
assert_close(values, weights["inverse"], rtol=0.05, atol=0.005)

# %% [markdown]
# With a limit far above all counts the formula becomes `inverse`. So for pixels β chooses between
# no weights and `inverse`.

# %% [markdown]
# ## A sample is often enough
#
# To read 10,000 masks takes minutes. Weights only need shares, so a sample may do. How far off is
# it? Here is a data set of 10,000 masks that are made when they are read. One in ten shows class 2.


# %%
class ManyMasks:
    num_classes = 3

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        mask = np.zeros((32, 32), np.int64)
        mask[rng.integers(8, 24) :] = 1
        if rng.random() < 0.1:
            mask[20:, : rng.integers(4, 16)] = 2
        return {"semantic_mask": mask}


# %% [markdown]
# `sampled_class_weights` reads masks drawn at random. It also gives a *[standard
# error](../GLOSSARY.md#standard-error)* of each weight, from a bootstrap: the sampled masks are
# drawn again and again with replacement, and the weights vary by so much. Masks are drawn, not
# pixels, because the pixels of one mask are alike.
#
# > **Predict first.** We read 1,000 masks in place of 250. How many times smaller does the
# > standard error become?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
errors = {
    n: torch.stack([sampled_class_weights(ManyMasks(), n, seed=k).standard_error for k in range(3)])
    for n in (250, 1000)
}
shrinks = float(errors[250].mean() / errors[1000].mean())
reveal(my_guess, shrinks, "times", tolerance=0.2)

# %% [markdown]
# <details><summary>What happened</summary>
#
# About two times: the standard error falls with the root of the number of masks.
#
# </details>
#
# One sample of 1,000, with two standard errors as error bar, beside the weights of all masks; then
# 12 of the 48 masks of the street:

# %%
many = ManyMasks()
sampled, every = sampled_class_weights(many, 1000), class_weights(many)
for c, (weight, error) in enumerate(zip(*sampled)):
    print(f"class {c}: {weight:.2f} ± {2 * error:.2f}, all masks {every[c]:.2f}")
assert ((sampled.weights - every).abs() < 2 * sampled.standard_error).all()
few = sampled_class_weights(street, 12)
for name, weight, error, full in zip(CLASS_NAMES, *few, weights["sqrt_inverse"]):
    print(f"{name:14s} {weight:.2f} ± {2 * error:.2f}, all masks {full:.2f}")

# %% [markdown]
# Classes that few masks show have the widest error bars: class 2, the sidewalk and the crosswalk.

# %% [markdown]
# ## Ten thousand masks in flat memory
#
# Counting all masks needs no memory for them. `count_class_pixels` holds one mask at a
# time and two counters for each class. `tracemalloc` follows what Python and NumPy allocate:

# %%
tracemalloc.start()
count_class_pixels(many, 3)
peak = tracemalloc.get_traced_memory()[1] / 1e6  # MB
tracemalloc.stop()
print(f"all masks together: {10_000 * many[0]['semantic_mask'].nbytes / 1e6:.0f} MB")
print("counted within 1 MB:", peak < 1)

# %% [markdown]
# ## Trap: a cache that misses new labels
#
# Counting once is enough, so the result may be kept in a file. **Broken.** This cache names its
# file after the method, as one often sees:


# %% tags=["trap:broken"]
def cached_weights(dataset, method, folder):
    file = folder / f"class_weights_{method}.pt"
    if not file.exists():
        torch.save(class_weights(dataset, method), file)
    return torch.load(file)


temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
shutil.copytree(samples() / "val", folder / "train")
mine = LaneInstanceDataset(folder)
before = cached_weights(mine, "sqrt_inverse", folder)
repainted = read_semantic_mask(mine.semantic_paths[0])
repainted[:] = CROSSWALK
write_image(mine.semantic_paths[0], repainted)
after = cached_weights(mine, "sqrt_inverse", folder)
print(f"crosswalk weighs {before[CROSSWALK]:.2f}, with a changed mask {after[CROSSWALK]:.2f}")

# %% [markdown]
# **Why.** The name of the file says nothing about the data. New labels, another class table, a
# smaller sample: the old weights are returned, without a warning.
#
# **Fixed.** `class_weights(..., cache=file)` stores the counts with a fingerprint. It depends on
# the names, sizes and times of the mask files, on the class ids and on the settings. If the
# fingerprint differs, it counts again.

# %% tags=["trap:mended"]
file = folder / "counts.json"
fresh = class_weights(mine, "sqrt_inverse", cache=file)
print(f"crosswalk weighs {before[CROSSWALK]:.2f}, now {fresh[CROSSWALK]:.2f}")
assert torch.equal(before, after) and not torch.allclose(after, class_weights(mine))  # the symptom
assert torch.equal(fresh, class_weights(mine))  # the fix

# %% [markdown]
# Is it counted again? Its file shows it. We change nothing first, then one thing at a time.


# %%
def counted_again(classes=NUM_CLASSES, **settings):
    stored = file.read_text()
    count_class_pixels(mine, classes, cache=file, **settings)
    return file.read_text() != stored


print("nothing changed:    ", counted_again())
print("a seventh class:    ", counted_again(NUM_CLASSES + 1))
print("every second mask:  ", counted_again(max_samples=6))
counted_again()  # all masks and six classes again
write_image(mine.semantic_paths[0], np.full_like(repainted, ROAD))
print("one mask repainted: ", counted_again())

# %% [markdown]
# The method and its β are not in the fingerprint: the file holds counts, and a formula costs
# nothing.

# %% [markdown]
# # Part II · The loss
#
# ## Who holds the loss?
#
# A batch has 1,000,000 road pixels with a cross-entropy of 0.1 each, and 1,000 pixels of
# pedestrians with 0.5 each. The plain mean is 0.1: the pedestrians hardly count. Now they get
# √inverse weights: 1.41 for road, 31.6 for pedestrians.
#
# > **Predict first.** What share of the weighted cross-entropy do the *road* pixels hold, with
# > these weights?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
pixels_of, cost_of = torch.tensor([1_000_000.0, 1_000.0]), torch.tensor([0.1, 0.5])
of_classes = {"√inverse": torch.tensor([1.41, 31.6]), "inverse": 1 / pixels_of}
held = {name: of * pixels_of for name, of in of_classes.items()}  # sum of weights of each class
means = {name: float(of @ cost_of / of.sum()) for name, of in held.items()}
roads = {name: float(of[0] * cost_of[0] / (of @ cost_of)) for name, of in held.items()}
reveal(my_guess, 100 * roads["√inverse"], "%")
for name in held:
    print(f"{name}: weighted mean {means[name]:.3f}, the road holds {roads[name]:.0%}")

# %% [markdown]
# <details><summary>What happened</summary>
#
# 90 %. The road has 1,000 times the pixels; a 22nd of the weight and a fifth of the cost do not
# make up for that. The weighted mean divides by the sum of the weights of all pixels, so it stays
# near 0.1. `inverse` gives both classes the same sum of weights, and the mean becomes 0.3, the mean
# over the *classes*.
#
# </details>
#
# Is balance better? Part III measures it. First the same shares on the frame. We run the shipped
# model on it, without the upper quarter, and weigh the cross-entropy of its pixels.

# %%
image, semantic, _ = (part[128:] for part in frame())  # without the upper quarter: sky
target = torch.from_numpy(semantic.astype(np.int64))[None]  # (1, 384, 1024)
small = image_to_tensor(cv2.resize(image, (256, 96), interpolation=cv2.INTER_AREA))[None]
network = shipped_segmenter().model
with torch.no_grad():
    cells = network(small, upsample=False)["logits"]
logits = upsample_to(cells, target.shape[1:])  # (1, 6, 384, 1024)
costs = F.cross_entropy(logits, target, reduction="none")


def shares(values, weights):
    sums = torch.stack([values[target == c].sum() for c in range(NUM_CLASSES)]) * weights
    return sums / sums.sum()


bars = {"share of the pixels": shares(torch.ones_like(costs), torch.ones(NUM_CLASSES))}
bars["of the cost"] = shares(costs, torch.ones(NUM_CLASSES))
for name in ("sqrt_inverse", "inverse"):
    bars[f"of the cost, {name}"] = shares(costs, weights[name])
figure = draw_shares(bars, "Weights move the loss from background and road to the rare classes")
show(figure, "Bars by class: shares of pixels, of the cost, and of two weighted costs.", colors=24)

# %% [markdown]
# With `inverse` background and road hold 6 % of the loss of the frame, with 79 % of its pixels.

# %% [markdown]
# ## The sum taken apart
#
# `CombinedLoss(ce_weight, dice_weight)` adds two losses. The usual shares run from 0.7 / 0.3 to
# 0.4 / 0.6. `with_parts` also gives the two terms. On the frame, without class weights:

# %%
for ce, dice in ((0.7, 0.3), (0.6, 0.4), (0.5, 0.5), (0.4, 0.6)):
    loss, parts = CombinedLoss(ce, dice).with_parts(logits, target)
    terms = (ce * parts["cross_entropy"], dice * parts["dice"])
    print(f"{ce} × CE + {dice} × Dice = {terms[0]:.3f} + {terms[1]:.3f} = {loss:.3f}")
    assert_close(sum(terms), loss)

# %% [markdown]
# Training follows the gradient, not the value. Its length tells how hard each term pulls:


# %%
def gradient(loss_function):
    x = logits.clone().requires_grad_()
    (result,) = torch.autograd.grad(loss_function(x, target), x)
    return result  # (1, 6, 384, 1024)


of_ce, of_dice = gradient(CombinedLoss(1.0, 0.0)), gradient(CombinedLoss(0.0, 1.0))
assert_close(gradient(CombinedLoss()), 0.6 * of_ce + 0.4 * of_dice, rtol=1e-3, atol=1e-8)

# %% [markdown]
# > **Predict first.** With 0.6 and 0.4: the lengths of the two weighted gradients are added. What
# > share of that sum has Dice, on the frame?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
lengths = 0.6 * of_ce.norm(), 0.4 * of_dice.norm()
dice_share = float(lengths[1] / sum(lengths))
reveal(my_guess, 100 * dice_share, "%")
for weight in (0.3, 0.4, 0.5, 0.6):
    of_lengths = weight * of_dice.norm() / ((1 - weight) * of_ce.norm() + weight * of_dice.norm())
    print(f"Dice weighted {weight}: {of_lengths:.0%} of the lengths")

# %% [markdown]
# <details><summary>What happened</summary>
#
# 29 %, less than its 40 %: the gradient of Dice is shorter than that of CE on this frame. The
# shares weigh *values*. What a term contributes to a step depends on the batch and on the state of
# training: where all logits are 0, as before training, Dice has 9 %.
#
# </details>

# %% [markdown]
# ## Which pixels a loss pulls
#
# `pixel_gradients` shows single pixels. It makes 4,096 pixels, 40 of them of a rare class. Half of
# the pixels are easy (the true class has p = 0.95), half are hard (p = 0.3). It gives the size of
# the gradient at the logit of the true class, times the number of pixels. For CE that is 1 − p:

# %%
of_losses = {
    name: lesson.pixel_gradients(make(weights["sqrt_inverse"]))
    for name, make in lesson.LOSSES.items()
}
print({kind: round(value, 2) for kind, value in of_losses["CE"].items()})
assert_close(of_losses["CE"]["hard, rare"], 1 - lesson.HARD)

# %% [markdown]
# > **Predict first.** How many times as hard does plain Dice pull a hard pixel of the rare class as
# > a hard pixel of the common one?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
favour = {name: of["hard, rare"] / of["hard, common"] for name, of in of_losses.items()}
reveal(my_guess, favour["Dice"], "times")

# %%
TITLE = "Weights and Dice favour rare pixels, focal loss favours hard ones"
figure = picture.draw_gradients(of_losses, TITLE)
show(
    figure,
    "Bars by loss on a log scale: gradients at easy and hard, common and rare pixels.",
    colors=32,
)

# %% [markdown]
# * **CE** and **focal** loss treat a rare pixel like a common one of the same p. Focal loss takes
#   nearly all gradient from easy pixels.
# * **Weighted CE** favours the rare class by the ratio of the weights, about 5, whatever p.
# * **Dice** and **Tversky** favour it by about 20 without any weights: the gradient of a class is
#   divided by its area.
# * **Combined + weights** does both.

# %% [markdown]
# ### The squared denominator
#
# `square_denominator=True` puts Σ p² + Σ g² in place of Σ p + Σ g. It is often called more stable.
# The same pixels:

# %%
for squared in (False, True):
    pulls = lesson.pixel_gradients(DiceLoss(square_denominator=squared))
    print(f"squared {squared!s:5s}", {kind: round(value, 2) for kind, value in pulls.items()})

# %% [markdown]
# All four change, and hard rare pixels are pulled more than three times as hard. The other 4,056
# pixels give the rare class a little p each. That adds up to about 300 pixels in Σ p, but to about
# 40 in Σ p². The denominator becomes smaller, the gradient larger.
#
# Another advice is to take the squared denominator *automatically* once a training is unstable.
# `AutoSquareDice` does that: it changes when its losses jump by more than a tenth of their mean from
# step to step. `lesson.jumps` trains a linear model with a high learning rate and two new images in
# each step. It gives the mean jump of Dice on other images, in the second half of the steps.

# %%
jumps = {}
makers = {"plain": DiceLoss, "squared": partial(DiceLoss, square_denominator=True)}
makers["automatic"] = AutoSquareDice
for name, make in makers.items():
    jumps[name] = np.mean([lesson.jumps(make(), seed=k) for k in range(3)])
    print(f"{name:9s} Dice jumps by {jumps[name]:.3f}")
steady, shaky = AutoSquareDice(), AutoSquareDice()
lesson.jumps(steady, lr=1.0, same_batch=True)
lesson.jumps(shaky)
print("it changed: on one batch at a low rate", steady.squared, "· here", shaky.squared)

# %% [markdown]
# The change comes where it should. It does not help here: with the squared denominator from the
# start, Dice jumps more than twice as far. Its gradient is longer, and the steps with it.

# %% [markdown]
# ### The boundary loss
#
# Dice counts false pixels and does not ask where they are. The *[boundary loss](../GLOSSARY.md#boundary-loss)* (Kervadec et al. 2019)
# is the mean of probability times *signed distance* to the true outline, negative inside. It is added
# to another loss. One false pixel, 1, 4 and 7 pixels from a block of the rare class:

# %%
block = torch.zeros(1, 16, 16, dtype=torch.int64)
block[:, 4:8, 4:8] = 1
judges, of_false = (CombinedLoss(1.0, 0.0), DiceLoss(), BoundaryLoss()), []
for away in (1, 4, 7):
    answer = block.clone()
    answer[0, 5, 7 + away] = 1
    values = [float(loss(8.0 * F.one_hot(answer, 2).movedim(-1, 1), block)) for loss in judges]
    of_false.append(values)
    print(f"{away} away: CE {values[0]:.4f}, Dice {values[1]:.4f}, boundary {values[2]:.4f}")

# %% [markdown]
# CE and Dice are the same for all three. The boundary loss rises with the distance. So it presses a
# class towards its outline, and far spots cost most.

# %% [markdown]
# ## Per image or per batch

# %% tags=["folded"]
# @title Drawing: two ways to Dice
show(schematics.dice_image_and_batch(), schematics.ALT["dice_image_and_batch"], colors=24)

# %% [markdown]
# A batch holds several images. Dice can be taken of each (`per_image=True`), or of the cells of all
# images together, the library's default. We rebuild the drawing with masks of one class, 1 where it
# is true or found:

# %%
truth, found = torch.zeros(2, 2, 24, dtype=torch.int64)  # (2 images, 24 cells) each
truth[0, :12], found[0, :10] = 1, 1
truth[1, :2], found[1, 22:] = 1, 1


def both_ways(truth, found):
    probabilities = found.view(-1, 1, 4, 6).float()
    for per_image in (True, False):
        loss = DiceLoss(smooth=0.0, per_image=per_image, from_logits=False)
        yield 1 - float(loss(probabilities, truth.view(-1, 4, 6)))


print("Dice per image {:.2f}, per batch {:.2f}".format(*both_ways(truth, found)))

# %% [markdown]
# Per image a small area counts as much as a large one. That has a cost.
#
# > **Predict first.** A third image shows nothing of the class, but 6 of its cells are called so.
# > What is Dice *per image* then?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
empty, false_cells = torch.zeros(1, 24, dtype=torch.int64), torch.zeros(1, 24, dtype=torch.int64)
false_cells[0, :6] = 1
with_empty = list(both_ways(torch.cat([truth, empty]), torch.cat([found, false_cells])))
reveal(my_guess, with_empty[0])

# %% [markdown]
# <details><summary>What happened</summary>
#
# It stays as it is. An image without the class has no Dice of its own and is left out, so its false
# cells cost nothing. Per batch they are counted: Dice falls from 0.77 to 0.62. In the sum,
# cross-entropy makes up for it. A Dice loss per image should not stand alone.
#
# </details>

# %% [markdown]
# ## Trap: weights inside Dice
#
# **Broken.** A weighted Dice loss is sometimes written as $1 - \sum_c w_c D_c$. Two classes with
# the weights 0.8 and 58.2 and a very good Dice of 0.9 each; then the frame, with √inverse weights:

# %% tags=["trap:broken"]
good = 1 - (torch.tensor([0.8, 58.2]) * torch.tensor([0.9, 0.9])).sum()
one_class = F.one_hot(torch.arange(NUM_CLASSES)).float()  # weights that leave one class
dice_of = torch.stack([1 - DiceLoss(class_weights=row)(logits, target) for row in one_class])
of_frame = 1 - (weights["sqrt_inverse"] * dice_of).sum()
print(f"a loss of {good:.1f} for two good classes, of {of_frame:.1f} for the frame")

# %% [markdown]
# **Why.** The weights sum to 59, or to 6 for the six classes of the frame. So the loss can fall
# below zero. Its gradient has the right direction, but is Σ w times as long as that of a weighted
# mean. In the sum, 0.6 and 0.4 then mean 0.6 and 2.4.
#
# **Fixed.** The library takes the weighted mean of the losses, Σ w (1 − D) / Σ w. It stays in [0,
# 1].

# %% tags=["trap:mended"]
w = weights["sqrt_inverse"]
by_hand = (w * (1 - dice_of)).sum() / w.sum()
library = DiceLoss(class_weights=w)(logits, target)
assert good < -50 and of_frame < -3  # the symptom
assert_close(library, by_hand, rtol=1e-4, atol=1e-5)
assert 0 <= library <= 1 and w.sum().round() == 6  # the fix
print(f"a loss of {library:.2f} for the frame")

# %% [markdown]
# # Part III · The contest
#
# ## Runs in pairs

# %% tags=["folded"]
# @title Drawing: pairs
show(schematics.paired_runs(), schematics.ALT["paired_runs"], colors=24)

# %% [markdown]
# All losses of a seed begin with the same weights and see the same scenes in the same order. So we
# compare in pairs: the difference of two losses, seed by seed. Two things vary and belong in an
# interval: the seeds, and the test scenes. A *paired bootstrap* draws both with replacement, the
# same ones for both losses, 2,000 times; 95 % of the differences lie in the interval. A *[paired
# test](../GLOSSARY.md#paired-test)* over the seeds gives p, the chance of such a difference if the
# losses were equally good. With many comparisons some differences appear by chance, so all p are
# raised by Holm's method.
#
# ## One run again
#
# Are the numbers in the file still those of the code? We repeat one of the runs, "combined +
# weights" with seed 0 where every scene shows its crossing, and score it on 40 of the test scenes.
# Another processor rounds differently, and after 160 steps the model is another one. So the result
# must lie where one more run would lie in 95 % of the cases, by the spread of the contest's seeds.
# (Half a minute.)

# %% tags=["nbval-ignore-output"]
again = lesson.repeat_slice()
for name, value in again.items():
    low, high = lesson.slice_interval(measured, name)
    print(f"{name:9s} IoU {value:.3f}, expected {low:.3f} … {high:.3f}")
    assert low <= value <= high

# %% [markdown]
# ## Crosswalks that are rare

# %%
print(picture.contest_table(measured, "rare"))

# %% [markdown]
# * The two losses with class weights are ahead of CE by 4 to 6 points, CE + Dice by 2.
# * Dice alone is not clearly ahead of CE. Focal loss is behind it.
# * Tversky loss is not safe alone: with one of the seeds its model never predicts *road*.
#
# The p-value is stricter than the interval. It rests on five differences, and Holm's method raises
# it for 20 comparisons. So the gains of the crosswalk are likely, not proven: their intervals
# exclude 0, their p is above 0.05. More seeds would decide.
#
# What do the other classes pay? Combined + weights minus CE for each class:

# %%
row = lesson.row_of(measured, "combined + weights", "rare")
for name in (*CLASS_NAMES, "mean"):
    low, high = row["minus_ce"][name]
    gained = lesson.gain(measured, "combined + weights", "rare", name) / 100
    print(
        f"{name:14s} {gained:+.3f}, 95 % interval {low:+.3f} … {high:+.3f}, p {row['p'][name]:.2g}"
    )

# %% [markdown]
# The other three rare classes gain as well. Background and road pay for it: their IoU falls by
# about 1 and 2 points.
#
# ## Three rarities: the promise again
#
# Points of IoU that "combined + weights" gains over CE, for the crosswalk and in the mean:

# %%
for rarity in lesson.RARITIES:
    row = lesson.row_of(measured, "combined + weights", rarity)
    for name, promised in (("crosswalk", 33), ("mean", 7.1)):
        low, high = (100 * end for end in row["minus_ce"][name])
        print(f"{rarity:10s} {name:9s} {low:+5.1f} … {high:+5.1f} points, promised {promised}")
print("\nThe crosswalk where every scene shows its crossing:")
print(picture.contest_table(measured, "common"))

# %% [markdown]
# Not one of the intervals reaches the promise. That does not refute it: other data, another model
# or a longer training may behave differently. But it does not hold in general. And weights can cost
# something: where every scene shows its crossing, weighted CE is behind plain CE by its interval,
# 0.7 to 4.8 points in the table; its p of 0.15 says that five seeds do not prove it.
#
# ## What kind of errors

# %%
for loss in lesson.LOSSES:
    recall, false = lesson.errors_of(measured, loss, "rare")
    print(f"{loss:20s} recall {recall:.2f}, false pixels for each true one {false:.2f}")

# %% [markdown]
# Weights trade errors. The losses with weights find more of the crosswalk than CE, and predict at
# least twice as many false pixels. IoU counts both alike, so the gain is smaller than the gain in
# recall.
#
# # Part IV · Which loss when
#
# Another text gives a short table for binary and multi-class masks:
#
# | case | advice |
# |---|---|
# | few positives | focal + Dice (λ = 0.5, α = 0.25, γ = 2) |
# | misses cost more than false alarms | focal Tversky (α = 0.3, β = 0.7, γ = 4/3) |
# | many classes | Dice with class weights, with or without CE |
# | little memory | fewer channels, a light upsampling, group norm, mixed precision |
#
# We measure each line.
#
# ## Few positives
#
# The script runs the two losses of the table as well, where the crossing is very rare. The advice
# comes from masks of one class, so it also runs all losses on the same scenes with binary masks,
# crosswalk or not.

# %%
print("six classes\n" + picture.contest_table(measured, "very rare") + "\n\nbinary masks")
of_binary = lesson.results("one_class")
print(picture.contest_table(of_binary, "very rare"))
for loss in ("CE", "Dice", "focal + Dice", "Tversky", "focal Tversky"):
    recall, false = lesson.errors_of(of_binary, loss, "very rare")
    print(f"{loss:14s} recall {recall:.2f}, false pixels for each true one {false:.2f}")

# %% [markdown]
# With six classes, focal + Dice is not ahead: the two losses with weights gain more, and so does
# CE + Dice. Its α = 0.25 weighs every class but the background *less*.
#
# On binary masks CE finds next to nothing, and focal + Dice 8 % of the pixels. Dice, Tversky and
# focal Tversky find 21 to 31 %, with about three false pixels for each true one. The IoU of these
# four is alike. Focal + Dice has the highest mean IoU of all. So the advice points the right way
# there, but no IoU of the crosswalk exceeds 0.08: one scene in ten is little to learn from.
#
# ## Misses that cost more
#
# What does a missed pixel cost, in false ones? Say k. The cost of each true pixel is then
# k · (1 − recall), plus the false pixels for each true one.

# %%
for loss in (*lesson.LOSSES, *lesson.TABLE_LOSSES):
    recall, _ = lesson.errors_of(measured, loss, "very rare")
    paid = [lesson.cost_of_errors(measured, loss, "very rare", k) for k in (1, 10)]
    print(
        f"{loss:20s} recall {recall:.2f}, cost {paid[0]:.2f} with k = 1, {paid[1]:.2f} with k = 10"
    )

# %% [markdown]
# A model that never says "crosswalk" costs 1.00 with k = 1 and 10.00 with k = 10. With k = 1 the
# losses hardly earn anything. With k = 10 the two losses with class weights are cheapest. Focal
# Tversky and Tversky loss are not: they predict many more false pixels than the others. On binary
# masks focal + Dice is cheapest with k = 10 (9.39), and focal Tversky costs more than a model that
# never says "crosswalk" (10.65).
#
# ## Many classes
#
# Our table has six classes, which is not many. For them, the mean IoU where all crossings are
# painted:

# %%
print(picture.contest_table(measured, "common", "mean"))

# %% [markdown]
# The sums lead, with weights and without, and only their leads have p below 0.05. Dice alone is not
# ahead of CE. So CE matters in the sum; the table leaves it open.
#
# ## Little memory
#
# The loss itself needs memory: autograd keeps what it needs for the gradient. `SavedBytes` counts
# it. A Dice loss with a one-hot mask against the library's, which gathers the probability of the
# true class, for the logits of the frame:


# %%
def with_one_hot(logits, target):
    truth = F.one_hot(target, NUM_CLASSES).movedim(-1, 1).float()  # (B, C, H, W)
    p = logits.softmax(dim=1)
    return 1 - (2 * (p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3))).mean()


def held(function, inputs, *rest):
    with SavedBytes(torch.nn.Identity()) as saved:
        result = function(inputs.clone().requires_grad_(), *rest)
        size = saved.megabytes()
    del result
    return size


for name, function in {"one-hot": with_one_hot, "library": DiceLoss()}.items():
    print(f"{name}: {held(function, logits, target):.0f} MB")

# %% [markdown]
# And the model: a U-Net with a batch of two images of 48 × 128 pixels, step by step from the usual
# choices to the light ones.


# %%
def held_by(width, norm, upsampling, mixed=False):
    widths = (width, 2 * width, 4 * width, 8 * width)
    model = UNet(embedding_dim=0, widths=widths, norm=norm, upsampling=upsampling)
    with SavedBytes(model) as saved, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        outputs = model(torch.zeros(2, 3, 48, 128))
        size = saved.megabytes()
    del outputs  # until here they keep the graph alive
    return size


print(f"32 channels, batch norm, transposed {held_by(32, 'batch', 'transposed'):4.0f} MB")
print(f"group norm                          {held_by(32, 'group', 'transposed'):4.0f} MB")
print(f"bilinear upsampling                 {held_by(32, 'group', 'bilinear'):4.0f} MB")
print(f"16 channels                         {held_by(16, 'group', 'bilinear'):4.0f} MB")
print(f"mixed precision                     {held_by(16, 'group', 'bilinear', True):4.0f} MB")

# %% [markdown]
# Fewer channels halve the memory, and mixed precision nearly halves it again. Norm and upsampling
# change next to nothing. Group norm helps where batches are small; that is another problem.
#
# ## The table as measured
#
# | case | on these scenes |
# |---|---|
# | few positives | class weights (√inverse), in CE or in the sum; binary masks: focal + Dice; more images that show the class help more |
# | misses cost more than false alarms | class weights; binary masks: focal + Dice |
# | many classes | CE + Dice; class weights if the rare classes count more than road and background |
# | little memory | fewer channels, mixed precision |
#
# # Part V · Your own data
#
# `DATA` may name the folder of a data set of your own. This cell says how rare its classes are and
# what the formulas make of that.

# %%
DATA = None  # "path/to/data": train/images, train/semantic_masks, train/instance_masks
own = LaneInstanceDataset(DATA or samples(), "train")
print(picture.weight_table(own))

# %% [markdown]
# The trainer takes the method from the config. It counts the training set itself:

# %%
config = LaneSegmentationConfig.preset("own-data").replace(class_weights="sqrt_inverse")
config.to_yaml(folder / "own.yaml")
print(
    next(line for line in (folder / "own.yaml").read_text().splitlines() if "class_weights" in line)
)

# %% [markdown]
# ```bash
# road-topology train lane --config own.yaml --data DATA --output RUN
# ```
#
# `ce_weight` and `dice_weight` stand in the same file.
#
# ### CamVid
#
# CamVid (Brostow et al. 2009) is a public data set with rare classes. For those who have it, in
# either public folder layout:
#
# ```bash
# road-topology convert camvid CAMVID DATA
# ```
#
# We may not ship it. Two small stand-ins in the layout of the SegNet tutorial (`train/`,
# `trainannot/`) show the way; 3 is road there, 4 pavement, 8 a car, 11 unlabelled:

# %%
CAMVID = None  # the folder of your copy
if CAMVID is None:
    CAMVID = folder / "CamVid"
    ids = np.full((48, 64), 3, np.uint8)
    ids[:12], ids[:, :6], ids[20:30, 30:40] = 11, 4, 8
    for number in range(2):
        write_image(CAMVID / "train" / f"0001TP_{number}.png", np.full((48, 64, 3), 90, np.uint8))
        write_image(CAMVID / "trainannot" / f"0001TP_{number}.png", ids)
report = convert_camvid(CAMVID, folder / "camvid", workers=1, progress=False)
print(report.written, "images written")
print(picture.weight_table(LaneInstanceDataset(folder / "camvid", "train")))

# %% [markdown]
# A class that does not occur gets weight 1 and changes no other.

# %% [markdown]
# ## Exercises
#
# An answer leaves its arguments as they are.
#
# ### 1. Median frequency
#
# `masks` is a list of (H, W) integer tensors, 255 where unlabelled. Return the weights by median
# frequency, a tensor (`num_classes`,).
#
# * $f_c$: the pixels of class $c$ in all masks, divided by the labelled pixels of those masks that
#   show it.
# * The weight is the median of $f$ over $f_c$, scaled to a mean of 1 over the classes that occur.
# * A class that occurs nowhere gets weight 1 and does not change the others.
# * Do not call the library.


# %% tags=["exercise:E1_median_frequency"]
def E1_median_frequency(masks, num_classes):
    return ...


# %% tags=["check:E1_median_frequency"]
check("E1_median_frequency", E1_median_frequency)

# %% [markdown] tags=["solution:E1_median_frequency"]
# <details><summary>Solution</summary>
#
# ```python
# def E1_median_frequency(masks, num_classes):
#     counts = [torch.bincount(mask[mask != 255], minlength=num_classes) for mask in masks]
#     pixels = torch.stack(counts)  # (N, C)
#     sizes = pixels.sum(dim=1, keepdim=True) * (pixels > 0)  # (N, C): of the masks that show it
#     n, around = pixels.sum(dim=0), sizes.sum(dim=0)
#     seen = n > 0
#     frequency = n[seen] / around[seen]
#     raw = frequency.median() / frequency
#     weights = torch.ones(num_classes)
#     weights[seen] = raw / raw.mean()
#     return weights
# ```
# The median is in every raw weight, so the scaling cancels it: any other number in its place gives
# the same weights.
# </details>

# %% [markdown]
# ### 2. Who holds the loss
#
# `costs` (B, H, W) is the cross-entropy of each pixel, `target` (B, H, W) its class, 255 where
# unlabelled, and `weights` (C,) the class weights. Return a tensor (C,): the share of each class in
# the weighted cross-entropy. The shares sum to 1. Unlabelled pixels take no part.


# %% tags=["exercise:E1_loss_shares"]
def E1_loss_shares(costs, target, weights):
    return ...


# %% tags=["check:E1_loss_shares"]
check("E1_loss_shares", E1_loss_shares)

# %% [markdown] tags=["solution:E1_loss_shares"]
# <details><summary>Solution</summary>
#
# ```python
# def E1_loss_shares(costs, target, weights):
#     sums = torch.stack([costs[target == c].sum() for c in range(len(weights))])
#     return weights * sums / (weights * sums).sum()
# ```
# </details>

# %% [markdown]
# ### 3. Weighted Dice that stays in [0, 1]
#
# `dice` (C,) is the soft Dice of each class, `present` (C,) a tensor of booleans: which classes
# have a labelled pixel. Return the weighted mean of the losses 1 − Dice over the classes that are
# present, as a tensor with one number. Only the proportions of `weights` (C,) count. If no
# class is present, the loss is zero. Gradients must reach `dice`.


# %% tags=["exercise:E1_weighted_dice"]
def E1_weighted_dice(dice, present, weights):
    return ...


# %% tags=["check:E1_weighted_dice"]
check("E1_weighted_dice", E1_weighted_dice)

# %% [markdown] tags=["solution:E1_weighted_dice"]
# <details><summary>Solution</summary>
#
# ```python
# def E1_weighted_dice(dice, present, weights):
#     seen = weights * present
#     total = seen.sum()
#     return (seen * (1 - dice)).sum() / (total if total > 0 else 1.0)
# ```
# </details>

# %% [markdown]
# ### 4. Is it more than chance?
#
# `first` and `second` are NumPy arrays (S,): the IoU of two losses, seed by seed. Return the lower
# and the upper end of the 95 % interval of the mean of `first` minus `second`.
#
# * The seeds are paired.
# * Few seeds need Student's t distribution: `stats.t.ppf(0.975, degrees of freedom)` of `scipy`.


# %% tags=["exercise:E1_paired_interval"]
def E1_paired_interval(first, second):
    return ...


# %% tags=["check:E1_paired_interval"]
check("E1_paired_interval", E1_paired_interval)

# %% [markdown] tags=["solution:E1_paired_interval"]
# <details><summary>Solution</summary>
#
# ```python
# def E1_paired_interval(first, second):
#     from scipy import stats
#
#     difference = first - second
#     n = len(difference)
#     half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)
#     return difference.mean() - half, difference.mean() + half
# ```
# An interval that excludes 0 and a paired t-test with p < 0.05 say the same.
# </details>

# %% [markdown]
# ## What we claimed
#
# What the text says in words:

# %% tags=["folded"]
# @title Claims of this notebook, asserted: weights and losses
about = {"rtol": 1e-3, "atol": 1e-5}
sums = inverse * pixels
assert_close(sums, sums[:1].expand(4), **about)  # "the same sum of weights"
assert_close(root[2] / root[0], torch.tensor(10.0), **about)  # "10 times the weight"
assert effective[1] / effective[0] < 1.01  # "the same weight"
assert_close(median[3] / median[2], torch.tensor(0.5), **about)  # "half of its weight"
assert 0.0275 < two[0] < 0.0285 and 1.965 < two[1] < 1.975
for values in (inverse, root, effective, median, two, *weights.values()):
    assert_close(values.sum(), torch.tensor(float(len(values))), **about)
    assert values.max() < len(values)  # "no weight exceeds C"
assert counts.pixels.min() > 10_000 and weights["effective_number"].sub(1).abs().max() < 0.01
assert 1.7 < shrinks < 2.3  # "About two times"
assert sampled.standard_error.argmax() == 2  # "the widest error bars"
assert set(few.standard_error.topk(2).indices.tolist()) == {CROSSWALK, SIDEWALK}
assert 0.895 < roads["√inverse"] < 0.905 and 31.6 / 1.41 > 22
assert abs(means["inverse"] - 0.3) < 1e-6 and means["√inverse"] < 0.11  # "stays near 0.1"
of_frequent = {name: float(bar[[BACKGROUND, ROAD]].sum()) for name, bar in bars.items()}
assert 0.78 < of_frequent["share of the pixels"] < 0.80  # "79 % of its pixels"
assert 0.05 < of_frequent["of the cost, inverse"] < 0.065  # "6 % of the loss"
assert list(of_frequent.values()) == sorted(of_frequent.values(), reverse=True)
assert 0.28 < dice_share < 0.305  # "29 %"
undecided = torch.zeros_like(logits, requires_grad=True)
at_start = [
    torch.autograd.grad(loss(undecided, target), undecided)[0].norm()
    for loss in (CombinedLoss(0.6, 0.0), CombinedLoss(0.0, 0.4))
]
assert 0.08 < at_start[1] / sum(at_start) < 0.095  # "Dice has 9 %"
assert all(abs(favour[name] - 1) < 1e-6 for name in ("CE", "focal"))  # "like a common one"
assert of_losses["focal"]["easy, rare"] < 0.001 * of_losses["focal"]["hard, rare"]
easy = {name: of["easy, rare"] / of["easy, common"] for name, of in of_losses.items()}
assert abs(easy["weighted CE"] - favour["weighted CE"]) < 1e-3  # "whatever p"
assert 5 < favour["weighted CE"] < 5.3
for name in ("Dice", "Tversky"):
    assert 19 < favour[name] < 24 and abs(easy[name] - favour[name]) < 0.1  # "about 20"
hard = {name: of["hard, rare"] for name, of in of_losses.items()}
assert max(hard, key=hard.get) == "combined + weights"
plain, squared = (lesson.pixel_gradients(DiceLoss(square_denominator=how)) for how in (False, True))
assert all(abs(squared[kind] - plain[kind]) > 0.01 for kind in plain)
assert 3 < squared["hard, rare"] / plain["hard, rare"] < 4
commons = lesson.GRADIENT_PIXELS - lesson.RARE_PIXELS
p = torch.tensor([1 - lesson.EASY, 1 - lesson.HARD]).repeat(commons // 2) / (NUM_CLASSES - 1)
assert jumps["squared"] > 2 * jumps["plain"]  # "more than twice as far"
assert jumps["automatic"] > 1.5 * jumps["plain"] and shaky.squared and not steady.squared
ce_of, dice_of_false, boundary_of = np.transpose(of_false)
assert np.ptp(ce_of) < 1e-6 and np.ptp(dice_of_false) < 1e-6  # "the same for all three"
assert (np.diff(boundary_of) > 0.005).all()  # "rises with the distance"
assert 290 < p.sum() < 310 and 38 < p.square().sum() < 42 and commons == 4056
assert_close(torch.tensor(with_empty), torch.tensor([10 / 22, 20 / 32]), **about)
unnormalised = gradient(
    lambda x, y: sum(w[c] * DiceLoss(class_weights=row)(x, y) for c, row in enumerate(one_class))
)
assert_close(unnormalised, 6 * gradient(DiceLoss(class_weights=w)), rtol=1e-2, atol=1e-8)

# %% tags=["folded"]
# @title Claims of this notebook, asserted: the contest
assert (lesson.STEPS, lesson.BATCH, lesson.SIZE[0] - lesson.TOP) == (160, 8, 48)
assert [*lesson.RARITIES.values()] == [1, 3, 10] and (
    measured["test_scenes"],
    len(lesson.LOSSES),
) == (160, 7)
gains = {
    (loss, rarity): lesson.gain(measured, loss, rarity)
    for loss in lesson.LOSSES
    for rarity in lesson.RARITIES
}
ours = [gains["combined + weights", rarity] for rarity in lesson.RARITIES]
assert min(ours[1:]) > 5 and max(ours[1:]) < 7  # "about 6 points"
low, high = lesson.row_of(measured, "combined + weights", "common")["minus_ce"]["crosswalk"]
assert low < 0 < high  # "the interval of the difference holds 0"
of_mean = [
    lesson.gain(measured, "combined + weights", rarity, "mean") for rarity in lesson.RARITIES
]
assert min(of_mean) > 1 and max(of_mean) < 3  # "1 to 3 points"


def mean_iou(loss, rarity, name="crosswalk"):
    return np.mean(lesson.row_of(measured, loss, rarity)["iou"][name])


falls = [mean_iou(loss, "common") - mean_iou(loss, "very rare") for loss in lesson.LOSSES]
assert min(falls) > 0.18 and max(falls) < 0.30  # "by 18 to 30 points"
for loss in ("weighted CE", "combined + weights", "CE + Dice"):
    row = lesson.row_of(measured, loss, "rare")
    assert (
        row["minus_ce"]["crosswalk"][0] > 0 and row["p"]["crosswalk"] > 0.05
    )  # "likely, not proven"
    assert 1.5 < gains[loss, "rare"] < 2.5 if loss == "CE + Dice" else 4 < gains[loss, "rare"] < 6
assert len([row for row in measured["rows"] if "p" in row]) == 20  # "20 comparisons"
low, high = lesson.row_of(measured, "Dice", "rare")["minus_ce"]["crosswalk"]
assert low < 0 < high  # "not clearly ahead"
assert lesson.row_of(measured, "focal", "rare")["minus_ce"]["crosswalk"][1] < 0
of_road = {loss: lesson.row_of(measured, loss, "rare")["iou"]["road"] for loss in lesson.LOSSES}
assert sum(value < 0.01 for value in of_road.pop("Tversky")) == 1  # "with one of the seeds"
assert min(min(values) for values in of_road.values()) > 0.5
row = lesson.row_of(measured, "combined + weights", "rare")
assert all(row["minus_ce"][name][0] > 0 for name in CLASS_NAMES[2:])  # "gain as well"
assert -1.2 < lesson.gain(measured, "combined + weights", "rare", "background") < -0.4
assert -2.6 < lesson.gain(measured, "combined + weights", "rare", "road") < -1.6
for rarity in lesson.RARITIES:
    ends = lesson.row_of(measured, "combined + weights", rarity)["minus_ce"]
    assert ends["crosswalk"][1] < 0.33 and ends["mean"][1] < 0.071
behind = lesson.row_of(measured, "weighted CE", "common")
assert np.allclose(behind["minus_ce"]["crosswalk"], [-0.048, -0.007], atol=5e-4)
assert 0.14 < behind["p"]["crosswalk"] < 0.16
of_ce = lesson.errors_of(measured, "CE", "rare")
for loss in ("weighted CE", "combined + weights"):
    recall, false = lesson.errors_of(measured, loss, "rare")
    assert recall > 1.3 * of_ce[0] and false > 2 * of_ce[1]  # "at least twice as many"
few_gain = lesson.gain(measured, "focal + Dice", "very rare")
for loss in ("weighted CE", "combined + weights", "CE + Dice"):
    assert gains[loss, "very rare"] > few_gain + 0.5
every_loss = (*lesson.LOSSES, *lesson.TABLE_LOSSES)
# Binary masks.
errors = {loss: lesson.errors_of(of_binary, loss, "very rare") for loss in every_loss}
assert errors["CE"][0] < 0.01 and 0.075 < errors["focal + Dice"][0] < 0.085
for loss in ("Dice", "Tversky", "focal Tversky"):
    recall, false = errors[loss]
    assert 0.205 < recall < 0.31 and 2.8 < false < 3.8
binary = {row["loss"]: {k: np.mean(v) for k, v in row["iou"].items()} for row in of_binary["rows"]}
assert max(binary, key=lambda loss: binary[loss]["mean"]) == "focal + Dice"
assert max(row["crosswalk"] for row in binary.values()) < 0.08
alike = [binary[loss]["crosswalk"] for loss in ("focal + Dice", "Dice", "Tversky", "focal Tversky")]
assert np.ptp(alike) < 0.025
ten = {loss: lesson.cost_of_errors(of_binary, loss, "very rare", 10) for loss in every_loss}
assert min(ten, key=ten.get) == "focal + Dice" and abs(ten["focal + Dice"] - 9.39) < 0.005
assert abs(ten["focal Tversky"] - 10.65) < 0.005
cost = {
    k: {loss: lesson.cost_of_errors(measured, loss, "very rare", k) for loss in every_loss}
    for k in (1, 10)
}
assert min(cost[1].values()) > 0.9  # "hardly earn anything"
cheapest = sorted(cost[10], key=cost[10].get)[:2]
assert set(cheapest) == {"weighted CE", "combined + weights"}
false_of = {loss: lesson.errors_of(measured, loss, "very rare")[1] for loss in every_loss}
assert set(sorted(every_loss, key=false_of.get)[-2:]) == {"Tversky", "focal Tversky"}
ranked = sorted(lesson.LOSSES, key=lambda loss: mean_iou(loss, "common", "mean"))
assert set(ranked[-2:]) == {"CE + Dice", "combined + weights"}  # "The sums lead"
common = [row for row in measured["rows"] if row["rarity"] == "common" and "p" in row]
assert {row["loss"] for row in common if row["p"]["mean"] < 0.05} == set(ranked[-2:])
assert mean_iou("Dice", "common", "mean") < mean_iou("CE", "common", "mean") + 0.005
light = [held_by(32, "batch", "transposed"), held_by(32, "group", "bilinear")]
light += [held_by(16, "group", "bilinear"), held_by(16, "group", "bilinear", True)]
assert abs(light[1] / light[0] - 1) < 0.05 and abs(light[2] / light[1] - 0.5) < 0.03
assert 0.5 < light[3] / light[2] < 0.65  # "nearly halves it again"
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Where the document differs
#
# <details><summary>What two documents state, where it is tested, and what was measured</summary>
#
# This elective treats two Korean documents, one on the combined loss and class weights ("weights"),
# one compendium of segmentation ("compendium").
#
# | the document states | tested in | measured |
# |---|---|---|
# | weights: inverse frequency 0.105 and 52.6, "500 times"; square root 1.41 and 31.6, "22 times" | first cell below | holds |
# | weights: 1.41 and 100, divided by their mean, are 0.8 and 58.2 | "From counts to weights" | 0.028 and 1.97 |
# | weights: 0.1 · 1.41 and 0.5 · 31.6 average to 0.3, "balanced" | "Who holds the loss?" | 0.109, and the road holds 90 %; 0.3 belongs to inverse frequency |
# | weights: effective number with β = 0.9999 | "The weights of a data set" | on pixel counts all weights are 1 |
# | weights: a sample of 1,000 images is accurate enough | "A sample is often enough" | depends on how many of them show the class; the error bar tells |
# | weights: a cache named after the method | "A cache that misses new labels" | returns old weights when labels change |
# | weights: Dice = 0.947 and CE = 0.29 for 9,000 of 10,000 pixels | first cell below | holds |
# | weights: weighted Dice is 1 − Σ w · Dice | "Weights inside Dice" | −52.1 for a good result; a weighted mean stays in [0, 1] |
# | weights: 60 % of the gradient comes from CE, 40 % from Dice | "The sum taken apart" | 71 % and 29 % on the frame, 91 % and 9 % at the start |
# | weights: better Dice per image | "Per image or per batch" | false pixels in images without the class cost nothing then |
# | weights: the squared denominator may be more stable | "The squared denominator" | hard rare pixels get more than three times the gradient |
# | weights: take it by default, or automatically when training is unstable | "The squared denominator" | in a shaky training Dice jumps further with it |
# | compendium: rough boundaries, boundary loss | "The boundary loss" | a false pixel costs more the farther it is from the outline; CE and Dice do not tell; no contest was run |
# | weights: minority classes gain 33 points, the mean 7.1 | "Three rarities" | rare crosswalks gain about 6 points, common ones nothing; the mean gains 1 to 3 |
# | compendium: mean of (1 − Dice) · w with weights of mean 1 | first cell below | holds: it is the weighted mean |
# | compendium: few positives, focal + Dice | "Few positives" | six classes: behind the losses with weights and behind CE + Dice; binary: highest mean IoU |
# | compendium: costly misses, focal Tversky | "Misses that cost more" | most false pixels of all; losses with class weights cost least, on binary masks focal + Dice |
# | compendium: many classes, Dice with class weights, with or without CE | "Many classes" | with CE ahead of CE alone, without it not |
# | compendium: little memory, fewer channels, light upsampling, group norm, mixed precision | "Little memory" | fewer channels and mixed precision halve it; upsampling and norm change next to nothing |
#
# </details>

# %% tags=["folded"]
# @title Measured: the documents' arithmetic
n, total = torch.tensor([500_000.0, 1_000.0]), 1_000_000
assert_close(total / (19 * n), torch.tensor([0.105, 52.6]), rtol=0.01, atol=0)
roots = (total / n).sqrt()
assert_close(roots, torch.tensor([1.41, 31.6]), rtol=0.01, atol=0)
assert n[0] / n[1] == 500 and 22 < roots[1] / roots[0] < 23
assert abs(2 * 9000 / (9000 + 10_000) - 0.947) < 0.001
assert abs((9000 * 0.1 + 1000 * 2.0) / 10_000 - 0.29) < 0.001
assert_close(((1 - dice_of) * w).mean(), library, rtol=1e-4, atol=1e-5)
print("[OK] the rows of the table that name this cell")

# %% [markdown]
# ## Next
#
# **E2 · U-Net and large images**: another model for the same trainer, and images larger than the
# memory.

# %%
strip("E1", closing=True, photo=PHOTO)
progress("E1")
