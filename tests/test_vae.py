"""Identities of aecore.models.vae and aecore.nn.reparametrise; derivations in book/vae.md."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
from torch.distributions import kl_divergence as torch_kl

from aecore import load_model, save
from aecore.losses import gaussian_nll
from aecore.models.vae import VAE, optimal_log_var
from aecore.nn import reparametrise
from aecore.training import fit

CHOICES = [
    {"likelihood": "bernoulli"},
    {"likelihood": "gaussian", "log_var": -1.0},
    {"likelihood": "gaussian", "log_var": "learned"},
    {"likelihood": "gaussian", "log_var": "optimal"},
]


# reparametrise


def test_reparametrise_has_the_mean_and_the_variance_it_is_given() -> None:
    """eq-vae-reparametrisation."""
    n = 200_000
    mu, log_var = torch.tensor([0.0, 3.0, -1.0]), torch.tensor([0.0, 2.0, -4.0])

    z = reparametrise(mu.expand(n, 3), log_var.expand(n, 3))

    var = log_var.exp()
    assert ((z.mean(dim=0) - mu).abs() < 5 * (var / n).sqrt()).all()
    assert ((z.var(dim=0) - var).abs() < 5 * var * math.sqrt(2 / n)).all()
    off_diagonal = torch.corrcoef(z.T) - torch.eye(3)
    assert (off_diagonal.abs() < 5 / math.sqrt(n)).all()


def test_reparametrise_is_mu_plus_sigma_eps_with_its_derivatives() -> None:
    """eq-vae-reparametrisation."""
    mu = torch.randn(4, 3, requires_grad=True)
    log_var = torch.randn(4, 3, requires_grad=True)
    eps = torch.empty(4, 3).normal_(generator=torch.Generator().manual_seed(7))

    z = reparametrise(mu, log_var, torch.Generator().manual_seed(7))
    d_mu, d_log_var = grad(z.sum(), (mu, log_var))

    std = log_var.detach().exp().sqrt()
    torch.testing.assert_close(z.detach(), mu.detach() + std * eps)
    torch.testing.assert_close(d_mu, torch.ones(4, 3))
    torch.testing.assert_close(d_log_var, 0.5 * std * eps)


def test_reparametrise_is_reproducible_and_independent_over_rows() -> None:
    """eq-vae-reparametrisation."""
    zeros = torch.zeros(5, 2)

    first, second, other = (
        reparametrise(zeros, zeros, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )

    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.unique().numel() == 10


def test_pathwise_gradient_is_unbiased() -> None:
    """eq-vae-reparametrisation: d/dmu E z² = 2 mu, d/dlog_var E z² = sigma²."""
    n = 100_000
    mu = torch.full((n, 1), 0.7, requires_grad=True)
    log_var = torch.full((n, 1), -0.4, requires_grad=True)

    d_mu, d_log_var = grad(reparametrise(mu, log_var).square().sum(), (mu, log_var))

    for samples, exact in ((d_mu, 1.4), (d_log_var, math.exp(-0.4))):
        assert (samples.mean() - exact).abs() < 5 * samples.std() / math.sqrt(n)


# VAE


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("hidden", [(), (6,), [6, 5]])
def test_shapes(choice: dict[str, object], hidden: tuple[int, ...]) -> None:
    """eq-vae-elbo: one number an example."""
    model = VAE(n_inputs=4, n_latents=2, hidden=hidden, **choice)
    x = torch.rand(3, 4)

    mu, log_var = model.encode(x)
    terms = model.loss(x)

    assert mu.shape == log_var.shape == (3, 2)
    assert model.decode(mu).shape == model.mean(mu).shape == (3, 4)
    assert model.nll(x, mu).shape == (3,)
    assert set(terms) == {"loss", "reconstruction", "kl"}
    assert all(term.shape == (3,) for term in terms.values())
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


@pytest.mark.parametrize("choice", CHOICES[:2])
def test_loss_is_minus_the_elbo_of_its_sample_by_torch_distributions(
    choice: dict[str, object],
) -> None:
    """eq-vae-elbo: sums over pixels and latents, constants included."""
    model = VAE(n_inputs=4, n_latents=2, hidden=(6,), **choice)
    x = torch.bernoulli(torch.full((3, 4), 0.5))
    mu, log_var = model.encode(x)
    q = Independent(Normal(mu, log_var.exp().sqrt()), 1)
    torch.manual_seed(3)
    out = model.decode(q.rsample())
    pixels = Bernoulli(logits=out) if model.likelihood == "bernoulli" else Normal(out, math.e**-0.5)
    reconstruction = -Independent(pixels, 1).log_prob(x)

    torch.manual_seed(3)
    terms = model.loss(x)

    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    torch.testing.assert_close(terms["kl"], torch_kl(q, model.prior()))


def test_loss_at_the_exact_posterior_is_the_log_evidence_on_average() -> None:
    """eq-vae-elbo: one latent, p(x) = N(0, w wᵀ + I)."""
    model = VAE(n_inputs=3, n_latents=1, hidden=(), likelihood="gaussian")
    w = torch.tensor([1.0, -2.0, 0.5])
    var = 1 / (1 + w @ w)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.layers[0].weight.copy_(w[:, None])
        model.encoder.layers[0].weight[0] = var * w
        model.encoder.layers[0].bias[1] = var.log()
    x = torch.tensor([[0.3, -1.0, 2.0]]).expand(20_000, 3)

    losses = model.loss(x)["loss"].detach()

    evidence = MultivariateNormal(torch.zeros(3), torch.outer(w, w) + torch.eye(3))
    error = 5 * losses.std() / math.sqrt(len(x))
    assert (losses.mean() + evidence.log_prob(x[0])).abs() < error


def test_terms_are_sums_not_means() -> None:
    """eq-vae-elbo: twice the pixels and twice the latents give twice the terms."""
    single = VAE(n_inputs=4, n_latents=2, hidden=())
    double = VAE(n_inputs=8, n_latents=4, hidden=())
    with torch.no_grad():
        for model in (single, double):
            for parameter in model.parameters():
                parameter.zero_()
            model.encoder.layers[0].bias.fill_(0.5)

    terms = single.loss(torch.ones(3, 4))

    torch.testing.assert_close(terms["reconstruction"], torch.full((3,), 4 * math.log(2)))
    for name, term in double.loss(torch.ones(3, 8)).items():
        torch.testing.assert_close(term, 2 * terms[name])


@pytest.mark.parametrize("choice", CHOICES[:3])
def test_gradients_reach_every_parameter(choice: dict[str, object]) -> None:
    """eq-vae-elbo: through the sample into the encoder too."""
    model = VAE(n_inputs=4, n_latents=2, hidden=(6,), **choice)

    model.loss(torch.rand(50, 4))["reconstruction"].sum().backward()

    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert ("decoder_log_var" in dict(model.named_parameters())) == (model.log_var == "learned")


def test_prior_is_standard_and_follows_the_models_type() -> None:
    """eq-vae-elbo."""
    prior = VAE(n_inputs=4, n_latents=2).float().prior()

    assert prior.event_shape == (2,)
    assert prior.mean.dtype == torch.float32
    torch.testing.assert_close(prior.log_prob(torch.zeros(2)).item(), -math.log(2 * math.pi))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_mean_is_the_distributions_mean(likelihood: str) -> None:
    """eq-vae-elbo."""
    model = VAE(n_inputs=4, n_latents=2, likelihood=likelihood)
    out = model.decode(z := torch.randn(3, 2))

    expected = Bernoulli(logits=out).mean if likelihood == "bernoulli" else out

    torch.testing.assert_close(model.mean(z), expected)


# Variance of Gaussian pixels


def test_optimal_variance_is_the_mean_squared_error_over_examples_and_pixels() -> None:
    """eq-vae-optimal-variance."""
    mean, x = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert optimal_log_var(mean, x).shape == ()
    torch.testing.assert_close(optimal_log_var(mean, x).item(), math.log(30 / 4))


def test_optimal_variance_is_where_the_likelihood_is_stationary_and_highest() -> None:
    """eq-vae-optimal-variance."""
    mean, x = torch.randn(7, 5), torch.randn(7, 5)
    log_var = optimal_log_var(mean, x).requires_grad_()

    (slope,) = grad(gaussian_nll(mean, x, log_var).sum(), log_var)

    torch.testing.assert_close(slope, torch.tensor(0.0), rtol=0.0, atol=1e-12)
    best = gaussian_nll(mean, x, log_var.detach()).sum()
    for step in (-0.1, 0.1):
        assert gaussian_nll(mean, x, log_var.detach() + step).sum() > best


def test_optimal_variance_may_be_detached() -> None:
    """eq-vae-optimal-variance: the envelope theorem; the gradient is the same either way."""
    mean, x = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)

    through = grad(gaussian_nll(mean, x, optimal_log_var(mean, x)).mean(), mean)
    detached = grad(gaussian_nll(mean, x, optimal_log_var(mean, x).detach()).mean(), mean)

    torch.testing.assert_close(through, detached)
    torch.testing.assert_close(detached[0], (mean - x).detach() / (7 * _mse(mean, x)))


def _mse(mean: Tensor, x: Tensor) -> Tensor:
    return (mean - x).detach().square().mean()


def test_optimal_variance_is_the_batchs_in_the_training_loss() -> None:
    """eq-vae-optimal-variance."""
    model = VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="optimal")
    x = torch.randn(6, 4)
    torch.manual_seed(2)
    mean = model.decode(reparametrise(*model.encode(x)))

    torch.manual_seed(2)
    reconstruction = model.loss(x)["reconstruction"]

    expected = gaussian_nll(mean, x, math.log(_mse(mean, x)))
    torch.testing.assert_close(reconstruction, expected)
    # the squared errors, each over the batch's mean, sum to as many as there are numbers
    constant = math.log(2 * math.pi * _mse(mean, x)) + 1
    torch.testing.assert_close(reconstruction.mean().item(), 0.5 * 4 * constant)


def test_optimal_variance_is_kept_as_a_moving_average() -> None:
    """eq-vae-optimal-variance."""
    model = VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="optimal")
    x, kept = torch.randn(6, 4), 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        batch = optimal_log_var(model.decode(reparametrise(*model.encode(x))), x).item()
        torch.manual_seed(seed)
        model.loss(x)
        model.after_step()
        kept = 0.9 * kept + 0.1 * batch
        torch.testing.assert_close(model.decoder_log_var.item(), kept)

    model.eval()
    torch.manual_seed(3)
    mean = model.decode(reparametrise(*model.encode(x)))
    torch.manual_seed(3)
    torch.testing.assert_close(model.loss(x)["reconstruction"], gaussian_nll(mean, x, kept))


@pytest.mark.parametrize("training", [True, False])
def test_nll_never_fits_the_variance_to_what_it_is_given(training: bool) -> None:
    """eq-vae-optimal-variance: an nll with a fitted variance would be no likelihood."""
    model = VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="optimal").train(training)
    x, z = 10 * torch.randn(6, 4), torch.randn(6, 2)

    nll = model.nll(x, z)

    torch.testing.assert_close(nll, gaussian_nll(model.decode(z), x, 0.0))
    torch.testing.assert_close(nll[:1], model.nll(x[:1], z[:1]))


def test_learned_and_optimal_variance_arrive_at_the_same_value() -> None:
    """eq-vae-optimal-variance: a learned variance descends to the optimum."""
    x = 0.3 * torch.randn(500, 4)  # independent noise: nothing to encode
    found = {}
    for choice in ("learned", "optimal"):
        torch.manual_seed(0)
        model = VAE(n_inputs=4, n_latents=1, hidden=(), likelihood="gaussian", log_var=choice)
        fit(model, x, epochs=60, batch_size=250, lr=0.05, device="cpu")
        found[choice] = model.decoder_log_var.item()

    tolerance = 5 * math.sqrt(2 / x.numel())  # standard errors of a log-variance
    assert abs(found["learned"] - found["optimal"]) < tolerance
    assert abs(found["optimal"] - 2 * math.log(0.3)) < tolerance


@pytest.mark.parametrize("choice", CHOICES)
def test_saving_keeps_the_variance(choice: dict[str, object], tmp_path: Path) -> None:
    """eq-vae-optimal-variance."""
    model = VAE(n_inputs=4, n_latents=2, hidden=(3,), **choice)
    with torch.no_grad():
        model.decoder_log_var.fill_(-1.25)
    before = copy.deepcopy(model.state_dict())

    save(model, tmp_path / "vae.safetensors")
    again = load_model(tmp_path / "vae.safetensors")

    assert again.log_var == model.log_var
    assert again.decoder_log_var.item() == -1.25
    assert all(torch.equal(before[name], t) for name, t in again.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"n_latents": 1.5}, r"n_latents must be a positive integer, got 1\.5"),
        ({"hidden": (4, 0)}, r"hidden must be a tuple of positive integers.*, got \(4, 0\)"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'; got 'poi"),
        ({"log_var": -1.0}, r"log_var is for Gaussian pixels; Bernoulli ones got -1\.0"),
        ({"log_var": "learned"}, "log_var is for Gaussian pixels; Bernoulli ones got 'learned'"),
        (
            {"likelihood": "gaussian", "log_var": "a number"},
            "log_var must be a finite number, 'learned' or 'optimal', got 'a number'",
        ),
        ({"likelihood": "gaussian", "log_var": math.nan}, "finite number, .* got nan"),
        ({"likelihood": "gaussian", "log_var": None}, "finite number, .* got None"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    """eq-vae-elbo."""
    with pytest.raises(ValueError, match=message):
        VAE(**{"n_inputs": 4, "n_latents": 2} | arguments)


def test_bad_shapes_are_named() -> None:
    """eq-vae-elbo."""
    model = VAE(n_inputs=4, n_latents=2)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(3, 5\)"):
        model.loss(torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 2\), got \(3, 4\)"):
        model.decode(torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"logits and x must have the same shape .* \(1, 4\)"):
        model.nll(torch.rand(3, 4), torch.zeros(1, 2))
