"""Checks of what the exercises and the assignment on contractive autoencoders ask for."""

from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare, takes_function

__all__ = [
    "MISTAKES",
    "check_bernoulli_noise_cost",
    "check_contraction_gradient",
    "check_largest_stretch",
    "check_row_sample_variance",
    "check_small_noise_cost",
    "check_tanh_penalty",
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


def _output_norm(h: Tensor, weight: Tensor, variance: Tensor) -> Tensor:
    jacobians = weight.T @ (_slope(h)[:, :, None] * weight)
    return (jacobians.square() * variance).sum(dim=(1, 2))


def _curvature(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    """The residual times the second derivatives of the output, weighed and summed: (B,)."""
    bend = _slope(h) * (1 - 2 * h) * (weight.square() @ variance)
    return ((bend @ weight) * residual).sum(dim=1)


def _cost(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    return _output_norm(h, weight, variance) + _curvature(h, weight, variance, residual)


def _code_for_output(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    code = _one_layer(h, weight * variance.sqrt())
    return code + _curvature(h, weight, variance, residual)


def _met_once(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    summed = (_slope(h) @ weight).square() @ variance
    return summed + _curvature(h, weight, variance, residual)


def _no_cross_terms(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    products = _row_norms(weight) * (weight.square() @ variance)
    return _slope(h).square() @ products + _curvature(h, weight, variance, residual)


def _outputs_weighed(h: Tensor, weight: Tensor, variance: Tensor, residual: Tensor) -> Tensor:
    scaled = weight * variance.sqrt()
    even = torch.ones_like(variance)
    return _output_norm(h, scaled, even) + _curvature(h, weight, variance, residual)


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


def _forth_and_back(encode: Encoder, x: Tensor, start: Tensor, n_steps: int) -> Tensor:
    forward = _iterate(encode, x, start, n_steps, "example")
    length: Tensor = torch.einsum("bld,bl->bd", _jacobians(encode, x), forward).norm(dim=1)
    return length


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


def _tanh(slope: Tensor, weight: Tensor) -> Tensor:
    """The squared norm with these slopes (B, L), of each unit, (B, L)."""
    return slope.square() * _row_norms(weight)


def _bernoulli(variance: Tensor, residual: Tensor, jacobian: Tensor, laplacian: Tensor) -> Tensor:
    """The two parts of the term of order two, for weights and residuals (B, D); (B,)."""
    contraction = (variance[:, :, None] * jacobian.square()).sum(dim=(1, 2))
    return (contraction + (residual * laplacian).sum(dim=1)) / 2


def _variance(logits: Tensor) -> Tensor:
    return _slope(logits.sigmoid())


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "tanh_penalty": (
        Mistake(
            lambda h, weight: _tanh(h * (1 - h), weight).sum(dim=1),
            (
                "you kept the slope of the sigmoid.",
                "Differentiate tanh, and write the derivative in terms of h.",
            ),
        ),
        Mistake(
            lambda h, weight: _tanh(1 - h, weight).sum(dim=1),
            (
                "you took 1 - h for the slope of tanh.",
                "tanh is odd, so its slope is the same at h and at -h.",
                "With a quotient of hyperbolic functions: tanh' = (cosh^2 - sinh^2) / cosh^2.",
            ),
        ),
        Mistake(
            lambda h, weight: ((1 - h.square()) * _row_norms(weight)).sum(dim=1),
            (
                "you did not square the slopes.",
                "An entry of the Jacobian is a slope times a weight; both are squared.",
            ),
        ),
        Mistake(
            lambda h, weight: _tanh(1 - h.square(), weight.T).sum(dim=1),
            (
                "you summed the squared weight down its columns, over the units.",
                "Each slope belongs to one unit, and so to one row of the weight.",
                "The inner sum runs over the inputs: weight.square().sum(dim=1).",
            ),
        ),
        Mistake(
            lambda h, weight: _tanh(1 - h.square(), weight).mean(dim=1),
            (
                "you averaged, over the units or over the inputs; the squared norm is a sum.",
                "A mean would make the penalty's strength depend on the widths of the layer.",
            ),
        ),
        Mistake(
            lambda h, weight: (1 - h.square()).square() @ weight.sum(dim=1).square(),
            (
                "you summed each row of the weight before squaring.",
                "Entries of the Jacobian are squared one by one.",
            ),
        ),
        Mistake(
            lambda h, weight: _tanh(1 - h.square(), weight).sum(dim=1).sqrt(),
            (
                "this is the Frobenius norm; the penalty is its square.",
                "Take no root.",
            ),
        ),
    ),
    "bernoulli_noise_cost": (
        Mistake(
            lambda x, logits, jacobian, laplacian: (
                2 * _bernoulli(_variance(logits), logits.sigmoid() - x, jacobian, laplacian)
            ),
            (
                "you lost the half of Taylor's second term.",
                "The mean of e^T H e / 2, e the noise, is half of sigma^2 times the trace of H.",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                _variance(logits), torch.zeros_like(x), jacobian, laplacian
            ),
            (
                "you left out the Laplacian of the logits.",
                "The gradient is a sum of products; each has two derivatives.",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                torch.ones_like(x), logits.sigmoid() - x, jacobian, laplacian
            ),
            (
                "you left out the weights of the pixels.",
                "The derivative of p - x along the noise is not that of the logit.",
                "dp / d logit = p (1 - p).",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                _variance(logits).square(), logits.sigmoid() - x, jacobian, laplacian
            ),
            (
                "you took the Jacobian of the probabilities for that of the logits.",
                "Of the two factors that are differentiated only p - x has the slope p (1 - p).",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                _variance(logits), x - logits.sigmoid(), jacobian, laplacian
            ),
            (
                "the residual has the wrong sign.",
                "The derivative of softplus(l) - x l with respect to l is p - x.",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                _variance(logits), logits - x, jacobian, laplacian
            ),
            (
                "you took logits for probabilities in the residual.",
                "The derivative of softplus is the sigmoid.",
            ),
        ),
        Mistake(
            lambda x, logits, jacobian, laplacian: _bernoulli(
                _variance(logits), logits.sigmoid() - x, jacobian.mT, laplacian
            ),
            (
                "you weighed the inputs, not the outputs.",
                "Row i of the Jacobian is the gradient of logit i, and p_i weighs that.",
                "The sum without weights runs over the last dimension of jacobian.",
            ),
        ),
    ),
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
            lambda h, weight, variance, residual: _output_norm(h, weight, variance),
            (
                "you left out the second derivatives of the reconstruction.",
                "They have the same order in the noise as the Jacobian.",
                "Differentiate a unit's activation twice with respect to each input, and sum.",
            ),
        ),
        Mistake(
            lambda h, weight, variance, residual: (
                _output_norm(h, weight, variance) - _curvature(h, weight, variance, residual)
            ),
            (
                "the part with the second derivatives has the wrong sign.",
                "The residual is r(x) - x, and the second derivative of a sigmoid is positive "
                "where h is below one half.",
            ),
        ),
        Mistake(
            lambda h, weight, variance, residual: (
                _output_norm(h, weight, variance) + _curvature(h, weight, variance, residual) / 2
            ),
            (
                "you halved the part with the second derivatives.",
                "Taylor's half meets the two of a square, 2 e^T (q / 2).",
            ),
        ),
        Mistake(
            lambda h, weight, variance, residual: _cost(
                h, weight, torch.ones_like(variance), residual
            ),
            (
                "this is the cost of even noise: the variances do not occur in it.",
                "In the chapter all inputs have noise of one variance; here each has its own.",
                "Column k of the Jacobian counts v_k times, and so does the second derivative with "
                "respect to input k.",
            ),
        ),
        Mistake(
            lambda h, weight, variance, residual: _cost(h, weight, variance.square(), residual),
            (
                "you squared the variances.",
                "v_i is the factor of the variance already, not of the standard deviation.",
            ),
        ),
        Mistake(
            lambda h, weight, variance, residual: (
                _output_norm(h, weight, variance)
                + _curvature(h, weight, torch.ones_like(variance), residual)
            ),
            (
                "the second derivatives are summed without the variances.",
                "The second derivative with respect to input k counts v_k times.",
            ),
        ),
        Mistake(
            _outputs_weighed,
            (
                "you weighed the outputs by the noise as well as the inputs.",
                "The noise enters by the encoder. The error counts all outputs alike.",
                "Each pair of units brings two inner products of their rows, and one has v in it.",
            ),
        ),
        Mistake(
            _code_for_output,
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
                "The first part is a sum over all pairs of units, not over units.",
            ),
        ),
        Mistake(
            _met_once,
            (
                "of each pair of units you took one inner product; there are two.",
                "Two units meet once through the encoder and once through the decoder.",
                "Each pair has an inner product of its rows with v in it, times one without.",
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
            _forth_and_back,
            (
                "this is the length of J^T J v; that of J v is asked for.",
                "After the last step multiply by J alone.",
            ),
        ),
        Mistake(
            lambda encode, x, start, n_steps: _iterate(
                encode, x, start, n_steps + 1, "example"
            ).norm(dim=1),
            (
                "you made one step too many.",
                "With no steps the direction stays the scaled start.",
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
            lambda jacobian, k: (
                _by_enumeration(jacobian, int(k)) * (int(k) / jacobian.shape[1]) ** 2
            ),
            (
                "this is the variance of the plain sum of what is drawn.",
                "The estimate is that sum times L / k, and so its variance is larger.",
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


@takes_function
def check_tanh_penalty(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(h, weight)``: the penalty of one layer of tanh units.

    Args:
        fn: Your function, of the activations (B, L) of a tanh layer and its weight (L, D); it
            gives the squared norm of d h / d x of each example, (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(5)
    for n_inputs, n_latents in ((4, 4), (5, 3)):  # first square, so that no mistake stumbles
        x = torch.randn(6, n_inputs, dtype=torch.float64, generator=generator) / 2
        weight, bias = _layer(n_inputs, n_latents, generator)

        def encode(t: Tensor, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return torch.tanh(t @ weight.T + bias)

        right = _jacobians(encode, x).square().sum(dim=(1, 2))
        inputs = {"h": encode(x), "weight": weight}
        mistakes = MISTAKES["tanh_penalty"]
        compare(fn(encode(x), weight), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_bernoulli_noise_cost(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(x, logits, jacobian, laplacian)``: what noise costs binary pixels.

    Args:
        fn: Your function, of clean images (B, D), the logits of their reconstructions (B, D), and
            the logits' Jacobians (B, D, D) and Laplacians (B, D) with respect to the images; it
            gives what multiplies the noise's variance in the expansion of the denoising loss,
            (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(4, 5, dtype=torch.float64, generator=generator).round()
    (weight1, bias1), (weight2, bias2) = _layer(5, 3, generator), _layer(3, 5, generator)

    def decode(t: Tensor) -> Tensor:
        return torch.tanh(t @ weight1.T + bias1) @ weight2.T + bias2

    def error(noise: Tensor, clean: Tensor) -> Tensor:
        logits = decode(clean + noise)
        return F.binary_cross_entropy_with_logits(logits, clean, reduction="sum")

    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(error)))(torch.zeros_like(x), x)
    right = hessians.diagonal(dim1=1, dim2=2).sum(dim=1) / 2
    second = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(decode)))(x)
    given = (x, decode(x), _jacobians(decode, x), second.diagonal(dim1=2, dim2=3).sum(dim=2))
    inputs = dict(zip(("x", "logits", "jacobian", "laplacian"), given, strict=True))
    mistakes = MISTAKES["bernoulli_noise_cost"]
    compare(fn(*given), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
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


@takes_function
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


@takes_function
def check_small_noise_cost(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(h, weight, variance, residual)``: what uneven noise costs.

    Args:
        fn: Your function, of the activations (B, L) of a sigmoid layer, its weight (L, D), which a
            tied linear decoder shares, the factors v of the inputs' variances (D,), and the
            residuals r(x) - x (B, D); it gives what multiplies the squared standard deviation in
            the expansion of the denoising error, (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    weight, bias = _layer(5, 3, generator)
    variance = 3 * torch.rand(5, dtype=torch.float64, generator=generator)

    def error(noise: Tensor, clean: Tensor) -> Tensor:
        """Of one example; half the sum of v_i d^2/dnoise_i^2 is what multiplies sigma^2."""
        h = torch.sigmoid(weight @ (clean + noise) + bias)
        return (weight.T @ h - clean).square().sum()

    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(error)))(torch.zeros_like(x), x)
    right = hessians.diagonal(dim1=1, dim2=2) @ variance / 2
    h = torch.sigmoid(x @ weight.T + bias)
    inputs = {"h": h, "weight": weight, "variance": variance, "residual": h @ weight - x}
    mistakes = MISTAKES["small_noise_cost"]
    value = fn(h, weight, variance, h @ weight - x)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
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
    far = fn(encode, x, start, 200).to(x.dtype)
    largest = torch.linalg.svdvals(_jacobians(encode, x))[:, 0]
    if not torch.allclose(far, largest, rtol=1e-6):
        raise CheckFailed(
            "After 200 steps it must have reached the largest singular value. "
            "Do you scale the direction to length one after every step?"
        )


@takes_function
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
