"""Identities of aecore.synthetic; derivations in book/autoencoders.md and book/inference.md."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from aecore.losses import gaussian_nll
from aecore.synthetic import LinearGaussian, swiss_roll


def test_points_lie_on_the_spiral_at_their_height() -> None:
    """eq-autoencoders-swiss-roll."""
    points, coordinates = swiss_roll(300)
    x, height, z = points.T
    t = torch.hypot(x, z)
    torch.testing.assert_close(x, t * t.cos())
    torch.testing.assert_close(z, t * t.sin())
    torch.testing.assert_close(height, coordinates[:, 1])
    assert 1.5 * math.pi <= t.min() < t.max() <= 4.5 * math.pi


def test_arc_length_is_the_integral_of_the_speed() -> None:
    """eq-autoencoders-arc-length."""
    points, coordinates = swiss_roll(20)
    t = torch.hypot(points[:, 0], points[:, 2])
    lengths = [quad(lambda u: math.hypot(1, u), 1.5 * math.pi, end)[0] for end in t.tolist()]
    torch.testing.assert_close(coordinates[:, 0], torch.tensor(lengths))


def test_close_points_are_as_far_apart_as_their_coordinates() -> None:
    """eq-autoencoders-flat."""
    points, coordinates = swiss_roll(4000)
    exact = "donot_use_mm_for_euclid_dist"  # the faster way loses the digits of short distances
    on_sheet, in_space = (torch.cdist(p, p, compute_mode=exact) for p in (coordinates, points))
    near = (on_sheet < 0.3) & (on_sheet > 0)
    assert near.sum() > 500
    # a chord falls short of its arc by about s²/24 of the squared curvature, at most 1/5 here
    torch.testing.assert_close(in_space[near], on_sheet[near], rtol=2e-4, atol=0)
    assert (in_space <= on_sheet + 1e-9).all()


def test_pca_drops_the_height() -> None:
    """eq-autoencoders-pca."""
    points, _ = swiss_roll(200_000)
    values, vectors = torch.linalg.eigh(torch.cov(points.T))
    error = 21**2 * math.sqrt(1 / 180 / len(points))  # standard error of a uniform's variance
    assert abs(values[0] - 21**2 / 12) < 5 * error
    assert vectors[1, 0].abs() > 0.99
    assert values[1] > 1.1 * values[0]


def test_coordinates_are_uniform() -> None:
    n = 100_000
    _, coordinates = swiss_roll(n)
    length = quad(lambda u: math.hypot(1, u), 1.5 * math.pi, 4.5 * math.pi)[0]
    for values, size in zip(coordinates.T, (length, 21.0), strict=True):
        assert 0 <= values.min() < values.max() <= size
        for quantile in (0.1, 0.5, 0.9):
            share = (values < quantile * size).double().mean()
            assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / n)


def test_noise_is_added_to_the_points_only() -> None:
    n = 50_000
    clean, same = swiss_roll(n, generator=torch.Generator().manual_seed(3))
    noisy, coordinates = swiss_roll(n, noise=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(coordinates, same, rtol=0, atol=0)
    noise = noisy - clean
    variance = noise.square().mean()
    assert abs(variance - 0.25) < 5 * 0.25 * math.sqrt(2 / (3 * n))
    assert noise.mean(dim=0).abs().max() < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_default_type_and_agree(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    points, coordinates = swiss_roll(7, generator=torch.Generator().manual_seed(0))
    torch.set_default_dtype(torch.float64)
    expected, _ = swiss_roll(7, generator=torch.Generator().manual_seed(0))
    assert points.dtype == coordinates.dtype == dtype
    assert points.shape == (7, 3)
    assert coordinates.shape == (7, 2)
    torch.testing.assert_close(points, expected.to(dtype))


def test_a_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    swiss_roll(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_bad_sizes_are_named(n: int) -> None:
    with pytest.raises(ValueError, match=f"n must be a positive integer, got {n}"):
        swiss_roll(n)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf])
def test_bad_noise_is_named(noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be a finite number, at least 0, got"):
        swiss_roll(3, noise=noise)


# LinearGaussian


def linear_gaussian(n_inputs: int = 5, n_latents: int = 3) -> LinearGaussian:
    return LinearGaussian(torch.randn(n_inputs, n_latents), torch.randn(n_inputs), -0.7)


def marginal(model: LinearGaussian) -> MultivariateNormal:
    noise = math.exp(model.log_var) * torch.eye(model.n_inputs)
    return MultivariateNormal(model.bias, model.weight @ model.weight.T + noise)


def any_gaussians(n: int, n_latents: int) -> tuple[Tensor, Tensor]:
    root = torch.randn(n, n_latents, n_latents)
    return torch.randn(n, n_latents), root @ root.mT + 0.1 * torch.eye(n_latents)


@pytest.mark.parametrize(("n_inputs", "n_latents"), [(1, 1), (5, 3), (3, 5)])
def test_evidence_is_that_of_the_marginal_gaussian(n_inputs: int, n_latents: int) -> None:
    """eq-inference-linear-evidence."""
    model = linear_gaussian(n_inputs, n_latents)
    x = 3 * torch.randn(7, n_inputs)

    torch.testing.assert_close(model.log_evidence(x), marginal(model).log_prob(x))


def test_evidence_is_the_integral_over_the_latent() -> None:
    """eq-inference-evidence, eq-inference-linear-evidence."""
    model = linear_gaussian(2, 1)
    x = torch.randn(1, 2)

    def joint(z: float) -> float:
        at = torch.tensor([[z]])
        return (model.prior().log_prob(at) - model.nll(x, at)).exp().item()

    area = quad(joint, -12, 12, epsabs=0, epsrel=1e-11)[0]

    torch.testing.assert_close(model.log_evidence(x).exp().item(), area)


@pytest.mark.parametrize(("n_inputs", "n_latents"), [(1, 1), (5, 3), (3, 5)])
def test_posterior_is_the_joint_over_the_evidence(n_inputs: int, n_latents: int) -> None:
    """eq-inference-linear-posterior: Bayes' rule, at any z, with the evidence of a library."""
    model = linear_gaussian(n_inputs, n_latents)
    x, z = torch.randn(7, n_inputs), torch.randn(7, n_latents)

    posterior = MultivariateNormal(*model.posterior(x))

    bayes = model.prior().log_prob(z) - model.nll(x, z) - marginal(model).log_prob(x)
    torch.testing.assert_close(posterior.log_prob(z), bayes)


def test_gap_is_the_divergence_to_the_posterior() -> None:
    """eq-inference-linear-elbo, eq-inference-gap."""
    model = linear_gaussian()
    x, _ = model.sample(7)
    mean, covariance = any_gaussians(7, 3)
    posterior = MultivariateNormal(*model.posterior(x))

    gap = marginal(model).log_prob(x) - model.elbo(x, mean, covariance)

    torch.testing.assert_close(gap, kl_divergence(MultivariateNormal(mean, covariance), posterior))


def test_shared_covariance_is_everybodys() -> None:
    """eq-inference-linear-elbo."""
    model = linear_gaussian()
    x, (mean, covariance) = torch.randn(7, 5), any_gaussians(7, 3)

    shared = model.elbo(x, mean, covariance[0])

    torch.testing.assert_close(shared, model.elbo(x, mean, covariance[:1].expand(7, 3, 3)))


def test_bound_is_the_mean_log_ratio_under_q() -> None:
    """eq-inference-linear-elbo, eq-inference-elbo: against an average over draws of q."""
    model, n = linear_gaussian(), 100_000
    x, (mean, covariance) = torch.randn(1, 5), any_gaussians(1, 3)
    q = MultivariateNormal(mean[0], covariance[0])
    z = q.sample((n,))

    ratio = model.prior().log_prob(z) - model.nll(x.expand(n, 5), z) - q.log_prob(z)

    error = 5 * ratio.std() / math.sqrt(n)
    assert (ratio.mean() - model.elbo(x, mean, covariance)).abs() < error


def test_draws_have_the_moments_of_the_model() -> None:
    """eq-inference-linear-gaussian: E[x] = b, Cov(x) = W Wᵀ + σ² I, Cov(x, z) = W."""
    model, n = linear_gaussian(3, 2), 200_000
    x, z = model.sample(n)
    expected = marginal(model)
    assert x.shape == (n, 3)
    assert z.shape == (n, 2)
    for product, exact in (
        (x, model.bias),
        ((x - model.bias)[:, :, None] * (x - model.bias)[:, None], expected.covariance_matrix),
        ((x - model.bias)[:, :, None] * z[:, None], model.weight),
    ):
        error = 5 * product.std(dim=0) / math.sqrt(n)
        assert ((product.mean(dim=0) - exact).abs() < error).all()


def test_nll_is_that_of_the_noise_around_the_decoders_mean() -> None:
    """eq-inference-linear-gaussian."""
    model = linear_gaussian()
    x, z = torch.randn(7, 5), torch.randn(7, 3)

    expected = gaussian_nll(torch.einsum("dl,bl->bd", model.weight, z) + model.bias, x, -0.7)

    torch.testing.assert_close(model.nll(x, z), expected)


def test_evidence_has_the_gradient_of_the_marginal() -> None:
    """eq-inference-linear-evidence: through the posterior, in weight and bias."""
    model = linear_gaussian()
    x = torch.randn(7, 5)
    parameters = (model.weight.requires_grad_(), model.bias.requires_grad_())

    got = torch.autograd.grad(model.log_evidence(x).sum(), parameters)

    expected = torch.autograd.grad(marginal(model).log_prob(x).sum(), parameters)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_of_the_weight(dtype: torch.dtype) -> None:
    """eq-inference-linear-gaussian."""
    model = LinearGaussian(torch.ones(3, 2, dtype=dtype), torch.zeros(3, dtype=dtype), 0.0)
    x, z = model.sample(4, torch.Generator().manual_seed(1))
    again, _ = model.sample(4, torch.Generator().manual_seed(1))
    mean, covariance = model.posterior(x)
    results = (x, z, mean, covariance, model.nll(x, z), model.log_evidence(x), model.prior().mean)
    assert {result.dtype for result in results} == {dtype}
    assert torch.equal(x, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.ones(3)}, r"weight must have shape \(D, L\), got \(3,\)"),
        ({"weight": torch.ones(3, 0)}, r"weight must have shape \(D, L\), got \(3, 0\)"),
        ({"weight": torch.ones(3, 2).long()}, r"weight must be float32 or float64, got .*int64"),
        (
            {"bias": torch.ones(2, dtype=torch.float64)},
            r"bias must have shape \(3,\) .* got \(2,\) and torch.float64",
        ),
        (
            {"bias": torch.ones(3, dtype=torch.float32)},
            r"bias must .* type torch.float64 .* and torch.float32",
        ),
        (
            {"bias": torch.tensor([0, math.nan, 0], dtype=torch.float64)},
            "bias must be finite, got NaN or infinity",
        ),
        (
            {"weight": torch.full((3, 2), math.inf, dtype=torch.float64)},
            "weight must be finite, got NaN or infinity",
        ),
        ({"log_var": math.nan}, "log_var must be a finite number, got nan"),
        ({"log_var": -math.inf}, "log_var must be a finite number, got -inf"),
        ({"log_var": "learned"}, "log_var must be a finite number, got 'learned'"),
        ({"log_var": torch.zeros(3)}, "log_var must be a finite number, got tensor"),
    ],
)
def test_bad_arguments_of_the_linear_model_are_named(
    arguments: dict[str, object], message: str
) -> None:
    """eq-inference-linear-gaussian."""
    good = {"weight": torch.ones(3, 2), "bias": torch.zeros(3), "log_var": 0.0}
    with pytest.raises(ValueError, match=message):
        LinearGaussian(**good | arguments)


def test_bad_shapes_given_to_the_linear_model_are_named() -> None:
    """eq-inference-linear-gaussian."""
    model, x, z = linear_gaussian(), torch.zeros(7, 5), torch.zeros(7, 3)
    for call in (model.posterior, model.log_evidence, lambda bad: model.nll(bad, z)):
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 5\), got \(7, 4\)"):
            call(x[:, :4])
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 3\), got \(7, 5\)"):
        model.decode(x)
    with pytest.raises(ValueError, match=r"mean must have shape \(\.\.\., 3\), got \(7, 5\)"):
        model.elbo(x, x, torch.eye(3))
    with pytest.raises(ValueError, match=r"covariance must have shape \(3, 3\) or \(7, 3, 3\)"):
        model.elbo(x, z, torch.ones(7, 3))
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        model.sample(0)
