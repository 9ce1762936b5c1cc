"""Checks of what the chapter and the assignment on sparse autoencoders ask for."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare, takes_function

__all__ = [
    "MISTAKES",
    "check_accelerated_codes",
    "check_amortisation_bound",
    "check_batch_top_k",
    "check_elastic_answer",
    "check_group_threshold",
    "check_jackknife_kl",
    "check_sparsity_gradient",
]


def _shrink(s: Tensor, fraction: Tensor) -> Tensor:
    return s * (1 - fraction).clamp(min=0)


def _length(s: Tensor) -> Tensor:
    length: Tensor = s.norm(dim=2, keepdim=True)
    return length


def _kl(rho: float, rates: Tensor) -> Tensor:
    """By torch's distributions, entry by entry."""
    wanted = torch.distributions.Bernoulli(torch.as_tensor(rho).to(rates))
    return torch.distributions.kl_divergence(wanted, torch.distributions.Bernoulli(rates))


def _swapped(rho: float, rates: Tensor) -> Tensor:
    wanted = torch.distributions.Bernoulli(torch.as_tensor(rho).to(rates))
    return torch.distributions.kl_divergence(torch.distributions.Bernoulli(rates), wanted)


def _gradient(a: Tensor, rho: float, divergence: Callable[[float, Tensor], Tensor] = _kl) -> Tensor:
    """By automatic differentiation: the definition, not the closed form that is asked for."""
    with torch.enable_grad():
        a = a.detach().clone().requires_grad_()
        total = divergence(rho, a.sigmoid().mean(dim=0)).sum()
        (gradient,) = torch.autograd.grad(total, a)
    return gradient


def _slope(a: Tensor) -> Tensor:
    return a.sigmoid() * (-a).sigmoid()


def _rates_without(h: Tensor) -> Tensor:
    """The mean activities of the batch without example n, in row n, (B, L)."""
    rows = [torch.cat([h[:n], h[n + 1 :]]).mean(dim=0) for n in range(len(h))]
    return torch.stack(rows)


def _excess(h: Tensor, rho: float) -> Tensor:
    """How much higher the KL is, on average, when one example is left out, (L,)."""
    return _kl(rho, _rates_without(h)).mean(dim=0) - _kl(rho, h.mean(dim=0))


def _kept(score: Tensor, n: int, h: Tensor) -> Tensor:
    """The entries of ``h`` where the ``n`` largest scores are, wherever in the batch."""
    cut = sorted(score.flatten().tolist(), reverse=True)[n - 1]
    return torch.where(score >= cut, h, 0.0)


def _bound(h: Tensor, z: Tensor, columns: Tensor, lam: float, factor: Tensor | float) -> Tensor:
    """By the identity of the question, for u = factor * r."""
    r = z - h @ columns.T
    u = factor * r
    return (r - u).square().sum(dim=1) + (h * (lam - 2 * u @ columns)).sum(dim=1)


def _products(h: Tensor, z: Tensor, columns: Tensor) -> Tensor:
    return (z - h @ columns.T) @ columns


def _factor(h: Tensor, z: Tensor, columns: Tensor, lam: float, *, twice: float = 2) -> Tensor:
    """The largest admissible factor of each residual, (B, 1)."""
    largest = twice * _products(h, z, columns).max(dim=1, keepdim=True).values
    return torch.where(largest > lam, lam / largest, 1.0)


def _signed_factor(h: Tensor, z: Tensor, columns: Tensor, lam: float) -> Tensor:
    largest = 2 * _products(h, z, columns).abs().max(dim=1, keepdim=True).values
    return (lam / largest).clamp(max=1)


def _unclipped(h: Tensor, z: Tensor, columns: Tensor, lam: float) -> Tensor:
    return lam / (2 * _products(h, z, columns).max(dim=1, keepdim=True).values)


def _objective(h: Tensor, z: Tensor, columns: Tensor, lam: float) -> Tensor:
    return (z - h @ columns.T).square().sum(dim=1) + lam * h.sum(dim=1)


def _lowest(cost: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """Where a convex cost of each entry is least: by bisection on its automatic derivative."""
    low, high = torch.full_like(s, -20), torch.full_like(s, 20)
    with torch.enable_grad():
        for _ in range(70):
            middle = ((low + high) / 2).requires_grad_()
            (slope,) = torch.autograd.grad(cost(middle).sum(), middle)
            middle = middle.detach()
            low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (low + high) / 2


def _elastic_cost(h: Tensor, s: Tensor, t: float, mu: float) -> Tensor:
    return (s - h) ** 2 + 2 * t * h.abs() + mu * h**2


def _soft(s: Tensor, t: float) -> Tensor:
    return F.softshrink(s, float(t))


def _accelerated(
    x: Tensor,
    columns: Tensor,
    offset: Tensor,
    lam: float,
    n_steps: int,
    *,
    factor: Callable[[int], float] = lambda t: (t - 1) / (t + 2),
    stride: float = 1,
    price: float = 1,
    at_code: bool = False,
    of_points: bool = False,
) -> Tensor:
    """The codes after some steps; what is said beside the arguments is a way to err."""
    largest = torch.linalg.matrix_norm(columns, 2).square()
    h = old = torch.zeros(len(x), columns.shape[1], dtype=x.dtype)
    for t in range(1, n_steps + 1):
        point = h + factor(t) * (h - old)
        with torch.enable_grad():
            where = (h if at_code else point).clone().requires_grad_()
            cost = _objective(where, x - offset, columns, price * lam).sum()
            (slope,) = torch.autograd.grad(cost, where)
        old = point if of_points else h
        h = F.relu(point - stride * slope / (2 * largest))
    return h


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "elastic_answer": (
        Mistake(
            lambda s, t, mu: _soft(s / (1 + mu), t),
            (
                "you divided the wish by 1 + mu and kept the old threshold.",
                "Where the squares are collected, t is divided by 1 + mu as well.",
                "Threshold first, and divide what is left.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s / (1 + mu), t / (1 + mu)) / (1 + mu),
            (
                "you divided twice: wish and threshold, and then their difference once more.",
                "The answer is S_t'(s') itself; or S_t(s), divided once.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s, t / 2) / (1 + mu),
            (
                "you took half the threshold: t is half the weight of |h| already.",
                "The penalty is 2 t |h|, so that all terms of the derivative have a two.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s, 2 * t) / (1 + mu),
            (
                "you took twice the threshold: the square has a factor of two as well.",
                "The derivative is 2 (h - s) + 2 t + 2 mu h where h is positive.",
            ),
        ),
        Mistake(
            lambda s, t, mu: F.relu(s.abs() - t) / (1 + mu),
            (
                "you lost the sign: a negative wish has a negative answer.",
                "Threshold the absolute value, and give the sign back.",
            ),
        ),
        Mistake(
            lambda s, t, mu: F.relu(s - t) / (1 + mu),
            (
                "this is the answer of a unit that cannot be negative.",
                "Here h may have any sign, and |h| charges for both alike.",
            ),
        ),
        Mistake(
            lambda s, t, mu: torch.where(s.abs() > t, s, 0.0) / (1 + mu),
            (
                "you silence the right units, but L1 takes t from the others too.",
                "This is a hard threshold, as TopK has; the soft one shrinks.",
            ),
        ),
        Mistake(
            lambda s, t, mu: (s - t * s.sign()) / (1 + mu),
            (
                "you shrink small wishes past zero: they turn round.",
                "Where |s| is below t, the answer is zero.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s, t),
            (
                "the squared penalty is missing.",
                "It shrinks whatever L1 lets through.",
            ),
        ),
        Mistake(
            lambda s, t, mu: s / (1 + mu),
            (
                "the L1 penalty is missing: this unit is never silent.",
                "The derivative of 2 t |h| is 2 t on one side of zero, -2 t on the other.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s, t) * (1 + mu),
            (
                "you multiplied where you must divide: a penalty makes answers smaller.",
                "Solve (1 + mu) h = s - t for h.",
            ),
        ),
        Mistake(
            lambda s, t, mu: _soft(s, t) / (1 + 2 * mu),
            (
                "one factor of two is left over: the divisor is 1 + mu.",
                "Both squares have one when you differentiate, and it cancels.",
            ),
        ),
    ),
    "accelerated_codes": (
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, factor=lambda t: 0
            ),
            (
                "this is the plain iteration, without its momentum.",
                "Take each step from a point beyond the code, not from the code.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, at_code=True
            ),
            (
                "you moved on from the code, but took the residual at the code itself.",
                "All of the step, its residual too, is at the point h + momentum.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, of_points=True
            ),
            (
                "you subtract the last point; the momentum is the difference of two codes.",
                "Keep h_(t-1) as the step returned it, before anything is added.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, factor=lambda t: (t - 2) / (t + 1)
            ),
            (
                "your factor is one step late: you count from 0.",
                "The first step has t = 1; the second has the factor 1/4.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, factor=lambda t: t / (t + 3)
            ),
            (
                "your factor is one step ahead.",
                "The first step has t = 1; the second has the factor 1/4, and not 2/5.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, factor=lambda t: (1 - t) / (t + 2)
            ),
            (
                "your momentum has the wrong sign: it pulls back.",
                "Go on in the direction of the last step, from h_(t-1) to h_t.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, price=2
            ),
            (
                "your threshold is lam / M; it is half of that.",
                "The square's derivative has a factor of two, which 1 / (2 M) takes away.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, offset, lam, n_steps, stride=2
            ),
            (
                "your steps are twice as long as the bound allows.",
                "The gradient is -2 V^T r + lam; it comes with 1 / (2 M), and not 1 / M.",
            ),
        ),
        Mistake(
            lambda x, columns, offset, lam, n_steps: _accelerated(
                x, columns, torch.zeros_like(offset), lam, n_steps
            ),
            (
                "you forgot the decoder's offset.",
                "The code describes x - c.",
            ),
        ),
    ),
    "group_threshold": (
        Mistake(
            lambda s, lam: _shrink(s, lam / _length(s)),
            (
                "you shortened by lam; it is half of lam.",
                "The square's derivative brings a factor of two, the norm's does not.",
            ),
        ),
        Mistake(
            lambda s, lam: F.softshrink(s, float(lam) / 2),
            (
                "you thresholded each unit on its own; the group is silent or speaks as a whole.",
                "The penalty is the group's Euclidean length, not the sum of absolute values.",
                "Shorten the vector of the group and leave its direction as it is.",
            ),
        ),
        Mistake(
            lambda s, lam: torch.where(_length(s) > lam, _shrink(s, lam / 2 / _length(s)), 0.0),
            (
                "you silence every group shorter than lam; the border is half of that.",
                "What is taken off the length and what silences a group are one number.",
            ),
        ),
        Mistake(
            lambda s, lam: s * (1 - lam / 2 / _length(s)),
            (
                "you shorten a group below zero: a short one turns round.",
                "Where the length is below half of lam, the answer is zero.",
            ),
        ),
        Mistake(
            lambda s, lam: _shrink(s, lam / 2 / s.flatten(1).norm(dim=1)[:, None, None]),
            (
                "you took the length of the whole code; each group has its own.",
                "The norm runs over the last dimension alone.",
            ),
        ),
        Mistake(
            lambda s, lam: s / (1 + lam),
            (
                "this is the answer to a squared penalty, which silences nobody.",
                "The length of the group is not squared: it has a kink at zero.",
            ),
        ),
        Mistake(
            lambda s, lam: torch.where(_length(s) > lam / 2, s, 0.0),
            (
                "you silence the right groups, but the others must be shortened too.",
                "A group that speaks pays for its length: it loses half of lam of it.",
            ),
        ),
        Mistake(
            lambda s, lam: _shrink(s, lam / 2 / _length(s).square()),
            (
                "you divided by the squared length; the root is missing.",
                "The derivative of the norm is a vector of length one.",
            ),
        ),
    ),
    "sparsity_gradient": (
        Mistake(
            lambda a, rho: len(a) * _gradient(a, rho),
            (
                "you forgot that each example is one B-th of the mean activity.",
                "The derivative of rho_hat by h_nj is 1 / B; the shares contain it.",
            ),
        ),
        Mistake(
            lambda a, rho: (a.sigmoid() - rho) / len(a),
            (
                "you took the divergence of each answer; the batch's mean belongs inside it.",
                "One rho_hat belongs to all examples of the batch.",
                "The sums in the denominators of the shares run over the batch.",
            ),
        ),
        Mistake(
            lambda a, rho: _gradient(a, rho) / _slope(a),
            (
                "you stopped at the activities; the sigmoid's slope h (1 - h) is missing.",
                "One factor of h (1 - h) goes into the share, the other one stays.",
            ),
        ),
        Mistake(
            lambda a, rho: -_gradient(a, rho),
            (
                "the sign is wrong.",
                "A unit that is too busy must have a positive gradient: descent makes it quieter.",
            ),
        ),
        Mistake(
            lambda a, rho: _gradient(a, rho, _swapped),
            (
                "this is the gradient of the KL with its arguments swapped.",
                "The mean is taken under rho: the ratios are rho / rho_hat and its counterpart.",
            ),
        ),
        Mistake(
            lambda a, rho: _gradient(a, rho) / a.shape[1],
            (
                "you averaged over units; the penalty is a sum.",
                "A unit's gradient does not depend on how many others there are.",
            ),
        ),
        Mistake(
            lambda a, rho: -rho * a.sigmoid() / a.sigmoid().sum(dim=0) * (-a).sigmoid(),
            (
                "you kept the pull of rho / rho_hat only; the other outcome pushes.",
                "A unit that is too busy is held down by (1 - rho) / (1 - rho_hat).",
            ),
        ),
        Mistake(
            lambda a, rho: (
                _gradient(a, rho)
                / _slope(a)
                * (a.sigmoid().mean(dim=0) * (-a).sigmoid().mean(dim=0))
            ),
            (
                "you took the sigmoid's slope at the mean activity; each example has its own.",
                "The slope is h_nj (1 - h_nj), not rho_hat (1 - rho_hat).",
            ),
        ),
    ),
    "jackknife_kl": (
        Mistake(
            lambda h, rho: _kl(rho, h.mean(dim=0)),
            (
                "this is the plain estimate: you averaged the activities, not their divergences.",
                "The mean of the leave-one-out means is the mean itself.",
                "Take the KL of each batch of B - 1, and then the average.",
            ),
        ),
        Mistake(
            lambda h, rho: _kl(rho, _rates_without(h)).mean(dim=0),
            (
                "you averaged over the smaller batches only; their bias is larger still.",
                "Combine it with the KL of the whole batch so that c drops out.",
            ),
        ),
        Mistake(
            lambda h, rho: (_kl(rho, h.mean(dim=0)) - (len(h) - 1) * _excess(h, rho)).clamp(min=0),
            (
                "you cut negative estimates off at zero; they must stay.",
                "An estimate that is right on average lies on both sides of what it estimates.",
            ),
        ),
        Mistake(
            lambda h, rho: _kl(rho, h.mean(dim=0)) + (len(h) - 1) * _excess(h, rho),
            (
                "you added the bias once more instead of taking it off.",
                "The smaller batches are biased upwards by more: they come in with a minus.",
            ),
        ),
        Mistake(
            lambda h, rho: _kl(rho, h.mean(dim=0)) - _excess(h, rho),
            (
                "you took off the excess of the smaller batches once; it takes B - 1 times that.",
                "The excess is c / (B - 1) - c / B; how often does it go into c / B?",
            ),
        ),
        Mistake(
            lambda h, rho: _kl(rho, h.mean(dim=0)) - len(h) * _excess(h, rho),
            (
                "you used B where B - 1 belongs: the weights must add up to one.",
                "They are B and minus (B - 1).",
            ),
        ),
        Mistake(
            lambda h, rho: (
                len(h) * _kl(rho, h.mean(dim=0))
                - (len(h) - 1) * _kl(rho, _rates_without(h) * (len(h) - 1) / len(h)).mean(dim=0)
            ),
            (
                "you divided the sum without an example by B; it has B - 1 terms.",
                "Every leave-one-out rate is a mean of the examples that are left.",
            ),
        ),
        Mistake(
            lambda h, rho: (
                len(h) * _kl(rho, h.mean(dim=0)) - (len(h) - 1) * _kl(rho, h).mean(dim=0)
            ),
            (
                "you took the divergence of each example alone; one is to be left out.",
                "A batch of size B - 1 is all of them but one.",
            ),
        ),
        Mistake(
            lambda h, rho: (_kl(rho, h.mean(dim=0)) - (len(h) - 1) * _excess(h, rho)).sum(),
            (
                "you summed over units; one number for each is asked for.",
                "The averages run over the batch, dimension 0, alone.",
            ),
        ),
    ),
    "batch_top_k": (
        Mistake(
            lambda h, norms, k: (
                h * torch.zeros_like(h).scatter(1, (h * norms).topk(int(k), dim=1).indices, 1.0)
            ),
            (
                "this is plain TopK: each example keeps k of its own.",
                "Let all entries of the batch compete with each other.",
                "Flatten the contributions, and keep the B k largest.",
            ),
        ),
        Mistake(
            lambda h, norms, k: _kept(h, int(k) * len(h), h),
            (
                "you chose by activations; the contributions count.",
                "What a unit adds to the picture has the length of its activity times the norm.",
            ),
        ),
        Mistake(
            lambda h, norms, k: _kept(h * norms, int(k), h),
            (
                "you kept k entries of the whole batch; it has B times as many to keep.",
                "k is the mean number of active units of an example.",
            ),
        ),
        Mistake(
            lambda h, norms, k: _kept(h * norms, int(k) * len(h), h * norms),
            (
                "you returned the contributions; the code is asked for.",
                "The norms help to choose, and then leave the values alone.",
            ),
        ),
        Mistake(
            lambda h, norms, k: (
                h * torch.zeros_like(h).scatter(0, (h * norms).topk(int(k), dim=0).indices, 1.0)
            ),
            (
                "you let each unit keep k examples; examples and units compete together.",
                "Nothing is fixed for a row or for a column, only the number in the batch.",
            ),
        ),
        Mistake(
            lambda h, norms, k: _kept(h * norms, int(k) * len(h), torch.ones_like(h)),
            (
                "you returned the mask; the entries that stay keep their values.",
                "Multiply the code by the mask.",
            ),
        ),
        Mistake(
            lambda h, norms, k: h - _kept(h * norms, int(k) * len(h), h),
            (
                "you silenced the largest; they are the ones to keep.",
                "The mask is one where an entry stays.",
            ),
        ),
    ),
    "amortisation_bound": (
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _factor(h, x - offset, columns, lam, twice=1)
            ),
            (
                "the factor two of the condition is missing: your u is not admissible.",
                "Twice the product of u with a column must not exceed lam.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(h, x - offset, columns, lam, 1.0),
            (
                "you took the residual as it is; it is not admissible for every code.",
                "Shrink it until twice its product with each column is at most lam.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _factor(h, x - offset, columns, lam).min()
            ),
            (
                "you shrank all residuals by one factor; each example has its own.",
                "Take the maximum over the columns, not over the batch.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _signed_factor(h, x - offset, columns, lam)
            ),
            (
                "you bounded the products from both sides, as for a code with signs.",
                "This code cannot be negative: a product may be as negative as it likes.",
                "Take the largest product, not the largest absolute value.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _unclipped(h, x - offset, columns, lam)
            ),
            (
                "your factor leaves the interval from 0 to 1.",
                "A residual that is admissible by itself needs no factor: it is 1.",
                "That is so too where all products are negative.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x, columns, lam, _factor(h, x, columns, lam)
            ),
            (
                "you forgot the decoder's offset.",
                "The code describes z = x - c.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _unclipped(h, x - offset, columns, lam).clamp(0, 1)
            ),
            (
                "your factor is 0 for a residual that no column overlaps with; 1 is admissible.",
                "Where the largest product is negative, so is lam over twice it: clamping gives 0.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _objective(h, x - offset, columns, lam),
            (
                "this is the objective itself; the lower bound D(u) is still to be taken off.",
                "It would be the gap if the least objective were zero.",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: (
                _objective(h, x - offset, columns, lam)
                - _bound(h, x - offset, columns, lam, _factor(h, x - offset, columns, lam))
            ),
            (
                "this is the lower bound D(u) on the objective, not the distance to it.",
                "Return F(h) - D(u).",
            ),
        ),
        Mistake(
            lambda h, x, columns, offset, lam: _bound(
                h, x - offset, columns, lam, _factor(h, x - offset, columns, lam)
            ).mean(),
            (
                "you averaged over the batch; one bound for each example is asked for.",
                "Sum over pixels and over units, and keep the examples apart.",
            ),
        ),
    ),
}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@takes_function
def check_elastic_answer(fn: Callable[[Tensor, float, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(s, t, mu)``: one unit's answer to an L1 and a squared penalty.

    Args:
        fn: Your function, of wishes of any shape, half the weight of ``|h|``, and the weight of
            ``h ** 2``; it gives the answers, in the shape of the wishes.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    s = torch.tensor([[3.1, -2.3, 0.4], [-0.7, 1.4, 0]], dtype=torch.float64)
    mistakes = MISTAKES["elastic_answer"]
    for t, mu in ((0.8, 0.6), (0.0, 0.6), (0.8, 0.0)):
        right = _lowest(partial(_elastic_cost, s=s, t=t, mu=mu), s)
        inputs = {"s": s, "t": t, "mu": mu}
        compare(fn(s.clone(), t, mu), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_accelerated_codes(
    fn: Callable[[Tensor, Tensor, Tensor, float, int], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(x, columns, offset, lam, n_steps)``: codes by accelerated ISTA.

    Args:
        fn: Your function, of inputs (B, D), the decoder's columns (D, L) and offset (D,), the
            weight of the L1 penalty, and a number of steps; it gives the codes (B, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = _generator()
    columns = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    offset = torch.randn(4, dtype=torch.float64, generator=generator)
    wish = torch.rand(3, 6, dtype=torch.float64, generator=generator)
    x = offset + wish @ columns.T
    mistakes = MISTAKES["accelerated_codes"]
    for n_steps in (1, 6):
        inputs = {"x": x, "columns": columns, "offset": offset, "lam": 0.5, "n_steps": n_steps}
        right = _accelerated(x, columns, offset, 0.5, n_steps)
        value = fn(x.clone(), columns, offset, 0.5, n_steps)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_group_threshold(fn: Callable[[Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(s, lam)``: the best code when each group pays for its length.

    Args:
        fn: Your function, of wishes (B, G, M) in G groups of M units and a weight; it gives
            (B, G, M).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    # lengths 5, 1 and 13, 3: known by Pythagoras; 4 / 2 is taken off each
    s = torch.tensor([[[3, 4], [0.6, -0.8]], [[-5, 12], [1.8, -2.4]]], dtype=torch.float64)
    left = torch.tensor([[3 / 5, 0], [11 / 13, 1 / 3]], dtype=torch.float64)
    right = left[:, :, None] * s
    mistakes = MISTAKES["group_threshold"]
    inputs = {"s": s, "lam": 4.0}
    compare(fn(s.clone(), 4.0), right, inputs=inputs, mistakes=mistakes, hints=hints)
    inputs = {"s": s, "lam": 0.0}
    compare(fn(s.clone(), 0.0), s, inputs=inputs, mistakes=mistakes, hints=hints)
    wishes = torch.randn(5, 4, 3, dtype=torch.float64, generator=_generator())
    wishes[0, 0] = 0
    answer = fn(wishes.clone(), 2.0)
    if not answer.isfinite().all():
        raise CheckFailed("A group of zeros must give zeros, and it gives NaN: what is 0 / 0?")
    for seed in range(20):
        step = torch.randn(5, 4, 3, dtype=torch.float64, generator=_generator(seed))
        cost, moved = (
            (wishes - h).square().sum(dim=2) + 2 * h.norm(dim=2)
            for h in (answer, answer + 0.1 * step)
        )
        if (moved < cost).any():
            raise CheckFailed("A code beside the one that you return costs less.")


@takes_function
def check_sparsity_gradient(fn: Callable[[Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(a, rho)``: the gradient of the units' summed Bernoulli KL.

    Args:
        fn: Your function, of pre-activations (B, L) of sigmoid units and the wanted mean activity;
            it gives (B, L). It is called without automatic differentiation.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    a = 2 * torch.randn(5, 3, dtype=torch.float64, generator=_generator()) - 1
    mistakes = MISTAKES["sparsity_gradient"]
    with torch.no_grad():
        value, low, high = (fn(a + far, 0.05) for far in (0, -900, 900))
    inputs = {"a": a, "rho": 0.05}
    compare(value, _gradient(a, 0.05), inputs=inputs, mistakes=mistakes, hints=hints)
    for far, total, sign, where in ((low, -0.05, 1, "at -900"), (high, 0.95, -1, "at +900")):
        if not far.isfinite().all():
            raise CheckFailed(
                f"For units {where} the gradient contains NaN or infinite values.\n"
                "Compute the shares from log-sigmoids, as softmaxes over the batch."
            )
        if not torch.allclose(far.sum(dim=0), torch.full_like(far[0], total)):
            raise CheckFailed(
                f"For units {where} the gradients of each must sum to {total} over the batch, "
                f"and sum to {far.sum(dim=0)[0]:.4g}."
            )
        if not torch.allclose(far / total, (sign * a).softmax(dim=0).to(far.dtype)):
            raise CheckFailed(
                f"For units {where} the gradients sum to {total}, as they must, but the examples "
                "do not have the right shares in that."
            )


@takes_function
def check_jackknife_kl(fn: Callable[[Tensor, float], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(h, rho)``: the KL of each unit's mean activity, less its 1/B bias.

    Args:
        fn: Your function, of activities (B, L) in (0, 1) and the wanted mean activity; it gives
            (L,), in nats.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    a = 2 * torch.randn(5, 3, dtype=torch.float64, generator=_generator()) - 2
    h = a.sigmoid()
    right = 5 * _kl(0.1, h.mean(dim=0)) - 4 * _kl(0.1, _rates_without(h)).mean(dim=0)
    mistakes = MISTAKES["jackknife_kl"]
    inputs = {"h": h, "rho": 0.1}
    compare(fn(h.clone(), 0.1), right, inputs=inputs, mistakes=mistakes, hints=hints)
    dull = fn(h[:1].repeat(5, 1), 0.1)
    if not torch.allclose(dull.to(h.dtype), _kl(0.1, h[0])):
        raise CheckFailed("Where all examples agree there is no bias: the KL must stay as it is.")


@takes_function
def check_batch_top_k(fn: Callable[[Tensor, Tensor, int], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(h, norms, k)``: the B k longest contributions of a batch.

    Args:
        fn: Your function, of codes (B, L) that are not negative, the norms (L,) of the decoder's
            columns, and a mean number of active units; it gives the thinned codes (B, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    h = torch.tensor([[1, 2, 3, 0.5], [7, 1.5, 4, 6], [0, 2.5, 0.2, 0.1]], dtype=torch.float64)
    norms = torch.tensor([0.5, 3, 1, 2], dtype=torch.float64)
    # contributions: 0.5 6 3 1, 3.5 4.5 4 12, 0 7.5 0.2 0.2; the six longest are 12 to 3.5
    stays = torch.tensor([[0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=torch.float64)
    mistakes = MISTAKES["batch_top_k"]
    inputs = {"h": h, "norms": norms, "k": 2}
    compare(fn(h.clone(), norms, 2), h * stays, inputs=inputs, mistakes=mistakes, hints=hints)
    differentiable = h.clone().requires_grad_()
    thinned = fn(1 * differentiable, norms, 2)
    if not thinned.requires_grad:
        raise CheckFailed("The entries that stay must keep their gradient, and yours have none.")
    (gradient,) = torch.autograd.grad(thinned.sum(), differentiable)
    if not torch.equal(gradient, stays):
        raise CheckFailed("The gradient must be one for the entries that stay, zero for others.")
    even = fn(torch.ones_like(h), torch.ones_like(norms), 2)
    if (count := int((even != 0).sum())) != 6:
        raise CheckFailed(
            f"Of twelve equal contributions six must stay, and {count} do.\n"
            "A comparison with a cut treats all that are equal to it alike."
        )


@takes_function
def check_amortisation_bound(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(h, x, columns, offset, lam)``: a bound on how far codes are from best.

    Args:
        fn: Your function, of codes (B, L) that are not negative, inputs (B, D), the decoder's
            columns (D, L) and offset (D,), and the weight of the L1 penalty; it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = _generator()
    h = torch.rand(6, 5, dtype=torch.float64, generator=generator)
    columns = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    offset, wish = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    size = torch.tensor([1, 2, 3, 1.5, -2, 0.1], dtype=torch.float64)
    x = offset + h @ columns.T + size[:, None] * wish
    z, lam = x - offset, 0.8
    right = _bound(h, z, columns, lam, _factor(h, z, columns, lam))
    inputs = {"h": h, "x": x, "columns": columns, "offset": offset, "lam": lam}
    mistakes = MISTAKES["amortisation_bound"]
    value = fn(h.clone(), x.clone(), columns, offset, lam)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    positive = columns.abs()  # and a residual that no column overlaps with
    x = offset + h @ positive.T - 0.3
    right = (h * (lam + 0.6 * positive.sum(dim=0))).sum(dim=1)
    inputs = {"h": h, "x": x, "columns": positive, "offset": offset, "lam": lam}
    value = fn(h.clone(), x.clone(), positive, offset, lam)
    compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)
    orthonormal = torch.linalg.qr(columns).Q  # the ReLU layer is then the best code
    best = F.relu((x - offset) @ orthonormal - lam / 2)
    if fn(best, x, orthonormal, offset, lam).abs().max() > 1e-6:
        raise CheckFailed("For orthonormal columns the ReLU layer is optimal: its bound is zero.")
