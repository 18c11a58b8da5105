"""U-Net and ResUNet: the contract of a lane model, any size, normalisations, one channel, deep supervision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_contracts import CONFIG, data  # noqa: F401  a fixture
from torch import nn

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.electives.unet import DeepSupervision, ResUNet, UNet
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.labels import table_for
from roadtopo_lib.losses import CombinedLoss, DiceLoss, LaneCriterion
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

BOTH = pytest.mark.parametrize("family", [UNet, ResUNet])
NORMS = pytest.mark.parametrize("norm", ["batch", "group", "instance"])


def images(batch=2, height=48, width=64, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@BOTH
def test_it_trains_is_stored_and_finds_lanes_as_any_lane_model(family, data, tmp_path):  # noqa: F811
    config = CONFIG.replace(model=family.kind, epochs=12, lr=5e-3, muon_lr=0.02, batch_size=2)
    train_lane_model(config, data, tmp_path / "run", device="cpu")
    assert type(models.load(tmp_path / "run" / "best.safetensors")) is family
    segmenter = LaneSegmenter.from_checkpoint(tmp_path / "run" / "best.safetensors", device="cpu")
    scores = evaluate(segmenter, LaneInstanceDataset(data, "val"))
    assert scores["lane_f1"] > 0.9
    assert scores["instance_f1"] > 0.9


@BOTH
@NORMS
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_outputs_have_the_images_size_whatever_it_is(family, norm, upsampling):
    model = family(5, 3, (8, 16, 24), norm, upsampling)
    for height, width in ((16, 16), (37, 51), (1, 100), (5, 3)):
        outputs = model(images(2, height, width))
        assert outputs["logits"].shape == (2, 5, height, width)
        assert outputs["embeddings"].shape == (2, 3, height, width)


@BOTH
def test_padding_inside_changes_nothing_but_the_edge(family):
    model = family(4, 2, (8, 16), "group").eval()
    wide = images(1, 32, 80)
    with torch.no_grad():  # both sizes fit the stride; 79 columns are padded to 80
        whole, cut = model(wide)["logits"], model(wide[..., :79])["logits"]
    group_norm_sees_all = (whole[..., :60] - cut[..., :60]).abs().max()
    assert group_norm_sees_all < 0.05 * whole.abs().max()
    model = family(4, 2, (8, 16), "batch").eval()
    with torch.no_grad():
        whole, cut = model(wide)["logits"], model(wide[..., :79])["logits"]
    torch.testing.assert_close(whole[..., :60], cut[..., :60])


@BOTH
@NORMS
def test_only_batch_normalisation_lets_images_of_a_batch_meet(family, norm):
    model = family(3, 2, (8, 16), norm)
    pair = images(2)
    alone, together = model(pair[:1])["logits"], model(pair)["logits"][:1]
    assert torch.allclose(alone, together, atol=1e-4) == (norm != "batch")


def test_the_layers_are_those_that_the_papers_describe():
    plain, residual = UNet(widths=(8, 16)), ResUNet(widths=(8, 16))
    assert [type(m) for m in plain.encoder[1]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [type(m) for m in residual.encoder[1].branch] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * 2
    x = images(1, 8, 8)
    first = residual.encoder[0]
    nn.init.zeros_(first.branch[-1].weight)
    nn.init.zeros_(first.branch[-1].bias)
    torch.testing.assert_close(first(x), first.shortcut(x))  # a silent branch leaves the shortcut


class WrittenOut(nn.Module):
    """The residual block whose activation stands behind the sum, as the compendium lists it."""

    def __init__(self, c, c_out):
        super().__init__()
        self.conv1, self.n1 = nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.n2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.proj = None if c == c_out else nn.Conv2d(c, c_out, 1, bias=False)

    def forward(self, x):
        out = self.n2(self.conv2(torch.relu(self.n1(self.conv1(x)))))
        return torch.relu(out + (x if self.proj is None else self.proj(x)))


@pytest.mark.parametrize("inputs", [3, 8])
def test_without_preactivation_a_block_is_that_of_the_first_residual_networks(inputs):
    block, written = ResUNet(widths=(8, 16), preactivation=False).block(inputs, 8, "batch"), WrittenOut(inputs, 8)
    for own, other in zip(block.parameters(), written.parameters(), strict=True):
        other.data = own.data
    x = torch.randn(2, inputs, 9, 7)
    torch.testing.assert_close(block(x), written(x))


def test_a_stored_resunet_keeps_its_order(tmp_path):
    for preactivation in (True, False):
        model = ResUNet(2, 0, (8, 16), preactivation=preactivation).eval()
        model.save(tmp_path / "m.safetensors")
        again = models.load(tmp_path / "m.safetensors").eval()
        assert again.settings()["preactivation"] == preactivation
        torch.testing.assert_close(again(images())["logits"], model(images())["logits"])
    settings = {name: value for name, value in model.settings().items() if name != "preactivation"}
    assert ResUNet.from_settings(settings).settings()["preactivation"]  # files from before there was a choice


def test_skips_bring_the_images_detail_to_the_head():
    model = UNet(2, 0, (8, 16, 24)).eval()
    pixels = images(1).requires_grad_()
    model(pixels)["logits"][0, 0, 20, 20].backward()
    reached = pixels.grad[0].abs().sum(dim=0).nonzero()
    assert (reached.min(dim=0).values < 10).all()  # through the coarsest map
    with torch.no_grad():
        for enlarge in model.upsamplers:
            enlarge.weight.zero_()
    pixels.grad = None
    model(pixels)["logits"][0, 0, 20, 20].backward()
    reached = pixels.grad[0].abs().sum(dim=0).nonzero()
    assert reached.min() >= 20 - 4  # four 3×3 convolutions at full resolution: what the first skip alone brings
    assert reached.max() <= 20 + 4


def test_both_are_as_large_as_segformer_tiny():
    size = {m: sum(p.numel() for p in m.parameters()) for m in (UNet(), ResUNet())}
    tiny = sum(p.numel() for p in SegFormerModel("tiny", pretrained=False).parameters())
    assert all(0.75 < count / tiny < 1.25 for count in size.values())


@BOTH
def test_groups_hold_every_parameter_once_and_matrices_are_hidden_layers(family):
    model = family(4, 2, (8, 16), deep_supervision=True)
    groups = model.parameter_groups(0.1)
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))
    assert {g["name"]: g["lr_scale"] for g in groups} == {
        "encoder": 0.1, "encoder matrices": 0.1, "decoder": 1.0, "decoder matrices": 1.0,
    }  # fmt: skip
    heads = {model.semantic_head.weight, model.embedding_head.weight}
    assert not heads & {p for g in groups if g["matrices"] for p in g["params"]}


def test_one_channel_learns_a_mask_through_the_sigmoid():
    torch.manual_seed(0)
    model = UNet(1, 0, (8, 16), "group")
    pixels = images(4)
    mask = (pixels[:, 0] > 0.5).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(60):
        outputs = model(pixels)
        assert outputs["logits"].shape == (4, 1, 48, 64)
        assert outputs["embeddings"].shape == (4, 0, 48, 64)
        loss = DiceLoss()(outputs["logits"], mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_one_channel_goes_through_trainer_and_segmenter_as_two_classes(tmp_path):
    two, rng = table_for(2), np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(8):
            instance = np.zeros((64, 96), np.uint16)
            for place, left in enumerate(rng.integers((5, 60), (35, 85)), start=1):
                instance[8:, left : left + 5] = place
            colors = np.array([(80, 80, 80), (230, 60, 60), (60, 60, 230)], np.uint8)
            write_sample(
                tmp_path / split, f"{number}", colors[instance], (instance > 0) * two.lane_ids[0], instance, two
            )
    config = CONFIG.replace(model="unet", num_classes=2, epochs=12, lr=5e-3, batch_size=2)
    torch.manual_seed(0)
    model = UNet(1, 8, (8, 16, 24))
    sets = [
        LaneInstanceDataset(tmp_path, split, build_transform(config, split == "train"), classes=two)
        for split in ("train", "val")
    ]
    trainer = LaneSegmentationTrainer(model, config, device="cpu", progress=False)
    history = trainer.fit(*(build_loader(s, config, shuffle=s.split == "train") for s in sets))
    assert history[-1]["val_miou"] > 0.9
    image, semantic, _ = LaneInstanceDataset(tmp_path, "val", classes=two).read(0)
    found = LaneSegmenter(model, config, device="cpu")(image)
    assert found["lane_count"] == 2
    assert (found["semantic_mask"] == semantic).mean() > 0.97


def test_deep_supervision_adds_the_mean_of_the_coarser_losses():
    model = UNet(3, 2, (8, 16, 24, 32), deep_supervision=True)
    batch = {
        "semantic_mask": torch.randint(0, 3, (2, 37, 51)),
        "instance_mask": torch.zeros(2, 37, 51, dtype=torch.int64),
    }
    outputs = model(images(2, 37, 51))
    assert [x.shape for x in outputs["auxiliary"]] == [(2, 3, 37, 51)] * 2
    inner = LaneCriterion.from_config(CONFIG.replace(num_classes=3))
    loss, parts = DeepSupervision(inner, 0.4)(outputs, batch)
    coarse = [CombinedLoss()(x, batch["semantic_mask"]) for x in outputs["auxiliary"]]
    torch.testing.assert_close(loss, inner(outputs, batch)[0] + 0.4 * (coarse[0] + coarse[1]) / 2)
    torch.testing.assert_close(parts["loss"], loss.detach())
    part, _ = DeepSupervision(inner, 0.4)(outputs, batch, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(part, inner(outputs, batch, torch.tensor([0.25, 0.5]))[0] + 0.1 * sum(coarse) / 2)
    model.eval()
    quiet, parts = DeepSupervision(inner)(model(images(2, 37, 51)), batch)
    assert "auxiliary" not in parts
    assert quiet.isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"upsampling": "nearest"}, "upsampling is 'nearest'"),
        ({"norm": "relu", "activation": "relu"}, "norm is 'relu'"),
        ({"num_classes": 0}, "num_classes 1 to 255"),
        ({"embedding_dim": -1}, "embedding_dim 0 to 1024"),
        ({"widths": (8, 12)}, r"widths is \(8, 12\)"),
        ({"widths": (8,)}, r"widths is \(8,\)"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


def test_wrong_images_and_pretrained_weights_are_refused():
    with pytest.raises(ValueError, match=r"images must be float \(B, 3, H, W\)"):
        UNet(widths=(8, 16))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="pretrained is True"):
        UNet.from_config(CONFIG.replace(pretrained=True, model="unet"))


@BOTH
def test_its_preset_trains_and_infers_from_the_command_line(family, data, tmp_path, capsys):  # noqa: F811
    config = LaneSegmentationConfig.preset(family.kind)
    assert type(models.build(config)) is family
    lines = f"epochs: 1\nsteps_per_epoch: 2\nimage_size: [64, 96]\ncrop_top: 0\nmodel: {family.kind}\n"
    plain = {"backbone: tiny", "pretrained: false", "embedding_dim: 4", "lr: 3e-3", "muon_lr: 0.02"}
    (tmp_path / "c.yaml").write_text(lines + "\n".join(plain))
    run = tmp_path / "run"
    assert main(f"train lane --config {tmp_path / 'c.yaml'} --data {data} --output {run} --device cpu".split()) == 0
    model, photo = run / "best.safetensors", next((data / "val" / "images").iterdir())
    out = tmp_path / "found.png"
    assert main(f"infer lane --model {model} --input {photo} --output {out} --device cpu".split()) == 0
    assert out.is_file()


def test_a_landscape_trains_with_the_settings_that_elective_2_shows(tmp_path):
    write_dataset(tmp_path / "land", {"train": 2, "val": 1}, (64, 64), 3, "aerial", workers=1, progress=False)
    land = {"num_classes": 2, "image_size": (64, 64), "crop_top": 0.0}
    LaneSegmentationConfig.preset("unet").replace(**land).to_yaml(tmp_path / "land.yaml")
    line = f"train lane --config {tmp_path / 'land.yaml'} --data {tmp_path / 'land'} --output {tmp_path / 'run'}"
    assert main(f"{line} --epochs 1 --device cpu".split()) == 0
    assert models.load(tmp_path / "run" / "best.safetensors").num_classes == 2


def test_a_file_with_other_widths_and_norm_begins_a_run_which_supervises_the_coarser_maps(data, tmp_path):  # noqa: F811
    start = tmp_path / "start.safetensors"
    UNet(6, 8, (8, 16, 24), "group", "bilinear", deep_supervision=True).save(start)
    config = CONFIG.replace(model="unet", pretrained=str(start), epochs=2, lr=5e-3, muon_lr=0.02)
    trainer = train_lane_model(config, data, tmp_path / "run", device="cpu")
    assert "auxiliary" in trainer.train_metrics
    before, after = models.load(start), models.load(tmp_path / "run" / "best.safetensors")
    assert after.settings() == before.settings()
    pairs = zip(before.auxiliary_heads, after.auxiliary_heads, strict=True)
    assert all(not torch.equal(a.weight, b.weight) for a, b in pairs)


@BOTH
def test_normalized_embeddings_have_length_one_as_the_config_asks(family):
    config = CONFIG.replace(model=family.kind, normalize_embeddings=True, delta_dist=0.7, delta_var=0.2)
    model = models.build(config)
    assert model.settings()["normalize_embeddings"]
    lengths = model(images(1))["embeddings"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_a_model_without_embeddings_is_refused_by_the_segmenter():
    with pytest.raises(ValueError, match="no embeddings"):
        LaneSegmenter(UNet(2, 0, (8, 16)), CONFIG.replace(model="unet", num_classes=2), "cpu")


@BOTH
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
def test_the_activation_of_the_config_is_that_of_every_block_and_is_stored(family, activation, tmp_path):
    model = family.from_config(CONFIG.replace(model=family.kind, activation=activation, pretrained=False))
    kinds = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}
    found = {type(m) for m in model.modules() if isinstance(m, tuple(kinds.values()))}
    assert found == {kinds[activation]}
    model.save(tmp_path / "m.safetensors")
    again = models.load(tmp_path / "m.safetensors")
    image = images(1)
    with torch.no_grad():
        torch.testing.assert_close(again(image)["logits"], model.eval()(image)["logits"])


def test_the_activation_acts_and_behind_the_sum_of_a_residual_block_too():
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    for kind, function in (("leaky_relu", F.leaky_relu), ("gelu", F.gelu)):
        block = ResUNet(preactivation=False, widths=(8, 16), activation=kind).eval().encoder[1]
        torch.testing.assert_close(block(x), function(block.branch(x) + block.shortcut(x)))
        plain = UNet(widths=(8, 16), activation=kind).eval().encoder[1]
        torch.testing.assert_close(plain(x), function(plain[4](plain[3](function(plain[1](plain[0](x)))))))
    with pytest.raises(ValueError, match="leaky_relu"):
        UNet(activation="silu")
