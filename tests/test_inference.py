"""Identities of book/inference.md that no one function of aecore holds."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Binomial, Categorical, MultivariateNormal, Normal, kl_divergence

from aecore.synthetic import LinearGaussian


def linear_gaussian(n_inputs: int = 5, n_latents: int = 3, log_var: float = -0.7) -> LinearGaussian:
    return LinearGaussian(torch.randn(n_inputs, n_latents), torch.randn(n_inputs), log_var)


def precision(model: LinearGaussian) -> Tensor:
    return torch.eye(model.n_latents) + model.weight.T @ model.weight / math.exp(model.log_var)


def marginal(model: LinearGaussian) -> MultivariateNormal:
    noise = math.exp(model.log_var) * torch.eye(model.n_inputs)
    return MultivariateNormal(model.bias, model.weight @ model.weight.T + noise)


def exact_gap(model: LinearGaussian, x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    return kl_divergence(
        MultivariateNormal(mean, covariance), MultivariateNormal(*model.posterior(x))
    )


# The integral


@pytest.mark.parametrize(("n_inputs", "n_latents"), [(1, 1), (5, 3), (4, 4)])
def test_relative_variance_of_plain_monte_carlo(n_inputs: int, n_latents: int) -> None:
    """eq-inference-monte-carlo, eq-inference-linear-monte-carlo: by its second moment, exactly.

    p(x | z)² is a Gaussian density in x of half the variance, times a constant.
    """
    model = linear_gaussian(n_inputs, n_latents)
    x = torch.randn(6, n_inputs)
    var = math.exp(model.log_var)
    half = LinearGaussian(model.weight, model.bias, model.log_var - math.log(2))
    log_second = half.log_evidence(x) - 0.5 * n_inputs * math.log(4 * math.pi * var)

    left, values, _ = torch.linalg.svd(model.weight, full_matrices=False)
    s = values.square() / var
    square = ((x - model.bias) @ left).square() / (values.square() + var)
    log_rho = (s.log1p() - 0.5 * (2 * s).log1p() + square * s / (1 + 2 * s)).sum(dim=1)

    torch.testing.assert_close(log_rho, log_second - 2 * model.log_evidence(x))


def test_monte_carlo_needs_at_least_the_exponential_of_the_information() -> None:
    """eq-inference-information: E_posterior[p(x|z) / p(x)] >= exp KL(posterior || prior)."""
    model = linear_gaussian(3, 2)
    x, n = model.sample(4)[0], 100_000
    mean, covariance = model.posterior(x)
    posterior = MultivariateNormal(mean, covariance)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    information = kl_divergence(posterior, prior)
    for row in range(4):
        z = MultivariateNormal(mean[row], covariance).sample((n,))
        ratio = (-model.nll(x[row].expand(n, 3), z) - model.log_evidence(x[row : row + 1])).exp()
        log_ratio = ratio.log()
        error = 5 * log_ratio.std() / math.sqrt(n)
        assert (log_ratio.mean() - information[row]).abs() < error  # Bayes: it is log p(z|x)/p(z)
        assert ratio.mean().log() > information[row]


def test_without_noise_the_density_is_nowhere_finite() -> None:
    """eq-inference-no-noise: off the plane it vanishes, on it it diverges, at these rates."""
    weight, bias = torch.randn(5, 2), torch.randn(5)
    on = (torch.randn(1, 2) @ weight.T) + bias
    basis = torch.linalg.qr(weight).Q
    away = torch.randn(1, 5)
    away = away - away @ basis @ basis.T
    z = (on - bias) @ torch.linalg.pinv(weight).T
    gram = weight.T @ weight
    constant = -0.5 * (5 * math.log(2 * math.pi) + torch.logdet(gram) + z.square().sum())
    for log_var in (math.log(1e-5), math.log(1e-7)):
        model = LinearGaussian(weight, bias, log_var)
        rate = -0.5 * 3 * log_var - away.square().sum() / (2 * math.exp(log_var))
        # what is left is of the order of the variance; the distance itself is large
        tolerance = {"rtol": 1e-9, "atol": 100 * math.exp(log_var)}
        torch.testing.assert_close(model.log_evidence(on + away)[0], rate + constant, **tolerance)


# The divergence


def test_kl_is_positive_and_has_its_minimum_at_the_target() -> None:
    """eq-inference-kl, eq-inference-kl-positive: against torch, and by its slope in the logits."""
    q, p = torch.rand(2, 1000, 4).softmax(dim=-1)
    divergence = (q * (q / p).log()).sum(dim=-1)
    torch.testing.assert_close(divergence, kl_divergence(Categorical(q), Categorical(p)))
    assert (divergence > 0).all()

    logits = p.log().requires_grad_()
    at_target = (logits.softmax(dim=-1) * (logits.log_softmax(dim=-1) - p.log())).sum()
    (slope,) = torch.autograd.grad(at_target, logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_forward_fit_matches_the_moments_and_splits() -> None:
    """eq-inference-moment-matching: KL(p || q) = KL(p || p~) + KL(p~ || q) for any Gaussian q."""
    line = torch.linspace(-30, 30, 30_001)
    cell = line[1] - line[0]
    humps = Normal(torch.tensor([-2.0, 2.0]), torch.tensor([0.6, 0.9]))
    log_p = (humps.log_prob(line[:, None]) + torch.tensor([0.6, 0.4]).log()).logsumexp(dim=1)
    mean = (log_p.exp() * line).sum() * cell
    var = (log_p.exp() * (line - mean).square()).sum() * cell
    matched = Normal(mean, var.sqrt())

    def forward(q: Normal) -> Tensor:
        return (log_p.exp() * (log_p - q.log_prob(line))).sum() * cell

    for q in (Normal(0.0, 1.0), Normal(-2.0, 3.0), Normal(5.0, 0.7)):
        torch.testing.assert_close(forward(q), forward(matched) + kl_divergence(matched, q))


def test_forward_fit_of_a_binomial_matches_the_mean() -> None:
    """eq-inference-moment-matching: the same for another family; see the exercise."""
    counts = torch.arange(11.0)
    p = torch.rand(11).softmax(dim=0)
    rate = ((p * counts).sum() / 10).requires_grad_()

    divergence = (p * (p.log() - Binomial(10, rate).log_prob(counts))).sum()

    (slope,) = torch.autograd.grad(divergence, rate)
    torch.testing.assert_close(slope, torch.zeros(()), rtol=0, atol=1e-12)


def test_slopes_of_the_reverse_divergence() -> None:
    """eq-inference-reverse-slopes: means of the first and second derivative of log p under q."""
    line = torch.linspace(-12, 12, 12_001)
    cell = line[1] - line[0]
    log_p = -(line.square()) / 2 + 1.5 * torch.sin(line)
    mean, var = torch.tensor(0.4, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    log_q = Normal(mean, var.sqrt()).log_prob(line)

    reverse = (log_q.exp() * (log_q - log_p)).sum() * cell
    slopes = torch.autograd.grad(reverse, (mean, var))

    weight = log_q.detach().exp() * cell
    first = -(weight * (-line + 1.5 * torch.cos(line))).sum()
    second = -0.5 * (1 / var.detach() + (weight * (-1 - 1.5 * torch.sin(line))).sum())
    torch.testing.assert_close(slopes, (first, second))


# The bound


def test_three_forms_of_the_bound_agree() -> None:
    """eq-inference-elbo, eq-inference-entropy, eq-inference-jensen, eq-inference-linear-elbo."""
    model = linear_gaussian()
    x = torch.randn(1, 5)
    mean, root = torch.randn(1, 3), torch.randn(3, 3)
    covariance = root @ root.T + 0.1 * torch.eye(3)
    q = MultivariateNormal(mean[0], covariance)
    likelihood = -model.nll(x, mean)[0] - 0.5 * torch.trace(
        model.weight @ covariance @ model.weight.T
    ) / math.exp(model.log_var)
    prior = MultivariateNormal(torch.zeros(3), torch.eye(3))

    entropy_form = likelihood + prior.log_prob(mean[0]) - 0.5 * torch.trace(covariance)
    entropy_form = entropy_form + q.entropy()
    gap_form = model.log_evidence(x)[0] - exact_gap(model, x, mean, covariance)[0]

    bound = model.elbo(x, mean, covariance)[0]
    torch.testing.assert_close(bound, entropy_form)
    torch.testing.assert_close(bound, gap_form)
    torch.testing.assert_close(bound, likelihood - kl_divergence(q, prior))
    assert bound < model.log_evidence(x)[0]


def test_gap_between_gaussians_is_zero_at_the_posterior_alone() -> None:
    """eq-inference-gap, eq-inference-gaussian-gap."""
    model = linear_gaussian()
    x = torch.randn(7, 5)
    mean, covariance = model.posterior(x)
    root = torch.randn(3, 3)
    other, shift = root @ root.T + 0.1 * torch.eye(3), torch.randn(7, 3)
    matrix = precision(model) @ other
    quadratic = (shift @ precision(model) * shift).sum(dim=1)
    formula = 0.5 * (torch.trace(matrix) - torch.logdet(matrix) - 3 + quadratic)

    evidence = marginal(model).log_prob(x)
    gap = evidence - model.elbo(x, mean + shift, other)

    torch.testing.assert_close(gap, formula)
    torch.testing.assert_close(formula, exact_gap(model, x, mean + shift, other))
    tight = model.elbo(x, mean, covariance)
    torch.testing.assert_close(tight, evidence, rtol=0, atol=1e-10)


def test_best_diagonal_has_the_precisions_diagonal_and_leaves_hadamards_gap() -> None:
    """eq-inference-diagonal-gap."""
    model = linear_gaussian()
    x = torch.randn(1, 5)
    diagonal = precision(model).diagonal()
    mean = model.posterior(x)[0].requires_grad_()
    log_var = (-diagonal.log()).requires_grad_()

    bound = model.elbo(x, mean, log_var.exp().diag())

    slopes = torch.autograd.grad(bound.sum(), (mean, log_var))
    for slope in slopes:
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)
    gap = 0.5 * (diagonal.log().sum() - torch.logdet(precision(model)))
    assert gap > 0.01
    torch.testing.assert_close(model.log_evidence(x) - bound.detach(), gap.expand(1))


def test_coordinate_ascent_never_descends_and_ends_at_the_best_diagonal() -> None:
    """eq-inference-coordinate-ascent."""
    model = linear_gaussian()
    x = torch.randn(1, 5)
    matrix = precision(model)
    pull = (x - model.bias) @ model.weight / math.exp(model.log_var)
    mean, var, bounds = torch.zeros(1, 3), torch.ones(3), []
    for step in range(600):
        j = step % 3
        rest = mean @ matrix[:, j] - mean[:, j] * matrix[j, j]
        mean[:, j] = (pull[:, j] - rest) / matrix[j, j]
        var[j] = 1 / matrix[j, j]
        bounds.append(model.elbo(x, mean, var.diag()).item())

    assert (torch.tensor(bounds).diff() > -1e-9).all()
    torch.testing.assert_close(mean, model.posterior(x)[0])


# Learning


def test_changes_of_evidence_bound_and_gap_add_up_when_model_and_q_move() -> None:
    """eq-inference-learning: from one gap to another, neither of them zero."""
    x = torch.randn(7, 5)
    evidences, bounds, gaps = [], [], []
    for log_var in (-0.7, 0.4):
        model = linear_gaussian(log_var=log_var)
        mean, root = torch.randn(7, 3), torch.randn(3, 3)
        covariance = root @ root.T + 0.1 * torch.eye(3)
        evidences.append(marginal(model).log_prob(x))
        bounds.append(model.elbo(x, mean, covariance))
        gaps.append(exact_gap(model, x, mean, covariance))

    change = (bounds[1] - bounds[0]) + (gaps[1] - gaps[0])
    torch.testing.assert_close(evidences[1] - evidences[0], change)
    assert (gaps[1] - gaps[0]).abs().min() > 0.01


def test_a_step_of_expectation_maximisation_never_lowers_the_evidence() -> None:
    """eq-inference-em: exact q, then the weight that is best under it."""
    truth = linear_gaussian(6, 2)
    x, _ = truth.sample(200)
    model = LinearGaussian(0.1 * torch.randn(6, 2), x.mean(dim=0), -0.7)
    evidence = marginal(model).log_prob(x).sum()
    for _ in range(5):
        mean, covariance = model.posterior(x)
        moment = mean.T @ mean + len(x) * covariance
        weight = (x - model.bias).T @ mean @ torch.linalg.inv(moment)
        new = LinearGaussian(weight, model.bias, model.log_var)
        bound = new.elbo(x, mean, covariance).sum()
        after, gap = marginal(new).log_prob(x).sum(), exact_gap(new, x, mean, covariance).sum()
        assert after > bound > evidence
        torch.testing.assert_close(after - evidence, bound - evidence + gap)
        model, evidence = new, after
