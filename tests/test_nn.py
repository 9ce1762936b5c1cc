"""The shared building blocks."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aecore.data import Images
from aecore.nn import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    TiedMLP,
    as_tuple,
    check_choice,
    check_class_numbers,
    check_folder,
    check_positive,
    check_rows,
    check_sizes,
    check_width,
)


def test_mlp_is_torch_sequential() -> None:
    mlp = MLP((5, 4, 3, 2))
    a, b, c = mlp.layers
    expected = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c)
    x = torch.randn(7, 5)
    torch.testing.assert_close(mlp(x), expected(x))


def test_mlp_ends_linear() -> None:
    assert (MLP((5, 4, 3))(torch.randn(50, 5)) < 0).any()


def test_tied_mlp_uses_the_transposes_and_its_own_biases() -> None:
    mlp = MLP((5, 4, 2))
    tied = TiedMLP((5, 4, 2))
    for bias in tied.biases:
        nn.init.normal_(bias)
    h = torch.randn(7, 2)
    w1, w2 = (layer.weight for layer in mlp.layers)
    b2, b1 = tied.biases
    torch.testing.assert_close(tied(h, mlp), F.relu(h @ w2 + b2) @ w1 + b1)


def test_tied_mlp_owns_no_weights_but_passes_them_gradients() -> None:
    mlp, tied = MLP((5, 4, 2)), TiedMLP((5, 4, 2))
    assert sum(p.numel() for p in tied.parameters()) == 4 + 5
    tied(torch.randn(3, 2), mlp).square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in mlp.layers)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2), 3, (3, 2.5), (3, "2")])
def test_mlp_refuses_bad_sizes(sizes: object) -> None:
    with pytest.raises(ValueError, match="sizes must be two or more positive widths, got"):
        MLP(sizes)


def test_conv_encoder_is_torch_sequential() -> None:
    encoder = ConvEncoder((2, 4, 3))
    a, b = encoder.layers
    x = torch.randn(5, 2, 8, 12)
    out = encoder(x)
    torch.testing.assert_close(out, nn.Sequential(a, nn.ReLU(), b)(x))
    assert (out < 0).any()  # it ends linear


@pytest.mark.parametrize("n", [1, 2, 7, 28, 30])
def test_conv_encoder_halves_and_rounds_up(n: int) -> None:
    out = ConvEncoder((1, 2, 3))(torch.zeros(1, 1, n, 2 * n))
    assert out.shape == (1, 3, -(-n // 4), -(-2 * n // 4))


@pytest.mark.parametrize(
    ("upsampling", "kernel_size"),
    [("transposed", None), ("bilinear", None), ("bilinear", 1), ("bilinear", 5)]
    + [("transposed", k) for k in range(1, 8)],
)
def test_conv_decoder_doubles_exactly(upsampling: str, kernel_size: int | None) -> None:
    """eq-convolutional-doubling."""
    decoder = ConvDecoder((3, 2, 1), upsampling=upsampling, kernel_size=kernel_size)
    assert decoder(torch.randn(2, 3, 5, 7)).shape == (2, 1, 20, 28)


def test_conv_decoder_is_torch_sequential() -> None:
    h = torch.randn(5, 3, 4, 6)
    transposed = ConvDecoder((3, 4, 2))
    a, b = transposed.layers
    assert a.kernel_size == (4, 4)
    torch.testing.assert_close(transposed(h), nn.Sequential(a, nn.ReLU(), b)(h))
    bilinear = ConvDecoder((3, 4, 2), upsampling="bilinear")
    a, b = bilinear.layers
    assert a.kernel_size == (3, 3)
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(bilinear(h), nn.Sequential(up, a, nn.ReLU(), up, b)(h))


def test_bilinear_decoder_maps_a_constant_to_a_constant() -> None:
    for upsampling, flat in (("bilinear", True), ("transposed", False)):
        out = ConvDecoder((3, 1), upsampling=upsampling)(torch.ones(1, 3, 8, 8))
        inner = out[..., 2:-2, 2:-2]
        assert torch.allclose(inner, inner.mean()) == flat


@pytest.mark.parametrize("block", [ConvEncoder, ConvDecoder])
@pytest.mark.parametrize("channels", [(), (3,), (3, 0), 3])
def test_conv_blocks_refuse_bad_channels(block: type[nn.Module], channels: object) -> None:
    with pytest.raises(ValueError, match="channels must be two or more positive widths, got"):
        block(channels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upsampling": "nearest"}, "upsampling must be one of 'transposed', 'bilinear'"),
        ({"kernel_size": 0}, "kernel_size must be a positive integer, got 0"),
        (
            {"upsampling": "bilinear", "kernel_size": 4},
            "kernel_size must be odd after bilinear upsampling, got 4",
        ),
    ],
)
def test_conv_decoder_refuses_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvDecoder((3, 1), **arguments)


def test_checks_name_argument_value_and_expectation() -> None:
    with pytest.raises(ValueError, match=r"n_latents must be a positive integer, got 2\.5"):
        check_sizes(n_inputs=3, n_latents=2.5)
    with pytest.raises(ValueError, match="colour must be one of 'red', 'blue'; got 'green'"):
        check_choice("colour", "green", ("red", "blue"))
    with pytest.raises(ValueError, match=r"z must have shape \(..., 3\), got \(2, 4\)"):
        check_width("z", torch.zeros(2, 4), 3)


@pytest.mark.parametrize("value", ["1e-3", None, 0, -1.0, float("nan"), 1j])
def test_a_positive_number_is_asked_for_by_name(value: object) -> None:
    with pytest.raises(ValueError, match="lr must be a positive number, got "):
        check_positive(width=1.0, lr=value)


def test_a_tuple_comes_from_any_sequence_of_the_right_length() -> None:
    assert as_tuple("hidden", []) == ()
    assert as_tuple("hidden", [3, 2]) == (3, 2)
    for values in (400, (0,), (2.5,), ("3",), "3", None, {3}):
        with pytest.raises(
            ValueError, match=r"hidden must be a tuple of .* such as \(400,\), got "
        ):
            as_tuple("hidden", values)
    for values in (28, (28,), (1, 28, 28)):
        with pytest.raises(ValueError, match="grid must be two of them, got"):
            as_tuple("grid", values, "two of them", least=2, most=2)


def test_what_is_no_tensor_is_named() -> None:
    images = Images(torch.zeros(2, 4), torch.zeros(2), (1, 2, 2))
    for check in (lambda x: check_rows("x", x), lambda x: check_width("x", x, 4)):
        check(images.x)
        with pytest.raises(TypeError, match=r"x must be a tensor, got Images; pass images\.x"):
            check(images)
        with pytest.raises(TypeError, match="x must be a tensor, got list$"):
            check([[0.0] * 4])


def test_unflattened_images_are_named_with_the_remedy() -> None:
    expected = r"x must have shape \(N, D\), got \(2, 28, 28\); flatten images with x\.flatten\(1\)"
    with pytest.raises(ValueError, match=expected):
        check_rows("x", torch.zeros(2, 28, 28))
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\), got \(4,\)$"):
        check_rows("x", torch.zeros(4))


def test_labels_of_another_type_are_named_with_the_remedy() -> None:
    check_class_numbers(torch.arange(3))
    for dtype in (torch.float32, torch.int32):
        with pytest.raises(TypeError, match=rf"int64, got {dtype}; use y\.long\(\)"):
            check_class_numbers(torch.zeros(3, dtype=dtype))


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder("path", "file")
    with pytest.raises(FileNotFoundError, match="path 'a/b/file' lies in no folder; make 'a/b'"):
        check_folder("path", "a/b/file")
