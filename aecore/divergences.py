r"""Kullback–Leibler divergences in closed form, in nats: one function an equation.

Derivations: ``book/vae.md`` for the Gaussians, ``book/sparse.md`` for the Bernoullis.
"""

import torch
from torch import Tensor

__all__ = ["bernoulli_kl", "gaussian_kl", "gaussian_kl_between"]


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


def check_rho(rho: float) -> None:
    """Raise a ``ValueError`` when the mean is none that a Bernoulli unit can aim at."""
    if not 0 < rho < 1:
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}")


def _same_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or () in shapes.values():
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must have the same shape (B, L), got {got}")
