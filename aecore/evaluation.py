r"""Measuring trained models: likelihood bounds in nats, subspaces, linear probes.

Derivations: ``book/vae.md`` and ``book/linear.md``.
"""

import math
from typing import Any

import scipy.linalg
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from aecore.nn import reparametrise

__all__ = ["elbo", "linear_probe", "log_likelihood", "principal_angles"]


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
        model: A probabilistic model: ``encode(x)`` gives ``(mu, log_var)``; ``nll``; ``prior``.
        x: Data, shape ``(N, D)``, on the model's device. On grey pixels under a Bernoulli
            likelihood the result is no bound on any likelihood: binarise first.
        y: Labels, shape ``(N,)``, for a conditional model.
        n_samples: Samples of the posterior an example.
        generator: Source of the noise, on the device of ``x``; torch's global one by default.

    Returns:
        Nats of each example, shape ``(N,)``: a lower bound on :math:`\log p(x)` in expectation.

    Raises:
        ValueError: If ``n_samples`` is below 1.
    """
    _check_at_least_one("n_samples", n_samples)
    if len(x) == 0:
        return x.new_zeros(0)
    mu, log_var = model.encode(x)
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
        y: Labels, shape ``(N,)``, for a conditional model.
        n_samples: Samples of the posterior an example.
        batch_size: Rows (examples times samples) decoded at once; by default as many as keep the
            decoder's output near four million numbers. It changes speed and memory, and which
            noise falls to which example, but not the distribution of the result.
        generator: As for :func:`elbo`.

    Returns:
        Nats of each example, shape ``(N,)``.

    Raises:
        ValueError: If ``n_samples`` or ``batch_size`` is below 1.

    Source:
        Burda et al. (2016), equation 8.
    """
    _check_at_least_one("n_samples", n_samples)
    rows = max(1, 4_000_000 // x.shape[-1]) if batch_size is None else batch_size
    _check_at_least_one("batch_size", rows)
    per_pass = min(n_samples, rows)
    step = max(1, rows // per_pass)
    bounds = []
    for start in range(0, len(x), step):
        chunk = x[start : start + step]
        label = None if y is None else y[start : start + step]
        log_sum = torch.full((len(chunk),), -torch.inf, dtype=x.dtype, device=x.device)
        mu, log_var = model.encode(chunk)
        for done in range(0, n_samples, per_pass):
            count = min(per_pass, n_samples - done)
            log_w = _log_weights(model, chunk, label, mu, log_var, count, generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(dim=0))
        bounds.append(log_sum - math.log(n_samples))
    return torch.cat(bounds) if bounds else x.new_zeros(0)


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

    Source:
        Alain and Bengio (2016) for the name.
    """
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
    train, test = (((t - mean) / scale).cpu().numpy() for t in (features, test_features))
    probe = LogisticRegression(C=c, max_iter=max_iter).fit(train, labels.cpu().numpy())
    return float(probe.score(test, test_labels.cpu().numpy()))


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
    y = None if y is None else y.repeat(n_samples)
    z = reparametrise(mu, log_var, generator)
    log_joint = model.prior(y).log_prob(z) - model.nll(x, z, y)
    log_w: Tensor = log_joint - _posterior(mu, log_var).log_prob(z)
    return log_w.reshape(n_samples, -1)


def _posterior(mu: Tensor, log_var: Tensor) -> Independent:
    return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)


def _closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
