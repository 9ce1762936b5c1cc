"""Identities of book/autoencoders.md, run on aecore.models.undercomplete.Autoencoder."""

import math

import torch
from torch import nn
from torch.func import jacrev

from aecore.models.undercomplete import Autoencoder
from aecore.synthetic import swiss_roll
from aecore.training import fit


def gaussian(n_inputs: int, n_latents: int, *hidden: int) -> Autoencoder:
    model = Autoencoder(
        n_inputs=n_inputs, n_latents=n_latents, hidden=hidden, likelihood="gaussian"
    )
    return model.double()


def test_no_encoder_beats_the_projection_onto_the_decoders_image() -> None:
    """eq-autoencoders-projection, eq-autoencoders-orthogonal."""
    model, x = gaussian(6, 2), torch.randn(30, 6)
    (layer,) = model.decoder.layers
    basis = torch.linalg.qr(layer.weight).Q
    residual = (x - layer.bias) - (x - layer.bias) @ basis @ basis.T
    distance = residual.square().sum(dim=1)
    assert (model.loss(x)["loss"] > distance).all()

    with torch.no_grad():  # the best encoder: the pseudo-inverse of the decoder
        pinv = torch.linalg.pinv(layer.weight)
        model.encoder.layers[0].weight.copy_(pinv)
        model.encoder.layers[0].bias.copy_(-pinv @ layer.bias)
    torch.testing.assert_close(model.loss(x)["loss"], distance)
    left = x - model.decode(model.encode(x))
    jacobian = jacrev(model.decode)(model.encode(x[0]))
    torch.testing.assert_close(left @ jacobian, torch.zeros(30, 2))


def test_an_invertible_map_between_encoder_and_decoder_changes_no_reconstruction() -> None:
    """eq-autoencoders-invariance."""
    model, twin, x = gaussian(5, 3, 8), gaussian(5, 3, 8), torch.randn(20, 5)
    twin.load_state_dict(model.state_dict())
    mix = torch.randn(3, 3)
    last, first = twin.encoder.layers[-1], twin.decoder.layers[0]
    with torch.no_grad():
        last.weight.copy_(mix @ last.weight)
        last.bias.copy_(mix @ last.bias)
        first.weight.copy_(first.weight @ torch.linalg.inv(mix))
    assert not torch.allclose(twin.encode(x), model.encode(x))
    torch.testing.assert_close(twin.encode(x), model.encode(x) @ mix.T)
    torch.testing.assert_close(twin.loss(x)["loss"], model.loss(x)["loss"])


def test_no_code_of_one_number_copies_a_circle() -> None:
    """eq-autoencoders-circle."""
    model = gaussian(2, 1, 32)
    angle = torch.linspace(0, 2 * math.pi, 2001)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    fit(model, circle, epochs=60, batch_size=100, lr=1e-2, device="cpu", progress=False)
    error = model.loss(circle)["loss"]
    assert error.mean() < 0.2  # it learned
    low, high = torch.tensor(0.0), torch.tensor(math.pi)

    def gap(at: torch.Tensor) -> torch.Tensor:
        u = torch.stack([at.cos(), at.sin()])
        return (model.encode(u) - model.encode(-u))[0]

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) * gap(low) > 0 else (low, middle)
    pair = torch.stack([low.cos(), low.sin()]) * torch.tensor([[1.0], [-1.0]])
    r = model.decode(model.encode(pair[0]))
    torch.testing.assert_close(model.loss(pair)["loss"].sum(), 2 + 2 * r.square().sum())
    assert model.loss(pair)["loss"].max() >= 1


def test_a_curved_decoder_beats_pca_on_the_roll() -> None:
    points, _ = swiss_roll(2000)
    x = (points - points.mean(dim=0)) / points.std()
    model = gaussian(3, 2, 32, 32)
    fit(model, x, epochs=30, batch_size=50, lr=1e-2, device="cpu", progress=False)
    left_out = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[0]
    assert model.loss(x)["loss"].mean() < 0.5 * left_out


def test_a_pinched_network_has_codes_on_a_line() -> None:
    x = torch.randn(50, 3)
    ranks = []
    for hidden in ((8, 1), (8, 8)):
        code = gaussian(3, 2, *hidden).encode(x)
        ranks.append(torch.linalg.matrix_rank(code - code.mean(dim=0), rtol=1e-9).item())
    assert ranks == [1, 2]


def test_overcomplete_affine_layers_can_be_the_identity() -> None:
    model, x = gaussian(3, 5), 100 * torch.randn(20, 3)
    encoder, decoder = (mlp.layers[0] for mlp in (model.encoder, model.decoder))
    with torch.no_grad():
        decoder.weight.copy_(torch.linalg.pinv(encoder.weight))
        nn.init.zeros_(encoder.bias)
        nn.init.zeros_(decoder.bias)
    torch.testing.assert_close(model.decode(model.encode(x)), x)
