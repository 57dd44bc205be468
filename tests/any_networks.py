"""Small networks that no nnU-Net plans describe, and the settings of an ensemble that all of them must get right."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A block as in a ResNet: the same activation used twice and in place, a residual sum, a shortcut."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if stride > 1 or channels != out else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class Classifier(nn.Module):
    """Convolutions, pooling over the whole map, two linear layers: maps `(B, C, H, W)`, then vectors `(B, C)`."""

    def __init__(self, width: int = 8, classes: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Residual(width, width, 1), Residual(width, 2 * width, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.head = nn.Linear(2 * width, 12), nn.Linear(12, classes)

    def forward(self, x):
        x = torch.flatten(self.pool(self.blocks(self.stem(x))), 1)
        return self.head(F.relu(self.hidden(x), inplace=True))


class Unpadded(nn.Module):
    """The same scales as `Classifier` with smaller maps: no padding. Functions and methods instead of modules."""

    def __init__(self, width: int = 6, classes: int = 4):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, width, 3), nn.Conv2d(width, 2 * width, 3)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width)[:, None, None])
        self.hidden, self.head = nn.Linear(2 * width, 10), nn.Linear(10, classes)

    def forward(self, x):
        x = (self.a(x) * self.scale).relu_()
        x = F.gelu(self.b(F.max_pool2d(x, 2)))
        x = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        return self.head(torch.relu(self.hidden(x)))


class Segmenter(nn.Module):
    """Down and up again with a skip: transposed convolution or upsampling to the skip's size."""

    def __init__(self, width: int = 6, transposed: bool = True, classes: int = 3, ends=nn.Identity):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True), nn.GELU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(2, 2 * width), nn.LeakyReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2) if transposed else nn.Conv2d(2 * width, width, 1)
        self.transposed = transposed
        self.last = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, classes, 1))
        self.ends = ends()

    def forward(self, x):
        skip = self.first(x)
        deep = self.up(self.down(skip))
        if not self.transposed:
            deep = F.interpolate(deep, size=skip.shape[2:], mode="bilinear")
        return self.ends(self.last(torch.cat([skip, deep], dim=1)))


class Overwriting(nn.Module):
    """Reads a map after it was overwritten, which is part of what the network computes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.a(x)
        y = self.relu(x)
        return self.b(x + 2 * y)


def vectors(width: int) -> nn.Module:
    """Features `(B, 7)` to answers `(B, 4)`."""
    return nn.Sequential(nn.Linear(7, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Tanh(),
                         nn.Linear(2 * width, 4))


def made(kind, *arguments, seed: int = 0, **more) -> nn.Module:
    """A network in eval mode whose norms have seen other statistics than those of initialisation."""
    torch.manual_seed(seed)
    network = kind(*arguments, **more)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()
