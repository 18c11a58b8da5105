"""Settings check themselves and survive YAML."""

import json
import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from roadtopo_lib.config import BACKBONES, PRESETS, LaneSegmentationConfig, check_margins_on_sphere, load_config
from roadtopo_lib.labels import BINARY_CLASSES, CLASSES, ClassTable

ROWS = [
    {"id": 0, "name": "rest", "color": [0, 0, 0], "instances": None},
    {"id": 1, "name": "line", "color": [255, 0, 0], "instances": "lane"},
    {"id": 2, "name": "zebra", "color": [0, 0, 255], "instances": "crosswalk"},
]


def test_defaults_are_the_guides():
    config = LaneSegmentationConfig()
    assert (config.backbone, config.num_classes, config.embedding_dim) == ("b5", 6, 32)
    assert (config.semantic_weight, config.instance_weight) == (1.0, 0.5)
    assert (config.delta_var, config.delta_dist, config.gamma) == (0.5, 1.5, 0.001)
    assert (config.encoder_lr_scale, config.betas, config.weight_decay, config.max_grad_norm) == (
        0.1,
        (0.9, 0.999),
        0.01,
        1.0,
    )


def test_every_preset_is_valid_and_survives_yaml(tmp_path):
    assert set(PRESETS) == {*BACKBONES, "own-data", "finetune", "unet", "resunet", "night-ride", "night-ride-tiny"}
    for name in PRESETS:
        config = LaneSegmentationConfig.preset(name)
        assert config.backbone == (name if name in BACKBONES else "b2" if name == "night-ride" else "tiny")
        config.to_yaml(tmp_path / f"{name}.yaml")
        assert LaneSegmentationConfig.from_yaml(tmp_path / f"{name}.yaml") == config
        assert load_config(name) == config


def test_a_file_holds_only_what_differs(tmp_path):
    (tmp_path / "short.yaml").write_text("backbone: tiny\npretrained: false\nlr: 6e-5\n")
    config = load_config(tmp_path / "short.yaml")
    assert config == LaneSegmentationConfig(backbone="tiny", pretrained=False, lr=6e-5)
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == LaneSegmentationConfig()


NUMBER, FINITE, WHOLE = "a valid number", "a finite number", "a valid integer"
SIZE = "two multiples of 32, the encoder's last stride, up to 4096"
WEIGHTS = (
    "none, one of ('inverse', 'sqrt_inverse', 'effective_number', 'median_frequency'), "
    "or a mapping of class names to weights"
)
BETAS = "two numbers, each at least 0 and below 1"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("backbone", "b6", "'tiny', 'b0', 'b1', 'b2', 'b3', 'b4' or 'b5'"),
        ("activation", "silu", "'gelu', 'relu' or 'leaky_relu'"),
        ("lr", 0, "greater than 0"),
        ("lr", "0", "greater than 0"),
        ("lr", "fast", NUMBER),
        ("lr", True, NUMBER),
        ("lr", None, NUMBER),
        ("lr", math.nan, FINITE),
        ("lr", ".nan", NUMBER),
        ("lr", "nan", FINITE),
        ("lr", math.inf, FINITE),
        ("alpha", -1, "greater than or equal to 0"),
        ("delta_dist", 0.4, "more than delta_var = 0.5, or clusters overlap"),
        ("delta_dist", 0.5, "more than delta_var = 0.5, or clusters overlap"),
        ("embedding_dim", 2.5, WHOLE),
        ("embedding_dim", 32.0, WHOLE),
        ("embedding_dim", "32", WHOLE),
        ("num_classes", 1, "a whole number from 2 to 255"),
        ("num_classes", 256, "a whole number from 2 to 255"),
        ("num_classes", 2.0, "a whole number from 2 to 255"),
        ("epochs", True, WHOLE),
        ("seed", -1, "greater than or equal to 0"),
        ("accumulation_steps", 0, "greater than or equal to 1"),
        ("pretrained", 3, "true, false, a hub id or a folder"),
        ("normalize_embeddings", 1, "a valid boolean"),
        ("betas", (0.9, 1.0), BETAS),
        ("betas", (0.9, True), BETAS),
        ("betas", [0.9], BETAS),
        ("betas", 0.9, BETAS),
        ("image_size", (100, 256), SIZE),
        ("image_size", (0, 256), SIZE),
        ("image_size", (128.0, 256), SIZE),
        ("image_size", "32", SIZE),
        ("crop_scale", 0, "a number more than 0 and at most 1"),
        ("crop_top", -0.1, "a number between 0 and 0.9"),
        ("crop_top", 0.95, "a number between 0 and 0.9"),
        ("flip_probability", 1.5, "a number between 0 and 1"),
        ("amp", "fp8", "'auto', 'off', 'fp16' or 'bf16'"),
        ("clustering", "kmeans", "'fast', 'meanshift' or 'dbscan'"),
        ("class_weights", "yes", WEIGHTS),
        ("class_weights", {"road": -1}, WEIGHTS),
        ("class_weights", {2: 12.0}, WEIGHTS),
        ("class_weights", {"Lane Mark": 12.0}, f"names of {CLASSES.names}"),
        ("model", "", "an identifier"),
        ("model", "my model", "an identifier"),
        ("model", 3, "an identifier"),
        ("classes", "lane", "a list of mappings with id, name, color and instances"),
    ],
)
def test_nonsense_is_refused_in_one_line_with_setting_value_and_range(name, value, expected):
    with pytest.raises(ValueError, match=name) as refusal:
        LaneSegmentationConfig(**{name: value})
    assert type(refusal.value) is ValueError
    assert str(refusal.value) == f"{name} is {value!r}, expected {expected}"


def test_several_faults_are_named_together():
    with pytest.raises(ValueError, match="lr") as refusal:
        LaneSegmentationConfig(lr=0, betas=[1.0, 2.0], epochs="x")
    assert str(refusal.value).split("; ") == [
        "lr is 0, expected greater than 0",
        f"betas is [1.0, 2.0], expected {BETAS}",
        "epochs is 'x', expected a valid integer",
    ]


def test_whole_numbers_and_text_become_the_floats_that_they_stand_for():
    config = LaneSegmentationConfig(lr="6e-5", alpha=2, betas=[0, "9e-1"])
    assert (config.lr, config.alpha, config.betas) == (6e-5, 2.0, (0.0, 0.9))
    assert all(type(value) is float for value in (config.lr, config.alpha, *config.betas))


def test_a_config_is_frozen_compares_by_value_and_takes_settings_by_place():
    config = LaneSegmentationConfig("tiny", False, classes=ROWS)
    assert (config.backbone, config.pretrained) == ("tiny", False)
    assert len({config, LaneSegmentationConfig("tiny", False, classes=ROWS), LaneSegmentationConfig("tiny")}) == 2
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0


def test_the_night_ride_preset_has_the_documents_numbers():
    config = LaneSegmentationConfig.preset("night-ride")
    assert (config.backbone, config.pretrained, config.image_size, config.batch_size) == ("b2", True, (480, 480), 4)
    assert (config.lr, config.epochs, config.patience, config.amp) == (1e-4, 20, 20, "fp16")
    assert config.class_weights == {"Lane Mark": 12.0, "Moveable": 6.0}
    assert config.class_table.names == ("Undrivable", "Road", "Lane Mark", "Moveable", "My bike", "Rider")


def test_class_weights_by_name_are_copied_and_may_be_hashed():
    weights = {"road": 2, "crosswalk": "3"}
    config = LaneSegmentationConfig(class_weights=weights)
    weights["road"] = 5
    assert config.class_weights == {"road": 2.0, "crosswalk": 3.0}
    assert isinstance(hash(config), int)
    assert config != LaneSegmentationConfig()


def test_a_class_table_travels_with_the_config(tmp_path):
    config = LaneSegmentationConfig(model="unet", classes=ROWS)
    assert (config.num_classes, config.class_table) == (3, ClassTable.from_list(ROWS))
    config.to_yaml(tmp_path / "own.yaml")
    assert load_config(tmp_path / "own.yaml") == config
    values = json.loads(json.dumps(config.to_dict()))
    assert (values["classes"], values["model"], values["num_classes"]) == (ROWS, "unet", 3)
    assert LaneSegmentationConfig.from_dict(values) == config


def test_num_classes_follows_a_new_class_table_and_may_not_contradict_one():
    assert LaneSegmentationConfig().replace(classes=ROWS).num_classes == 3
    assert LaneSegmentationConfig(classes=ROWS).replace(lr=1.0).class_table.names == ("rest", "line", "zebra")
    assert LaneSegmentationConfig(num_classes=3, classes=ROWS).class_table.lane_ids == (1,)
    with pytest.raises(ValueError, match="num_classes is 4, expected 3"):
        LaneSegmentationConfig(num_classes=4, classes=ROWS)
    with pytest.raises(ValueError, match="num_classes is 2, expected 3"):
        LaneSegmentationConfig(classes=ROWS).replace(num_classes=2)


def test_without_a_table_only_6_and_2_classes_have_known_roles():
    assert LaneSegmentationConfig().class_table is CLASSES
    assert LaneSegmentationConfig(num_classes=2).class_table is BINARY_CLASSES
    config = LaneSegmentationConfig(num_classes=3)  # enough for a model, which needs no roles
    with pytest.raises(ValueError, match=r"num_classes is 3.*`classes`"):
        _ = config.class_table


def test_a_wrong_class_table_is_refused_by_setting_file_and_class(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "classes:\n- {id: 0, name: a, color: [0, 0, 0]}\n- {id: 5, name: b, color: [1, 1, 1]}"
    )
    with pytest.raises(ValueError, match=r"own\.yaml: classes: class 5 \('b'\): id is 5, expected 1"):
        load_config(tmp_path / "own.yaml")


def test_a_file_that_holds_no_mapping_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- lr")
    with pytest.raises(ValueError, match=r"list\.yaml: expected a mapping of settings, found list"):
        load_config(tmp_path / "list.yaml")


def test_margins_on_the_sphere_fit_up_to_the_simplex_bound():
    for instances in (2, 3, 5, 8):
        bound = math.sqrt(2 * instances / (instances - 1)) / 2
        check_margins_on_sphere(bound * 0.999, instances)
        with pytest.raises(ValueError, match="cannot be reached"):
            check_margins_on_sphere(bound * 1.001, instances)
    assert LaneSegmentationConfig(normalize_embeddings=True, delta_dist=0.7, delta_var=0.2).normalize_embeddings


@pytest.mark.parametrize("instances", range(2, 20))
def test_the_margin_that_the_refusal_names_is_accepted(instances):
    with pytest.raises(ValueError, match="Use delta_dist <=") as refusal:
        check_margins_on_sphere(1.5, instances)
    check_margins_on_sphere(float(str(refusal.value).split("<= ")[1].split(",")[0]), instances)


@pytest.mark.parametrize(
    ("dim", "instances", "reach"),
    [
        (1, 2, 2.0),  # the two points of the "sphere"
        (1, 3, 0.0),
        (2, 3, math.sqrt(3)),  # a triangle: polygon and simplex alike
        (2, 8, 2 * math.sin(math.pi / 8)),
        (3, 4, math.sqrt(8 / 3)),  # the tetrahedron
        (3, 6, math.sqrt(2)),  # the octahedron; with five points no pair is further apart, either
        (3, 5, math.sqrt(2)),
        (8, 8, math.sqrt(16 / 7)),
    ],
)
def test_fewer_dimensions_leave_less_room_on_the_sphere(dim, instances, reach):
    check_margins_on_sphere(reach / 2 * 0.999, instances, dim)
    with pytest.raises(ValueError, match=f"{instances} means on the unit sphere are at most {reach:.2f} apart"):
        check_margins_on_sphere(reach / 2 * 1.001 + 1e-9, instances, dim)


@pytest.mark.parametrize(("dim", "instances"), [(2, 3), (2, 5), (2, 8), (3, 4), (3, 6), (4, 8)])
def test_the_sphere_has_room_for_the_largest_margin_that_is_accepted_and_for_no_more(dim, instances):
    """Points that repel each other, from ten starts: the best of them comes within 2 % of the bound, none beyond it."""
    points = torch.randn(10, instances, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.03)
    pair = torch.ones(instances, instances).triu(1).bool()
    for sharpness in range(5, 305):  # the smooth minimum over the pairs comes ever closer to the minimum
        on_sphere = torch.nn.functional.normalize(points, dim=2)
        gaps = torch.linalg.vector_norm(on_sphere[:, :, None] - on_sphere[:, None], dim=3)[:, pair]  # (10, pairs)
        optimizer.zero_grad()
        (torch.logsumexp(-sharpness * gaps, dim=1) / sharpness).sum().backward()
        optimizer.step()
    reached = gaps.amin(dim=1).max().item()
    check_margins_on_sphere(reached / 2 * 0.9999, instances, dim)
    with pytest.raises(ValueError, match="cannot be reached"):
        check_margins_on_sphere(reached / 2 * 1.02, instances, dim)


def test_a_config_whose_embeddings_have_too_few_dimensions_for_its_margins_is_refused():
    described = {"normalize_embeddings": True, "delta_dist": 0.7, "delta_var": 0.2, "max_instances": 8}
    assert LaneSegmentationConfig(embedding_dim=7, **described).embedding_dim == 7
    with pytest.raises(ValueError, match=r"8 means on the unit sphere are at most 0\.77 apart"):
        LaneSegmentationConfig(embedding_dim=2, **described)


def test_replace_checks_again():
    with pytest.raises(ValueError, match="batch_size"):
        LaneSegmentationConfig().replace(batch_size=0)


def test_a_config_as_a_dict_holds_what_yaml_and_json_know():
    values = LaneSegmentationConfig().to_dict()
    assert values["betas"] == [0.9, 0.999]
    assert values["image_size"] == [512, 1024]
    assert LaneSegmentationConfig.from_dict(values) == LaneSegmentationConfig()


def test_yamls_off_is_no_false(tmp_path):
    (tmp_path / "lane.yaml").write_text("amp: off\n")
    assert LaneSegmentationConfig.from_yaml(tmp_path / "lane.yaml").amp == "off"


@pytest.mark.parametrize("name", ["seed", "epochs", "batch_size"])
def test_numbers_beyond_reason_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} is 10+, expected"):
        LaneSegmentationConfig(**{name: 10**30})
