"""Settings check themselves and survive YAML."""

import math

import pytest

from roadtopo_lib.config import BACKBONES, LaneSegmentationConfig, check_margins_on_sphere, load_config


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
    for name in BACKBONES:
        config = LaneSegmentationConfig.preset(name)
        assert config.backbone == name
        config.to_yaml(tmp_path / f"{name}.yaml")
        assert LaneSegmentationConfig.from_yaml(tmp_path / f"{name}.yaml") == config
        assert load_config(name) == config


def test_a_file_holds_only_what_differs(tmp_path):
    (tmp_path / "short.yaml").write_text("backbone: tiny\npretrained: false\nlr: 6e-5\n")
    config = load_config(tmp_path / "short.yaml")
    assert config == LaneSegmentationConfig(backbone="tiny", pretrained=False, lr=6e-5)
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == LaneSegmentationConfig()


@pytest.mark.parametrize(
    "wrong",
    [
        {"backbone": "b6"},
        {"activation": "silu"},
        {"lr": 0},
        {"lr": "fast"},
        {"lr": math.nan},
        {"delta_dist": 0.4},
        {"embedding_dim": 2.5},
        {"num_classes": 1},
        {"epochs": True},
        {"pretrained": 3},
        {"normalize_embeddings": 1},
        {"betas": (0.9, 1.0)},
        {"betas": 0.9},
        {"image_size": (100, 256)},
        {"image_size": (128.0, 256)},
        {"crop_scale": 0},
        {"crop_top": -0.1},
        {"crop_top": 0.95},
        {"flip_probability": 1.5},
        {"amp": "fp8"},
        {"clustering": "kmeans"},
        {"class_weights": "yes"},
        {"accumulation_steps": 0},
    ],
)
def test_nonsense_is_refused_with_the_name_of_the_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LaneSegmentationConfig(**wrong)


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


def test_replace_checks_again():
    with pytest.raises(ValueError, match="batch_size"):
        LaneSegmentationConfig().replace(batch_size=0)


def test_a_config_as_a_dict_holds_what_yaml_and_json_know():
    values = LaneSegmentationConfig().to_dict()
    assert values["betas"] == [0.9, 0.999]
    assert values["image_size"] == [512, 1024]
    assert LaneSegmentationConfig.from_dict(values) == LaneSegmentationConfig()
