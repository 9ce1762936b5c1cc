"""Identities of aecore.divergences; derivations in book/{vae,sparse,adversarial}.md."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from aecore.divergences import bernoulli_kl, gaussian_kl, gaussian_kl_between, mmd, mmd_test

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


# mmd and its test


def gaussian_mmd(mu: Tensor, var: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """Squared MMD between N(mu[0], diag var[0]) and N(mu[1], diag var[1]), in closed form."""

    def mean_kernel(i: int, j: int) -> Tensor:
        terms = []
        for s in bandwidths:
            spread = s**2 + var[i] + var[j]
            factor = (s**2 / spread).sqrt()
            terms.append((factor * torch.exp(-0.5 * (mu[i] - mu[j]).square() / spread)).prod())
        return torch.stack(terms).mean()

    return mean_kernel(0, 0) + mean_kernel(1, 1) - 2 * mean_kernel(0, 1)


@pytest.mark.parametrize("bandwidths", [(1.0,), (0.3, 2.0)])
def test_mmd_is_the_sum_over_pairs(bandwidths: tuple[float, ...]) -> None:
    """eq-adversarial-mmd-unbiased: by loops, with no pair of a point and itself."""
    x, y = torch.randn(4, 3), torch.randn(6, 3) + 1

    def k(a: Tensor, b: Tensor) -> Tensor:
        squared = (a - b).square().sum()
        return sum(torch.exp(-squared / (2 * s**2)) for s in bandwidths) / len(bandwidths)

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    cross = sum(k(a, b) for a in x for b in y) / 24

    torch.testing.assert_close(mmd(x, y, bandwidths), sum(within) - 2 * cross)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_mmd_is_unbiased(shift: float) -> None:
    """eq-adversarial-mmd-unbiased, eq-adversarial-gaussian-mmd: at five points a sample."""
    mu = torch.tensor([[0.0, 0.0], [shift, -shift]])
    var = torch.tensor([[1.0, 0.5], [1.0, 0.5 + shift]])
    estimates = torch.stack(
        [
            mmd(*(m + v.sqrt() * torch.randn(5, 2) for m, v in zip(mu, var, strict=True)))
            for _ in range(5000)
        ]
    )

    expected = gaussian_mmd(mu, var, (0.2, 0.5, 1.0, 2.0, 5.0))
    error = estimates.std() / math.sqrt(len(estimates))
    assert (estimates.mean() - expected).abs() < 5 * error
    assert (expected == 0) == (shift == 0)
    # what a sum with the diagonal would have added is far outside the band
    assert 10 * error < 0.4 / 5


def test_mmd_may_be_negative_and_is_zero_in_the_mean_where_the_two_agree() -> None:
    """eq-adversarial-mmd-unbiased."""
    estimates = torch.stack([mmd(torch.randn(10, 2), torch.randn(7, 2)) for _ in range(1000)])

    assert (estimates < 0).double().mean() > 0.3
    assert estimates.mean().abs() < 5 * estimates.std() / math.sqrt(1000)


@properties
@given(st.integers(2, 5), st.integers(2, 5), st.floats(0.1, 10), numbers)
def test_mmd_is_symmetric_and_does_not_change_under_a_change_of_units(
    n: int, m: int, scale: float, shift: float
) -> None:
    """eq-adversarial-mmd-unbiased."""
    x, y = torch.randn(n, 2), torch.randn(m, 2)

    found = mmd(scale * x + shift, scale * y + shift, (scale, 2 * scale))

    torch.testing.assert_close(found, mmd(y, x, (1.0, 2.0)))


def test_mmd_has_a_gradient_everywhere() -> None:
    """eq-adversarial-mmd-unbiased: also where points coincide."""
    x = torch.zeros(3, 2, requires_grad=True)

    mmd(x, torch.ones(4, 2)).backward()

    assert x.grad.isfinite().all()
    assert (x.grad < 0).all()  # towards the other sample


@pytest.mark.parametrize("function", [mmd, mmd_test])
def test_mmd_refuses_what_it_cannot_compare(function: object) -> None:
    """eq-adversarial-mmd-unbiased, eq-adversarial-permutation."""
    x = torch.randn(3, 2)
    with pytest.raises(
        ValueError, match=r"shapes \(n, L\) and \(m, L\), got \(3, 2\) and \(3, 1\)"
    ):
        function(x, x[:, :1])
    with pytest.raises(ValueError, match=r"got \(3,\) and \(3,\)"):
        function(x[:, 0], x[:, 0])
    with pytest.raises(ValueError, match="at least two rows each .* got 3 and 1"):
        function(x, x[:1])
    for bandwidths in ((1.0, 0.0), (-1.0,), (math.nan,), ()):
        with pytest.raises(ValueError, match="bandwidths must all be positive, got"):
            function(x, x, bandwidths)


def test_permutation_test_ranks_the_statistic_among_relabellings() -> None:
    """eq-adversarial-permutation: every relabelling by hand, with the same permutations."""
    x, y = torch.randn(5, 2), torch.randn(7, 2) + 0.7
    pooled = torch.cat([x, y])
    generator = torch.Generator().manual_seed(3)
    others = []
    for _ in range(50):
        order = torch.randperm(12, generator=generator)
        others.append(mmd(pooled[order[:5]], pooled[order[5:]]))

    p = mmd_test(x, y, n_permutations=50, generator=torch.Generator().manual_seed(3))

    expected = (1 + sum(bool(other >= mmd(x, y)) for other in others)) / 51
    torch.testing.assert_close(p, expected)
    assert 1 / 51 < p < 1


def test_permutation_test_keeps_its_level_and_has_power() -> None:
    """eq-adversarial-permutation: rejects at most 10 % where the two agree."""
    levels = [
        mmd_test(torch.randn(12, 2), torch.randn(9, 2), n_permutations=39) for _ in range(600)
    ]
    share = sum(p <= 0.1 for p in levels) / 600

    error = math.sqrt(0.1 * 0.9 / 600)
    assert abs(share - 0.1) < 5 * error
    assert mmd_test(torch.randn(50, 2), torch.randn(50, 2) + 2) == 1 / 201


def test_permutation_test_never_rejects_equal_points() -> None:
    """eq-adversarial-permutation: ties count as at least as large."""
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(6, 2, dtype=dtype)
        assert mmd_test(x, x, n_permutations=20) == 1.0
    with pytest.raises(ValueError, match="n_permutations must be a positive integer, got 0"):
        mmd_test(x, x, n_permutations=0)
