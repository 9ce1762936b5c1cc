"""Checks of what the chapter on variational autoencoders and its assignment ask for."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare, takes_function

__all__ = [
    "MISTAKES",
    "check_arc_point",
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


def _arc(z_0: Tensor, z_1: Tensor, t: float, omega: Tensor) -> Tensor:
    """Weights that take two unit vectors at an angle to the one at t times it, put on the ends."""
    first = torch.stack([torch.ones_like(omega), torch.zeros_like(omega)], dim=-1)
    ends = torch.stack([first, torch.stack([omega.cos(), omega.sin()], dim=-1)], dim=-1)
    wanted = torch.stack([(t * omega).cos(), (t * omega).sin()], dim=-1)
    a, b = torch.linalg.solve(ends, wanted).unbind(dim=-1)
    point: Tensor = a[:, None] * z_0 + b[:, None] * z_1
    return point


def _angle(z_0: Tensor, z_1: Tensor) -> Tensor:
    """The angle of each pair, (B,)."""
    return torch.cosine_similarity(z_0, z_1).arccos()


def _unit(z: Tensor) -> Tensor:
    unit: Tensor = z / z.square().sum(dim=1, keepdim=True).sqrt()
    return unit


def _lengthened(z: Tensor, z_0: Tensor, z_1: Tensor, t: float) -> Tensor:
    """Vectors of given directions whose lengths go straight from those of z_0 to those of z_1."""
    lengths = (1 - t) * z_0.square().sum(dim=1).sqrt() + t * z_1.square().sum(dim=1).sqrt()
    return _unit(z) * lengths[:, None]


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "arc_point": (
        Mistake(
            lambda z_0, z_1, t: (1 - t) * z_0 + t * z_1,
            (
                "this is the straight line: it passes nearer to the origin than the arc.",
                "The weights of the ends are ratios of sines, and add up to more than one.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _arc(z_0, z_1, 1 - t, _angle(z_0, z_1)),
            (
                "you walk from z_1 to z_0: the ends are swapped.",
                "At t = 0 the weight of z_0 must be one, and that of z_1 zero.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: (
                _angle(z_0, z_1).sin()[:, None] * _arc(z_0, z_1, t, _angle(z_0, z_1))
            ),
            (
                "you forgot to divide by the sine of the whole angle.",
                "At t = 0 you must get z_0 itself, and you get it shortened.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _arc(z_0, z_1, t, (z_0 * z_1).sum(dim=1).arccos()),
            (
                "you took the inner product of the ends for the cosine of their angle.",
                "That holds for unit vectors: divide by both lengths first.",
                "With long vectors it exceeds one, and its arccosine is NaN.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _arc(_unit(z_0), _unit(z_1), t, _angle(z_0, z_1)),
            (
                "you lost the lengths: what you give are unit vectors.",
                "Only the angle comes from the unit vectors; the weights act on z_0 and z_1.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _arc(
                z_0, z_1, t, torch.cosine_similarity(z_0.flatten(), z_1.flatten(), 0).arccos()[None]
            ),
            (
                "you used one angle for the whole batch; each pair has its own.",
                "Take inner products and lengths along the latents, dim=1.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _lengthened((1 - t) * z_0 + t * z_1, z_0, z_1, t),
            (
                "you put the straight line's points back at the right length; they are not where "
                "the arc is at that time.",
                "The point at t must make the angle t omega with z_0.",
                "In the middle of two ends of one length both agree; elsewhere they do not.",
            ),
        ),
        Mistake(
            lambda z_0, z_1, t: _lengthened(
                _arc(_unit(z_0), _unit(z_1), t, _angle(z_0, z_1)), z_0, z_1, t
            ),
            (
                "you let the lengths change in a straight line, apart from the directions.",
                "The weights that hold for unit vectors act on z_0 and z_1 as they are.",
            ),
        ),
    ),
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
                "An entry of the covariance's diagonal is the squared length of a row of T.",
                "The trace of T T^T is the sum of the squares of all entries of T.",
            ),
        ),
        Mistake(
            lambda mu, scale_tril: 0.5 * mu.square().sum(dim=1),
            (
                "this is the price of the means alone; the covariance has one too.",
                "It vanishes when the covariance is the identity, and then only.",
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
                "The covariance of A eps is A A^T, so A must be T and not its transpose.",
                "For row vectors, eps @ T gives the transpose: use T @ eps[..., None].",
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
            lambda log_w: log_w.exp().std(dim=0) / math.sqrt(len(log_w)),
            (
                "this is the standard error of m itself, not of its logarithm.",
                "To first order an error of m becomes one of log m when it is divided by m.",
            ),
        ),
        Mistake(
            lambda log_w: torch.exp(log_w - log_w.amax(dim=0)).std(dim=0) / math.sqrt(len(log_w)),
            (
                "you divided by the largest weight, where the mean of the weights belongs.",
                "To take off the largest log-weight scales the weights and their mean alike.",
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


def _slopes(fn: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the sum of what a function gives, in each of its arguments."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    value = fn(*(1 * leaf for leaf in leaves))  # no leaves: a function may work in place
    if not value.requires_grad:
        raise CheckFailed("No gradient gets through: stay with tensors, without item or detach.")
    return torch.autograd.grad(value.sum(), leaves, materialize_grads=True)


@takes_function
def check_arc_point(fn: Callable[[Tensor, Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(z_0, z_1, t)``: points on the arcs between two batches of latents.

    Args:
        fn: Your function, of latents (B, L), as many others (B, L), and the share t of the way
            from the first to the second, a number in [0, 1]; it gives (B, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    z_0, z_1 = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    z_0, z_1 = 0.9 * _unit(z_0), 0.6 * _unit(z_1)  # so short that each product has an arccosine
    mistakes = MISTAKES["arc_point"]
    for scale, t in ((1.0, 0.3), (7.0, 0.8)):
        inputs = {"z_0": scale * z_0, "z_1": scale * z_1, "t": t}
        right = scale * _arc(z_0, z_1, t, _angle(z_0, z_1))
        value = fn(scale * z_0, scale * z_1, t)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    for t, end in ((0.0, z_0), (1.0, z_1)):
        if not torch.allclose(fn(z_0.clone(), z_1.clone(), t).to(end), end):
            raise CheckFailed(f"At t = {t:g} the arc must be at z_{t:g}.")


@takes_function
def check_full_gaussian_kl(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(mu, scale_tril)``: KL(N(mu, T T^T) || N(0, I)) of each example.

    Args:
        fn: Your function, of means (B, L) and lower-triangular factors T (B, L, L); it gives
            (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    mu, scale_tril, _ = _example()
    inputs = {"mu": mu, "scale_tril": scale_tril}
    mistakes = MISTAKES["full_gaussian_kl"]
    right = _kl(mu, scale_tril)
    value = fn(mu.clone(), scale_tril.clone())
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    standard = fn(torch.zeros_like(mu), torch.eye(3).to(mu).repeat(4, 1, 1))
    if not torch.allclose(standard, torch.zeros_like(standard), atol=1e-9):
        raise CheckFailed("The divergence of the standard normal from itself must be zero.")


@takes_function
def check_free_bits(fn: Callable[[Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(kl, floor)``: the KL term with free bits, one number a batch.

    Args:
        fn: Your function, of divergences (B, L) by latent and a floor in nats; it gives a scalar
            with a gradient.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    kl = torch.tensor([[0.1, 2.0, 0.9], [0.2, 0.2, 1.3]], dtype=torch.float64)
    right = torch.tensor(0.5 + 1.1 + 1.1, dtype=torch.float64)
    inputs = {"kl": kl, "floor": 0.5}
    mistakes = MISTAKES["free_bits"]
    compare(fn(kl.clone(), 0.5), right, inputs=inputs, mistakes=mistakes, hints=hints)
    inputs = {"kl": kl, "floor": 0.0}
    compare(fn(kl.clone(), 0.0), kl.sum() / 2, inputs=inputs, mistakes=mistakes, hints=hints)
    (gradient,) = _slopes(lambda kl: fn(kl, 0.5), kl)
    if gradient[:, 0].abs().max() > 0:
        raise CheckFailed("A latent below the floor must get no gradient.")
    if not torch.allclose(gradient[:, 1:], torch.full_like(gradient[:, 1:], 0.5)):
        raise CheckFailed("A latent above the floor must get the gradient of the batch's mean.")


@takes_function
def check_correlated_sample(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(mu, scale_tril, eps)``: a sample of N(mu, T T^T) made from noise.

    Args:
        fn: Your function, of means (B, L), lower-triangular factors T (B, L, L) and standard normal
            noise (B, L); it gives (B, L), with gradients in means and factors.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    mu, scale_tril, eps = _example()
    inputs = {"mu": mu, "scale_tril": scale_tril, "eps": eps}
    right = torch.einsum("bij,bj->bi", scale_tril, eps) + mu
    mistakes = MISTAKES["correlated_sample"]
    value = fn(mu.clone(), scale_tril.clone(), eps.clone())
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    of_mean, of_factor = _slopes(lambda mu, factor: fn(mu, factor, eps.clone()), mu, scale_tril)
    reached = torch.allclose(of_mean, torch.ones_like(mu))
    if not reached or not torch.allclose(of_factor.tril(), eps[:, None].expand(4, 3, 3).tril()):
        raise CheckFailed("The gradient of a sample must reach the mean and the factor.")


@takes_function
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
    value = fn(log_w.clone())
    compare(value, right, inputs={"log_w": log_w}, mistakes=mistakes, hints=hints)
    for shift in (-1000.0, 1000.0):
        if not torch.allclose(fn(log_w + shift).to(right), right):
            way = "taken off" if shift < 0 else "added to"
            what = "underflows" if shift < 0 else "overflows"
            raise CheckFailed(
                f"The answer changes when 1000 nats are {way} every log-weight: exp {what}.\n"
                "A ratio of weights keeps if all are multiplied by one number: take off the "
                "largest log-weight before exp."
            )
    if not torch.allclose(fn(log_w - torch.tensor([0.0, 1000.0, 2000.0])).to(right), right):
        raise CheckFailed(
            "The answer changes when examples lie 1000 nats apart: exp underflows.\n"
            "Take off the largest log-weight of each example, not of all of them."
        )
