# %% [markdown]
# # E4 · Amodal fusion
#
# A car hides a piece of road. You merge several guesses of what lies behind it into one image, and
# measure whether that finds more lanes.

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
strip("E4", photo=PHOTO)

# %% [markdown]
# **You will be able to** weight guesses pixel by pixel with a small transformer, tell whether a
# part of a network has any effect, say what attention costs, mask what is missing, score a restored
# image inside a mask, average over processes, and say when all this is not needed.
#
# **You need** notebooks 3 to 5, lane F1 from notebook 7, and paired intervals from elective 1. You
# need not know how images are restored.
#
# **Time** to run: half a minute on two CPU cores. To work through: two hours.

# %% [markdown] tags=["colab"]
# **In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,
# choose `notebooks/electives/E4_amodal_fusion.ipynb`, write the same address into `REPOSITORY`
# in the first code cell, and run that cell again.
# **On your machine:** `make lab`.

# %% tags=["folded"]
# @title Imports
import itertools
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from roadtopo_lib import models
from roadtopo_lib.course import progress, reveal, samples, schematics, show
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.lessons import amodal as lesson
from roadtopo_lib.course.lessons.model import panels
from roadtopo_lib.electives import train_amodal
from roadtopo_lib.electives.amodal import (
    AmodalFusionTransformer,
    EncoderDistance,
    EncoderLayer,
    fuse,
    masked_l1,
    positions_2d,
)
from roadtopo_lib.electives.occlusions import (
    KINDS,
    Occluded,
    as_batch,
    complete,
    hidden_pixels,
    occluded_scenes,
)
from roadtopo_lib.electives.restored import compare, unlearned

# %% [markdown]
# ## A car hides a piece of road
#
# *[Amodal completion](../GLOSSARY.md#amodal-completion)* means to show what is hidden. For a
# photograph nobody knows the true background. For a rendered scene we do: we render the frame again
# without its vehicles. Where the two images differ, something is hidden.

# %%
seen, empty = lesson.frame_scenes()  # with vehicles, and without
hidden = hidden_pixels(seen.image, empty.image)  # (256, 512) bool
guesses = [complete(np.random.default_rng(1), kind, empty.image, hidden) for kind in KINDS]
frame = as_batch([Occluded(seen, empty, hidden, guesses)])
print({name: tuple(value.shape) for name, value in frame.items()})

# %% [markdown]
# `partial` is the image, black where the `mask` is 1. `completions` are the guesses, at most five.
# `present` says which of the five there are. The frame has four guesses, one of each kind: the truth
# blurred, the truth shifted, the mirrored image, and OpenCV's
# *[inpainting](../GLOSSARY.md#inpainting)*. Only the last two could be made without the truth. The
# others stand for better methods, whose errors we then know.

# %% tags=["folded"]
# @title Picture: the hole and four guesses
where = lesson.around(frame["mask"][0, 0])
pictures = {"as seen": seen.image[where], "without vehicles": empty.image[where]}
pictures |= {
    kind: lesson.picture(guess)[where] for kind, guess in zip(KINDS, frame["completions"][0])
}
figure = panels(pictures, 3, 6.4, title="Each guess is the nearest to the truth at some pixels")
show(figure, "The frame around its cars, without them, and four guesses of the road.", photo=True)

# %% [markdown]
# `blurred` and `shifted` come from the truth, `texture` is the mirrored image. A trained fusion gives
# each guess a weight at every pixel. `fuse` pastes the weighted sum into the hole.

# %%
model = train_amodal.load(samples() / "amodal.safetensors").requires_grad_(False)
partial, mask, completions, present = (
    frame[name] for name in ("partial", "mask", "completions", "present")
)
weights = model(partial, mask, completions, present)
fused = fuse(partial, mask, completions, weights)
print(tuple(weights.shape), "→", tuple(fused.shape))

# %% tags=["folded"]
# @title Picture: the weights and the result
pictures = {
    kind: lesson.weight_picture(map_, frame["mask"][0, 0])[where]
    for kind, map_ in zip(KINDS, weights[0])
}
pictures |= {"fused": lesson.picture(fused[0])[where], "without vehicles": empty.image[where]}
figure = panels(
    pictures, 3, 6.4, title="No guess leads everywhere (weight 0: dark blue, 1: yellow)"
)
show(figure, "Weight maps of four guesses in the hole, the fused image and the truth.", colors=64)

# %% [markdown]
# In every pixel the weights sum to 1. So each value of the result lies between the smallest and the
# largest value of the guesses. What no guess shows cannot appear.

# %%
assert_close(weights.sum(dim=1), torch.ones(1, *frame["mask"].shape[2:]))
there = frame["completions"][:, :4]
low, high = there.amin(dim=1) - 1e-5, there.amax(dim=1) + 1e-5
inside = frame["mask"].bool().expand_as(fused)
assert ((low <= fused) & (fused <= high))[inside].all()
print("every hidden pixel lies between its guesses")

# %% [markdown]
# How far off is each guess inside the hole? L1 is the mean absolute difference of values in [0, 1].

# %%
for kind, guess in zip(KINDS, frame["completions"][0]):
    print(f"{kind:9s} {masked_l1(guess[None], frame['target'], frame['mask']):.3f}")
l1_of_frame = masked_l1(fused, frame["target"], frame["mask"]).item()
print(f"fused     {l1_of_frame:.3f}")

# %% [markdown]
# Here the fusion is nearer to the truth than the mean of the four guesses, but the blurred truth
# alone is nearer than the fusion. How often choosing succeeds is measured on 60 scenes below.
#
# ## From guesses to weights
#
# One encoder reads each guess together with the image and the mask. The mean of the resulting
# features goes through a transformer, which relates every place to the whole image. Then a small
# network, the judge, compares the features of each guess with the transformer's result.

# %% tags=["folded"]
# @title Drawing: the fusion
show(schematics.amodal_fusion(), schematics.ALT["amodal_fusion"], colors=32)

# %% [markdown]
# We do it by hand, step by step. The encoder gets seven channels for each guess: three of the image
# with its hole, the mask, and three of the guess. It gives 32 channels at a quarter of the
# resolution.

# %%
image_and_mask = torch.cat([partial * (1 - mask), mask], dim=1)  # (1, 4, 256, 512)
repeated = image_and_mask[:, None].expand(-1, 5, -1, -1, -1)
inputs = torch.cat([repeated, completions], dim=2)  # (1, 5, 7, 256, 512)
features = model.encoder(inputs[0])  # (5, 32, 64, 128)
print(tuple(inputs.shape), "→", tuple(features.shape))

# %% [markdown]
# The scene is the mean of the features over the guesses that are there, with the place of each token
# added. It goes through two layers of attention. Then one learnt vector, the *query*, reads all
# tokens by attention, and the vector that it gets is added at every place. Places and query have a
# section each below.

# %%
scene = features[present[0]].mean(dim=0, keepdim=True)  # (1, 32, 64, 128)
scene = model.layers(scene + positions_2d(32, 64, 128))
tokens = scene.flatten(2).transpose(1, 2)  # (1, 8192, 32)
found, _ = model.reading(model.query, tokens, tokens)  # (1, 1, 32)
scene = scene + found.transpose(1, 2)[..., None]

# %% [markdown]
# Each guess's own features stand beside the scene, and a few convolutions give one score per place.
# A softmax over the guesses makes weights of the scores.

# %%
beside = torch.cat([features, scene.expand(5, -1, -1, -1)], dim=1)  # (5, 64, 64, 128)
scores = models.upsample_to(model.judge(beside), (256, 512)).transpose(0, 1)  # (1, 5, 256, 512)
scores = scores.masked_fill(~present[:, :, None, None], -math.inf)
assert_close(scores.softmax(dim=1), weights, atol=1e-4, rtol=1e-3)
print("the weights of the library, by hand:", tuple(weights.shape))

# %% [markdown]
# ### The order of the guesses
#
# Every guess goes through the same encoder and the same judge, and a mean does not depend on order.
# So guesses in another order get the same weights, in that other order.

# %%
order = [3, 0, 2, 1, 4]
moved = model(partial, mask, completions[:, order], present[:, order])
assert_close(moved, weights[:, order], atol=1e-4, rtol=1e-3)
print("permuted guesses, permuted weights")

# %% [markdown]
# The document concatenates all guesses into one input of 3 + 1 + 3 · 5 channels. There the first
# slot has weights of its own, and a network must learn that order means nothing.

# %% [markdown]
# ## Where is a token?
#
# Attention compares tokens and does not depend on their places. A
# *[positional encoding](../GLOSSARY.md#positional-encoding)* adds the place: sines and cosines of
# the row in one half of the channels, of the column in the other. The first rate is 1, and the others
# fall towards 1 / 10,000.
#
# ### Trap: an encoding for one number of channels only
#
# **Broken.** This is the document's listing. It takes the numbers of channels, rows and columns.


# %% tags=["trap:broken"]
def listed_positions(d_model, max_h, max_w):
    pe, half = torch.zeros(d_model, max_h, max_w), d_model // 2
    div_term = torch.exp(torch.arange(0, half, 2) * -(math.log(10000.0) / half))
    pos_h = torch.arange(0, max_h).unsqueeze(1).unsqueeze(1).float()  # (max_h, 1, 1)
    pos_w = torch.arange(0, max_w).unsqueeze(0).unsqueeze(1).float()  # (1, 1, max_w)
    pe[0:half:2, :, :] = torch.sin(pos_h * div_term).transpose(1, 2)
    pe[1:half:2, :, :] = torch.cos(pos_h * div_term).transpose(1, 2)
    pe[half::2, :, :] = torch.sin(pos_w * div_term)
    pe[half + 1 :: 2, :, :] = torch.cos(pos_w * div_term)
    return pe


try:
    listed_positions(64, 64, 64)
except RuntimeError as error:
    symptom = str(error).split(".")[0]
print(symptom)

# %% [markdown]
# > **Predict first.** For 64 rows and 64 columns there is one number of channels for which the
# > listing runs. Which?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
runs = []
for channels in range(4, 1028, 4):
    try:
        listed_positions(channels, 64, 64)
        runs.append(channels)
    except RuntimeError:
        pass
reveal(my_guess, runs[0], "channels")

# %% [markdown]
# <details><summary>What happened</summary>
#
# The product of positions and rates has the shape (rows, rates, 1). It is put where (rates, rows,
# columns) is expected. That fits only where there are as many rates as rows: a quarter of the
# channels is 64, so 256 channels. The document's own sizes, 256 channels and 256 rows, do not fit.
#
# </details>

# %% [markdown]
# **Why.** Axes are in the wrong order, and broadcasting hides it where the numbers agree. There the
# result is wrong, too. Rates and rows are exchanged, so the last rows are nearly alike. And the half
# for the columns has only two different channels instead of 128.
#
# **Fixed.** `positions_2d` puts every axis where it belongs, for each multiple of 4.

# %% tags=["trap:mended"]
listed, ours = listed_positions(256, 64, 64), positions_2d(256, 64, 64)
steps = [(pe[:128, 62, 0] - pe[:128, 63, 0]).norm().item() for pe in (listed, ours)]
assert "must match" in symptom and len(listed[128:, 0].unique(dim=0)) == 2  # the symptoms
assert steps[0] < 0.01 < 1 < steps[1]  # between the last two rows
for channels in (4, 36, 64, 256):
    assert len(positions_2d(channels, 9, 7).flatten(1).T.unique(dim=0)) == 63  # the fix
print(f"from row 62 to row 63: {steps[0]:.3f} in the listing, {steps[1]:.3f} in ours")

# %% [markdown]
# ## The price of attention
#
# An image of 256 × 256 pixels has 64 · 64 = 4,096 tokens. Each compares itself with each.
#
# > **Predict first.** How many megabytes does the matrix of one head take, in float32?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
matrix_megabytes = 4096**2 * 4 / 1e6
reveal(my_guess, matrix_megabytes, "MB")

# %% [markdown]
# With twice the side of the image it is 16 times as much. Notebook 3 has a way out, which we use with
# a mean in place of its convolution: keys and values are means of 4 × 4 tokens. Every token still
# asks, and it still reads from the whole map, but from 256 means instead of 4,096 tokens. The drawing
# has a smaller map, with 384 tokens and 24 means:

# %% tags=["folded"]
# @title Drawing: reduced keys and values
show(schematics.attention_reduction(stage=1), schematics.ALT["attention_reduction"], colors=32)

# %%
layer = EncoderLayer(32, heads=4, reduction=4)
x = torch.rand(1, 32, 64, 64, requires_grad=True)
layer(x)[0, :, 0, 0].sum().backward()  # of the first token
print(f"it reads from {(x.grad.abs().sum(dim=1) > 0).float().mean():.0%} of the tokens")

# %% [markdown]
# The processor's time of one layer, forwards and backwards, with and without the reduction:


# %% tags=["nbval-ignore-output"]
def seconds(reduction):
    layer, taken = EncoderLayer(32, 4, reduction), []
    for _ in range(3):
        began = time.process_time()
        layer(torch.rand(1, 32, 64, 64)).sum().backward()
        taken.append(time.process_time() - began)
    return min(taken)


among_all, among_means = seconds(1), seconds(4)
print(f"4,096 keys: {among_all:.3f} s, 256 keys: {among_means:.3f} s")
assert among_all > 2 * among_means

# %% [markdown]
# A benchmark trained and timed both, and all else that this notebook compares. It is too long for a
# notebook; its figures are stored with the command that makes them. Of the whole model, on one image
# of 256 × 256 pixels with two guesses:

# %%
bench = lesson.results()
print(bench["command"])
for reduction, row in bench["price"].items():
    print(f"keys from {reduction} × {reduction} tokens: {row['seconds']:.2f} s a step", end=", ")
    print(f"{row['more_mib']} MiB more")

# %% [markdown]
# Attention among all tokens takes ten times as long. It needs no more memory here: torch works
# through the matrix in pieces and never holds it. In three trainings on small images its L1 is higher
# by 0.0004 in the mean, and the interval of the paired difference holds zero.

# %% [markdown]
# ## A query for the whole image
#
# The query is one learnt vector. It asks all tokens at once by attention and gets one vector back,
# its answer (q in the drawing). The document puts the answer before the tokens, as in the left half.

# %% tags=["folded"]
# @title Drawing: what becomes of the answer
show(schematics.query_answer(), schematics.ALT["query_answer"], colors=32)

# %% [markdown]
# ### Trap: an answer that nobody reads
#
# **Broken.** The decoder's answer is concatenated with the tokens, and the next line leaves the
# first one out. The shapes are right, and no error is raised.

# %% tags=["trap:broken"]
decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 1)
query = nn.Parameter(torch.randn(1, 1, 16))
memory = torch.rand(2, 48, 16, requires_grad=True)  # (B, tokens, channels)
answer = decoder(query.expand(2, -1, -1), memory)  # (2, 1, 16)
combined = torch.cat([answer, memory], dim=1)  # (2, 49, 16)
features_of_document = combined[:, 1:]  # (2, 48, 16)
features_of_document.square().mean().backward()
print("all gradients of the query together:", query.grad.abs().sum().item())

# %% [markdown]
# **Why.** `combined[:, 1:]` is `memory`, bit for bit. So query and decoder have no effect on the
# result. Their gradient is exactly zero, so training does not teach them anything.
#
# **Fixed.** The answer is added to every place.

# %% tags=["trap:mended"]
torch.manual_seed(0)
small = AmodalFusionTransformer(d_model=16, heads=2, layers=1)
pieces = [part[..., 112:176, 128:192] for part in (partial, mask, completions)]
assert pieces[1].any()  # some of it is hidden
fused_piece = fuse(*pieces, small(*pieces, present))
masked_l1(fused_piece, frame["target"][..., 112:176, 128:192], pieces[1]).backward()
dropped = [p.grad.abs().sum().item() for p in (query, *decoder.parameters())]
assert torch.equal(features_of_document, memory) and not any(dropped)  # the symptom
assert small.query.grad.abs().sum() > 0  # the fix: the query learns
print(f"all gradients of our query together: {small.query.grad.abs().sum():.0e}")

# %% [markdown]
# A gradient does not show that a part helps. The benchmark trained the same model with the answer
# added and with it dropped: same first weights, same images, three seeds.
#
# > **Predict first.** By how many percent does dropping the answer raise L1?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
l1 = {name: row["l1"]["mean"] for name, row in bench["fusions"].items()}
query_percent = 100 * (l1["dropped"] / l1["full"] - 1)
reveal(my_guess, query_percent, "%", tolerance=0.3)
variants = {"full": "fusion", "dropped": "query's answer dropped", "no attention": "no attention"}
variants |= {"all tokens": "attention without reduction", "perceptual": "perceptual term"}
print(lesson.variant_table(bench, variants))

# %% [markdown]
# <details><summary>What happened</summary>
#
# By 1.4 percent in the mean of three trainings, and the interval of the paired difference holds zero.
# In one of the three, dropping lowers L1. Switched off in the trained model, the query changes L1 by
# less than 0.0002. So the query learns, and no effect on L1 is shown. Without any attention L1 is the
# same within half a percent, and that interval holds zero, too. These are short trainings, two
# minutes at most. Neither part shows a gain here; a longer training may give another result.
#
# </details>

# %% [markdown]
# ## Guesses that are not there
#
# Images have one to five guesses. Empty slots are black.

# %% tags=["folded"]
# @title Drawing: softmax over what is there
show(schematics.masked_softmax(), schematics.ALT["masked_softmax"], colors=32)

# %% [markdown]
# ### Trap: nearly zero is not zero
#
# **Broken.** The document lets the network learn that black slots are bad. Suppose that it has learnt
# it well: each of three empty slots has a score 5 below that of the better of two guesses.

# %% tags=["trap:broken"]
scores_of_slots = torch.tensor([2.0, 1.0, -3.0, -3.0, -3.0])  # two guesses, three black slots
values = torch.tensor([200.0, 200.0, 0.0, 0.0, 0.0])  # both guesses say: grey level 200
learnt = scores_of_slots.softmax(dim=0)
print(f"empty slots weigh {learnt[2:].sum():.3f}, grey level {(learnt * values).sum():.1f}")

# %% [markdown]
# **Why.** A softmax of finite scores is never zero. The more slots are empty, the darker is the
# result, although all guesses agree. And what is learnt from training images need not hold for
# others.
#
# **Fixed.** The scores of empty slots become −∞ before the softmax. Nothing has to be learnt.

# %% tags=["trap:mended"]
is_there = torch.tensor([True, True, False, False, False])
masked = scores_of_slots.masked_fill(~is_there, -math.inf).softmax(dim=0)
assert learnt[2:].sum() > 0.01 and (learnt * values).sum() < 198  # the symptom
assert not masked[2:].any() and abs((masked * values).sum() - 200) < 1e-3  # the fix
print(f"empty slots weigh {masked[2:].sum():.0f}, grey level {(masked * values).sum():.1f}")

# %% [markdown]
# In the model, an empty slot takes no part in the mean either. So its content changes nothing, bit
# for bit.

# %%
other = completions.clone()
other[:, 4] = torch.rand(3, 256, 512)  # the empty slot
assert torch.equal(model(partial, mask, other, present), weights)
print("weight of the empty slot:", weights[:, 4].max().item())

# %% [markdown]
# ## What the loss compares
#
# The loss compares the fused image with the truth, in the hole only. Outside, `fuse` takes the image
# itself.

# %%
outside = ~mask.bool().expand_as(fused)
assert torch.equal(fused[outside], partial[outside])
print("outside the mask, bit for bit the same:", int(outside.sum()), "values")

# %% [markdown]
# ### Trap: a mean over pixels that cannot differ
#
# **Broken.** The document multiplies both images by the mask and takes the mean. Two holes, one of 1
# and one of 25 percent of the image, with an error of 0.1 in each of their pixels:


# %% tags=["trap:broken"]
def listed_l1(image, target, mask):
    return F.l1_loss(image * mask, target * mask)


flat, holes = torch.zeros(1, 3, 100, 100), [torch.zeros(1, 1, 100, 100) for _ in range(2)]
holes[0][..., :10, :10] = holes[1][..., :50, :50] = 1
listed_losses = [listed_l1(flat + 0.1 * hole, flat, hole).item() for hole in holes]
print("loss:", [round(value, 4) for value in listed_losses])

# %% [markdown]
# **Why.** Outside the hole both images are zero, and these pixels count in the mean. So a small hole
# has a small loss whatever is in it. Against a second loss term, each image has another weight.
#
# **Fixed.** `masked_l1` divides by the hidden pixels.

# %% tags=["trap:mended"]
losses = [masked_l1(flat + 0.1 * hole, flat, hole).item() for hole in holes]
assert abs(listed_losses[1] / listed_losses[0] - 25) < 0.01  # the symptom
assert np.allclose(losses, 0.1)  # the fix
print("loss:", [round(value, 4) for value in losses])

# %% [markdown]
# ### A second term: what an encoder sees
#
# L1 compares single pixels, not edges or textures. A
# *[perceptual loss](../GLOSSARY.md#perceptual-loss)* compares the feature maps that a trained network
# makes of both images (LPIPS, Zhang and others, 2018). `EncoderDistance` takes the encoder of our own
# lane model. So it needs no weights of another network.

# %%
distance = EncoderDistance(models.load(samples() / "tiny.safetensors"))
for kind, guess in zip(KINDS, completions[0]):
    shown = fuse(frame["target"], mask, guess[None, None], torch.ones_like(mask))
    l1_of_guess = masked_l1(shown, frame["target"], mask)
    print(f"{kind:9s} L1 {l1_of_guess:.3f}, distance {distance(shown, frame['target']):.4f}")

# %% [markdown]
# The order is that of L1. The distances of the shifted and of the mirrored guess are nearly equal.
# The line `perceptual term` of the table above has three trainings with this term. In the first, L1
# is lower by 0.002 than in the training of the same seed without the term. In the mean of the three
# it is lower by 0.0004, and the interval of the paired difference holds zero. The first training
# alone would have looked like a success.

# %% [markdown]
# ## Against mean, best and oracle
#
# Three fusions need no learning: the *mean* of the guesses, the *best* guess of each image, and an
# *[oracle](../GLOSSARY.md#oracle)* that takes the best guess in every pixel. The last two look at
# the truth. They say how much choosing can gain.
#
# We score them on ten test scenes. PSNR is a logarithm of the mean squared error, in decibels. SSIM
# compares means, spreads and correlation in windows of 11 pixels; 1 is perfect (Wang and others,
# 2004). Of both, more is better; of L1, less.

# %%
scenes = occluded_scenes("test", lesson.TEST_SIZE, lesson.TEST_SEED)
test = as_batch(itertools.islice(scenes, 10))
images = unlearned(test)
test_parts = [test[name] for name in ("partial", "mask", "completions", "present")]
images["fused"] = fuse(*test_parts[:3], model(*test_parts))
live = {name: compare(image, test["target"], test["mask"]) for name, image in images.items()}
for name, scores_of in live.items():
    print(
        f"{name:7s}", *(f"{key} {value.mean():.3f}" for key, value in scores_of._asdict().items())
    )

# %% [markdown]
# Fusion and mean are close here, and ten scenes are too few to tell them apart. The benchmark has 60.
#
# > **Predict first.** On the 60 test scenes of the benchmark the mean of the guesses has an L1 of
# > 0.080, the best guess 0.068. What does the fusion have?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
reveal(my_guess, l1["full"], "L1")
print(lesson.fusion_table(bench))
show(*lesson.draw_numbers(bench), colors=24)

# %% [markdown]
# <details><summary>What happened</summary>
#
# The L1 of the fusion is 4 percent lower than that of the mean, and the interval of the difference
# leaves out zero. From the mean to the best guess it goes about a quarter of the way. The model had
# 250 steps on crops of 160 scenes, two minutes of one core at most. OpenCV's inpainting alone, which
# needs no training and no truth, has an L1 of 0.072; the interval of its difference to the fusion
# holds zero. More guesses help the mean, too: errors of different guesses cancel.
#
# </details>

# %% [markdown]
# A fusion that mixes can be better than the oracle, which only chooses. Two guesses, one too dark and
# one too bright:

# %%
two_guesses, truth = torch.tensor([0.3, 0.7]), 0.5
oracle_error = (two_guesses - truth).abs().min().item()
mixture_error = abs(two_guesses.mean().item() - truth)
print(f"oracle: off by {oracle_error:.1f}; their mean: off by {mixture_error:.1f}")

# %% [markdown]
# ## Are more lanes found?
#
# The purpose is that a lane that runs behind a car is found. The shipped lane model was trained with
# *amodal labels*: its labels run on behind vehicles (notebook 2). It has learnt to continue a lane
# where a car stands. Does it need the fusion?

# %%
segmenter = shipped_segmenter()
looked_at = {"as seen": seen.image, "fused": lesson.picture(fused[0]), "true": empty.image}
lane_counts = {name: segmenter(image)["lane_count"] for name, image in looked_at.items()}
print(lane_counts, "· in truth", len(empty.lanes))

# %% [markdown]
# One image decides nothing. On this one the number of lanes is right only with the cars. The
# benchmark looked for the lanes of 60 test scenes, in the image as seen and in seven images without
# vehicles.
#
# > **Predict first.** [Lane F1](../GLOSSARY.md#lane-f1) is 0.64 in the images as seen. What is it on
# > the true background, which a perfect fusion would give?

# %%
my_guess = None

# %% tags=["folded", "answer", "nbval-ignore-output"]
# @title Compare with your guess
by_image = {row["image"]: row for row in bench["lanes"]}
reveal(my_guess, by_image["true"]["lane_f1"], "F1", tolerance=0.03)
for name, row in by_image.items():
    low, high = row["lane_f1_minus_seen"]
    print(
        f"{lesson.IMAGES[name]:24s} {row['lane_f1']:.3f}, minus as seen {low:+.3f} to {high:+.3f}"
    )
show(*lesson.draw_lanes(bench), colors=24)

# %% [markdown]
# <details><summary>What happened</summary>
#
# On the true background F1 is higher by 0.06 to 0.18. Of the lanes of which a fifth or more is
# hidden, 42 percent are found in the images as seen, and 70 percent on the true background. Amodal
# labels alone do not close that gap.
#
# This fusion does not close it either. On its images fewer hidden lanes are found than on the images
# with their cars: 29 percent, and the interval of the difference leaves out zero. F1 is lower by
# 0.06, and that interval just holds zero. A likely reason: the lane model was trained with cars in
# its images, but not with blurred or misplaced paint. And some of these guesses were made from the
# truth, which a real guess is not.
#
# So begin with amodal labels: they cost nothing when the model runs. A fusion is worth its price only
# if it beats the image as seen on your own scenes. This one does not.
#
# </details>

# %% [markdown]
# ## Several processes
#
# `torchrun` starts two processes, each with a part of every batch:
#
# ```bash
# torchrun --nproc-per-node=2 -m roadtopo_lib.electives.train_amodal DATA fusion.safetensors
# ```
#
# A test of the library trains with one and with two processes and compares all weights. They agree,
# because the loss is a mean over the hidden pixels of both parts together:

# %%
halves = [slice(0, 5), slice(5, 10)]
pair = images["fused"], test["target"], test["mask"]
of_halves = torch.stack([masked_l1(*(x[half] for x in pair)) for half in halves])
counts = torch.stack([test["mask"][half].sum() for half in halves])
together = (of_halves * counts).sum() / counts.sum()
print(f"mean of two losses {of_halves.mean():.5f}, weighted by pixels {together:.5f}")
assert_close(together, masked_l1(*pair))

# %% [markdown]
# ### Trap: a mean of means
#
# **Broken.** The document adds the means of all batches of all processes, and divides by the number
# of processes times the number of batches. Ten images, five for each process, in batches of four:

# %% tags=["trap:broken"]
errors = torch.tensor([0.1] * 8 + [0.5] * 2)  # of ten images
parts_of_processes = errors[0::2], errors[1::2]
batches = [part.split(4) for part in parts_of_processes]  # of four images and of one
total = sum(batch.mean() for batches_of_one in batches for batch in batches_of_one)
mean_of_means = total / (2 * len(batches[0]))
print(f"{mean_of_means:.2f}")

# %% [markdown]
# **Why.** The last image of each process is a batch of its own and counts as much as a batch of four.
#
# **Fixed.** Sums and counts are added over processes; one division comes last. `mean_error` does it
# with sums over hidden pixels.

# %% tags=["trap:mended"]
sums = torch.tensor([[part.sum(), len(part)] for part in parts_of_processes]).sum(dim=0)
assert abs(mean_of_means - 0.30) < 1e-6  # the symptom
assert abs(sums[0] / sums[1] - errors.mean()) < 1e-6 and abs(errors.mean() - 0.18) < 1e-6  # the fix
print(f"{sums[0] / sums[1]:.2f}")

# %% [markdown]
# ## Exercises
#
# Each has a check. Solutions are folded below.
#
# ### 1. Positions
#
# Return the positional encoding (channels, height, width). `channels` is a multiple of 4, and a
# quarter of it is $q$. The rates are $r_k = 10000^{-k/q}$ for $k$ = 0, …, $q$ − 1. The channels are
# in this order: sin(row · $r_k$) for all $k$, cos(row · $r_k$), sin(column · $r_k$),
# cos(column · $r_k$). The first row and the first column are 0.


# %% tags=["exercise:E4_positions"]
def positions(channels, height, width):
    return ...


# %% tags=["check:E4_positions"]
check("E4_positions", positions)

# %% [markdown] tags=["solution:E4_positions"]
# <details><summary>Solution</summary>
#
# ```python
# def positions(channels, height, width):
#     quarter = channels // 4
#     rates = 10000 ** -(torch.arange(quarter) / quarter)
#     row = rates[:, None] * torch.arange(height)  # (q, height)
#     column = rates[:, None] * torch.arange(width)  # (q, width)
#     rows = torch.cat([row.sin(), row.cos()])[:, :, None].expand(-1, -1, width)
#     columns = torch.cat([column.sin(), column.cos()])[:, None].expand(-1, height, -1)
#     return torch.cat([rows, columns])
# ```
# </details>

# %% [markdown]
# ### 2. Weights of what is there
#
# `scores` are (B, N, H, W), `present` (B, N) bool says which guesses there are; each image has at
# least one. Return weights (B, N, H, W): a softmax over the guesses that are there, and exactly 0 for
# the others.


# %% tags=["exercise:E4_weights"]
def weights_of_present(scores, present):
    return ...


# %% tags=["check:E4_weights"]
check("E4_weights", weights_of_present)

# %% [markdown] tags=["solution:E4_weights"]
# <details><summary>Solution</summary>
#
# ```python
# def weights_of_present(scores, present):
#     return scores.masked_fill(~present[:, :, None, None], -math.inf).softmax(dim=1)
# ```
# </details>

# %% [markdown]
# ### 3. Paste
#
# Return the fused image (B, 3, H, W): the weighted sum of `completions` (B, N, 3, H, W) by `weights`
# (B, N, H, W) where `mask` (B, 1, H, W) is 1, and `partial` (B, 3, H, W), bit for bit, elsewhere.
# That holds even if a guess is infinite outside the mask.


# %% tags=["exercise:E4_paste"]
def paste(partial, mask, completions, weights):
    return ...


# %% tags=["check:E4_paste"]
check("E4_paste", paste)

# %% [markdown] tags=["solution:E4_paste"]
# <details><summary>Solution</summary>
#
# ```python
# def paste(partial, mask, completions, weights):
#     merged = (weights[:, :, None] * completions).sum(dim=1)
#     return torch.where(mask.bool(), merged, partial)
# ```
# </details>

# %% [markdown]
# ### 4. One error of several processes
#
# `processes` is a list with the batches of each process. A batch is a pair of arrays of one shape:
# the error of every pixel, and a mask, 1 where a pixel is hidden. Return the mean error over all
# hidden pixels. At least one pixel is hidden.


# %% tags=["exercise:E4_mean_error"]
def mean_error_of(processes):
    return ...


# %% tags=["check:E4_mean_error"]
check("E4_mean_error", mean_error_of)

# %% [markdown] tags=["solution:E4_mean_error"]
# <details><summary>Solution</summary>
#
# ```python
# def mean_error_of(processes):
#     total = count = 0.0
#     for batches in processes:
#         for error, mask in batches:
#             total += (error * mask).sum()
#             count += mask.sum()
#     return total / count
# ```
# </details>

# %% [markdown]
# ## What we claimed
#
# The statements of this notebook, asserted where no cell above has done so.

# %% tags=["folded"]
# @title Claims of this notebook, asserted
# The predictions.
assert runs == [256] and abs(matrix_megabytes - 67.11) < 0.01
rows = bench["fusions"]
assert abs(l1["mean"] - 0.080) < 0.0005 and abs(l1["best"] - 0.068) < 0.0005
assert abs(1 - l1["full"] / l1["mean"] - 0.04) < 0.005  # "4 percent"
# The frame: the four guesses in their order, and the fusion nearer than their mean.
of_guesses = [masked_l1(guess[None], frame["target"], mask).item() for guess in completions[0, :4]]
assert sorted(of_guesses) == [of_guesses[k] for k in (0, 3, 1, 2)]
even = fuse(partial, mask, completions[:, :4], torch.full((1, 4, 256, 512), 0.25))
assert l1_of_frame < masked_l1(even, frame["target"], mask)  # "nearer to the truth than the mean"
assert of_guesses[0] < l1_of_frame  # "the blurred truth alone is nearer than the fusion"
in_hole = mask[0, 0].bool()
error_of = (completions[0, :4] - frame["target"]).abs().mean(dim=1)[:, in_hole]  # (4, pixels)
for led_by in (error_of.argmin(dim=0), weights[0, :4][:, in_hole].argmax(dim=0)):
    assert led_by.bincount(minlength=4).min() > 0.1 * in_hole.sum()  # both pictures' titles
assert abs(live["fused"].l1.mean() - live["mean"].l1.mean()) < 0.002  # "too few to tell them apart"
# Against mean, best and inpainting.
assert rows["mean"]["l1"]["minus_full"][0] > 0 > rows["best"]["l1"]["minus_full"][1]
assert abs(l1["inpainted"] - 0.072) < 0.0005
assert rows["inpainted"]["l1"]["minus_full"][0] < 0 < rows["inpainted"]["l1"]["minus_full"][1]
for key in ("mean", "full", "best", "oracle"):  # the picture's title
    of_numbers = [row[key] for row in bench["by_number"].values()]
    assert of_numbers == sorted(of_numbers, reverse=True)
way = (l1["mean"] - l1["full"]) / (l1["mean"] - l1["best"])
assert abs(way - 0.25) < 0.03  # "a quarter of the way"
assert (bench["steps"], bench["counts"]["train"]) == (250, 160)
assert rows["full"]["seconds"][0] * bench["steps"] < 120  # "two minutes of one core at most"
# Attention: "ten times as long", "no more memory", "higher by 0.0004".
price = bench["price"]
assert 8 < price["1"]["seconds"] / price["4"]["seconds"] < 12
assert abs(price["1"]["more_mib"] - price["4"]["more_mib"]) < 10 and 4096**2 * 4 / 2**20 == 64
difference = rows["all tokens"]["l1"]
assert abs(difference["difference"] - 0.0004) < 0.00005 and rows["all tokens"]["seeds"] == 3
assert difference["minus_full"][0] < 0 < difference["minus_full"][1]
# The query: switched off in the trained model, it changes nothing that could be seen.
assert max(map(abs, rows["query off"]["l1"]["minus_full"])) < 0.0002
assert abs(query_percent - 1.4) < 0.05 and abs(l1["no attention"] / l1["full"] - 1) < 0.005
pairs = list(zip(rows["dropped"]["l1_of_seeds"], rows["full"]["l1_of_seeds"]))
assert sum(without < whole for without, whole in pairs) == 1  # "in one of the three"
for name in ("dropped", "no attention"):
    low, high = rows[name]["l1"]["minus_full"]
    assert low < 0 < high and rows[name]["seeds"] == 3
# The perceptual term: in the first of three trainings, and in their mean.
first_pair = [rows[name]["l1_of_seeds"][0] for name in ("perceptual", "full")]
assert rows["perceptual"]["seeds"] == 3 and abs(first_pair[0] - first_pair[1] + 0.002) < 0.0003
assert abs(rows["perceptual"]["l1"]["difference"] + 0.0004) < 0.00005
low, high = rows["perceptual"]["l1"]["minus_full"]
assert low < 0 < high
# Lanes.
low, high = by_image["true"]["lane_f1_minus_seen"]
assert 0.055 < low < high < 0.185  # "higher by 0.06 to 0.18"
shares = [by_image[name]["hidden_recall"] for name in ("seen", "true")]
assert np.allclose(shares, [0.42, 0.70], atol=0.005)
assert lane_counts == {"as seen": 4, "fused": 5, "true": 5} and len(empty.lanes) == 4
assert abs(by_image["fused"]["lane_f1"] - by_image["seen"]["lane_f1"] + 0.06) < 0.005
low, high = by_image["fused"]["lane_f1_minus_seen"]
assert low < 0 < high < 0.01  # "just holds zero"
assert abs(by_image["fused"]["hidden_recall"] - 0.29) < 0.005
ahead = [name for name, row in by_image.items() if row["lane_f1_minus_seen"][0] > 0]
assert ahead == ["true"]  # the picture's title
assert by_image["fused"]["hidden_recall_minus_seen"][1] < 0
print("[OK] every claim of this notebook holds")

# %% [markdown]
# ## Where the document differs
#
# This elective grew from a Korean description of a network called AmodalFusionNet. This table is for
# its readers.
#
# <details><summary>The document's statements, and what we measured</summary>
#
# | The document states | Where | Measured |
# |---|---|---|
# | The 2-D positions are unique for every place | Trap: an encoding for one number of channels only | The listing raises an error for every `d_model` but 4 × `max_h`, its own 256 included; where it runs, axes are exchanged |
# | The query asks the whole image, and its result is joined with the encoder's output | Trap: an answer that nobody reads | The result is cut off again; its gradient is exactly zero |
# | `find_unused_parameters=True` | cell below | Not needed for the dropped query: its gradient is zero, not missing |
# | Black padding gets nearly zero weight by learning | Trap: nearly zero is not zero | With −∞ before the softmax it is exactly zero without learning |
# | All guesses are one input of 3 + 1 + 3 N channels | The order of the guesses | Then the order matters; with a shared encoder permuted guesses give permuted weights |
# | The loss is computed inside the mask only | Trap: a mean over pixels that cannot differ | It is divided by all pixels: a hole of 1 percent counts a 25th of one of 25 percent |
# | `X * (1 - M) + fused * M` | cell below | Equal for finite values; an infinite value outside the mask becomes NaN |
# | LPIPS | A second term | Needs weights of a foreign network; our encoder's distance stands in for it |
# | The loss is summed over processes and divided by their number times the loader's length | Trap: a mean of means | Wrong by two thirds for five images in batches of four |
# | Attention is chosen for global context | A query for the whole image | Without attention L1 is the same within half a percent after a short training; the interval holds zero |
# | Batch normalisation in the encoder | cell below | Weights of an image then depend on its batch; ours uses group normalisation |
#
# </details>

# %% tags=["folded"]
# @title Measured for the table
assert all(p.grad is not None and not p.grad.any() for p in (query, *decoder.parameters()))
x, hole = torch.tensor([0.3]), torch.tensor([0.0])
infinite = torch.tensor([torch.inf])
assert (x * (1 - hole) + infinite * hole).isnan().all()
assert torch.equal(torch.where(hole.bool(), infinite, x), x)
alone = model(*(part[:1] for part in test_parts))
assert_close(alone, model(*test_parts)[:1], atol=1e-5, rtol=1e-4)
norm = nn.BatchNorm2d(4)
pair_of_maps = torch.randn(2, 4, 8, 8) + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)
assert not torch.allclose(norm(pair_of_maps)[:1], norm(pair_of_maps[:1]), atol=0.1)
try:
    listed_positions(256, 256, 256)
    fits = True
except RuntimeError:
    fits = False
assert not fits and listed_positions(1024, 256, 256).shape == (1024, 256, 256)
print("[OK] unused parameters, infinite values, batches, the document's sizes")

# %% [markdown]
# ## Next
#
# This was the last elective. It leaves a rule for every part of a network that looks useful: switch
# it off and measure.

# %%
strip("E4", closing=True, photo=PHOTO)
progress("E4")
