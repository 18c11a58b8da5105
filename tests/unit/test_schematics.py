"""The drawings of the course: they can be read, they are described, and their numbers are the library's."""

import inspect
import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from sklearn.metrics import adjusted_rand_score, f1_score, jaccard_score

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import schematics
from roadtopo_lib.course.schematics import losses, model, postprocessing, training
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.inference.tiling import tile_starts
from roadtopo_lib.metrics.lanes import LaneF1
from roadtopo_lib.postprocess.clustering import cluster_embeddings
from roadtopo_lib.scenes import Camera
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.optimizer import orthogonalized

NAMES = [name for name in schematics.__all__ if name != "ALT"]
SMALLEST = 8  # points


def texts_of(figure):
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def words_of(figure):
    return [text.get_text() for text in texts_of(figure)]


def numbers_in(figure):
    return [float(n) for words in words_of(figure) for n in re.findall(r"-?\d+\.?\d*", words)]


@pytest.mark.parametrize("name", NAMES)
def test_texts_stand_on_the_white_sheet_and_clear_of_each_other(name):
    before = plt.get_fignums()
    figure = getattr(schematics, name)()
    assert plt.get_fignums() == before, "pyplot must not know the figure"
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba())[[0, 0, -1, -1], [0, -1, 0, -1]].min() == 255
    renderer = canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts_of(figure)]
    width, height = canvas.get_width_height()
    for words, box in boxes:
        corners = (box.x0, box.y0, width - box.x1, height - box.y1)
        assert min(corners) >= 0, f"{words!r} leaves the sheet"
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        across = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        down = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        # A text's box holds the room of its line; one pixel of that may be shared.
        assert across <= 1 or down <= 1, f"{a!r} and {b!r} overlap"
    assert min(text.get_fontsize() for text in texts_of(figure)) >= SMALLEST
    assert 8 <= figure.get_size_inches()[0] <= 10


@pytest.mark.parametrize("name", NAMES)
def test_every_drawing_is_described_in_one_sentence(name):
    alt = schematics.ALT[name]
    assert getattr(schematics, name).alt == alt
    assert len(alt) >= 40
    assert re.fullmatch(r"[A-Z][^\n]*\.", alt)


def test_there_is_no_description_without_a_drawing():
    assert set(schematics.ALT) == set(NAMES)


def test_maps_have_the_shapes_that_the_encoder_gives():
    with torch.no_grad():
        network = SegFormerModel("tiny", pretrained=False).eval()
        images = torch.zeros(1, 3, 96, 256)
        features, outputs = network.encode(images), network(images, upsample=False)
    drawn = words_of(schematics.fusion())
    for stage in features:
        assert " × ".join(map(str, stage.shape[1:])) in drawn
    heads = words_of(schematics.two_heads())
    for output in outputs.values():
        assert " × ".join(map(str, output.shape[1:])) in heads
    asks, answers = features[0][0, 0].numel(), network.encoder.stages[0].blocks[0].attention
    reduced = answers.sequence_reduction(features[0].flatten(2).mT, *features[0].shape[2:])
    drawn = " ".join(words_of(schematics.attention_reduction()))
    assert f"{asks} queries" in drawn
    assert f"{reduced.shape[1]} keys and values" in drawn


def test_the_mix_ffn_draws_the_activation_that_it_names():
    for name, function in (("gelu", F.gelu), ("relu", F.relu)):
        figure = schematics.mix_ffn(activation=name)
        assert name in [words.lower() for words in words_of(figure)]
        curve = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 61)
        x, heights = 5 * (curve.get_xdata() - 5.65) / 0.85, 2.15 - curve.get_ydata()
        expected = function(torch.tensor(x)).numpy()
        np.testing.assert_allclose(heights / heights.max(), expected / expected.max(), atol=1e-6)


def test_the_patch_embedding_follows_the_encoder(monkeypatch):
    projection = SegFormerModel("tiny", pretrained=False).encoder.stages[0].patch_embeddings.proj
    size, stride = projection.kernel_size[0], projection.stride[0]
    drawn = " ".join(words_of(schematics.patch_embedding()))
    assert f"{size} × {size} pixels" in drawn
    assert f"share {size - stride} columns" in drawn
    monkeypatch.setattr(model.PUBLISHED, "patch_sizes", [9, 3, 3, 3])
    assert "9 × 9 pixels" in " ".join(words_of(schematics.patch_embedding()))


def test_attention_agrees_with_torch():
    q, k, v = (torch.tensor(t) for t in (model.TOKENS, model.KEYS, model.VALUES))
    expected = F.scaled_dot_product_attention(q, k, v).numpy()
    for token in range(len(q)):
        np.testing.assert_allclose(model.attend(token)[2], expected[token], atol=1e-12)
        for value in expected[token]:
            assert f"{value:.2f}" in words_of(schematics.attention_mix(token))


def test_margins_and_weights_are_the_configs():
    config = LaneSegmentationConfig(delta_var=0.3, delta_dist=2.0, gamma=0.25)
    drawn = words_of(schematics.loss_terms(config))
    assert {"δ_var = 0.3", "2 · δ_dist = 4", "γ = 0.25"} <= set(drawn)
    assert "δ_var = 0.5" in words_of(schematics.loss_terms())
    assert "radius δ_dist = 2" in words_of(schematics.seed_and_gather(config))
    assert "2  claim within 2" in words_of(schematics.clustering(config))


def test_overlaps_agree_with_scikit_learn():
    for shift in range(4):
        truth, predicted = (mask.ravel() for mask in losses.two_lines(shift))
        assert any(f"{f1_score(truth, predicted):.2f}" in words for words in words_of(schematics.dice_overlap(shift)))
        iou = f"{jaccard_score(truth, predicted):.2f}"
        assert any(iou in words for words in words_of(schematics.iou_drawing(shift)))


def test_the_cost_of_a_pixel_is_its_cross_entropy():
    logits = (0.0, 1.0, 2.0, 0.5, -1.0, 3.0)
    price = -np.log(np.exp(logits[3]) / np.exp(logits).sum())
    assert f"{price:.2f}" in words_of(schematics.cross_entropy_pixel(logits, 3))


def test_a_step_has_the_order_of_the_trainer():
    source = inspect.getsource(LaneSegmentationTrainer.train_step)
    calls = {
        "zero_grad": "optimizer.zero_grad(", "forward": "self._forward(", "scale": "scaler.scale(",
        "backward": ".backward()", "unscale": "scaler.unscale_(", "clip": "clip_grad_norm_(",
        "step": "scaler.step(", "update": "scaler.update()",
    }  # fmt: skip
    drawn = [name for name in training.STEP_CALLS if name != "loss"]  # the criterion runs inside _forward
    assert set(drawn) == set(calls)
    places = [source.rindex(calls[name]) if name == "update" else source.index(calls[name]) for name in drawn]
    assert places == sorted(places)
    for figure in (
        schematics.training_step(_config(max_grad_norm=3.0)),
        schematics.plain_step(_config(max_grad_norm=3.0)),
    ):
        assert "norm at most 3" in words_of(figure)
    scaling = {"scale", "unscale", "update"}
    plain = [words for words in words_of(schematics.plain_step()) if words in training.STEP_CALLS]
    assert list(dict.fromkeys(plain)) == [name for name in training.STEP_CALLS if name not in scaling]


def test_the_factor_is_that_of_a_new_scaler():
    factor = f"{torch.amp.GradScaler('cpu').get_scale():.0f}"
    for name in ("training_step", "loss_scaling"):
        assert any(factor in words for words in words_of(getattr(schematics, name)()))


def test_schedule_and_reference_row_are_the_configs():
    assert any("20%" in words for words in words_of(schematics.schedule(_config(warmup_fraction=0.2))))
    assert any("0.8 of the height" in words for words in words_of(schematics.numbering(_config(reference_row=0.8))))


def test_interpolation_invents_an_id_only_in_the_bilinear_row():
    drawn = [words for words in words_of(schematics.nearest_and_bilinear(1, 5)) if words.isdigit()]
    assert drawn.count("1") + drawn.count("5") < len(drawn)
    assert words_of(schematics.nearest_and_bilinear(1, 2))  # their mean is rounded to one of them


def test_muon_shows_the_singular_values_of_its_step():
    values = numbers_in(schematics.muon_step())
    assert max(values[:2]) / min(values[:2]) > 5 > 2 > max(values[2:]) / min(values[2:])
    moved = orthogonalized(torch.eye(6)[None] * torch.logspace(0, -1, 6))[0]
    assert np.allclose(max(values[2:]), torch.linalg.svdvals(moved).max(), atol=0.1)


def test_the_steps_of_the_clustering_end_where_the_library_ends():
    points = postprocessing.toy_points()
    lanes = postprocessing.clustering_steps(points, 1.5)["lanes"]
    assert adjusted_rand_score(lanes, cluster_embeddings(points, 1.5)) == 1
    assert len(set(lanes)) == 4  # three lanes, and none


def test_lanes_are_matched_as_lane_f1_matches_them():
    twice_and_missed = " ".join(words_of(schematics.lane_matching(((0, 0.0), (0, 0.0), (1, 0.0)))))
    assert "TP 2    FP 1    FN 1" in twice_and_missed
    assert "TP 0" in " ".join(words_of(schematics.lane_matching(threshold=0.999)))
    assert f"above {LaneF1().iou_threshold:g}" in " ".join(words_of(schematics.lane_matching()))


def test_the_maps_of_a_unet_are_those_of_the_library():
    network, shapes = UNet(2, 0, (8, 16, 24)).eval(), []
    for block in (*network.encoder, *network.decoder):
        block.register_forward_hook(lambda module, given, x: shapes.append(" × ".join(map(str, x.shape[1:]))))
    network(torch.zeros(1, 3, 64, 64))
    drawn = [words for words in words_of(schematics.unet((8, 16, 24), 64)) if "×" in words]
    assert sorted(drawn) == sorted(shapes)


def test_tiles_begin_where_the_library_begins_them():
    drawn = [words for words in words_of(schematics.tiles_of_a_row(900, 256, 32)) if words.startswith("from ")]
    assert drawn == [f"from {start}" for start in tile_starts(900, 256, 32)]


def test_metres_are_those_of_the_ground_under_the_pixel():
    camera = Camera(height=1.4, pitch=3.0, roll=0.0, yaw=0.0, fov=60.0, lateral=0.0, size=(512, 1024))
    drawn = [
        re.fullmatch(r"(\d+) rows below: (\d+) m", words) for words in words_of(schematics.metres_from_pixels(camera))
    ]
    found = [(int(m[1]), float(m[2])) for m in drawn if m]
    assert len(found) == 3
    ground, horizon = camera.ground(), camera.horizon()[512]
    image_height = schematics._canvas.frame_sample()[0].shape[0]
    for below, metres in found:
        row = round(horizon + below * 512 / image_height) - ground.top
        assert ground.z[row, 512] == pytest.approx(metres, rel=0.06)  # rows are whole numbers


def _config(**changes):
    return LaneSegmentationConfig(**changes)


def test_bars_of_weights_are_as_tall_as_the_weights_and_clear_of_their_numbers():
    (axes,) = schematics.masked_softmax((0.4, 1.6, -0.5), padded=2).axes
    bars = sorted((patch for patch in axes.patches if isinstance(patch, Rectangle)), key=lambda patch: patch.get_x())
    tall = np.array([bar.get_height() for bar in bars])
    np.testing.assert_allclose(tall / tall.sum(), [*F.softmax(torch.tensor([0.4, 1.6, -0.5]), dim=0), 0, 0], atol=1e-6)
    numbers = [text for text in axes.texts if re.fullmatch(r"0|0\.\d\d", text.get_text())]
    for bar, words in zip(bars, sorted(numbers, key=lambda text: text.get_position()), strict=True):
        assert words.get_position()[1] < bar.get_y()
