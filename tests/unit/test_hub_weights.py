"""Weights in the hub's layout: what arrives, what is new, and how each fault ends."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from transformers import SegformerForSemanticSegmentation

from roadtopo_lib.segformer import ARCHITECTURES, SegFormerModel


def network_of(backbone, **changes):
    """What transformers' users have: a randomly initialised network of 19 classes."""
    config = SegFormerModel(backbone, num_classes=19, pretrained=False).encoder.config
    for name, value in changes.items():
        setattr(config, name, value)
    return SegformerForSemanticSegmentation(config)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = network_of("tiny")
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.uniform_()  # what only training changes must arrive, too
    return network


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "weights")


def arrived(model, network):
    """Names of the tensors that are bit-equal in both."""
    ours = {f"segformer.{name}": value for name, value in model.encoder.state_dict().items()}
    ours |= {f"decode_head.{name}": value for name, value in model.semantic_head.state_dict().items()}
    theirs = network.state_dict()
    assert ours.keys() == theirs.keys()
    return {name for name in ours if torch.equal(ours[name], theirs[name])}


CLASSIFIER = {"decode_head.classifier.weight", "decode_head.classifier.bias"}


def test_every_tensor_but_the_classifier_arrives_bit_for_bit(network, folder):
    model = SegFormerModel("tiny", pretrained=str(folder))
    assert arrived(model, network) == network.state_dict().keys() - CLASSIFIER
    assert model.semantic_head.classifier.weight.shape[0] == 6
    same = SegFormerModel("tiny", num_classes=19, pretrained=str(folder))
    assert arrived(same, network) == network.state_dict().keys()


def test_the_embedding_head_is_new_with_every_seed(folder):
    torch.manual_seed(0)
    one = SegFormerModel("tiny", pretrained=str(folder))
    torch.manual_seed(1)
    two = SegFormerModel("tiny", pretrained=str(folder))
    for (name, a), b in zip(one.embedding_head.named_parameters(), two.embedding_head.parameters(), strict=True):
        if a.ndim > 1:
            assert not torch.equal(a, b), name
    for name, a in one.embedding_head.state_dict().items():
        if name.endswith("weight") and a.ndim > 1 and a.shape == one.semantic_head.state_dict()[name].shape:
            assert not torch.equal(a, one.semantic_head.state_dict()[name]), name


def test_b2_takes_a_folder_of_its_size(tmp_path):
    network = network_of("b2")
    network.save_pretrained(tmp_path)
    model = SegFormerModel("b2", pretrained=str(tmp_path))
    assert arrived(model, network) == network.state_dict().keys() - CLASSIFIER


def test_parts_and_a_pickle_of_tensors_are_read(network, tmp_path):
    network.save_pretrained(tmp_path / "parts", max_shard_size="1MB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    network.config.save_pretrained(tmp_path / "pickle")
    torch.save(network.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    for name in ("parts", "pickle"):
        model = SegFormerModel("tiny", pretrained=str(tmp_path / name))
        assert arrived(model, network) == network.state_dict().keys() - CLASSIFIER


def test_weights_in_half_precision_become_float32(network, tmp_path):
    network_of("tiny").half().save_pretrained(tmp_path)
    model = SegFormerModel("tiny", pretrained=str(tmp_path))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model(torch.rand(1, 3, 32, 32))["logits"].isfinite().all()


def test_an_encoder_alone_gets_two_new_heads(network, folder):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    encoder = {name: value for name, value in tensors.items() if not name.startswith("decode_head.")}
    safetensors.torch.save_file(encoder, path, {"format": "pt"})
    model = SegFormerModel("tiny", pretrained=str(folder))
    assert {name for name in network.state_dict() if name.startswith("segformer.")} <= arrived(model, network)


class Code:
    def __reduce__(self):
        return pytest.fail, ("the pickle ran",)


def change_tensors(path, change):
    tensors = safetensors.torch.load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("segformer.") and tensors[name].ndim > 1)
    change(tensors, name)
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def spoil(folder, fault):
    """Damages a folder."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    match fault:
        case "no folder":
            shutil.rmtree(folder)
        case "no config":
            config.unlink()
        case "no weights":
            weights.unlink()
        case "not JSON":
            config.write_text('{"depths": ')
        case "a list":
            config.write_text("[]")
        case "deep JSON":
            config.write_text("[" * 100_000)
        case "of another kind":
            config.write_text('{"model_type": "bert"}')
        case "an activation that nobody has":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "nonsense"}))
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:100_000])
        case "a pickle":
            weights.unlink()
            torch.save({"x": Code()}, folder / "pytorch_model.bin")
        case "a missing tensor":
            change_tensors(weights, lambda tensors, name: tensors.pop(name))
        case "a tensor of another shape":
            change_tensors(weights, lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}))
        case "NaN":
            change_tensors(weights, lambda tensors, name: tensors[name].fill_(float("nan")))
        case "weights of another size":
            network_of("tiny", decoder_hidden_size=96).save_pretrained(folder.parent / "other")
            shutil.copy(folder.parent / "other" / weights.name, weights)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("no folder", FileNotFoundError, "no such folder, expected one in the hub's layout"),
        ("no config", FileNotFoundError, "config.json: no such file"),
        ("no weights", FileNotFoundError, "holds none of model.safetensors"),
        ("not JSON", ValueError, "model_type is None, expected 'segformer'"),
        ("a list", ValueError, "model_type is None, expected 'segformer'"),
        ("deep JSON", ValueError, "model_type is None, expected 'segformer'"),
        ("of another kind", ValueError, "model_type is 'bert', expected 'segformer'"),
        ("an activation that nobody has", ValueError, "cannot be read .*nonsense"),
        ("cut off", ValueError, "cannot be read .*SafetensorError"),
        ("a pickle", ValueError, "a pickle that holds more than tensors, and might run code; refused"),
        ("a missing tensor", ValueError, "missing or of another shape: 1, segformer.* only the classifier may be new"),
        ("a tensor of another shape", ValueError, "missing or of another shape: 1, segformer"),
        ("NaN", ValueError, "NaN or infinite weights in segformer"),
        ("weights of another size", ValueError, "missing or of another shape: .* only the classifier may be new"),
    ],
)
def test_each_fault_of_a_folder_is_one_sentence_that_names_it(folder, monkeypatch, fault, kind, told):
    monkeypatch.setattr("roadtopo_lib.hub.ask_hub", lambda endpoint: pytest.fail("a folder is no matter for the hub"))
    spoil(folder, fault)
    with pytest.raises(kind, match=told) as error:
        SegFormerModel("tiny", pretrained=str(folder))
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_folder_of_another_size_is_refused_before_its_weights_are_read(folder, monkeypatch):
    read = "transformers.SegformerForSemanticSegmentation.from_pretrained"
    monkeypatch.setattr(read, lambda *_, **__: pytest.fail("reads the weights"))
    depths = ARCHITECTURES["b2"]["depths"]
    with pytest.raises(ValueError, match=rf"depths is \[2, 1, 1, 1\], but backbone 'b2' has \{depths}"):
        SegFormerModel("b2", pretrained=str(folder))
