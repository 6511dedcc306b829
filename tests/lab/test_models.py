"""Networks: the sizes they are known by, the images they take, the names they are found by."""

import pytest
import torch

from surefoot_lab.config import ModelConfig, UserError
from surefoot_lab.data import Examples, Splits
from surefoot_lab.models import MLP, ConvNet, build_model, cifar_resnet


def _splits(channels: int, size: int, classes: int = 10) -> Splits:
    images = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    part = Examples(images, torch.zeros(2, dtype=torch.int64))
    return Splits(part, part, part, tuple(str(number) for number in range(classes)))


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet8_has_78_thousand_parameters_in_three_stages_of_one_block() -> None:
    model = cifar_resnet(8)
    # 3x3 convolutions without bias, two numbers per channel for BatchNorm, 1x1 shortcuts
    stem = 3 * 16 * 9 + 32
    stage1 = 2 * (16 * 16 * 9 + 32)
    stage2 = 16 * 32 * 9 + 32 * 32 * 9 + 2 * 64 + (16 * 32 + 64)
    stage3 = 32 * 64 * 9 + 64 * 64 * 9 + 2 * 128 + (32 * 64 + 128)
    assert _count(model) == stem + stage1 + stage2 + stage3 + 64 * 10 + 10 == 78042


@pytest.mark.parametrize(("depth", "name"), [(20, "resnet20_cifar10"), (56, "resnet56_cifar10")])
def test_named_depths_are_pytorchcvs_networks(depth: int, name: str) -> None:
    from pytorchcv.models import resnet_cifar

    theirs = getattr(resnet_cifar, name)().eval()
    ours = build_model(ModelConfig(f"resnet{depth}"), _splits(3, 32)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet8"])
def test_named_networks_take_images_of_all_our_data_sets(
    name: str, channels: int, size: int
) -> None:
    model = build_model(ModelConfig(name), _splits(channels, size, classes=7))
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


def test_the_small_networks_have_no_batchnorm_and_no_dropout() -> None:
    for model in (ConvNet(), MLP()):
        kinds = {type(module).__name__ for module in model.modules()}
        assert not kinds & {"BatchNorm1d", "BatchNorm2d", "Dropout", "Dropout2d"}
        assert list(model.buffers()) == []


def test_arguments_are_passed_and_given_ones_win() -> None:
    config = ModelConfig("convnet", {"widths": [4, 8, 8], "hidden": 5, "num_classes": 3})
    model = build_model(config, _splits(1, 8))
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert (
        _count(model) == (4 * 9 + 4) + (4 * 8 * 9 + 8) + (8 * 8 * 9 + 8) + (8 * 5 + 5) + 5 * 3 + 3
    )


def test_any_import_path_works_and_learns_the_classes_if_it_asks() -> None:
    config = ModelConfig("torchvision.models.resnet18", {"num_classes": 6})
    assert build_model(config, _splits(3, 32))(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    config = ModelConfig("pytorchcv.models.resnet_cifar.resnet20_cifar10")
    assert build_model(config, _splits(3, 32))(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("convnt"), r"no network 'convnt'; did you mean 'convnet'\?"),
        (ModelConfig("resnet9"), r"resnet9: the depth must be 6n \+ 2"),
        (ModelConfig("resnet2"), r"resnet2: the depth must be 6n \+ 2"),
        (ModelConfig("convnet", {"width": 3}), r"init_args\.width: .*did you mean 'widths'\?"),
        (ModelConfig("convnet", {"widths": [8] * 6}), r"too small for 6 stages"),
        (ModelConfig("nopackage.Net"), r"cannot import nopackage"),
        (ModelConfig("torch.nn.Lineare"), r"no 'Lineare'; did you mean 'Linear'\?"),
        (ModelConfig("torch.optim.lr_scheduler.StepLR", {}), r"init_args\.optimizer: .*needs it"),
        (ModelConfig("collections.OrderedDict"), r"does not make a torch\.nn\.Module"),
    ],
)
def test_unusable_networks_are_explained(config: ModelConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(config, _splits(1, 8))
