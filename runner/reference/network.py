"""The network: blocks of 5x5 convolution, ReLU and 2x2 max-pool, then one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ConvNet(nn.Module):
    """One block for each number in `kernels`; the linear layer fits whatever size the images leave it."""

    def __init__(self, image_shape: tuple[int, int, int], kernels: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        sizes = [channels, *kernels]
        self.blocks = nn.Sequential(*(_block(*pair) for pair in pairwise(sizes)))
        shrink = 2 ** len(kernels)
        self.linear = nn.Linear((height // shrink) * (width // shrink) * sizes[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(self.blocks(images).flatten(1))
        return scores


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
