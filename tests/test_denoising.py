"""Identities of aecore.models.denoising; derivations in book/denoising.md."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from aecore.corruption import CORRUPTIONS, corrupt
from aecore.losses import bernoulli_nll, squared_error
from aecore.models.denoising import DenoisingAutoencoder, gaussian_denoiser, psnr
from aecore.training import fit

DISTANCES = {"bernoulli": bernoulli_nll, "gaussian": squared_error}


def network(**kind: object) -> DenoisingAutoencoder:
    """A network with random biases too, so that none can be left out unseen."""
    kind = {"n_inputs": 9, "n_latents": 4, "hidden": (6,)} | kind
    model = DenoisingAutoencoder(**kind)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model.double()


def moments(d: int = 4) -> tuple[Tensor, Tensor]:
    root = torch.randn(d, d)
    return torch.randn(d), root @ root.T


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("likelihood", DISTANCES)
@pytest.mark.parametrize("training", [True, False])
def test_loss_compares_the_answer_to_the_corrupted_with_the_clean(
    corruption: str, likelihood: str, training: bool
) -> None:
    """eq-denoising-objective."""
    model = network(likelihood=likelihood, corruption=corruption, level=0.5).train(training)
    x = torch.rand(7, 9)
    torch.manual_seed(1)
    out = model.decode(model.encode(corrupt(x, corruption, 0.5)))
    torch.manual_seed(1)
    terms = model.loss(x)
    torch.testing.assert_close(terms["loss"], DISTANCES[likelihood](out, x))
    torch.testing.assert_close(terms["reconstruction"], terms["loss"])
    assert set(terms) == {"loss", "reconstruction"}


def test_noise_is_fresh_at_each_call() -> None:
    """eq-denoising-objective."""
    model, x = network(level=0.5), torch.rand(7, 9)
    assert not torch.equal(model.loss(x)["loss"], model.loss(x)["loss"])
    assert not torch.equal(model.eval().loss(x)["loss"], model.loss(x)["loss"])


def test_without_noise_it_is_an_autoencoder() -> None:
    """eq-denoising-objective."""
    model, x = network(level=0.0), torch.rand(7, 9)
    torch.testing.assert_close(
        model.loss(x)["loss"], bernoulli_nll(model.decode(model.encode(x)), x)
    )


def test_encode_and_denoise_take_their_input_as_it_is() -> None:
    model, x = network(level=1.0), torch.rand(7, 9)
    assert torch.equal(model.encode(x), model.encode(x))
    assert torch.equal(model.denoise(x), model.denoise(x))
    assert not torch.allclose(model.denoise(x), model.denoise(torch.zeros_like(x)))


@pytest.mark.parametrize(
    ("activation", "function"),
    [("identity", lambda t: t), ("relu", torch.relu), ("sigmoid", torch.sigmoid)],
)
def test_activation_is_applied_to_the_code_alone(activation: str, function: object) -> None:
    model = network(activation=activation, hidden=())
    (first,), (last,) = model.encoder.layers, model.decoder.layers
    x = torch.randn(50, 9)
    h = function(x @ first.weight.T + first.bias)
    torch.testing.assert_close(model.encode(x), h)
    out = h @ last.weight.T + last.bias
    torch.testing.assert_close(model.decode(h), out)
    torch.testing.assert_close(model.denoise(x), out.sigmoid())


def test_denoise_gives_probabilities_or_means() -> None:
    x = torch.rand(7, 9)
    means = network(likelihood="gaussian")
    torch.testing.assert_close(means.denoise(x), means.decode(means.encode(x)))
    assert ((network().denoise(x) > 0) & (network().denoise(x) < 1)).all()


@pytest.mark.parametrize("likelihood", DISTANCES)
def test_the_conditional_mean_is_the_best_answer(likelihood: str) -> None:
    """eq-denoising-decomposition, eq-denoising-cross-entropy."""
    joint = torch.rand(4, 6)
    joint /= joint.sum()
    clean = torch.rand(4, 3)
    best = (joint.T @ clean) / joint.sum(dim=0)[:, None]
    answer = best.logit() if likelihood == "bernoulli" else best.clone()
    answer.requires_grad_()
    costs = [DISTANCES[likelihood](answer, c.expand(6, 3)) for c in clean]
    (gradient,) = torch.autograd.grad((joint * torch.stack(costs)).sum(), answer)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_shrinkage_is_the_posterior_mean_of_gaussian_data() -> None:
    """eq-denoising-shrinkage."""
    (mean, covariance), x_tilde = moments(), 3 * torch.randn(7, 4)
    precision = torch.linalg.inv(covariance) + torch.eye(4) / 0.25
    information = torch.linalg.inv(covariance) @ mean + x_tilde / 0.25
    expected = torch.linalg.solve(precision, information.T).T
    torch.testing.assert_close(gaussian_denoiser(x_tilde, mean, covariance, 0.5), expected)


def test_shrinkage_step_is_the_noise_variance_times_the_noisy_score() -> None:
    """eq-denoising-shrinkage, eq-denoising-tweedie."""
    mean, covariance = moments()
    x_tilde = (3 * torch.randn(7, 4)).requires_grad_()
    noisy = MultivariateNormal(mean, covariance + 0.25 * torch.eye(4))
    (score,) = torch.autograd.grad(noisy.log_prob(x_tilde).sum(), x_tilde)
    step = gaussian_denoiser(x_tilde, mean, covariance, 0.5) - x_tilde
    torch.testing.assert_close(step, 0.25 * score)


def test_shrinkage_error_is_the_sum_over_eigenvalues() -> None:
    """eq-denoising-shrinkage, eq-denoising-shrinkage-error."""
    mean, covariance = moments()
    x = MultivariateNormal(mean, covariance).sample((200_000,))
    noisy = x + 0.5 * torch.randn_like(x)
    errors = squared_error(gaussian_denoiser(noisy, mean, covariance, 0.5), x)
    lam = torch.linalg.eigvalsh(covariance)
    exact = (lam * 0.25 / (lam + 0.25)).sum()
    assert (errors.mean() - exact).abs() < 5 * errors.std() / len(errors) ** 0.5


def test_directions_without_variance_shrink_to_the_mean() -> None:
    """eq-denoising-shrinkage."""
    mean, covariance = torch.randn(3), torch.diag(torch.tensor([2.0, 0.0, 0.5]))
    answer = gaussian_denoiser(torch.randn(5, 3), mean, covariance, 0.1)
    torch.testing.assert_close(answer[:, 1], mean[1].expand(5))


def test_training_a_linear_network_finds_the_shrinkage() -> None:
    """eq-denoising-objective, eq-denoising-shrinkage."""
    mean, lam = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([4.0, 1.0, 0.25])
    x = mean + lam.sqrt() * torch.randn(5000, 3)
    sizes = {"n_inputs": 3, "n_latents": 3, "likelihood": "gaussian"}
    model = DenoisingAutoencoder(**sizes, corruption="gaussian", level=1.0).double()
    fit(model, x, epochs=15, lr=2e-2, batch_size=100, device="cpu", progress=False)
    noisy = x + torch.randn_like(x)
    with torch.no_grad():
        reached = squared_error(model.denoise(noisy), x).mean()
    best = squared_error(gaussian_denoiser(noisy, mean, lam.diag(), 1.0), x).mean()
    # stochastic gradients: within 2 % of the optimum, where copying costs 3 and the mean 5.25
    assert reached < 1.02 * best
    assert best < 1.7


def test_psnr_is_that_of_scikit_image() -> None:
    """eq-denoising-psnr."""
    x, x_hat = torch.rand(5, 49), torch.rand(5, 49)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
        for a, b in zip(x, x_hat, strict=True)
    ]
    torch.testing.assert_close(psnr(x_hat, x), torch.tensor(expected))


def test_psnr_of_a_perfect_copy_is_infinite() -> None:
    """eq-denoising-psnr."""
    x = torch.rand(2, 49)
    assert psnr(x, x).tolist() == [math.inf, math.inf]
    torch.testing.assert_close(psnr(x + 0.01, x), torch.full((2,), 40.0))


def test_shapes_and_overcomplete_codes() -> None:
    model = network(n_latents=20, hidden=())
    x = torch.rand(5, 9)
    assert model.encode(x).shape == (5, 20)
    assert model.denoise(x).shape == (5, 9)
    assert model.loss(x)["loss"].shape == (5,)


def test_corrupt_draws_the_models_own_noise() -> None:
    model, x = network(corruption="salt_and_pepper", level=1.0), torch.full((5, 9), 0.5)
    assert set(model.corrupt(x).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"n_latents": -2}, "n_latents must be a positive integer, got -2"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'"),
        ({"activation": "tanh"}, "activation must be one of 'identity', 'relu', 'sigmoid'; got"),
        (
            {"corruption": "dropout"},
            "corruption must be one of 'gaussian', 'masking', 'salt_and_pepper'; got 'dropout'",
        ),
        ({"level": 1.2}, r"level must lie in \[0, 1\], got 1\.2"),
        ({"corruption": "gaussian", "level": -0.1}, "level must be at least 0 and finite, got"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoisingAutoencoder(**({"n_inputs": 9, "n_latents": 2} | arguments))


def test_wrong_widths_are_named() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.encode(torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 4\), got \(5, 3\)"):
        model.decode(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="x_hat and x must have the same shape"):
        psnr(torch.zeros(5, 8), torch.zeros(5, 9))
    with pytest.raises(ValueError, match=r"std must be positive, got 0"):
        gaussian_denoiser(torch.zeros(1, 2), torch.zeros(2), torch.eye(2), 0.0)
