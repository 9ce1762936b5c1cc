r"""Measuring trained models: likelihood bounds in nats, subspaces, linear probes, disentanglement.

Derivations: ``book/vae.md``, ``book/iwae.md``, ``book/beta_vae.md``, ``book/conditional_vae.md``
and ``book/linear.md``.
"""

import inspect
import math
from typing import Any

import scipy.linalg
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from aecore.nn import check_rows, check_sizes, check_tensor, reparametrise

__all__ = [
    "active_units",
    "class_log_likelihood",
    "effective_sample_size",
    "elbo",
    "factor_vae_score",
    "linear_probe",
    "log_likelihood",
    "log_weights",
    "mutual_information",
    "mutual_information_gap",
    "principal_angles",
]


@torch.no_grad()
def elbo(
    model: Any,
    x: Tensor,
    *,
    y: Tensor | None = None,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Evidence lower bound of each example.

    Implements :eq:`eq-vae-elbo`, its expectation by ``n_samples`` samples of the posterior, its KL
    in closed form where torch has one for the model's prior and by the same samples elsewhere.

    Args:
        model: A probabilistic model: ``encode(x)``, of a conditional one ``encode(x, y)``, gives
            ``(mu, log_var)``; ``nll``; ``prior``.
        x: Data, shape ``(N, D)``, on the model's device. On grey pixels under a Bernoulli
            likelihood the result is no bound on any likelihood: binarise first.
        y: Labels ``(N,)`` or features ``(N, F)`` for a conditional model, for no other; the bound
            is then on :math:`\log p(x \mid y)`.
        n_samples: Samples of the posterior an example.
        generator: Source of the noise, on the device of ``x``; torch's global one by default.

    Returns:
        Nats of each example, shape ``(N,)``: a lower bound on :math:`\log p(x)` in expectation.

    Raises:
        ValueError: If a number is no positive integer, or ``x`` is no matrix.
        TypeError: If the model is not probabilistic, ``x`` is no tensor of its type on its device,
            or labels come for a model that takes none.
    """
    _check_bound(model, x, y, n_samples)
    if len(x) == 0:
        return x.new_zeros(0)
    mu, log_var = _encode(model, x, y)
    q, p = _posterior(mu, log_var), model.prior(y)
    exact = _closed_form_kl(q, p)
    total = torch.zeros_like(mu[:, 0])
    for _ in range(n_samples):
        z = reparametrise(mu, log_var, generator)
        kl = q.log_prob(z) - p.log_prob(z) if exact is None else exact
        total += -model.nll(x, z, y) - kl
    return total / n_samples


@torch.no_grad()
def log_likelihood(
    model: Any,
    x: Tensor,
    *,
    y: Tensor | None = None,
    n_samples: int = 5000,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance-weighted lower bound on the log-evidence of each example.

    Implements :eq:`eq-vae-importance-weighted-bound` with :math:`S` = ``n_samples``:

    .. math:: \log \frac1S \sum_{s=1}^S \frac{p(x \mid z_s)\, p(z_s)}{q(z_s \mid x)},
        \qquad z_s \sim q(z \mid x) .

    In expectation it never falls with :math:`S` and tends to :math:`\log p(x)`.

    Args:
        model: As for :func:`elbo`.
        x: Data, shape ``(N, D)``, on the model's device; binary for a Bernoulli likelihood.
        y: As for :func:`elbo`.
        n_samples: Samples of the posterior an example.
        batch_size: Rows (examples times samples) decoded at once; by default as many as keep the
            decoder's output near four million numbers. It changes speed and memory, and which
            noise falls to which example, but not the distribution of the result.
        generator: As for :func:`elbo`.

    Returns:
        Nats of each example, shape ``(N,)``.

    Raises:
        ValueError: If ``n_samples`` or ``batch_size`` is no positive integer, or as :func:`elbo`.
        TypeError: As :func:`elbo`.

    Source:
        Burda et al. (2016), equation 8.
    """
    _check_bound(model, x, y, n_samples)
    rows = max(1, 4_000_000 // x.shape[-1]) if batch_size is None else batch_size
    check_sizes(batch_size=rows)
    per_pass = min(n_samples, rows)
    step = max(1, rows // per_pass)
    bounds = []
    for start in range(0, len(x), step):
        chunk = x[start : start + step]
        label = None if y is None else y[start : start + step]
        log_sum = torch.full((len(chunk),), -torch.inf, dtype=x.dtype, device=x.device)
        mu, log_var = _encode(model, chunk, label)
        for done in range(0, n_samples, per_pass):
            count = min(per_pass, n_samples - done)
            log_w = _log_weights(model, chunk, label, mu, log_var, count, generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(dim=0))
        bounds.append(log_sum - math.log(n_samples))
    return torch.cat(bounds) if bounds else x.new_zeros(0)


@torch.no_grad()
def log_weights(
    model: Any,
    x: Tensor,
    *,
    y: Tensor | None = None,
    n_samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Logarithms of importance weights, from which the evidence is estimated.

    Implements :eq:`eq-iwae-weight`:

    .. math:: \log w(z_s) = \log p(x \mid z_s) + \log p(z_s) - \log q(z_s \mid x),
        \qquad z_s \sim q(z \mid x) .

    Their ``logsumexp`` over samples, less :math:`\log S`, is a draw of the bound of
    :func:`log_likelihood`, which keeps no table of them and needs less memory.

    Args:
        model: As for :func:`elbo`.
        x: Data, shape ``(N, D)``, on the model's device; binary for a Bernoulli likelihood.
        y: Labels, shape ``(N,)``, for a conditional model.
        n_samples: Samples :math:`S` of the posterior an example.
        generator: As for :func:`elbo`.

    Returns:
        Log-weights in nats, shape ``(S, N)``.

    Raises:
        ValueError: As :func:`elbo`.
        TypeError: As :func:`elbo`.

    Source:
        Burda et al. (2016), section 3.
    """
    _check_bound(model, x, y, n_samples)
    rows = max(1, 4_000_000 // x.shape[-1])
    step = max(1, rows // n_samples)
    table = x.new_empty(n_samples, len(x))
    for start in range(0, len(x), step):
        columns = slice(start, start + step)
        label = None if y is None else y[columns]
        mu, log_var = _encode(model, x[columns], label)
        for done in range(0, n_samples, rows):
            count = min(rows, n_samples - done)
            block = _log_weights(model, x[columns], label, mu, log_var, count, generator)
            table[done : done + count, columns] = block
    return table


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""How many equal weights would estimate the evidence as well, judged by the weights.

    Implements :eq:`eq-iwae-ess`, in logarithms throughout:

    .. math:: \mathrm{ESS} = \frac{\big( \sum_s w_s \big)^2}{\sum_s w_s^2} .

    It lies between 1, one weight has it all, and :math:`S`, all are equal. It knows only of the
    places that were drawn: where no sample found the posterior's mass it may be large and wrong.

    Args:
        log_w: Log-weights, shape ``(S, N)``, as :func:`log_weights` gives; a constant added to a
            column changes nothing.

    Returns:
        The effective sample size of each example, shape ``(N,)``.

    Raises:
        ValueError: If ``log_w`` is no matrix, or has no row.

    Source:
        Kong et al. (1994).

    Example:
        >>> effective_sample_size(torch.zeros(4, 2))
        tensor([4., 4.])
    """
    if log_w.ndim != 2 or len(log_w) == 0:
        raise ValueError(f"log_w must have shape (S, N) with S >= 1, got {tuple(log_w.shape)}")
    return (2 * log_w.logsumexp(dim=0) - (2 * log_w).logsumexp(dim=0)).exp()


@torch.no_grad()
def active_units(model: Any, x: Tensor, *, threshold: float = 0.01) -> Tensor:
    r"""Which latents move with the data.

    Implements :eq:`eq-iwae-active-units`: latent :math:`j` is active if the variance over the data
    of its posterior mean exceeds the threshold,

    .. math:: A_j = \operatorname{Var}_x\big( \mathbb E_{q(z \mid x)}[z_j] \big) > \tau .

    Args:
        model: A model whose ``encode(x)`` gives ``(mu, log_var)``.
        x: Data, shape ``(N, D)``, on the model's device, at least two examples.
        threshold: :math:`\tau`; the literature takes 0.01.

    Returns:
        A mask of shape ``(L,)``; its sum is the number of active units.

    Raises:
        ValueError: If there are fewer than two examples.
        TypeError: If the model's code is no pair.

    Source:
        Burda et al. (2016), section 5.2.
    """
    if len(x) < 2:
        raise ValueError(f"x must hold at least two examples, got {len(x)}")
    code = model.encode(x)
    if not isinstance(code, tuple):
        raise TypeError(
            f"model must encode to (mu, log_var); the code of {_name(model)} is one tensor"
        )
    active: Tensor = code[0].var(dim=0) > threshold
    return active


def class_log_likelihood(
    model: Any,
    x: Tensor,
    *,
    n_samples: int,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance-weighted bound on the log-likelihood of each example in every class.

    Implements :eq:`eq-conditional_vae-class-bounds`. With log-probabilities of the classes added,
    its ``logsumexp`` over the classes bounds :math:`\log p(x)`, and its ``softmax`` is Bayes' rule.

    Args:
        model: A conditional model with ``n_classes``; otherwise as for :func:`elbo`.
        x: Data, shape ``(N, D)``, as for :func:`log_likelihood`.
        n_samples: Samples of the posterior an example and class.
        batch_size: As for :func:`log_likelihood`.
        generator: As for :func:`elbo`.

    Returns:
        Nats, shape ``(N, C)``: column :math:`c` bounds :math:`\log p(x \mid y = c)`.

    Raises:
        ValueError: If ``n_samples`` or ``batch_size`` is below 1.
    """
    columns = []
    for label in range(model.n_classes):
        y = torch.full((len(x),), label, device=x.device)
        columns.append(
            log_likelihood(
                model, x, y=y, n_samples=n_samples, batch_size=batch_size, generator=generator
            )
        )
    return torch.stack(columns, dim=1)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles between the column spaces of two matrices, by scipy.

    Args:
        a: Shape ``(D, K)``, of full column rank.
        b: Shape ``(D, L)``, of full column rank.

    Returns:
        The ``min(K, L)`` angles in radians, the largest first, in float64 on the CPU.

    Raises:
        ValueError: If either is no matrix, or their numbers of rows differ.

    Example:
        >>> principal_angles(torch.eye(3)[:, :1], torch.eye(3)[:, :2])
        tensor([0.], dtype=torch.float64)
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[0]:
        raise ValueError(
            "a and b must be matrices with the same number of rows, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    columns = [t.detach().cpu().double().numpy() for t in (a, b)]
    return torch.from_numpy(scipy.linalg.subspace_angles(*columns))


def linear_probe(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    c: float = 0.01,
    max_iter: int = 1000,
) -> float:
    r"""Test accuracy of a logistic regression on frozen features, by scikit-learn.

    The features are centred and divided by *one* number, which makes their mean square one: a
    rotation or a rescaling of the code does not change the result, so that what is measured is
    what the code tells a linear classifier, not how its axes lie.

    Args:
        features: Codes of the training examples, shape ``(N, L)``.
        labels: Their classes, shape ``(N,)``.
        test_features: Codes of the test examples, shape ``(M, L)``.
        test_labels: Their classes, shape ``(M,)``.
        c: Inverse strength of the squared-norm penalty, scikit-learn's ``C``; the penalty is
            weighed against the *sum* of the examples' log-losses.
        max_iter: Limit of the solver's iterations; reaching it gives scikit-learn's warning.

    Returns:
        The share of test examples classified rightly, in [0, 1].

    Raises:
        ValueError: If the shapes do not fit, or ``c`` is not positive.
        TypeError: If features are no tensor, but a posterior's two, for example.

    Source:
        Alain and Bengio (2016) for the name.
    """
    check_tensor("features", features)
    check_tensor("test_features", test_features)
    if features.ndim != 2 or test_features.shape[1:] != features.shape[1:]:
        raise ValueError(
            "features and test_features must have shapes (N, L) and (M, L), "
            f"got {tuple(features.shape)} and {tuple(test_features.shape)}"
        )
    for name, codes, classes in (
        ("labels", features, labels),
        ("test_labels", test_features, test_labels),
    ):
        if classes.shape != codes.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(codes)},), got {tuple(classes.shape)}")
    if not c > 0:
        raise ValueError(f"c must be positive, got {c}")
    mean = features.mean(dim=0)
    scale = (features - mean).square().mean().sqrt().clamp(min=1e-12)
    train, test = (((t - mean) / scale).detach().cpu().numpy() for t in (features, test_features))
    probe = LogisticRegression(C=c, max_iter=max_iter).fit(train, labels.cpu().numpy())
    return float(probe.score(test, test_labels.cpu().numpy()))


def mutual_information(codes: Tensor, factors: Tensor, *, n_bins: int = 20) -> Tensor:
    r"""Mutual information of each latent, cut into bins, with each factor, from counts.

    Implements :eq:`eq-beta_vae-mutual-information`, the plug-in estimate: each latent is cut at its
    own quantiles into bins of equal mass, and the shares of the examples that fall into each cell
    stand for probabilities. It is too large: for independent ones by about
    :math:`(n_\text{bins} - 1)(n_\text{values} - 1) / 2N` nats, :eq:`eq-beta_vae-bias`.

    Args:
        codes: Latents, shape ``(N, L)``.
        factors: Class indices of the factors, shape ``(N, K)``, integers from 0.
        n_bins: Bins a latent.

    Returns:
        Nats, shape ``(L, K)``.

    Raises:
        ValueError: If the lengths differ, there are no examples, a code is not finite, the factors
            are no integers from 0, or ``n_bins`` is no positive integer.

    Source:
        Chen et al. (2018), section 4, estimate it from the encoder's densities instead.
    """
    _check_codes_and_factors(codes, factors)
    check_sizes(n_bins=n_bins)
    latents, factors = codes.detach().cpu().double().T.contiguous(), factors.cpu()  # (L, N)
    levels = torch.arange(1, n_bins) * len(codes) // n_bins
    edges = latents.sort(dim=1).values[:, levels]  # (L, n_bins - 1)
    bins = torch.searchsorted(edges.contiguous(), latents, right=True)  # (L, N)
    table = torch.zeros(codes.shape[1], factors.shape[1], dtype=torch.float64)
    for k, values in enumerate(factors.T):
        n_values = int(values.max()) + 1
        cells = bins * n_values + values
        for j, cell in enumerate(cells):
            counts = torch.bincount(cell, minlength=n_bins * n_values)
            joint = counts.double().reshape(n_bins, n_values) / len(codes)
            product = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
            seen = joint > 0
            table[j, k] = (joint[seen] * (joint[seen] / product[seen]).log()).sum()
    return table


def mutual_information_gap(codes: Tensor, factors: Tensor, *, n_bins: int = 20) -> Tensor:
    r"""How far the most informative latent of each factor is ahead of the second.

    Implements :eq:`eq-beta_vae-gap`: with :math:`j^\star` the latent that shares most information
    with the factor :math:`v`,

    .. math:: \frac{1}{H(v)} \Big( I(z_{j^\star}; v) - \max_{j \ne j^\star} I(z_j; v) \Big) .

    Args:
        codes: Latents, shape ``(N, L)`` with L at least 2: samples of the posterior, so that the
            noise counts that drowns an unused one.
        factors: Class indices of the factors, shape ``(N, K)``, integers from 0.
        n_bins: Bins a latent; see :func:`mutual_information` for the bias.

    Returns:
        The gap of each factor in units of its entropy, in [0, 1], shape ``(K,)``. Their mean is
        what is known as the mutual information gap (MIG).

    Raises:
        ValueError: As for :func:`mutual_information`; also if there is only one latent, or a factor
            has the same value everywhere.

    Source:
        Chen et al. (2018), section 4.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(50, 1)
        >>> mutual_information_gap(factors.double(), factors)
        tensor([1., 1.], dtype=torch.float64)
    """
    information = mutual_information(codes, factors, n_bins=n_bins)
    if len(information) < 2:
        raise ValueError("codes must have two or more latents for a gap, got one")
    entropies = []
    for k, values in enumerate(factors.cpu().T):
        shares = torch.bincount(values).double() / len(values)
        entropies.append(-torch.xlogy(shares, shares).sum())
        if not entropies[-1] > 0:
            raise ValueError(f"factors must vary, got one value of factor {k}")
    best, second = information.topk(2, dim=0).values
    gaps: Tensor = (best - second) / torch.stack(entropies)
    return gaps


def factor_vae_score(
    codes: Tensor,
    factors: Tensor,
    *,
    n_votes: int = 800,
    group_size: int = 64,
    generator: torch.Generator | None = None,
) -> float:
    r"""Accuracy of naming a fixed factor by the latent that varies least.

    Implements :eq:`eq-beta_vae-vote`. For each vote we draw a factor :math:`k`, a value of it,
    that of a random example, and a group of examples with that value; the vote is the latent whose
    variance in the group, relative to its variance over all, is smallest. Half the votes decide
    which factor each latent stands for; the score is the share of the other half named rightly. A
    code that knows nothing of the factors scores :math:`1/K` in expectation.

    Args:
        codes: Latents, shape ``(N, L)``; a latent that is constant never wins.
        factors: Class indices of the factors, shape ``(N, K)``, integers from 0.
        n_votes: Votes, an even number of them.
        group_size: Examples a group, drawn with replacement among those with the value.
        generator: Source of the randomness, on the CPU; torch's global one by default.

    Returns:
        The score, in [0, 1].

    Raises:
        ValueError: If codes and factors do not fit, ``n_votes`` is not even, ``group_size`` is
            below 2, or no latent varies.

    Source:
        Kim and Mnih (2018), section 4; the held-out half is ours.
    """
    _check_codes_and_factors(codes, factors)
    check_sizes(n_votes=n_votes, group_size=group_size)
    if n_votes % 2 or group_size < 2:
        raise ValueError(
            f"n_votes must be even and group_size at least 2, got {n_votes} and {group_size}"
        )
    codes, factors = codes.detach().cpu().double(), factors.cpu()
    total = codes.var(dim=0)
    if not (total > 0).any():
        raise ValueError("codes must vary, got the same code everywhere")
    n, n_factors = factors.shape
    chosen = torch.randint(n_factors, (n_votes,), generator=generator)
    anchors = torch.randint(n, (n_votes,), generator=generator)
    votes = torch.empty(n_votes, dtype=torch.int64)
    for vote, (k, anchor) in enumerate(zip(chosen.tolist(), anchors.tolist(), strict=True)):
        rows = (factors[:, k] == factors[anchor, k]).nonzero()[:, 0]
        group = rows[torch.randint(len(rows), (group_size,), generator=generator)]
        ratio = torch.where(total > 0, codes[group].var(dim=0) / total, torch.inf)
        votes[vote] = ratio.argmin()
    half = n_votes // 2
    cells = votes[:half] * n_factors + chosen[:half]
    counts = torch.bincount(cells, minlength=codes.shape[1] * n_factors)
    stands_for = counts.reshape(-1, n_factors).argmax(dim=1)
    return (stands_for[votes[half:]] == chosen[half:]).double().mean().item()


def _check_codes_and_factors(codes: Tensor, factors: Tensor) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) == 0:
        raise ValueError(
            "codes and factors must have shapes (N, L) and (N, K) with the same N above 0, "
            f"got {tuple(codes.shape)} and {tuple(factors.shape)}"
        )
    if not codes.isfinite().all():
        raise ValueError("codes must be finite, got NaN or infinity")
    if factors.is_floating_point() or factors.is_complex() or (factors < 0).any():
        raise ValueError(f"factors must be integers from 0, got {factors.dtype}")


def _log_weights(
    model: Any,
    x: Tensor,
    y: Tensor | None,
    mu: Tensor,
    log_var: Tensor,
    n_samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Log importance weights, shape ``(n_samples, B)``: samples are stacked as further rows."""
    mu, log_var, x = (t.repeat(n_samples, 1) for t in (mu, log_var, x))
    y = None if y is None else y.repeat(n_samples, *[1] * (y.ndim - 1))
    z = reparametrise(mu, log_var, generator)
    log_joint = model.prior(y).log_prob(z) - model.nll(x, z, y)
    log_w: Tensor = log_joint - _posterior(mu, log_var).log_prob(z)
    return log_w.reshape(n_samples, -1)


def _encode(model: Any, x: Tensor, y: Tensor | None) -> Any:
    return model.encode(x) if y is None else model.encode(x, y)


def _posterior(mu: Tensor, log_var: Tensor) -> Independent:
    return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)


def _closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _check_bound(model: Any, x: Tensor, y: Tensor | None, n_samples: int) -> None:
    """Refuse at once what gives no bound; the message names the argument."""
    check_sizes(n_samples=n_samples)
    lacks = [name for name in ("encode", "nll", "prior") if not hasattr(model, name)]
    if lacks:
        raise TypeError(
            "model must be probabilistic, with encode, nll and prior, as a VAE is; "
            f"{_name(model)} has no {' and no '.join(lacks)}: there is no likelihood to bound"
        )
    check_rows("x", x)
    like = next(model.parameters(), x) if isinstance(model, nn.Module) else x
    if (x.dtype, x.device) != (like.dtype, like.device):
        raise TypeError(
            f"x must be {like.dtype} on {like.device} as the model is, got {x.dtype} on {x.device}"
        )
    if y is not None and len(inspect.signature(model.encode).parameters) < 2:
        raise TypeError(f"y must be None, for {_name(model)} is not conditional: encode takes no y")


def _name(model: object) -> str:
    return type(model).__name__
