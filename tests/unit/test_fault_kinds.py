"""Kinds of faults that users of such libraries report: other people's files, consoles, clips and scripts."""

import io
import json
import os
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from small_model import PixelModel

from roadtopo_lib.app import cli
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data.checks import check_every_file, misplaced_instances
from roadtopo_lib.data.convert.names import read_classes
from roadtopo_lib.data.images import list_images, read_image, read_instance_mask, read_semantic_mask, write_image
from roadtopo_lib.data.samples import list_samples, read_sample, sample_files
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.decoding import ORIENTATION, turned
from roadtopo_lib.files import list_files
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.inference.files import infer_to_files, is_video, read_video
from roadtopo_lib.labels import CROSSWALK, IGNORE_INDEX, LANE_MARKING, ROAD
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.plain_yaml import parse_yaml
from roadtopo_lib.postprocess import clustering
from roadtopo_lib.scenes import write_dataset

SHIPPED = Path(__file__).parents[2] / "data_samples" / "tiny.safetensors"
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "
SIZE = (24, 40)


def scene(height=SIZE[0], width=SIZE[1]):
    """A bright lane in the left half below the middle; image, semantic mask, instance mask."""
    image = np.full((height, width, 3), 60, np.uint8)
    semantic, instance = np.full((height, width), ROAD, np.uint8), np.zeros((height, width), np.uint16)
    lane = np.s_[height // 2 :, width // 5 : width // 5 + 4]
    image[lane], semantic[lane], instance[lane] = 230, LANE_MARKING, 1
    return image, semantic, instance


def put(folder: Path, name: str, arrays, tags=(1, 1, 1), suffix=".png"):
    """Writes the three files as other tools do, with EXIF orientations; returns their paths."""
    files = sample_files(folder, name, suffix)
    for path, array, tag in zip(files, arrays, tags, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if tag != 1:
            exif[ORIENTATION] = tag
        Image.fromarray(array).save(path, exif=exif)
    return files


class Segmenter:
    """Finds nothing, or what it is told to find."""

    def __call__(self, image):
        nothing = np.zeros(image.shape[:2], np.int64)
        return {
            "semantic_mask": nothing, "lane_instances": nothing, "crosswalk_instances": nothing, "lane_count": 0,
            "lane_centers": [], "lane_polylines": [],
        }  # fmt: skip


# --- Listings ---------------------------------------------------------------------------------------------------------


def test_hidden_files_are_no_samples(tmp_path):
    files = put(tmp_path / "train", "a", scene())
    for path in files:
        path.with_name("._" + path.name).write_bytes(APPLE_DOUBLE)
    assert list_samples(tmp_path, "train") == tuple([path] for path in files)
    assert list_images(tmp_path / "train" / "images") == [files[0]]


def test_a_listing_leaves_out_hidden_folders_and_folders_named_like_files(tmp_path):
    for name in ("b.JSON", "a.json", ".hidden.json", ".ipynb_checkpoints/c.json", "deep/d.json", "deep/.e/f.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.json").mkdir()
    assert [path.name for path in list_files(tmp_path, ".json")] == ["a.json", "b.JSON"]
    assert [path.name for path in list_files(tmp_path, ".json", deep=True)] == ["a.json", "b.JSON", "d.json"]
    for name in ("__MACOSX/deep/g.json", "@eaDir/a.jpg/h.json", "deep/@eaDir/i.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    assert [path.name for path in list_files(tmp_path, ".json", deep=True)] == ["a.json", "b.JSON", "d.json"]


def test_masks_of_a_data_set_in_a_subfolder_are_no_photographs(tmp_path):
    write_image(tmp_path / "a.jpg", scene()[0])
    image, _, _ = put(tmp_path / "set" / "train", "b", scene())
    assert list_images(tmp_path, deep=True) == [tmp_path / "a.jpg", image]
    masks = tmp_path / "set" / "train" / "semantic_masks"
    assert list_images(masks, deep=True) == [masks / "b.png"], "whoever names that folder means it"


def test_two_spellings_of_an_umlaut_are_one_name(tmp_path):
    composed, split = (unicodedata.normalize(form, "ü1") for form in ("NFC", "NFD"))
    assert composed != split
    files = put(tmp_path / "train", composed, scene())
    image = files[0].rename(files[0].with_name(split + ".png"))
    assert list_samples(tmp_path, "train") == ([image], [files[1]], [files[2]])
    put(tmp_path / "train", composed, scene())  # now both spellings lie there: nothing says which one is meant
    with pytest.raises(ValueError, match="several images are named"):
        list_samples(tmp_path, "train")


@pytest.mark.parametrize("picture", ["found.png", "found.jpg"])
def test_results_beside_the_photographs_are_not_taken_for_photographs(tmp_path, picture):
    for name in ("a.jpg", "b_overlay.png"):  # the second is a photograph, whatever its name says
        write_image(tmp_path / name, scene()[0])
    for _ in range(2):
        written = [path.name for path, _ in infer_to_files(Segmenter(), tmp_path, tmp_path, visualize=True)]
        assert written == ["a_overlay.png", "b_overlay_overlay.png"]
        list(infer_to_files(Segmenter(), tmp_path / "a.jpg", tmp_path / picture, visualize=True))
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b_overlay.png"]
    assert read_image(tmp_path / picture).shape == (*SIZE, 3), "the mark does no harm"
    assert cv2.imread(str(tmp_path / picture)).shape == (*SIZE, 3)


def test_labels_beside_the_photographs_are_not_written_over(tmp_path):
    write_image(tmp_path / "a.jpg", scene()[0])
    (tmp_path / "a.json").write_text('{"shapes": []}')
    with pytest.raises(ValueError, match=r"a\.json: may hold labels"):
        list(infer_to_files(Segmenter(), tmp_path, tmp_path))
    assert (tmp_path / "a.json").read_text() == '{"shapes": []}'


def test_a_hidden_file_is_no_scene_in_the_way(tmp_path):
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images" / ".DS_Store").write_bytes(b"Bud1")
    write_dataset(tmp_path, {"val": 1}, size=(64, 96), workers=1)
    assert len(list_samples(tmp_path, "val")[0]) == 1


# --- Orientation tags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_is_turned_as_pillow_turns_it(tmp_path, tag, suffix):
    from PIL import ImageOps

    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    image = put(tmp_path, "a", (pixels, *scene()[1:]), (tag, 1, 1), suffix)[0]
    with Image.open(image) as picture:
        np.testing.assert_array_equal(read_image(image), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("tag", range(2, 9))
def test_masks_are_turned_by_their_own_tag(tmp_path, tag):
    arrays = scene()
    files = put(tmp_path, "a", arrays, (tag, tag, tag))
    for got, stored in zip(read_sample(*files), arrays, strict=True):
        np.testing.assert_array_equal(got, turned(stored, tag))
    np.testing.assert_array_equal(read_semantic_mask(files[1]), turned(arrays[1], tag))
    np.testing.assert_array_equal(read_instance_mask(files[2]), turned(arrays[2], tag))


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_sizes_say_whether_a_mask_was_drawn_on_stored_or_on_turned_pixels(tmp_path, tag):
    stored = scene()
    for drawn_on in (stored[1:], [turned(mask, tag) for mask in stored[1:]]):
        image, semantic, _ = read_sample(*put(tmp_path, "a", (stored[0], *drawn_on), (tag, 1, 1)))
        assert image.shape[:2] == (SIZE[1], SIZE[0])
        assert image[semantic == LANE_MARKING].min() == 230
    image, semantic, instance = read_sample(*put(tmp_path, "a", stored, (1, 1, tag)))
    assert image[instance == 1].min() == image[semantic == LANE_MARKING].min() == 230


@pytest.mark.parametrize(
    ("tags", "size", "names"),
    [
        ((2, 1, 1), SIZE, r"images.a\.png: EXIF orientation 2"),
        ((3, 1, 1), SIZE, r"images.a\.png: EXIF orientation 3"),
        ((1, 4, 1), SIZE, r"semantic_masks.a\.png: EXIF orientation 4"),
        ((1, 1, 3), SIZE, r"instance_masks.a\.png: EXIF orientation 3"),
        ((3, 3, 1), SIZE, r"images.a\.png: EXIF orientation 3"),
        ((6, 1, 1), (40, 40), r"images.a\.png: EXIF orientation 6"),
        ((6, 6, 8), SIZE, r"instance_masks.a\.png: EXIF orientation 8"),
    ],
)
def test_tags_that_leave_two_readings_are_refused_with_file_and_tag(tmp_path, tags, size, names):
    with pytest.raises(ValueError, match=names):
        read_sample(*put(tmp_path, "a", scene(*size), tags))


def test_a_strange_tag_never_stops_a_reader(tmp_path):
    def entry(tag, kind, count, value):
        return np.array([tag, kind], "<u2").tobytes() + np.array([count], "<u4").tobytes() + value

    turn = entry(0x112, 3, 1, b"\6\0\0\0")
    for number, odd in enumerate(
        (
            entry(0x11A, 9, 1, b"\xfb\xff\xff\xff"),
            entry(0x100, 2, 4, b"abc\0"),
            entry(0x102, 8, 1, b"\xfb\xff\0\0"),
            entry(700, 2, 4, b"abc\0"),
        )
    ):
        exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + turn + odd + bytes(4)
        Image.fromarray(scene()[0]).save(tmp_path / f"{number}.jpg", exif=exif)
        assert read_image(tmp_path / f"{number}.jpg").shape == (SIZE[1], SIZE[0], 3)
    for number, wrong in enumerate(
        (entry(0x112, 3, 1, b"\x09\0\0\0"), entry(0x112, 2, 2, b"6\0\0\0"), entry(0x112, 3, 1, bytes(4)), b"\x12\1")
    ):
        exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + wrong + bytes(4)
        Image.fromarray(scene()[0]).save(tmp_path / f"wrong{number}.jpg", exif=exif)
        assert read_image(tmp_path / f"wrong{number}.jpg").shape == (*SIZE, 3)


def png_with(*chunks):
    content = io.BytesIO()
    Image.fromarray(scene()[0]).save(content, "PNG")
    packed = b"".join(struct.pack(">L", len(c) - 4) + c + struct.pack(">L", zlib.crc32(c)) for c in chunks)
    return content.getvalue()[:33] + packed + content.getvalue()[33:]


def jpeg_with(*segments):
    content = io.BytesIO()
    Image.fromarray(scene()[0]).save(content, "JPEG")
    packed = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(s) + 2) + s for marker, s in segments)
    return content.getvalue()[:20] + packed + content.getvalue()[20:]


EXIF_6 = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
BOMB = zlib.compress(bytes(80 << 20), 1)


@pytest.mark.parametrize(
    "content",
    [
        png_with(b"zTXtComment\0\0" + BOMB), png_with(b"iTXtComment\0\1\0\0\0" + BOMB), png_with(b"iCCPx\0\0" + BOMB),
        png_with(b"zTXtComment\0\7?"), png_with(b"gAMA\0"), png_with(b"pHYs\0"), png_with(b"tRNS\0"),
        png_with(b"acTL\0"),
        jpeg_with((0xE0, b"JFIF\0")), jpeg_with((0xE2, b"ICC_PROFILE\0")), jpeg_with((0xEE, b"Adobe")),
    ],
)  # fmt: skip
def test_strange_metadata_never_stop_a_reader_and_the_orientation_counts_all_the_same(tmp_path, content):
    is_png = content.startswith(b"\x89PNG")
    if is_png:
        chunk = b"eXIf" + EXIF_6
        chunk = struct.pack(">L", len(EXIF_6)) + chunk + struct.pack(">L", zlib.crc32(chunk))
        content = content[:33] + chunk + content[33:]
    else:
        exif = b"Exif\0\0" + EXIF_6
        content = content[:20] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[20:]
    (tmp_path / "a.jpg").write_bytes(content)
    image = read_image(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - turned(scene()[0], 6)).max() <= (0 if is_png else 60)
    (tmp_path / "a.jpg").write_bytes(content[:-60])
    with pytest.raises(ValueError, match=r"a\.jpg: "):
        read_image(tmp_path / "a.jpg")


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("amp: off", "amp", "off"),
        ("amp: no", "amp", "off"),
        ('amp: "off"', "amp", "off"),
        ("class_weights: none", "class_weights", None),
        ("classes: None", "classes", None),
        ("pretrained: off", "pretrained", False),
        ("betas: [0.9, 1e-3]", "betas", (0.9, 1e-3)),
        ("epochs: 1e1", "epochs", 10),
        ("epochs: 1.0e+1", "epochs", 10),
        ("image_size: [6.4e1, 96]", "image_size", (64, 96)),
        ("lr: 1e-4\r", "lr", 1e-4),
        ("lr: 1e0", "lr", 1.0),
        ("amp: none", "amp", "off"),
        ("amp: ~", "amp", "off"),
        ("amp: FALSE", "amp", "off"),
        ("class_weights: off", "class_weights", None),
        ("class_weights: ~", "class_weights", None),
        ("pretrained: none", "pretrained", False),
        ("pretrained: ~", "pretrained", False),
        ("normalize_embeddings: off", "normalize_embeddings", False),
        ("num_classes: none", "num_classes", 6),
        ("lr: .5", "lr", 0.5),
        ("lr: +1E-3", "lr", 1e-3),
        ("betas: [.9, 9.99e-1]", "betas", (0.9, 0.999)),
        ("epochs: 010", "epochs", 10),
        ("epochs: 1_0", "epochs", 10),
        ("epochs: 0x10", "epochs", 16),
        ("epochs: 0o17", "epochs", 15),
        ("seed: 1_000", "seed", 1000),
        ("image_size: [064, 9.6e1]", "image_size", (64, 96)),
    ],
)
def test_yaml_means_what_it_says(tmp_path, line, name, value):
    (tmp_path / "c.yaml").write_bytes(f"backbone: tiny\r\n{line}\r\n".encode())
    got = getattr(LaneSegmentationConfig.from_yaml(tmp_path / "c.yaml"), name)
    assert got == value
    assert type(got) is type(value)


def test_yaml_changes_nothing_else():
    text = "a: '1e1'\nb: nonesuch\nc: 1e\nd: 10\ne: 10.0\nf: .inf\ng: 0x1e1"
    assert parse_yaml(text) == {"a": "1e1", "b": "nonesuch", "c": "1e", "d": 10, "e": 10.0, "f": np.inf, "g": 0x1E1}
    assert type(parse_yaml("10.0")) is float
    with pytest.raises(ValueError, match=r"epochs is 2\.5"):
        LaneSegmentationConfig.from_dict(parse_yaml("epochs: 2.5e0"))


def test_yaml_takes_no_time_date_or_word_for_a_number():
    text = "[1:30, 2024-01-01, 2024-01-01 10:00:00, 1__0, 1e, e1, 1.5.2, y, n, =, '010', \"off\"]"
    assert parse_yaml(text) == [
        "1:30", "2024-01-01", "2024-01-01 10:00:00", "1__0", "1e", "e1", "1.5.2", "y", "n", "=", "010", "off",
    ]  # fmt: skip
    nested = "a:\n- {b: 1e-3, c: [off, {d: 5e2}]}\n- [none, ~, .5]"
    assert parse_yaml(nested) == {"a": [{"b": 1e-3, "c": [False, {"d": 500}]}, [None, None, 0.5]]}


@pytest.mark.parametrize("text", ["lr: 1\nlr: 2", "a: {b: 1, b: 2}", "- {a: 1, 'a': 2}", "'10': 1\n10: 2"])
def test_a_key_that_stands_twice_is_an_error_that_names_it(text):
    with pytest.raises(yaml.YAMLError, match="stands twice"):
        parse_yaml(text)
    merged = "a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\nc: {<<: *b, y: 3}"
    assert parse_yaml(merged) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2, "y": 3}}


@pytest.mark.parametrize("text", ["lr: 1\nlr: 2", "lr: [", "[" * 5000, "lr: !!int x", "lr: 1:30", "lr: on", "5", "\0"])
def test_yaml_that_is_wrong_is_one_line_that_names_the_file(tmp_path, text, capsys):
    (tmp_path / "c.yaml").write_text(text)
    command = [
        "train",
        "lane",
        "--config",
        str(tmp_path / "c.yaml"),
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path),
    ]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "c.yaml: " in error


@pytest.mark.parametrize("ours", ["none", "None", "~", "", "null", "off", "no", "false", '"none"'])
def test_a_table_of_names_knows_text_only_and_leaves_out_what_is_none_or_off(tmp_path, ours):
    (tmp_path / "names.yaml").write_text(
        f"\ufeffcar: {ours}\nno: lane_marking\n010: Road\n2024-01-01: crosswalk\n", "utf-8"
    )
    names = {"car": None, "no": "lane_marking", "010": "Road", "2024-01-01": "crosswalk"}
    assert read_classes(tmp_path / "names.yaml") == {"names": names}


# --- Masks that mean nothing ------------------------------------------------------------------------------------------


def binary(arrays):
    image, semantic, instance = arrays
    return image, np.where(semantic == LANE_MARKING, 255, 0).astype(np.uint8), instance


def test_a_binary_mask_is_refused_in_a_line_that_says_what_255_means(tmp_path):
    with pytest.raises(ValueError, match=r"semantic_masks.a\.png: holds 0 and 255 only, and 255 means unlabelled"):
        read_sample(*put(tmp_path, "a", binary(scene())))


def test_binary_masks_without_instances_are_refused_before_training_and_get_no_score(tmp_path):
    image, semantic, instance = binary(scene())
    put(tmp_path / "val", "a", (image, semantic, 0 * instance))
    dataset = LaneInstanceDataset(tmp_path, "val")
    for use in (check_every_file, lambda data: evaluate(Segmenter(), data)):
        with pytest.raises(ValueError, match="every mask holds 0 and 255 only"):
            use(dataset)
    put(tmp_path / "val", "b", scene())  # beside labelled images, one without lanes may be partly unlabelled
    dataset = LaneInstanceDataset(tmp_path, "val")
    check_every_file(dataset)
    assert evaluate(Segmenter(), dataset)["miou"] < 0.9


def test_a_damaged_file_ends_an_evaluation_before_it_begins(tmp_path, monkeypatch, capsys):
    for name in "abc":
        files = put(tmp_path / "test", name, scene())
    files[2].write_bytes(files[2].read_bytes()[:60])
    monkeypatch.setattr("roadtopo_lib.inference.evaluation.evaluate", lambda *_, **__: pytest.fail("it has begun"))
    assert cli.main(["evaluate", "lane", "--model", str(SHIPPED), "--data", str(tmp_path)]) == 2
    assert "c.png: damaged or truncated image" in capsys.readouterr().err


def test_partly_unlabelled_masks_and_masks_of_background_are_read(tmp_path):
    image, semantic, instance = scene()
    semantic[0] = IGNORE_INDEX
    read_sample(*put(tmp_path, "a", (image, semantic, instance)))
    read_sample(*put(tmp_path, "b", (image, 0 * semantic, 0 * instance)))


def test_a_png_of_which_one_bit_has_changed_is_damaged(tmp_path):
    content = io.BytesIO()
    Image.fromarray(scene()[1]).save(content, "PNG")
    whole = content.getvalue()
    for at in range(43, len(whole) - 16, 3):  # the packed pixels
        (tmp_path / "a.png").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"a\.png: damaged or truncated image"):
            read_semantic_mask(tmp_path / "a.png")


def test_a_tiff_of_lossy_pixels_is_no_mask(tmp_path):
    mask = Image.fromarray(scene()[1])
    mask.save(tmp_path / "a.png", "TIFF", compression="tiff_lzw")
    assert (read_semantic_mask(tmp_path / "a.png") == scene()[1]).all()
    mask.save(tmp_path / "a.png", "TIFF", compression="jpeg")
    with pytest.raises(ValueError, match="this is a TIFF file, which invents ids"):
        read_semantic_mask(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_lossy_file_called_png_is_no_mask(tmp_path, kind, format):
    files = put(tmp_path, "a", scene())
    Image.fromarray(scene()[kind].astype(np.uint8)).save(files[kind], format=format)
    with pytest.raises(ValueError, match=rf"{files[kind].parent.name}.a\.png: this is a {format} file"):
        read_sample(*files)


def test_instances_off_their_classes_are_found():
    semantic = np.full((4, 8), ROAD)
    semantic[:, :2], semantic[:, 6:] = LANE_MARKING, CROSSWALK
    instance = np.zeros((4, 8), int)
    instance[:, :3], instance[:, 3:5], instance[:, 6:] = 1, 2, 7
    assert misplaced_instances(semantic, instance) == [2], "an instance mask may be wider than its class"
    assert misplaced_instances(semantic, 0 * instance) == []


# --- Console ----------------------------------------------------------------------------------------------------------


def run(code, *words, **options):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], env=environment, timeout=120, **options)


SAY = """
import sys
from roadtopo_lib.console import say
say('– ü')
say('ü', error=True)
open(sys.argv[1], 'w').write('x')
"""


def test_a_console_of_another_encoding_ends_nothing(tmp_path):
    done = run(SAY, tmp_path / "end", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"\\u2013 \\xfc\n", b"\\xfc\n")
    assert (tmp_path / "end").exists()


def test_closed_streams_end_nothing(tmp_path):
    inside = SAY.replace("say('–", "sys.stdout.close(); say('–")
    for code, shell in ((SAY, 'exec "$0" -c "$1" "$2" >&- 2>&-'), (inside, 'exec "$0" -c "$1" "$2"')):
        subprocess.run(["sh", "-c", shell, sys.executable, code, tmp_path / "end"], check=True)
        (tmp_path / "end").unlink()


def test_commands_do_their_work_with_closed_streams_and_a_poor_encoding(tmp_path):
    command = "from roadtopo_lib.app.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    for name, closed in (("a", ">&-"), ("b", "2>&-"), ("c", ">&- 2>&-")):
        words = ["synth", "--out", tmp_path / (name + " ü"), "--val", "2", "--size", "64x96", "--workers", "1"]
        shell = f'PYTHONIOENCODING=ascii:strict exec "$0" -c "$@" {closed}'
        subprocess.run(["sh", "-c", shell, sys.executable, command, *words], check=True, capture_output=True)
        assert len(list_samples(tmp_path / (name + " ü"), "val")[0]) == 2


def test_names_that_are_no_text_are_said(capsys):
    say("photo-\udcff.jpg")
    assert capsys.readouterr().out == "photo-\\udcff.jpg\n"


# --- Folders and videos -----------------------------------------------------------------------------------------------


def write_video(path, levels, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (160, 120))
    if not writer.isOpened():
        pytest.skip("this OpenCV build writes no video")
    for level in levels:
        writer.write(np.full((120, 160, 3), level, np.uint8))
    writer.release()


def test_frames_behind_a_damaged_one_are_read_and_the_missing_counted(tmp_path):
    write_video(tmp_path / "whole.avi", range(0, 200, 10))
    data = bytearray((tmp_path / "whole.avi").read_bytes())
    starts = [at for at in range(data.index(b"movi"), len(data) - 4) if data[at : at + 4] == b"00dc"]
    for at in starts[10:13]:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
    (tmp_path / "hole.avi").write_bytes(data)
    told = []
    assert len(list(read_video(tmp_path / "whole.avi", told.append))) == 20
    assert told == []
    frames = list(read_video(tmp_path / "hole.avi", told.append))
    assert [round(frame.mean() / 10) for frame in frames] == [*range(10), *range(13, 20)]
    assert told == [f"{tmp_path / 'hole.avi'}: 3 of 20 frames are missing or cannot be decoded"]
    names = [path.name for path, _ in infer_to_files(Segmenter(), tmp_path / "hole.avi", tmp_path / "out", False, str)]
    assert names[9:11] == ["hole_frame_000009_instances.png", "hole_frame_000013_instances.png"], "numbered by place"


def test_a_video_is_known_by_what_is_in_it(tmp_path):
    write_video(tmp_path / "clip.avi", (50, 100))
    clip = (tmp_path / "clip.avi").rename(tmp_path / "clip.dashcam")
    write_image(tmp_path / "a.png", scene()[0])
    (tmp_path / "a.png").rename(tmp_path / "picture.dat")
    (tmp_path / "notes.txt").write_text("no video")
    assert is_video(clip)
    assert not any(is_video(tmp_path / name) for name in ("picture.dat", "notes.txt", "nothing", "."))
    assert len(list(infer_to_files(Segmenter(), clip, tmp_path / "out"))) == 2


def test_two_clips_in_one_folder_do_not_mix(tmp_path):
    for name, count in (("first.avi", 3), ("second.avi", 2)):
        write_video(tmp_path / name, [50] * count)
        list(infer_to_files(Segmenter(), tmp_path / name, tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.json"))) == 5


def test_clips_of_one_name_do_not_mix_in_one_folder(tmp_path):
    for folder, levels in (("a", [50] * 3), ("b", [90] * 2)):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "clip.avi", levels)
    for _ in range(2):
        assert len(list(infer_to_files(Segmenter(), tmp_path / "a" / "clip.avi", tmp_path / "out"))) == 3
    with pytest.raises(ValueError, match="holds frames of another clip named clip"):
        list(infer_to_files(Segmenter(), tmp_path / "b" / "clip.avi", tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.json"))) == 3
    (tmp_path / "broken.avi").write_bytes(b"no video")
    with pytest.raises(ValueError, match="not a video"):
        list(infer_to_files(Segmenter(), tmp_path / "broken.avi", tmp_path / "none"))
    assert not (tmp_path / "none").exists()


DECODE = (
    "import sys; from roadtopo_lib.inference.files import read_video; print(len(list(read_video(sys.argv[1], print))))"
)


def test_the_decoder_of_a_damaged_clip_says_nothing_of_its_own(tmp_path):
    write_video(tmp_path / "clip.mp4", range(40, 80), "mp4v")
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    (tmp_path / "clip.mp4").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", DECODE, tmp_path / "clip.mp4"], capture_output=True, text=True, timeout=100
    )
    assert "frames are missing" in done.stdout
    assert done.stderr == ""


def test_a_segmenter_warns_of_a_damaged_file_in_a_folder_and_goes_on(tmp_path):
    config = LaneSegmentationConfig.preset("tiny")
    segmenter = LaneSegmenter(PixelModel(config.num_classes, config.embedding_dim), config, "cpu")
    for name in "abc":
        write_image(tmp_path / f"{name}.jpg", scene(64, 128)[0])
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    with pytest.warns(UserWarning, match=r"b\.jpg: damaged or truncated") as told:
        found = [Path(result["image_path"]).name for result in segmenter(tmp_path)]
    assert (found, len(told)) == (["a.jpg", "c.jpg"], 1)


def test_a_folder_goes_on_after_a_damaged_file_and_says_so_at_the_end(tmp_path, monkeypatch, capsys):
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.jpg", scene()[0])
    whole = (tmp_path / "in" / "b.jpg").read_bytes()
    (tmp_path / "in" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr("roadtopo_lib.confidence.load_segmenter", lambda *_: Segmenter())
    command = ["infer", "lane", "--model", "none", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.json")) == ["a", "c"]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "b.jpg: damaged or truncated" in error
    (tmp_path / "in" / "b.jpg").write_bytes(whole)
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "out" / "b.json").read_text())["lane_count"] == 0


# --- Memory, workers, portrait frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dbscan", "meanshift"])
def test_methods_of_quadratic_memory_see_a_bounded_number_of_pixels(monkeypatch, method):
    seen = []
    real = getattr(clustering, {"dbscan": "DBSCAN", "meanshift": "MeanShift"}[method])

    class Counting(real):
        def fit(self, x):
            seen.append(len(x))
            return super().fit(x)

    monkeypatch.setattr(clustering, real.__name__, Counting)
    monkeypatch.setattr(clustering, "QUADRATIC_POINTS", 300)
    centres = 5.0 * np.eye(4)[np.repeat([0, 1, 2], 400)]
    x = centres + np.random.default_rng(0).normal(0, 0.05, centres.shape)
    x = np.concatenate([x, np.full((1, 4), 90.0)])  # far from everything
    labels = clustering.cluster_embeddings(x, 1.5, method)
    assert seen == [300]
    assert [len(set(part)) for part in np.split(labels[:-1], 3)] == [1, 1, 1]
    assert len(set(labels[:-1])) == 3
    assert labels[-1] not in labels[:-1]


SCRIPT = """
from pathlib import Path
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
config = LaneSegmentationConfig.preset("tiny").replace(num_workers=1, batch_size=1, repeat_threshold=0)
def load():
    loader = build_loader(LaneInstanceDataset(DATA, "train", build_transform(config, False)), config, shuffle=False)
    print("batches", len(list(loader)))
"""


def test_workers_without_a_main_guard_are_refused_in_one_line(tmp_path):
    put(tmp_path / "train", "a", scene())
    text = SCRIPT.replace("DATA", repr(str(tmp_path)))
    for call, found, code in (
        ("load()", "mine.py, line 9: worker processes run this script again", 1),
        ('if __name__ == "__main__":\n    load()', "batches 1", 0),
    ):
        (tmp_path / "mine.py").write_text(f"{text}{call}\n")
        done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, timeout=200)
        assert done.returncode == code, done.stderr
        assert found in (done.stdout + done.stderr).splitlines()[-1]
    done = subprocess.run([sys.executable, "-"], input=text + "load()", capture_output=True, text=True, timeout=200)
    assert "from stdin: save it to a file" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("size", [(1280, 720), (640, 480), (480, 640), (200, 1600)])
@pytest.mark.parametrize("preset", ["tiny", "own-data", "finetune", "b0"])
def test_training_crops_reach_every_part_of_a_frame(size, preset):
    """Of 40 strips across and 40 down, each is seen by some crop of 200; nothing above ``crop_top`` is."""
    config = LaneSegmentationConfig.preset(preset).replace(flip_probability=0.0, image_size=(64, 128), color_jitter=0.0)
    transform = build_transform(config, train=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    place = np.stack([rows * 40 // size[0], columns * 40 // size[1]])
    code = (place[0] * 40 + place[1] + 1).astype(np.uint16)
    image = np.zeros((*size, 3), np.uint8)
    seen = np.concatenate([np.unique(transform(image, image[..., 0], code, seed)[2]) for seed in range(200)]) - 1
    top = round(40 * config.crop_top)
    assert set((seen // 40).tolist()) == set(range(top, 40))
    assert set((seen % 40).tolist()) == set(range(40))
