"""Checks of what the assignment and the exercises on denoising autoencoders ask for."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare, takes_function

__all__ = [
    "MISTAKES",
    "check_count_denoiser",
    "check_masking_shrinkage",
    "check_posterior_covariance",
    "check_probe_divergence",
    "check_stein_risk",
    "check_unmasked_mean",
]

Denoiser = Callable[[Tensor], Tensor]


def _ratio(counts: Tensor, log_pmf: Tensor) -> Tensor:
    """p(y + 1) / p(y) for each count."""
    return torch.exp(log_pmf[counts + 1] - log_pmf[counts])


def _lost_and_weights(x_tilde: Tensor, theta: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Chance that a dark pixel was lost, (K, D), and of the components, (B, K)."""
    stays = (1 - p) * theta
    evidence = x_tilde @ stays.log().T + (1 - x_tilde) @ torch.log1p(-stays).T
    return p * theta / (1 - stays), torch.softmax(evidence, dim=1)


def _filled(x_tilde: Tensor, guess: Tensor) -> Tensor:
    """The pixels that are seen, and a guess where nothing is."""
    return torch.where(x_tilde > 0, x_tilde, guess)


def _clean_weights(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    evidence = x_tilde @ theta.log().T + (1 - x_tilde) @ torch.log1p(-theta).T
    return _filled(
        x_tilde, torch.softmax(evidence, dim=1) @ _lost_and_weights(x_tilde, theta, p)[0]
    )


def _pixel_weights(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    stays = (1 - p) * theta  # (K, D)
    weights = (1 - stays) / (1 - stays).sum(dim=0)
    return _filled(x_tilde, (weights * p * theta / (1 - stays)).sum(dim=0).expand_as(x_tilde))


def _unmasked(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    lost, weights = _lost_and_weights(x_tilde, theta, p)
    return _filled(x_tilde, weights @ lost)


def _unmasked_by_theta(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    return _filled(x_tilde, _lost_and_weights(x_tilde, theta, p)[1] @ theta)


def _unmasked_nothing_known(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    lost, weights = _lost_and_weights(x_tilde, theta, p)
    return weights @ lost


def _unmasked_unweighted(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    lost, _ = _lost_and_weights(x_tilde, theta, p)
    return _filled(x_tilde, lost.mean(dim=0).expand_as(x_tilde))


def _unmasked_by_mean_theta(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    theta = _lost_and_weights(x_tilde, theta, p)[1] @ theta  # (B, D)
    return _filled(x_tilde, p * theta / (1 - (1 - p) * theta))


def _unmasked_undivided(x_tilde: Tensor, theta: Tensor, p: float) -> Tensor:
    return _filled(x_tilde, p * _lost_and_weights(x_tilde, theta, p)[1] @ theta)


def _risk(answer: Tensor, x_tilde: Tensor, divergence: Tensor, std: float) -> Tensor:
    """Each term of the expanded square by its own unbiased estimate."""
    clean_norm = (x_tilde.square() - std**2).sum(dim=1)
    product = (answer * x_tilde).sum(dim=1) - std**2 * divergence
    return answer.square().sum(dim=1) - 2 * product + clean_norm


def _jacobians(denoise: Denoiser, x_tilde: Tensor) -> Tensor:
    """The Jacobian of each example's answer, (B, D, D)."""
    jacobians: Tensor = torch.func.vmap(torch.func.jacrev(denoise))(x_tilde)
    return jacobians


def _pulled(denoise: Denoiser, x_tilde: Tensor, probes: Tensor) -> Tensor:
    """The transposed Jacobian times each probe, (S, B, D)."""
    return torch.einsum("bij,sbi->sbj", _jacobians(denoise, x_tilde), probes)


def _probed(denoise: Denoiser, x_tilde: Tensor, probes: Tensor) -> Tensor:
    return (_pulled(denoise, x_tilde, probes) * probes).sum(dim=2).mean(dim=0)


def _pushed_norm(denoise: Denoiser, x_tilde: Tensor, probes: Tensor) -> Tensor:
    """The mean squared norm of the Jacobian times a probe, (B,)."""
    pushed = torch.einsum("bij,sbj->sbi", _jacobians(denoise, x_tilde), probes)
    return pushed.square().sum(dim=2).mean(dim=0)


def _energy(mean: Tensor, covariance: Tensor) -> Tensor:
    """The mean square of each pixel, on the diagonal of (D, D)."""
    return (covariance.diagonal() + mean.square()).diag()


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """Product of the first matrix with the inverse of the second."""
    quotient: Tensor = torch.linalg.solve(below, above, left=False)
    return quotient


def _step_jacobians(denoise: Denoiser, x_tilde: Tensor) -> Tensor:
    """The Jacobian of each example's step, answer less input, (B, D, D)."""
    return _jacobians(lambda x: denoise(x) - x, x_tilde)


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "count_denoiser": (
        Mistake(
            lambda counts, log_pmf: _ratio(counts, log_pmf),
            (
                "you left out the factor y + 1.",
                "It comes from the factorials: (y + 1)! is y + 1 times y!.",
            ),
        ),
        Mistake(
            lambda counts, log_pmf: counts * _ratio(counts, log_pmf),
            (
                "you multiplied by y; the factor is y + 1.",
                "x times x^y / y! is (y + 1) times x^(y+1) / (y + 1)!.",
                "A count of zero would get the answer zero, and a small rate gives zeros too.",
            ),
        ),
        Mistake(
            lambda counts, log_pmf: (counts + 1) / _ratio(counts, log_pmf),
            (
                "the ratio is upside down.",
                "Where larger counts are likelier, p(y + 1) > p(y), the answer must be larger.",
            ),
        ),
        Mistake(
            lambda counts, log_pmf: counts * _ratio((counts - 1).clamp(min=0), log_pmf),
            (
                "this is the answer to a count that is smaller by one.",
                "You used p(y) / p(y - 1). Bayes' rule puts p(y) into the denominator.",
            ),
        ),
        Mistake(
            lambda counts, log_pmf: counts + log_pmf[counts + 1] - log_pmf[counts],
            (
                "you used the formula for Gaussian noise, with a difference for the gradient.",
                "Here the noise is Poisson's: start from Bayes' rule, not from the score.",
                "The answer is a ratio of probabilities times a factor, not a sum.",
            ),
        ),
        Mistake(
            lambda counts, log_pmf: (counts + 1) * log_pmf[counts + 1] / log_pmf[counts],
            (
                "you divided logarithms; the ratio is that of the probabilities.",
                "The exponential of a difference of logarithms is a ratio.",
            ),
        ),
    ),
    "unmasked_mean": (
        Mistake(
            _clean_weights,
            (
                "you weighed the components as if the image were clean.",
                "A dark pixel speaks less against a component when pixels get lost.",
                "In component k a pixel is still one with probability (1 - p) theta.",
            ),
        ),
        Mistake(
            _unmasked_by_theta,
            (
                "you answered as if every dark pixel had been lost.",
                "Some dark pixels were dark before: Bayes' rule lowers theta.",
                "Divide the probability of a one that is lost by that of any dark pixel.",
            ),
        ),
        Mistake(
            lambda x_tilde, theta, p: _unmasked(x_tilde, theta, 1 - p),
            (
                "you took p for the probability that a pixel survives.",
                "p is the probability of losing it, as in the chapter.",
            ),
        ),
        Mistake(
            _unmasked_unweighted,
            (
                "you gave the components equal weights.",
                "They are equally likely before the image is seen; then Bayes' rule weighs them.",
            ),
        ),
        Mistake(
            _unmasked_nothing_known,
            (
                "you guessed at pixels that survived.",
                "Masking makes no ones: a pixel that is one was one.",
            ),
        ),
        Mistake(
            _pixel_weights,
            (
                "you weighed the components for each pixel by itself.",
                "All pixels of an image come from one component, so all of them speak for it.",
                "Sum the logarithms over the pixels before the softmax.",
            ),
        ),
        Mistake(
            _unmasked_undivided,
            (
                "you left out the denominator of Bayes' rule.",
                "p theta is the probability of a one that is lost, not given that it is dark.",
                "Divide by the probability that the pixel is dark, in each component.",
            ),
        ),
        Mistake(
            _unmasked_by_mean_theta,
            (
                "you averaged theta over the components before you used Bayes' rule for a pixel.",
                "Find the answer in each component first; the weights average the answers.",
                "The mean of fractions is not the fraction of the means.",
            ),
        ),
    ),
    "stein_risk": (
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                (answer - x_tilde).square().sum(dim=1) + 2 * std**2 * divergence
            ),
            (
                "you left out what the noise itself contributes, D times its variance.",
                "For the answer r(x~) = x~ the error is the noise: D s^2, and its divergence is D.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) - std**2 * divergence
            ),
            (
                "you forgot the factor two before the divergence.",
                "It comes from the mixed term of the square.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) - 4 * std**2 * divergence
            ),
            (
                "the divergence has the wrong sign.",
                "An answer that follows the noise has a large divergence, and must pay for it.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) + 2 * (std - std**2) * divergence
            ),
            (
                "you multiplied the divergence by the standard deviation, not the variance.",
                "One s stands before the noise in x~, the other comes from the chain rule.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) + (x_tilde.shape[1] - 1) * std**2
            ),
            (
                "you took off the variance of one coordinate; the noise has D of them.",
                "The squared norm of standard normal noise has the mean D.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) + 2 * x_tilde.shape[1] * std**2
            ),
            (
                "you added D times the variance; it is taken off.",
                "The squared noise gives it once, the divergence of r(x~) - x~ takes it off twice.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) - x_tilde.shape[1] * std**2
            ),
            (
                "you left out the square of the noise itself.",
                "The expanded square has three terms, and the last has the mean D s^2.",
            ),
        ),
        Mistake(
            lambda answer, x_tilde, divergence, std: (
                _risk(answer, x_tilde, divergence, std) / x_tilde.shape[1]
            ),
            (
                "you averaged over the coordinates; the squared error is a sum.",
                "Sum over the second axis, as the chapter's squared error does.",
            ),
        ),
    ),
    "probe_divergence": (
        Mistake(
            lambda denoise, x_tilde, probes: (
                _pulled(denoise, x_tilde, probes).square().sum(dim=2).mean(dim=0)
            ),
            (
                "this estimates the Jacobian's squared norm; the divergence is its trace.",
                "Do not square the product of Jacobian and probe: multiply it by the probe.",
            ),
        ),
        Mistake(
            _pushed_norm,
            (
                "you squared J v, whose mean is the Jacobian's squared norm; a trace is asked for.",
                "Multiply J v by the probe, and sum.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, probes: len(probes) * _probed(denoise, x_tilde, probes),
            (
                "you summed over the probes; the estimate is their mean.",
                "Each probe alone gives an unbiased estimate already.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, probes: _probed(denoise, x_tilde, probes) / x_tilde.shape[1],
            (
                "you averaged over the coordinates; a trace is a sum.",
                "Sum over the coordinates, average over the probes.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, probes: (
                _pulled(denoise, x_tilde, probes).sum(dim=2).mean(dim=0)
            ),
            (
                "you left out the second product with the probe.",
                "The estimate is v^T J v: a quadratic form in the probe.",
                "J^T v alone has the mean zero.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, probes: (
                _jacobians(denoise, x_tilde).diagonal(dim1=1, dim2=2).sum(dim=1)
            ),
            (
                "this is the exact divergence; the estimate from the given probes is asked for.",
                "It costs a pass for each coordinate. Spend one for each probe.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, probes: (
                _probed(denoise, x_tilde, probes) - probes.square().sum(dim=2).mean(dim=0)
            ),
            (
                "this is the divergence of the step; that of the answer is asked for.",
                "Differentiate r(x~), not r(x~) - x~.",
            ),
        ),
    ),
    "masking_shrinkage": (
        Mistake(
            lambda mean, covariance, p: _quotient(
                covariance, (1 - p) * covariance + p * covariance.diagonal().diag()
            ),
            (
                "you forgot the squared mean: a mask hits what a pixel is, not how far it varies.",
                "Without it, a bright pixel that never changes would seem to get no noise.",
                "On the diagonal stands a pixel's mean square, its variance plus its mean squared.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: _quotient(
                covariance, (1 - p) ** 2 * covariance + p * (1 - p) * _energy(mean, covariance)
            ),
            (
                "the covariance of clean and masked pixels lacks its factor 1 - p.",
                "A pixel that is lost varies with nothing: Cov(x, x~) is smaller than Cov(x).",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: _quotient(
                (1 - p) * covariance, (1 - p) * covariance + p * _energy(mean, covariance)
            ),
            (
                "there is one factor 1 - p too many: you cancelled it below and kept it above.",
                "As p tends to one it must not vanish: the rare pixel that is seen tells a lot.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: (
                _quotient(covariance, (1 - p) * covariance + p * _energy(mean, covariance)).T
            ),
            (
                "the factors are in the wrong order: this is the transpose.",
                "The covariance and the diagonal matrix do not commute.",
                "Where x~ is a row, the matrix stands on its right, and transposed.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: _quotient(
                covariance, (1 - p) * covariance + p * (covariance + torch.outer(mean, mean))
            ),
            (
                "you treated pairs of different pixels like a pixel with itself.",
                "The masks of two pixels are independent: both survive with (1 - p)^2.",
                "The second moments belong on the diagonal alone.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: torch.eye(len(mean)).to(covariance) / (1 - p),
            (
                "you treated a pixel with itself like pairs of different pixels.",
                "The square of 1 - m is 1 - m: its mean is 1 - p, not (1 - p)^2.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: _quotient(
                covariance, covariance + p * _energy(mean, covariance)
            ),
            (
                "you took the noise as independent of the data, with the damage as its variance.",
                "What masking adds is -m x: where x is large, it takes off much.",
                "Compute Cov(x, x~) and Cov(x~) from x~ = (1 - m) x.",
            ),
        ),
        Mistake(
            lambda mean, covariance, p: _quotient(
                covariance, p * covariance + (1 - p) * _energy(mean, covariance)
            ),
            (
                "you took p for the probability that a pixel survives.",
                "p is the probability of losing it. Without loss the answer is what is seen.",
            ),
        ),
    ),
    "posterior_covariance": (
        Mistake(
            lambda denoise, x_tilde, std: _jacobians(denoise, x_tilde),
            (
                "this is the Jacobian itself; the covariance is it times the noise's variance.",
                "Units tell: a Jacobian has none, a covariance has those of x squared.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, std: std * _jacobians(denoise, x_tilde),
            (
                "you multiplied by the standard deviation, not the variance.",
                "Units tell: a covariance has those of x squared.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, std: _jacobians(denoise, x_tilde) / std**2,
            (
                "you divided by the variance of the noise; solve for the covariance.",
                "The Jacobian is the covariance over s^2.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, std: std**2 * _step_jacobians(denoise, x_tilde),
            (
                "you differentiated the step m(x~) - x~; take the answer m(x~).",
                "A variance is never negative, and this can be.",
                "By the score: s^2 times the identity, plus s^4 times the Jacobian of the score.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, std: -(std**2) * _step_jacobians(denoise, x_tilde),
            (
                "this is s^2 (I - J); the covariance is s^2 J.",
                "A denoiser that always gives the same answer is certain of it, and has J = 0.",
            ),
        ),
        Mistake(
            lambda denoise, x_tilde, std: (
                std**2 * _jacobians(denoise, x_tilde).diagonal(dim1=1, dim2=2).diag_embed()
            ),
            (
                "you kept the variances and dropped the covariances.",
                "Given x~ the coordinates of x still vary together.",
            ),
        ),
    ),
}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _mixture_of_rates(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rates, their probabilities, and log p(y) for the counts below n."""
    rates = torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    every = torch.arange(n, dtype=torch.float64)[:, None]
    log_parts = torch.distributions.Poisson(rates).log_prob(every)  # (n, K)
    return rates, weights, torch.logsumexp(log_parts + weights.log(), dim=1)


@takes_function
def check_count_denoiser(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(counts, log_pmf)``: the mean rate given a Poisson count.

    Args:
        fn: Your function, of integer counts (B,) and the logarithms (N,) of p(0), ..., p(N - 1),
            where no count exceeds N - 2; it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    rates, weights, log_pmf = _mixture_of_rates(12)
    counts = torch.tensor([0, 1, 2, 3, 5, 9])
    joint = weights * torch.distributions.Poisson(rates).log_prob(counts[:, None].double()).exp()
    right = (joint @ rates) / joint.sum(dim=1)
    inputs = {"counts": counts, "log_pmf": log_pmf}
    mistakes = MISTAKES["count_denoiser"]
    value = fn(counts.clone(), log_pmf.clone())
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    rare, far = torch.tensor([400]), _mixture_of_rates(402)[2]
    value = fn(rare, far).to(rates)
    if not torch.isfinite(value).all() or not torch.allclose(value, rates[-1:]):
        raise CheckFailed(
            "The answer to a count of 400 is wrong: its probability underflows in exp.\n"
            "Take the difference of the two logarithms first; it is small."
        )


@takes_function
def check_unmasked_mean(fn: Callable[[Tensor, Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(x_tilde, theta, p)``: the best denoiser of masked binary images.

    Args:
        fn: Your function, of masked images (B, D) of zeros and ones, the probabilities (K, D) of a
            one in each of K equally likely components, and the probability of losing a pixel; it
            gives (B, D).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    p, theta = 0.3, torch.sigmoid(_normal(3, 4))
    bits = torch.arange(2).double()
    images = torch.cartesian_prod(bits, bits, bits, bits)  # all of them, (16, D)
    x_tilde = images[[0, 3, 4, 9, 14]]
    prior = torch.where(images[:, None] > 0, theta, 1 - theta).prod(dim=2).mean(dim=1)  # (16,)
    clean, seen = images[None], x_tilde[:, None]
    noise = torch.where(seen > 0, (1 - p) * clean, 1 - clean + p * clean).prod(dim=2)
    joint = prior * noise  # (B, 16)
    right = (joint @ images) / joint.sum(dim=1, keepdim=True)
    inputs = {"x_tilde": x_tilde, "theta": theta, "p": p}
    mistakes = MISTAKES["unmasked_mean"]
    value = fn(x_tilde.clone(), theta.clone(), p)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    twice = theta[:1].expand(2, -1).repeat(1, 1000)  # two components that are the same
    dark = fn(torch.zeros_like(twice[:1]), twice, p)
    alone = fn(torch.zeros_like(theta[:1]), theta[:1], p).repeat(1, 1000)
    if not torch.isfinite(dark).all() or not torch.allclose(dark, alone):
        raise CheckFailed(
            "With 4000 pixels the answer is wrong: a product of so many probabilities underflows.\n"
            "Sum their logarithms over the pixels, and let torch.softmax do the rest."
        )


@takes_function
def check_stein_risk(
    fn: Callable[[Tensor, Tensor, Tensor, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(answer, x_tilde, divergence, std)``: Stein's estimate of the error.

    Args:
        fn: Your function, of answers (B, D), noisy inputs (B, D), the answers' divergences (B,) and
            the standard deviation of the noise; it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    std, answer, x_tilde = 0.6, _normal(5, 3), _normal(5, 3, seed=1)
    divergence = _normal(5, seed=2)
    inputs = {"answer": answer, "x_tilde": x_tilde, "divergence": divergence, "std": std}
    right = _risk(answer, x_tilde, divergence, std)
    mistakes = MISTAKES["stein_risk"]
    value = fn(answer.clone(), x_tilde.clone(), divergence.clone(), std)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)

    # unbiased: over all noise, by quadrature, it averages to the error that nobody is told
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(12))
    noise = torch.cartesian_prod(points, points)  # (144, 2)
    weight = torch.cartesian_prod(weights, weights).prod(dim=1)
    clean = torch.tensor([0.4, -0.7], dtype=torch.float64)
    x_tilde = clean + std * noise
    answer = 0.5 * x_tilde - 0.1 * x_tilde**3 + 0.2 * x_tilde.flip(1)
    divergence = (0.5 - 0.3 * x_tilde.square()).sum(dim=1)
    error = (weight * (answer - clean).square().sum(dim=1)).sum() / weight.sum()
    mean = (weight * fn(answer, x_tilde, divergence, std)).sum() / weight.sum()
    if not torch.allclose(mean, error):
        raise CheckFailed(
            f"Averaged over the noise the estimate is {mean:.6g}, and the error is {error:.6g}."
        )


@takes_function
def check_probe_divergence(
    fn: Callable[[Denoiser, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(denoise, x_tilde, probes)``: a divergence from a few probes.

    Args:
        fn: Your function, of a denoiser that maps (B, D) to (B, D), noisy inputs (B, D) and probes
            (S, B, D); it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    into, out = _normal(3, 5), _normal(5, 3, seed=1)

    def denoise(x_tilde: Tensor) -> Tensor:
        return torch.tanh(x_tilde @ into) @ out

    x_tilde, probes = _normal(4, 3, seed=2), _normal(6, 4, 3, seed=3)
    right = _probed(denoise, x_tilde, probes)
    inputs = {"denoise": denoise, "x_tilde": x_tilde, "probes": probes}
    mistakes = MISTAKES["probe_divergence"]
    value = fn(denoise, x_tilde.clone(), probes.clone())
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    axes = 3**0.5 * torch.eye(3, dtype=torch.float64)[:, None].expand(3, 4, 3)
    exact = _jacobians(denoise, x_tilde).diagonal(dim1=1, dim2=2).sum(dim=1)
    compare(fn(denoise, x_tilde.clone(), axes.clone()), exact, inputs={}, hints=hints)
    into.requires_grad_()
    value = fn(denoise, x_tilde, probes).sum()
    if not value.requires_grad:
        raise CheckFailed(
            "The estimate is cut off from the network's parameters, so that no loss can hold it.\n"
            "torch.autograd.grad needs create_graph=True; torch.func.vjp and jvp do it unasked."
        )
    (slope,) = torch.autograd.grad(value, into, allow_unused=True)
    (wanted,) = torch.autograd.grad(_probed(denoise, x_tilde, probes).sum(), into)
    if slope is None or not torch.allclose(slope, wanted):
        raise CheckFailed("The estimate is right, its gradient in the network's parameters is not.")


@takes_function
def check_masking_shrinkage(
    fn: Callable[[Tensor, Tensor, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(mean, covariance, p)``: the best affine denoiser of masking noise.

    Args:
        fn: Your function, of the mean (D,) and the covariance (D, D) of the clean data and the
            probability of losing a pixel, 0 < p < 1; it gives the matrix (D, D) that multiplies
            the deviation of a masked image, a column, from its mean.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    p, points = 0.3, 0.8 + _normal(5, 3)
    chances = torch.softmax(_normal(5, seed=1), dim=0)
    mean = chances @ points
    covariance = (points - mean).T @ (chances[:, None] * (points - mean))
    # least squares over every point under every mask: it knows no formula
    bits = torch.arange(2).double()
    kept = torch.cartesian_prod(bits, bits, bits)  # (8, D)
    weight = chances[:, None] * torch.where(kept > 0, 1 - p, p).prod(dim=1)  # (5, 8)
    masked = (points[:, None] * kept).reshape(-1, 3)
    clean = points[:, None].expand(5, 8, 3).reshape(-1, 3)
    root = weight.sqrt().reshape(-1, 1)
    features = torch.cat([masked, torch.ones(len(masked), 1, dtype=torch.float64)], dim=1)
    right = torch.linalg.lstsq(root * features, root * clean).solution[:3].T
    inputs = {"mean": mean, "covariance": covariance, "p": p}
    mistakes = MISTAKES["masking_shrinkage"]
    value = fn(mean.clone(), covariance.clone(), p)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_posterior_covariance(
    fn: Callable[[Denoiser, Tensor, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(denoise, x_tilde, std)``: the covariance of x given its noisy version.

    Args:
        fn: Your function, of the best denoiser, which maps (B, D) to (B, D) and answers each row
            by itself, noisy inputs (B, D) and the standard deviation of the Gaussian noise; it
            gives (B, D, D).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    std, points, x_tilde = 0.7, _normal(6, 3), _normal(4, 3, seed=1)

    def posterior(noisy: Tensor) -> Tensor:
        distance = (noisy[..., None, :] - points).square().sum(dim=-1)  # (B, 6)
        return torch.softmax(-distance / (2 * std**2), dim=-1)

    def denoise(noisy: Tensor) -> Tensor:
        return posterior(noisy) @ points

    apart = points - denoise(x_tilde)[:, None]  # (B, 6, D)
    right = torch.einsum("bk,bki,bkj->bij", posterior(x_tilde), apart, apart)
    inputs = {"denoise": denoise, "x_tilde": x_tilde, "std": std}
    mistakes = MISTAKES["posterior_covariance"]
    value = fn(denoise, x_tilde.clone(), std)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
