# %% [markdown]
# # 4 · Losses: what the model is asked to want
#
# **You will be able to** write cross-entropy, Dice, focal and Tversky in a few lines each, say what Dice does for rare
# classes in an experiment, and build the discriminative loss term by term, with its forces and its limits.
#
# **You need** notebooks 1 to 3.
#
# **Time** to run: about a minute on two CPU cores; a GPU is not used. To work through: three hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/04_losses.ipynb`, and write the same address into `REPOSITORY` below.
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

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import reveal, samples
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.playground import LOSSES, EmbeddingPlayground, Margins, loss_curves
from roadtopo_lib.course.widgets import EmbeddingSeparation, LossShaper, MarginsExplorer
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.labels import BACKGROUND, CLASS_NAMES, LANE_MARKING, NUM_CLASSES, ROAD
from roadtopo_lib.losses import CombinedLoss, DiceLoss, DiscriminativeLoss, FocalLoss, TverskyLoss, weights_from_counts
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.segformer import SegFormerModel, upsample_to
from roadtopo_lib.viz import color_semantic

# %% [markdown]
# A *loss* (손실) says in one number how wrong the model is. What it does not see, the model will not learn. Each of our
# two heads has its own.

# %% [markdown]
# # Part I · Which class?
#
# ## Cross-entropy, by hand
#
# Start with an image of two pixels and three classes. A *logit* is a score without bounds; softmax turns the scores
# of a pixel into probabilities. *Cross-entropy* (교차 엔트로피) is −log of the probability of the true class, averaged
# over the pixels.

# %%
logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])[None, :, None, :]  # (B=1, C=3, H=1, W=2)
target = torch.tensor([[[0, 1]]])  # (1, 1, 2)
p_true = logits.softmax(dim=1).gather(1, target[:, None])[:, 0]  # (B, C, H, W) → (B, H, W)
by_hand = -p_true.log().mean()
assert_close(by_hand, F.cross_entropy(logits, target))
print(f"p of the true class {p_true.flatten().numpy()}, mean of -log p {by_hand:.4f}")

# %% [markdown]
# The second pixel costs far more: its true class got a fifth of the probability.

# %% [markdown]
# ## Few pixels, little voice
#
# The mean runs over *pixels*. A class with few pixels has little say in it. How few are they in our data?

# %% [markdown]
# > **Predict first.** A lazy model calls every pixel "background" or "road", and gets those right. It never finds a
# > lane, a crosswalk or a sidewalk. What is its pixel accuracy, in percent?

# %%
my_guess = None
scenes = LaneInstanceDataset(samples(), "train")
counts, image_counts = count_class_pixels(scenes, NUM_CLASSES)  # pixels of a class; of the images that show it
share = (counts / counts.sum()).numpy()
lazy_accuracy = share[BACKGROUND] + share[ROAD]
reveal(my_guess, 100 * lazy_accuracy, "%")
figure, ax = plt.subplots(figsize=(7, 2.6))
ax.bar_label(ax.bar(CLASS_NAMES, 100 * share), fmt="%.1f")
ax.set(title="Two classes hold nearly all pixels", ylabel="share of pixels (%)", ylim=(0, 85))
plt.show()

# %% [markdown]
# We drive by the last four bars, the *rare classes*. The losses below are answers to this *class imbalance*
# (클래스 불균형).

# %% [markdown]
# ## Dice: compare areas, not pixels
#
# The *Dice coefficient* of a class is twice the overlap of prediction and truth, divided by the sum of both areas.
# A hard mask has no gradient; so *soft* Dice adds up probabilities in place of pixels, and 1 − Dice is a loss. Each
# class counts once, however small it is.


# %%
def soft_dice(probabilities, target, smooth=1.0):
    truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1).float()  # (B, H, W) → (B, C, H, W), 0 or 1
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))  # (C,)
    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))  # (C,)
    return (2 * overlap + smooth) / (areas + smooth)


logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
dice = soft_dice(logits.softmax(dim=1), target)
assert_close(1 - dice.mean(), DiceLoss(smooth=1.0)(logits, target))
two_classes = target.clamp(max=1)  # classes 2 and 3 occur nowhere: the library leaves them out of the mean
assert_close(1 - soft_dice(logits.softmax(dim=1), two_classes)[:2].mean(), DiceLoss()(logits, two_classes))
dice

# %% [markdown]
# `smooth` is counted in pixels. It keeps 0/0 away for a class that is neither present nor predicted. The library also
# leaves classes without any true pixel out of the mean.

# %% [markdown]
# > **Predict first.** A lane covers 100 of 10,000 pixels. The model says p = 0.5 for "lane" *everywhere*. What is the
# > soft Dice of the lane?

# %%
my_guess = None
half = torch.full((1, 2, 100, 100), 0.5)
one_percent = torch.zeros(1, 100, 100, dtype=torch.int64)
one_percent[0, :, 0] = 1
reveal(my_guess, float(soft_dice(half, one_percent, smooth=0.0)[1]))

# %% [markdown]
# Nearly zero: the 9,900 false halves fill the denominator. The loss of that class is nearly 1, as large as it gets.

# %% [markdown]
# ### The guide says / we measured: "the gradient of Dice is stable"
#
# The guide's table calls the gradient of cross-entropy changing in scale and that of Dice stable. Let us measure it.

# %% [markdown]
# In an image of 10,000 pixels a lane covers 10, or 1000. The model gives each lane pixel the same p. How hard does
# each loss pull at *one* of them: how large is the gradient at its logit?


# %%
def pull_on_a_lane_pixel(loss_function, lane_pixels, p, background_logit):
    target = (torch.arange(10_000) < lane_pixels).long().view(1, 100, 100)
    logits = torch.zeros(1, 2, 100, 100)
    logits[:, 1] = torch.where(target == 1, torch.logit(p), background_logit)
    logits.requires_grad_()
    loss_function(logits, target).backward()
    return float(logits.grad[0, 1, 0, 0].abs())


# %% [markdown]
# Let p run from 0.02 to 0.98. Twice: while the background is *undecided* (p = 0.5 for "lane" everywhere), and when
# it is *settled* (logit −8 for "lane").

# %% [markdown]
# > **Predict first.** Cross-entropy pulls harder the more wrong a pixel is. Where does Dice pull hardest on the small
# > lane, once the background is settled: in the lowest third of p ("near 0"), in the middle third ("in between"), or in
# > the highest ("near 1")?

# %%
my_guess = None
ps = torch.linspace(0.02, 0.98, 49)
curves = {}
for background in (0.0, -8.0):
    for name, loss in {"cross-entropy": F.cross_entropy, "Dice": DiceLoss()}.items():
        for size in (10, 1000):
            curve = [pull_on_a_lane_pixel(loss, size, p, background) for p in ps]
            curves[background, name, size] = torch.tensor(curve)
peak = ps[curves[-8.0, "Dice", 10].argmax()]
reveal(my_guess, ["near 0", "in between", "near 1"][int(3 * peak)])

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
for (background, name, size), curve in curves.items():
    color, style = {"cross-entropy": "C0", "Dice": "C1"}[name], {10: "-", 1000: "--"}[size]
    axes[int(background < 0)].semilogy(ps, curve, style, color=color, label=f"{name}, lane of {size} pixels")
axes[0].set(title="Background undecided: size hardly matters", xlabel="p of the lane pixels", ylabel="|gradient|")
axes[1].set(title="Background settled: Dice prefers the small lane", xlabel="p of the lane pixels")
axes[0].legend(fontsize="small")
plt.show()

# %% [markdown]
# The scale is logarithmic, so equal steps are equal factors. What the curves show:

# %% [markdown]
# * **Cross-entropy** falls as p rises. Its two lines lie on each other, however large the lane.
# * **Dice** is a hump. It fades at *both* ends: near p = 1, where nothing is left to do, and near p = 0, where much is.
#   (Softmax moves p by p · (1 − p) per unit of logit; cross-entropy's log undoes the p, Dice does not.)

# %% [markdown]
# * **Undecided**, Dice is the weaker one below p = 0.4, and never much more than twice as strong above.
# * **Settled**, the small lane feels Dice more than ten times as strongly as cross-entropy at every p shown; the large
#   lane not even three times, and at small p less.

# %% [markdown]
# "Stable" fits neither. Cross-entropy is deaf to the size of a region. Dice is not, once the background is settled, and
# that comes early in a training. That is its use on rare classes.

# %% [markdown]
# ## Letters that return
#
# From here on α, β and γ mean something else in each paper. We always name whose they are. The table is for coming
# back to: each row is explained where it is first used, below.
#
# | we write | it is | in the library |
# |---|---|---|
# | focal α | a factor for each class | `FocalLoss(class_weights=…)` |
# | focal γ | how fast easy pixels lose their voice | `FocalLoss(gamma=…)` |
# | Tversky α, β | price of a false pixel, of a missed one | `TverskyLoss(alpha=…, beta=…)` |
# | effective-number β | how soon more pixels stop mattering | `weights_from_counts(beta=…)` |
# | term weights α, β, γ | how much pull, push, regularisation count (Part II) | config `alpha`, `beta`, `gamma` |

# %% [markdown]
# The weights of the two heads have names instead: `semantic_weight` and `instance_weight`, by default 1.0 and 0.5 as
# in the guide.

# %% [markdown]
# ## Focal: less voice for what is easy
#
# *Focal loss* multiplies the cross-entropy of a pixel by (1 − p)^γ, with p the probability of its true class and γ the
# focal γ. A pixel that is already right is turned down. With focal γ = 0 it is cross-entropy again.


# %%
def focal(logits, target, gamma=2.0):
    cross_entropy = F.cross_entropy(logits, target, reduction="none")  # one number for each pixel: (B, H, W)
    p = (-cross_entropy).exp()
    return ((1 - p) ** gamma * cross_entropy).mean()


assert_close(focal(logits, target), FocalLoss(gamma=2.0)(logits, target))
assert_close(focal(logits, target, gamma=0.0), F.cross_entropy(logits, target))

# %% [markdown]
# ### The guide says / we measured: the weights of focal γ = 2
#
# The guide lists the factor (1 − p)² at p = 0.9, 0.5 and 0.1 as 0.01, 0.25 and 0.81. It is right. The picture shows
# other focal γ, too:

# %%
factors = (1 - torch.tensor([0.9, 0.5, 0.1])) ** 2
print([round(f, 4) for f in factors.tolist()])
p = torch.linspace(0.01, 1, 200)
figure, ax = plt.subplots(figsize=(7, 2.8))
for gamma, style in [(0, "-"), (1, "--"), (2, "-."), (5, ":")]:
    ax.plot(p, -((1 - p) ** gamma) * p.log(), style, label=f"focal γ = {gamma}")
ax.set(
    title="The larger focal γ, the less an easy pixel counts", xlabel="p of the true class", ylabel="loss", ylim=(0, 3)
)
ax.legend()
plt.show()

# %% [markdown]
# ## Tversky: choose your mistake
#
# A *false positive* (위양성) is painted but not there, a *false negative* (위음성) is there but missed. Dice counts
# both alike. The *Tversky index* gives each a price: Tversky α and Tversky β. Is a missed crosswalk worse than a
# phantom one? Then β > α.


# %%
def tversky(probabilities, target, alpha, beta, smooth=1.0):
    truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1).float()  # (B, C, H, W)
    hits = (probabilities * truth).sum(dim=(0, 2, 3))  # (C,)
    false_positives = (probabilities * (1 - truth)).sum(dim=(0, 2, 3))
    false_negatives = ((1 - probabilities) * truth).sum(dim=(0, 2, 3))
    return (hits + smooth) / (hits + alpha * false_positives + beta * false_negatives + smooth)


probabilities = logits.softmax(dim=1)
value = 1 - tversky(probabilities, target, 0.3, 0.7).mean()
assert_close(value, TverskyLoss(alpha=0.3, beta=0.7, smooth=1.0)(logits, target))
# With both prices ½ Tversky is Dice. `smooth` counts hits here and areas there: hence the factor 2.
assert_close(tversky(probabilities, target, 0.5, 0.5, smooth=0.5), soft_dice(probabilities, target))

# %% [markdown]
# ### Shape them yourself
#
# Below, an image of 1000 pixels, some of a rare class. A rare pixel's true class gets the *probability* on the first
# slider; that of all other pixels gets *others right*, 0.9 at the start. The right picture shows the pull on one rare
# pixel: minus the gradient by its logit for the rare class.
#
# > **Predict first.** Make the class rarer and rarer. Which losses pull a single pixel harder then, which as before?

# %%
LossShaper()

# %% [markdown]
# Cross-entropy and focal divide by all pixels: their pull on one pixel does not change. Dice and Tversky compare with
# the area painted and the true area. So they pull harder on a small class, yet much harder only if few other pixels are
# painted by mistake: set *others right* to 0.99 and to 0.5. Near probability 0 and near 1 both pulls vanish.

# %% [markdown]
# ## Combined, with class weights
#
# Training uses a sum: 0.6 · cross-entropy + 0.4 · Dice.

# %%
loss, parts = CombinedLoss(ce_weight=0.6, dice_weight=0.4).with_parts(logits, target)
assert_close(loss, 0.6 * F.cross_entropy(logits, target) + 0.4 * DiceLoss()(logits, target))
sorted(parts)

# %% [markdown]
# *Class weights* (클래스 가중치) give rare classes a larger factor. Four recipes turn pixel counts into
# weights, scaled to a mean of 1:

# %% [markdown]
# * `inverse`: one over the class's share; `sqrt_inverse`: its square root, milder;
# * `effective_number`: each further pixel counts a little less than the one before;
# * `median_frequency`: like `inverse`, but the share is taken in images that show the class.

# %%
methods = ["inverse", "sqrt_inverse", "effective_number", "median_frequency"]
figure, ax = plt.subplots(figsize=(8, 2.8))
for i, method in enumerate(methods):
    weights = weights_from_counts(counts, method, image_pixels=image_counts)
    ax.bar(np.arange(NUM_CLASSES) + 0.2 * (i - 1.5), weights, 0.2, label=method)
ax.set(title="Effective-number β = 0.9999 does nothing here", ylabel="weight", ylim=(0, 3.6))
ax.set_xticks(range(NUM_CLASSES), CLASS_NAMES)
ax.legend(ncols=2)
plt.show()
sqrt_inverse = weights_from_counts(counts, "sqrt_inverse")
by_hand = (counts.sum() / counts).sqrt()
assert_close(sqrt_inverse, by_hand / by_hand.mean(), check_dtype=False)

# %% [markdown]
# The bars of `effective_number` all stand near 1. Why? Its number for n pixels, (1 − βⁿ)/(1 − β), flattens beyond about
# 1/(1 − β) = 10,000 pixels, and our rarest class has more. Such an effective-number β suits counts of *images*. For
# counts of pixels it must be closer to 1.

# %% [markdown]
# The config's default is `class_weights: None`, no weights. What they do to a training, the contest below shows.

# %% [markdown]
# ### The guide says / we measured: weighted Dice, and "balanced"
#
# A second source of this course, a text on class weights, subtracts a weighted *sum* of Dice from 1. Its weights, 0.8
# for road and 58.2 for pedestrians, are "1.41 and 100 divided by their mean". And with losses of 0.1 on road and 0.5 on
# a thousandth of the pixels, weighed by 1.41 and 31.6, its average comes to "0.3, balanced".

# %%
their_weights, dice = torch.tensor([0.8, 58.2]), torch.tensor([0.9, 0.9])  # a good result on both classes
as_written = 1 - (their_weights * dice).sum()
as_mean = (their_weights * (1 - dice)).sum() / their_weights.sum()
print(f"Dice loss as written {as_written:.1f}; as a weighted mean {as_mean:.2f}")
mean_one = torch.tensor([1.41, 100.0]) / torch.tensor([1.41, 100.0]).mean()
print("1.41 and 100, divided by their mean:", mean_one.numpy().round(3))
votes = torch.tensor([0.999 * 1.41, 0.001 * 31.6])  # share of the pixels × weight
average = (votes * torch.tensor([0.1, 0.5])).sum() / votes.sum()
road_share = votes[0] * 0.1 / (votes[0] * 0.1 + votes[1] * 0.5)
print(f"average {average:.3f}, of which road holds {road_share:.0%}")

# %% [markdown]
# A loss of −52 for a good result: whoever reads its curve learns nothing. A weighted mean stays in [0, 1], and is what
# `CombinedLoss` uses. The other two numbers do not follow from their own formula; nothing is balanced there.

# %% [markdown]
# ## Why? Cross-entropy against Dice against both
#
# The guide says: cross-entropy is weak on rare classes, Dice is strong but converges slowly, the sum is best. Let a
# small experiment decide.

# %% [markdown]
# The encoder of a trained model stays *frozen*: its weights do not move, and its features are computed once. A new
# head learns on top of them, with one loss or another.

# %%
encoder = SegFormerModel.load(samples() / "tiny.safetensors")
evaluation = build_transform(LaneSegmentationConfig.preset("tiny"), train=False)


def frozen_features(split):
    dataset = LaneInstanceDataset(samples(), split, evaluation)
    items = [dataset[index] for index in range(len(dataset))]
    with torch.no_grad():
        maps = encoder.encode(torch.stack([item["image"] for item in items]))  # four, at 1/4 … 1/32
    stacked = torch.cat([upsample_to(m, maps[0].shape[2:]) for m in maps], dim=1)  # (B, 352, H/4, W/4)
    return stacked, torch.stack([item["semantic_mask"] for item in items])[:, ::2, ::2]  # (B, H/2, W/2), for speed


features, masks = frozen_features("train")
val_features, val_masks = frozen_features("val")

# %% [markdown]
# The head is two 1 × 1 convolutions. The seed decides where its weights start; the batches are always the same.


# %%
def train_head(loss_function, seed, steps=60, look_at=()):
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Conv2d(features.shape[1], 32, 1), nn.ReLU(), nn.Conv2d(32, NUM_CLASSES, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    predictions = []
    for step in range(1, steps + 1):
        batch = torch.arange(8) + 8 * (step % 6)
        loss = loss_function(upsample_to(head(features[batch]), masks.shape[1:]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in look_at or step == steps:
            with torch.no_grad():
                predictions.append(upsample_to(head(val_features), masks.shape[1:]).argmax(dim=1))
    return predictions


# %% [markdown]
# The judge: the *IoU* (intersection over union) of a class is the number of pixels that prediction and truth share,
# divided by the number of pixels that at least one of them holds.


# %%
def iou_per_class(prediction):
    both = [((prediction == c) & (val_masks == c)).sum() for c in range(NUM_CLASSES)]
    either = [((prediction == c) | (val_masks == c)).sum() for c in range(NUM_CLASSES)]
    return torch.tensor(both) / torch.tensor(either)


# %% [markdown]
# Three seeds for each loss, and two looks: after 15 steps and after 60.

# %% [markdown]
# > **Predict first.** After 15 steps, which loss has the highest IoU on lane markings: "cross-entropy", "Dice" or
# > "both"? (A fourth runs beside them: both with class weights.)

# %% tags=["nbval-ignore-output"]
my_guess = None
contest = {"cross-entropy": F.cross_entropy, "Dice": DiceLoss(), "both": CombinedLoss()}
contest["both, weighted"] = CombinedLoss(class_weights=sqrt_inverse)
iou = {}  # of each loss: (3 seeds, 2 looks, 6 classes)
for name, loss in contest.items():
    runs = [train_head(loss, seed, look_at=(15,)) for seed in range(3)]
    iou[name] = torch.stack([torch.stack([iou_per_class(prediction) for prediction in run]) for run in runs])
early, late = ({name: value[:, look].mean(dim=0) for name, value in iou.items()} for look in range(2))
unweighted = ("cross-entropy", "Dice", "both")
reveal(my_guess, max(unweighted, key=lambda name: early[name][LANE_MARKING]))
assert early["Dice"][LANE_MARKING] == max(early[name][LANE_MARKING] for name in unweighted)

# %%
figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True)
for look, (ax, title) in enumerate(
    zip(axes, ["After 15 steps: Dice or class weights find rare classes first", "After 60 steps: that lead has shrunk"])
):
    for i, ((name, value), hatch) in enumerate(zip(iou.items(), ("", "//", "..", "xx"))):
        middle, spread = value[:, look].mean(dim=0), value[:, look].std(dim=0)
        ax.bar(np.arange(6) + 0.2 * (i - 1.5), middle, 0.2, yerr=spread, capsize=2, label=name, hatch=hatch)
    ax.set(title=title, ylabel="IoU", ylim=(0, 1))
axes[0].legend(ncols=2)
axes[1].set_xticks(range(NUM_CLASSES), CLASS_NAMES)
plt.show()

# %% [markdown]
# Bars are means of the seeds, whiskers their standard deviation.

# %% [markdown]
# * **Early**, Dice is ahead of cross-entropy in each of the three seeds, averaged over the rare classes: clearly on
#   lane marking, crosswalk and lane boundary; on sidewalk the whiskers overlap. On background and road it keeps up: the
#   background is settled by then.
# * The guide is right on rare classes; "slow" we do not see.

# %% [markdown]
# * **Late**, a few hundredths of IoU are left of that lead, and on lane marking next to nothing. On background and
#   road, Dice and cross-entropy are close together.

# %% [markdown]
# * **The sum** begins between the two on rare classes. That it is best we do not see: after 60 steps it clearly beats
#   the better of the two in no class.
# * **Class weights** help the sum on all rare classes at first, about up to Dice. In the end they cost in every class:
#   a missed rare pixel costs more than a wrongly painted one, so the head paints too many.

# %% [markdown]
# Three caveats: 60 steps are no full training; the features come from a model trained with the sum; and a seed changes
# only where the head starts.

# %% [markdown]
# ## Trap: ignoring the background
#
# Pixels whose class is `ignore_index` take no part in the loss. The guide advises `ignore_index=0`, so that the
# background is "not over-penalised".

# %% [markdown]
# **Broken.** The same head, with background left out of the loss:


# %% tags=["trap:broken", "nbval-ignore-output"]
def lost_background(prediction):
    return float((prediction != BACKGROUND)[val_masks == BACKGROUND].float().mean())


painted = train_head(CombinedLoss(ignore_index=BACKGROUND), seed=0)[-1]
print(f"{lost_background(painted):.0%} of the background is called something else")

# %% [markdown]
# **Why.** No pixel that counts has the true class 0, so its probability is pushed down everywhere; and what the model
# says where the background is costs nothing. Background is a class like the others; only 255 means "nobody knows".

# %% [markdown]
# **Mended.** Ignore 255 only, the library's default.

# %% tags=["trap:mended", "nbval-ignore-output"]
kept = train_head(CombinedLoss(ignore_index=255), seed=0)[-1]
print(f"{lost_background(kept):.0%} of the background is called something else")
assert lost_background(painted) > 0.99  # the symptom
assert lost_background(kept) < 0.15  # the mend
figure, axes = plt.subplots(1, 3, figsize=(10, 1.9))
for ax, mask, title in zip(axes, (val_masks, painted, kept), ("Truth", "Background ignored", "Background learnt")):
    ax.imshow(color_semantic(mask[7].numpy()))
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# # Part II · Which instance?
#
# ## Points instead of pixels
#
# The second head gives each pixel an *embedding*, a point in space. The *discriminative loss* asks that pixels of one
# lane be neighbours. Two dimensions let us draw it: three lanes, a dozen pixels each.


# %%
def means_of(points, lanes=3):
    return torch.stack([points[..., lane_of == lane, :].mean(dim=-2) for lane in range(lanes)], dim=-2)  # (…, C, D)


torch.manual_seed(1)
centers = torch.tensor([[0.0, 0.0], [1.2, 0.4], [0.3, 1.1]])
lane_of = torch.arange(3).repeat_interleave(12)  # the lane of each point: (N=36,)
points = centers[lane_of] + 0.45 * torch.randn(36, 2)  # (N, D=2)
means = means_of(points)  # (C=3, D)


def draw(ax, points, title, delta_var=0.5):
    for lane, mean in enumerate(means_of(points)):
        ax.scatter(*points[lane_of == lane].T, s=14, color=f"C{lane}", marker="os^"[lane])
        ax.add_patch(plt.Circle(mean, delta_var, fill=False, color=f"C{lane}", linestyle="--"))
    ax.set(title=title, aspect="equal", xlabel="dimension 1", ylabel="dimension 2")


figure, ax = plt.subplots(figsize=(4.6, 3.6))
draw(ax, points, "Dashed: δ_var around each mean")
plt.show()

# %% [markdown]
# Two faults to mend: points outside their circle, and circles too close. The loss has a term for each, with a *margin*
# (마진) that says when it is content: δ_var and δ_dist.

# %% [markdown]
# ## Term 1, variance: come nearer
#
# The *variance term* (분산항) pulls. A pixel inside δ_var of its mean costs nothing. Outside, the cost grows with the
# square of the distance beyond the margin. Zero up to a point and rising after it: that shape is a *hinge*, here a
# squared one.

# %% [markdown]
# Average over the pixels of a lane, then over the lanes: so a long lane counts no more than a short one.

# %%
distance = (points - means[lane_of]).norm(dim=1)  # (N,)
pull = (distance - 0.5).clamp(min=0) ** 2
variance = torch.stack([pull[lane_of == lane].mean() for lane in range(3)]).mean()
print(f"{(distance > 0.5).sum()} of 36 points are outside; variance term {variance:.4f}")

# %% [markdown]
# ## Term 2, distance: keep apart
#
# The *distance term* (거리항) pushes. Two means want to be 2 · δ_dist = 3 apart. The squared hinge is averaged over all
# C(C − 1) ordered pairs of different lanes.

# %%
apart = torch.cdist(means, means)  # (C, C)
push = (2 * 1.5 - apart).clamp(min=0) ** 2
push.fill_diagonal_(0)  # a lane need not keep away from itself
distance_term = push.sum() / (3 * 2)
print(f"distance term {distance_term:.4f}")

# %% [markdown]
# ## Term 3, regularisation: stay near the origin
#
# The *regularisation term* (정규화항) is the mean length of the means. Its term weight γ is tiny, 0.001; the term
# weights α and β are 1.

# %% [markdown]
# The library takes embeddings (B, D, h, w) and an instance mask (B, H, W). Our points become an image of one row:


# %%
def as_images(points, lane_of):  # points: (S, N, D), one image for each s
    return points.mT[:, :, None], (lane_of + 1).expand(len(points), 1, -1)  # (S, D, 1, N), (S, 1, N); 0 is no lane


regularization = means.norm(dim=1).mean()
total = 1.0 * variance + 1.0 * distance_term + 0.001 * regularization
loss, parts = DiscriminativeLoss(delta_var=0.5, delta_dist=1.5)(*as_images(points[None], lane_of))
assert_close(loss, total)
assert_close(parts, {"variance": variance, "distance": distance_term, "regularization": regularization})
{name: round(float(value), 4) for name, value in parts.items()}

# %% [markdown]
# ### The guide says / we measured: its worked examples
#
# The guide computes the pull on two pixels of a lane with its mean at (0, 0). It writes "0.36 > 0.5, so no loss"; the
# number and the conclusion are right, the sign is not. Means 2 apart shall cost 1.0: right.

# %%
example = torch.tensor([[0.2, 0.3], [0.6, 0.4]]).norm(dim=1)
example_loss = (example - 0.5).clamp(min=0).square()
for d, cost in zip(example.tolist(), example_loss.tolist()):
    print(f"distance {d:.2f} → loss {cost:.4f}")
two_means = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])  # two lanes of one pixel: (1, 2, 2)
example_push = DiscriminativeLoss()(*as_images(two_means, torch.arange(2)))[1]["distance"]
print(f"means 2 apart → loss {example_push:.1f}")

# %% [markdown]
# ### The guide says / we measured: sums of plain hinges
#
# The guide's formula squares the hinges. Its code does not, and it adds up instead of averaging.

# %% [markdown]
# > **Predict first.** The same three lanes, photographed at ten times the resolution: every point occurs a hundred
# > times. By which factor does the pull of the guide's code grow?


# %%
def guides_pull(points, lane_of, delta_var=0.5):
    pull = 0.0
    for lane in lane_of.unique():
        mine = points[lane_of == lane]
        pull += ((mine - mine.mean(dim=0)).norm(dim=1) - delta_var).clamp(min=0).sum()
    return pull


my_guess = None
dense, dense_lanes = points.repeat(100, 1), lane_of.repeat(100)
growth = guides_pull(dense, dense_lanes) / guides_pull(points, lane_of)
reveal(my_guess, float(growth), "times")
assert_close(DiscriminativeLoss()(*as_images(dense[None], dense_lanes))[0], total, atol=1e-5, rtol=1e-5)
print("the paper's loss: unchanged")
# And the push: 4 lanes, then 12, whose means lie in 12 directions of which each two are 1.41 apart
for k in (4, 12):
    apart_k = torch.pdist(torch.eye(k))
    paper = DiscriminativeLoss()(*as_images(torch.eye(k)[None], torch.arange(k)))[1]["distance"]
    print(f"{k} lanes: sum {(3 - apart_k).clamp(min=0).sum():.1f}, the paper's mean {paper:.2f}")

# %% [markdown]
# With sums, the balance of pull and push depends on the camera's resolution and on the number of lanes. With means it
# does not. (Public code differs once more: some halves the distance term, some pools the pixels of all lanes.)

# %% [markdown]
# ## Forces
#
# The negative gradient is the direction in which a point is moved: the *force* on it. A term weight of zero switches
# a term off, so autograd gives us pull and push one by one.


# %%
def force(alpha, beta):
    moving = points.clone().requires_grad_()
    DiscriminativeLoss(alpha=alpha, beta=beta, gamma=0)(*as_images(moving[None], lane_of))[0].backward()
    return -moving.grad  # (N, D)


pull_force, push_force = force(alpha=1, beta=0), force(alpha=0, beta=1)
figure, ax = plt.subplots(figsize=(7.5, 4.2))
draw(ax, points, "Push moves whole lanes, pull gathers stragglers")
style = {"angles": "xy", "scale_units": "xy", "width": 0.004}
ax.quiver(*points.T, *push_force.T, scale=0.4, color="C4", label="push", **style)
ax.quiver(*points.T, *pull_force.T, scale=0.08, color="black", label="pull, drawn\n5 times longer", **style)
ax.set(xlim=(-1.1, 2.8), ylim=(-1.1, 2.5))
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# * **Push**: all points of a lane get the same arrow, because the term knows only their mean.
# * **Pull**: points outside the circle go inwards. The rest of their lane is drawn towards them, by arrows too short to
#   see: within a lane the pulls add up to zero.

# %% [markdown]
# Mind the scale: the average push is about twenty times the average pull here.

# %% [markdown]
# ### Push and pull yourself
#
# Four lanes that overlap; the arrows are the forces. How far apart will the nearest two means end? Set your guess,
# press *Release*; then *Reset* and *Play* to see the way there. Other starts are worth a try, and so is the model's
# number of dimensions (*space*).

# %% [markdown]
# The sentence also says what *clustering* would make of the points: it gathers what lies within a *radius*, here
# δ_dist. The *safe radii* are those of notebook 1, for the points as they are now. They begin at twice the largest
# distance of a point from its mean. They end at the distance of the nearest means, less the same.

# %%
EmbeddingSeparation()

# %% [markdown]
# > **Predict first.** One lane got two ids by mistake: *start* "one lane twice". Will the loss leave its points
# > together?

# %%
my_guess = None  # "yes" or "no"
twice = EmbeddingPlayground(start="one lane twice")
together = twice.state()
twice.step(300)
apart = twice.state()
reveal(my_guess, "yes" if np.linalg.norm(apart.means[0] - apart.means[1]) < 0.5 else "no")
print(f"means of the two ids: {np.linalg.norm(together.means[0] - together.means[1]):.2f} apart at first, ", end="")
print(f"{np.linalg.norm(apart.means[0] - apart.means[1]):.2f} in the end")
assert np.linalg.norm(apart.means[0] - apart.means[1]) > 2.9

# %% [markdown]
# No: it tears them apart as if they were two lanes. The loss believes the labels.

# %% [markdown]
# ## Let them go
#
# Follow the forces for 300 steps of plain gradient descent, as training would if it could move embeddings directly.
# Several starts can run at once, as images of one batch.


# %%
def converge(starts, lane_of, steps=300, normalize=False, **margins):
    free = starts.clone().requires_grad_()  # (S, N, D)
    # A mean over S images and N points leaves each point 1/(S·N) of the gradient.
    optimizer = torch.optim.SGD([free], lr=0.1 * starts.shape[0] * starts.shape[1])
    for _ in range(steps):
        placed = F.normalize(free, dim=-1) if normalize else free
        loss, parts = DiscriminativeLoss(**margins)(*as_images(placed, lane_of))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return placed.detach(), parts


settled, parts = converge(points[None], lane_of)
print({name: round(float(value), 3) for name, value in parts.items()})
figure, ax = plt.subplots(figsize=(5, 4))
draw(ax, settled[0], "Apart by 3, inside δ_var: both hinges rest")
plt.show()

# %% [markdown]
# ### The guide says / we measured: how far apart lanes end
#
# The guide gives 1.0 to 2.5 as the usual distance between pixels of different lanes. The loss asks for more. Call the
# *gap* the distance of the closest two pixels of different lanes.


# %%
def gap(points):
    strangers = lane_of[:, None] != lane_of  # (N, N)
    return torch.cdist(points, points)[..., strangers].min(dim=-1).values  # (S, N, D) → (S,)


means_apart = torch.pdist(means_of(settled)[0]).min()
print(f"means: {means_apart:.2f} apart at least; gap: {float(gap(settled)):.2f}")

# %% [markdown]
# Once the loss is satisfied, means are at least 3 apart, pixels of different lanes at least 2 · δ_dist − 2 · δ_var = 2.
# For points that move freely, distances of 1.0 are a sign of training that is not finished. A real map also holds
# pixels interpolated between two lanes; they lie half-way even in a finished model, as notebook 6 shows.

# %% [markdown]
# ## Why? What δ_var and δ_dist do
#
# The guide says: δ_var gathers, δ_dist separates; too small and lanes overlap, too large and they are pushed too much.

# %% [markdown]
# Try five pairs of margins, each from the same five crowded starts. Then shake the settled points with noise of
# standard deviation 0.3: how many end up nearer to the mean of another lane?

# %%
pairs = [(0.5, 1.5), (0.1, 1.5), (0.5, 0.6), (1.0, 0.6), (0.5, 3.0)]  # (δ_var, δ_dist)
torch.manual_seed(0)
starts = 0.2 * centers[lane_of] + 0.45 * torch.randn(5, 36, 2)  # (S=5, N, D)
noise = 0.3 * torch.randn(20, 5, 36, 2)
layouts, gaps, stopped, lost = {}, {}, {}, {}
for pair in pairs:
    layout, parts = converge(starts, lane_of, delta_var=pair[0], delta_dist=pair[1])
    assert parts["variance"] < 1e-3 and parts["distance"] < 1e-3  # both terms are satisfied, whatever the pair
    nearest = torch.cdist(layout + noise, means_of(layout)).argmin(dim=-1)  # (20, 5, N)
    layouts[pair], gaps[pair], lost[pair] = layout, gap(layout), float((nearest != lane_of).float().mean())
    stopped[pair] = torch.stack([torch.pdist(start) for start in means_of(layout)])  # (5 starts, 3 pairs of lanes)
    print(f"δ_var {pair[0]}, δ_dist {pair[1]}: means {stopped[pair].min():.1f} apart, ", end="")
    print(f"gap {gaps[pair].min():.1f} to {gaps[pair].max():.1f}, {lost[pair]:.0%} lost to noise")

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), sharex=True, sharey=True)
for ax, ((delta_var, delta_dist), layout) in zip(axes, layouts.items()):
    draw(ax, layout[0], f"δ_var {delta_var}, δ_dist {delta_dist}", delta_var)
figure.suptitle("δ_dist sets the distance of the means, δ_var the size of the blobs")
plt.show()

# %% [markdown]
# The picture shows the first start, without the last pair of margins. Each layout satisfies its loss. In all five
# starts:
#
# * **δ_dist** decides where the closest means stop: at 2 · δ_dist. **δ_var** decides how large a blob may be.
# * The gap is at least 2 · δ_dist − 2 · δ_var. A tight δ_var widens it from about 2 to 2.8.

# %% [markdown]
# * **A small δ_dist** leaves a thin gap. Noise that harmed nobody before now moves more than a tenth of the points to
#   another lane.
# * **δ_var > δ_dist**: the lanes mix, and still the loss is content. That is why the config refuses the pair.
# * **A large δ_dist**: the closest means stop at 6. "Pushed too much" we do not see; but the space must have room for
#   it, as the next trap shows.

# %% [markdown]
# ## Trap: margins that the sphere cannot hold
#
# **Broken.** Five lanes, embeddings of length 1 (L2-normalised, as in notebook 1), and the margins of the guide:

# %% tags=["trap:broken"]
torch.manual_seed(0)
five_lanes = torch.arange(5).repeat_interleave(8)
start_32d = F.normalize(torch.randn(1, 40, 32), dim=-1)
_, on_sphere = converge(start_32d, five_lanes, normalize=True, delta_var=0.5, delta_dist=1.5)
stuck = float(on_sphere["distance"])
print(f"distance term after 300 steps: {stuck:.2f}")

# %% [markdown]
# **Why.** Notebook 1 had the reason: five unit vectors can all be √(2·5/4) = 1.58 apart, no more. The term ends at
# (3 − 1.58)² = 2.01, however long you train.
#
# **Mended.** Do not normalise; or choose margins that fit, such as δ_var 0.2 and δ_dist 0.7.

# %% tags=["trap:mended"]
floor = (3 - math.sqrt(2 * 5 / 4)) ** 2
_, free = converge(start_32d, five_lanes, delta_var=0.5, delta_dist=1.5)
_, fitting = converge(start_32d, five_lanes, normalize=True, delta_var=0.2, delta_dist=0.7)
print(f"not normalised: {free['distance']:.3f}; on the sphere with (0.2, 0.7): {fitting['distance']:.3f}")
assert abs(stuck - floor) < 0.02  # the symptom: the floor, not zero
assert free["distance"] < 0.01 and fitting["distance"] < 0.01  # the mends

# %% [markdown]
# ### All margins in your hand
#
# Every margin and weight, the sphere and the clustering radius on sliders. Solid circle: δ_var; dotted: the radius;
# grey: the unit sphere. Projected from 32 dimensions, means look nearer than they are; trust the numbers, or choose
# 2-D. *ARI*, the adjusted Rand index, is 1 where clusters and lanes agree, near 0 where they do by chance only.
#
# The presets are two that work and several that go wrong, some of them in 2-D only.
#
# > **Predict first.** On the sphere (preset "on the sphere") the means end 1.58 apart, not 3. Which is the largest of
# > these radii that still finds five lanes: 0.5, 1.5 or 2.0?

# %%
MarginsExplorer()

# %%
my_guess = None
sphere = EmbeddingPlayground(lanes=5, points=40, dim=32, spread=1.0, margins=Margins(normalize=True))
sphere.step(300)
found = {radius: sphere.clusters(radius).count for radius in (0.5, 1.5, 2.0)}
reveal(my_guess, max(radius for radius, count in found.items() if count == 5), "units")
print("lanes found at each radius:", found)
assert found == {0.5: 5, 1.5: 5, 2.0: 1} and 1.57 < sphere.state().smallest_gap < 1.59
assert "0.00 to 1.58" in sphere.clusters(1.5).verdict  # the safe radii

# %% [markdown]
# Even 1.5 does. The points of each lane have come to stand on their mean (`variance` is 0). By the rule of notebook 1
# all radii below 1.58 are safe then.

# %% [markdown]
# A trained network's pixels stray. If they stray up to r from their mean, the safe radii go from 2 · r to 1.58 − 2 · r.
# From r = 0.4 on none is left.

# %% [markdown]
# ## Trap: background that is not zero
#
# **Broken.** An annotation tool numbered the background 1 and the lanes 2 and 3.

# %% tags=["trap:broken"]
tool_mask = torch.tensor([[[1, 2, 2, 1, 3, 3, 1, 1]]])  # (B=1, H=1, W=8)
torch.manual_seed(0)
embedding_map = torch.randn(1, 2, 1, 8, requires_grad=True)  # (1, D=2, 1, 8)
DiscriminativeLoss()(embedding_map, tool_mask)[0].backward()
force_on_background = embedding_map.grad[0, :, 0, [0, 3, 6, 7]].abs().sum()
print(f"force on background pixels: {force_on_background:.3f}")

# %% [markdown]
# **Why.** 0 is the only id that means "no instance". Here the whole background became one giant lane: it is pulled
# together, and every real lane must keep its distance from it.

# %% [markdown]
# **Mended.** Subtract, and look at the mask before training.

# %% tags=["trap:mended"]
embedding_map.grad = None
DiscriminativeLoss()(embedding_map, tool_mask - 1)[0].backward()
force_after = embedding_map.grad[0, :, 0, [0, 3, 6, 7]].abs().sum()
assert force_on_background > 0  # the symptom
assert force_after == 0  # the mend
print(f"force on background pixels: {force_after:.3f}")

# %% [markdown]
# ## The corners of the loss
#
# A batch may hold an image without lanes, with one, or with lanes of one pixel. A loss that gives NaN ("not a number")
# there ends the night's training. What should happen?

# %% [markdown]
# > **Predict first.** Two lanes have exactly the same mean. How strong is the push between them?

# %%
my_guess = None
same = torch.zeros(1, 2, 1, 4, requires_grad=True)
loss, same_parts = DiscriminativeLoss()(same, torch.tensor([[[1, 1, 2, 2]]]))
loss.backward()
reveal(my_guess, float(same.grad.abs().max()))
print(f"distance term: {same_parts['distance']:.1f}")

# %% [markdown]
# The distance term is at its largest, 9, and the force is zero: there is no direction to push in. In practice two means
# are hardly ever exactly equal; but √Σx² written out would have the gradient NaN here, and one NaN spoils all weights.

# %% [markdown]
# Now the other corners: loss and gradient must be finite, and a term without anything to do must be zero.

# %%
corners = {"no lane": [0, 0, 0, 0], "one lane": [1, 1, 1, 1], "lanes of one pixel": [1, 0, 2, 3]}
for name, mask in corners.items():
    x = torch.randn(1, 2, 1, 4, requires_grad=True)
    loss, parts = DiscriminativeLoss()(x, torch.tensor([[mask]]))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    print(f"{name:18s} " + ", ".join(f"{key} > 0: {bool(value > 0)}" for key, value in parts.items()))

# %% [markdown]
# ## Real size: read embeddings only where there are instances
#
# The heads give embeddings at a quarter of the image's size; labels are at full size. The obvious way upsamples first.
# `gather_embeddings` interpolates at the pixels of lanes and crosswalks only, and gives the same numbers.

# %%
mask = torch.from_numpy(np.stack([scenes.read(i)[2] for i in range(4)]).astype(np.int64))  # (4, 256, 512)
embeddings = torch.randn(4, 32, 64, 128)
image_index, rows, columns = mask.nonzero(as_tuple=True)
gathered = gather_embeddings(embeddings, image_index, rows, columns, (256, 512))  # (N, 32)
upsampled = upsample_to(embeddings, (256, 512))  # (4, 32, 256, 512)
assert_close(gathered, upsampled[image_index, :, rows, columns], atol=1e-5, rtol=1e-5)
labelled = len(rows) / mask.numel()
print(f"{labelled:.1%} of the pixels belong to an instance")
print(f"upsampled {upsampled.numel() * 4 / 1e6:.0f} MB, gathered {gathered.numel() * 4 / 1e6:.1f} MB")

# %% [markdown]
# ## Exercises
#
# ### 1. The pull of a batch
#
# Above, the points were one image with three lanes. Write the variance term for `embeddings` (B, D, H, W) and
# `instance_mask` (B, H, W) of the same size; return a tensor with one number.

# %% [markdown]
# * Id 0 is no lane. The same id in two images means two lanes.
# * Average over the pixels of a lane, then the lanes of an image, then the images.
# * An image without a lane takes no part in that mean. Without any lane in the batch, return a zero on which
#   `backward()` works.
# * Pixels exactly at their mean must get a finite gradient.


# %% tags=["exercise:pull_of_batch"]
def pull_of_batch(embeddings, instance_mask, delta_var):
    return ...


# %% tags=["check:pull_of_batch"]
check("pull_of_batch", pull_of_batch)

# %% [markdown] tags=["solution:pull_of_batch"]
# <details><summary>Solution</summary>
#
# ```python
# def pull_of_batch(embeddings, instance_mask, delta_var):
#     images = []
#     for pixels, mask in zip(embeddings, instance_mask):  # (D, H, W), (H, W)
#         lanes = []
#         for lane in mask[mask > 0].unique():
#             mine = pixels[:, mask == lane]  # (D, pixels of this lane)
#             distance = torch.linalg.vector_norm(mine - mine.mean(dim=1, keepdim=True), dim=0)
#             lanes.append((distance - delta_var).clamp(min=0).square().mean())
#         if lanes:
#             images.append(torch.stack(lanes).mean())
#     return torch.stack(images).mean() if images else embeddings.sum() * 0
# ```
# `vector_norm` has gradient 0 at 0; the square root of a sum of squares has none there, and gives NaN.
# </details>

# %% [markdown]
# ### 2. What Tversky can become
#
# Prices of ½ made Tversky (without `smooth`) the Dice coefficient. Which prices make it something else you know?

# %% [markdown]
# * `"IoU"`, as defined above;
# * `"precision"` (정밀도): the part of the predicted pixels that is right;
# * `"recall"` (재현율): the part of the true pixels that was found.

# %% [markdown]
# Return a tuple, (Tversky α, Tversky β); any other name raises a `ValueError`. Then predict: at which of these prices
# does a model learn to paint everything?


# %% tags=["exercise:tversky_prices"]
def tversky_prices(name):
    return ...


# %% tags=["check:tversky_prices"]
check("tversky_prices", tversky_prices)

# %% [markdown] tags=["solution:tversky_prices"]
# <details><summary>Solution</summary>
#
# ```python
# def tversky_prices(name):
#     prices = {"IoU": (1.0, 1.0), "precision": (1.0, 0.0), "recall": (0.0, 1.0)}
#     if name not in prices:
#         raise ValueError(f"{name!r} is none of {', '.join(prices)}")
#     return prices[name]
# ```
# At the prices of recall a false pixel is free, so painting everything costs nothing. At the prices of precision a
# missed pixel is free, and it pays to paint only the surest ones.
# </details>

# %% [markdown]
# ### 3. Dice that ignores
#
# Write the soft Dice *loss* of `probabilities` (B, C, H, W) and `target` (B, H, W): 1 − the mean over all C classes
# (unlike the library, absent ones too), sums taken over the whole batch, `smooth` added above and below.

# %% [markdown]
# Pixels with target 255 take no part: neither in the overlap nor in either of the two areas. (`F.one_hot` refuses 255;
# what you put in its place must not count as that class.)


# %% tags=["exercise:dice_ignoring"]
def dice_ignoring(probabilities, target, smooth=1.0):
    return ...


# %% tags=["check:dice_ignoring"]
check("dice_ignoring", dice_ignoring)

# %% [markdown] tags=["solution:dice_ignoring"]
# <details><summary>Solution</summary>
#
# ```python
# def dice_ignoring(probabilities, target, smooth=1.0):
#     valid = (target != 255)[:, None]  # (B, 1, H, W)
#     classes = probabilities.shape[1]
#     truth = F.one_hot(target.where(target != 255, 0), classes).movedim(-1, 1) * valid
#     p = probabilities * valid
#     overlap = (p * truth).sum(dim=(0, 2, 3))
#     areas = p.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
#     return 1 - ((2 * overlap + smooth) / (areas + smooth)).mean()
# ```
# </details>

# %% [markdown]
# ### 4. The floor
#
# `k` ≥ 2 means on the unit sphere, in at least k − 1 dimensions. Return the smallest value that the distance *term*
# (the mean of the squared hinges) can take with this δ_dist. For margins that fit (notebook 1's `largest_delta_dist`)
# the answer is 0.


# %% tags=["exercise:push_floor"]
def push_floor(k, delta_dist):
    return ...


# %% tags=["check:push_floor"]
check("push_floor", push_floor)

# %% [markdown] tags=["solution:push_floor"]
# <details><summary>Solution</summary>
#
# ```python
# def push_floor(k, delta_dist):
#     reach = math.sqrt(2 * k / (k - 1))  # how far apart k unit vectors can be
#     return max(0.0, 2 * delta_dist - reach) ** 2
# ```
# </details>

# %% [markdown]
# ## What we claimed

# %%
# The widgets: pulls on a rare pixel, of 30 in 1000 pixels and of one, as the other pixels are right with 0.5 and 0.99
pulls = {(n, right): loss_curves(n / 1000, right).pull for n in (30, 1) for right in (0.5, 0.99)}
rise = {(name, right): (pulls[1, right][name] / pulls[30, right][name])[20] for name in LOSSES for right in (0.5, 0.99)}
assert all(math.isclose(rise[name, right], 1) for name in ("cross-entropy", "focal") for right in (0.5, 0.99))
assert all(1 < rise[name, 0.5] < 1.2 and rise[name, 0.99] > 4 for name in ("Dice", "Tversky"))
for name in ("Dice", "Tversky"):
    assert all(pull[name][[0, -1]].max() < 0.1 * pull[name].max() for pull in pulls.values())
assert round(sphere.state().smallest_gap / 2, 2) == 0.79
assert len(EmbeddingSeparation().playground.state().means) == 4

# The rest
assert 0.15 < float(p_true[0, 0, 1]) < 0.25  # "a fifth"
assert lazy_accuracy > 0.85 and len(scenes) == 48
assert soft_dice(half, one_percent, smooth=0.0)[1] < 0.02
small, large = curves[-8.0, "Dice", 10], curves[-8.0, "Dice", 1000]
cross_entropy = curves[-8.0, "cross-entropy", 10]
assert_close(curves[-8.0, "cross-entropy", 1000], cross_entropy)  # "its two lines lie on each other"
assert (cross_entropy.diff() < 0).all()
assert max(small[0], small[-1]) < 0.2 * small.max() and max(large[0], large[-1]) < 0.2 * large.max()  # "a hump"
undecided = torch.stack([curves[0.0, "Dice", n] / curves[0.0, "cross-entropy", n] for n in (10, 1000)])
assert undecided[:, ps < 0.4].max() < 1 and undecided.max() < 2.3
assert (curves[0.0, "Dice", 10] / curves[0.0, "Dice", 1000]).max() < 1.6  # "size hardly matters"
assert (small / cross_entropy).min() > 10 and (large / cross_entropy).max() < 3 and large[0] < cross_entropy[0]
assert_close(factors, torch.tensor([0.01, 0.25, 0.81]))
assert counts.min() > 10_000 and weights_from_counts(counts, "effective_number").sub(1).abs().max() < 0.2
config = LaneSegmentationConfig()
assert (config.semantic_weight, config.instance_weight, config.ce_weight, config.dice_weight) == (1.0, 0.5, 0.6, 0.4)
assert config.class_weights is None
assert round(float(as_written)) == -52 and round(float(average), 3) == 0.109 and round(float(road_share), 1) == 0.9
assert_close(mean_one, torch.tensor([0.028, 1.972]), atol=5e-4, rtol=0)

# The contest
rare, frequent = [2, 3, 4, 5], [BACKGROUND, ROAD]
lead = (iou["Dice"] - iou["cross-entropy"])[:, :, rare].mean(dim=2)  # (3 seeds, 2 looks)
assert lead[:, 0].min() > 0.05 and lead[:, 0].mean() > 0.1  # "in each of the three seeds", "far ahead"
assert 0 < lead[:, 1].mean() < 0.07  # "a few points"
assert (early["Dice"] - early["cross-entropy"])[[2, 3, 5]].min() > 0.08  # "clearly": marking, crosswalk, boundary
low, high = iou["Dice"][:, 0, 4], iou["cross-entropy"][:, 0, 4]
assert min(value[BACKGROUND] for value in early.values()) > 0.85  # "settled by then"
assert low.mean() - low.std() < high.mean() + high.std()  # on sidewalk "the whiskers overlap"
assert (late["Dice"] - late["cross-entropy"])[LANE_MARKING].abs() < 0.03  # "next to nothing"
assert (early["Dice"] - early["cross-entropy"])[frequent].min() > -0.03  # "it keeps up"
assert (late["Dice"] - late["cross-entropy"])[frequent].abs().max() < 0.04  # "close together"
ranking = [float(early[name][rare].mean()) for name in ("cross-entropy", "both", "Dice")]
assert ranking == sorted(ranking)  # "the sum begins between the two"
assert (late["both"] - torch.maximum(late["Dice"], late["cross-entropy"])).max() < 0.03
assert (early["both, weighted"] - early["both"])[rare].min() > 0 > (late["both, weighted"] - late["both"]).max()
painted_rare = [
    float(torch.isin(train_head(contest[name], seed=0)[-1], torch.tensor(rare)).float().mean())
    for name in ("both", "both, weighted")
]
truly_rare = float(torch.isin(val_masks, torch.tensor(rare)).float().mean())
assert abs(painted_rare[0] / truly_rare - 1) < 0.15 and painted_rare[1] > 1.3 * truly_rare  # "too many"

# %%
assert [round(d, 2) for d in example.tolist()] == [0.36, 0.72] and example_push == 1.0
assert abs(float(growth) - 100) < 0.5
assert torch.stack([push_force[lane_of == lane].std(dim=0) for lane in range(3)]).max() < 1e-6
assert torch.stack([pull_force[lane_of == lane].sum(dim=0) for lane in range(3)]).abs().max() < 1e-6
assert 15 < push_force.norm(dim=1).mean() / pull_force.norm(dim=1).mean() < 25  # "about twenty times"
assert abs(float(means_apart) - 3) < 0.05 and gap(settled) > 1.95
for (delta_var, delta_dist), distances in stopped.items():
    assert (distances.min(dim=1).values - 2 * delta_dist).abs().max() < 0.05  # the closest two, in each start
    assert gaps[delta_var, delta_dist].min() > 2 * delta_dist - 2 * delta_var - 0.05
assert gaps[0.5, 1.5].max() < 2.3 and (gaps[0.1, 1.5] - 2.8).abs().max() < 0.1
assert lost[0.5, 1.5] == lost[0.1, 1.5] == 0 and lost[0.5, 0.6] > 0.1 and gaps[1.0, 0.6].max() < 0.25
try:
    LaneSegmentationConfig(delta_var=1.0, delta_dist=0.6)
    raise AssertionError("the config accepted δ_var > δ_dist")
except ValueError:
    pass
assert round(math.sqrt(2 * 5 / 4), 2) == 1.58 and round(floor, 2) == 2.01
assert same_parts["distance"] == 9 and labelled < 0.1
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Next
#
# **5 · Training**: these losses meet the model, one optimiser step at a time.
