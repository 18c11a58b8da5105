"""Grad-CAM against captum's, its errors, and its two tests on a model whose answer is known."""

import pytest
import torch
from captum.attr import LayerGradCam
from small_model import PixelModel
from torch import nn

from roadtopo_lib.electives.grad_cam import deletion_curve, grad_cam, randomized_from_the_top
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.models import upsample_to
from roadtopo_lib.segformer import SegFormerModel

MODELS = {
    "segformer": (lambda: SegFormerModel("tiny", pretrained=False), "encoder.stages.3", "encoder.stages.1"),
    "unet": (UNet, "encoder.3", "decoder.1"),
    "pixel": (PixelModel, "heads", "encoder"),
}
"""Name → the model, the layer that ``grad_cam`` takes by itself, and another."""


class Red(nn.Module):
    """Class 1 is what is red, class 0 the rest; the second channel of ``colours`` has no part in it."""

    def __init__(self):
        super().__init__()
        self.colours, self.head = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.colours.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]
        self.head.weight.data = torch.tensor([[0.0, 0], [8.0, 0]])[..., None, None]

    def forward(self, images, upsample=True):
        return {"logits": self.head(self.colours(images)) - 4 * torch.eye(2)[1].view(1, 2, 1, 1)}


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def red_square():
    images = torch.full((1, 3, 8, 8), 0.2)
    images[:, 0] = 0.0
    images[:, 0, 2:4, 2:4] = 1.0
    return images, images[:, 0] == 1


@pytest.mark.parametrize("place", [None, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_map_is_captums(name, place, images):
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    layer = MODELS[name][place or 1]
    pixels = torch.arange(96).expand(2, 64, 96) < 40
    for chosen in (None, pixels):

        def score(x, chosen=chosen):
            logits = model(x)["logits"]
            return (logits if chosen is None else logits * chosen[:, None]).sum(dim=(2, 3))

        found = LayerGradCam(score, model.get_submodule(layer)).attribute(images, target=2, relu_attributions=True)
        expected = upsample_to(found.detach(), (64, 96))[:, 0]
        expected = expected / expected.amax(dim=(1, 2), keepdim=True)
        cam = grad_cam(model, images, 2, None if place is None else layer, chosen)
        assert cam.shape == (2, 64, 96)
        assert expected.max() == 1
        torch.testing.assert_close(cam, expected, atol=1e-5, rtol=0)


def test_the_model_stays_as_it_was(images):
    model = PixelModel().train()
    for weight in model.parameters():
        weight.requires_grad_(False)
    with torch.inference_mode():  # as where a segmenter calls
        assert grad_cam(model, images, 1).amax(dim=(1, 2)).tolist() == [1, 1]
    assert model.training
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parts_of_a_training_model_stay_frozen(images):
    model = UNet().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    grad_cam(model, images, 1)
    assert [module.training for module in model.modules()] == modes


def test_a_map_shows_what_raises_the_class_and_nothing_where_nothing_does(red_square):
    images, square = red_square
    cam = grad_cam(Red(), images, 1, "colours")
    assert torch.equal(cam, square.float())
    assert not grad_cam(Red(), images, 0, "colours").any()


@pytest.mark.parametrize(
    ("class_id", "layer", "message"),
    [
        (6, None, "class_id is 6, expected 0 to 5"),
        (-1, None, "class_id is -1"),
        (1, "lower", r"no layer 'lower'; its layers are encoder, encoder.act, heads"),
        (1, "encoder.act", "gives no map"),
    ],
)
def test_what_cannot_be_explained_is_refused(class_id, layer, message, images):
    model = PixelModel()
    model.encoder.act = nn.Identity()  # never called
    with pytest.raises(ValueError, match=message):
        grad_cam(model, images, class_id, layer)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_of_the_other_head_is_refused(images):
    model = SegFormerModel("tiny", pretrained=False)
    with pytest.raises(ValueError, match=r"embedding_head\.batch_norm has no part in the logits"):
        grad_cam(model, images, 1, "embedding_head.batch_norm")


def test_layers_are_shuffled_from_the_outputs_down_and_the_model_itself_stays():
    model = PixelModel()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    names, copies = zip(*randomized_from_the_top(model, seed=1), strict=True)
    assert names == ("heads", "encoder")
    assert torch.equal(copies[0].encoder.weight, before["encoder.weight"])
    assert not torch.equal(copies[1].encoder.weight, before["encoder.weight"])
    for name, weight in copies[1].state_dict().items():
        assert torch.equal(weight.flatten().sort().values, before[name].flatten().sort().values)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    again = [copy.state_dict() for _, copy in randomized_from_the_top(model, seed=1)]
    assert all(torch.equal(copies[1].state_dict()[name], weight) for name, weight in again[1].items())


def test_deleting_what_matters_first_makes_the_probability_fall_first(red_square):
    images, square = red_square
    model = Red()
    best = deletion_curve(model, images, 1, square.float(), square, steps=16)
    worst = deletion_curve(model, images, 1, -square.float(), square, steps=16)
    assert best[0] == worst[0] > 0.9
    assert best[1] < 0.1  # 4 of 64 pixels
    assert worst[14] > 0.9 > 0.1 > worst[16]
    with pytest.raises(ValueError, match="pixels is empty"):
        deletion_curve(model, images, 1, square.float(), ~square & square)
