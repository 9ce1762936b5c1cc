"""Checks of what the assignment on variational autoencoders asks for."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare

__all__ = [
    "MISTAKES",
    "check_correlated_sample",
    "check_evidence_error",
    "check_free_bits",
    "check_full_gaussian_kl",
]


def _kl(mu: Tensor, scale_tril: Tensor) -> Tensor:
    """By torch's densities: the definition, not the closed form that is asked for."""
    normal = torch.distributions.MultivariateNormal
    identity = torch.eye(mu.shape[1]).to(mu)
    return torch.distributions.kl_divergence(
        normal(mu, scale_tril=scale_tril), normal(torch.zeros_like(mu), identity)
    )


def _log_diagonal(scale_tril: Tensor) -> Tensor:
    return scale_tril.diagonal(dim1=1, dim2=2).log().sum(dim=1)


def _trace_slip(mu: Tensor, scale_tril: Tensor) -> Tensor:
    squares = scale_tril.square()
    diagonal = squares.diagonal(dim1=1, dim2=2).sum(dim=1)
    return _kl(mu, scale_tril) + 0.5 * (diagonal - squares.sum(dim=(1, 2)))


def _ratios(log_w: Tensor) -> Tensor:
    """The weights over their mean, (S, B)."""
    return torch.exp(log_w - torch.logsumexp(log_w, dim=0)) * len(log_w)


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "full_gaussian_kl": (
        Mistake(
            lambda mu, scale_tril: _kl(mu, scale_tril) / mu.shape[1],
            (
                "you averaged over latents; the KL is a sum.",
                "The divergences of independent coordinates add up: use sum, not mean.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril: 2 * _kl(mu, scale_tril),
            (
                "you forgot the factor one half.",
                "Both log-densities carry a half before their squares and log-determinants.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril: _kl(mu, scale_tril) + mu.shape[1] / 2,
            (
                "you left out the number of latents, which is subtracted.",
                "It comes from the entropy of q.",
                "Under q the squared Mahalanobis distance to its own mean averages to the number "
                "of latents.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril: _kl(mu, scale_tril) + 0.5 * _log_diagonal(scale_tril),
            (
                "you took the determinant of the factor for that of the covariance.",
                "The covariance is the factor times its transpose: its determinant is a square.",
                "Its logarithm is twice the sum of the logarithms on the factor's diagonal.",
            ),
        ),
        Mistake(
            _trace_slip,
            (
                "you used the factor's diagonal alone for the trace of the covariance.",
                "An entry of the covariance's diagonal is the squared length of a row of L.",
                "The trace of L L^T is the sum of the squares of all entries of L.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril: _kl(mu, scale_tril) + 2 * _log_diagonal(scale_tril),
            (
                "the log-determinant has the wrong sign.",
                "As q shrinks to a point the divergence must grow without bound.",
            ),
        ),
    ),
    "free_bits": (
        Mistake(
            lambda kl, floor: kl.clamp(min=floor).sum(dim=1).mean(),
            (
                "you applied the floor to each example; it belongs to the batch's mean.",
                "A latent may say little about one image and much about another.",
                "Average over the batch first, then compare with the floor.",
            ),
        ),
        Mistake(
            lambda kl, floor: kl.sum(dim=1).mean().clamp(min=floor * kl.shape[1]),
            (
                "you applied one floor to the sum; each latent has its own.",
                "With one floor for all, a single latent may carry everything.",
            ),
        ),
        Mistake(
            lambda kl, floor: kl.mean(dim=0).clamp(min=floor).mean(),
            (
                "you averaged over latents; the KL is a sum.",
                "Average over the examples alone; over the latents, sum.",
            ),
        ),
        Mistake(
            lambda kl, floor: kl.mean(dim=0).clamp(max=floor).sum(),
            (
                "you took the smaller of the two; the floor is a lower bound.",
                "The objective charges at least the floor, so that to go below it gains nothing.",
            ),
        ),
        Mistake(
            lambda kl, floor: (kl.mean(dim=0) - floor).clamp(min=0).sum(),
            (
                "you charged only what exceeds the floor.",
                "Its gradient is right, its value is not: add the floor back for each latent.",
            ),
        ),
    ),
    "correlated_sample": (
        Mistake(
            lambda mu, scale_tril, eps: mu + (scale_tril.mT @ eps[..., None])[..., 0],
            (
                "you multiplied by the transposed factor.",
                "The covariance of A eps is A A^T, so A must be L and not its transpose.",
                "For row vectors, eps @ L gives the transpose: use L @ eps[..., None].",
            ),
        ),
        Mistake(
            lambda mu, scale_tril, eps: mu + scale_tril.diagonal(dim1=1, dim2=2) * eps,
            (
                "you used the factor's diagonal alone: the latents are not correlated.",
                "Each latent needs the noise of those before it as well.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril, eps: mu + (scale_tril @ scale_tril.mT @ eps[..., None])[..., 0],
            (
                "you multiplied by the covariance instead of its factor.",
                "The covariance of A eps is A A^T, so A is a square root of the covariance.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril, eps: (scale_tril @ (mu + eps)[..., None])[..., 0],
            (
                "you scaled the mean as well.",
                "The factor acts on the noise; the mean is added afterwards.",
            ),
        ),
    ),
    "evidence_error": (
        Mistake(
            lambda log_w: log_w.std(dim=0) / math.sqrt(len(log_w)),
            (
                "this is the standard error of the ELBO, the mean of the logarithms.",
                "Here the logarithm comes after the mean.",
                "By the delta method the error of log m is the error of m over m.",
            ),
        ),
        Mistake(
            lambda log_w: _ratios(log_w).std(dim=0),
            (
                "you forgot that a mean of S weights errs less than one weight.",
                "Divide by the square root of S.",
            ),
        ),
        Mistake(
            lambda log_w: _ratios(log_w).std(dim=0) / len(log_w),
            (
                "you divided by S; the error of a mean falls with the square root of S.",
                "The variance of the mean is that of one weight over S.",
            ),
        ),
        Mistake(
            lambda log_w: _ratios(log_w).var(dim=0) / len(log_w),
            (
                "this is the squared error: the root is missing.",
                "A standard error has the unit of what it belongs to, here nats.",
            ),
        ),
        Mistake(
            lambda log_w: _ratios(log_w).std(dim=0, correction=0) / math.sqrt(len(log_w)),
            (
                "you divided the sum of squares by S; an unbiased variance divides by S - 1.",
                "The mean of the weights is itself estimated from them.",
            ),
        ),
    ),
}


def _example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Means, factors and noise that no slip leaves unchanged."""
    generator = torch.Generator().manual_seed(seed)
    mu, eps = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    below = torch.randn(4, 3, 3, dtype=torch.float64, generator=generator).tril(-1)
    return mu, below + torch.diag_embed(0.5 + mu.abs()), eps


def check_full_gaussian_kl(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(mu, scale_tril)``: KL(N(mu, L L^T) || N(0, I)) of each example.

    Args:
        fn: Your function, of means (B, L) and lower-triangular factors (B, L, L); it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    mu, scale_tril, _ = _example()
    inputs = {"mu": mu, "scale_tril": scale_tril}
    mistakes = MISTAKES["full_gaussian_kl"]
    right = _kl(mu, scale_tril)
    compare(fn(mu, scale_tril), right, inputs=inputs, mistakes=mistakes, hints=hints)
    standard = fn(torch.zeros_like(mu), torch.eye(3).to(mu).expand(4, 3, 3))
    if not torch.allclose(standard, torch.zeros_like(standard), atol=1e-9):
        raise CheckFailed("The divergence of the standard normal from itself must be zero.")


def check_free_bits(fn: Callable[[Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(kl, floor)``: the KL term with free bits, one number a batch.

    Args:
        fn: Your function, of divergences (B, L) by latent and a floor in nats; it gives a scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    kl = torch.tensor([[0.1, 2.0, 0.9], [0.2, 0.2, 1.3]], dtype=torch.float64)
    right = torch.tensor(0.5 + 1.1 + 1.1, dtype=torch.float64)
    inputs = {"kl": kl, "floor": 0.5}
    mistakes = MISTAKES["free_bits"]
    compare(fn(kl, 0.5), right, inputs=inputs, mistakes=mistakes, hints=hints)
    inputs = {"kl": kl, "floor": 0.0}
    compare(fn(kl, 0.0), kl.sum() / 2, inputs=inputs, mistakes=mistakes, hints=hints)
    kl = kl.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fn(kl, 0.5), kl)
    if gradient[:, 0].abs().max() > 0:
        raise CheckFailed("A latent below the floor must get no gradient.")


def check_correlated_sample(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(mu, scale_tril, eps)``: a sample of N(mu, L L^T) made from noise.

    Args:
        fn: Your function, of means (B, L), lower-triangular factors (B, L, L) and standard normal
            noise (B, L); it gives (B, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    mu, scale_tril, eps = _example()
    inputs = {"mu": mu, "scale_tril": scale_tril, "eps": eps}
    right = torch.einsum("bij,bj->bi", scale_tril, eps) + mu
    mistakes = MISTAKES["correlated_sample"]
    compare(fn(mu, scale_tril, eps), right, inputs=inputs, mistakes=mistakes, hints=hints)


def check_evidence_error(fn: Callable[[Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(log_w)``: the standard error of the logarithm of a mean weight.

    Args:
        fn: Your function, of log-weights (S, B); it gives (B,), in nats.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    log_w = torch.randn(8, 3, dtype=torch.float64, generator=generator)
    mistakes = MISTAKES["evidence_error"]
    weights = log_w.exp()
    right = weights.std(dim=0) / weights.mean(dim=0) / math.sqrt(8)
    compare(fn(log_w), right, inputs={"log_w": log_w}, mistakes=mistakes, hints=hints)
    far = fn(log_w - 1000)
    if not torch.isfinite(far).all() or not torch.allclose(far, right):
        raise CheckFailed(
            "The answer changes when 1000 nats are taken off every log-weight: exp underflows.\n"
            "A ratio of weights keeps if all are multiplied by one number: take off the largest "
            "log-weight before exp."
        )
