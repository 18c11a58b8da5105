"""Writes ``aerial.safetensors``, the small U-Net of elective 2: ``python data_samples/make_aerial.py``.

It is trained on patches of one scene from above, three quarters of them with road, and stored in half precision. Half
a minute of one core.
"""

from pathlib import Path

import torch
from torch.utils.data import DataLoader

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.electives.patches import Patches, PositivePatchSampler, positive_patches
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.files import save_weights
from roadtopo_lib.losses import DiscriminativeLoss, FocalDiceLoss, LaneCriterion
from roadtopo_lib.scenes.aerial import render_aerial
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

PATCH, SHARE, EPOCHS, STEPS, BATCH = 96, 0.75, 4, 50, 4
SETTINGS = {"num_classes": 2, "embedding_dim": 8, "epochs": EPOCHS, "batch_size": BATCH, "image_size": (PATCH, PATCH)}

torch.set_num_threads(1)
torch.manual_seed(0)
config = LaneSegmentationConfig.preset("unet").replace(**SETTINGS, crop_top=0.0, lr=3e-3, muon_lr=0.02)
large, small = render_aerial(1, (1536, 1536)), render_aerial(2, (384, 384))
train = Patches(large.image, large.semantic, large.instance, PATCH, turned=True)
val = Patches(small.image, small.semantic, small.instance, PATCH)
positive = positive_patches(large.semantic, 1, PATCH, min_pixels=100)
sampler = PositivePatchSampler(positive, SHARE, STEPS * BATCH)
print(f"{positive.mean():.2f} of the patches hold road, {sampler.share_reached():.2f} of those drawn")
model = UNet(1, 8, (8, 16, 32))
criterion = LaneCriterion(FocalDiceLoss(lam=0.5, alpha=0.25, gamma=2.0), DiscriminativeLoss(), instance_weight=0.1)
trainer = LaneSegmentationTrainer(model, config, criterion, device="cpu", progress=False)
for row in trainer.fit(DataLoader(train, BATCH, sampler=sampler), DataLoader(val, BATCH)):
    print({name: round(value, 3) for name, value in row.items() if name in ("train_loss", "val_loss", "val_miou")})
halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
card = {"command": "python data_samples/make_aerial.py", "scene": 1, "val_miou": round(trainer.val_metrics["miou"], 3)}
path = Path(__file__).parent / "aerial.safetensors"
save_weights(path, model.kind, halved, model.settings(), training=config.to_dict(), card=card)
