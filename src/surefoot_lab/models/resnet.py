"""The residual networks for CIFAR, from pytorchcv, at every depth 6n + 2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

STAGE_WIDTHS = (16, 32, 64)
CIFAR_SIZE = (32, 32)


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: Sequence[int] = CIFAR_SIZE,
    widths: Sequence[int] = STAGE_WIDTHS,
) -> nn.Module:
    """ResNet for CIFAR: a 3x3 convolution, three stages of n basic blocks, 6n + 2 layers.

    pytorchcv names the depths 20, 56, 110 and 1202; its class builds the others as well, such as
    the small resnet8 of one block a stage.

    Args:
        depth: number of layers, 6n + 2: 8, 14, 20, 26, 32, ...
        num_classes: number of outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, at least 4 each.
        widths: channels of the stages.

    Returns:
        The network (He et al. 2016, section 4.2; the shortcut that changes size is a 1x1
        convolution).

    Raises:
        ValueError: there is no such depth.
    """
    from pytorchcv.models.resnet_cifar import CIFARResNet

    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"resnet{depth}: the depth must be 6n + 2 (8, 14, 20, 26, 32, ...)")
    model: nn.Module = CIFARResNet(
        channels=[[width] * blocks for width in widths],
        init_block_channels=widths[0],
        bottleneck=False,
        in_channels=in_channels,
        in_size=tuple(image_size),
        num_classes=num_classes,
    )
    if tuple(image_size) != CIFAR_SIZE:  # its final pooling is made for 8x8, that is 32x32 images
        model.get_submodule("features").final_pool = nn.AdaptiveAvgPool2d(1)
    return model
