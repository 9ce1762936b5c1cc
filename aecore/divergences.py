r"""Divergences between distributions: one function an equation.

Kullback–Leibler divergences in nats; the maximum mean discrepancy, from samples.

Derivations: ``book/vae.md`` for the Gaussians, ``book/sparse.md`` for the Bernoullis,
``book/beta_vae.md`` for the aggregated posterior, ``book/adversarial.md`` for the maximum mean
discrepancy and its test.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aecore.nn import check_choice, check_sizes

__all__ = [
    "aggregate_log_density",
    "bernoulli_kl",
    "gaussian_kl",
    "gaussian_kl_between",
    "gaussian_total_correlation",
    "kl_decomposition",
    "mmd",
    "mmd_test",
]

BANDWIDTHS = (0.2, 0.5, 1.0, 2.0, 5.0)


def gaussian_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    r"""KL divergence from a diagonal Gaussian to the standard one.

    Implements :eq:`eq-vae-gaussian-kl`:

    .. math:: \mathrm{KL}\big(\mathcal N(\mu, \operatorname{diag} \sigma^2) \,\|\,
        \mathcal N(0, I)\big)
        = \frac12 \sum_j \big( \mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2 \big) .

    Args:
        mu: Means, shape ``(B, L)``.
        log_var: Log-variances :math:`\log \sigma^2`, shape ``(B, L)``.

    Returns:
        Nats of each example, summed over the latents, shape ``(B,)``; zero where and only where
        the two Gaussians agree.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Kingma and Welling (2014), appendix B.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([0.5000])
    """
    _same_shapes(mu=mu, log_var=log_var)
    # expm1 keeps the digits of σ² − 1 near σ² = 1, where the terms cancel.
    return 0.5 * (mu.square() + torch.expm1(log_var) - log_var).sum(dim=-1)


def gaussian_kl_between(mu_q: Tensor, log_var_q: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    r"""KL divergence between two diagonal Gaussians, ``q`` to ``p``.

    Implements :eq:`eq-vae-gaussian-kl-between`:

    .. math:: \mathrm{KL}(q \,\|\, p) = \frac12 \sum_j \Big(
        \log \frac{\sigma_{p,j}^2}{\sigma_{q,j}^2}
        + \frac{\sigma_{q,j}^2 + (\mu_{q,j} - \mu_{p,j})^2}{\sigma_{p,j}^2} - 1 \Big) .

    Args:
        mu_q: Means of ``q``, shape ``(B, L)``.
        log_var_q: Log-variances of ``q``, shape ``(B, L)``.
        mu_p: Means of ``p``, shape ``(B, L)``.
        log_var_p: Log-variances of ``p``, shape ``(B, L)``.

    Returns:
        Nats of each example, summed over the latents, shape ``(B,)``.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> zero, one = torch.zeros(1, 2), torch.ones(1, 2)
        >>> gaussian_kl_between(one, zero, zero, zero)
        tensor([1.])
    """
    _same_shapes(mu_q=mu_q, log_var_q=log_var_q, mu_p=mu_p, log_var_p=log_var_p)
    log_ratio = log_var_q - log_var_p
    distance = (mu_q - mu_p).square() * torch.exp(-log_var_p)
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance).sum(dim=-1)


def bernoulli_kl(rho: float, rho_hat: Tensor) -> Tensor:
    r"""KL divergence from a Bernoulli of mean ``rho`` to one of mean ``rho_hat``.

    Implements :eq:`eq-sparse-bernoulli-kl`:

    .. math:: \mathrm{KL}(\rho \,\|\, \hat\rho) = \rho \log \frac{\rho}{\hat\rho}
        + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho} .

    Args:
        rho: The wanted mean, in (0, 1).
        rho_hat: The observed means, in [0, 1], any shape. At exactly 0 or 1 the divergence is
            infinite, and so is its gradient.

    Returns:
        Nats of each entry, the shape of ``rho_hat``.

    Raises:
        ValueError: If ``rho`` lies outside (0, 1).

    Example:
        >>> bernoulli_kl(0.5, torch.tensor([0.5, 0.25]))
        tensor([0.0000, 0.1438])
    """
    check_rho(rho)
    target = torch.as_tensor(rho, dtype=rho_hat.dtype, device=rho_hat.device)
    active = target * (torch.log(target) - torch.log(rho_hat))
    silent = (1 - target) * (torch.log1p(-target) - torch.log1p(-rho_hat))
    return active + silent


def gaussian_total_correlation(covariance: Tensor) -> Tensor:
    r"""Total correlation of a Gaussian: KL divergence to the product of its marginals.

    Implements :eq:`eq-beta_vae-gaussian-tc`:

    .. math:: \mathrm{TC} = \tfrac12 \Big( \sum_j \log C_{jj} - \log |C| \Big) .

    Args:
        covariance: :math:`C`, positive definite, shape ``(..., L, L)``.

    Returns:
        Nats, shape ``(...)``; zero where and only where ``covariance`` is diagonal.

    Raises:
        ValueError: If ``covariance`` is not square.

    Source:
        Watanabe (1960) for the quantity.

    Example:
        >>> gaussian_total_correlation(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
        tensor(0.2231)
    """
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must have shape (..., L, L), got {tuple(covariance.shape)}")
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (variances.log().sum(dim=-1) - torch.logdet(covariance))


def aggregate_log_density(
    z: Tensor,
    mu: Tensor,
    log_var: Tensor,
    *,
    n_data: int | None = None,
    estimator: str = "stratified",
) -> tuple[Tensor, Tensor]:
    r"""Log-density of the aggregated posterior, jointly and latent by latent, from a batch.

    Implements :eq:`eq-beta_vae-stratified`: with :math:`z_i` drawn from the posterior of the
    batch's example :math:`i`,

    .. math:: \hat q(z_i) = w_1\, q(z_i \mid x_i) + w_2 \sum_{m \ne i} q(z_i \mid x_m),

    and the same with :math:`q(z_{ij} \mid x_m)` for each latent :math:`j` alone. The weights are

    - ``"stratified"``: :math:`w_1 = 1/N` and :math:`w_2 = (N-1)/(N(M-1))`: no bias in the density,
      a bias downwards in its logarithm;
    - ``"weighted"``: :math:`w_1 = w_2 = 1/(NM)`, Chen et al.'s minibatch weighting;
    - ``"naive"``: :math:`w_1 = w_2 = 1/M`, the batch taken for the data.

    Over all the data, :math:`M = N`, the first and the last are exact.

    Args:
        z: One sample an example, shape ``(M, L)``; row ``i`` belongs to row ``i`` of ``mu``.
        mu: Means of the batch's posteriors, shape ``(M, L)``.
        log_var: Their log-variances, shape ``(M, L)``.
        n_data: Size :math:`N` of the data set that the batch was drawn from without replacement;
            by default the batch is all there is.
        estimator: ``"stratified"``, ``"weighted"`` or ``"naive"``.

    Returns:
        The log-density of each sample, shape ``(M,)``, and those of its latents, ``(M, L)``.

    Raises:
        ValueError: If the shapes differ, the estimator is unknown, or ``n_data`` is smaller than
            the batch, or larger with a batch of one.

    Source:
        Chen et al. (2018), appendix C; their stratified weights have the same mean.
    """
    _same_shapes(z=z, mu=mu, log_var=log_var)
    check_choice("estimator", estimator, ("stratified", "weighted", "naive"))
    m = len(z)
    n = m if n_data is None else n_data
    if n < m or (m == 1 and n > 1):
        raise ValueError(f"n_data must be at least the batch size, two or more, got {n} and {m}")
    if estimator == "stratified":
        own, other = 1 / n, (n - 1) / (n * max(m - 1, 1))
    else:
        own = other = 1 / (n * m) if estimator == "weighted" else 1 / m
    squared = (z[:, None] - mu).square() * torch.exp(-log_var)  # (M, M, L)
    log_q = -0.5 * (squared + log_var + math.log(2 * math.pi))
    weights = torch.full((m, m), other, dtype=z.dtype, device=z.device).fill_diagonal_(own).log()
    joint = torch.logsumexp(log_q.sum(dim=-1) + weights, dim=1)
    return joint, torch.logsumexp(log_q + weights[..., None], dim=1)


def kl_decomposition(
    z: Tensor,
    mu: Tensor,
    log_var: Tensor,
    *,
    n_data: int | None = None,
    estimator: str = "stratified",
) -> dict[str, Tensor]:
    r"""The three parts of the mean KL to a standard Gaussian prior, one sample each.

    Implements :eq:`eq-beta_vae-decomposition`: the means over examples of

    - ``"information"``, :math:`\log q(z \mid x) - \log q(z)`: what the code says about the index;
    - ``"total_correlation"``, :math:`\log q(z) - \sum_j \log q(z_j)`;
    - ``"dimension_wise"``, :math:`\sum_j \big( \log q(z_j) - \log p(z_j) \big)`,

    with :math:`q(z)` and :math:`q(z_j)` from :func:`aggregate_log_density`. Whatever the
    estimator, the three add up to :math:`\log q(z \mid x) - \log p(z)`.

    Args:
        z: As for :func:`aggregate_log_density`.
        mu: As there.
        log_var: As there.
        n_data: As there.
        estimator: As there.

    Returns:
        Nats of each example by the names above, each of shape ``(M,)``.

    Source:
        Chen et al. (2018), equation 2.
    """
    joint, marginals = aggregate_log_density(z, mu, log_var, n_data=n_data, estimator=estimator)
    constant = math.log(2 * math.pi)
    log_q = -0.5 * ((z - mu).square() * torch.exp(-log_var) + log_var + constant).sum(dim=-1)
    log_p = -0.5 * (z.square() + constant).sum(dim=-1)
    product = marginals.sum(dim=-1)
    return {
        "information": log_q - joint,
        "total_correlation": joint - product,
        "dimension_wise": product - log_p,
    }


def mmd(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    r"""Unbiased estimate of the squared maximum mean discrepancy between two samples.

    Implements :eq:`eq-adversarial-mmd-unbiased`, with the mean of Gaussian kernels
    :math:`k(x, y) = \frac1R \sum_r e^{-\|x - y\|^2 / 2 s_r^2}`:

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j)
        + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{nm} \sum_{i, j} k(x_i, y_j) .

    Unbiased for fixed bandwidths; it may be negative, and is about as often as not where the two
    distributions agree.

    Args:
        x: Sample of the one distribution, shape ``(n, L)``.
        y: Sample of the other, shape ``(m, L)``.
        bandwidths: The standard deviations :math:`s_r`, all positive.

    Returns:
        A scalar.

    Raises:
        ValueError: If a sample is no matrix or has fewer than two rows, the widths differ, or a
            bandwidth is not positive.

    Source:
        Gretton et al. (2012), lemma 6.

    Example:
        >>> mmd(torch.zeros(2, 1), torch.zeros(3, 1))
        tensor(0.)
    """
    n, m = _check_samples(x, y)
    k_xx, k_yy, k_xy = (_kernel(a, b, bandwidths) for a, b in ((x, x), (y, y), (x, y)))
    within = (k_xx.sum() - k_xx.trace()) / (n * (n - 1))
    within = within + (k_yy.sum() - k_yy.trace()) / (m * (m - 1))
    return within - 2 * k_xy.mean()


@torch.no_grad()
def mmd_test(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    *,
    n_permutations: int = 200,
    generator: torch.Generator | None = None,
) -> float:
    r"""Permutation test of the hypothesis that two samples come from one distribution.

    Implements :eq:`eq-adversarial-permutation` with the statistic :func:`mmd`: the share of
    relabellings, the one observed included, under which it is at least as large.

    Args:
        x: Sample of the one distribution, shape ``(n, L)``.
        y: Sample of the other, shape ``(m, L)``.
        bandwidths: As for :func:`mmd`.
        n_permutations: Number :math:`P` of random relabellings.
        generator: Source of the permutations, on the CPU; torch's global one by default.

    Returns:
        The p-value, at least :math:`1 / (P + 1)` and at most 1. Under the hypothesis it is at most
        :math:`\alpha` with a probability of at most :math:`\alpha`, at any sample size.

    Raises:
        ValueError: As :func:`mmd`, or if ``n_permutations`` is not positive.

    Source:
        Gretton et al. (2012); Phipson and Smyth (2010) for the p-value, which is never 0.

    Example:
        >>> mmd_test(torch.zeros(9, 1), torch.ones(9, 1), n_permutations=99) < 0.05
        True
    """
    check_sizes(n_permutations=n_permutations)
    n, m = _check_samples(x, y)
    pooled = torch.cat([x, y])
    kernel = _kernel(pooled, pooled, bandwidths)
    kernel.fill_diagonal_(0)
    first = torch.zeros(n_permutations + 1, n + m)  # row 0: the labels as they are
    first[0, :n] = 1
    for row in first[1:]:
        row[torch.randperm(n + m, generator=generator)[:n]] = 1
    first = first.to(kernel)
    to_first = first @ kernel  # similarity of each point to those labelled x
    within_x, cross = (to_first * first).sum(dim=1), (to_first * (1 - first)).sum(dim=1)
    within_y = kernel.sum() - within_x - 2 * cross
    statistic = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * cross / (n * m)
    slack = 1e-5 * statistic.abs().max()  # equal labellings differ by rounding only
    return float((statistic >= statistic[0] - slack).double().mean())


def check_rho(rho: float) -> None:
    """Raise a ``ValueError`` when the mean is none that a Bernoulli unit can aim at."""
    if not 0 < rho < 1:
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}")


def _same_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or () in shapes.values():
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must have the same shape (B, L), got {got}")


def _check_samples(x: Tensor, y: Tensor) -> tuple[int, int]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must have shapes (n, L) and (m, L), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if min(len(x), len(y)) < 2:
        raise ValueError(
            "x and y must have at least two rows each for an unbiased estimate, "
            f"got {len(x)} and {len(y)}"
        )
    return len(x), len(y)


def _kernel(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Mean of Gaussian kernels between the rows of ``x`` and of ``y``, shape ``(n, m)``."""
    if len(bandwidths) == 0 or not all(s > 0 for s in bandwidths):
        raise ValueError(f"bandwidths must all be positive, got {tuple(bandwidths)}")
    # clamped, as rounding can leave the distance of a point from itself below zero
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    kernels = [torch.exp(squared.clamp(min=0) / (-2 * s**2)) for s in bandwidths]
    return torch.stack(kernels).mean(dim=0)
