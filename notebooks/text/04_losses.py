# %% [markdown]
# # 4 · Losses: what the model is asked to want
#
# **You will be able to** write cross-entropy, Dice, focal and Tversky in a few lines each, say which helps a rare
# class and at what price, and build the discriminative loss term by term, with its forces and its limits.
#
# **You need** notebooks 1 to 3.
#
# **Time** to run: half a minute on two CPU cores; less on a Colab T4 (estimated). To work through: three hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/04_losses.ipynb`, and write the same address into `REPOSITORY` below.
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
    root = next((p for p in (here, *here.parents) if (p / "roadtopo_lib" / "course.py").is_file()), None)
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

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import reveal, reveal_choice, samples
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.exercises import check
from roadtopo_lib.labels import BACKGROUND, CLASS_NAMES, LANE_MARKING, NUM_CLASSES, ROAD
from roadtopo_lib.losses import (
    CombinedLoss,
    DiceLoss,
    DiscriminativeLoss,
    FocalLoss,
    TverskyLoss,
    count_class_pixels,
    weights_from_counts,
)
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.segformer import SegFormerModel, upsample_to
from roadtopo_lib.viz import color_semantic

# %% [markdown]
# # Part I · Which class?
#
# ## Cross-entropy, by hand
#
# Start with an image of two pixels and three classes. A *logit* is a score without bounds; softmax turns the scores
# of a pixel into probabilities. Cross-entropy (교차 엔트로피) is −log of the probability of the true class.

# %%
logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])[None, :, None, :]  # (B=1, C=3, H=1, W=2)
target = torch.tensor([[[0, 1]]])  # (1, 1, 2)
probabilities = logits.softmax(dim=1)
probabilities[0, :, 0]  # (C, W)

# %%
p_true = probabilities.gather(1, target[:, None])[:, 0]  # (B, C, H, W) → (B, H, W)
by_hand = -p_true.log().mean()
assert_close(by_hand, F.cross_entropy(logits, target))
print(f"p of the true class {p_true.flatten().numpy()}, mean of -log p {by_hand:.4f}")

# %% [markdown]
# The second pixel costs far more: its true class got a fifth of the probability.

# %% [markdown]
# ## Few pixels, little voice
#
# The mean runs over *pixels*. A class with few pixels has little say in it. How few are they in our data?

# %%
scenes = LaneInstanceDataset(samples(), "train")
counts, image_counts = count_class_pixels(scenes, NUM_CLASSES)  # pixels of a class; of the images that show it
share = (counts / counts.sum()).numpy()

# %% [markdown]
# > **Predict first.** A lazy model calls every pixel "background" or "road", and gets those right. It never finds a
# > lane, a crosswalk or a sidewalk. What is its pixel accuracy, in percent?

# %%
my_guess = None
lazy_accuracy = share[BACKGROUND] + share[ROAD]
reveal(my_guess, 100 * lazy_accuracy, "%")

# %%
figure, ax = plt.subplots(figsize=(7, 2.6))
bars = ax.bar(CLASS_NAMES, 100 * share)
ax.bar_label(bars, fmt="%.1f")
ax.set(title="Two classes hold nearly all pixels", ylabel="share of pixels (%)", ylim=(0, 85))
plt.show()

# %% [markdown]
# ## Dice: compare areas, not pixels
#
# The Dice coefficient of a class is twice the overlap, divided by the sum of both areas. With probabilities in place
# of a hard mask it has a gradient, and 1 − Dice is a loss. Each class counts once, however small it is.


# %%
def soft_dice(probabilities, target, smooth=1.0):
    truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1).float()  # (B, H, W) → (B, C, H, W)
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))  # (C,)
    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))  # (C,)
    return (2 * overlap + smooth) / (areas + smooth)


logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
dice = soft_dice(logits.softmax(dim=1), target)
assert_close(1 - dice.mean(), DiceLoss(smooth=1.0)(logits, target))
dice

# %% [markdown]
# `smooth` is counted in pixels. It keeps 0/0 away for a class that is neither present nor predicted.

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
# The guide's table calls the gradient of cross-entropy changing in scale and that of Dice stable. Let us look at the
# pull that *one* lane pixel with p = 0.5 feels, in lanes of 10, 100 and 1000 pixels. First while the background is
# undecided, too (logit 0); then when the background is settled (logit −8).


# %%
def pull_on_a_lane_pixel(loss_function, lane_pixels, background_logit):
    target = (torch.arange(10_000) < lane_pixels).long().view(1, 100, 100)
    logits = torch.zeros(1, 2, 100, 100)
    logits[:, 1] = torch.where(target == 1, 0.0, background_logit)
    logits.requires_grad_()
    loss_function(logits, target).backward()
    return float(logits.grad[0, 1, 0, 0].abs())


ratio = {}
for background in (0.0, -8.0):
    for pixels in (10, 100, 1000):
        ce, dice = (pull_on_a_lane_pixel(loss, pixels, background) for loss in (F.cross_entropy, DiceLoss()))
        ratio[background, pixels] = dice / ce
        print(
            f"background logit {background:4}, lane of {pixels:4}: CE {ce:.6f}, Dice {dice:.6f}, {dice / ce:5.1f} times"
        )

# %% [markdown]
# At equal p it is the other way round: cross-entropy pulls at every lane pixel alike. Dice changes by a factor of more
# than a hundred. At the start it is about as strong as cross-entropy. Once the background is settled it pulls at the
# ten pixels of a small lane almost two hundred times harder. That is its use on rare classes, and its restlessness.

# %% [markdown]
# ## Focal: less voice for what is easy
#
# Focal loss multiplies the cross-entropy of a pixel by (1 − p)^γ, with p the probability of its true class. A pixel
# that is already right is turned down.


# %%
def focal(logits, target, gamma=2.0):
    cross_entropy = F.cross_entropy(logits, target, reduction="none")  # (B, H, W)
    p = (-cross_entropy).exp()
    return ((1 - p) ** gamma * cross_entropy).mean()


assert_close(focal(logits, target), FocalLoss(gamma=2.0)(logits, target))
assert_close(focal(logits, target, gamma=0.0), F.cross_entropy(logits, target))

# %%
p = torch.linspace(0.01, 1, 200)
figure, ax = plt.subplots(figsize=(7, 2.8))
for gamma, style in [(0, "-"), (1, "--"), (2, "-."), (5, ":")]:
    ax.plot(p, -((1 - p) ** gamma) * p.log(), style, label=f"γ = {gamma}" + (" (cross-entropy)" if gamma == 0 else ""))
ax.set(title="The larger γ, the less an easy pixel counts", xlabel="p of the true class", ylabel="loss", ylim=(0, 3))
ax.legend()
plt.show()

# %% [markdown]
# ### The guide says / we measured: the weights of γ = 2
#
# The guide lists the factor at p = 0.9, 0.5 and 0.1 as 0.01, 0.25 and 0.81. It is right:

# %%
factors = (1 - torch.tensor([0.9, 0.5, 0.1])) ** 2
print([round(f, 4) for f in factors.tolist()])

# %% [markdown]
# ## Tversky: choose your mistake
#
# Dice counts a missed pixel and a false one alike. Tversky weighs them: α for false positives, β for false
# negatives. A missed crosswalk may be worse than a phantom one; then β > α.


# %%
def tversky(probabilities, target, alpha, beta, smooth=1.0):
    truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1).float()  # (B, C, H, W)
    hits = (probabilities * truth).sum(dim=(0, 2, 3))  # (C,)
    false_positives = (probabilities * (1 - truth)).sum(dim=(0, 2, 3))
    false_negatives = ((1 - probabilities) * truth).sum(dim=(0, 2, 3))
    return (hits + smooth) / (hits + alpha * false_positives + beta * false_negatives + smooth)


value = 1 - tversky(logits.softmax(dim=1), target, 0.3, 0.7).mean()
assert_close(value, TverskyLoss(alpha=0.3, beta=0.7, smooth=1.0)(logits, target))
# With α = β = ½ Tversky is Dice. `smooth` counts hits here and areas there: hence the factor 2.
assert_close(tversky(logits.softmax(dim=1), target, 0.5, 0.5, smooth=0.5), soft_dice(logits.softmax(dim=1), target))

# %% [markdown]
# ## Combined, with class weights
#
# Training uses a sum: 0.6 · cross-entropy + 0.4 · Dice. Class weights (클래스 가중치) go one step further and give
# rare classes a larger factor. Four recipes turn pixel counts into weights, all with mean 1.

# %%
loss, parts = CombinedLoss(ce_weight=0.6, dice_weight=0.4).with_parts(logits, target)
assert_close(loss, 0.6 * F.cross_entropy(logits, target) + 0.4 * DiceLoss()(logits, target))
sorted(parts)

# %%
methods = ["inverse", "sqrt_inverse", "effective_number", "median_frequency"]
figure, ax = plt.subplots(figsize=(8, 2.8))
for i, method in enumerate(methods):
    ax.bar(
        np.arange(NUM_CLASSES) + 0.2 * (i - 1.5),
        weights_from_counts(counts, method, image_pixels=image_counts),
        0.2,
        label=method,
    )
ax.set(title="Effective number at β = 0.9999 does nothing here", ylabel="weight", ylim=(0, 3.6))
ax.set_xticks(range(NUM_CLASSES), CLASS_NAMES)
ax.legend(ncols=2)
plt.show()

# %% [markdown]
# Why nothing? The effective number stops growing at 1/(1 − β) = 10,000 pixels, and our rarest class has more. Such a β
# suits counts of *images*. For counts of pixels it must be closer to 1.

# %% [markdown]
# ## Why? Cross-entropy against Dice against both
#
# The guide says: cross-entropy is weak on rare classes, Dice is strong, the sum is best. Let a small experiment
# decide. The encoder of a trained model stays frozen; a new head learns on top of its features, with one loss or
# another. Only what it must minimise differs.

# %%
encoder = SegFormerModel.load(samples() / "tiny.safetensors")
evaluation = build_transform(LaneSegmentationConfig.preset("tiny"), train=False)


def frozen_features(split):
    items = [
        LaneInstanceDataset(samples(), split, evaluation)[index] for index in range({"train": 48, "val": 12}[split])
    ]
    with torch.no_grad():
        maps = encoder.encode(torch.stack([item["image"] for item in items]))  # four, at 1/4 … 1/32
    stacked = torch.cat([upsample_to(m, maps[0].shape[2:]) for m in maps], dim=1)  # (B, 352, 24, 64)
    return stacked, torch.stack([item["semantic_mask"] for item in items])[:, ::2, ::2]  # (B, 48, 128)


features, masks = frozen_features("train")
val_features, val_masks = frozen_features("val")


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


# %%
def iou_per_class(prediction):
    hit = [((prediction == c) & (val_masks == c)).sum() for c in range(NUM_CLASSES)]
    area = [((prediction == c) | (val_masks == c)).sum() for c in range(NUM_CLASSES)]
    return torch.tensor(hit) / torch.tensor(area)


# %% [markdown]
# > **Predict first.** After 15 steps, which loss finds most of the lane markings: "cross-entropy", "Dice" or "both"?

# %% tags=["nbval-ignore-output"]
my_guess = None
contest = {"cross-entropy": F.cross_entropy, "Dice": DiceLoss(), "both": CombinedLoss()}
iou = {}  # (seed, looked at, class) for each loss
for name, loss in contest.items():
    runs = [train_head(loss, seed, look_at=(15,)) for seed in range(2)]
    iou[name] = torch.stack([torch.stack([iou_per_class(p) for p in predictions]) for predictions in runs])
early, late = ({name: value[:, i].mean(dim=0) for name, value in iou.items()} for i in range(2))
reveal_choice(my_guess, max(early, key=lambda name: early[name][LANE_MARKING]))
assert early["Dice"][LANE_MARKING] == max(value[LANE_MARKING] for value in early.values())

# %%
figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True)
for row, (ax, steps) in enumerate(zip(axes, (15, 60))):
    for i, (name, value) in enumerate(iou.items()):
        spread = (value[:, row].max(dim=0).values - value[:, row].min(dim=0).values) / 2
        ax.bar(np.arange(6) + 0.27 * (i - 1), value[:, row].mean(dim=0), 0.26, yerr=spread, capsize=2, label=name)
    ax.set(ylabel="IoU (2 seeds)", ylim=(0, 1))
    ax.set_title(
        f"After {steps} steps: " + ("Dice is far ahead on rare classes" if row == 0 else "little is left of it")
    )
axes[0].legend(ncols=3)
axes[1].set_xticks(range(NUM_CLASSES), CLASS_NAMES)
plt.show()

# %% [markdown]
# What we see, and what we do not:
#
# * Early, Dice finds rare classes that cross-entropy still leaves out. The guide is right on that.
# * After 60 steps cross-entropy has caught up to within a few points, on average over the four rare classes; on
#   background and road it is ahead of Dice.
# * The sum ends close to the better of the two, and begins nearer to cross-entropy. That it beats both, as the guide
#   says, we do not see.
#
# One caveat: these features come from a model that was itself trained with the sum.

# %% [markdown]
# ## Trap: ignoring the background
#
# The guide advises `ignore_index=0`, so that the background is "not over-penalised". Let us do that.
#
# **Broken.** The same head, with background left out of the loss:


# %% tags=["trap:broken", "nbval-ignore-output"]
def lost_background(prediction):
    return float((prediction != BACKGROUND)[val_masks == BACKGROUND].float().mean())


painted = train_head(CombinedLoss(ignore_index=BACKGROUND), seed=0)[-1]
print(f"{lost_background(painted):.0%} of the background is called something else")

# %% [markdown]
# **Why.** No pixel that counts has the true class 0, so its probability is pushed down everywhere; and what the model
# says where the background is costs nothing. Background is a class like the others; only 255 means "nobody knows".
#
# **Mended.**

# %% tags=["trap:mended", "nbval-ignore-output"]
kept = train_head(CombinedLoss(ignore_index=255), seed=0)[-1]
print(f"{lost_background(kept):.0%} of the background is called something else")
assert lost_background(painted) > 0.99  # the symptom
assert lost_background(kept) < 0.15  # the mend

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 1.9))
for ax, mask, title in zip(
    axes, [val_masks[7], painted[7], kept[7]], ["Truth", "Background ignored", "Background learnt"]
):
    ax.imshow(color_semantic(mask.numpy()))
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# # Part II · Which instance?
#
# ## Points instead of pixels
#
# Each pixel gets an embedding. Let it have two dimensions, so that we can draw it: three lanes, a dozen pixels each.

# %%
torch.manual_seed(1)
centers = torch.tensor([[0.0, 0.0], [1.2, 0.4], [0.3, 1.1]])
lane_of = torch.arange(3).repeat_interleave(12)  # (N=36,)
points = centers[lane_of] + 0.45 * torch.randn(36, 2)  # (N, D=2)
means = torch.stack([points[lane_of == lane].mean(dim=0) for lane in range(3)])  # (C=3, D)


def draw(ax, points, title, delta_var=0.5):
    for lane in range(int(lane_of.max()) + 1):
        mine = points[lane_of == lane].detach()
        ax.scatter(*mine.T, s=14, color=f"C{lane}", marker="os^vD"[lane])
        ax.add_patch(plt.Circle(mine.mean(dim=0), delta_var, fill=False, color=f"C{lane}", linestyle="--"))
    ax.set(title=title, aspect="equal", xlabel="dimension 1", ylabel="dimension 2")


figure, ax = plt.subplots(figsize=(4.6, 3.6))
draw(ax, points, "Dashed: δ_var around each mean")
plt.show()

# %% [markdown]
# ## Term 1, variance: come nearer
#
# A pixel inside δ_var of its mean costs nothing. Outside, the cost grows with the square of the distance beyond the
# margin: a *squared hinge*. Averaged over the pixels of a lane, then over the lanes.

# %%
distance = (points - means[lane_of]).norm(dim=1)  # (N,)
pull = (distance - 0.5).clamp(min=0) ** 2
variance = torch.stack([pull[lane_of == lane].mean() for lane in range(3)]).mean()
print(f"{(distance > 0.5).sum()} of 36 points are outside; variance term {variance:.4f}")

# %% [markdown]
# ### The guide says / we measured: two worked examples
#
# The guide computes two pixels of a lane with its mean at (0, 0). It writes "0.36 > 0.5, so no loss" for the first;
# the number and the conclusion are right, the sign is not.

# %%
example = torch.tensor([[0.2, 0.3], [0.6, 0.4]]).norm(dim=1)
example_loss = (example - 0.5).clamp(min=0).square()
for d, cost in zip(example.tolist(), example_loss.tolist()):
    print(f"distance {d:.2f} → loss {cost:.4f}")

# %% [markdown]
# ## Term 2, distance: keep apart
#
# Two means want to be 2 · δ_dist = 3 apart. Every ordered pair of different lanes counts, divided by their number.

# %%
apart = torch.cdist(means, means)  # (C, C)
push = (2 * 1.5 - apart).clamp(min=0) ** 2
push.fill_diagonal_(0)  # a lane need not keep away from itself
distance_term = push.sum() / (3 * 2)
print(f"distance term {distance_term:.4f}")

# %% [markdown]
# ## Term 3, regularisation: stay near the origin
#
# Without it the whole cloud may drift away. Its weight is tiny: γ = 0.001.

# %%
regularization = means.norm(dim=1).mean()
total = 1.0 * variance + 1.0 * distance_term + 0.001 * regularization

# %% [markdown]
# ## The library's version
#
# The library takes an embedding map (B, D, h, w) and an instance mask (B, H, W). Our 36 points are an image of one
# row. It agrees, term by term.


# %%
def as_image(points, lane_of):
    return points.T[None, :, None, :], (lane_of + 1)[None, None, :]  # (1, D, 1, N), (1, 1, N); 0 is no lane


loss, parts = DiscriminativeLoss(delta_var=0.5, delta_dist=1.5)(*as_image(points, lane_of))
assert_close(loss, total)
assert_close(parts, {"variance": variance, "distance": distance_term, "regularization": regularization})
{name: round(float(value), 4) for name, value in parts.items()}

# %% [markdown]
# ### The guide says / we measured: sums of plain hinges
#
# The guide's formula squares the hinges. Its code does not, and it adds up instead of averaging.


# %%
def guides_code(points, lane_of, delta_var=0.5, delta_dist=1.5):
    lanes = lane_of.unique()
    means = torch.stack([points[lane_of == lane].mean(dim=0) for lane in lanes])
    pull = push = 0.0
    for i, lane in enumerate(lanes):
        pull += ((points[lane_of == lane] - means[i]).norm(dim=1) - delta_var).clamp(min=0).sum()
        for j in range(i):
            push += (2 * delta_dist - (means[i] - means[j]).norm()).clamp(min=0)
    return pull, push


# %% [markdown]
# > **Predict first.** The same three lanes, photographed at ten times the resolution: every point occurs a hundred
# > times. By which factor does the pull of the guide's code grow?

# %%
my_guess = None
dense, dense_lanes = points.repeat(100, 1), lane_of.repeat(100)
growth = guides_code(dense, dense_lanes)[0] / guides_code(points, lane_of)[0]
reveal(my_guess, float(growth), "times")
assert_close(DiscriminativeLoss()(*as_image(dense, dense_lanes))[0], total, atol=1e-5, rtol=1e-5)
print("the paper's loss: unchanged")

# %% [markdown]
# With sums, the balance of the two terms depends on the camera's resolution. With means it does not.

# %% [markdown]
# ## Forces
#
# The negative gradient is the direction in which each point is moved. Autograd gives it; we only draw it.

# %%
moving = points.clone().requires_grad_()
DiscriminativeLoss()(*as_image(moving, lane_of))[0].backward()
figure, ax = plt.subplots(figsize=(5, 4))
draw(ax, points, "At first the push between means is stronger")
ax.quiver(*points.T, *-moving.grad.T, angles="xy", width=0.004, alpha=0.7)
plt.show()

# %% [markdown]
# Every point of a lane feels the push of its mean, equally: it is what most arrows show, since the push term is fifty
# times the pull term here. Points outside the circle are pulled in as well; the rest of their lane leans a little
# towards them, because the mean is made of all its points.

# %% [markdown]
# ## Let them go
#
# Follow the forces for 300 steps of plain gradient descent, as training would if it could move embeddings directly.


# %%
def converge(points, lane_of, steps=300, normalize=False, **margins):
    free = points.clone().requires_grad_()
    optimizer = torch.optim.SGD([free], lr=0.1 * len(points))  # a mean over N points gives each 1/N of the gradient
    for _ in range(steps):
        placed = F.normalize(free, dim=1) if normalize else free
        loss, parts = DiscriminativeLoss(**margins)(*as_image(placed, lane_of))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return placed.detach(), parts


settled, parts = converge(points, lane_of)
print({name: round(float(value), 3) for name, value in parts.items()})
figure, ax = plt.subplots(figsize=(5, 4))
draw(ax, settled, "Apart by 3, inside δ_var: both hinges rest")
plt.show()

# %% [markdown]
# ### The guide says / we measured: how far apart lanes end
#
# The guide gives 1.0 to 2.5 as the usual distance between pixels of different lanes. The loss asks for more:


# %%
def closest_strangers(points, lane_of):
    distance = torch.cdist(points, points)
    return float(distance[lane_of[:, None] != lane_of[None]].min())


settled_means = torch.stack([settled[lane_of == lane].mean(dim=0) for lane in range(3)])
means_apart = torch.pdist(settled_means).min()
print(f"means: {means_apart:.2f} apart at least; pixels of two lanes: {closest_strangers(settled, lane_of):.2f}")

# %% [markdown]
# Once the loss is satisfied, means are 3 apart, and pixels of different lanes at least 2 · δ_dist − 2 · δ_var = 2.
# Distances of 1.0 are a sign of training that is not finished.

# %% [markdown]
# ## Why? What δ_var and δ_dist do
#
# The guide says: δ_var gathers, δ_dist separates; too small and lanes overlap, too large and they are pushed too much.
# Here are four pairs of margins, from one crowded start.

# %%
pairs = [(0.5, 1.5), (0.1, 1.5), (0.5, 0.6), (1.0, 0.6)]
crowded = points - 0.8 * means[lane_of]  # the same spread, means five times closer
layouts = {pair: converge(crowded, lane_of, delta_var=pair[0], delta_dist=pair[1])[0] for pair in pairs}
gaps = {pair: closest_strangers(layout, lane_of) for pair, layout in layouts.items()}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
for ax, (pair, layout) in zip(axes, layouts.items()):
    draw(ax, layout, f"δ_var {pair[0]}, δ_dist {pair[1]}: gap {gaps[pair]:.1f}", delta_var=pair[0])
    ax.set(xlim=(-2.2, 3), ylim=(-2, 3.2))
plt.show()

# %% [markdown]
# * δ_dist sets the distance of the means, δ_var the size of the blobs. What they leave between two lanes is a gap
#   of at least 2 · δ_dist − 2 · δ_var, if that is positive.
# * A tight δ_var widens the gap from 2.0 to 2.8. The means stay where they were.
# * A small δ_dist leaves a thin gap: a little noise, and a clustering radius fits no longer.
# * With δ_var > δ_dist blobs overlap, and the loss is content. That is why the config refuses the pair.
#
# As for "pushed too much": beyond 2 · δ_dist there is no push at all.

# %% [markdown]
# ## Trap: margins that the sphere cannot hold
#
# **Broken.** Five lanes, embeddings of length 1, and the margins of the guide:

# %% tags=["trap:broken"]
torch.manual_seed(0)
five_lanes = torch.arange(5).repeat_interleave(8)
start_32d = F.normalize(torch.randn(40, 32), dim=1)
_, on_sphere = converge(start_32d, five_lanes, normalize=True, delta_var=0.5, delta_dist=1.5)
stuck = float(on_sphere["distance"])
print(f"distance term after 300 steps: {stuck:.2f}")

# %% [markdown]
# **Why.** Five unit vectors can be √(2·5/4) = 1.58 apart, at most. The hinge of each pair stays at 3 − 1.58, so the
# term ends at (3 − 1.58)² = 2.01, however long you train. The number looks like a model that does not learn.
#
# **Mended.** Do not normalise; or choose margins that fit, such as (0.2, 0.7).

# %% tags=["trap:mended"]
floor = (3 - math.sqrt(2 * 5 / 4)) ** 2
_, free = converge(start_32d, five_lanes, delta_var=0.5, delta_dist=1.5)
_, fitting = converge(start_32d, five_lanes, normalize=True, delta_var=0.2, delta_dist=0.7)
print(f"not normalised: {free['distance']:.3f}; on the sphere with (0.2, 0.7): {fitting['distance']:.3f}")
assert abs(stuck - floor) < 0.02  # the symptom: the floor, not zero
assert free["distance"] < 0.01 and fitting["distance"] < 0.01  # the mends

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
# together, and it pushes the real lanes away from where their pixels are.
#
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
# A batch may hold an image without lanes, with one, or with lanes of one pixel. A loss that gives NaN there ends the
# night's training. What should happen?
#
# > **Predict first.** Two lanes have exactly the same mean. How strong is the push between them?

# %%
my_guess = None
same = torch.zeros(1, 2, 1, 4, requires_grad=True)
loss, parts = DiscriminativeLoss()(same, torch.tensor([[[1, 1, 2, 2]]]))
loss.backward()
reveal(my_guess, float(same.grad.abs().max()))
print(f"distance term: {parts['distance']:.1f}")

# %% [markdown]
# The distance term is at its largest, 9, and the force is zero: there is no direction to push in. In practice
# two means are never exactly equal; but a naive norm would give NaN here, and one NaN spoils all weights.

# %%
corners = {"no lane": [0, 0, 0, 0], "one lane": [1, 1, 1, 1], "lanes of one pixel": [1, 0, 2, 3]}
for name, mask in corners.items():
    x = torch.randn(1, 2, 1, 4, requires_grad=True)
    loss, parts = DiscriminativeLoss()(x, torch.tensor([[mask]]))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    print(f"{name:18s} " + ", ".join(f"{key} > 0: {bool(value > 0)}" for key, value in parts.items()))

# %% [markdown]
# ## Real size: read embeddings only where there are lanes
#
# The heads give embeddings at a quarter of the image's size; labels are at full size. The obvious way upsamples first.
# `gather_embeddings` interpolates at the labelled pixels only, and gives the same numbers.

# %%
mask = torch.from_numpy(np.stack([scenes.read(i)[2] for i in range(4)]).astype(np.int64))  # (4, 256, 512)
embeddings = torch.randn(4, 32, 64, 128)
image_index, rows, columns = mask.nonzero(as_tuple=True)
gathered = gather_embeddings(embeddings, image_index, rows, columns, (256, 512))  # (N, 32)
upsampled = upsample_to(embeddings, (256, 512))  # (4, 32, 256, 512)
assert_close(gathered, upsampled[image_index, :, rows, columns], atol=1e-5, rtol=1e-5)
labelled = len(rows) / mask.numel()
print(f"{labelled:.1%} of the pixels are labelled")
print(f"upsampled {upsampled.numel() * 4 / 1e6:.0f} MB, gathered {gathered.numel() * 4 / 1e6:.1f} MB")

# %% [markdown]
# ## Exercises
#
# ### 1. The pull
#
# Write the variance term for `points` (N, D) and `lane_of` (N,), lanes numbered 0 … C−1: mean over the pixels of a
# lane, then over the lanes.


# %% tags=["exercise:variance_term"]
def variance_term(points, lane_of, delta_var):
    return ...


# %% tags=["check:variance_term"]
check("variance_term", variance_term)

# %% [markdown] tags=["solution:variance_term"]
# <details><summary>Solution</summary>
#
# ```python
# def variance_term(points, lane_of, delta_var):
#     terms = []
#     for lane in lane_of.unique():
#         mine = points[lane_of == lane]
#         distance = torch.linalg.vector_norm(mine - mine.mean(dim=0), dim=1)
#         terms.append((distance - delta_var).clamp(min=0).square().mean())
#     return torch.stack(terms).mean()
# ```
# </details>

# %% [markdown]
# ### 2. The push
#
# Write the distance term for `means` (C, D), divided by the number of pairs. One lane alone is pushed by nobody: a
# zero tensor.


# %% tags=["exercise:distance_term"]
def distance_term_of(means, delta_dist):
    return ...


# %% tags=["check:distance_term"]
check("distance_term", distance_term_of)

# %% [markdown] tags=["solution:distance_term"]
# <details><summary>Solution</summary>
#
# ```python
# def distance_term_of(means, delta_dist):
#     count = len(means)
#     if count < 2:
#         return means.sum() * 0
#     apart = torch.pdist(means)  # each unordered pair once
#     return (2 * delta_dist - apart).clamp(min=0).square().mean()
# ```
# The mean over unordered pairs equals the sum over ordered pairs divided by C(C−1).
# </details>

# %% [markdown]
# ### 3. Dice that ignores
#
# Write the soft Dice *loss* (1 − mean over classes) of `probabilities` (B, C, H, W) and `target` (B, H, W), where
# pixels with target 255 take no part: neither in the overlap nor in the areas.


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
# Embeddings of length 1, `k` ≥ 2 lanes. Below which value can the distance term never fall?


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
assert 0.15 < float(p_true[0, 0, 1]) < 0.25  # "a fifth"
assert lazy_accuracy > 0.85  # "two classes hold nearly all pixels"
assert soft_dice(half, one_percent, smooth=0.0)[1] < 0.02
assert 150 < ratio[-8.0, 10] < 200  # "almost two hundred times"
assert max(ratio[0.0, pixels] for pixels in (10, 100, 1000)) < 1.2
assert ratio[-8.0, 10] / ratio[0.0, 1000] > 100  # cross-entropy does not move, so this is Dice's own change
assert_close(factors, torch.tensor([0.01, 0.25, 0.81]))
assert counts.min() > 10_000
assert weights_from_counts(counts, "effective_number").sub(1).abs().max() < 0.2
rare = [2, 3, 4, 5]
assert (early["Dice"] - early["cross-entropy"])[rare].mean() > 0.1  # "far ahead"
assert (late["Dice"] - late["cross-entropy"])[rare].mean().abs() < 0.06  # "a few points"
assert (late["cross-entropy"] - late["Dice"])[[BACKGROUND, ROAD]].min() > 0
assert (late["both"] - torch.maximum(late["Dice"], late["cross-entropy"])).min() > -0.07  # "close to the better"

# %%
assert [round(d, 2) for d in example.tolist()] == [0.36, 0.72]
assert abs(float(growth) - 100) < 0.5
assert abs(float(means_apart) - 3) < 0.05
assert closest_strangers(settled, lane_of) > 1.95
assert abs(gaps[0.5, 1.5] - 2.0) < 0.1
assert abs(gaps[0.1, 1.5] - 2.8) < 0.1
assert gaps[1.0, 0.6] < gaps[0.5, 0.6] < 0.5

# %%
assert round(floor, 2) == 2.01
assert_close(DiscriminativeLoss()(same, torch.tensor([[[1, 1, 2, 2]]]))[1]["distance"], torch.tensor(9.0))
assert labelled < 0.1
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Next
#
# **5 · Training**: these losses meet the model, one optimiser step at a time.
