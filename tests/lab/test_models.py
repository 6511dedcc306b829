"""Networks: the sizes they are known by, the images they take, the names they are found by."""

import pytest
import torch
from experiments.several_heads import SeveralHeads

from surefoot_lab.config import LossConfig, ModelConfig
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.task import Classification
from surefoot_lab.errors import UserError
from surefoot_lab.models import build_loss, build_model, short_names
from surefoot_lab.models.cifar import cifar_resnet
from surefoot_lab.models.small import MLP, ConvNet


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
@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet8", "mobilenetv2"])
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
        (ModelConfig("wrn28"), r"no network 'wrn28'; did you mean 'wrn28-10'\?"),
        (ModelConfig("wrn15-2"), r"wrn15-2: the depth must be 6n \+ 4 \(10, 16, 22"),
        (ModelConfig("densenet41"), r"densenet41: the depth must be 3n \+ 4"),
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


IMAGE_NETWORKS = [name for name in short_names() if not name.startswith("char-")]


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_each_network_takes_a_step_on_cifars_images(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(name), _splits(3, 32))
    images = torch.randn(2, 3, 32, 32)
    assert model.eval()(images).shape == (2, 10)
    outputs = model.train()(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    build_loss(LossConfig(), model, Classification())(outputs, torch.tensor([1, 7])).backward()
    grads = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.5 * len(moved)


def test_the_losses_of_several_heads_are_added() -> None:
    torch.manual_seed(0)
    model = SeveralHeads(num_classes=3, image_size=(8, 8), box_weight=2.0, picture_weight=0.5)
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 2:5, 1:7] = 1.0
    images[1, 0, 7, 3] = 1.0
    labels = torch.tensor([2, 0])
    scores, box, picture = model(images)
    hidden = model.head[:-1](model.features(images))
    true_box = model.box(hidden) - box
    # left, top, right, bottom
    expected = torch.tensor([[1.0, 2.0, 7.0, 5.0], [3.0, 7.0, 4.0, 8.0]])
    torch.testing.assert_close(true_box, expected)
    torch.testing.assert_close(model.picture(hidden) - picture, images.flatten(1))
    apart = box.abs()
    smooth = torch.where(apart < 1, 0.5 * apart**2, apart - 0.5).sum() / 2
    squares = picture.pow(2).sum() / 2
    entropy = torch.nn.functional.cross_entropy(scores, labels)
    found = build_loss(LossConfig(), model, Classification())(model(images), labels)
    torch.testing.assert_close(found, entropy + 2.0 * smooth + 0.5 * squares)
    assert torch.equal(model.eval()(images), scores)
    assert build_loss(LossConfig(), model, Classification())(scores, labels) == entropy


def test_a_head_without_weight_is_left_out() -> None:
    alone = SeveralHeads(image_size=(8, 8), box_weight=0.0, picture_weight=0.0)
    assert {name.split(".")[0] for name, _ in alone.named_parameters()} == {"features", "head"}
    loss = build_loss(LossConfig(), alone, Classification())(
        alone(torch.zeros(2, 1, 8, 8)), torch.tensor([1, 2])
    )
    loss.backward()
    assert all(p.grad is not None for p in alone.parameters())


def test_torchvisions_networks_have_the_classes_of_the_data() -> None:
    model = build_model(ModelConfig("torchvision.models.resnet18"), _splits(3, 64, classes=7))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_a_network_without_a_loss_of_its_own_has_the_tasks() -> None:
    task = Classification()
    assert build_loss(LossConfig(), MLP(), task) == task.loss


# Published for ImageNet's 1,000 classes; what a 3x3 stem instead of a 7x7 one saves.
STEM = 64 * 3 * (9 - 49)


@pytest.mark.parametrize(
    ("name", "weights", "difference"),
    [
        ("resnet18", "ResNet18_Weights", STEM),
        ("resnet34", "ResNet34_Weights", STEM),
        ("mobilenetv2", "MobileNet_V2_Weights", 0),
        ("efficientnet", "EfficientNet_B0_Weights", 0),
    ],
)
def test_parameters_are_the_published_ones_but_for_the_stem(
    name: str, weights: str, difference: int
) -> None:
    import torchvision

    published = getattr(torchvision.models, weights).IMAGENET1K_V1.meta["num_params"]
    assert _count(build_model(ModelConfig(name), _splits(3, 32, 1000))) == published + difference


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.27),  # He et al. 2016, table 6
        ("resnet110", 1.7),
        ("wrn16-10", 17.1),  # Zagoruyko and Komodakis 2016, table 4 (16-10) and table 5 (28-10)
        ("wrn28-10", 36.5),
    ],
)
def test_parameters_of_cifars_networks_are_the_published_ones(name: str, millions: float) -> None:
    assert _count(build_model(ModelConfig(name), _splits(3, 32))) / 1e6 == pytest.approx(
        millions, rel=0.02
    )


def test_densenet40_is_pytorchcvs() -> None:
    from pytorchcv.models.densenet_cifar import densenet40_k12_cifar10

    theirs = densenet40_k12_cifar10().eval()
    ours = build_model(ModelConfig("densenet40"), _splits(3, 32)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *[("resnet18", 4), ("mobilenetv2", 4), ("efficientnet", 2), ("resnet8", 8)],
    ],
)
def test_small_images_are_not_shrunk_to_nothing(name: str, side: int) -> None:
    model = build_model(ModelConfig(name), _splits(3, 32)).eval()
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    shapes = []
    for module in convolutions:
        module.register_forward_hook(lambda _, __, output: shapes.append(output.shape[-2:]))
    model(torch.randn(1, 3, 32, 32))
    assert tuple(shapes[0]) == (32, 32)
    spatial = [shape for shape in shapes if shape != (1, 1)]  # squeeze-and-excitation's are 1x1
    assert tuple(spatial[-1]) == (side, side)


def _text(classes: int = 7, length: int = 12) -> Splits:
    characters = torch.randint(0, classes, (3, length))
    part = Examples(characters, characters)
    return Splits(part, part, part, tuple("abcdefg"), kind="text")


@pytest.mark.parametrize("name", ["char-lstm", "char-transformer"])
def test_character_networks_score_each_place_by_what_came_before(name: str) -> None:
    torch.manual_seed(0)
    data = _text()
    model = build_model(ModelConfig(name), data)
    loss = data.task.loss(model(data.train.inputs), data.train.labels)
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    model.eval()
    original = model(data.train.inputs)
    assert original.shape == (3, 12, 7)
    changed = data.train.inputs.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 7
    found = model(changed)
    assert torch.allclose(found[:, :8], original[:, :8], atol=1e-6)
    assert all((found[:, place] - original[:, place]).abs().max() > 1e-4 for place in range(8, 12))
    assert model(data.train.inputs[:, :5]).shape == (3, 5, 7)


def test_the_layers_of_a_transformer_begin_different() -> None:
    layers = build_model(ModelConfig("char-transformer"), _text()).layers.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
