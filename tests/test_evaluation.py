"""Identities of aecore.evaluation's likelihood bounds; derivations in book/vae.md and book/iwae.md.

Most lean on a linear-Gaussian model, whose evidence and posterior are known exactly.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from aecore.data import Images
from aecore.divergences import gaussian_kl, gaussian_kl_between
from aecore.evaluation import (
    active_units,
    effective_sample_size,
    elbo,
    linear_probe,
    log_likelihood,
    log_weights,
)
from aecore.models.undercomplete import Autoencoder
from aecore.models.vae import VAE
from aecore.models.vq_vae import VQVAE

N_INPUTS, N_LATENTS, PIXEL_VAR = 5, 3, 0.5


@pytest.fixture
def exact() -> tuple[VAE, MultivariateNormal, Tensor]:
    """A linear VAE with its exact posterior, p(x), and data from it."""
    model = VAE(
        n_inputs=N_INPUTS,
        n_latents=N_LATENTS,
        hidden=(),
        likelihood="gaussian",
        log_var=math.log(PIXEL_VAR),
    )
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    columns = torch.linalg.qr(torch.randn(N_INPUTS, N_LATENTS)).Q
    weight = columns * torch.tensor([2.0, 1.0, 0.5])  # orthogonal: the posterior is diagonal
    bias = torch.randn(N_INPUTS)
    posterior_var = 1 / (1 + weight.square().sum(dim=0) / PIXEL_VAR)
    slope = posterior_var[:, None] * weight.T / PIXEL_VAR
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(bias)
        encoder.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
        encoder.bias.copy_(torch.cat([-slope @ bias, posterior_var.log()]))
    evidence = MultivariateNormal(bias, weight @ weight.T + PIXEL_VAR * torch.eye(N_INPUTS))
    return model, evidence, evidence.sample((6,))


def make_wrong(model: VAE) -> tuple[Tensor, Tensor]:
    """Shift and widen the posterior; the KL and the shift are then known."""
    with torch.no_grad():
        model.encoder.layers[0].bias += torch.tensor([0.3, -0.2, 0.5, 0.4, 0.8, -0.6])
    return torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.4, 0.8, -0.6])


def repeatedly(measure: Callable[..., Tensor], model: object, x: Tensor, **kwargs: Any) -> Tensor:
    """Many independent estimates for each example: shape (10,000, N)."""
    n = 10_000
    if (y := kwargs.pop("y", None)) is not None:
        kwargs["y"] = y.repeat(n)
    return measure(model, x.repeat(n, 1), **kwargs).reshape(n, len(x))


def assert_within_5_standard_errors(samples: Tensor, exact: Tensor) -> None:
    """Samples along the first dimension, one exact mean for each of the rest."""
    standard_error = samples.std(dim=0) / math.sqrt(len(samples))
    assert ((samples.mean(dim=0) - exact).abs() < 5 * standard_error).all()


class Labelled(nn.Module):
    """A conditional model: the prior's mean is the label; log p(x) is known."""

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * x, torch.zeros_like(x)

    def nll(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return -Independent(Normal(z, 1.0), 1).log_prob(x)

    def prior(self, y: Tensor) -> Distribution:
        return Independent(Normal(y[:, None].to(torch.float64).expand(-1, 2), 1.0), 1)


class NoClosedForm(Labelled):
    """The same with a prior that torch knows no KL to."""

    def prior(self, y: Tensor) -> Distribution:
        loc = y[:, None].to(torch.float64).expand(-1, 2)
        return MultivariateNormal(loc, torch.eye(2))


# elbo


def test_elbo_is_the_mean_of_minus_the_loss(exact: tuple[VAE, MultivariateNormal, Tensor]) -> None:
    """eq-vae-elbo."""
    model, _, x = exact
    mu, log_var = model.encode(x)
    z = mu + torch.exp(0.5 * log_var) * torch.randn(6, 3, generator=torch.manual_seed(5))
    by_hand = -model.nll(x, z) - gaussian_kl(mu, log_var)

    bound = elbo(model, x, generator=torch.manual_seed(5))

    torch.testing.assert_close(bound, by_hand)
    torch.manual_seed(5)
    torch.testing.assert_close(bound, -model.loss(x)["loss"])


def test_elbo_with_the_exact_posterior_is_the_log_evidence(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-elbo."""
    model, evidence, x = exact

    bounds = repeatedly(elbo, model, x)

    assert_within_5_standard_errors(bounds, evidence.log_prob(x))


def test_elbo_with_a_wrong_posterior_lies_below_by_the_kl(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-elbo."""
    model, evidence, x = exact
    mu, log_var = model.encode(x)
    make_wrong(model)
    gap = gaussian_kl_between(*model.encode(x), mu, log_var)

    bounds = repeatedly(elbo, model, x)

    assert gap.min() > 0.5  # far more than the noise
    assert_within_5_standard_errors(bounds, evidence.log_prob(x) - gap)


def test_elbo_averages_its_samples(exact: tuple[VAE, MultivariateNormal, Tensor]) -> None:
    """eq-vae-elbo."""
    model, _, x = exact
    singles = torch.manual_seed(3)
    expected = torch.stack([elbo(model, x, generator=singles) for _ in range(7)]).mean(dim=0)

    bound = elbo(model, x, n_samples=7, generator=torch.Generator().manual_seed(3))

    torch.testing.assert_close(bound, expected)


def test_elbo_of_an_example_does_not_depend_on_how_many_there_are(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-elbo: with a posterior so narrow that the noise is far below a rounding."""
    model, _, x = exact
    with torch.no_grad():
        model.encoder.layers[0].bias[N_LATENTS:] = -80.0

    alone = torch.cat([elbo(model, row[None]) for row in x])

    torch.testing.assert_close(elbo(model, x), alone)


def test_elbo_without_a_closed_form_estimates_the_same(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-elbo."""
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 3])
    model, sampled = Labelled(), NoClosedForm()
    # E_q: -log p(x|z) has mean log 2π + (|x/2|² + 2)/2, and the KL is that of two unit Gaussians
    nll = math.log(2 * math.pi) + 0.5 * ((0.5 * x).square().sum(dim=1) + 2)
    kl = 0.5 * (0.5 * x - y[:, None]).square().sum(dim=1)

    for m in (model, sampled):
        bounds = repeatedly(elbo, m, x, y=y)
        assert_within_5_standard_errors(bounds, -nll - kl)


# log_likelihood


@pytest.mark.parametrize("n_samples", [1, 2, 9])
def test_log_likelihood_at_the_exact_posterior_is_exact_for_every_sample(
    exact: tuple[VAE, MultivariateNormal, Tensor], n_samples: int
) -> None:
    """eq-vae-importance-weighted-bound: sign and constants included."""
    model, evidence, x = exact

    bound = log_likelihood(model, x, n_samples=n_samples)

    torch.testing.assert_close(bound, evidence.log_prob(x))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 1000])
@pytest.mark.parametrize("n_examples", [1, 3, 6])
def test_log_likelihood_does_not_depend_on_batch_size_or_number_of_examples(
    exact: tuple[VAE, MultivariateNormal, Tensor], batch_size: int, n_examples: int
) -> None:
    """eq-vae-importance-weighted-bound: dividing by the batch size instead of S shows here."""
    model, evidence, x = exact

    bound = log_likelihood(model, x[:n_examples], n_samples=5, batch_size=batch_size)

    assert bound.shape == (n_examples,)
    torch.testing.assert_close(bound, evidence.log_prob(x[:n_examples]))


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_log_likelihood_has_the_same_mean_whatever_the_batch_size(
    exact: tuple[VAE, MultivariateNormal, Tensor], batch_size: int
) -> None:
    """eq-vae-importance-weighted-bound: with a wrong posterior the weights differ."""
    model, _, x = exact
    make_wrong(model)
    many = x[:1].expand(500, -1)

    bounds = log_likelihood(model, many, n_samples=4, batch_size=batch_size)
    reference = log_likelihood(model, many, n_samples=4)

    error = math.sqrt((bounds.var() + reference.var()) / len(many))
    assert abs(bounds.mean() - reference.mean()) < 5 * error


def test_log_likelihood_of_one_sample_is_the_elbo_in_expectation(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-importance-weighted-bound, eq-vae-elbo."""
    model, evidence, x = exact
    mu, log_var = model.encode(x)
    make_wrong(model)
    gap = gaussian_kl_between(*model.encode(x), mu, log_var)

    bounds = repeatedly(log_likelihood, model, x, n_samples=1)

    assert_within_5_standard_errors(bounds, evidence.log_prob(x) - gap)


def test_log_likelihood_rises_to_the_evidence_with_samples(
    exact: tuple[VAE, MultivariateNormal, Tensor],
) -> None:
    """eq-vae-importance-weighted-bound."""
    model, evidence, x = exact
    with torch.no_grad():
        model.encoder.layers[0].bias += torch.tensor([0.3, -0.2, 0.3, 0.4, 0.5, 0.3])
    many = x[:1].expand(1000, -1)

    means = [log_likelihood(model, many, n_samples=s).mean().item() for s in (1, 3, 10, 500)]

    assert means == sorted(means)
    target = evidence.log_prob(x[0]).item()
    assert means[0] < target - 0.2
    assert abs(means[-1] - target) < 0.01


def test_log_likelihood_is_the_log_of_the_mean_weight() -> None:
    """eq-vae-importance-weighted-bound, written out for a Bernoulli decoder."""
    model = VAE(n_inputs=4, n_latents=2, hidden=(3,))
    x = torch.bernoulli(torch.full((1, 4), 0.5))
    mu, log_var = model.encode(x)
    std = torch.exp(0.5 * log_var)
    z = mu + std * torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    probability = torch.sigmoid(model.decode(z))
    likelihood = torch.where(x == 1, probability, 1 - probability).prod(dim=1)
    density = Normal(0.0, 1.0).log_prob(z).sum(dim=1) - Normal(mu, std).log_prob(z).sum(dim=1)
    expected = (likelihood * density.exp()).mean().log()

    bound = log_likelihood(model, x, n_samples=6, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(bound, expected[None])


def test_log_likelihood_of_a_conditional_model_follows_each_examples_label() -> None:
    """eq-vae-importance-weighted-bound: x given y is N(y, 2 I), whatever rows share a pass."""
    x, y = torch.randn(5, 2), torch.tensor([0, 1, 2, 3, 0])
    expected = Normal(y[:, None].to(x), math.sqrt(2.0)).log_prob(x).sum(dim=1)

    bound = log_likelihood(Labelled(), x, y=y, n_samples=20_000, batch_size=45_000)

    # 20,000 weights whose log spreads over about two nats
    torch.testing.assert_close(bound, expected, rtol=0.0, atol=0.05)


def test_log_likelihood_survives_weights_below_the_smallest_float() -> None:
    """eq-vae-importance-weighted-bound: weights of e^-5000 are summed as logarithms."""
    model = VAE(n_inputs=400, n_latents=1, hidden=(), likelihood="gaussian", log_var=-3.0)

    bound = log_likelihood(model, torch.full((2, 400), 2.0), n_samples=20)

    assert bound.isfinite().all()
    assert (bound < -2000).all()


@pytest.mark.parametrize("measure", [elbo, log_likelihood])
def test_bounds_are_reproducible_and_leave_no_gradient(measure: Callable[..., Tensor]) -> None:
    """eq-vae-elbo, eq-vae-importance-weighted-bound."""
    model, x = VAE(n_inputs=4, n_latents=2), torch.rand(3, 4)
    first, second, other = (
        measure(model, x, n_samples=2, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not first.requires_grad


@pytest.mark.parametrize("measure", [elbo, log_likelihood, log_weights])
@pytest.mark.parametrize("n_samples", [0, 2.0, "2"])
def test_bounds_refuse_fewer_than_one_sample(
    measure: Callable[..., Tensor], n_samples: object
) -> None:
    """eq-vae-elbo, eq-vae-importance-weighted-bound, eq-iwae-weight."""
    expected = f"n_samples must be a positive integer, got {n_samples!r}"
    with pytest.raises(ValueError, match=expected):
        measure(VAE(n_inputs=4, n_latents=2), torch.rand(3, 4), n_samples=n_samples)


@pytest.mark.parametrize("measure", [elbo, log_likelihood, log_weights])
def test_bounds_refuse_a_model_without_a_likelihood(measure: Callable[..., Tensor]) -> None:
    """eq-vae-elbo, eq-vae-importance-weighted-bound, eq-iwae-weight."""
    plain = Autoencoder(n_inputs=4, n_latents=2)
    quantised = VQVAE(shape=(1, 2, 2), n_latents=2, n_codes=3)
    for model in (plain, quantised):
        name = type(model).__name__
        expected = f"model must be .*; {name} has no nll and no prior: there is no likelihood to"
        with pytest.raises(TypeError, match=expected):
            measure(model, torch.rand(3, 4), n_samples=2)


@pytest.mark.parametrize("measure", [elbo, log_likelihood, log_weights])
def test_bounds_refuse_data_that_do_not_fit(measure: Callable[..., Tensor]) -> None:
    """eq-vae-elbo, eq-vae-importance-weighted-bound, eq-iwae-weight."""
    model, x = VAE(n_inputs=4, n_latents=2), torch.rand(3, 4)
    for bad, error, message in (
        (Images(x, torch.zeros(3), (1, 2, 2)), TypeError, r"x must be .*Images; pass images\.x"),
        (x[0], ValueError, r"x must have shape \(N, D\), got \(4,\)"),
        (x.reshape(3, 2, 2), ValueError, r"got \(3, 2, 2\); flatten images"),
        (
            x.float(),
            TypeError,
            r"x must be torch\.float64 on cpu as the model .* got torch\.float32",
        ),
        ((255 * x).byte(), TypeError, r"x must be torch\.float64 on cpu as .* got torch\.uint8"),
        (x.to("meta"), TypeError, r"x must be torch\.float64 on cpu as .* torch\.float64 on meta"),
    ):
        with pytest.raises(error, match=message):
            measure(model, bad, n_samples=2)
    with pytest.raises(TypeError, match="y must be None, for VAE is not conditional"):
        measure(model, x, y=torch.zeros(3), n_samples=2)


def test_log_likelihood_refuses_an_empty_batch() -> None:
    """eq-vae-importance-weighted-bound."""
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        log_likelihood(VAE(n_inputs=4, n_latents=2), torch.rand(3, 4), batch_size=0)


@pytest.mark.parametrize("measure", [elbo, log_likelihood])
def test_bounds_in_training_use_the_kept_variance_not_the_test_datas(
    measure: Callable[..., Tensor],
) -> None:
    """eq-vae-elbo, eq-vae-importance-weighted-bound, eq-vae-optimal-variance."""
    model = VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="optimal")
    x = 100 * torch.randn(3, 4)
    bounds = {}
    for mode in (True, False):
        model.train(mode)
        bounds[mode] = measure(model, x, n_samples=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(bounds[True], bounds[False])
    assert bounds[True].mean() < -1000  # a fitted variance of 10,000 would say about -25


@pytest.mark.parametrize("measure", [elbo, log_likelihood])
def test_no_examples_give_no_numbers(measure: Callable[..., Tensor]) -> None:
    assert measure(VAE(n_inputs=3, n_latents=2), torch.rand(0, 3)).shape == (0,)


# log_weights, effective_sample_size, active_units


@pytest.mark.parametrize("n_samples", [1, 5, 3000])
@pytest.mark.parametrize("n_inputs", [N_INPUTS, 2000])
def test_log_weights_at_the_exact_posterior_are_the_log_evidence(
    exact: tuple[VAE, MultivariateNormal, Tensor], n_samples: int, n_inputs: int
) -> None:
    """eq-iwae-weight: sign and constants included; wide data go through in several passes."""
    model, evidence, x = exact
    expected = evidence.log_prob(x)
    if n_inputs > N_INPUTS:
        padded = VAE(n_inputs=n_inputs, n_latents=3, hidden=(), likelihood="gaussian")
        padded.decoder_log_var.fill_(math.log(PIXEL_VAR))
        more = n_inputs - N_INPUTS
        for old, new in zip(model.parameters(), padded.parameters(), strict=True):
            new.data.zero_()
            new.data[tuple(slice(n) for n in old.shape)] = old.data
        x = torch.cat([x, torch.zeros(len(x), more)], dim=1)
        expected = expected - 0.5 * more * math.log(2 * math.pi * PIXEL_VAR)
        model = padded

    log_w = log_weights(model, x, n_samples=n_samples)

    assert log_w.shape == (n_samples, len(x))
    torch.testing.assert_close(log_w, expected.expand_as(log_w))


def test_log_weights_make_the_bound(exact: tuple[VAE, MultivariateNormal, Tensor]) -> None:
    """eq-iwae-weight, eq-vae-importance-weighted-bound: same noise, same value."""
    model, _, x = exact
    make_wrong(model)

    log_w = log_weights(model, x, n_samples=9, generator=torch.Generator().manual_seed(4))
    bound = log_likelihood(model, x, n_samples=9, generator=torch.Generator().manual_seed(4))

    torch.testing.assert_close(log_w.logsumexp(dim=0) - math.log(9), bound)


def test_log_weights_follow_each_examples_label() -> None:
    """eq-iwae-weight."""
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 3])
    log_w = log_weights(Labelled(), x, y=y, n_samples=3, generator=torch.Generator().manual_seed(6))
    noise = torch.randn(12, 2, generator=torch.Generator().manual_seed(6)).reshape(3, 4, 2)
    z = 0.5 * x + noise
    expected = (
        Normal(z, 1.0).log_prob(x)
        + Normal(y[:, None].to(x), 1.0).log_prob(z)
        - Normal(0.5 * x, 1.0).log_prob(z)
    ).sum(dim=-1)
    torch.testing.assert_close(log_w, expected)


def test_log_weights_of_no_examples_have_a_row_a_sample() -> None:
    """eq-iwae-weight."""
    model = VAE(n_inputs=4, n_latents=2)
    assert log_weights(model, torch.rand(0, 4), n_samples=2).shape == (2, 0)


def test_effective_sample_size_is_the_ratio_of_the_weights() -> None:
    """eq-iwae-ess: by example, at its two ends, and at any scale."""
    log_w = torch.randn(7, 5)
    w = log_w.exp()
    expected = w.sum(dim=0).square() / w.square().sum(dim=0)
    for shift in (0.0, -5000.0, 5000.0):
        # adding 5,000 rounds the log-weights to about 1e-12
        torch.testing.assert_close(
            effective_sample_size(log_w + shift), expected, rtol=1e-10, atol=0.0
        )
    equal, single = torch.zeros(7, 1), torch.tensor([[0.0], [-800.0], [-800.0]])
    torch.testing.assert_close(effective_sample_size(equal), torch.tensor([7.0]))
    torch.testing.assert_close(effective_sample_size(single), torch.tensor([1.0]))


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 3, 4)])
def test_effective_sample_size_names_a_wrong_shape(shape: tuple[int, ...]) -> None:
    """eq-iwae-ess."""
    with pytest.raises(ValueError, match=r"log_w must have shape \(S, N\) with S >= 1"):
        effective_sample_size(torch.zeros(shape))


def test_active_units_are_those_whose_mean_moves() -> None:
    """eq-iwae-active-units: the variance of the mean, over data, against the threshold."""
    model = VAE(n_inputs=3, n_latents=3, hidden=())
    layer = model.encoder.layers[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:3] = torch.diag(torch.tensor([1.0, 0.11, 0.09]))
        layer.weight[3:] = 5.0  # log-variances that move say nothing
        layer.bias.fill_(7.0)  # nor does a mean far from zero
    x = torch.randn(50, 3)
    x = x / x.std(dim=0)  # unit variance

    assert active_units(model, x).tolist() == [True, True, False]
    assert active_units(model, x, threshold=0.001).tolist() == [True, True, True]
    assert active_units(model, x, threshold=0.1).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="at least two examples, got 1"):
        active_units(model, x[:1])


def test_active_units_need_a_posterior() -> None:
    """eq-iwae-active-units."""
    model = Autoencoder(n_inputs=4, n_latents=3)
    for n in (2, 5):  # a code of two rows is no pair either
        with pytest.raises(TypeError, match="code of Autoencoder is one tensor"):
            active_units(model, torch.rand(n, 4))


# linear_probe


def blobs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three overlapping classes in five dimensions, to train and to test."""
    y = torch.arange(180) % 3
    x = 1.2 * torch.eye(3, 5)[y] + 0.7 * torch.randn(180, 5)
    return x[:90], y[:90], x[90:], y[90:]


def test_a_probe_separates_what_a_line_separates() -> None:
    y = torch.arange(40) % 2
    x = torch.stack([2.0 * y - 1 + 0.1 * torch.randn(40), torch.randn(40)], dim=1)
    assert linear_probe(x[:20], y[:20], x[20:], y[20:]) == 1.0
    assert linear_probe(x[:20], y[:20], -x[20:], y[20:]) == 0.0


def test_a_probe_does_not_bend() -> None:
    """The classes are inside and outside a circle, where no line does better than chance."""
    x = torch.randn(400, 2)
    radius = x.norm(dim=1)
    y = (radius > radius.median()).long()
    assert abs(linear_probe(x[:200], y[:200], x[200:], y[200:]) - 0.5) < 0.15
    square = x.square()
    assert linear_probe(square[:200], y[:200], square[200:], y[200:], c=1.0) > 0.9


def test_a_probe_does_not_change_with_rotation_scale_and_shift_of_the_code() -> None:
    x, y, x_test, y_test = blobs()
    plain = linear_probe(x, y, x_test, y_test)
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    shift = 3.0 + torch.randn(5)
    assert 0.5 < plain < 1
    for scale in (1e-3, 1.0, 1e3):
        moved = (scale * t @ rotation + shift for t in (x, x_test))
        x_moved, test_moved = moved
        assert linear_probe(x_moved, y, test_moved, y_test) == plain


def test_a_probe_uses_the_training_features_statistics_alone() -> None:
    x, y, x_test, y_test = blobs()
    one_class = y_test == 0
    together = linear_probe(x, y, x_test, y_test)
    shares = [(one_class, 1 / 3), (~one_class, 2 / 3)]
    apart = sum(w * linear_probe(x, y, x_test[rows], y_test[rows]) for rows, w in shares)
    assert apart == pytest.approx(together)


def test_a_probe_of_constant_features_knows_the_commonest_class() -> None:
    y = torch.tensor([0, 1, 1, 1])
    ones = torch.ones(4, 3)
    assert linear_probe(ones, y, ones, y) == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"shapes \(N, L\) and \(M, L\), got \(4,\) and \(2, 3\)"),
        ({"test_features": torch.zeros(2, 4)}, r"got \(4, 3\) and \(2, 4\)"),
        ({"labels": torch.zeros(3)}, r"labels must have shape \(4,\), got \(3,\)"),
        ({"test_labels": torch.zeros(2, 1)}, r"test_labels must have shape \(2,\), got \(2, 1\)"),
        ({"c": 0.0}, "c must be positive, got 0.0"),
    ],
)
def test_a_probe_names_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    arguments = {
        "features": torch.zeros(4, 3),
        "labels": torch.tensor([0, 1, 0, 1]),
        "test_features": torch.zeros(2, 3),
        "test_labels": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        linear_probe(**(arguments | change))


def test_a_probe_takes_codes_as_encoders_give_them_and_names_a_posterior() -> None:
    x, y, x_test, y_test = blobs()
    model = Autoencoder(n_inputs=5, n_latents=3)
    codes, test_codes = model.encode(x), model.encode(x_test)  # with a gradient
    expected = linear_probe(codes.detach(), y, test_codes.detach(), y_test)
    assert linear_probe(codes, y, test_codes, y_test) == expected
    for name in ("features", "test_features"):
        arguments = {"features": codes, "test_features": test_codes} | {name: (codes, codes)}
        with pytest.raises(TypeError, match=f"^{name} must be a tensor, got tuple"):
            linear_probe(labels=y, test_labels=y_test, **arguments)
