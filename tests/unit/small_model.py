"""A lane model that is no SegFormer. It has no BatchNorm, so the images of a batch are independent."""

import torch
from torch import nn

from roadtopo_lib.models import StoredModel, upsample_to


class PixelModel(StoredModel):
    """Judges every pixel by its colour; the outputs have half the size of the image."""

    kind = "pixel"

    def __init__(self, num_classes: int = 6, embedding_dim: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.encoder = nn.Conv2d(3, 16, 1)
        self.heads = nn.Conv2d(16, num_classes + embedding_dim, 1)

    def forward(self, images, upsample=True):
        size = images.shape[2:]
        out = self.heads(self.encoder(images[:, :, ::2, ::2] * 4 - 2).tanh())
        out = upsample_to(out, size) if upsample else out
        return {"logits": out[:, : self.num_classes], "embeddings": out[:, self.num_classes :]}

    def parameter_groups(self, encoder_lr_scale):
        return [
            {
                "name": "encoder",
                "params": [*self.encoder.parameters()],
                "lr_scale": encoder_lr_scale,
                "matrices": False,
            },
            {"name": "heads", "params": [*self.heads.parameters()], "lr_scale": 1.0, "matrices": False},
        ]

    def settings(self):
        return {"num_classes": self.num_classes, "embedding_dim": self.embedding_dim}

    @classmethod
    def from_config(cls, config):
        return cls(config.num_classes, config.embedding_dim)
