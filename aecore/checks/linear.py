"""Checks of what the chapter's exercises and its assignment ask for."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import hessian

from aecore.checks.mistakes import CheckFailed, Mistake, compare, recognise, takes_function

__all__ = [
    "MISTAKES",
    "check_best_linear_decoder",
    "check_decoder_singular_values",
    "check_learnt_share",
    "check_negative_directions",
    "check_principal_axes",
    "check_saddle_curvature",
    "check_weighted_projector",
]


def _axes(covariance: Tensor, n_axes: int, power: float = 0.5) -> Tensor:
    """The leading eigenvectors, longest first, scaled by a power of their eigenvalues."""
    values, vectors = torch.linalg.eigh(covariance)
    return _signed((vectors * values.clamp(min=0) ** power).flip(1)[:, :n_axes])


def _signed(columns: Tensor) -> Tensor:
    return columns * columns.sum(dim=0).sign()


def _pca(decoder: Tensor, code_cov: Tensor, power: float = 0.5) -> Tensor:
    """From the covariance of the reconstructions itself, (D, D)."""
    return _axes(decoder @ code_cov @ decoder.mT, decoder.shape[1], power)


def _decorrelated(decoder: Tensor, code_cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(code_cov)
    return _signed((decoder @ vectors * values.sqrt()).flip(1))


def _scaled_units(decoder: Tensor, code_cov: Tensor) -> Tensor:
    columns = decoder * code_cov.diagonal().sqrt()
    return _signed(columns[:, columns.norm(dim=0).argsort(descending=True)])


def _regression(encoder: Tensor, cov: Tensor) -> Tensor:
    """Least squares on data that have this covariance."""
    values, vectors = torch.linalg.eigh(cov)
    x = (vectors * values.clamp(min=0).sqrt()).mT  # (D, D), an example a row
    decoder: Tensor = torch.linalg.lstsq(x @ encoder.mT, x).solution.mT
    return decoder


def _oblique(cov: Tensor, weight: Tensor, n_latents: int, power: float, back: float) -> Tensor:
    """The leading subspace after scaling by a power of the weights, and some way back."""
    scaled = weight[:, None] ** power * cov * weight**power
    basis = torch.linalg.eigh(scaled).eigenvectors[:, -n_latents:]
    projector: Tensor = weight[:, None] ** -back * (basis @ basis.mT) * weight**back
    return projector


def _smallest(cov: Tensor, weight: Tensor, n_latents: int) -> Tensor:
    scaled = weight[:, None].sqrt() * cov * weight.sqrt()
    basis = torch.linalg.eigh(scaled).eigenvectors[:, :n_latents]
    projector: Tensor = weight[:, None] ** -0.5 * (basis @ basis.mT) * weight**0.5
    return projector


def _orthogonal(cov: Tensor, weight: Tensor, n_latents: int) -> Tensor:
    """The orthogonal projection on the best reconstructions' subspace."""
    root = weight[:, None].sqrt()
    basis = torch.linalg.qr(torch.linalg.eigh(root * cov * root.mT).eigenvectors.flip(1) / root).Q
    projector: Tensor = basis[:, :n_latents] @ basis[:, :n_latents].mT
    return projector


def _alternating(cov: Tensor, weight: Tensor, n_latents: int) -> Tensor:
    """Best encoder for a decoder, best decoder for an encoder, until nothing changes."""
    decoder = cov[:, :n_latents]
    for _ in range(100):
        weighted = decoder * weight[:, None]
        encoder = torch.linalg.solve(decoder.mT @ weighted, weighted.mT)
        decoder = torch.linalg.qr(_regression(encoder, cov)).Q
    weighted = decoder * weight[:, None]
    projector: Tensor = decoder @ torch.linalg.solve(decoder.mT @ weighted, weighted.mT)
    return projector


def _pairs(variance: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kept and left-out variances, and the smaller curvature of each pair, (L, D - L)."""
    kept = kept.bool()
    inside, outside = variance[kept][:, None], variance[~kept]
    return inside, outside, inside + outside - _spread(inside, outside)


def _spread(inside: Tensor, outside: Tensor) -> Tensor:
    return ((inside - outside).square() + 4 * outside.square()).sqrt()


def _gentlest(variance: Tensor, kept: Tensor) -> Tensor:
    curvatures = _pairs(variance, kept)[2]
    return curvatures.masked_fill(curvatures >= 0, -torch.inf).max().nan_to_num(neginf=0)


def _along_rotation(variance: Tensor, kept: Tensor) -> Tensor:
    inside, outside, _ = _pairs(variance, kept)
    return 2 * (inside - outside).min().clamp(max=0)


def _swapped(variance: Tensor, kept: Tensor) -> Tensor:
    return _pairs(variance, ~kept.bool())[2].min().clamp(max=0)


def _largest(variance: Tensor, kept: Tensor) -> Tensor:
    inside, outside, _ = _pairs(variance, kept)
    return (inside + outside + _spread(inside, outside)).max()


def _whole_cross_term(variance: Tensor, kept: Tensor) -> Tensor:
    inside, outside, _ = _pairs(variance, kept)
    spread = ((inside - outside).square() + 16 * outside.square()).sqrt()
    return (inside + outside - spread).min().clamp(max=0)


def _curvatures(variance: Tensor, kept: Tensor, n_latents: int) -> Tensor:
    """The eigenvalues of the Hessian that autograd computes at this critical point."""
    n_inputs = len(variance)
    identity = torch.eye(n_inputs, dtype=variance.dtype)

    def loss(weights: Tensor) -> Tensor:
        encoder, decoder = weights.view(2, n_latents, n_inputs)
        miss = identity - decoder.mT @ encoder
        total: Tensor = (miss.square() * variance).sum()
        return total

    encoder = torch.zeros(n_latents, n_inputs, dtype=variance.dtype)
    encoder[: int(kept.sum())] = identity[kept]  # the other units are unused
    point = torch.cat([encoder, encoder]).flatten()
    values: Tensor = torch.linalg.eigvalsh(hessian(loss, point))
    return values


def _exits(variance: Tensor, kept: Tensor) -> Tensor:
    """How many pairs of a kept and a left-out direction have the larger variance left out."""
    return (variance[~kept] > variance[kept][:, None]).sum().double()


def _unused(kept: Tensor, n_latents: int) -> tuple[int, int]:
    """How many units are unused, and how many directions are left out."""
    return n_latents - int(kept.sum()), int((~kept).sum())


def _shrunk(variance: Tensor, n_latents: int, lam: float) -> Tensor:
    """The largest variances' 1 - lam / variance, as they come out, (L,)."""
    return 1 - lam / variance.sort(descending=True).values[:n_latents]


def _ridge_in_turn(variance: Tensor, n_latents: int, lam: float) -> Tensor:
    """The decoder's singular values where encoder and decoder are each best for the other."""
    identity = lam * torch.eye(n_latents, dtype=variance.dtype)
    decoder = _random(len(variance), n_latents)
    for _ in range(300):
        gram = variance[:, None, None] * (decoder.mT @ decoder) + identity  # (D, L, L)
        encoder = torch.linalg.solve(gram, variance[:, None] * decoder).mT
        joint = encoder * variance  # (L, D), codes with data
        decoder = torch.linalg.solve(joint @ encoder.mT + identity, joint).mT
    values: Tensor = torch.linalg.svdvals(decoder)
    return values


def _logistic(rate: Tensor, ceiling: Tensor | float, start: float | Tensor, t: Tensor) -> Tensor:
    """The solution of p' = rate p (1 - p / ceiling), (T, K)."""
    return ceiling / (1 + (ceiling / start - 1) * torch.exp(-rate * t[:, None]))


def _flow(variance: Tensor, start: float, lam: float, t: Tensor, steps: int = 100) -> Tensor:
    """The product of two weights under gradient flow, by Runge and Kutta's method."""

    def velocity(weights: Tensor) -> Tensor:
        weights = weights.detach().requires_grad_()
        loss = variance * (1 - weights[0] * weights[1]).square() + lam * weights.square().sum(dim=0)
        return -torch.autograd.grad(loss.sum(), weights)[0]

    weights = torch.full((2, len(variance)), start, dtype=variance.dtype).sqrt()
    products, now = [], 0.0
    for until in t.tolist():
        h = (until - now) / steps
        for _ in range(steps if h else 0):
            one = velocity(weights)
            two = velocity(weights + h / 2 * one)
            three = velocity(weights + h / 2 * two)
            four = velocity(weights + h * three)
            weights = weights + h / 6 * (one + 2 * two + 2 * three + four)
        now = until
        products.append(weights[0] * weights[1])
    return torch.stack(products)


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "negative_directions": (
        Mistake(
            lambda variance, kept, n_latents: _exits(variance, kept),
            (
                "you forgot the unused units; each of them could learn something.",
                "A unit that encoder and decoder both ignore appears in the epsilon^2 term through "
                "F G alone.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: (
                _exits(variance, ~kept) + math.prod(_unused(kept, n_latents))
            ),
            (
                "you counted the pairs that lead up.",
                "The error falls where a direction of larger variance takes the place of a kept "
                "one.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: n_latents * (~kept).sum().double(),
            (
                "you counted every pair of a unit and a direction that is left out.",
                "A unit that has learnt a direction leaves it only for one of larger variance.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: (
                (variance > variance[kept][:, None]).sum().double()
                + math.prod(_unused(kept, n_latents))
            ),
            (
                "a kept direction of larger variance is no way out: it is taken.",
                "Compare kept directions with those left out, and with no others.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: (
                _exits(-torch.arange(len(kept)), kept) + math.prod(_unused(kept, n_latents))
            ),
            (
                "you took the variances for sorted; they are given in any order.",
                "The chapter's sum of i_m - m counts from the largest variance.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: (
                _exits(variance, kept) + _unused(kept, n_latents)[0] * len(kept)
            ),
            (
                "an unused unit gains nothing from a direction that is kept already.",
                "In the epsilon^2 term F G stands beside I - P.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: (
                _exits(variance, kept) + 2 * math.prod(_unused(kept, n_latents))
            ),
            (
                "an unused unit has two weights for a direction, and one way down.",
                "The product f g falls in one direction of the plane and rises in the other.",
            ),
        ),
        Mistake(
            lambda variance, kept, n_latents: _exits(variance, kept) + _unused(kept, n_latents)[0],
            (
                "you counted each unused unit once; it may learn any direction that is left out.",
                "The epsilon^2 term has one product f g for every unused unit and every such "
                "direction.",
            ),
        ),
    ),
    "decoder_singular_values": (
        Mistake(
            lambda variance, n_latents, lam: _shrunk(variance, n_latents, lam).sqrt(),
            (
                "you took the root of a negative number: these directions are switched off.",
                "The bracket of step 2 is largest at s = 0 where the variance is at most lam.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: _shrunk(variance, n_latents, lam).clamp(min=0),
            (
                "these are the singular values of the product; the decoder has their roots.",
                "Encoder and decoder share the product's singular values equally.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: (
                _shrunk(variance.sqrt(), n_latents, lam).clamp(min=0).sqrt()
            ),
            (
                "you divided lam by standard deviations; variances are right.",
                "Both terms of the loss are squares, and so are lam and the variance.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: (
                _shrunk(variance, len(variance), lam).clamp(min=0).sqrt()
            ),
            (
                "you kept every direction; the decoder has n_latents singular values.",
                "The units take the directions of largest variance.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: (
                _shrunk(variance[:n_latents], n_latents, lam).clamp(min=0).sqrt()
            ),
            (
                "you took the first variances; the largest are learnt.",
                "They are given in any order: sort them.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: _shrunk(
                variance[variance > lam], n_latents, lam
            ).sqrt(),
            (
                "you dropped the units that are switched off: their singular values are zero.",
                "The answer has n_latents entries.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: (
                _shrunk(variance, n_latents, lam / 2).clamp(min=0).sqrt()
            ),
            (
                "you counted the penalty of one weight; both are penalised.",
                "The two norms together are at least twice the nuclear norm of the product.",
            ),
        ),
        Mistake(
            lambda variance, n_latents, lam: (
                (variance.sort(descending=True).values[:n_latents] - lam).clamp(min=0).sqrt()
            ),
            (
                "these are the singular values of probabilistic PCA's W.",
                "There the code has variance one. Here the decoder undoes an encoder, and no "
                "singular value exceeds one.",
            ),
        ),
    ),
    "principal_axes": (
        Mistake(
            lambda decoder, code_cov: _pca(decoder, code_cov).flip(1),
            (
                "the axes are right and in the wrong order: the first must be the longest.",
                "eigh gives eigenvalues in ascending order.",
            ),
        ),
        Mistake(
            lambda decoder, code_cov: -_pca(decoder, code_cov),
            (
                "the axes have the wrong sign: the entries of each must sum to a positive number.",
                "Multiply each column by the sign of its sum.",
            ),
        ),
        Mistake(
            lambda decoder, code_cov: _pca(decoder, code_cov, power=0),
            (
                "your axes have length one; each must be as long as the standard deviation along "
                "it.",
                "The eigenvalues are the variances: scale the columns by their roots.",
            ),
        ),
        Mistake(
            lambda decoder, code_cov: _pca(decoder, code_cov, power=1),
            (
                "you scaled the axes by variances; standard deviations are asked for.",
                "The eigenvalues of a covariance are variances: take their roots.",
            ),
        ),
        Mistake(
            lambda decoder, code_cov: _axes(decoder @ decoder.mT, decoder.shape[1]),
            (
                "you left out the covariance of the codes.",
                "The singular vectors of the decoder are not the principal directions: a factor "
                "in the code that the encoder undoes changes them.",
                "The reconstructions have the covariance W2 S W2^T, where S is that of the codes.",
            ),
        ),
        Mistake(
            _decorrelated,
            (
                "you made the codes uncorrelated; the columns of the decoder times that rotation "
                "are not orthogonal.",
                "Uncorrelated codes are not enough: principal axes are orthogonal as well.",
                "Diagonalise the covariance of the reconstructions, in an orthonormal basis of the "
                "decoder's column space.",
            ),
        ),
        Mistake(
            _scaled_units,
            (
                "you took the code's units for the principal components.",
                "The decoder's columns span the right space and are a mixture of the directions.",
            ),
        ),
    ),
    "best_linear_decoder": (
        Mistake(
            lambda encoder, cov: torch.linalg.pinv(encoder),
            (
                "the pseudo-inverse is not the best decoder.",
                "It ignores how the data vary: what the code does not say can be guessed from what "
                "it says, if the pixels are correlated.",
                "Set the gradient with respect to the decoder's weight to zero and solve for it.",
            ),
        ),
        Mistake(
            lambda encoder, cov: encoder.mT,
            (
                "you tied the decoder to the encoder; that is best for few encoders only.",
                "Set the gradient with respect to the decoder's weight to zero and solve for it.",
            ),
        ),
        Mistake(
            lambda encoder, cov: torch.linalg.solve(encoder @ cov @ encoder.mT, encoder).mT,
            (
                "one covariance is missing: that of the data with the codes comes first.",
                "Linear regression is a covariance of target and input times the inverse "
                "covariance of the input.",
            ),
        ),
        Mistake(
            lambda encoder, cov: cov @ encoder.mT,
            (
                "you forgot to divide by the covariance of the codes.",
                "Twice the code would get you twice the decoder; it must get half.",
            ),
        ),
        Mistake(
            lambda encoder, cov: torch.linalg.solve(encoder @ encoder.mT, encoder @ cov).mT,
            (
                "you divided by W1 W1^T, which is the codes' covariance for white data only.",
                "The codes W1 x have the covariance W1 Sigma W1^T.",
            ),
        ),
        Mistake(
            lambda encoder, cov: _regression(encoder, cov).mT,
            (
                "this is the transposed: the decoder's weight has one row a pixel.",
                "Its shape is (D, L).",
            ),
        ),
    ),
    "weighted_projector": (
        Mistake(
            lambda cov, weight, n_latents: _oblique(cov, weight, n_latents, 0, 0),
            (
                "you left out the weights: this is the projection of plain PCA.",
                "Scale the pixels so that the weighted loss becomes the plain one.",
            ),
        ),
        Mistake(
            lambda cov, weight, n_latents: _oblique(cov, weight, n_latents, 1, 1),
            (
                "you scaled the pixels by their weights; a square root is missing.",
                "The weights multiply squares: m e^2 is the square of sqrt(m) e.",
            ),
        ),
        Mistake(
            lambda cov, weight, n_latents: _oblique(cov, weight, n_latents, 0.5, 0),
            (
                "you forgot to scale back: this acts on the scaled pixels.",
                "Scale x, project, and undo the scaling of the result.",
            ),
        ),
        Mistake(
            lambda cov, weight, n_latents: _oblique(cov, weight, n_latents, 0.5, -0.5),
            (
                "this is the transposed: the scaling and its inverse are on the wrong sides.",
                "What acts on x first stands on the right.",
            ),
        ),
        Mistake(
            lambda cov, weight, n_latents: _oblique(cov, weight, n_latents, -0.5, -0.5),
            (
                "you divided by the roots of the weights; a pixel that counts more must grow.",
                "Multiply by sqrt(m) first and divide in the end.",
            ),
        ),
        Mistake(
            _orthogonal,
            (
                "you projected at right angles. Errors are measured otherwise here, and the "
                "nearest point of the subspace is another.",
                "The subspace is right. P is no longer symmetric.",
                "Scale x, project there, and undo the scaling of the result.",
            ),
        ),
        Mistake(
            _smallest,
            (
                "you kept the directions of smallest variance.",
                "eigh gives eigenvalues in ascending order.",
            ),
        ),
    ),
    "saddle_curvature": (
        Mistake(
            lambda variance, kept: _pairs(variance, kept)[2].min().clamp(max=0) / 2,
            (
                "this is an eigenvalue of the quadratic form; the Hessian is twice its matrix.",
                "A function that starts with q t^2 has the second derivative 2 q.",
            ),
        ),
        Mistake(
            _whole_cross_term,
            (
                "the off-diagonal entries of your block are twice too large.",
                "The form a x^2 + 2 c x y + b y^2 has the matrix with c off the diagonal.",
            ),
        ),
        Mistake(
            _along_rotation,
            (
                "this is the second derivative with respect to the angle of a rotation.",
                "Encoder and decoder need not change alike: the steepest direction is another.",
                "Take the smaller eigenvalue of the two-by-two block.",
            ),
        ),
        Mistake(
            _gentlest,
            (
                "you took the gentlest way out; the steepest is asked for.",
                "Each pair of a kept and a left-out direction has a block of its own: take the "
                "smallest eigenvalue of all.",
            ),
        ),
        Mistake(
            _swapped,
            (
                "you took the kept directions for those left out.",
                "The block is not symmetric in the two: an unused direction's variance stands off "
                "the diagonal.",
            ),
        ),
        Mistake(
            _largest,
            (
                "this is the largest curvature, of the other root.",
                "Take the root that makes the eigenvalue small.",
            ),
        ),
        Mistake(
            lambda variance, kept: _pairs(variance, kept)[2].min(),
            (
                "you forgot the directions in which nothing changes: at a minimum the smallest "
                "curvature is zero.",
                "The invertible matrix in the code gives L^2 zero eigenvalues at every critical "
                "point.",
            ),
        ),
    ),
    "learnt_share": (
        Mistake(
            lambda variance, start, lam, t: _logistic(
                2 * (variance - lam), 1 - lam / variance, start, t
            ),
            (
                "you are too slow by a factor of two: both weights of the product move.",
                "The derivative of a product has two terms, and the weights are equal.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(4 * (variance - lam), 1.0, start, t),
            (
                "with a penalty the product does not grow to one.",
                "It stops where its velocity is zero.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(4 * variance, 1 - lam / variance, start, t),
            (
                "the penalty slows the growth too: it must appear in the rate.",
                "While the product is small, it grows at the rate 4 (variance - lam).",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(4 * variance, 1.0, start, t),
            (
                "you left out the penalty.",
                "It adds -2 lam w to the velocity of each weight.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(
                4 * variance - 2 * lam, 1 - lam / (2 * variance), start, t
            ),
            (
                "you counted the penalty of one weight; both are penalised.",
                "In the derivative of the product lam appears four times.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(
                4 * (variance - lam), 1 - lam / variance, start * start, t
            ),
            (
                "you took start for a weight; it is the product at time zero.",
                "At t = 0 the answer must be start.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(
                4 * (variance - lam), (1 - lam / variance).sqrt(), start, t
            ),
            (
                "the product ends at another value: the root is what the decoder has of it.",
                "At the end the velocity of p is zero.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: torch.where(
                variance > lam,
                _logistic(4 * (variance - lam), 1 - lam / variance, start, t),
                0.0,
            ),
            (
                "a direction of variance below lam is not switched off at once: it dies away.",
                "The same formula holds for it. At t = 0 the answer must be start.",
            ),
        ),
        Mistake(
            lambda variance, start, lam, t: _logistic(
                4 * (variance - lam), 1 - lam / variance, start, t
            ).sqrt(),
            (
                "this is one weight; the product is asked for.",
                "The two are equal: square it.",
            ),
        ),
    ),
}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@takes_function
def check_principal_axes(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(decoder, code_cov)``: PCA's directions times standard deviations.

    Args:
        fn: Your function, of a decoder's weight (D, L) and the codes' covariance (L, L); it gives
            (D, L), longest axis first, the entries of each summing to a positive number.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    decoder, root = _random(6, 3, seed=36), _random(3, 3, seed=1)  # no entry has all sums' signs
    code_cov = root @ root.mT
    inputs = {"decoder": decoder, "code_cov": code_cov}
    value, right = fn(decoder, code_cov), _pca(decoder, code_cov)
    mistakes = MISTAKES["principal_axes"]
    if isinstance(value, Tensor) and value.shape == right.shape:
        value = value.detach().to(right)
        if not recognise(value, inputs, mistakes):  # eigh's signs may hide a mistake, or be it
            signed = _signed(value)
            if torch.allclose(signed, right) and not torch.allclose(value, right):
                raise CheckFailed(
                    "The axes are right but for their signs: the entries of each must sum to a "
                    "positive number."
                )
            value = signed if recognise(signed, inputs, mistakes) else value
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_best_linear_decoder(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(encoder, cov)``: the decoder of least squared error for an encoder.

    Args:
        fn: Your function, of an encoder's weight (L, D) and the data's covariance (D, D), which
            may be singular; it gives the decoder's weight, (D, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    encoder, root = _random(2, 5), _random(5, 5, seed=1)
    root[4] = 0  # a pixel that never varies
    cov = root @ root.mT
    inputs = {"encoder": encoder, "cov": cov}
    mistakes = MISTAKES["best_linear_decoder"]
    right = _regression(encoder, cov)
    compare(fn(encoder, cov), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_weighted_projector(
    fn: Callable[[Tensor, Tensor, int], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(cov, weight, n_latents)``: the best product under pixel weights.

    Args:
        fn: Your function, of the data's covariance (D, D), the weights of the squared errors (D,)
            and the number of latents; it gives the product W2 W1 of the best machine, (D, D).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    turn = torch.linalg.qr(_random(5, 5)).Q
    weight = torch.tensor([0.3, 1.0, 2.0, 4.0, 0.6], dtype=torch.float64)
    cov = turn * torch.tensor([6.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64) @ turn.mT
    mistakes = MISTAKES["weighted_projector"]
    for weights, n_latents in ((weight, 2), (torch.ones_like(weight), 1)):
        inputs = {"cov": cov, "weight": weights, "n_latents": n_latents}
        right = _alternating(cov, weights, n_latents)
        value = fn(cov, weights, n_latents)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_saddle_curvature(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(variance, kept)``: the Hessian's smallest eigenvalue.

    Args:
        fn: Your function, of the distinct variances (D,) and a mask (D,) of the kept directions;
            it gives a scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    variance = torch.tensor([4.0, 2.5, 1.2, 0.7, 0.3], dtype=torch.float64)
    mistakes = MISTAKES["saddle_curvature"]
    for places in ([1, 3], [0, 3, 4], [0, 1]):
        kept = torch.zeros(5, dtype=torch.bool)
        kept[places] = True
        inputs = {"variance": variance, "kept": kept}
        right = _curvatures(variance, kept, len(places))[0]
        compare(fn(variance, kept), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_learnt_share(
    fn: Callable[[Tensor, float, float, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(variance, start, lam, t)``: how a product of weights grows.

    Args:
        fn: Your function, of variances (K,), the product at time zero, the weight of the penalty
            and ascending times (T,); it gives the products, (T, K).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    variance = torch.tensor([2.0, 1.0, 0.2], dtype=torch.float64)
    t = torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=torch.float64)
    mistakes = MISTAKES["learnt_share"]
    for lam in (0.0, 0.3):
        inputs = {"variance": variance, "start": 0.02, "lam": lam, "t": t}
        right = _flow(variance, 0.02, lam, t)
        compare(fn(variance, 0.02, lam, t), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_negative_directions(
    fn: Callable[[Tensor, Tensor, int], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(variance, kept, n_latents)``: the ways down from a critical point.

    Args:
        fn: Your function, of the distinct variances (D,), a mask (D,) of the kept directions and
            the number of latents, which may exceed theirs; it gives the number of negative
            eigenvalues of the Hessian, a scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    variance = torch.tensor([1.2, 4.0, 0.3, 2.5, 0.7, 0.1], dtype=torch.float64)
    mistakes = MISTAKES["negative_directions"]
    for places, n_latents in (([3, 5], 4), ([1, 4], 3), ([0, 3, 5], 3), ([], 2)):
        kept = torch.zeros(6, dtype=torch.bool)
        kept[places] = True
        inputs = {"variance": variance, "kept": kept, "n_latents": n_latents}
        right = (_curvatures(variance, kept, n_latents) < -1e-9).sum().double()
        value = fn(variance, kept, n_latents)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_decoder_singular_values(
    fn: Callable[[Tensor, int, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(variance, n_latents, lam)``: what a penalty leaves of a decoder.

    Args:
        fn: Your function, of the variances (D,) in any order, the number of latents and the weight
            of the L2 penalty; it gives the singular values of the best decoder, (L,), largest
            first.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    variance = torch.tensor([1.2, 8.0, 0.7, 3.0, 0.15, 5.0, 2.0], dtype=torch.float64)
    mistakes = MISTAKES["decoder_singular_values"]
    for n_latents, lam in ((6, 1.0), (3, 0.5)):
        inputs = {"variance": variance, "n_latents": n_latents, "lam": lam}
        right = _ridge_in_turn(variance, n_latents, lam)
        value = fn(variance, n_latents, lam)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
