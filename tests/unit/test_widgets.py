"""The widgets without a browser: what their controls do, and the still picture. tests/browser drives them alive."""

import base64
import html
import io
import json
import re
import shutil
import threading
import time

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import DBSCAN

from roadtopo_lib.course import samples, widgets
from roadtopo_lib.course.playground import SLOW_METHODS, Augmentation, Clusters, cluster_quickly, in_step, separate
from roadtopo_lib.course.widgets import (
    AugmentationInStep,
    EmbeddingSeparation,
    FrameEmbeddings,
    LossShaper,
    MarginsExplorer,
    PostProcessingBench,
)
from roadtopo_lib.course.widgets import bench as bench_module
from roadtopo_lib.course.widgets._base import COLORS, VIEW, Panel, PicturePanel, encoded
from roadtopo_lib.course.widgets._controls import button, clock, film, on_change, picker, slider
from roadtopo_lib.course.widgets._page import spoken
from roadtopo_lib.course.widgets.separation import UNCLUSTERED, TermsPanel, cluster_colors
from roadtopo_lib.data.images import read_image
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.postprocess import LanePostProcessor, cluster_embeddings, collect_instances

BOARDS = [getattr(widgets, name) for name in widgets.__all__]
OLD_CONTROLS = {
    "IntSlider",
    "FloatSlider",
    "SelectionSlider",
    "Dropdown",
    "Checkbox",
    "Button",
    "Play",
    "ToggleButtons",
}


def inside(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """A box's widgets, at any depth."""
    return [widget, *(w for child in getattr(widget, "children", ()) for w in inside(child))]


def control(board, description: str) -> ipywidgets.Widget:
    """The control with this label."""
    (found,) = [w for w in inside(board.box) if getattr(w, "description", None) == description]
    return found


def the_clock(board) -> ipywidgets.Play:
    (play,) = [w for w in inside(board.box) if isinstance(w, ipywidgets.Play)]
    return play


def pictures(board) -> list[bytes]:
    return [bytes(panel.image.value) for panel in board.panels]


@pytest.fixture(scope="module")
def boards() -> dict:
    """One of each, shared by the tests that only look."""
    return {kind.__name__: kind() for kind in BOARDS}


@pytest.mark.parametrize("name", [kind.__name__ for kind in BOARDS])
class TestEveryWidget:
    def test_it_offers_a_live_view_a_picture_and_a_fixed_text(self, boards, name):
        bundle, about = boards[name]._repr_mimebundle_()
        (mime,) = set(bundle) - {"text/plain", VIEW}
        assert mime in ("image/png", "image/jpeg")
        assert bundle[VIEW]["model_id"] == boards[name].box.model_id
        assert bundle["text/plain"] == f"[{boards[name].title}: run this cell to move it]"
        assert about[mime]["alt"].startswith(boards[name].title)
        picture = Image.open(io.BytesIO(base64.b64decode(bundle[mime])))
        assert 800 <= picture.width <= 1100
        assert picture.height >= 200
        assert len(bundle[mime]) < 200_000

    def test_the_still_picture_shows_the_panels_as_they_are_under_the_words_and_nothing_else(self, boards, name):
        board = boards[name]
        still, panels = board.still(), [panel.pixels() for panel in board.panels]
        beside = panels[0].shape[1] + panels[1].shape[1]
        np.testing.assert_array_equal(still.shape[1], beside)
        tops = max(len(panel) for panel in panels[:2])
        below = 0 if len(panels) == 2 else len(panels[2])
        words = len(still) - tops - below
        assert 20 < words < 120
        assert (still[:words] < 128).any()  # dark on white
        for left, panel in ((0, panels[0]), (panels[0].shape[1], panels[1])):
            at = words + tops - len(panel)
            np.testing.assert_array_equal(still[at : words + tops, left : left + panel.shape[1]], panel)
        if below:
            np.testing.assert_array_equal(still[-below:, : panels[2].shape[1]], panels[2])

    def test_the_page_learns_the_name_of_every_picture(self, boards, name):
        (line,) = [w for w in inside(boards[name].box) if "data-alts" in str(getattr(w, "value", ""))]
        alts = json.loads(html.unescape(re.search('data-alts="([^"]*)"', line.value)[1]))
        assert alts == [panel.alt for panel in boards[name].panels]
        assert all(len(alt) > 20 for alt in alts)
        assert len(set(alts)) == len(alts)

    def test_the_still_picture_leaves_the_widget_as_it_was(self, boards, name):
        board = boards[name]
        before = [w.value for w in inside(board.box) if hasattr(w, "value") and not isinstance(w, ipywidgets.HTML)]
        board.still()
        after = [w.value for w in inside(board.box) if hasattr(w, "value") and not isinstance(w, ipywidgets.HTML)]
        assert after == before

    def test_every_control_is_labelled_and_known_to_ipywidgets_7(self, boards, name):
        controls = [w for w in inside(boards[name].box) if isinstance(w, ipywidgets.DOMWidget)]
        controls = [w for w in controls if type(w).__name__ not in ("Box", "VBox", "HTML", "Image")]
        assert controls
        assert {w._model_name.removesuffix("Model") for w in controls} <= OLD_CONTROLS  # what the browser must know
        assert all(w.description for w in controls if not isinstance(w, ipywidgets.Play))

    def test_drawing_twice_gives_the_same_picture(self, boards, name):
        if name == "PostProcessingBench":
            boards[name].draw()  # its words hold times; the pictures must not
        before = [panel.pixels() for panel in boards[name].panels]
        boards[name].draw()
        for panel, picture in zip(boards[name].panels, before, strict=True):
            np.testing.assert_array_equal(panel.pixels(), picture)


@pytest.mark.parametrize("kind", [EmbeddingSeparation, MarginsExplorer])
def test_the_still_picture_does_not_run_ahead(kind):
    board = kind()
    steps = board.playground.state().step
    board._repr_mimebundle_()
    assert board.playground.state().step == steps
    assert f"Step {steps}," in board.words or "all 5 lanes found" in board.words


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("EmbeddingSeparation", r"3\.0\d|2 · delta_dist|overlap"),  # how far apart will the nearest two means end?
        ("MarginsExplorer", r"sphere|1\.58"),  # which radius still finds five lanes on the sphere?
        ("LossShaper", r"rarer|one pixel"),  # which losses have a larger gradient for a rarer class?
        ("AugmentationInStep", r"Out of step|two draws|\b\d{1,2}%"),  # what share of the pixels still fits?
        ("FrameEmbeddings", r"\b0 steps|spread"),  # do random weights give one clump?
    ],
)
def test_the_still_picture_keeps_the_answer_to_the_question_of_its_notebook(boards, name, answer):
    board = boards[name]
    told = " ".join([board.words, board._repr_mimebundle_()[1].popitem()[1]["alt"]])
    assert not re.search(answer, told), told


class TestPanel:
    def test_blitting_equals_drawing_everything_anew(self):
        panel = Panel("a line")
        (line,) = panel.axes.plot([0, 1], [0, 1])
        panel.moving(line)
        panel.set_limits(0, 2, 0, 2)
        panel.pixels()
        line.set_data([0, 2], [2, 0])
        blitted = panel.pixels()
        panel.forget()
        np.testing.assert_array_equal(panel.pixels(), blitted)

    def test_new_limits_are_drawn(self):
        panel = Panel("a line")
        panel.set_limits(0, 1, 0, 1)
        before = panel.pixels()
        panel.set_limits(0, 50, 0, 50)
        assert (panel.pixels() != before).any()


def test_a_picture_panel_shows_the_picture_whole_below_its_title_and_dashes_one_row():
    # So wide that it has an even number of rows: none is half and half.
    panel, color = PicturePanel("two halves", (100, 200), inches=4.4), (10, 200, 30)
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:] = color
    picture[50:] = 255 - np.array(color)
    panel.draw(picture, "finding", row=20)
    shown = panel.pixels()
    upper, lower = (shown == color).all(axis=2), (shown == picture[50, 0]).all(axis=2)
    rows, columns = np.nonzero(upper.any(axis=1) | lower.any(axis=1))[0], np.nonzero(lower.any(axis=0))[0]
    height, width = len(rows), len(columns)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (height, width)
    assert width / height == pytest.approx(2, rel=0.01)
    assert (shown[: rows.min()] < 128).any(), "no title"
    assert lower.sum() == height // 2 * width
    dashed = np.nonzero((shown[rows][:, columns] == 255).all(axis=2))
    assert dashed[0].mean() / height == pytest.approx(0.2, abs=0.01)
    assert len(dashed[0]) == pytest.approx(width, rel=0.05)  # two pixels high, half of the width
    panel.draw(picture, "finding")
    assert not (panel.pixels()[rows][:, columns] == 255).all(axis=2).any()


@pytest.mark.parametrize("kind", ["plot", "flat"])
def test_white_and_the_colours_of_a_mask_arrive_exactly(kind):
    board = AugmentationInStep() if kind == "flat" else LossShaper()
    panel = board.panels[1]
    before, (mime, data) = panel.pixels(), encoded(panel.pixels(), panel.kind)
    after = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (panel.kind, mime) == (kind, "image/png")
    white = (before == 255).all(axis=2)
    assert white.mean() > 0.02
    assert (after[white] == 255).all()
    if kind == "flat":
        np.testing.assert_array_equal(after, before)


def test_a_title_is_drawn_anew_only_when_it_changes_and_replaces_the_one_before(monkeypatch):
    panel, drawn = Panel("A panel"), []
    draw = panel.finding.draw
    monkeypatch.setattr(
        panel.finding, "draw", lambda renderer: (drawn.append(panel.finding.get_text()), draw(renderer))
    )
    empty = panel.pixels().copy()
    shown = {}
    for title in ("one", "one", "two", "one", ""):
        panel.finding.set_text(title)
        shown[title] = panel.pixels().copy()
        panel.forget()
        np.testing.assert_array_equal(panel.pixels(), shown[title])
        np.testing.assert_array_equal(panel.pixels(), shown[title])
    np.testing.assert_array_equal(shown[""], empty)
    assert (shown["one"] != shown["two"]).any()
    drawn.clear()
    panel.finding.set_text("three")
    for _ in range(5):
        panel.pixels()
    assert drawn == ["three"]


def in_another_thread(action) -> threading.Thread:
    """Started, as the kernel does for a control that answers on a subshell."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


class TestThreads:
    """JupyterLab lets some controls answer in another thread than the rest; they must wait for each other."""

    def test_controls_wait_for_each_other(self):
        running, most = [], []

        def action() -> None:
            running.append(1)
            time.sleep(0.05)
            most.append(len(running))
            running.pop()

        hand, play, press = slider("x", 0.0, 0.0, 1.0, 0.1), clock(action, action), button("go", action)
        on_change(action, hand)
        moves = (lambda: setattr(hand, "value", 0.5), lambda: setattr(play, "value", 3), press.click)
        for thread in [in_another_thread(move) for move in moves]:
            thread.join()
        assert most == [1, 1, 1]

    def test_a_preset_chosen_while_the_points_settle_waits_for_them(self, monkeypatch):
        alone, board = (MarginsExplorer() for _ in range(2))
        control(alone, "preset").value = "on the sphere, margins that fit"
        began, step = threading.Event(), board.playground.step

        def slow(steps: int) -> None:
            for _ in range(steps):
                step(1)
                began.set()
                time.sleep(0.001)

        monkeypatch.setattr(board.playground, "step", slow)
        settling = in_another_thread(lambda: setattr(control(board, "L2-normalise (unit sphere)"), "value", True))
        assert began.wait(10)
        control(board, "preset").value = "on the sphere, margins that fit"
        settling.join()
        assert board.words == alone.words
        assert pictures(board) == pictures(alone)

    def test_a_value_from_the_browser_waits_for_the_drawing(self, monkeypatch):
        board = AugmentationInStep()
        trap, drawing, seen = control(board, "trap: draw for the masks separately"), threading.Event(), []

        def slow() -> None:
            drawing.set()
            seen.append(trap.value)
            time.sleep(0.1)
            seen.append(trap.value)

        monkeypatch.setattr(board, "draw", slow)
        updating = in_another_thread(board.update)
        assert drawing.wait(10)
        trap.set_state({"value": True})  # what a message from the browser calls
        updating.join()
        assert seen == [False, False, True, True]

    def test_the_still_picture_waits_for_the_clock(self, monkeypatch):
        board = EmbeddingSeparation()
        began, done, step = threading.Event(), [], board.playground.step

        def slow(steps: int) -> None:
            began.set()
            time.sleep(0.1)
            step(steps)
            done.append(steps)

        monkeypatch.setattr(board.playground, "step", slow)
        monkeypatch.setattr(board, "still", lambda: done.copy() or pytest.fail("drawn in the middle of a step"))
        monkeypatch.setattr(widgets._base, "encoded", lambda *_, **__: ("image/png", b""))
        ticking = in_another_thread(lambda: control(board, "Step").click())
        assert began.wait(10)
        board._repr_mimebundle_()
        ticking.join()


class TestSeparation:
    def test_buttons_and_clock_move_it(self):
        board = EmbeddingSeparation()
        before = pictures(board)
        control(board, "Step").click()
        assert board.playground.state().step == 1
        assert all(a != b for a, b in zip(before, pictures(board), strict=True))
        play = the_clock(board)
        play.value = 1
        assert board.playground.state().step == 4
        play.value = 0  # its stop button
        assert board.playground.state().step == 4
        control(board, "Converge").click()
        assert "all 4 lanes found" in board.words
        control(board, "Reset").click()
        assert pictures(board) == before

    @pytest.mark.parametrize("kind", [EmbeddingSeparation, MarginsExplorer])
    def test_points_move_with_every_tick_the_rest_with_every_sixth_and_at_the_end(self, kind):
        board = kind()
        if kind is MarginsExplorer:
            control(board, "space").value = 2  # in 32-D the plane to look at turns a little with every picture
            control(board, "Restart").click()
        play = the_clock(board)
        moved, followed = [], []
        for tick in range(1, 9):
            before, words = pictures(board), board.words
            play.value = tick
            after = pictures(board)
            moved.append(after[0] != before[0])
            followed.append((after[1] != before[1], board.words != words))
        assert moved == [True] * 8
        assert followed == [(n == 6, n == 6) for n in range(1, 9)]
        resting, words = pictures(board), board.words
        for playing in (True, False):
            setattr(play, "playing" if play.has_trait("playing") else "_playing", playing)
        if kind is MarginsExplorer:
            assert pictures(board)[0] == resting[0]
        else:  # the title follows with the words
            assert f"The nearest two means are {board.playground.state().smallest_gap:.2f} apart" in board.panels[0].alt
        assert pictures(board)[1] != resting[1]
        assert board.words != words

    def test_a_guess_is_held_against_what_comes(self):
        board = EmbeddingSeparation()
        guess = control(board, "my guess (units)")
        guess.value = 3.0
        control(board, "Release").click()
        assert "You guessed 3.0, it is 3.00: close." in board.words
        guess.value = 1.0
        control(board, "Release").click()
        assert "look again" in board.words
        control(board, "Reset").click()
        assert "guessed" not in board.words

    def test_all_eight_lanes_are_drawn_and_fewer_leave_nothing_behind(self):
        board = EmbeddingSeparation()
        four = pictures(board)
        control(board, "lanes (number)").value = 8
        assert pictures(board) != four
        control(board, "lanes (number)").value = 4
        assert pictures(board) == four

    def test_the_way_to_the_answer_begins_at_the_start(self):
        board = EmbeddingSeparation()
        control(board, "Release").click()
        assert "Step 300," in board.words
        control(board, "Step").click()
        assert "Step 1," in board.words
        assert "guessed" not in board.words
        control(board, "Release").click()
        the_clock(board).value = 1
        assert board.playground.state().step == 3

    def test_the_guess_stands_before_the_clock(self):
        board = EmbeddingSeparation()
        order = inside(board.box)
        guess, release = (order.index(control(board, name)) for name in ("my guess (units)", "Release"))
        assert guess < release < order.index(the_clock(board))

    def test_steps_are_on_a_logarithmic_axis_on_which_step_0_has_a_place(self):
        panel, board = TermsPanel(), EmbeddingSeparation()
        board.advance(100)
        panel.draw(board.playground)
        assert panel.axes.get_xscale() == "symlog"
        zero, one, ten, hundred = (panel.axes.transData.transform((x, 0))[0] for x in (0, 1, 10, 100))
        assert one - zero > 20  # pixels
        assert hundred - ten == pytest.approx(ten - one, rel=0.1)

    def test_a_long_history_is_drawn_through_some_of_its_steps_and_the_last(self):
        panel, board = TermsPanel(), EmbeddingSeparation(lanes=2, points=10)
        board.playground.step(3000)
        panel.draw(board.playground)
        steps, values = panel.axes.lines[0].get_data()
        assert len(steps) <= 1000
        assert (steps[:100] == range(100)).all()
        assert steps[-1] == 3000
        assert values[-1] == pytest.approx(board.playground.history[-1]["variance"])

    def test_circles_are_drawn_where_distances_are_true(self):
        # In 2-D a circle of the margin is as large as the margin; in 32-D the picture does not depend on it.
        board, shown = MarginsExplorer(), {}
        for dim in (32, 2):
            control(board, "space").value = dim
            for radius in (1.4, 1.6):
                control(board, "radius (units)").value = radius
                assert "all 5 lanes found" in board.words or dim == 2
                shown[dim, radius] = board.panels[0].pixels()
        np.testing.assert_array_equal(shown[32, 1.4], shown[32, 1.6])
        assert (shown[2, 1.4] != shown[2, 1.6]).any()


class TestClusterColors:
    def colors(self, lanes: list[int], labels: list[int]) -> np.ndarray:
        return cluster_colors(Clusters(np.array(lanes), np.array(labels), max(labels) + 1, ""))

    def test_lanes_that_are_found_keep_their_colours_whatever_their_clusters_number(self):
        np.testing.assert_array_equal(self.colors([0, 0, 1, 1, 2, 2], [2, 2, 0, 0, 1, 1]), COLORS[[0, 0, 1, 1, 2, 2]])

    def test_merged_lanes_have_one_colour_and_a_split_lane_two(self):
        merged = self.colors([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1])
        assert len(np.unique(merged[:4], axis=0)) == 1
        assert (merged[4] != merged[0]).any()
        split = self.colors([0, 0, 0, 1, 1, 1], [0, 0, 2, 1, 1, 1])
        assert len(np.unique(split, axis=0)) == 3
        np.testing.assert_array_equal(split[[0, 3]], COLORS[[0, 1]])

    def test_points_without_a_cluster_are_grey(self):
        colors = self.colors([0, 0, 1, 1], [0, 0, -1, -1])
        np.testing.assert_array_equal(colors[2:], [UNCLUSTERED] * 2)
        np.testing.assert_array_equal(self.colors([0, 1], [-1, -1]), [UNCLUSTERED] * 2)


class TestMargins:
    def test_a_move_shows_which_way_things_go_before_it_converges(self, monkeypatch):
        board, seen = MarginsExplorer(), []
        show, history = board.panels[0].show, lambda: len(board.playground.history)
        before = history()
        monkeypatch.setattr(board.panels[0], "show", lambda: (seen.append(history() - before), show()))
        control(board, "delta_dist (units)").value = 2.0
        assert seen == [12, 300]
        assert control(board, "radius (units)").value == 2.0

    def test_the_sphere_shows_its_floor_in_words_and_picture(self):
        board = MarginsExplorer()
        assert "all 5 lanes found" in board.words
        assert "sphere" not in board.words
        control(board, "L2-normalise (unit sphere)").value = True
        assert "never falls below 2.01" in board.words
        assert board.playground.state().terms["distance"] == pytest.approx(2.01, abs=0.02)

    def test_presets_set_every_control(self):
        board = MarginsExplorer()
        control(board, "preset").value = "on the sphere, margins that fit"
        assert control(board, "delta_dist (units)").value == 0.7
        assert control(board, "L2-normalise (unit sphere)").value is True
        assert "all 5 lanes found" in board.words
        control(board, "preset").value = "radius too small"
        assert control(board, "radius from the margins").value is False
        assert board.radius == 0.1
        assert "all 5 lanes found" not in board.words
        control(board, "preset").value = "the paper's"
        assert board.radius == 1.5
        assert "all 5 lanes found" in board.words

    def test_a_slider_moves_on_from_where_the_points_are(self):
        board = MarginsExplorer()
        step = board.playground.state().step
        control(board, "delta_dist (units)").value = 2.5
        assert board.playground.state().step == step + 300
        assert board.playground.state().smallest_gap == pytest.approx(5.0, abs=0.05)

    def test_a_radius_of_ones_own_changes_the_clusters_only(self):
        board = MarginsExplorer()
        step = board.playground.state().step
        control(board, "radius (units)").value = 4.0
        assert control(board, "radius from the margins").value is False
        assert board.playground.state().step == step
        assert "merged 5 lanes: radius 4.00 is above the safe radii, " in board.words


class TestShaper:
    def test_a_rarer_class_has_a_larger_gradient_with_dice(self):
        board = LossShaper()
        assert "cross-entropy 0.70" in board.words
        before = pictures(board)
        control(board, "rare class (%)").value = 0.1
        assert all(a != b for a, b in zip(before, pictures(board), strict=True))
        assert "cross-entropy 0.70" in board.words


class TestAugmentation:
    def test_masks_follow_until_they_are_drawn_separately(self):
        board = AugmentationInStep()
        control(board, "crop side (%)").value = 60
        control(board, "mirror left and right").value = True
        assert board.words.startswith("100% of the instance pixels")
        separately = control(board, "trap: draw for the masks separately")
        separately.value = True
        torn = board.words
        assert not torn.startswith("100%")
        control(board, "Draw again").click()
        assert board.words != torn
        separately.value = False
        assert board.words.startswith("100%")

    def test_colours_touch_the_image_only(self):
        board = AugmentationInStep()
        before = pictures(board)
        control(board, "brightness (×)").value = 0.4
        assert pictures(board)[0] != before[0]
        assert pictures(board)[1] == before[1]

    def test_moving_is_what_albumentations_does(self):
        import albumentations as A

        image, _, instance = LaneInstanceDataset(samples(), "train").read(0)
        height, width = instance.shape
        same = A.Compose([A.Crop(128, 64, 384, 192), A.Resize(height, width), A.HorizontalFlip(p=1)])
        out = same(image=image, mask=instance)
        ours = Augmentation(left=0.5, top=0.5, size=0.5, flip=True)
        np.testing.assert_array_equal(ours.move(instance), out["mask"])
        assert np.abs(ours.move(image).astype(int) - out["image"]).mean() < 1

    def test_no_change_changes_nothing_and_nonsense_is_refused(self):
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        np.testing.assert_array_equal(Augmentation().move(image), image)
        assert np.abs(Augmentation().recolor(image).astype(int) - image).max() <= 1
        for wrong in ({"size": 0.0}, {"left": 1.5}, {"brightness": -1.0}):
            with pytest.raises(ValueError, match="expected"):
                Augmentation(**wrong)

    def test_in_step_counts_pixels_of_either_mask(self):
        assert in_step(np.array([1, 2, 0, 0]), np.array([1, 0, 2, 0])) == pytest.approx(1 / 3)
        assert in_step(np.zeros(3), np.zeros(3)) == 1


class TestFrame:
    def test_training_parts_the_lanes(self):
        board = FrameEmbeddings()
        late = board.words
        moment = control(board, "steps trained")
        moment.value = 0
        assert "After 0 steps" in board.words
        assert board.words != late
        assert board.moments.smallest_gap(1) < 0.5 * board.moments.smallest_gap(len(board.moments.steps) - 1)

    def test_a_lane_lights_up_in_both_pictures(self):
        board = FrameEmbeddings()
        before = pictures(board)
        control(board, "light up").value = board.moments.lanes[0]
        assert all(a != b for a, b in zip(before, pictures(board), strict=True))

    def test_it_plays_its_moments_from_the_first_to_the_last(self):
        board = FrameEmbeddings()
        play, moment = the_clock(board), control(board, "steps trained")
        assert (play.min, play.max, play.value) == (0, 7, 7)  # from its end the browser's clock begins anew
        told = []
        for tick in range(8):
            play.value = tick
            told.append(board.words.split(" steps")[0])
        assert told == [f"After {step}" for step in board.moments.steps]
        moment.value = 3
        assert play.value == 3  # it goes on from where the hand has left it

    def test_a_slider_and_its_film_follow_each_other(self):
        shown = picker("x", [("a", 0), ("b", 1), ("c", 2)], 2)
        play = film(shown)
        play.value = 1
        assert shown.value == 1
        shown.value = 0
        assert play.value == 0

    def test_the_truth_does_not_follow_the_sliders(self):
        board = FrameEmbeddings()
        truth, found = board.panels[1].pixels(), board.panels[0].pixels()
        assert board.panels[1].alt.startswith("The truth: 4 lanes")
        control(board, "radius (units)").value = 4.0
        np.testing.assert_array_equal(board.panels[1].pixels(), truth)
        assert (board.panels[0].pixels() != found).any()


class TestSlowMethods:
    """Of many moves only the last is computed, and the widget says what it does meanwhile."""

    @pytest.fixture(params=[FrameEmbeddings, PostProcessingBench])
    def board_and_calls(self, request, monkeypatch):
        board, calls = request.param(), []
        if isinstance(board, FrameEmbeddings):
            separate_moment = board.moments.separate
            monkeypatch.setattr(
                board.moments, "separate", lambda *asked: (calls.append(asked[1:]), separate_moment(*asked))[1]
            )
        else:
            monkeypatch.setattr(bench_module, "separate", lambda *asked: (calls.append(asked[3:]), separate(*asked))[1])
        return board, calls

    @pytest.mark.parametrize("method", ["meanshift", "dbscan"])
    def test_only_the_latest_move_is_computed(self, board_and_calls, method):
        board, calls = board_and_calls
        before = pictures(board)
        control(board, "method").value = method
        for radius in (0.5, 0.7, 0.9, 1.1):
            control(board, "radius (units)").value = radius
        assert calls == []
        assert f"{method} computes" in board.words
        assert f"{method} computes" in board.panels[0].alt
        assert pictures(board)[0] != before[0]
        assert board.ask.disabled is False
        board.ask.click()
        assert calls == [(1.1, method)]
        assert "computes" not in board.words
        assert method in board.words
        assert ("on 200 of the" in board.words) == (method == "meanshift")
        bench_dbscan = isinstance(board, PostProcessingBench) and method == "dbscan"
        assert ("scikit-learn's labels" in board.words) == bench_dbscan  # the time is not scikit-learn's
        assert board.ask.disabled is True
        board.ask.click()  # as a second view of the same widget does
        assert len(calls) == 1

    def test_what_is_known_is_not_computed_again(self, board_and_calls):
        board, calls = board_and_calls
        control(board, "method").value = "meanshift"
        board.ask.click()
        other = "light up" if isinstance(board, FrameEmbeddings) else "reference row (%)"
        control(board, other).value = 2
        assert "computes" not in board.words
        assert len(calls) == 1
        control(board, "method").value = "fast"
        assert "computes" not in board.words

    @pytest.mark.parametrize("radius", [0.06, 0.3, 5.0])
    def test_dbscan_here_gives_the_labels_of_scikit_learn(self, radius):
        random = np.random.default_rng(0)
        x = np.concatenate([random.normal(c, 0.1, (500, 2)) for c in (0, 0.4, 2)] + [random.uniform(-1, 3, (100, 2))])
        random.shuffle(x)
        theirs = DBSCAN(eps=radius, min_samples=10).fit(x).labels_
        assert (theirs.max() + 1, (theirs == -1).any()) == {0.06: (3, True), 0.3: (2, True), 5.0: (1, False)}[radius]
        labels, used = cluster_quickly(x.astype(np.float32), radius, "dbscan")
        np.testing.assert_array_equal(labels, theirs)
        assert used == len(x)

    def test_dbscan_of_too_many_pixels_does_as_the_library_and_says_how_many(self, monkeypatch):
        monkeypatch.setattr("roadtopo_lib.postprocess.clustering.QUADRATIC_POINTS", 300)
        monkeypatch.setitem(SLOW_METHODS, "dbscan", 300)
        x = np.random.default_rng(0).normal(size=(900, 2))
        labels, used = cluster_quickly(x, 0.3, "dbscan")
        assert used == 300
        assert (labels == -1).any()
        np.testing.assert_array_equal(labels, cluster_embeddings(x, 0.3, "dbscan"))

    def test_every_move_asks_the_browser_anew(self):
        waiting = [spoken("words", [], due) for due in (1, 2)]
        assert ['data-due="1"' in waiting[0], 'data-due="2"' in waiting[1]] == [True, True]
        assert "data-due" not in spoken("words", [])

    def test_mean_shift_of_some_pixels_finds_what_that_of_all_finds(self):
        random = np.random.default_rng(0)
        lanes = np.repeat(np.arange(3), 250)
        x = 3 * np.eye(3, 8)[lanes] + 0.1 * random.standard_normal((750, 8))
        labels, used = cluster_quickly(x, 1.5, "meanshift")
        assert used == 200
        assert [len(np.unique(labels[lanes == lane])) for lane in range(3)] == [1, 1, 1]
        assert len(np.unique(labels)) == 3
        few, all_of_them = cluster_quickly(x[::5], 1.5, "meanshift")
        assert all_of_them == 150
        np.testing.assert_array_equal(few, cluster_embeddings(x[::5], 1.5, "meanshift"))

    @pytest.mark.parametrize("method", ["fast", "dbscan"])
    def test_separating_and_collecting_is_what_the_post_processor_does(self, boards, method):
        board = boards["PostProcessingBench"]
        prediction = board.segmenter.predict(read_image(control(board, "frame").value))
        separated = separate(
            prediction["semantic_pred"], prediction["embeddings"], prediction["first_row"], 1.5, method
        )
        ours = collect_instances(
            prediction["semantic_pred"], separated.lanes, separated.crosswalks, confidence=prediction["confidence"]
        )
        theirs = LanePostProcessor(method=method, radius=1.5).process(**prediction)
        assert theirs["lane_count"] >= 2
        for name in ("lane_instances", "crosswalk_instances"):
            np.testing.assert_array_equal(ours[name], theirs[name])


class TestBench:
    def test_settings_reach_the_result(self):
        board = PostProcessingBench()
        assert not board.words.startswith("0 lanes")
        control(board, "smallest (% of image)").value = 2.0
        assert board.words.startswith("0 lanes")
        control(board, "smallest (% of image)").value = 0.1
        before = pictures(board)
        control(board, "reference row (%)").value = 60
        assert pictures(board) != before

    def test_the_truth_stands_beside_if_there_is_one(self, tmp_path):
        board = PostProcessingBench()
        assert board.panels[2].alt.startswith("The truth: 4 lanes")
        truth = board.panels[2].pixels()
        control(board, "radius (units)").value = 4.0
        np.testing.assert_array_equal(board.panels[2].pixels(), truth)
        folder = tmp_path / "images"
        folder.mkdir()
        shutil.copy(control(board, "frame").value, folder)
        alone = PostProcessingBench(board.segmenter, folder)
        assert alone.panels[2].alt.startswith("No truth is known")


def test_a_slider_that_answers_with_a_rounding_error_is_no_hand_on_it():
    board = MarginsExplorer(preset="on the sphere, margins that fit")
    words = board.words
    for label in ("delta_dist (units)", "radius (units)"):
        control(board, label).value += 1e-15
    assert board.words == words
    assert control(board, "preset").value == "on the sphere, margins that fit"
    control(board, "delta_dist (units)").value += 0.05
    assert control(board, "preset").value == "my own"
    assert board.words != words
