"""The learner's own detector, the whole way: parts are kept from cells, assembled, trained and run."""

import linecache

import numpy as np
import pytest
import torch
from test_exercises import NOTEBOOK_OF, solution
from torch.testing import assert_close

from roadtopo_lib.course import frame, learner, library_parts
from roadtopo_lib.course.detector import Detector, assemble
from roadtopo_lib.course.exercises import hint_for
from roadtopo_lib.course.parts import IMPORTS, PARTS, keep, kept

MISTAKES = {
    "read_labelled": ("cv2.COLOR_BGR2RGB", "cv2.COLOR_BGR2BGRA", "image should have shape"),
    "fuse": ("[::-1]", "", "first to last"),
    "discriminative": (".square()", "", "squared"),
    "training_step": ("optimizer.zero_grad(set_to_none=True)", "pass", "the second step added"),
    "separate_and_number": (">= min_pixels", "> 0", "fewer than min_pixels"),
    "lane_f1": ("> threshold", ">= threshold", "equal to the threshold"),
}
"""For each part, what a mistake replaces by what in the solution, and a piece of its hint."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(learner.VARIABLE, str(tmp_path))
    return tmp_path


def code_of(name):
    assert name in NOTEBOOK_OF, f"no notebook has an exercise {name!r}: its cells are missing"
    return solution(name)


def keep_from_cell(name, code):
    """Runs a cell that defines the part, and one that keeps it; like IPython, it tells linecache the source."""
    path = f"<cell of {name} {hash(code)}>"
    linecache.cache[path] = (len(code), None, code.splitlines(keepends=True), path)
    namespace = {}
    exec(IMPORTS, namespace)
    exec(compile(code, path, "exec"), namespace)
    keep(namespace[name])


@pytest.mark.parametrize("name", PARTS)
def test_the_librarys_stand_in_passes_the_check_of_the_part(name):
    assert hint_for(name, getattr(library_parts, name)) is None


@pytest.mark.parametrize("name", PARTS)
def test_a_part_with_a_mistake_is_refused(name, folder, capsys):
    good, bad, hint = MISTAKES[name]
    code = code_of(name)
    assert code.count(good) >= 1
    keep_from_cell(name, code.replace(good, bad))
    out = capsys.readouterr().out
    assert out.startswith(f"[not yet] {name}: ")
    assert hint in out
    assert kept() == ()


def test_parts_are_kept_assembled_trained_and_run(folder, capsys):
    for place, name in enumerate(PARTS, start=1):
        keep_from_cell(name, code_of(name))
        assert capsys.readouterr().out.startswith(f"[OK] {name}: kept as part {place} of 6\n")
    mine = assemble()
    assert capsys.readouterr().out.startswith("of these six parts, all six are yours: read_labelled, fuse")
    theirs = assemble({})
    assert capsys.readouterr().out.startswith("of these six parts, none is yours yet; the library's: read_labelled")

    losses = mine.train(steps=40)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    # Other code, the same mathematics: the library's parts learn the same.
    assert_close(theirs.train(steps=40)[:5], losses[:5], atol=0, rtol=1e-2)

    assert mine.score("val") > 0.1
    image, _, instance = frame()
    found = mine.detect(image)
    assert found.shape == instance.shape
    assert found.dtype == np.int32
    numbers = np.unique(found)
    assert numbers.tolist() == [*range(len(numbers))]
    assert 2 <= found.max() <= 8  # there are four


def test_one_line_says_whose_parts_these_are(folder, capsys):
    for name in ("lane_f1", "fuse"):
        keep_from_cell(name, code_of(name))
    capsys.readouterr()
    detector = assemble()
    assert capsys.readouterr().out == (
        "of these six parts, two are yours: fuse, lane_f1; "
        "the library's: read_labelled, discriminative, training_step, separate_and_number\n"
    )
    assert detector.parts["fuse"].__module__ == "kept_fuse"
    assert detector.parts["discriminative"] is library_parts.discriminative
    assemble({"fuse": library_parts.fuse})
    assert "one is yours: fuse;" in capsys.readouterr().out


def test_one_part_is_exchanged_on_the_same_weights(folder):
    def everything(lane_mask, *others):
        return np.ones(lane_mask.shape, dtype=int)

    def doubled(maps, projections, mix):
        return 2 * library_parts.fuse(maps, projections, mix)

    image = frame()[0]
    detector = assemble({"separate_and_number": everything, "fuse": doubled})
    for other in (detector, detector.exchanged("lane_f1"), detector.exchanged("fuse")):
        assert np.mean(other.detect(image)) > 0.5
    assert np.mean(detector.exchanged("separate_and_number").detect(image) > 0) < 0.5
    with torch.inference_mode():
        small = torch.rand(1, 3, 64, 128)
        library, own = (d.model(small)["embeddings"] for d in (detector.exchanged("fuse"), detector))
        bias = detector.model.embedder.bias[:, None, None]
        assert_close(own - bias, 2 * (library - bias), atol=1e-4, rtol=1e-4)  # the weights are shared
    assert detector.parts["fuse"] is detector.model.fuse is doubled


def test_names_that_are_no_parts_are_refused():
    with pytest.raises(ValueError, match="no parts are called fusion"):
        assemble({"fusion": library_parts.fuse})


def test_every_part_is_used():
    calls = dict.fromkeys(PARTS, 0)

    def spied(name):
        def call(*arguments):
            calls[name] += 1
            return getattr(library_parts, name)(*arguments)

        return call

    detector = assemble({name: spied(name) for name in PARTS})
    detector.train(steps=1)
    assert calls["training_step"] == calls["discriminative"] == calls["fuse"] == 1
    assert calls["read_labelled"] == 48
    detector.score("val")
    assert calls["separate_and_number"] == 12
    assert calls["read_labelled"] == 60
    assert calls["lane_f1"] == 1


class TestTraining:
    def test_it_depends_on_nothing_but_the_seed(self):
        def losses(seed):
            torch.rand(3)  # draws of others do not count
            before = torch.random.get_rng_state()
            found = assemble({}, seed).train(steps=3)
            assert torch.equal(torch.random.get_rng_state(), before)
            return found

        first = losses(0)
        assert losses(0) == first
        assert losses(1) != first

    def test_the_encoder_stays_as_it_is(self):
        detector = assemble({})
        images = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
        before = [maps.clone() for maps in detector.model.encode(images)]
        detector.train(steps=2)
        for old, new in zip(before, detector.model.encode(images), strict=True):
            assert torch.equal(old, new)
        assert len([*detector.model.parameters()]) == 15  # 4 projections, fusion with BatchNorm, 2 classifiers

    def test_time_ends_it_too(self):
        assert len(assemble({}).train(steps=10_000, seconds=2.0)) < 1000


@pytest.mark.parametrize("size", [(256, 512), (300, 400), (90, 200)])
def test_images_of_any_size_keep_their_size(size):
    detector = Detector({name: getattr(library_parts, name) for name in PARTS})
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = detector.detect(image)
    assert found.shape == size
    assert not found[: size[0] // 4].any()  # above the cut nothing is looked at
