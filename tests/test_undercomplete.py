"""Identities of aecore.models.undercomplete; derivations in book/undercomplete.md."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.models.undercomplete import Autoencoder
from aecore.training import fit

LIKELIHOODS = {"bernoulli": bernoulli_nll, "gaussian": squared_error}


def n_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def deep(*, tied: bool = False, likelihood: str = "bernoulli") -> Autoencoder:
    """An autoencoder with random biases too, so that none can be left out unseen."""
    model = Autoencoder(n_inputs=9, n_latents=2, hidden=(6, 4), likelihood=likelihood, tied=tied)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model.double()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_is_the_negative_log_likelihood_of_the_reconstruction(
    likelihood: str, tied: bool
) -> None:
    """eq-undercomplete-objective."""
    model = deep(tied=tied, likelihood=likelihood)
    x = torch.rand(7, 9)
    terms = model.loss(x)
    expected = LIKELIHOODS[likelihood](model.decode(model.encode(x)), x)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["reconstruction"], expected)
    assert set(terms) == {"loss", "reconstruction"}


def test_encoder_and_decoder_are_the_layers_of_the_book() -> None:
    """eq-undercomplete-objective."""
    model = Autoencoder(n_inputs=9, n_latents=2, hidden=(6,)).double()
    first, code = model.encoder.layers
    back, last = model.decoder.layers
    x = torch.rand(7, 9)

    h = F.relu(x @ first.weight.T + first.bias) @ code.weight.T + code.bias
    logits = F.relu(h @ back.weight.T + back.bias) @ last.weight.T + last.bias
    nats = (F.softplus(logits) - x * logits).sum(dim=1)

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model.decode(h), logits)
    torch.testing.assert_close(model.loss(x)["loss"], nats)
    assert (h < 0).any()  # the code is linear: no ReLU after it


@pytest.mark.parametrize("tied", [False, True])
def test_fit_minimises_the_objective(tied: bool) -> None:
    """eq-undercomplete-objective."""
    x = torch.bernoulli(torch.rand(64, 1).expand(64, 9))
    model = deep(tied=tied)
    before = model.loss(x)["loss"].mean()
    constant = bernoulli_nll(x.mean(dim=0).logit().expand_as(x), x).mean()
    fit(model, x, epochs=60, batch_size=16, lr=1e-2, device="cpu", progress=False)
    after = model.loss(x)["loss"].mean()
    assert after < constant < before


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4, 3)])
def test_decoder_has_the_widths_of_the_encoder_in_reverse(hidden: tuple[int, ...]) -> None:
    model = Autoencoder(n_inputs=9, n_latents=2, hidden=hidden)
    encoder = [tuple(layer.weight.shape) for layer in model.encoder.layers]
    decoder = [tuple(layer.weight.shape) for layer in model.decoder.layers]
    widths = (9, *hidden, 2)
    assert encoder == list(zip(widths[1:], widths[:-1], strict=True))
    assert decoder == [shape[::-1] for shape in reversed(encoder)]


def test_parameter_counts_of_the_book() -> None:
    sizes = {"n_inputs": 784, "n_latents": 32, "hidden": (256, 64)}
    weights = 784 * 256 + 256 * 64 + 64 * 32
    biases = 256 + 64 + 32 + 64 + 256 + 784
    assert n_parameters(Autoencoder(**sizes)) == 2 * weights + biases
    assert n_parameters(Autoencoder(**sizes, tied=True)) == weights + biases


def test_tied_decoder_uses_the_transposes() -> None:
    model = deep(tied=True)
    w1, w2, w3 = (layer.weight for layer in model.encoder.layers)
    b3, b2, b1 = model.decoder.biases
    h = torch.randn(7, 2)
    expected = F.relu(F.relu(h @ w3 + b3) @ w2 + b2) @ w1 + b1
    torch.testing.assert_close(model.decode(h), expected)


def test_tied_weights_are_shared_and_not_copied() -> None:
    model = deep(tied=True)
    h, x = torch.randn(7, 2), torch.rand(7, 9)
    code, decoded = model.encode(x), model.decode(h)
    with torch.no_grad():
        model.encoder.layers[0].weight.mul_(2)
    assert not torch.allclose(model.encode(x), code)
    assert not torch.allclose(model.decode(h), decoded)


def test_tied_gradient_is_the_sum_of_both_uses() -> None:
    model = Autoencoder(n_inputs=9, n_latents=2, likelihood="gaussian", tied=True).double()
    weight = model.encoder.layers[0].weight
    x = torch.rand(7, 9)
    model.loss(x)["loss"].sum().backward()

    h = model.encode(x).detach()
    residual = (model.decode(h) - x).detach()
    from_decoder = 2 * h.T @ residual
    from_encoder = 2 * (residual @ weight.detach().T).T @ x
    assert from_decoder.abs().min() > 0
    assert from_encoder.abs().min() > 0
    torch.testing.assert_close(weight.grad, from_decoder + from_encoder)


@given(n_examples=st.integers(1, 6), seed=st.integers(0, 2**31 - 1), tied=st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_example_has_its_loss_whoever_is_in_its_batch(
    n_examples: int, seed: int, tied: bool
) -> None:
    torch.manual_seed(seed)
    model, x = deep(tied=tied), torch.rand(n_examples, 9, dtype=torch.float64)
    alone = torch.cat([model.loss(row[None])["loss"] for row in x])
    torch.testing.assert_close(model.loss(x)["loss"], alone)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_relabelling_the_pixels_relabels_the_model(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = deep(), torch.rand(3, 9, dtype=torch.float64)
    loss, order = model.loss(x)["loss"], torch.randperm(9)
    with torch.no_grad():
        first, last = model.encoder.layers[0], model.decoder.layers[-1]
        first.weight.copy_(first.weight[:, order])
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    torch.testing.assert_close(model.loss(x[:, order])["loss"], loss)


@pytest.mark.parametrize("tied", [False, True])
def test_affine_reconstructions_lie_in_a_subspace_of_the_codes_dimension(tied: bool) -> None:
    model = Autoencoder(n_inputs=9, n_latents=2, likelihood="gaussian", tied=tied).double()
    out = model.decode(model.encode(torch.randn(50, 9)))
    assert torch.linalg.matrix_rank(out - out.mean(dim=0)) == 2


def test_a_deep_network_contains_every_affine_one() -> None:
    """The book's argument that a training error above PCA's is undertraining."""
    affine = Autoencoder(n_inputs=9, n_latents=3, likelihood="gaussian").double()
    wide = Autoencoder(n_inputs=9, n_latents=3, hidden=(4,), likelihood="gaussian").double()
    (encoder,), (decoder,) = affine.encoder.layers, affine.decoder.layers
    x, shift = torch.rand(7, 9), 100.0
    with torch.no_grad():
        for mlp in (wide.encoder, wide.decoder):
            for layer in mlp.layers:
                layer.weight.zero_()
                layer.bias.zero_()
        first, second = wide.encoder.layers
        first.weight[:3], first.bias[:3] = encoder.weight, encoder.bias + shift
        second.weight[:, :3], second.bias[:] = torch.eye(3), -shift
        third, fourth = wide.decoder.layers
        third.weight[:3], third.bias[:3] = torch.eye(3), shift
        fourth.weight[:, :3] = decoder.weight
        fourth.bias[:] = decoder.bias - shift * decoder.weight.sum(dim=1)
    torch.testing.assert_close(wide.loss(x)["loss"], affine.loss(x)["loss"])


def test_the_callers_list_of_widths_stays_as_it_was() -> None:
    hidden = [6, 4]
    model = Autoencoder(n_inputs=9, n_latents=2, hidden=hidden)
    assert hidden == [6, 4]
    hidden.append(1)
    assert model.hidden == (6, 4)


def test_shapes() -> None:
    model = deep()
    x = torch.rand(5, 9)
    h = model.encode(x)
    assert h.shape == (5, 2)
    assert model.decode(h).shape == (5, 9)
    assert {term.shape for term in model.loss(x).values()} == {(5,)}


def test_labels_are_taken_and_ignored() -> None:
    model, x = deep(), torch.rand(5, 9)
    torch.testing.assert_close(model.loss(x, torch.arange(5)), model.loss(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"n_latents": -2}, "n_latents must be a positive integer, got -2"),
        ({"hidden": (6, 0)}, r"hidden must be a tuple of positive integers.*, got \(6, 0\)"),
        (
            {"likelihood": "poisson"},
            "likelihood must be one of 'bernoulli', 'gaussian'; got 'poisson'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(**({"n_inputs": 9, "n_latents": 2} | arguments))


@pytest.mark.parametrize("tied", [False, True])
def test_wrong_widths_are_named(tied: bool) -> None:
    model = deep(tied=tied)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.encode(torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 2\), got \(5, 3\)"):
        model.decode(torch.zeros(5, 3))


def test_grey_levels_beyond_one_are_refused_for_bernoulli_pixels() -> None:
    x: Tensor = torch.full((4, 9), 255.0)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] for a Bernoulli likelihood"):
        fit(deep(), x, epochs=1, device="cpu", progress=False)
