# %% [markdown]
# # 6 · Postprocessing: from embeddings to numbered lanes
#
# **You will be able to** turn class mask and embeddings into numbered lanes and crosswalks, derive the clustering
# radius from the loss, order lanes so that half hidden ones keep their place, and tell which part failed.
#
# **You need** notebook 4 (the discriminative loss). Nothing about clustering.
#
# **Time** to run: under a minute on two CPU cores, the same on a Colab T4 (estimated). To work through: two hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/06_postprocessing.ipynb`, and write the same address into `REPOSITORY` below.
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
import inspect
import time

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import kurtosis
from sklearn.cluster import DBSCAN, MeanShift
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.baselines import connected_components
from roadtopo_lib.course import reveal, reveal_choice, samples
from roadtopo_lib.dataset import LaneInstanceDataset, image_to_tensor, rows_cut
from roadtopo_lib.exercises import check
from roadtopo_lib.labels import CROSSWALK, LANE_CLASS_IDS, LANE_MARKING, ROAD
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter, lane_ids
from roadtopo_lib.postprocess import (
    MIN_CONFIDENCE,
    MIN_PIXELS_SHARE,
    LanePostProcessor,
    cluster_embeddings,
    collect_instances,
    curves_of_road,
    fit_lane_curve,
    fit_road,
    order_by_mean_x,
    order_left_to_right,
    radius_from_margins,
    x_at_row,
)
from roadtopo_lib.postprocess.clustering import SAMPLE_SIZE, VALLEY
from roadtopo_lib.postprocess.curves import row_medians
from roadtopo_lib.postprocess.road import SUPPORT
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.segformer import upsample_to
from roadtopo_lib.viz import color_instances, color_semantic, overlay


def show(rows, size):
    """Pictures with titles, row by row; gives the axes for what is drawn on top."""
    _, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False)
    for ax, (picture, title) in zip(axes.flat, [pair for row in rows for pair in row]):
        ax.imshow(picture)
        ax.set(title=title, xticks=[], yticks=[], xlim=(0, picture.shape[1] - 1), ylim=(picture.shape[0] - 1, 0))
    return axes


# %% [markdown]
# ## A frame small enough to read
#
# The network gives two answers per pixel: a class, and an *embedding* (임베딩), a vector. Post-processing (후처리)
# turns them into numbered lanes. Here is a frame of 6 × 11 pixels with three lane lines (class 2) on road (class 1).
#
# Nothing in this mask says which 2 belongs with which. The embeddings do. We draw them in two dimensions, as a trained
# model would: pixels of one lane close together, lanes 3 apart.

# %%
true_lane = np.zeros((6, 11), dtype=int)
for row in range(6):
    true_lane[row, [3 - row // 2, 5, 7 + row // 2]] = [1, 2, 3]
semantic = np.where(true_lane > 0, LANE_MARKING, ROAD)
rng = np.random.default_rng(0)
means = np.array([[0.0, 0.0], [3.0, 0.0], [1.5, 2.6]])
embeddings = np.zeros((2, 6, 11))
embeddings[:, true_lane > 0] = (means[true_lane[true_lane > 0] - 1] + rng.normal(0, 0.15, (18, 2))).T
x = embeddings[:, semantic == LANE_MARKING].T  # (2, 6, 11) → (18, 2): lane pixels only
print(semantic)

# %%
figure, ax = plt.subplots(figsize=(5, 3))
ax.scatter(*x.T, s=18, color="black")
for mean in means:
    ax.add_patch(plt.Circle(mean, 0.5, fill=False, linestyle="--", color="C0"))
ax.set(title="Three lanes are three clumps (circles: δ_var)", xlabel="embedding dimension 1", ylabel="dimension 2")
ax.set_aspect("equal")
plt.show()

# %% [markdown]
# ## From clumps to labels: a threshold around a mean
#
# Take a pixel nobody has claimed. Gather all within a radius, move to their mean, gather again. What is gathered is a
# lane. Repeat until nothing is left. The number of lanes is never asked for.


# %%
def greedy_clusters(x, radius):
    labels = np.full(len(x), -1)
    for i in range(len(x)):
        if labels[i] < 0:
            center = x[i]
            for _ in range(3):  # from one pixel towards the mean of its lane
                near = (labels < 0) & (np.linalg.norm(x - center, axis=1) <= radius)
                center = x[near].mean(axis=0)
            labels[near] = labels.max() + 1
    return labels


labels = greedy_clusters(x, radius=1.5)
labels

# %% [markdown]
# The library's `cluster_embeddings` is faster (you will see how much), and may choose other names for the clusters.
# Labels are names: what counts is which pixels share one. The *adjusted Rand index* (ARI) compares just that. It is
# 1 for the same partition and about 0 for chance.

# %%
by_library = cluster_embeddings(x, radius=1.5)
truth = true_lane[semantic == LANE_MARKING]
assert adjusted_rand_score(truth, labels) == 1
assert adjusted_rand_score(labels, by_library) == 1
print(by_library)

# %% [markdown]
# ## Which radius? The loss has decided already
#
# The loss of notebook 4 is zero once pixels lie within δ_var of their mean and means are 2 · δ_dist apart. So a pixel
# is at least 2 · δ_dist − δ_var from every *other* mean. Any radius between the two separates. The paper takes the
# middle, δ_dist (De Brabandere et al. 2017, section 3.3).
#
# To try it, `lanes_at_the_margin` makes embeddings that *just* satisfy the loss: evenly spread in a ball of radius 0.5,
# means exactly 3 apart.

# %%
delta_var, delta_dist = 0.5, 1.5
lowest, highest = delta_var, 2 * delta_dist - delta_var
radius = radius_from_margins(delta_var, delta_dist)
print(f"from {lowest} to {highest}; we use {radius}")


def lanes_at_the_margin(n, lanes=5, dim=32, spread=0.5, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % lanes
    direction = rng.normal(size=(n, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    distance = spread * rng.random((n, 1)) ** (1 / dim)  # even in volume
    means = np.eye(lanes, dim) * 2 * delta_dist / np.sqrt(2)
    return (means[truth] + distance * direction).astype(np.float32), truth


x32, truth32 = lanes_at_the_margin(2000)

# %% [markdown]
# Now sweep the radius.
#
# > **Predict first.** The widest radius at which `cluster_embeddings` still finds these five lanes?

# %%
my_guess = None
radii = np.arange(0.2, 3.41, 0.1)
ours = np.array([adjusted_rand_score(truth32, cluster_embeddings(x32, r)) for r in radii])
plateau = radii[ours > 0.999]
reveal(my_guess, plateau.max())
figure, ax = plt.subplots(figsize=(7, 2.8))
ax.axvspan(lowest, highest, color="0.9", label="allowed by the margins")
ax.plot(radii, ours, marker="o", markersize=4, label="cluster_embeddings")
ax.axvline(radius, color="black", linestyle=":", label="δ_dist")
ax.set(title="A wide plateau around δ_dist, a cliff on either side", xlabel="radius", ylabel="ARI to the truth")
ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The plateau is wider than promised. In 32 dimensions a pixel's offset is nearly at right angles to everything else, so
# its distance from another mean is about √(3² + 0.5²), not 2.5. Do not build on that: the margins are the guarantee,
# and δ_dist has the most room on both sides.

# %% [markdown]
# ### The guide says / we measured: bandwidth 0.5 and eps 0.3
#
# The guide sets MeanShift's bandwidth to 0.5 and DBSCAN's eps to 0.3, as free choices, beside a loss with margins
# (0.5, 1.5).
#
# > **Predict first.** How many lanes does DBSCAN with eps 0.3 find in these five perfectly trained ones?

# %%
my_guess = None
dbscan = DBSCAN(eps=0.3, min_samples=10).fit_predict(x32)
reveal(my_guess, len(set(dbscan) - {-1}), "lanes")
few, few_truth = lanes_at_the_margin(400)
meanshift = MeanShift(bandwidth=0.5).fit_predict(few)
print(f"DBSCAN, eps 0.3: {np.mean(dbscan == -1):.0%} of the pixels are noise")
print(f"MeanShift, bandwidth 0.5: {len(set(meanshift))} lanes")
right = [DBSCAN(eps=1.5, min_samples=10).fit_predict(few), MeanShift(bandwidth=1.5).fit_predict(few)]
assert all(adjusted_rand_score(few_truth, labels) == 1 for labels in right)
print("with radius 1.5:", [len(set(labels)) for labels in right], "lanes")

# %% [markdown]
# Both methods work with the radius of the margins, and both fail with the guide's numbers. The reason is the dimension:
# in 32 of them nearly all of a ball's volume lies near its surface, and two of its points are about √2 · 0.5 = 0.71
# apart. Pairs closer than 0.5 are rare, and none is closer than 0.3.
#
# This is the worst case that the loss permits. A model may well train its clumps tighter; further down we look at a
# real one.

# %% [markdown]
# ### The guide says / we measured: the table of properties
#
# "DBSCAN needs the number of clusters by hand; both label noise −1." Ask the classes themselves, and a lone pixel.

# %%
print(*("n_clusters" in inspect.signature(method).parameters for method in (DBSCAN, MeanShift)))
lone = np.vstack([few[few_truth < 2], np.full((1, 32), 20.0)])
methods = [DBSCAN(eps=1.5, min_samples=10), MeanShift(bandwidth=1.5)]
methods += [MeanShift(bandwidth=1.5, cluster_all=False, seeds=seeds) for seeds in (None, lone[:100])]
lone_label = [int(method.fit_predict(lone)[-1]) for method in methods]
names = ["DBSCAN", "MeanShift", "cluster_all=False", "the same, seeds elsewhere"]
print("label of the lone pixel:", dict(zip(names, lone_label)))

# %% [markdown]
# Neither takes a count. DBSCAN marks noise. MeanShift makes a cluster of everything, even with `cluster_all=False`,
# as long as one of its windows starts at the lone pixel. The table also says "DBSCAN strong, MeanShift weak in high
# dimensions": in these 32, both failed with the guide's numbers and neither failed with the right radius.

# %% [markdown]
# ## Trap: the noise that became a lane
#
# **Broken.** The guide drops small clusters with these two lines. We feed it five lanes of 400 pixels each, and 200
# stray pixels.

# %% tags=["trap:broken"]
min_pixels = 50
stray = np.random.default_rng(1).uniform(-3, 6, (200, 32)).astype(np.float32)
cluster_labels = DBSCAN(eps=1.5, min_samples=10).fit_predict(np.vstack([x32, stray]))
unique_labels, counts = np.unique(cluster_labels, return_counts=True)
valid_labels = unique_labels[counts >= min_pixels]
print("lanes found:", len(valid_labels))

# %% [markdown]
# **Why.** `np.unique` also returns −1, "no cluster". There are 200 such pixels: enough for a lane, scattered all
# over the image.
#
# **Mended.** Leave −1 out before counting.

# %% tags=["trap:mended"]
unique_labels, counts = np.unique(cluster_labels[cluster_labels >= 0], return_counts=True)
mended_labels = unique_labels[counts >= min_pixels]
assert -1 in valid_labels and len(valid_labels) == 6  # the symptom
assert mended_labels.tolist() == [0, 1, 2, 3, 4]  # the mend
print("lanes found:", len(mended_labels))

# %% [markdown]
# ## Three methods, one partition, three prices
#
# MeanShift moves a window from every pixel until it rests. DBSCAN asks for every pixel's neighbours. The library's
# "fast" looks at 192 pixels to find the means, then computes one matrix product: pixels × means.

# %%
METHODS = {
    "fast": lambda x: cluster_embeddings(x, 1.5),
    "DBSCAN": lambda x: DBSCAN(eps=1.5, min_samples=10).fit_predict(x),
    "MeanShift": lambda x: MeanShift(bandwidth=1.5).fit_predict(x),
}
SIZES = {
    "fast": (500, 1000, 2000, 5000, 10000, 20000),
    "DBSCAN": (500, 1000, 2000, 5000, 10000),
    "MeanShift": (200, 400, 800),
}


def seconds_of(method, n):
    x, truth = lanes_at_the_margin(n)
    times = []
    for _ in range(3 if method == "fast" else 1):
        started = time.perf_counter()
        labels = METHODS[method](x)
        times.append(time.perf_counter() - started)
    assert adjusted_rand_score(truth, labels) == 1  # all of them find all five lanes
    return min(times)


seconds = {method: [seconds_of(method, n) for n in sizes] for method, sizes in SIZES.items()}

# %% [markdown]
# > **Predict first.** At 5,000 pixels, how many times faster than DBSCAN is "fast"?

# %% tags=["nbval-ignore-output"]
my_guess = None
at_5000 = {method: seconds[method][SIZES[method].index(5000)] for method in ("fast", "DBSCAN")}
faster = at_5000["DBSCAN"] / at_5000["fast"]
reveal(my_guess, faster, "times", tolerance=0.5)
per_doubling = seconds["MeanShift"][-1] / seconds["MeanShift"][-2]
print(f"MeanShift: {seconds['MeanShift'][-1]:.1f} s for 800 pixels, × {per_doubling:.1f} when they double")
assert faster > 20 and seconds["MeanShift"][-1] > 100 * seconds["fast"][1] and per_doubling > 1.3

figure, ax = plt.subplots(figsize=(7, 3))
for (method, sizes), marker, color in zip(SIZES.items(), "os^", ["C0", "C1", "C3"]):
    ax.loglog(sizes, seconds[method], marker=marker, color=color, label=method)
ax.axhline(1 / 25, color="black", linestyle=":", label="one frame at 25 fps")
ax.set(title="Same labels; only one of them is fast enough", xlabel="lane pixels N", ylabel="time (s)")
ax.legend(fontsize="small", loc="upper right", bbox_to_anchor=(1.3, 1))
plt.show()

# %% [markdown]
# The guide is right that DBSCAN is faster than MeanShift. It still recommends MeanShift and calls its speed "medium":
# measured, it is the slowest by far, and finds nothing here that the others miss. How many pixels has a real frame? We
# shall count: thousands.

# %% [markdown]
# ## A thin bridge
#
# Where two lines meet in the image, the network's interpolation leaves a few pixels half-way between two clumps.
# DBSCAN walks from neighbour to neighbour.
#
# > **Predict first.** Sixty stray pixels between two lanes of 300 and 200: does DBSCAN find "one" lane or "two"?

# %%
my_guess = None
rng = np.random.default_rng(0)
lanes2d = np.concatenate([rng.normal((0, 0), 0.15, (300, 2)), rng.normal((3.2, 0), 0.15, (200, 2))])
bridge = np.column_stack([rng.uniform(0.3, 2.9, 60), rng.normal(0, 0.05, 60)])
points = np.concatenate([lanes2d, bridge])
joined = DBSCAN(eps=0.5, min_samples=10).fit_predict(points)
apart = cluster_embeddings(points, 1.0)
reveal_choice(my_guess, {1: "one", 2: "two"}[len(set(joined[:500]))])
assert (len(set(joined[:500])), len(set(apart[:500]))) == (1, 2)
figure, axes = plt.subplots(1, 2, figsize=(9, 2), sharey=True)
for ax, labels, title in zip(axes, [joined, apart], ["DBSCAN: one lane", "fast: two lanes"]):
    for label, color in zip(sorted(set(labels)), ["C0", "C1", "C3"]):
        ax.scatter(*points[labels == label].T, s=4, color=color)
    ax.set(title=title, xlabel="dimension 1", ylabel="dimension 2", aspect="equal")
plt.show()

# %% [markdown]
# "fast" joins two modes only if there is no *valley* between them: the density half-way must reach half of that at
# the lower peak. A bridge of stray pixels is a valley.

# %% [markdown]
# ### The guide says / we measured: "the embedding space becomes Gaussian"
#
# That is the guide's reason for MeanShift. But inside δ_var the pull has no gradient: whatever shape a clump has there,
# it keeps. Start with pixels on a *square* and let the library's loss pull.

# %%
torch.manual_seed(0)
pulled = (4 * torch.rand(400, 2) - 2).requires_grad_()
loss = DiscriminativeLoss(0.5, 1.5, gamma=0.0)  # one lane: only the pull is left
optimizer = torch.optim.Adam([pulled], lr=0.02)
for _ in range(300):
    optimizer.zero_grad()
    value, _ = loss(pulled.T[None, :, None, :], torch.ones(1, 1, 400, dtype=torch.long))  # (1, 2, 1, 400)
    value.backward()
    optimizer.step()
trained = pulled.detach().numpy()
distance = np.linalg.norm(trained - trained.mean(axis=0), axis=1)
value_pull = value.item()
print(f"loss {value_pull:.4f}; on the rim (beyond 0.45): {np.mean(distance > 0.45):.0%} of the pixels")

normal = np.random.default_rng(0).normal(size=(400, 2)) * trained.std()
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharex=True, sharey=True)
for ax, cloud, title in zip(axes, [trained, normal], ["After training", "A Gaussian of equal width"]):
    ax.scatter(*(cloud - cloud.mean(axis=0)).T, s=4)
    title = f"{title}: kurtosis {kurtosis(cloud).mean():+.1f}"
    ax.set(title=title, aspect="equal", xlabel="dimension 1", ylabel="dimension 2")
plt.show()

# %% [markdown]
# A Gaussian has excess kurtosis 0. The loss makes a rim with a thin filling: the opposite of a peak. MeanShift does not
# need a Gaussian anyway; scikit-learn's is flat inside its window.

# %% [markdown]
# ## From labels to numbered lanes: `LanePostProcessor`
#
# The whole chain on our toy: take lane pixels, cluster, drop small clusters, fit curves, order from left to right,
# number. We add one stray pixel with an embedding of its own.

# %%
semantic[0, 9], embeddings[:, 0, 9] = LANE_MARKING, (-3, -3)
# Curves of one road come later; their tolerances, in line widths, make no sense on 11 columns.
result = LanePostProcessor(min_pixels=3, road_model=False).process(semantic, embeddings)
kept = LanePostProcessor(min_pixels=0, road_model=False).process(semantic, embeddings)
assert (result["lane_instances"] == true_lane).all()  # the stray pixel is gone, the ids run 1, 2, 3 …
print(result["lane_instances"])
print("lanes with min_pixels=3:", result["lane_count"], "and with 0:", kept["lane_count"])

# %% [markdown]
# The default drops what is smaller than 0.1 % of the image. The result is a dictionary. An empty frame gives empty
# arrays of the usual shapes, so no caller needs an `if`.

# %%
for key, value in result.items():
    print(f"{key:20s}", getattr(value, "shape", value if isinstance(value, int) else f"list of {len(value)}"))

empty = LanePostProcessor().process(np.zeros((6, 11), dtype=int), embeddings)
assert empty["lane_count"] == 0 and empty["lane_centers"].shape == (0, 2) and empty["lane_polylines"] == []
print("empty frame: lane_centers", empty["lane_centers"].shape)

# %% [markdown]
# ### The guide says / we measured: the listing
#
# The guide prints `process` as a listing. We run its lines, one by one, with everything defined that the listing
# defines.

# %%
defined = {
    "np": np,
    "semantic_pred": semantic,
    "lane_pixels": 18,
    "cluster_labels": np.array([0, 0, 1, 1]),
    "lane_centers": [7.5, 1.5],
    "sorted_indices": np.array([1, 0]),
}
LISTING = {  # line: what it gives
    "lane_pixels < min_pixels": "NameError",
    "np.where(cluster_labels == 0)[1].mean()": "IndexError",
    "np.zeros((h, w), dtype=np.int32)": "NameError",
    "np.where(embeddings_to_pixel_map[0])": "NameError",
    "np.array(lane_centers)[sorted_indices].shape": "(2,)",
}


def run_line(line):
    try:
        return str(eval(line, dict(defined)))
    except Exception as error:
        return type(error).__name__


for line in LISTING:
    print(f"{line:46s} {run_line(line)}")
assert {line: run_line(line) for line in LISTING} == LISTING

# %% [markdown]
# It never ran. The `IndexError` is worth a thought: `cluster_labels` has one entry per *lane pixel*, so it has no
# columns. One must keep the pixels' places, and the library does. And the centres, promised as (N, 2), are (N,).

# %% [markdown]
# ### The guide says / we measured: `lane_class_id=1`
#
# The listing separates class 1 and calls it lane_marking. In the guide's own class table, 1 is road.

# %%
scenes = LaneInstanceDataset(samples(), "val")
image, true_semantic, true_instances = scenes.read(7)
as_written = np.count_nonzero(true_semantic == 1)
really = np.count_nonzero(true_semantic == LANE_MARKING)
print(f"class 1: {as_written} pixels of asphalt; class {LANE_MARKING}: {really} pixels of paint")
assert (ROAD, LANE_MARKING) == (1, 2)

# %% [markdown]
# So the library names its classes once, and imports the names. Its lanes are two classes: painted lines and road
# boundaries.

# %% [markdown]
# ## Left to right
#
# Which lane is the leftmost? What counts for a driver is where it meets a row near the bumper. Here are the lanes of a
# rendered scene, *visible* pixels only: gaps of dashes and what a vehicle hides are missing.


# %%
def lanes_of(mask, min_pixels=131):  # 0.1 % of 256 × 512
    lanes = [np.flatnonzero(mask == k) for k in range(1, int(mask.max()) + 1)]
    return [pixels for pixels in lanes if len(pixels) >= min_pixels]  # true order, left to right


scene = render_scene(44)
height, width = scene.semantic_visible.shape
lanes = lanes_of(np.where(scene.semantic_visible == CROSSWALK, 0, scene.instance_visible))

# %% [markdown]
# ## Trap: ordering by mean x
#
# **Broken.** The guide orders lanes by the mean x of their pixels.

# %% tags=["trap:broken"]
mean_x = [np.mean(pixels % width) for pixels in lanes]
by_mean = np.argsort(mean_x)
print("mean x:", np.round(mean_x).astype(int), "→ order", by_mean)

# %% [markdown]
# **Why.** Lines run towards a vanishing point. A line of which only the far part shows has its mean near the middle of
# the image, wherever it comes from.
#
# **Mended.** Fit a curve, follow it down to the reference row, and order by that x. Where a curve ends above the row,
# it is continued straight.

# %% tags=["trap:mended"]
curves = [fit_lane_curve(pixels % width, pixels // width) for pixels in lanes]
reference_row = 0.9 * (height - 1)
meets = [x_at_row(curve, reference_row) for curve in curves]
by_row = order_left_to_right(curves, reference_row)
assert by_mean.tolist() != [0, 1, 2]  # the symptom
assert by_row.tolist() == np.argsort(meets).tolist() == [0, 1, 2]  # the mend
print("x at the reference row:", np.round(meets).astype(int), "→ order", by_row)

# %%
picture = cv2.medianBlur(scene.image, 3)
axes = show([[(picture, "By mean x: wrong"), (picture, "By the reference row: right")]], (7.4, 2.1))[0]
for ax, order in zip(axes, [by_mean, by_row]):
    for number, k in enumerate(order, start=1):
        color = ["C0", "C1", "C3"][k]
        ax.scatter(lanes[k] % width, lanes[k] // width, s=0.3, color=color)
        ax.plot([curves[k][-1, 0], meets[k]], [curves[k][-1, 1], reference_row], "--", color=color)
        ax.text(np.clip(meets[k], 15, width - 15), 215, number, backgroundcolor=color, ha="center")
    ax.axhline(reference_row, color="white", linestyle=":")
plt.show()

# %% [markdown]
# How often does it matter? We order the lanes of 60 rendered scenes by three rules. The third fits *one road* to all
# lanes together; you will see below how.


# %%
def orders(lanes):
    xy = [(pixels % width, pixels // width) for pixels in lanes]
    road = fit_road([row_medians(y, x) for x, y in xy], (height, width))  # rows, their median x, number of pixels
    return {
        "mean x": order_by_mean_x([np.stack(points, axis=1) for points in xy]),
        "row, own curves": order_left_to_right([fit_lane_curve(*points) for points in xy], reference_row),
        "row, one road": np.argsort(road.x(np.arange(len(lanes)), reference_row)),
    }


# %%
wrong = {"visible": {}, "whole": {}}
for scene in map(render_scene, range(60)):
    for kind, mask in [("visible", scene.instance_visible), ("whole", scene.instance_amodal)]:
        lanes = lanes_of(np.where(mask <= len(scene.lanes), mask, 0))
        for name, order in orders(lanes).items() if len(lanes) > 1 else ():
            wrong[kind][name] = wrong[kind].get(name, 0) + (list(order) != sorted(order))

# %% [markdown]
# > **Predict first.** In how many of the 60 scenes is the order by mean x wrong, if only visible pixels count?

# %%
my_guess = None
reveal(my_guess, wrong["visible"]["mean x"], "scenes")
print(wrong)

# %% [markdown]
# An honest answer, and not quite the expected one. Where lines are labelled whole, through gaps and behind vehicles,
# the mean is never wrong here. On visible pixels it is wrong in some scenes, but so is the reference row when each lane
# brings its own curve: a short far piece, continued over half the image, crosses its neighbour. Curves that know the
# *road* do best, though all the counts are small. Those come next.

# %% [markdown]
# ## Curves
#
# One lane first. A polynomial x(y) through all pixels is a one-liner. Then a stray patch of 12 × 20 pixels gets the
# same label.

# %%
rows = np.arange(100, 240)
y = np.repeat(rows, 5)  # a line 5 pixels wide
x = (200 + 0.0045 * (y - 100) ** 2 + np.tile(np.arange(-2, 3), 140)).round().astype(int)
patch_y, patch_x = np.mgrid[150:170, 280:292]
y, x = np.append(y, patch_y), np.append(x, patch_x)
plain, robust = np.polyfit(y, x, deg=2), fit_lane_curve(x, y)
true_x = 200 + 0.0045 * (robust[:, 1] - 100) ** 2
off_plain = np.abs(np.polyval(plain, robust[:, 1]) - true_x).max()
off_robust = np.abs(robust[:, 0] - true_x).max()
figure, ax = plt.subplots(figsize=(6, 3))
ax.scatter(x, y, s=3, marker="s", color="0.7", label="pixels")
ax.plot(np.polyval(plain, rows), rows, "--", color="C1", label=f"np.polyfit: up to {off_plain:.0f} px off")
ax.plot(*robust.T, color="C0", label=f"fit_lane_curve: {off_robust:.1f} px")
ax.set(title="Stray pixels bend a plain fit only", xlabel="x (px)", ylabel="y (px)", ylim=(245, 95))
ax.legend(fontsize="small")
plt.show()

# %% [markdown]
# `fit_lane_curve` takes the median of each row, then reweights: rows far off the curve lose their say. The degree is
# raised only while the residuals ask for it.
#
# ### All lines share one road
#
# On flat ground, every line of a road has the form x(y) = a + b / (y − h) + s · (y − h) (Kluge 1994). Heading a,
# curvature b and horizon h are common to all; only the slope s belongs to a line. For a given h that is linear least
# squares, over all lines at once:

# %%
a, b, h, slopes = 250.0, 2500.0, 100.0, (-1.6, -0.4, 0.9)
seen = [np.arange(118, 240), np.arange(118, 240), np.arange(118, 150)]  # the third line: a far piece only
noise = np.random.default_rng(3)
lines = [(y, a + b / (y - h) + s * (y - h) + noise.normal(0, 1, y.size)) for y, s in zip(seen, slopes)]


def fit_given_horizon(h):
    below = [y - h for y, _ in lines]
    blocks = [np.column_stack([d**0.0, 1 / d, np.outer(d, np.eye(3)[k])]) for k, d in enumerate(below)]
    design, target = np.concatenate(blocks), np.concatenate([x for _, x in lines])  # (points, 2 + 3 lines)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    return solution, np.abs(design @ solution - target).mean()


horizons = np.arange(80, 115)
best = horizons[np.argmin([fit_given_horizon(h)[1] for h in horizons])]
mine = fit_given_horizon(best)[0]
print(f"horizon {best}, a {mine[0]:.0f}, b {mine[1]:.0f}, slopes {mine[2:].round(2)}")

# %% [markdown]
# The library's `fit_road` does the same, robustly. We let both continue the third line, of which 32 rows are seen, down
# to row 230; and the line's own curve, too.

# %%
road = fit_road([(y, x, np.ones(y.size)) for y, x in lines], (256, 512))
truth_230 = a + b / 130 + slopes[2] * 130
own = x_at_row(fit_lane_curve(lines[2][1].round().astype(int), lines[2][0]), 230)
shared_mine = mine[0] + mine[1] / (230 - best) + mine[4] * (230 - best)
shared = road.x(2, np.array([230.0]))[0]
print(f"true x {truth_230:.0f}; own curve {own:.0f}; own few lines {shared_mine:.0f}; fit_road {shared:.0f}")
assert abs(shared - truth_230) < 8 and abs(shared_mine - truth_230) < 8 < abs(own - truth_230)

# %% [markdown]
# Now a rendered scene. Say a truck hides the near half of the third lane, and a patch on the asphalt was
# taken for a lane.

# %%
scene = render_scene(4)
lanes = lanes_of(np.where(scene.instance_amodal <= len(scene.lanes), scene.instance_amodal, 0))
rows = lanes[2] // width
lanes[2] = lanes[2][rows <= (rows.min() + rows.max()) / 2]
blob = (np.arange(170, 190)[:, None] * width + np.arange(250, 262)).ravel()  # 12 × 20 pixels
curves = [fit_lane_curve(pixels % width, pixels // width) for pixels in [*lanes, blob]]
members, shared = curves_of_road([*lanes, blob], curves, (height, width))
shared = [shared[members.index([k])] for k in range(3)]  # in the order of the lanes given
titles = ["Each its own curve, continued straight", "One road: the curves agree"]
axes = show([[(cv2.medianBlur(scene.image, 3), title) for title in titles]], (7.4, 2.1))[0]
for ax, polylines in zip(axes, [curves, shared]):
    for k, polyline in enumerate(polylines):
        end = [x_at_row(polyline, height - 1), height - 1]
        ax.plot(*np.vstack([polyline, end]).T, color=["C0", "C3", "C1", "C5"][k], linewidth=2.5)
    for lane in scene.lanes:
        ax.plot(*lane.T, "--", color="white", linewidth=1)
plt.show()

true_end = scene.lanes[2][-1]
errors = [abs(x_at_row(found[2], true_end[1]) - true_end[0]) for found in (curves, shared)]
print(f"third lane, near end: own curve {errors[0]:.0f} px off, the road's {errors[1]:.0f} px")
assert errors[0] > 100 and errors[1] < 5 and [3] not in members

# %% [markdown]
# White dashes are the truth. The patch is gone: a line whose pixels cover less than 40 % of its curve is no line.
#
# That rule has a price. It fits models whose labels run through gaps, like ours. Of a dashed line marked only where
# paint is visible, it may make nothing. Then use `road_model=False`:

# %%
dashed = render_scene(3)
visible = lanes_of(np.where(dashed.instance_visible <= len(dashed.lanes), dashed.instance_visible, 0))
curves = [fit_lane_curve(pixels % width, pixels // width) for pixels in visible]
members, _ = curves_of_road(visible, curves, (height, width))
print([len(pixels) for pixels in visible], "visible pixels; kept:", sorted(k for lane in members for k in lane))

# %% [markdown]
# ## A real frame
#
# Now the guide's practical: inference and post-processing. `data_samples` holds a small trained model. It has not seen
# these scenes. Its *heads* answer at a quarter of the
# height and width; we upsample the logits (bilinear), and leave the embeddings as they are.

# %%
segmenter = LaneSegmenter.from_checkpoint(samples() / "tiny.safetensors", device)
segmenter.mirror = False  # one view is enough here
config = segmenter.config


@torch.inference_mode()
def heads(image):
    height, width = image.shape[:2]
    top = rows_cut(height, config.crop_top)  # the sky was cut off in training, too
    small = cv2.resize(image[top:], config.image_size[::-1], interpolation=cv2.INTER_AREA)
    out = segmenter.model(image_to_tensor(small)[None].to(device), upsample=False)
    probabilities = upsample_to(out["logits"], (height - top, width))[0].softmax(dim=0).cpu().numpy()  # (6, H − top, W)
    fill = ((top, 0), (0, 0))  # above: background
    lane_probability = np.pad(probabilities[list(LANE_CLASS_IDS)].sum(axis=0), fill)
    return np.pad(probabilities.argmax(axis=0), fill), out["embeddings"][0].cpu(), lane_probability, top


# %% tags=["nbval-ignore-output"]
semantic, embeddings, confidence, top = heads(image)
on_lane = np.isin(semantic, LANE_CLASS_IDS)
print(f"{image.shape} → embeddings {tuple(embeddings.shape)}, lane pixels: {on_lane.sum()}")
assert tuple(embeddings.shape) == (32, 24, 64) and 2000 < on_lane.sum() < 12000

# %% [markdown]
# Thousands of lane pixels at 256 × 512; four times as many at 512 × 1024. Look again at the time figure.
#
# `process` reads each lane pixel's embedding from the small map. That equals upsampling the map and then picking, at a
# fraction of the memory:

# %%
rows, columns = np.nonzero(on_lane)  # all below the cut: above is background
big = upsample_to(embeddings[None], (256 - top, 512))[0]  # (32, 192, 512): what we want to avoid
picked = big[:, rows - top, columns].T  # (n, 32)
place = torch.tensor(np.stack([(2 * columns + 1) / 512 - 1, (2 * (rows - top) + 1) / (256 - top) - 1], axis=1))
read = torch.nn.functional.grid_sample(
    embeddings[None], place[None, None].float(), padding_mode="border", align_corners=False
)
torch.testing.assert_close(read[0, :, 0].T, picked, atol=1e-4, rtol=1e-4)

# %%
result = segmenter.postprocessor.process(semantic, embeddings, first_row=top, confidence=confidence)
whole = segmenter(image)  # image in, instances out: the library's way
assert (result["lane_instances"] == whole["lane_instances"]).mean() > 0.999
assert result["crosswalk_count"] == 1 and 2 <= result["lane_count"] <= 4
above = [(image, "Image"), (color_semantic(semantic), "Classes")]
below = [
    (color_instances(result["lane_instances"]), "Lanes"),
    (overlay(image, result), "Curves, numbers, crosswalk C1"),
]
show([above, below], (6.8, 3.8))
plt.show()

# %% [markdown]
# Crosswalks (횡단보도) go through the same clustering, numbered from near to far. They get a centre, no curve.
#
# ### What the embeddings of this frame look like
#
# Thirty-two dimensions, seen along the two in which they spread most (PCA).

# %% tags=["nbval-ignore-output"]
lane_of = result["lane_instances"][rows, columns]
vectors = picked.numpy()[lane_of > 0]
lane_of = lane_of[lane_of > 0]
axes_2d = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:2]
flat = (vectors - vectors.mean(axis=0)) @ axes_2d.T
figure, ax = plt.subplots(figsize=(6, 3.2))
for lane, color, marker in zip(np.unique(lane_of), ["C0", "C1", "C3", "C5"], "os^v"):
    ax.scatter(*flat[lane_of == lane].T, s=4, color=color, marker=marker, label=f"lane {lane}")
ax.set(
    title="Three lanes, three clumps, less tidy than the toy", xlabel="first component", ylabel="second", aspect="equal"
)
ax.legend(markerscale=3, fontsize="small")
plt.show()

means = np.stack([vectors[lane_of == lane].mean(axis=0) for lane in np.unique(lane_of)])
off = np.linalg.norm(vectors - means[np.unique(lane_of, return_inverse=True)[1]], axis=1)
nearest = min(np.linalg.norm(p - q) for i, p in enumerate(means) for q in means[:i])
print(f"within δ_var: {np.mean(off < 0.5):.0%} of the pixels; nearest means {nearest:.1f} apart")
assert 0.5 < np.mean(off < 0.5) < 1

# %% [markdown]
# A real model keeps its promises for most pixels, not for all. Where in the plateau we stand then matters. The same
# sweep, on the test split, at pixels that model and truth both call lane:


# %%
SPLITS = [("train", 24), ("val", 12), ("test", 12)]  # none of them was this model's


def inspect_scene(split, index):
    image, semantic, instances = LaneInstanceDataset(samples(), split).read(index)
    ids = lane_ids(semantic, instances)
    true = np.where(np.isin(instances, ids), instances, 0).astype(int)
    calm = cv2.medianBlur(image, 3)  # for the figures
    return {"image": calm, "true": true, "curves": polylines_from_instances(true, ids), "heads": heads(image)}


frames = [inspect_scene(split, i) for split, n in SPLITS for i in range(n)]
print(len(frames), "scenes")

# %% tags=["nbval-ignore-output"]
real_radii = [0.3, 0.5, 1, 1.5, 2, 2.5]
scores = []
for frame in frames[-12:]:  # the test split
    semantic, embeddings, _, top = frame["heads"]
    both = (np.isin(semantic, LANE_CLASS_IDS) & (frame["true"] > 0))[top:]  # model and truth agree on "lane"
    vectors = upsample_to(embeddings[None], both.shape)[0].numpy()[:, both].T  # (n, 32)
    truth = frame["true"][top:][both]
    labels = [cluster_embeddings(vectors, r) for r in real_radii] + [cluster_embeddings(vectors, 0.3, "dbscan")]
    scores.append([adjusted_rand_score(truth, found) for found in labels])
*by_radius, guides = np.mean(scores, axis=0)
assert max(by_radius) > 0.95 and by_radius[3] > max(by_radius) - 0.02 and by_radius[3] > guides > by_radius[0]

figure, ax = plt.subplots(figsize=(7, 2.6))
ax.plot(real_radii, by_radius, marker="o", label="cluster_embeddings")
ax.axhline(guides, color="C1", linestyle="--", label="DBSCAN, eps 0.3")
ax.axvline(1.5, color="black", linestyle=":", label="δ_dist")
ax.set(
    title="A real model, 12 test scenes: δ_dist is a good place", xlabel="radius", ylabel="mean ARI", ylim=(0.5, 1.02)
)
ax.legend(fontsize="small", loc="lower right")
plt.show()

# %% [markdown]
# To be fair to the guide: DBSCAN with eps 0.3 does not collapse here, and is nearly as good. A real clump is no evenly
# filled ball: as the PCA shows, its pixels lie in dense strands, and DBSCAN can walk along them. Nothing in the loss
# asks for that, though. As a radius around a mean, the same 0.3 does badly.

# %% [markdown]
# ## Why? Instances at all
#
# The guide: semantic segmentation alone cannot tell lanes apart. Is that so? Connected components (연결 요소) of the
# class mask cost nothing: pixels that touch are one lane.
#
# > **Predict first.** Lane F1 of the components on 48 scenes, if embeddings (same curves, no road model) reach about
# > 0.5?

# %%
with_road, without_road = segmenter.postprocessor, LanePostProcessor(road_model=False)


def variants(frame):
    semantic, embeddings, confidence, top = frame["heads"]
    lanes = np.isin(semantic, LANE_CLASS_IDS)
    pieces = cv2.connectedComponents(lanes.astype(np.uint8))[1][lanes] - 1
    none = np.empty(0, dtype=np.int64)
    return {
        "components": connected_components(semantic),
        "components + road": collect_instances(semantic, (np.flatnonzero(lanes), pieces), (none, none)),
        "embeddings": without_road.process(semantic, embeddings, top),
        "embeddings + road": with_road.process(semantic, embeddings, top),
        "embeddings + road + sure pixels": with_road.process(semantic, embeddings, top, confidence),
    }


# %% tags=["nbval-ignore-output"]
my_guess = None
for frame in frames:
    frame["found"] = variants(frame)
f1 = {name: LaneF1() for name in frames[0]["found"]}
for frame in frames:
    for name, found in frame["found"].items():
        f1[name].update(found["lane_polylines"], frame["curves"], frame["true"].shape)
value = {name: score.f1() for name, score in f1.items()}
reveal(my_guess, value["components"])
assert value["components"] < value["embeddings"] < value["embeddings + road + sure pixels"]
figure, ax = plt.subplots(figsize=(8, 2.6))
ax.bar_label(ax.barh(list(value), list(value.values())), fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.set(title="Embeddings help; knowing the road helps as much", xlabel="lane F1 over 48 scenes", xlim=(0, 1))
plt.show()

# %% [markdown]
# So the guide is right that embeddings are better than the mask alone, and there is a surprise: components *with* the
# road's geometry, which glues dashes together, do about as well as embeddings without it. The best of these has
# both, and lets only pixels with a lane probability of at least 0.7 draw the curves; a lane without enough of those is
# dropped. The last step is a small one, for 48 scenes.
#
# Here is *how* components fail, left, beside the embeddings:


# %%
def numbered(image, mask):
    """Lanes painted and numbered over a dark grey image."""
    lines = [np.argwhere(mask == k)[:, ::-1] for k in range(1, mask.max() + 1)]
    lines = [points if len(points) else np.zeros((1, 2)) for points in lines]
    found = {"lane_instances": mask, "crosswalk_instances": np.zeros_like(mask), "lane_polylines": lines}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] // 16 * 6  # 16 dark shades
    return overlay(np.repeat(grey, 3, axis=2), found, alpha=1.0)


rows = []
for index, what in [(-3, "two lines touch: one piece"), (4, "lines are cut: pieces")]:
    frame = frames[index]
    pair = [frame["found"][name]["lane_instances"] for name in ("components", "embeddings")]
    rows.append([(numbered(frame["image"], mask), title) for mask, title in zip(pair, [what, "embeddings"])])
    counts = [mask.max() for mask in pair]
    assert counts[0] < counts[1] if index == -3 else counts[0] > counts[1]
show(rows, (7, 3.9))
plt.show()

# %% [markdown]
# ## Failure gallery
#
# We compare all 48 results with the truth. `share[t, p]` is the part of true lane t that result p covers.


# %%
def failures(found, true):
    ids = np.unique(true[true > 0])
    share = np.array([[np.mean(found[true == t] == p) for p in range(1, found.max() + 1)] for t in ids])
    share = share.reshape(len(ids), found.max())
    best = [covered.argmax() for covered in share if covered.max(initial=0) > 0.3]
    return {
        "missing": bool((share.sum(axis=1) < 0.2).any()),
        "merged": bool(((share > 0.3).sum(axis=0) > 1).any()),
        "split": bool(((share > 0.25).sum(axis=1) > 1).any()),
        "wrong order": best != sorted(best),
    }


toy = np.zeros((2, 8), dtype=int)
toy[:, 1], toy[:, 4], toy[:, 6] = 1, 2, 3
swapped = np.where(toy == 1, 2, np.where(toy == 2, 1, toy))
for name, found in {"same": toy, "2 and 3 are one": np.minimum(toy, 2), "1 and 2 swapped": swapped}.items():
    print(f"{name:16s}", [kind for kind, failed in failures(found, toy).items() if failed])

# %% tags=["nbval-ignore-output"]
best_variant = "embeddings + road + sure pixels"
results = [
    ("library", lambda frame: frame["found"][best_variant]["lane_instances"]),
    ("components", lambda frame: frame["found"]["components"]["lane_instances"]),
]
count = {}
for name, of in results:
    kinds = [failures(of(frame), frame["true"]) for frame in frames]
    count[name] = {kind: sum(frame[kind] for frame in kinds) for kind in kinds[0]}
    print(f"{name:11s}", count[name])
assert count["library"]["missing"] > 12 > 8 > count["library"]["merged"]
assert max(count["library"]["split"], count["library"]["wrong order"]) <= 2 < count["components"]["split"]

# %% [markdown]
# What the library does wrong here is mostly one thing: lanes are *missing*. Most were never in the class mask, where
# the components miss them, too; the rest the library had and dropped, because it was not sure enough. Sometimes two
# lanes are merged. For a split lane or a wrong order we have to ask the components. One scene of each kind:

# %%
KINDS = [("missing", "library"), ("merged", "library"), ("split", "components"), ("wrong order", "components")]
rows = []
for kind, name in KINDS:
    of = dict(results)[name]
    hit = next((frame for frame in frames if failures(of(frame), frame["true"])[kind]), None)
    if hit is not None:
        pictures = [numbered(0 * hit["image"], hit["true"]), numbered(hit["image"], of(hit))]
        rows.append(list(zip(pictures, ["truth", f"{name}: {kind}"])))
assert len(rows) >= 3
show(rows, (6.4, 1.75 * len(rows)))
plt.show()

# %% [markdown]
# ## Exercises
#
# Replace the `...`, run the cell, then the check below it. The hint says what is wrong, one thing at a time.
#
# ### 1. The same partition?
#
# Two arrays of labels describe the same partition if they differ in names only: `[0, 0, 1]` and `[7, 7, 3]`. Return
# `True` or `False`. Treat −1 like any other name.


# %% tags=["exercise:same_partition"]
def same_partition(a, b):
    return ...


# %% tags=["check:same_partition"]
check("same_partition", same_partition)

# %% [markdown] tags=["solution:same_partition"]
# <details><summary>Solution</summary>
#
# Each name on one side must go with one name on the other. Then there are as many pairs as names.
#
# ```python
# def same_partition(a, b):
#     pairs = set(zip(np.asarray(a).tolist(), np.asarray(b).tolist()))
#     return len(pairs) == len(set(p for p, _ in pairs)) == len(set(q for _, q in pairs))
# ```
# </details>

# %% [markdown]
# ### 2. From the pixel to the mean
#
# Flat mean shift: start at `start` (D,), move to the mean of all points of `x` (N, D) within `radius`, and repeat until
# it rests. Return where it rests. If no point is within the radius, it rests at once.


# %% tags=["exercise:mean_shift"]
def mean_shift(x, start, radius):
    return ...


# %% tags=["check:mean_shift"]
check("mean_shift", mean_shift)

# %% [markdown] tags=["solution:mean_shift"]
# <details><summary>Solution</summary>
#
# ```python
# def mean_shift(x, start, radius):
#     center = np.asarray(start, dtype=float)
#     while True:
#         near = np.linalg.norm(x - center, axis=1) <= radius
#         if not near.any():
#             return center
#         moved = x[near].mean(axis=0)
#         if np.allclose(moved, center):
#             return moved
#         center = moved
# ```
# </details>

# %% [markdown]
# ### 3. From labels to ids
#
# Turn cluster labels (−1 = noise) into instance ids: noise and clusters of fewer than `min_pixels` become 0, the others
# 1, 2, 3 … without gaps, in ascending order of their labels. Return an array of the same length.


# %% tags=["exercise:ids_from_labels"]
def ids_from_labels(labels, min_pixels):
    return ...


# %% tags=["check:ids_from_labels"]
check("ids_from_labels", ids_from_labels)

# %% [markdown] tags=["solution:ids_from_labels"]
# <details><summary>Solution</summary>
#
# ```python
# def ids_from_labels(labels, min_pixels):
#     ids = np.zeros(len(labels), dtype=int)
#     names, counts = np.unique(labels[labels >= 0], return_counts=True)
#     for new, name in enumerate(names[counts >= min_pixels], start=1):
#         ids[labels == name] = new
#     return ids
# ```
# </details>

# %% [markdown]
# ### 4. Number the lanes
#
# Given polylines, each (M, 2) of (x, y) from top to bottom with M ≥ 2, return each lane's number, 1 = leftmost at
# `row`. A polyline that ends above the row is continued straight, through its last two points; one that begins below
# it, through its first two. `numbers[i]` is the number of `polylines[i]`.


# %% tags=["exercise:number_lanes"]
def number_lanes(polylines, row):
    return ...


# %% tags=["check:number_lanes"]
check("number_lanes", number_lanes)

# %% [markdown] tags=["solution:number_lanes"]
# <details><summary>Solution</summary>
#
# `argsort` says which lane comes first; its inverse says which place a lane has.
#
# ```python
# def number_lanes(polylines, row):
#     meets = []
#     for line in polylines:
#         if line[0, 1] <= row <= line[-1, 1]:
#             meets.append(np.interp(row, line[:, 1], line[:, 0]))
#             continue
#         (x0, y0), (x1, y1) = line[:2] if row < line[0, 1] else line[-2:]
#         meets.append(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
#     numbers = np.empty(len(meets), dtype=int)
#     numbers[np.argsort(meets)] = np.arange(1, len(meets) + 1)
#     return numbers
# ```
# </details>

# %% [markdown]
# ## What we claimed
#
# What the text above states of measured numbers, asserted.

# %%
assert (radius, lowest, highest) == (1.5, 0.5, 2.5)
assert plateau.min() < 0.7 and plateau.max() > 2.5  # wider than promised
lane0 = x32[truth32 == 0]
across = np.linalg.norm(lane0 - np.eye(5, 32)[1] * 3 / np.sqrt(2), axis=1)
assert abs(np.median(across) - np.sqrt(3**2 + 0.5**2)) < 0.05  # nearly at right angles
pairs = np.linalg.norm(lane0[:200] - lane0[200:], axis=1)
assert abs(np.median(pairs) - 0.71) < 0.05 and pairs.min() > 0.3 and np.mean(pairs < 0.5) < 0.05
assert set(dbscan) == {-1} and len(set(meanshift)) > 50 and lone_label == [-1, 2, 2, -1]

# %%
assert wrong["whole"]["mean x"] == 0 < wrong["visible"]["row, one road"] < wrong["visible"]["row, own curves"]
assert value_pull < 1e-3 and np.mean(distance > 0.45) > 0.5 and kurtosis(trained).mean() < -1
assert wrong["visible"]["mean x"] > wrong["visible"]["row, own curves"]
assert off_robust < 1 < 10 < off_plain and len(visible) == 3 and sorted(k for lane in members for k in lane) == [0, 2]
assert abs(value["embeddings"] - 0.5) < 0.1 and abs(value["components + road"] - value["embeddings"]) < 0.1
assert len(frames) == 48 and max(value.values()) == value[best_variant] and guides > 0.9 > by_radius[0]
assert (SAMPLE_SIZE, VALLEY, MIN_PIXELS_SHARE, MIN_CONFIDENCE, SUPPORT) == (192, 0.5, 0.001, 0.7, 0.4)
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Next
#
# **7 · End to end**: train, evaluate and infer, with the library and from the command line; where the whole system
# stands against its baselines, and where it still fails.
