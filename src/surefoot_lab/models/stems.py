"""torchvision's networks with a stem for small images: they would shrink 32x32 pixels to nothing.

What is changed, in all: the first convolution is 3x3 with stride 1 and takes as many channels as
the images have, and the poolings that follow it at once are left out. Blocks and heads are
torchvision's, so that parameters are those of the papers but for the stem and the classes.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def small_resnet(depth: int, num_classes: int = 10, in_channels: int = 3) -> Any:
    """ResNet-18 or -34 (the wide ones: 64 to 512 channels) for small images."""
    from torchvision import models

    model = {18: models.resnet18, 34: models.resnet34}[depth](num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def small_mobilenet(num_classes: int = 10, in_channels: int = 3) -> Any:
    """MobileNetV2 for small images: the first two reductions are left out."""
    from torchvision.models import mobilenet_v2

    model = _with_first_filters(mobilenet_v2(num_classes=num_classes), in_channels)
    model.features[2].conv[1][0].stride = (1, 1)  # the depthwise convolution of stage 2
    return model


def small_efficientnet(num_classes: int = 10, in_channels: int = 3) -> Any:
    """EfficientNet-B0 for small images; its stochastic depth and dropout are kept."""
    from torchvision.models import efficientnet_b0

    return _with_first_filters(efficientnet_b0(num_classes=num_classes), in_channels)


def _with_first_filters(model: Any, in_channels: int) -> Any:
    stem = model.features[0]
    stem[0] = nn.Conv2d(in_channels, stem[0].out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem[0].weight, mode="fan_out")
    return model
