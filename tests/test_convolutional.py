"""Identities of aecore.models.convolutional; derivations in book/convolutional.md."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.models.convolutional import (
    ConvolutionalAutoencoder,
    conv_size,
    overlap_counts,
    transposed_size,
)
from aecore.nn import ConvDecoder
from aecore.training import fit

LIKELIHOODS = {"bernoulli": bernoulli_nll, "gaussian": squared_error}
UPSAMPLING = ("transposed", "bilinear")


def small(shape: tuple[int, ...] = (2, 8, 12), **arguments: object) -> ConvolutionalAutoencoder:
    sizes = {"n_latents": 3, "channels": (4, 5)}
    return ConvolutionalAutoencoder(shape=shape, **(sizes | arguments)).double()


@given(
    n=st.integers(1, 30), k=st.integers(1, 7), s=st.integers(1, 4), p=st.integers(0, 3), o=st.data()
)
@settings(max_examples=150, deadline=None)
def test_sizes_are_those_of_torch(n: int, k: int, s: int, p: int, o: st.DataObject) -> None:
    """eq-convolutional-size, eq-convolutional-transposed-size."""
    assume(k <= n + 2 * p)
    m = conv_size(n, k, stride=s, padding=p)
    line, kernel = torch.zeros(1, 1, n), torch.zeros(1, 1, k)
    assert F.conv1d(line, kernel, stride=s, padding=p).shape[-1] == m
    if 2 * p <= k:
        assert F.max_pool1d(line, k, s, p).shape[-1] == m
        assert F.avg_pool1d(line, k, s, p).shape[-1] == m

    extra = o.draw(st.integers(0, s - 1))
    how = {"stride": s, "padding": p, "output_padding": extra}
    assume((n - 1) * s - 2 * p + k + extra > 0)
    assert F.conv_transpose1d(line, kernel, **how).shape[-1] == transposed_size(n, k, **how)

    back = transposed_size(m, k, stride=s, padding=p, output_padding=(n + 2 * p - k) % s)
    assert back == n


@given(n=st.integers(1, 9), k=st.integers(1, 7), s=st.integers(1, 4), p=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_overlap_counts_are_the_response_of_ones_to_ones(n: int, k: int, s: int, p: int) -> None:
    """eq-convolutional-overlap, eq-convolutional-evenness."""
    for extra in range(s):
        how = {"stride": s, "padding": p, "output_padding": extra}
        if (n - 1) * s - 2 * p + k + extra < 1:
            continue
        counts = overlap_counts(n, k, **how)
        reached = F.conv_transpose1d(torch.ones(1, 1, n), torch.ones(1, 1, k), **how)
        assert counts.tolist() == reached[0, 0].tolist()
        t = torch.arange(len(counts)) + p
        inner = (t >= k - 1) & (t <= (n - 1) * s)
        expected = k // s + (t % s < k % s)
        assert counts[inner].tolist() == expected[inner].tolist()


@pytest.mark.parametrize("n", [7, 8, 9, 10])
@pytest.mark.parametrize(("k", "s", "p"), [(3, 1, 1), (3, 2, 1), (4, 2, 1), (5, 3, 2), (2, 3, 0)])
def test_transposed_convolution_is_the_adjoint(n: int, k: int, s: int, p: int) -> None:
    """eq-convolutional-adjoint."""
    w = torch.randn(4, 2, k, k)
    x = torch.randn(3, 2, n, n)
    image = F.conv2d(x, w, stride=s, padding=p)
    y = torch.randn_like(image)
    back = F.conv_transpose2d(y, w, None, s, p, output_padding=(n + 2 * p - k) % s)
    assert image.shape[-1] == conv_size(n, k, stride=s, padding=p)
    torch.testing.assert_close((image * y).sum(), (x * back).sum())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_model_is_the_layers_of_the_book(likelihood: str) -> None:
    """eq-convolutional-bottleneck."""
    model = small(likelihood=likelihood)
    (w1, b1), (w2, b2) = ((c.weight, c.bias) for c in model.encoder.layers)
    (w3, b3), (w4, b4) = ((c.weight, c.bias) for c in model.decoder.layers)
    x = torch.rand(7, 192)

    maps = F.conv2d(x.reshape(7, 2, 8, 12), w1, b1, stride=2, padding=1).relu()
    maps = F.conv2d(maps, w2, b2, stride=2, padding=1).relu()
    h = maps.reshape(7, 30) @ model.to_code.weight.T + model.to_code.bias
    maps = (h @ model.from_code.weight.T + model.from_code.bias).relu().reshape(7, 5, 2, 3)
    maps = F.conv_transpose2d(maps, w3, b3, stride=2, padding=1).relu()
    out = F.conv_transpose2d(maps, w4, b4, stride=2, padding=1).reshape(7, 192)

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model.decode(h), out)
    terms = model.loss(x)
    torch.testing.assert_close(terms["loss"], LIKELIHOODS[likelihood](out, x))
    torch.testing.assert_close(terms["reconstruction"], terms["loss"])
    assert set(terms) == {"loss", "reconstruction"}
    assert (h < 0).any()  # the code is linear


@pytest.mark.parametrize("upsampling", UPSAMPLING)
@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((1, 28, 28), (5, 7, 7)),
        ((1, 32, 32), (5, 8, 8)),
        ((3, 30, 30), (5, 8, 8)),
        ((2, 5, 11), (5, 2, 3)),
    ],
)
def test_any_size_comes_back(
    shape: tuple[int, ...], features: tuple[int, ...], upsampling: str
) -> None:
    model = small(shape, upsampling=upsampling)
    x = torch.rand(4, model.n_inputs)
    h = model.encode(x)
    assert model.feature_shape == features
    assert h.shape == (4, 3)
    assert model.decode(h).shape == x.shape
    assert model.encoder(x.reshape(4, *shape)).shape == (4, *features)


@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_a_single_example_and_a_batch_agree(upsampling: str) -> None:
    model, x = small(upsampling=upsampling), torch.rand(5, 192)
    each = torch.stack([model.decode(model.encode(row)) for row in x])
    torch.testing.assert_close(model.decode(model.encode(x)), each)
    torch.testing.assert_close(
        model.loss(x)["loss"], torch.cat([model.loss(row[None])["loss"] for row in x])
    )


def test_what_exceeds_the_image_is_cut_at_the_far_ends() -> None:
    model = small((1, 5, 6))
    h = torch.randn(3, 3)
    features = model.from_code(h).relu().reshape(3, 5, 2, 2)
    whole = model.decoder(features)
    assert whole.shape == (3, 1, 8, 8)
    torch.testing.assert_close(model.decode(h).reshape(3, 1, 5, 6), whole[:, :, :5, :6])


def test_features_move_with_the_picture_by_a_quarter() -> None:
    model = small((1, 64, 64))
    picture = torch.zeros(1, 1, 64, 64)
    picture[..., 24:32, 24:32] = torch.rand(8, 8)
    base = model.encoder(picture)
    moved = model.encoder(picture.roll((4, 8), (-2, -1)))
    inner = (..., slice(3, -2), slice(3, -2))
    torch.testing.assert_close(moved[inner], base.roll((1, 2), (-2, -1))[inner])
    by_two = model.encoder(picture.roll(2, -1))
    assert not torch.allclose(by_two[inner], base[inner])
    assert not torch.allclose(by_two[inner], base.roll(1, -1)[inner])


@pytest.mark.parametrize("name", ["to_code", "from_code"])
def test_the_bottleneck_holds_a_weight_for_each_position(name: str) -> None:
    model = small((1, 28, 28))
    assert getattr(model, name).weight.numel() == 3 * 5 * 7 * 7


def test_parameters_of_the_book() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    model = ConvolutionalAutoencoder(n_latents=16, channels=(8, 16))
    encoder = 9 * 8 + 8 + 9 * 8 * 16 + 16
    dense = 2 * 784 * 16 + 16 + 784
    decoder = 16 * 16 * 8 + 8 + 16 * 8 + 1
    assert count(model) == encoder + dense + decoder
    wide = ConvolutionalAutoencoder(n_latents=16, channels=(11, 16), upsampling="bilinear")
    narrow = ConvDecoder((16, 11, 1), kernel_size=3)
    assert count(wide.decoder) == count(narrow)
    assert abs(count(wide) / count(model) - 1) < 0.002


@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_fit_learns_something(upsampling: str) -> None:
    x = torch.bernoulli(torch.rand(64, 1).expand(64, 192))
    model = small(upsampling=upsampling)
    constant = bernoulli_nll(x.mean(dim=0).logit().expand_as(x), x).mean()
    fit(model, x, epochs=60, batch_size=16, lr=1e-2, device="cpu", progress=False)
    assert model.loss(x)["loss"].mean() < constant


def test_lists_are_taken_and_kept_as_tuples() -> None:
    channels = [4, 5]
    model = small([2, 8, 12], channels=channels)
    channels.append(1)
    assert model.channels == (4, 5)
    assert model.shape == (2, 8, 12)
    assert model.n_inputs == 192


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (28, 28)}, r"shape must be three positive integers \(C, H, W\), got \(28, 28\)"),
        ({"shape": (1, 28, 0)}, "shape must be three positive integers"),
        ({"shape": (1, 28, 2.5)}, "shape must be three positive integers"),
        ({"channels": ()}, r"channels must be a tuple of one or more .*, got \(\)"),
        ({"channels": (8, 0)}, r"channels must be a tuple of .*, got \(8, 0\)"),
        ({"n_latents": 0}, "n_latents must be a positive integer, got 0"),
        (
            {"likelihood": "poisson"},
            "likelihood must be one of 'bernoulli', 'gaussian'; got 'poisson'",
        ),
        (
            {"upsampling": "nearest"},
            "upsampling must be one of 'transposed', 'bilinear'; got 'nearest'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvolutionalAutoencoder(**({"n_latents": 2} | arguments))


def test_wrong_widths_are_named() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 192\), got \(5, 191\)"):
        model.encode(torch.zeros(5, 191))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 3\), got \(5, 4\)"):
        model.decode(torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_size(0, 3), "n must be a positive integer, got 0"),
        (lambda: conv_size(4, 3, padding=-1), "padding must not be negative, got -1"),
        (lambda: conv_size(4, 7, padding=1), r"at most n \+ 2 padding = 6, got 7"),
        (lambda: transposed_size(4, 3, padding=-1), "padding must not be negative, got -1"),
        (
            lambda: transposed_size(4, 3, stride=2, output_padding=2),
            r"output_padding must lie in \[0, stride\) = \[0, 2\), got 2",
        ),
        (lambda: transposed_size(1, 2, padding=1), "padding must leave an output, got 1"),
        (lambda: overlap_counts(4, 3, stride=0), "stride must be a positive integer, got 0"),
    ],
)
def test_bad_sizes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
