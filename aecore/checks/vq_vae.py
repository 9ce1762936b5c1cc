"""Checks of what the chapter and the assignment on discrete codes ask for."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import torch
from torch import Tensor

from aecore.checks.mistakes import CheckFailed, Mistake, compare, takes_function

__all__ = [
    "MISTAKES",
    "check_bigram_bits",
    "check_codebook_step",
    "check_direction_indices",
    "check_expected_codes_seen",
    "check_gaussian_distortion",
    "check_residual_indices",
    "check_rotated_gradient",
    "check_straight_through_variance",
]


# --- a normal number ---------------------------------------------------------------------------


def _normal_mean(
    f: Callable[[Tensor, Tensor], Tensor], codes: Tensor, low: float = -12.0, high: float = 12.0
) -> Tensor:
    """The integral of f(x, q(x)) times the standard normal density, by quadrature."""
    x = torch.linspace(low, high, 240_001, dtype=torch.float64)
    q = codes.double()[(x[:, None] - codes.double()).abs().argmin(dim=1)]
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    return torch.trapezoid(f(x, q) * density, x)


def _gaussian_distortion(codes: Tensor) -> Tensor:
    return _normal_mean(lambda x, q: (x - q).square(), codes)


def _without_sorting(codes: Tensor) -> Tensor:
    codes = codes.double()
    end = torch.full((1,), torch.inf, dtype=torch.float64)
    walls = torch.cat([-end, (codes[1:] + codes[:-1]) / 2, end])
    mass = torch.special.ndtr(walls).diff()
    first = -torch.exp(-0.5 * walls.square()).diff() / math.sqrt(2 * math.pi)
    total: Tensor = 1 + (codes.square() * mass - 2 * codes * first).sum()
    return total


def _without_tails(codes: Tensor) -> Tensor:
    low, high = codes.min().item(), codes.max().item()
    return _normal_mean(lambda x, q: (x - q).square(), codes, low, high)


# --- residual quantisation ---------------------------------------------------------------------


def _nearest(h: Tensor, codes: Tensor) -> Tensor:
    return (h[:, None, :] - codes).square().sum(dim=2).argmin(dim=1)


def _stages(
    h: Tensor, codebooks: Tensor, left: Callable[[Tensor, Tensor], Tensor], choose: Callable
) -> Tensor:
    """Indices (N, M), of a rule for what is left and a rule of choice."""
    rest, columns = h, []
    for codes in codebooks:
        columns.append(choose(rest, codes))
        rest = left(rest, codes[columns[-1]])
    return torch.stack(columns, dim=1)


def _residual_indices(h: Tensor, codebooks: Tensor) -> Tensor:
    return _stages(h, codebooks, lambda rest, q: rest - q, _nearest)


def _best_sum(h: Tensor, codebooks: Tensor) -> Tensor:
    """The combination whose sum is nearest, of all there are."""
    words = torch.tensor(list(product(range(codebooks.shape[1]), repeat=len(codebooks))))
    sums = codebooks[torch.arange(len(codebooks)), words].sum(dim=1)
    return words[_nearest(h, sums)]


# --- the rotation ------------------------------------------------------------------------------


def _turned(h: Tensor, q: Tensor, grad: Tensor, *, back: bool = True, unit: bool = True) -> Tensor:
    """R^T grad or R grad, with R as a matrix."""
    a, b = (v / v.norm(dim=1, keepdim=True) if unit else v for v in (h, q))
    identity = torch.eye(h.shape[1]).to(h)
    s = a + b
    mirror = s[:, :, None] * s[:, None, :] / s.square().sum(dim=1)[:, None, None]
    matrix = identity - 2 * mirror + 2 * b[:, :, None] * a[:, None, :]
    turned: Tensor = (matrix.mT if back else matrix) @ grad[:, :, None]
    return turned[:, :, 0]


def _rotated_gradient(h: Tensor, q: Tensor, grad: Tensor) -> Tensor:
    """By the exponential of the plane's generator: the rotation by its angle."""
    a, b = h / h.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(dim=1, keepdim=True)
    across = b - cosine * a
    sine = across.norm(dim=1, keepdim=True)
    across = across / sine.clamp(min=1e-300)
    generator = across[:, :, None] * a[:, None, :] - a[:, :, None] * across[:, None, :]
    matrix = torch.linalg.matrix_exp(torch.atan2(sine, cosine)[:, :, None] * generator)
    turned: Tensor = matrix.mT @ grad[:, :, None]
    return _scale(h, q) * turned[:, :, 0]


def _scale(h: Tensor, q: Tensor) -> Tensor:
    ratio: Tensor = q.norm(dim=1, keepdim=True) / h.norm(dim=1, keepdim=True)
    return ratio


# --- a chain of codes --------------------------------------------------------------------------


def _starts(known: Tensor, n_codes: Tensor | int) -> Tensor:
    """How often each code comes first, (K,)."""
    return torch.bincount(known[:, 0], minlength=int(n_codes)).double()


def _follows(known: Tensor, n_codes: Tensor | int) -> Tensor:
    """Entry [j, k]: how often k comes directly after j in a row, (K, K)."""
    size = int(n_codes)
    pairs = (known[:, :-1] * size + known[:, 1:]).flatten()
    return torch.bincount(pairs, minlength=size**2).double().reshape(size, size)


def _chain(new: Tensor, starts: Tensor, table: Tensor, start: bool = True) -> Tensor:
    bits = -table[new[:, :-1], new[:, 1:]].log2().sum(dim=1)
    return bits - starts[new[:, 0]].log2() if start else bits


def _share(counts: Tensor) -> Tensor:
    return counts / counts.sum(dim=-1, keepdim=True)


def _chain_of(
    new: Tensor,
    known: Tensor,
    n_codes: Tensor | int,
    share: Callable[[Tensor], Tensor] = lambda counts: _share(counts + 1),
    start: bool = True,
) -> Tensor:
    starts, table = _starts(known, n_codes), _follows(known, n_codes)
    return _chain(new, share(starts), share(table), start)


def _across_grids(new: Tensor, known: Tensor, n_codes: Tensor | int) -> Tensor:
    table = _follows(known.flatten()[None], n_codes)
    return _chain(new, _share(_starts(known, n_codes) + 1), _share(table + 1))


def _other_way(new: Tensor, known: Tensor, n_codes: Tensor | int) -> Tensor:
    table = _share(_follows(known, n_codes).T + 1).T
    return _chain(new, _share(_starts(known, n_codes) + 1), table)


def _pairs_at_large(new: Tensor, known: Tensor, n_codes: Tensor | int) -> Tensor:
    table = _follows(known, n_codes) + 1
    return _chain(new, _share(_starts(known, n_codes) + 1), table / table.sum())


def _bigram_bits(new: Tensor, known: Tensor, n_codes: int) -> Tensor:
    """By counting, one conditional probability after another."""
    rows, totals = known.tolist(), []
    for grid in new.tolist():
        p = (1 + sum(row[0] == grid[0] for row in rows)) / (n_codes + len(rows))
        bits = -math.log2(p)
        for before, code in pairwise(grid):
            after = [b for row in rows for a, b in pairwise(row) if a == before]
            bits -= math.log2((1 + after.count(code)) / (n_codes + len(after)))
        totals.append(bits)
    return torch.tensor(totals, dtype=torch.float64)


# --- codes seen --------------------------------------------------------------------------------


def _expected_codes_seen(frequencies: Tensor, n: int) -> Tensor:
    """By enumeration of all sequences of n codes."""
    total = torch.zeros((), dtype=torch.float64)
    for word in product(range(len(frequencies)), repeat=n):
        total += frequencies.double()[list(word)].prod() * len(set(word))
    return total


# --- a step of a codebook ----------------------------------------------------------------------


Averages = tuple[Tensor, Tensor]


def _step(
    codes: Tensor,
    counts: Tensor,
    sums: Tensor,
    batch: Tensor,
    fresh: Tensor | None = None,
    *,
    keep: float = 0.9,
    place: Callable[..., Tensor] = lambda counts, sums, n, s, old: torch.where(
        counts[:, None] > 0, sums / counts[:, None], old
    ),
    dead: Callable[..., Tensor] = lambda counts, n, old: counts < 0.1 * counts.mean(),
    reset: Callable[..., Averages] = lambda fair, fresh, counts, sums: (fair, fair * fresh),
) -> Tensor:
    """Codes, counts and sums side by side, (K, 2 L + 1); each option makes a wrong version."""
    old, k = counts, _nearest(batch, codes)
    n = torch.stack([(k == i).sum() for i in range(len(codes))]).to(codes)
    s = torch.stack([batch[k == i].sum(dim=0) for i in range(len(codes))])
    counts, sums = keep * counts + (1 - keep) * n, keep * sums + (1 - keep) * s
    codes = place(counts, sums, n[:, None], s, codes)
    if fresh is not None:
        gone = dead(counts, n, old)
        count, total = reset(counts.mean(), fresh, counts, sums)
        codes = torch.where(gone[:, None], fresh, codes)
        counts = torch.where(gone, count, counts)
        sums = torch.where(gone[:, None], total, sums)
    return torch.cat([codes, counts[:, None], sums], dim=1)


def _side_by_side(state: object, codes: Tensor) -> object:
    """The three parts of a step's answer in one tensor; anything else as it is."""
    size, width = codes.shape
    if not isinstance(state, tuple | list | Tensor):
        return state
    if isinstance(state, Tensor) and state.shape == (size, 2 * width + 1):
        return state  # of a wrong version
    shapes = [(size, width), (size,), (size, width)]
    if [tuple(getattr(part, "shape", ())) for part in state] != shapes:
        raise CheckFailed(
            "The function must return three tensors, codes, counts and sums, with the shapes "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    codes, counts, sums = state
    return torch.cat([codes, counts[:, None], sums], dim=1)


# --- exercises of the chapter ------------------------------------------------------------------


def _draws(logits: Tensor, values: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """The straight-through gradient for each draw, a row each, and the draws' probabilities."""
    rows = []
    for hard in torch.eye(len(logits)).to(logits):
        phi = logits.detach().requires_grad_()
        soft = phi.softmax(dim=0)
        y = soft + (hard - soft).detach()
        rows.append(torch.autograd.grad((target - y @ values).square(), phi)[0])
    return torch.stack(rows), logits.softmax(dim=0)


def _straight_through_variance(logits: Tensor, values: Tensor, target: float) -> Tensor:
    rows, p = _draws(logits, values, target)
    total: Tensor = p @ (rows - p @ rows).square().sum(dim=1)
    return total


def _around_exact(logits: Tensor, values: Tensor, target: float) -> Tensor:
    rows, p = _draws(logits, values, target)
    r = (target - values).square()
    total: Tensor = p @ (rows - p * (r - p @ r)).square().sum(dim=1)
    return total


def _second_moment(logits: Tensor, values: Tensor, target: float) -> Tensor:
    rows, p = _draws(logits, values, target)
    total: Tensor = p @ rows.square().sum(dim=1)
    return total


def _score_variance(logits: Tensor, values: Tensor, target: float) -> Tensor:
    p, r = logits.softmax(dim=0), (target - values).square()
    rows = r[:, None] * (torch.eye(len(p)).to(p) - p)
    total: Tensor = p @ (rows - p @ rows).square().sum(dim=1)
    return total


def _spread_of(logits: Tensor, values: Tensor, target: float) -> Tensor:
    p = logits.softmax(dim=0)
    total: Tensor = p @ (values - p @ values).square()
    return total


def _same_length(v: Tensor, dim: int = 1) -> Tensor:
    unit: Tensor = v / v.norm(dim=dim, keepdim=True)
    return unit


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "gaussian_distortion": (
        Mistake(
            _without_sorting,
            (
                "you took the codes to be sorted.",
                "Neighbours in the list need not be neighbours on the line.",
                "Sort the codes before you place the walls.",
            ),
        ),
        Mistake(
            lambda codes: _gaussian_distortion(codes).sqrt(),
            (
                "you took the root; the distortion is the mean square itself.",
                "It has the unit of x squared, as in Lloyd's algorithm.",
            ),
        ),
        Mistake(
            _without_tails,
            (
                "you left out the tails.",
                "The outermost cells do not end at their codes.",
                "The first wall is at minus infinity, the last at infinity.",
            ),
        ),
        Mistake(
            lambda codes: _normal_mean(lambda x, q: x.square() + q.square(), codes),
            (
                "you dropped the cross term of the square.",
                "The mean of x is zero, but not within a cell.",
                "Over a cell from a to b the integral of x times the density is phi(a) - phi(b).",
            ),
        ),
        Mistake(
            lambda codes: _normal_mean(lambda x, q: (x + q).square(), codes),
            (
                "the cross term has the wrong sign.",
                "The derivative of the density is -x times the density.",
                "So the integral of x times the density from a to b is phi(a) - phi(b).",
            ),
        ),
        Mistake(
            lambda codes: _normal_mean(lambda x, q: x.square() - q.square(), codes),
            (
                "you took each code for the mean of its cell.",
                "Only where the centroid condition holds is the distortion E[x^2] - E[q^2].",
                "The codes are given, and may lie anywhere: use each cell's own first moment.",
            ),
        ),
        Mistake(
            lambda codes: _gaussian_distortion(codes) / len(codes),
            (
                "you averaged over cells; the distortion is a sum over them.",
                "The cells' probabilities are their weights already, and sum to one.",
            ),
        ),
    ),
    "residual_indices": (
        Mistake(
            lambda h, codebooks: _stages(h, codebooks, lambda rest, q: rest, _nearest),
            (
                "you quantised h itself with every codebook.",
                "The second codebook gets what the first has left over.",
            ),
        ),
        Mistake(
            lambda h, codebooks: _stages(h, codebooks, lambda rest, q: h - q, _nearest),
            (
                "you took only the last code off h; the others are forgotten.",
                "What is left after stage m is h less the sum of all m codes.",
                "Keep a remainder, and take each code off that.",
            ),
        ),
        Mistake(
            lambda h, codebooks: _stages(h, codebooks, lambda rest, q: q - rest, _nearest),
            (
                "what is left has the wrong sign.",
                "The sum of the codes is to come near h: the next code stands for h - q.",
            ),
        ),
        Mistake(
            lambda h, codebooks: _residual_indices(h, codebooks.flip(0)).flip(1),
            (
                "you used the codebooks from the last to the first.",
                "codebooks[0] quantises h, and codebooks[1] what that leaves.",
            ),
        ),
        Mistake(
            lambda h, codebooks: _residual_indices(h, codebooks[:1].expand_as(codebooks)),
            (
                "you used the first codebook in every stage.",
                "What is left is smaller, and has a codebook of its own.",
            ),
        ),
        Mistake(
            _best_sum,
            (
                "this is the best of all sums; residual quantisation is greedy.",
                "Each stage chooses the nearest code, and does not look ahead.",
                "The best sum needs K^M comparisons, the greedy one M K.",
            ),
        ),
        Mistake(
            lambda h, codebooks: _stages(
                h, codebooks, lambda rest, q: rest - q, lambda r, codes: (r @ codes.mT).argmax(1)
            ),
            (
                "you chose by the inner product, which favours long codes.",
                "The distance has the codes' squared lengths in it as well.",
            ),
        ),
    ),
    "rotated_gradient": (
        Mistake(
            lambda h, q, grad: grad.clone(),
            (
                "this is straight through: the gradient is copied as it is.",
                "The layer is lambda R h, so what reaches h is lambda R^T times the gradient at q.",
            ),
        ),
        Mistake(
            lambda h, q, grad: _scale(h, q) * _turned(h, q, grad, back=False),
            (
                "you turned from h to q; on the way back the gradient turns from q to h.",
                "The gradient of g^T A h in h is A^T g.",
                "R^T exchanges the two directions: h^ (q^ . g) in place of q^ (h^ . g).",
            ),
        ),
        Mistake(
            lambda h, q, grad: _turned(h, q, grad),
            (
                "the rotation is right, and the ratio of the lengths is missing.",
                "Both lambda and R are constants, and both stay in the gradient.",
            ),
        ),
        Mistake(
            lambda h, q, grad: _turned(h, q, grad) / _scale(h, q),
            (
                "the ratio of the lengths is upside down.",
                "lambda R h must have the length of q, so lambda is |q| / |h|.",
            ),
        ),
        Mistake(
            lambda h, q, grad: torch.zeros_like(h),
            (
                "nothing reaches h: did you differentiate lambda and R as well?",
                "lambda R h is q for every h, unless lambda and R are held constant.",
                "The map from h is then linear, with the matrix lambda R.",
            ),
        ),
        Mistake(
            lambda h, q, grad: _scale(h, q) * grad,
            (
                "you scaled the gradient and did not turn it.",
                "The transpose of R is no identity unless h and q have one direction.",
            ),
        ),
        Mistake(
            lambda h, q, grad: _scale(h, q) * _turned(h, q, grad, unit=False),
            (
                "you made R of h and q themselves; it is made of their directions.",
                "Divide each by its own length first.",
            ),
        ),
    ),
    "bigram_bits": (
        Mistake(
            lambda new, known, n_codes: _chain_of(new, known, n_codes) * math.log(2),
            (
                "these are nats; bits are asked for.",
                "Use the logarithm to base two, or divide by log 2.",
            ),
        ),
        Mistake(
            lambda new, known, n_codes: _chain_of(new, known, n_codes, _share),
            (
                "you did not smooth: a pair that was never seen costs infinitely much.",
                "Start every count at one, those of the first code included.",
            ),
        ),
        Mistake(
            _pairs_at_large,
            (
                "you used the probability of the pair, not of a code given the one before.",
                "The chain rule has conditional probabilities: each row of the table sums to one.",
            ),
        ),
        Mistake(
            _other_way,
            (
                "you conditioned the wrong way round: on the code that follows.",
                "For each code j before, the probabilities of the codes k after it sum to one.",
            ),
        ),
        Mistake(
            _across_grids,
            (
                "you counted pairs from the end of one grid to the start of the next.",
                "Grids are independent: a pair lies within a row of known.",
            ),
        ),
        Mistake(
            lambda new, known, n_codes: _chain_of(
                new, known, n_codes, lambda n: (n + 1) / (n.sum(dim=-1, keepdim=True) + 1)
            ),
            (
                "you added one above and one below, and the probabilities sum to more than one.",
                "Each of the K counts gained one, so their sum gained K.",
            ),
        ),
        Mistake(
            lambda new, known, n_codes: _chain_of(new, known, n_codes, start=False),
            (
                "you forgot what the first code costs.",
                "Nothing stands before it: it has a distribution of its own.",
            ),
        ),
        Mistake(
            lambda new, known, n_codes: _chain_of(new, known, n_codes) / new.shape[1],
            (
                "these are bits a code; bits a grid are asked for.",
                "Sum over the places of a grid.",
            ),
        ),
    ),
    "codebook_step": (
        Mistake(
            partial(_step, keep=0.1),
            (
                "you exchanged the weights: the new batch is to have 0.1, the past 0.9.",
                "A decay of 0.9 keeps nine tenths of the average in each step.",
            ),
        ),
        Mistake(
            partial(
                _step,
                place=lambda counts, sums, n, s, old: torch.where(n > 0, s / n, old),
            ),
            (
                "you put the codes at the means of this batch alone.",
                "A code is the ratio of its two averages, which remember the batches before.",
            ),
        ),
        Mistake(
            partial(
                _step,
                place=lambda counts, sums, n, s, old: sums / (counts[:, None] + 1e-5),
            ),
            (
                "you added a small number to the counts: a code never chosen falls to zero.",
                "Such a code must stay where it is, and the others have no need of the number.",
                "centroids(sums, counts, codes) sees to both.",
            ),
        ),
        Mistake(
            partial(_step, dead=lambda counts, n, old: n == 0),
            (
                "you revive every code that this batch did not choose.",
                "Whether a code is dead is judged by its moving average.",
            ),
        ),
        Mistake(
            partial(_step, dead=lambda counts, n, old: old < 0.1 * old.mean()),
            (
                "you judged the codes by their counts before this batch.",
                "First both averages move, then the new counts are looked at.",
            ),
        ),
        Mistake(
            partial(_step, dead=lambda counts, n, old: counts < counts.mean()),
            (
                "you revive every code that is used less than is fair.",
                "A code is dead only if it has less than a tenth of the fair share.",
            ),
        ),
        Mistake(
            partial(_step, dead=lambda counts, n, old: counts < 0.1 / len(counts)),
            (
                "you took 1/K for the fair share; counts are numbers of vectors, not frequencies.",
                "The fair share is the mean of the counts.",
            ),
        ),
        Mistake(
            partial(_step, reset=lambda fair, fresh, counts, sums: (counts, sums)),
            (
                "you moved the dead codes and left their averages where they were.",
                "The next step would set the code from its old averages again.",
                "The count becomes the fair share, the sum the fair share times the new place.",
            ),
        ),
        Mistake(
            partial(_step, reset=lambda fair, fresh, counts, sums: (fair, sums)),
            (
                "you gave revived codes a new count and left their sums as they were.",
                "The next step would set the code to its old sum over the new count.",
            ),
        ),
        Mistake(
            partial(_step, reset=lambda fair, fresh, counts, sums: (fair, fresh)),
            (
                "a revived code's sum is its place alone; its count is a fair share.",
                "The ratio of the two must be the new place.",
                "So the sum is the fair share times the new place.",
            ),
        ),
    ),
    "direction_indices": (
        Mistake(
            lambda h, codes: _nearest(h, codes),
            (
                "this is the nearest code as it stands; nothing was scaled to length one.",
                "Divide each vector and each code by its own length first.",
            ),
        ),
        Mistake(
            lambda h, codes: (h @ codes.mT).argmax(dim=1),
            (
                "you did not divide by the codes' lengths, so long codes win.",
                "Scaling h changes no comparison between codes; scaling the codes does.",
            ),
        ),
        Mistake(
            lambda h, codes: (h @ _same_length(codes).mT).argmin(dim=1),
            (
                "this is the code that points the other way.",
                "The distance is smallest where the inner product is largest.",
            ),
        ),
        Mistake(
            lambda h, codes: (h @ _same_length(codes).mT).abs().argmax(dim=1),
            (
                "you took the sign off the inner product.",
                "A code in the opposite direction is the farthest one.",
            ),
        ),
        Mistake(
            lambda h, codes: (h @ _same_length(codes, dim=0).mT).argmax(dim=1),
            (
                "you divided by the lengths of columns; a code is a row.",
                "The length of a code is a sum over its L numbers: dim=1, with keepdim=True.",
            ),
        ),
        Mistake(
            lambda h, codes: (h @ (codes / codes.square().sum(dim=1, keepdim=True)).mT).argmax(1),
            (
                "you divided by the squared lengths, so short codes win.",
                "A vector over its norm has length one; over its squared norm it has not.",
            ),
        ),
    ),
    "straight_through_variance": (
        Mistake(
            _second_moment,
            (
                "this is the second moment; take the squared mean off it.",
                "Only the factor t - c_k is random, and t is no part of its variance.",
            ),
        ),
        Mistake(
            _around_exact,
            (
                "you took the spread around the exact gradient, which adds the squared bias.",
                "A variance is taken around the estimator's own mean.",
            ),
        ),
        Mistake(
            lambda logits, values, target: _straight_through_variance(logits, values, target) / 4,
            (
                "you lost the factor 2 of the slope, which squared is 4.",
                "The slope of (t - u)^2 in u is -2 (t - u).",
            ),
        ),
        Mistake(
            lambda logits, values, target: 4 * _spread_of(logits, values, target).square(),
            (
                "you weighted the squares by pi; the weights are to be squared too.",
                "Coordinate j of the gradient of m is pi_j (c_j - m), and all of it is squared.",
            ),
        ),
        Mistake(
            lambda logits, values, target: 4 * _spread_of(logits, values, target),
            (
                "this is the variance of the slope alone, without the gradient of m in the logits.",
                "The gradient is that slope times the vector of the pi_j (c_j - m).",
                "Its variance, summed, has the squared length of that vector as a factor.",
            ),
        ),
        Mistake(
            lambda logits, values, target: (
                _straight_through_variance(logits, values, target) / len(logits)
            ),
            (
                "you averaged over the coordinates; their sum is asked for.",
                "As in V(b): the mean of a squared length.",
            ),
        ),
        Mistake(
            lambda logits, values, target: _straight_through_variance(
                logits, values, target
            ).sqrt(),
            ("this is the standard deviation; the variance is its square.",),
        ),
        Mistake(
            _score_variance,
            (
                "this is the variance of the score function without a baseline.",
                "The straight-through estimate has the loss's slope at the draw, not its value.",
            ),
        ),
    ),
    "expected_codes_seen": (
        Mistake(
            lambda frequencies, n: ((1 - frequencies) ** n).sum(),
            (
                "these are the codes that are not seen.",
                "A code is missed by all n vectors with probability (1 - q)^n.",
            ),
        ),
        Mistake(
            lambda frequencies, n: (
                len(frequencies) * (1 - (1 - 1 / len(frequencies)) ** n) + 0 * frequencies.sum()
            ),
            (
                "you took all codes to be equally frequent.",
                "Each code has its own probability of being missed.",
            ),
        ),
        Mistake(
            lambda frequencies, n: (1 - frequencies**n).sum(),
            (
                "you have the probability that not all vectors choose the code.",
                "It is seen unless all n vectors miss it: 1 - q is the chance of one miss.",
            ),
        ),
        Mistake(
            lambda frequencies, n: -torch.expm1(-n * frequencies).sum(),
            (
                "exp(-n q) is the limit for rare codes; the exact power is asked for.",
                "n independent misses have the probability (1 - q)^n.",
            ),
        ),
        Mistake(
            lambda frequencies, n: (1 - (1 - frequencies) ** n).mean(),
            (
                "you averaged over codes; their number is a sum.",
                "The mean number of events that happen is the sum of their probabilities.",
            ),
        ),
        Mistake(
            lambda frequencies, n: (n * frequencies).sum(),
            (
                "you added up how often each code is seen, which gives n.",
                "A code that is seen twice counts once.",
            ),
        ),
        Mistake(
            lambda frequencies, n: (n * frequencies).clamp(max=1).sum(),
            (
                "a code whose expected count is one or more may still be missed.",
                "Count each code with its probability of being seen at least once.",
            ),
        ),
    ),
}


@takes_function
def check_gaussian_distortion(fn: Callable[[Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(codes)``: E[(x - q(x))^2] of a standard normal number x.

    Args:
        fn: Your function, of codes (K,) in any order; it gives a scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    best = math.sqrt(2 / math.pi)
    for numbers, known in (
        ([0.3, -1.4, 1.1, -0.2], None),
        ([0.7], 1 + 0.7**2),  # one cell, the whole line
        ([best, -best], 1 - 2 / math.pi),
        ([9.0, -42.0, 33.0], None),  # cells of probability zero
    ):
        codes = torch.tensor(numbers, dtype=torch.float64)
        right = torch.tensor(known).double() if known else _gaussian_distortion(codes)
        mistakes = MISTAKES["gaussian_distortion"]
        compare(fn(codes.clone()), right, inputs={"codes": codes}, mistakes=mistakes, hints=hints)
    codes = torch.tensor([0.3, -1.4, 1.1, -0.2], dtype=torch.float64)
    move = torch.tensor([1e-5, 0.0, 0.0, 0.0], dtype=torch.float64)
    slope = (fn(codes + move) - fn(codes - move)).double() / 2e-5
    x = torch.linspace(0.05, 0.7, 10_001, dtype=torch.float64)  # the cell of 0.3
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    if not torch.isclose(slope, torch.trapezoid(2 * (0.3 - x) * density, x), rtol=1e-6):
        raise CheckFailed(
            "The values are right, but they change by a wrong amount as a code moves by a hair. "
            "Do you add over a grid of x? The integrals can be worked out."
        )


@takes_function
def check_residual_indices(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(h, codebooks)``: the indices of residual quantisation.

    Args:
        fn: Your function, of vectors (N, L) and codebooks (M, K, L) in the order of their use; it
            gives whole numbers (N, M).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(12, 2, dtype=torch.float64, generator=generator)
    codebooks = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator)
    right = _residual_indices(h, codebooks)
    inputs = {"h": h, "codebooks": codebooks}
    mistakes = MISTAKES["residual_indices"]
    compare(fn(h.clone(), codebooks.clone()), right, inputs=inputs, mistakes=mistakes, hints=hints)
    one = codebooks[:1]
    compare(
        fn(h.clone(), one.clone()), _nearest(h, one[0])[:, None], inputs={"h": h, "codebooks": one}
    )


@takes_function
def check_rotated_gradient(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(h, q, grad)``: what reaches h where q is a rotated and scaled h.

    Args:
        fn: Your function, of encoder outputs, their codes and the gradient at the codes, all
            (B, L); it gives (B, L).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    h, q, grad = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    mistakes = MISTAKES["rotated_gradient"]
    for there in (q, 3 * h):  # and one direction, in which nothing turns
        inputs = {"h": h, "q": there, "grad": grad}
        right = _rotated_gradient(h, there, grad)
        compare(
            fn(h.clone(), there.clone(), grad.clone()),
            right,
            inputs=inputs,
            mistakes=mistakes,
            hints=hints,
        )


@takes_function
def check_bigram_bits(fn: Callable[[Tensor, Tensor, int], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(new, known, n_codes)``: bits of grids under a chain of codes.

    Args:
        fn: Your function, of flat grids of indices (B, P), those that the counts are from (N, P),
            and the number of codes; it gives (B,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    known = torch.tensor([[0, 1, 1, 0], [0, 2, 0, 1], [2, 1, 0, 1], [0, 1, 2, 2], [0, 1, 1, 2]])
    new = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 1], [2, 2, 1, 0], [0, 1, 2, 0]])
    mistakes = MISTAKES["bigram_bits"]
    for n_codes in (3, 5):  # and two codes that never occur
        inputs = {"new": new, "known": known, "n_codes": n_codes}
        right = _bigram_bits(new, known, n_codes)
        compare(
            fn(new.clone(), known.clone(), n_codes),
            right,
            inputs=inputs,
            mistakes=mistakes,
            hints=hints,
        )


@takes_function
def check_codebook_step(fn: Callable[..., tuple[Tensor, ...]], *, hints: int = 1) -> None:
    """Check a function ``fn(codes, counts, sums, batch, fresh)``: one step of a codebook.

    Args:
        fn: Your function, of codes (K, L), the moving averages of how many vectors chose each (K,)
            and of their sums (K, L), a batch (B, L), and fresh places (K, L) for dead codes, which
            may be left out; it gives the new codes, counts and sums.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    codes, batch, fresh = torch.randn(3, 8, 2, dtype=torch.float64, generator=generator)
    codes[:5] += 10  # no vector comes here
    counts = torch.tensor([0.0, 0.01, 0.05, 0.4, 1.0, 0.02, 2.0, 0.7], dtype=torch.float64)
    state = {"codes": codes, "counts": counts, "sums": counts[:, None] * codes, "batch": batch}
    for inputs in (state, state | {"fresh": fresh}):
        value = _side_by_side(fn(*(part.clone() for part in inputs.values())), codes)
        mistakes = MISTAKES["codebook_step"]
        compare(value, _step(**inputs), inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_direction_indices(fn: Callable[[Tensor, Tensor], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(h, codes)``: the nearest code if all are scaled to length one.

    Args:
        fn: Your function, of vectors (N, L) and codes (K, L) of any length but zero; it gives
            whole numbers (N,).
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    generator = torch.Generator().manual_seed(0)
    h = 3 * torch.randn(40, 3, dtype=torch.float64, generator=generator)
    codes = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    right = _nearest(_same_length(h), _same_length(codes))
    inputs = {"h": h, "codes": codes}
    mistakes = MISTAKES["direction_indices"]
    compare(fn(h.clone(), codes.clone()), right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_straight_through_variance(
    fn: Callable[[Tensor, Tensor, float], Tensor], *, hints: int = 1
) -> None:
    """Check a function ``fn(logits, values, target)``: how noisy one straight-through draw is.

    Args:
        fn: Your function, of logits (K,), the numbers (K,) that the values stand for, and a target;
            it gives the variance of the gradient at the logits, summed over them, a scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    mistakes = MISTAKES["straight_through_variance"]
    for logits, values, target in (
        ([0.2, -0.7, 1.1], [-1.0, 0.4, 1.5], 0.6),
        ([1.0, 0.0, -1.0, 0.5], [2.0, -0.3, 0.8, -1.2], -0.4),
    ):
        phi, c = torch.tensor([logits, values], dtype=torch.float64)
        right = _straight_through_variance(phi, c, target)
        inputs = {"logits": phi, "values": c, "target": target}
        value = fn(phi.clone(), c.clone(), target)
        compare(value, right, inputs=inputs, mistakes=mistakes, hints=hints)


@takes_function
def check_expected_codes_seen(fn: Callable[[Tensor, int], Tensor], *, hints: int = 1) -> None:
    """Check a function ``fn(frequencies, n)``: how many codes n vectors show on average.

    Args:
        fn: Your function, of frequencies (K,) that sum to one, and a number of vectors; it gives a
            scalar.
        hints: How many hints to give for a mistake that is recognised, 1 to 3.

    Raises:
        CheckFailed: If it is wrong; the message says what it looks like.
    """
    frequencies = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    mistakes = MISTAKES["expected_codes_seen"]
    for n in (3, 5, 1):
        inputs = {"frequencies": frequencies, "n": n}
        right = _expected_codes_seen(frequencies, n)
        compare(fn(frequencies.clone(), n), right, inputs=inputs, mistakes=mistakes, hints=hints)
