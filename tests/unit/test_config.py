"""Settings check themselves and survive YAML."""

import math

import pytest
import torch

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
