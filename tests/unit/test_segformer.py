"""The model's shapes, sizes, normalisation, groups and files."""

import socket

import pytest
import torch
import torch.nn.functional as F
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from roadtopo_lib.files import save_weights
from roadtopo_lib.losses import gather_embeddings
from roadtopo_lib.segformer import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, SegFormerModel, hub_id, initialize


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegFormerModel("tiny", pretrained=False).eval()


def test_outputs_are_at_input_size_and_at_a_quarter_on_request(model):
    images = torch.rand(2, 3, 64, 96)
    full, quarter = model(images), model(images, upsample=False)
    assert full["logits"].shape == (2, 6, 64, 96)
    assert full["embeddings"].shape == (2, 32, 64, 96)
    assert quarter["logits"].shape == (2, 6, 16, 24)
    assert quarter["embeddings"].shape == (2, 32, 16, 24)
    upsampled = F.interpolate(quarter["logits"], size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(full["logits"], upsampled)


def test_sizes_that_are_no_multiple_of_the_stride_come_back_as_they_were(model):
    assert model(torch.rand(1, 3, 45, 77))["embeddings"].shape == (1, 32, 45, 77)


def test_tiny_has_at_most_a_million_and_a_half_parameters(model):
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000


@pytest.mark.parametrize(
    ("backbone", "millions"), [("b0", 3.72), ("b1", 13.68), ("b2", 27.35), ("b3", 47.23), ("b4", 64.00), ("b5", 84.60)]
)
def test_published_sizes_with_a_six_class_head(backbone, millions):
    with torch.device("meta"):
        network = SegFormerModel(backbone, pretrained=False)
    embedding_head = sum(p.numel() for p in network.embedding_head.parameters())
    total = sum(p.numel() for p in network.parameters()) - embedding_head
    assert round(total / 1e6, 2) == pytest.approx(millions, abs=0.005)


def test_b5_has_the_depths_of_b5_not_those_of_b4():
    assert ARCHITECTURES["b5"]["depths"] == [3, 6, 40, 3]
    assert ARCHITECTURES["b4"]["depths"] == [3, 8, 27, 3]


def test_the_model_owns_the_normalisation(model):
    images = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    features = (images - mean) / std
    for stage in model.encoder.stages:
        features = stage(features)
    torch.testing.assert_close(model.encode(images)[-1], features)
    assert "pixel_mean" in model.state_dict()
    assert "pixel_mean" not in dict(model.named_parameters())


def test_the_encoder_agrees_with_transformers_own_forward(model):
    images = torch.rand(1, 3, 64, 64)
    normalised = (images - model.pixel_mean) / model.pixel_std
    expected = model.encoder(normalised).last_hidden_state
    torch.testing.assert_close(model.encode(images)[-1], expected)


def test_the_heads_compute_what_transformers_own_head_computes():
    torch.manual_seed(0)
    model = SegFormerModel("b0", pretrained=False).train()
    model.semantic_head.dropout.p = 0.0
    theirs = SegformerDecodeHead(model.semantic_head.config).train()
    theirs.load_state_dict(model.semantic_head.state_dict())
    theirs.dropout.p = 0.0
    maps = [torch.randn(2, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(ARCHITECTURES["b0"]["hidden_sizes"])]
    results = []
    for head in (model.semantic_head, theirs):
        logits = head(maps)
        logits.square().mean().backward()
        results.append((logits, {name: p.grad for name, p in head.named_parameters()}))
    (ours, our_gradients), (reference, gradients) = results
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    for name in gradients:
        if not name.endswith("proj.bias"):  # BatchNorm takes the mean away: these gradients are rounding noise
            torch.testing.assert_close(our_gradients[name], gradients[name], rtol=1e-3, atol=1e-5)


def test_predict_keeps_the_mode_and_makes_no_gradients(model):
    model.train()
    outputs = model.predict(torch.rand(1, 3, 64, 64))
    assert model.training
    model.eval()
    assert not outputs["logits"].requires_grad
    assert torch.equal(outputs["semantic"], outputs["logits"].argmax(1))


def test_parameter_groups_cover_every_parameter_once_at_two_rates(model):
    groups = {group["name"]: group for group in model.parameter_groups(0.1)}
    assert {name: (group["lr_scale"], group["matrices"]) for name, group in groups.items()} == {
        "encoder": (0.1, False),
        "encoder matrices": (0.1, True),
        "heads": (1.0, False),
        "heads matrices": (1.0, True),
    }
    ids = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    encoder = groups["encoder"]["params"] + groups["encoder matrices"]["params"]
    assert {id(p) for p in encoder} == {id(p) for p in model.encoder.parameters()}
    assert [list(g) for g in model.get_trainable_params(0.1)] == [list(g) for g in groups.values()]  # the guide's name


def test_searching_names_for_encoder_within_transformers_finds_nothing(model):
    network = SegformerForSemanticSegmentation(model.encoder.config)
    assert not [name for name, _ in network.named_parameters() if "encoder" in name]


def test_an_empty_parameter_group_is_an_error():
    frozen = SegFormerModel("tiny", pretrained=False)
    frozen.encoder.requires_grad_(False)
    with pytest.raises(RuntimeError, match="encoder 0"):
        frozen.parameter_groups()


def test_a_parameter_outside_encoder_and_heads_is_an_error():
    extended = SegFormerModel("tiny", pretrained=False)
    extended.temperature = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="do not cover the model"):
        extended.parameter_groups()


@pytest.mark.parametrize("channels", [16, 64, 256])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_new_convolution_with_relu_keeps_the_strength_of_the_signal(channels, depthwise):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(channels, channels, 3, groups=channels if depthwise else 1)
    initialize(convolution)
    signal = torch.randn(4, channels, 16, 16)
    strength = convolution(signal).relu().square().mean() / signal.square().mean()
    assert 0.6 < strength < 1.6


def test_normalised_embeddings_have_length_one():
    model = SegFormerModel("tiny", pretrained=False, normalize_embeddings=True).eval()
    for upsample in (True, False):
        lengths = model(torch.rand(1, 3, 64, 64), upsample=upsample)["embeddings"].norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (45, 77)])
def test_the_vectors_read_at_pixels_are_those_that_the_full_size_output_holds(normalize, size):
    torch.manual_seed(0)
    model = SegFormerModel("tiny", pretrained=False, normalize_embeddings=normalize).eval()
    images = torch.rand(2, 3, *size)
    mask = torch.randint(0, 4, (2, *size))
    image, row, column = mask.nonzero(as_tuple=True)
    full, quarter = (model(images, upsample=upsample)["embeddings"].detach() for upsample in (True, False))
    read = gather_embeddings(quarter, image, row, column, size)
    if normalize:  # the same directions; the full-size ones have length 1 everywhere
        read = torch.nn.functional.normalize(read)
    torch.testing.assert_close(read, full[image, :, row, column], atol=1e-5, rtol=0)


def test_a_saved_model_comes_back_equal(model, tmp_path):
    model.save(tmp_path / "m.safetensors", note="x")
    loaded = SegFormerModel.load(tmp_path / "m.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert not loaded.training
    torch.testing.assert_close(loaded(images)["embeddings"], model(images)["embeddings"], rtol=0, atol=0)


def test_pretrained_weights_load_from_a_folder_and_only_the_classifier_is_new(tmp_path):
    torch.manual_seed(1)
    config = SegFormerModel("tiny", num_classes=19, pretrained=False).encoder.config
    config.num_labels = 19
    cityscapes_like = SegformerForSemanticSegmentation(config)
    cityscapes_like.save_pretrained(tmp_path)
    model = SegFormerModel("tiny", pretrained=str(tmp_path))
    ours = {f"segformer.{k}": v for k, v in model.encoder.state_dict().items()}
    ours |= {f"decode_head.{k}": v for k, v in model.semantic_head.state_dict().items()}
    different = [name for name, value in cityscapes_like.state_dict().items() if value.shape != ours[name].shape]
    assert sorted(different) == ["decode_head.classifier.bias", "decode_head.classifier.weight"]
    for name, value in cityscapes_like.state_dict().items():
        if name not in different:
            torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


class TestActivation:
    def test_it_is_saved_with_the_model_and_decides_what_the_model_answers(self, model, tmp_path):
        relu = SegFormerModel("tiny", pretrained=False, activation="relu").eval()
        torch.nn.init.normal_(relu.encoder.stages[0].blocks[0].mlp.fc2.weight)  # zero at first: nothing would show
        relu.save(tmp_path / "relu.safetensors")
        loaded = SegFormerModel.load(tmp_path / "relu.safetensors")
        same_weights = SegFormerModel("tiny", pretrained=False).eval()
        same_weights.load_state_dict(relu.state_dict())
        images = torch.rand(1, 3, 64, 64)
        assert loaded.activation == "relu"
        torch.testing.assert_close(loaded(images), relu(images), rtol=0, atol=0)
        assert not torch.allclose(same_weights(images)["logits"], relu(images)["logits"])

    def test_a_file_that_does_not_name_one_holds_gelu(self, model, tmp_path):
        settings = model.settings()
        assert settings.pop("activation") == "gelu"
        save_weights(tmp_path / "old.safetensors", "segformer", model.state_dict(), settings)
        assert SegFormerModel.load(tmp_path / "old.safetensors").activation == "gelu"

    def test_pretrained_weights_bring_their_own(self, tmp_path):
        config = SegFormerModel("tiny", pretrained=False, activation="relu").encoder.config
        SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
        assert SegFormerModel("tiny", pretrained=str(tmp_path), activation="gelu").activation == "relu"

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(ValueError, match="activation is 'silu', expected one of"):
            SegFormerModel("tiny", pretrained=False, activation="silu")


def test_weights_of_another_architecture_are_refused(tmp_path):
    SegformerForSemanticSegmentation(SegFormerModel("tiny", pretrained=False).encoder.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"depths is .* but backbone 'b0' has"):
        SegFormerModel("b0", pretrained=str(tmp_path))


def test_without_a_network_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match=r"cannot load .*segformer-b0.*use backbone='tiny'.*FOLDER"):
        SegFormerModel("b0", pretrained=True)


def save_as_if_published(folder, backbone):
    """Writes what the hub would send for this size, with random weights."""
    config = SegFormerModel(backbone, num_classes=19, pretrained=False).encoder.config
    SegformerForSemanticSegmentation(config).save_pretrained(folder)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, in a world where nobody forbids the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_unreachable_hub_is_asked_once_and_quickly(hub_cache, monkeypatch, caplog):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits for another try"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/{filename}")
    with pytest.raises(ConnectionError, match=r"cannot load .*segformer-b0.*use backbone='tiny'.*FOLDER"):
        SegFormerModel("b0", pretrained=True)
    assert [record.name for record in caplog.records] == ["roadtopo_lib.segformer"], "only the licence notice"


def test_weights_that_were_downloaded_before_need_no_network(hub_cache, monkeypatch):
    repository = hub_cache / f"models--{hub_id('b0').replace('/', '--')}"
    save_as_if_published(repository / "snapshots" / ("a" * 40), "b0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asks the hub"))
    assert SegFormerModel("b0", pretrained=True).backbone == "b0"


def test_weights_that_are_not_on_disk_are_downloaded_where_the_hub_answers(hub_cache, tmp_path, monkeypatch):
    save_as_if_published(tmp_path / "published", "b0")
    load = SegformerForSemanticSegmentation.from_pretrained

    def from_pretrained(name, local_files_only=False, **settings):
        return load(name if local_files_only else tmp_path / "published", **settings, local_files_only=True)

    monkeypatch.setattr(SegformerForSemanticSegmentation, "from_pretrained", from_pretrained)
    monkeypatch.setattr("roadtopo_lib.hub.ask_hub", lambda endpoint: None)
    assert SegFormerModel("b0", pretrained=True).backbone == "b0"


def test_loading_published_weights_states_their_licence(monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError):
        SegFormerModel("b1", pretrained=True)
    assert "research and evaluation only" in caplog.text
    assert hub_id("b1") in caplog.text


@pytest.mark.parametrize(
    "images", [torch.rand(3, 64, 64), torch.rand(1, 1, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)]
)
def test_images_of_another_shape_or_type_are_refused(model, images):
    with pytest.raises(ValueError, match="images must be float"):
        model(images)


def test_tiny_has_no_published_weights():
    with pytest.raises(ValueError, match="no published weights"):
        SegFormerModel("tiny", pretrained=True)


def test_the_blocks_of_a_new_encoder_begin_by_adding_nothing():
    torch.manual_seed(0)
    stage = SegFormerModel("tiny", pretrained=False).encoder.stages[0]
    tokens = torch.randn(1, 64, 8, 8).flatten(2).transpose(1, 2)  # (1, 8·8, 64)
    for block in stage.blocks:
        torch.testing.assert_close(block(tokens, 8, 8), tokens)


def test_one_step_wakes_the_silent_blocks():
    torch.manual_seed(0)
    model = SegFormerModel("tiny", pretrained=False)
    model(torch.rand(2, 3, 32, 64))["logits"].square().mean().backward()
    for stage in model.encoder.stages:
        for block in stage.blocks:
            assert block.attention.o_proj.weight.grad.abs().max() > 0
            assert block.mlp.fc2.weight.grad.abs().max() > 0


def test_settings_in_the_file_that_no_model_has_are_refused_by_file_name(tmp_path):
    model = SegFormerModel("tiny", pretrained=False)
    settings = {**model.settings(), "backbone": "b9"}
    save_weights(tmp_path / "odd.safetensors", "segformer", model.state_dict(), settings)
    with pytest.raises(ValueError, match=r"odd\.safetensors: .*b9"):
        SegFormerModel.load(tmp_path / "odd.safetensors")
