"""Machinery of notebook 3: three kinds of model that differ in one thing, and a training that learns."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from roadtopo_lib.course.lessons import model as lesson
from roadtopo_lib.segformer import LICENSE_NOTICE


def size(module):
    return sum(p.numel() for p in module.parameters())


def wake_up(encoder):
    """Random weights in place of the zeros with which each branch of a new SegFormer encoder begins."""
    for block in (block for stage in encoder.stages for block in stage.blocks):
        torch.nn.init.xavier_uniform_(block.attention.o_proj.weight)
        torch.nn.init.xavier_uniform_(block.mlp.fc2.weight)


def field_width(kind):
    """How many columns of a long image one token of the last stage depends on."""
    model = lesson.model_of(kind).eval()
    if kind != "CNN":
        wake_up(model.encoder)
    else:
        for block in (m for m in model.encoder.modules() if isinstance(m, lesson.ConvBlock)):
            torch.nn.init.normal_(block.branch[-1].weight)
    images = torch.rand(1, 3, 32, 1024, requires_grad=True)
    token = model.encode(images)[3][0, :4, 0, 16].sum()
    columns = torch.autograd.grad(token, images)[0].abs().sum(dim=(0, 1, 2)) > 0
    return int(columns.sum())


def test_the_cnn_has_the_encoders_shapes_and_about_its_parameters():
    images = torch.rand(1, 3, 32, 64)
    former, cnn = lesson.model_of("SegFormer"), lesson.model_of("CNN")
    assert [m.shape for m in cnn.encode(images)] == [m.shape for m in former.encode(images)]
    assert size(cnn.encoder) == pytest.approx(size(former.encoder), rel=0.1)


def test_only_attention_reaches_the_whole_image():
    widths = {kind: field_width(kind) for kind in lesson.KINDS}
    assert widths["SegFormer"] == 1024
    # The arithmetic of strides and kernels; a few columns at the rim may underflow.
    assert 290 <= widths["CNN"] <= 319
    assert widths["no attention"] < widths["CNN"]


def test_every_kind_begins_silently_and_the_seed_decides_its_weights():
    for kind in lesson.KINDS:
        first, again, other = (lesson.model_of(kind, seed) for seed in (0, 0, 1))
        weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
    for block in (m for m in lesson.model_of("CNN").modules() if isinstance(m, lesson.ConvBlock)):
        x = torch.rand(1, block.branch[0].num_features, 4, 4)
        assert torch.equal(block(x), x)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'RNN'"):
        lesson.model_of("RNN")


def test_a_training_learns_which_images_are_bright():
    def draw(generator):
        classes = torch.randint(0, 2, (4,), generator=generator)
        return 0.3 + 0.4 * classes[:, None, None, None] * torch.ones(4, 3, 32, 32), classes

    def logits_of(model, images):
        return model.semantic_head(model.encode(images)).flatten(2)

    model = lesson.train(lesson.model_of("SegFormer"), draw, logits_of, steps=25)
    assert not model.training
    images, classes = draw(torch.Generator().manual_seed(5))
    assert (logits_of(model, images).argmax(dim=1) == classes[:, None]).float().mean() > 0.9


def test_offline_the_library_says_whose_weights_they_are_and_what_to_do():
    notice, error = lesson.load_offline("b0")
    assert notice.endswith(LICENSE_NOTICE)
    assert "pretrained=False" in error


def test_cost_counts_a_product_and_its_sum_as_two_operations():
    operations, milliseconds = lesson.cost(torch.nn.Linear(100, 50), torch.rand(10, 100))
    assert operations == pytest.approx(2 * 10 * 100 * 50 / 1e9)
    assert milliseconds > 0


def test_panels_hold_each_picture_under_its_title():
    figure = lesson.panels({name: np.zeros((4, 8, 3)) for name in "abc"}, columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", ""]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 0]
    plt.close(figure)
    titled = lesson.panels({"a": np.zeros((4, 8, 3))}, title="what they show")
    assert titled.get_suptitle() == "what they show"
    plt.close(titled)


def test_attention_is_drawn_for_each_token_and_head_with_its_largest_weight_framed():
    weights = torch.full((2, 3, 4, 2, 5), 0.01)  # heads, (row, column) of the query, (row, column) of the key
    weights[0, 1, 2, 0, 3], weights[1, 1, 2, 1, 4], weights[0, 0, 0, 1, 1] = 0.9, 0.7, 0.8
    figure = lesson.draw_attention(torch.rand(6, 10, 3), {"A": (1, 2), "B": (0, 0)}, weights)
    grid = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_title() for ax in grid[0]] == ["A", "B"]
    star = grid[0, 0].lines[0]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((2.5 * 5 / 4, 1.5 * 2 / 3))
    for ax, place, words in (
        (grid[1, 0], (3, 0), ["0.90"]), (grid[2, 0], (4, 1), ["0.70"]),
        (grid[1, 1], (1, 1), ["0.80"]), (grid[2, 1], (0, 0), []),
    ):  # fmt: skip
        assert ax.patches[0].get_xy() == place
        assert [text.get_text() for text in ax.texts] == words
    plt.close(figure)


def test_bars_show_their_numbers():
    figure, ax = plt.subplots()
    lesson.draw_bars(ax, {"before": [400, 30], "after": [4, 3]})
    assert sorted(text.get_text() for text in ax.texts) == ["3", "30", "4", "400"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["stage 1", "stage 2"]
    plt.close(figure)


def test_a_field_glows_by_powers_of_ten_and_is_black_at_zero():
    colors = lesson.glow(torch.tensor([[1.0, 1e-3, 1e-7, 0.0]]))
    bright, middle, weak, none = colors[0]
    assert np.allclose([bright, middle, weak], plt.get_cmap("viridis")([1.0, 0.5, 0.0])[:, :3], atol=0.02)
    assert none.tolist() == [0, 0, 0]


def test_rates_are_those_of_the_groups_that_hold_the_part():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[1].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups)
    assert lesson.rates(optimizer, net[0]) == [0.1]
    assert lesson.rates(optimizer, net) == [0.1, 0.5]
    with pytest.raises(KeyError):
        lesson.rates(torch.optim.SGD(net[0].parameters(), lr=0.1), net)


def test_the_figures_of_answers_show_the_numbers_that_they_are_given():
    sizes, of_frame = [(64, 160), (96, 256)], [0.3, 0.5]
    figure, alt = lesson.draw_sizes(sizes, [0.1, 0.2], of_frame)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.1, 0.2], of_frame]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["64 × 160", "96 × 256"]
    memory, _ = lesson.draw_memory([400, 30], [4, 30])
    assert sorted(text.get_text() for text in memory.axes[0].texts) == ["30", "30", "4", "400"]
    classes = {"with": np.zeros((4, 8, 3)), "without": np.ones((4, 8, 3))}
    normalised, _ = lesson.draw_normalisation(classes)
    assert [ax.get_title() for ax in normalised.axes] == ["with normalisation", "without normalisation"]
    field, share = torch.eye(4), [0.25, 0.5, 0.75, 1.0]
    fields, _ = lesson.draw_fields({"CNN": [field] * 4}, {"CNN": share})
    titles = [ax.get_title() for ax in fields.axes]
    assert titles == ["CNN, stage 1: 25.0% of the frame", "CNN, stage 4: 100.0% of the frame"]
    for drawn in (figure, memory, normalised, fields):
        plt.close(drawn)
    assert len(alt) >= 25


def test_the_far_cue_is_drawn_with_a_curve_for_each_seed_and_the_end_of_each_field():
    curves = {kind: torch.full((3, 96), 0.5) for kind in lesson.KINDS}
    figure, _ = lesson.draw_far_cue(curves, dict(zip(lesson.KINDS, (384, 208, 144), strict=True)))
    lines = figure.axes[0].lines
    assert sum(len(line.get_xdata()) == 96 for line in lines) == 9
    assert [line.get_xdata()[0] for line in lines if line.get_linestyle() == ":"] == [384, 208, 144]
    assert {tuple(line.get_ydata()) for line in lines if len(line.get_xdata()) == 96} == {(50.0,) * 96}
    plt.close(figure)
