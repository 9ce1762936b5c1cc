"""Identities of aecore.divergences; derivations in book/vae.md and book/sparse.md."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from aecore.divergences import bernoulli_kl, gaussian_kl, gaussian_kl_between

numbers = st.floats(-4, 4)
rows = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(numbers, min_size=4 * width, max_size=4 * width), min_size=1, max_size=3
    )
)
properties = settings(deadline=None, max_examples=50)


def gaussian(mu: Tensor, log_var: Tensor) -> Independent:
    return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)


def parameters(values: list[list[float]]) -> tuple[Tensor, ...]:
    """Means and log-variances of two Gaussians, each of shape (B, L)."""
    return torch.tensor(values, dtype=torch.float64).chunk(4, dim=1)


# gaussian_kl


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 50)])
def test_gaussian_kl_is_torchs(shape: tuple[int, int]) -> None:
    """eq-vae-gaussian-kl."""
    mu, log_var = torch.randn(shape), 2 * torch.randn(shape)
    standard = gaussian(torch.zeros(shape), torch.zeros(shape))

    kl = gaussian_kl(mu, log_var)

    assert kl.shape == shape[:1]
    torch.testing.assert_close(kl, kl_divergence(gaussian(mu, log_var), standard))


def test_gaussian_kl_is_the_mean_log_ratio_of_samples() -> None:
    """eq-vae-gaussian-kl."""
    mu, log_var = torch.tensor([[0.7, -1.2, 0.0]]), torch.tensor([[-1.0, 0.5, 0.0]])
    q, p = gaussian(mu, log_var), gaussian(torch.zeros(1, 3), torch.zeros(1, 3))
    z = q.sample((200_000,))

    log_ratio = (q.log_prob(z) - p.log_prob(z)).squeeze(1)

    standard_error = log_ratio.std() / math.sqrt(len(z))
    assert (log_ratio.mean() - gaussian_kl(mu, log_var)).abs() < 5 * standard_error


def test_gaussian_kl_has_its_minimum_at_the_prior() -> None:
    """eq-vae-gaussian-kl."""
    mu = torch.zeros(2, 3, requires_grad=True)
    log_var = torch.zeros(2, 3, requires_grad=True)

    kl = gaussian_kl(mu, log_var)
    kl.sum().backward()

    assert (kl == 0).all()
    assert (mu.grad == 0).all()
    assert (log_var.grad == 0).all()


def test_gaussian_kl_has_the_derivatives_mu_and_half_the_excess_variance() -> None:
    """eq-vae-gaussian-kl."""
    mu = torch.randn(4, 3, requires_grad=True)
    log_var = torch.randn(4, 3, requires_grad=True)

    gaussian_kl(mu, log_var).sum().backward()

    torch.testing.assert_close(mu.grad, mu.detach())
    torch.testing.assert_close(log_var.grad, 0.5 * (log_var.detach().exp() - 1))


def test_gaussian_kl_keeps_its_digits_near_the_prior() -> None:
    """eq-vae-gaussian-kl: near zero it is v²/4, where σ² − 1 − log σ² in float32 is noise."""
    log_var = torch.tensor([[1e-3]], dtype=torch.float32)

    kl = gaussian_kl(torch.zeros_like(log_var), log_var)

    # the next term of the series is v³/12, a relative v/3; float32 cancels 4 of its 7 digits
    torch.testing.assert_close(kl.item(), 2.5e-7, rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("log_var", [-80.0, 80.0])
def test_gaussian_kl_is_finite_at_extremes(log_var: float) -> None:
    """eq-vae-gaussian-kl."""
    kl = gaussian_kl(torch.zeros(1, 1, dtype=torch.float32), torch.full((1, 1), log_var).float())

    expected = 0.5 * (math.expm1(log_var) - log_var)
    # float32 has a relative resolution of 1e-7, times the exponent's 80
    torch.testing.assert_close(kl.item(), expected, rtol=2e-5, atol=0.0)


@properties
@given(rows)
def test_gaussian_kl_is_never_negative_and_adds_over_latents(values: list[list[float]]) -> None:
    """eq-vae-gaussian-kl."""
    mu, log_var, _, _ = parameters(values)

    kl = gaussian_kl(mu, log_var)

    by_latent = torch.stack([gaussian_kl(mu[:, [j]], log_var[:, [j]]) for j in range(len(mu.T))])
    assert (kl >= 0).all()
    torch.testing.assert_close(kl, by_latent.sum(dim=0))


@properties
@given(rows)
def test_gaussian_kl_of_a_row_does_not_depend_on_the_others(values: list[list[float]]) -> None:
    """eq-vae-gaussian-kl."""
    mu, log_var, _, _ = parameters(values)

    alone = torch.cat([gaussian_kl(m[None], v[None]) for m, v in zip(mu, log_var, strict=True)])

    torch.testing.assert_close(gaussian_kl(mu, log_var), alone)


@properties
@given(rows)
def test_gaussian_kl_is_zero_at_the_prior_only(values: list[list[float]]) -> None:
    """eq-vae-gaussian-kl."""
    mu, log_var, _, _ = parameters(values)
    at_prior = (mu.abs() < 1e-6).all(dim=1) & (log_var.abs() < 1e-6).all(dim=1)

    kl = gaussian_kl(mu, log_var)

    # the smallest divergence outside that box is (1e-6)²/4
    assert ((kl < 2e-13) <= at_prior).all()
    assert (kl[at_prior] < 1e-10).all()


def test_gaussian_kl_refuses_shapes_that_differ() -> None:
    """eq-vae-gaussian-kl."""
    with pytest.raises(ValueError, match=r"mu and log_var .* got mu \(2, 3\), log_var \(3,\)"):
        gaussian_kl(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got mu \(\), log_var \(\)"):
        gaussian_kl(torch.tensor(0.0), torch.tensor(0.0))


# gaussian_kl_between


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 50)])
def test_gaussian_kl_between_is_torchs(shape: tuple[int, int]) -> None:
    """eq-vae-gaussian-kl-between."""
    mu_q, log_var_q, mu_p, log_var_p = torch.randn(4, *shape)

    kl = gaussian_kl_between(mu_q, log_var_q, mu_p, log_var_p)

    assert kl.shape == shape[:1]
    expected = kl_divergence(gaussian(mu_q, log_var_q), gaussian(mu_p, log_var_p))
    torch.testing.assert_close(kl, expected)


def test_gaussian_kl_between_is_the_mean_log_ratio_of_samples() -> None:
    """eq-vae-gaussian-kl-between."""
    mu_q, log_var_q = torch.tensor([[0.7, -1.2]]), torch.tensor([[-1.0, 0.5]])
    mu_p, log_var_p = torch.tensor([[0.1, -1.0]]), torch.tensor([[0.3, 1.0]])
    q, p = gaussian(mu_q, log_var_q), gaussian(mu_p, log_var_p)
    z = q.sample((200_000,))

    log_ratio = (q.log_prob(z) - p.log_prob(z)).squeeze(1)

    kl = gaussian_kl_between(mu_q, log_var_q, mu_p, log_var_p)
    assert (log_ratio.mean() - kl).abs() < 5 * log_ratio.std() / math.sqrt(len(z))


@properties
@given(rows)
def test_gaussian_kl_between_with_the_standard_prior_is_gaussian_kl(
    values: list[list[float]],
) -> None:
    """eq-vae-gaussian-kl-between, eq-vae-gaussian-kl."""
    mu, log_var, _, _ = parameters(values)
    zeros = torch.zeros_like(mu)

    kl = gaussian_kl_between(mu, log_var, zeros, zeros)

    torch.testing.assert_close(kl, gaussian_kl(mu, log_var))


@properties
@given(rows)
def test_gaussian_kl_between_is_never_negative_and_zero_to_itself(
    values: list[list[float]],
) -> None:
    """eq-vae-gaussian-kl-between."""
    mu_q, log_var_q, mu_p, log_var_p = parameters(values)

    assert (gaussian_kl_between(mu_q, log_var_q, mu_p, log_var_p) >= 0).all()
    assert (gaussian_kl_between(mu_q, log_var_q, mu_q, log_var_q) == 0).all()


@properties
@given(rows, st.floats(0.1, 10), numbers)
def test_gaussian_kl_between_does_not_change_under_a_change_of_units(
    values: list[list[float]], scale: float, shift: float
) -> None:
    """eq-vae-gaussian-kl-between."""
    mu_q, log_var_q, mu_p, log_var_p = parameters(values)
    grow = 2 * math.log(scale)

    kl = gaussian_kl_between(
        scale * mu_q + shift, log_var_q + grow, scale * mu_p + shift, log_var_p + grow
    )

    expected = gaussian_kl_between(mu_q, log_var_q, mu_p, log_var_p)
    # an offset of 40 costs (mu_q - mu_p)² / σ² up to four digits when the means lie close
    torch.testing.assert_close(kl, expected, rtol=1e-7, atol=1e-9)


def test_gaussian_kl_between_has_a_direction() -> None:
    """eq-vae-gaussian-kl-between."""
    narrow, wide, zero = torch.tensor([[-2.0]]), torch.tensor([[2.0]]), torch.zeros(1, 1)

    forward = gaussian_kl_between(zero, narrow, zero, wide)
    backward = gaussian_kl_between(zero, wide, zero, narrow)

    torch.testing.assert_close(forward.item(), 0.5 * (math.exp(-4) - 1 + 4))
    torch.testing.assert_close(backward.item(), 0.5 * (math.exp(4) - 1 - 4))


def test_gaussian_kl_between_refuses_shapes_that_differ() -> None:
    """eq-vae-gaussian-kl-between."""
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"log_var_p must have the same shape .* mu_p \(1, 3\)"):
        gaussian_kl_between(zeros, zeros, zeros[:1], zeros)


# bernoulli_kl


@pytest.mark.parametrize("rho", [1e-6, 0.05, 0.5, 0.9])
def test_bernoulli_kl_is_torchs(rho: float) -> None:
    """eq-sparse-bernoulli-kl: closed form against torch.distributions."""
    rho_hat = torch.rand(5, 2).clamp(1e-3, 1 - 1e-3)

    kl = bernoulli_kl(rho, rho_hat)

    expected = kl_divergence(Bernoulli(torch.tensor(rho)), Bernoulli(rho_hat))
    assert kl.shape == rho_hat.shape
    torch.testing.assert_close(kl, expected)


def test_bernoulli_kl_is_the_mean_log_ratio_of_samples() -> None:
    """eq-sparse-bernoulli-kl: closed form against Monte Carlo."""
    rho, rho_hat = 0.2, torch.tensor(0.6)
    p, q = Bernoulli(torch.tensor(rho)), Bernoulli(rho_hat)
    x = p.sample((200_000,))

    log_ratio = p.log_prob(x) - q.log_prob(x)

    standard_error = log_ratio.std() / math.sqrt(len(x))
    assert (log_ratio.mean() - bernoulli_kl(rho, rho_hat)).abs() < 5 * standard_error


def test_bernoulli_kl_has_its_minimum_zero_where_the_means_agree() -> None:
    """eq-sparse-bernoulli-kl: value and gradient at the optimum."""
    rho_hat = torch.tensor([0.05], requires_grad=True)

    kl = bernoulli_kl(0.05, rho_hat)
    kl.sum().backward()

    torch.testing.assert_close(kl.detach(), torch.zeros(1))
    torch.testing.assert_close(rho_hat.grad, torch.zeros(1))


@properties
@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_bernoulli_kl_is_never_negative_and_symmetric_in_the_two_outcomes(
    rho: float, rho_hat: float
) -> None:
    """eq-sparse-bernoulli-kl: renaming one and zero changes nothing."""
    observed = torch.tensor([rho_hat], dtype=torch.float64)

    kl = bernoulli_kl(rho, observed)

    assert (kl >= -1e-14).all()  # rounding where the two agree
    assert ((kl > 1e-9) >= (abs(rho - rho_hat) > 1e-4)).all()  # KL is at least 2 (ρ − ρ̂)²
    torch.testing.assert_close(kl, bernoulli_kl(1 - rho, 1 - observed))


def test_bernoulli_kl_is_infinite_for_units_that_never_or_always_fire() -> None:
    """eq-sparse-bernoulli-kl: it makes an outcome impossible that the target wants."""
    kl = bernoulli_kl(0.05, torch.tensor([0.0, 1.0]))

    assert (kl == math.inf).all()


@pytest.mark.parametrize("rho", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_bernoulli_kl_refuses_a_target_outside_the_open_interval(rho: float) -> None:
    """eq-sparse-bernoulli-kl: the message names the value."""
    with pytest.raises(ValueError, match=rf"rho must lie strictly between 0 and 1, got {rho}"):
        bernoulli_kl(rho, torch.tensor([0.5]))
