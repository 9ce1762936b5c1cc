"""Checks of what the assignment on contractive autoencoders asks for."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare

__all__ = [
    "MISTAKES",
    "check_contraction_gradient",
    "check_largest_stretch",
    "check_row_sample_variance",
    "check_small_noise_cost",
    "check_two_layer_penalty",
]

Encoder = Callable[[Tensor], Tensor]


def _jacobians(encode: Encoder, x: Tensor) -> Tensor:
    """By autograd, of each example: (B, L, D)."""
    jacobians: Tensor = torch.func.vmap(torch.func.jacrev(lambda x_i: encode(x_i[None])[0]))(x)
    return jacobians


def _slope(h: Tensor) -> Tensor:
    return h * (1 - h)


def _row_norms(weight: Tensor) -> Tensor:
    return weight.square().sum(dim=1)


def _one_layer(h: Tensor, weight: Tensor) -> Tensor:
    return (_slope(h).square() * _row_norms(weight)).sum(dim=1)


def _squared_norm(slope2: Tensor, weight2: Tensor, slope1: Tensor, weight1: Tensor) -> Tensor:
    """Of the product of four factors, formed: (B,)."""
    jacobians = (slope2[:, :, None] * weight2) @ (slope1[:, :, None] * weight1)
    return jacobians.square().sum(dim=(1, 2))


def _without_cross_terms(h1: Tensor, h2: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    middle = _slope(h2)[:, :, None] * weight2 * _slope(h1)[:, None, :]
    return (middle.square() @ _row_norms(weight1)).sum(dim=1)


def _two_layer(h1: Tensor, h2: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    return _squared_norm(_slope(h2), weight2, _slope(h1), weight1)


def _by_norms(x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """The part of the gradient that comes through the norms of the weight's rows."""
    return 2 * _slope(h).square().mean(dim=0)[:, None] * weight


def _by_slopes(x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """The part that comes through the activations."""
    per_unit = 2 * _slope(h).square() * (1 - 2 * h) * _row_norms(weight)
    return torch.einsum("bl,bd->ld", per_unit, x) / len(x)


def _missing_slope(x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    per_unit = 2 * _slope(h) * (1 - 2 * h) * _row_norms(weight)
    return _by_norms(x, h, weight) + torch.einsum("bl,bd->ld", per_unit, x) / len(x)


def _output_norm(h: Tensor, weight: Tensor) -> Tensor:
    jacobians = weight.T @ (_slope(h)[:, :, None] * weight)
    return jacobians.square().sum(dim=(1, 2))


def _laplacian(h: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    bend = _slope(h) * (1 - 2 * h) * _row_norms(weight)
    return ((bend @ weight) * residual).sum(dim=1)


def _no_square(h: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    summed = (_slope(h) @ weight).square().sum(dim=1)
    return summed + _laplacian(h, weight, residual)


def _no_cross_terms(h: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    diagonal = (_slope(h) * _row_norms(weight)).square().sum(dim=1)
    return diagonal + _laplacian(h, weight, residual)


def _iterate(encode: Encoder, x: Tensor, start: Tensor, n_steps: int, scale: str) -> Tensor:
    """The code's step after the power iteration, (B, L)."""
    jacobians = _jacobians(encode, x)

    def scaled(v: Tensor) -> Tensor:
        length: Tensor = v.norm(dim=1, keepdim=True) if scale == "example" else v.norm()
        return v if scale == "never" else v / length

    v = scaled(start)
    for _ in range(n_steps):
        v = scaled(torch.einsum("bld,blk,bk->bd", jacobians, jacobians, v))
    return torch.einsum("bld,bd->bl", jacobians, v)


def _rows(jacobian: Tensor) -> Tensor:
    return jacobian.square().sum(dim=2)


def _by_enumeration(jacobian: Tensor, k: int) -> Tensor:
    """All subsets are equally likely: an exact variance, (B,)."""
    rows = _rows(jacobian)
    n = rows.shape[1]
    subsets = torch.tensor(list(combinations(range(n), k)))
    return (rows[:, subsets].sum(dim=2) * n / k).var(dim=1, correction=0)


def _sampling(jacobian: Tensor, k: int) -> tuple[int, float]:
    """The number of rows, and the factor of a draw without replacement."""
    n = jacobian.shape[1]
    return n, (1 - int(k) / n) / int(k)


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "two_layer_penalty": (
        Mistake(
            lambda h1, h2, weight1, weight2: _one_layer(h1, weight1) * _one_layer(h2, weight2),
            (
                "you multiplied the penalties of the two layers.",
                "The norm of a product is at most the product of the norms, and mostly less.",
                "The chain rule multiplies the Jacobians; take the norm of their product.",
            ),
        ),
        Mistake(
            lambda h1, h2, weight1, weight2: _one_layer(h1, weight1) + _one_layer(h2, weight2),
            (
                "you added the penalties of the two layers.",
                "What counts is the change of the second code for a step of the input.",
                "The chain rule multiplies the Jacobians; take the norm of their product.",
            ),
        ),
        Mistake(
            _without_cross_terms,
            (
                "you dropped the products of different hidden units.",
                "Several hidden units depend on one input; their effects add before the square.",
                "Besides the squared norms of the rows of the first weight you need their inner "
                "products: all of W1 W1^T.",
            ),
        ),
        Mistake(
            lambda h1, h2, weight1, weight2: _squared_norm(
                _slope(h2), weight2, torch.ones_like(h1), weight1
            ),
            (
                "you left out the slopes of the first layer.",
                "Between the two weights stands diag(h1 (1 - h1)).",
            ),
        ),
        Mistake(
            lambda h1, h2, weight1, weight2: _squared_norm(
                torch.ones_like(h2), weight2, _slope(h1), weight1
            ),
            (
                "you left out the slopes of the second layer.",
                "The code is a sigmoid too: diag(h2 (1 - h2)) stands in front.",
            ),
        ),
        Mistake(
            lambda h1, h2, weight1, weight2: _two_layer(h1, h2, weight1, weight2).sqrt(),
            (
                "this is the Frobenius norm; the penalty is its square.",
                "Take no root.",
            ),
        ),
    ),
    "contraction_gradient": (
        Mistake(
            _by_norms,
            (
                "you held the activations fixed, and the weight moves them too.",
                "The weight acts twice: through the norms of its rows, and through h.",
                "By the chain rule the second part is d(slope^2)/da times x, times the row's "
                "squared norm.",
            ),
        ),
        Mistake(
            _by_slopes,
            (
                "you held the norms of the rows fixed: this is the gradient that the detached "
                "weight of the state dict leaves.",
                "The weight acts twice: through the norms of its rows, and through h.",
            ),
        ),
        Mistake(
            lambda x, h, weight: len(x) * (_by_norms(x, h, weight) + _by_slopes(x, h, weight)),
            (
                "you summed over the batch; the objective is its mean.",
                "Divide by the number of examples.",
            ),
        ),
        Mistake(
            lambda x, h, weight: (_by_norms(x, h, weight) + _by_slopes(x, h, weight)) / 2,
            (
                "you forgot the factor two of a derivative of a square.",
                "Both parts have it: W is squared, and the slope is.",
            ),
        ),
        Mistake(
            lambda x, h, weight: _by_norms(x, h, weight) - _by_slopes(x, h, weight),
            (
                "the part through the activations has the wrong sign.",
                "Below one half a sigmoid gets steeper as its input grows.",
                "The derivative of h (1 - h) with respect to h is 1 - 2 h.",
            ),
        ),
        Mistake(
            _missing_slope,
            (
                "you differentiated the slope by h and not by the weight: a slope is missing.",
                "h (1 - h) depends on h, and h on the weight: that is one factor h (1 - h) more.",
                "With s = h (1 - h), the derivative of s^2 with respect to a is 2 s^2 (1 - 2 h).",
            ),
        ),
    ),
    "small_noise_cost": (
        Mistake(
            lambda h, weight, residual: _output_norm(h, weight),
            (
                "you left out the Laplacian.",
                "It has the same order in the noise as the Jacobian's term.",
                "Differentiate a unit's activation twice with respect to each input, and sum.",
            ),
        ),
        Mistake(
            lambda h, weight, residual: _output_norm(h, weight) - _laplacian(h, weight, residual),
            (
                "the Laplacian's term has the wrong sign.",
                "The residual is r(x) - x, and the second derivative of a sigmoid is positive "
                "where h is below one half.",
            ),
        ),
        Mistake(
            lambda h, weight, residual: (
                _output_norm(h, weight) + _laplacian(h, weight, residual) / 2
            ),
            (
                "you halved the Laplacian's term.",
                "Taylor's half meets the two of a square, 2 e^T (q / 2).",
            ),
        ),
        Mistake(
            lambda h, weight, residual: _one_layer(h, weight) + _laplacian(h, weight, residual),
            (
                "you took the code's Jacobian for that of the reconstruction.",
                "Denoising contracts r = g(f(x)); the decoder's weight belongs to its Jacobian.",
                "The Jacobian is W^T diag(h (1 - h)) W.",
            ),
        ),
        Mistake(
            _no_cross_terms,
            (
                "you dropped the products of different units.",
                "The units share inputs and outputs: their contributions add before the square.",
                "The squared norm is a double sum over units, with (W W^T)_jk squared in it.",
            ),
        ),
        Mistake(
            _no_square,
            (
                "you did not square the inner products of the rows.",
                "Two units meet once through the encoder and once through the decoder.",
                "The squared norm is a double sum over units, with (W W^T)_jk squared in it.",
            ),
        ),
    ),
    "largest_stretch": (
        Mistake(
            lambda encode, x, start, n_steps: (
                _iterate(encode, x, start, n_steps, "example").square().sum(dim=1)
            ),
            (
                "this is the squared singular value, an eigenvalue of J^T J.",
                "Return the length of J v, not its square.",
            ),
        ),
        Mistake(
            lambda encode, x, start, n_steps: _iterate(encode, x, start, n_steps, "batch").norm(
                dim=1
            ),
            (
                "you scaled the whole batch to length one, not each example.",
                "Each example has a Jacobian and a direction of its own.",
                "Divide by v.norm(dim=1, keepdim=True).",
            ),
        ),
        Mistake(
            lambda encode, x, start, n_steps: _iterate(encode, x, start, n_steps, "never").norm(
                dim=1
            ),
            (
                "you did not scale the directions to length one.",
                "Each step multiplies the length by about the square of the singular value.",
            ),
        ),
        Mistake(
            lambda encode, x, start, n_steps: _iterate(
                encode, x, start, n_steps - 1, "example"
            ).norm(dim=1),
            (
                "you made one step too few.",
                "Apply J^T J to the start n_steps times; J alone, for the length, comes after.",
            ),
        ),
        Mistake(
            lambda encode, x, start, n_steps: _jacobians(encode, x).flatten(1).norm(dim=1),
            (
                "this is the Frobenius norm, made of all singular values.",
                "The largest one alone is asked for, and no Jacobian.",
            ),
        ),
    ),
    "row_sample_variance": (
        Mistake(
            lambda jacobian, k: (
                _rows(jacobian).var(dim=1, correction=0) * jacobian.shape[1] ** 2 / int(k)
            ),
            (
                "this is the variance of draws with replacement.",
                "Here no output is drawn twice, and with all of them nothing is random.",
                "Two different indicators are negatively correlated: if j is drawn, a place less "
                "is left for the others.",
            ),
        ),
        Mistake(
            lambda jacobian, k: (
                _rows(jacobian).square().sum(dim=1) * jacobian.shape[1] * _sampling(jacobian, k)[1]
            ),
            (
                "you took the draws for independent.",
                "Their number is fixed: if one output is drawn, the others are less likely to be.",
                "The covariances of different indicators do not vanish: P(both) is "
                "k (k - 1) / (L (L - 1)).",
            ),
        ),
        Mistake(
            lambda jacobian, k: (
                _rows(jacobian).var(dim=1, correction=0)
                * _sampling(jacobian, k)[0] ** 2
                * _sampling(jacobian, k)[1]
            ),
            (
                "you divided the sum of squared deviations by L; here it is L - 1.",
                "The L - 1 comes from the probability that two given outputs are both drawn.",
            ),
        ),
        Mistake(
            lambda jacobian, k: _rows(jacobian).var(dim=1) * _sampling(jacobian, k)[1],
            (
                "this is the variance of the mean over rows; the penalty is their sum.",
                "The sum is L times the mean, and its variance L squared times as large.",
            ),
        ),
        Mistake(
            lambda jacobian, k: _by_enumeration(jacobian, int(k)).sqrt(),
            (
                "this is the standard deviation.",
                "The variance is asked for: take no root.",
            ),
        ),
        Mistake(
            lambda jacobian, k: _by_enumeration(_rows(jacobian).sqrt().sqrt()[..., None], int(k)),
            (
                "you took the lengths of the rows; the estimate is made of squared lengths.",
                "The penalty is the sum of the squared norms of the gradients.",
            ),
        ),
    ),
}


def _layer(n_inputs: int, n_latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (L, D) and a bias (L,) without structure."""
    shape = (n_latents, n_inputs + 1)
    both = torch.randn(shape, dtype=torch.float64, generator=generator)
    return both[:, 1:], both[:, 0]


def check_two_layer_penalty(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(h1, h2, weight1, weight2)``: the penalty of two sigmoid layers.

    Args:
        fn: Your function, of the activations (B, H) and (B, L) of the two layers and their weights
            (H, D) and (L, H); it gives the squared norm of d h2 / d x of each example, (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    (weight1, bias1), (weight2, bias2) = _layer(6, 5, generator), _layer(5, 3, generator)

    def first(t: Tensor) -> Tensor:
        return torch.sigmoid(t @ weight1.T + bias1)

    def both(t: Tensor) -> Tensor:
        return torch.sigmoid(first(t) @ weight2.T + bias2)

    inputs = {"h1": first(x), "h2": both(x), "weight1": weight1, "weight2": weight2}
    right = _jacobians(both, x).square().sum(dim=(1, 2))
    mistakes = MISTAKES["two_layer_penalty"]
    value = fn(first(x), both(x), weight1, weight2)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


def check_contraction_gradient(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(x, h, weight)``: the gradient of the mean penalty of one layer.

    Args:
        fn: Your function, of inputs (B, D), the activations (B, L) of a sigmoid layer and its
            weight (L, D); it gives the gradient of the batch's mean penalty with respect to the
            weight, (L, D).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    weight, bias = _layer(5, 3, generator)
    trained = weight.clone().requires_grad_()

    def encode(t: Tensor) -> Tensor:
        return torch.sigmoid(t @ trained.T + bias)

    penalty = _jacobians(encode, x).square().sum(dim=(1, 2)).mean()
    (right,) = torch.autograd.grad(penalty, trained)
    h = encode(x).detach()
    inputs = {"x": x, "h": h, "weight": weight}
    mistakes = MISTAKES["contraction_gradient"]
    compare(fn(x, h, weight), right, inputs=inputs, mistakes=mistakes, hints=hints)


def check_small_noise_cost(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(h, weight, residual)``: what a unit of the noise's variance costs.

    Args:
        fn: Your function, of the activations (B, L) of a sigmoid layer, its weight (L, D), which a
            tied linear decoder shares, and the residuals r(x) - x (B, D); it gives the squared
            norm of d r / d x plus the residual times the Laplacian of r, (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    weight, bias = _layer(5, 3, generator)

    def reconstruct(t: Tensor) -> Tensor:
        return torch.sigmoid(t @ weight.T + bias) @ weight

    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(reconstruct)))(x)
    laplacian = hessians.diagonal(dim1=2, dim2=3).sum(dim=2)
    residual = reconstruct(x) - x
    right = _jacobians(reconstruct, x).square().sum(dim=(1, 2))
    right = right + (residual * laplacian).sum(dim=1)
    h = torch.sigmoid(x @ weight.T + bias)
    inputs = {"h": h, "weight": weight, "residual": residual}
    mistakes = MISTAKES["small_noise_cost"]
    compare(fn(h, weight, residual), right, inputs=inputs, mistakes=mistakes, hints=hints)


def check_largest_stretch(
    fn: Callable[[Encoder, Tensor, Tensor, int], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(encode, x, start, n_steps)``: a power iteration on J^T J.

    Args:
        fn: Your function, of an encoder from (B, D) to (B, L), inputs (B, D), the directions to
            start from (B, D) and the number of steps; it gives the length of J v of each example
            after these steps, (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(3)
    x, start = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    weight, bias = _layer(5, 3, generator)

    def encode(t: Tensor) -> Tensor:
        return torch.tanh(2 * t @ weight.T + bias).square()

    mistakes = MISTAKES["largest_stretch"]
    inputs: dict[str, object] = {"encode": encode, "x": x, "start": start}
    for n_steps in (2, 0):
        right = _iterate(encode, x, start, n_steps, "example").norm(dim=1)
        named = inputs | {"n_steps": n_steps}
        value = fn(encode, x, start, n_steps)
        compare(value, right, inputs=named, mistakes=mistakes, hints=hints)
    far = fn(encode, x, start, 200)
    largest = torch.linalg.svdvals(_jacobians(encode, x))[:, 0]
    if not torch.allclose(far, largest, rtol=1e-6):
        raise CheckFailed("After 200 steps it must have reached the largest singular value.")


def check_row_sample_variance(fn: Callable[[Tensor, int], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(jacobian, k)``: the variance of the penalty from k drawn outputs.

    Args:
        fn: Your function, of Jacobians (B, L, D) and the number of outputs that are drawn without
            replacement; it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(4)
    jacobian = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    mistakes = MISTAKES["row_sample_variance"]
    for k in (2, 3):
        inputs = {"jacobian": jacobian, "k": k}
        right = _by_enumeration(jacobian, k)
        compare(fn(jacobian, k), right, inputs=inputs, mistakes=mistakes, hints=hints)
    everything = fn(jacobian, 5)
    if not torch.allclose(everything, torch.zeros_like(everything), atol=1e-9):
        raise CheckFailed("With all outputs drawn nothing is random: the variance must be zero.")
