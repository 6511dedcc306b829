"""Networks made for CIFAR's images: pytorchcv's, at every depth the papers allow and for any size.

Each takes `num_classes`, `in_channels` and `image_size` (height and width, at least 4 each).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    He et al. 2016, section 4.2; the shortcut that changes size is a 1x1 convolution.

    Args:
        depth: number of layers, 6n + 2: 8, 14, 20, 26, 32, ...
        num_classes: number of outputs.
        in_channels: channels of the images.
        image_size: of the images.
        widths: channels of the stages.

    Raises:
        ValueError: there is no such depth.
    """
    from pytorchcv.models.resnet_cifar import CIFARResNet

    blocks = _blocks(f"resnet{depth}", depth, 2, 6)
    shape: dict[str, Any] = {
        "channels": [[width] * blocks for width in widths],
        "init_block_channels": widths[0],
    }
    return _built(CIFARResNet, num_classes, in_channels, image_size, bottleneck=False, **shape)


def wide_resnet(
    depth: int,
    widen: int,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: Sequence[int] = CIFAR_SIZE,
) -> nn.Module:
    """WRN-depth-widen for CIFAR (Zagoruyko and Komodakis 2016), without dropout; depth 6n + 4."""
    from pytorchcv.models.wrn_cifar import get_wrn_cifar

    _blocks(f"wrn{depth}-{widen}", depth, 4, 6)
    facts = num_classes, in_channels, image_size
    return _built(get_wrn_cifar, *facts, blocks=depth, width_factor=widen)


def densenet(
    depth: int = 40,
    growth: int = 12,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: Sequence[int] = CIFAR_SIZE,
) -> Any:
    """DenseNet for CIFAR without bottlenecks (Huang et al. 2017); depth 3n + 4.

    pytorchcv's: a transition halves the channels (the paper's DenseNet-C), and the first layer has
    2k. Depth 40 with k = 12 so has 0.6 million parameters; the paper's, which keeps all channels,
    has 1.0 million.
    """
    from pytorchcv.models.densenet_cifar import get_densenet_cifar

    _blocks(f"densenet{depth}", depth, 4, 3)
    known = num_classes if num_classes in (10, 100) else 10  # pytorchcv makes no others
    shape = {"blocks": depth, "growth_rate": growth, "bottleneck": False}
    model: Any = _built(get_densenet_cifar, known, in_channels, image_size, **shape)
    if known != num_classes:
        model.output = nn.Linear(model.output.in_features, num_classes)
    return model


def _blocks(name: str, depth: int, fixed: int, per_block: int) -> int:
    """How many blocks (or layers) a stage has in a network of this depth."""
    blocks, remainder = divmod(depth - fixed, per_block)
    if remainder or blocks < 1:
        known = ", ".join(str(per_block * n + fixed) for n in range(1, 6))
        raise ValueError(f"{name}: the depth must be {per_block}n + {fixed} ({known}, ...)")
    return blocks


def _built(
    make: Any, num_classes: int, in_channels: int, image_size: Sequence[int], **shape: Any
) -> nn.Module:
    """The network; the final pooling of all these is made for 8x8, that is 32x32 images."""
    facts = {"num_classes": num_classes, "in_channels": in_channels, "in_size": tuple(image_size)}
    model: nn.Module = make(**facts, **shape)
    if tuple(image_size) != CIFAR_SIZE:
        model.get_submodule("features").final_pool = nn.AdaptiveAvgPool2d(1)
    return model
