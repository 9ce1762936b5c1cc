r"""Sparse autoencoders: L1, Bernoulli KL and TopK. Derivation: ``book/sparse.md``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecore.divergences import check_rho
from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import check_choice, check_sizes, check_width

__all__ = [
    "SparseAutoencoder",
    "TopKAutoencoder",
    "revive",
    "soft_threshold",
    "sparsity_penalty",
    "top_k",
]


def soft_threshold(a: Tensor, threshold: float) -> Tensor:
    r"""Shrink every entry towards zero by ``threshold``, and to zero what is smaller.

    Implements :eq:`eq-sparse-soft-threshold`:

    .. math:: S_t(a) = \operatorname{sign}(a) \max(|a| - t, 0)
        = \arg\min_h \big( (a - h)^2 + 2t |h| \big) .

    Args:
        a: Any shape.
        threshold: :math:`t \ge 0`; half the weight of the penalty :math:`|h|` beside a squared
            error.

    Returns:
        The shrunk entries, the shape of ``a``.

    Raises:
        ValueError: If the threshold is negative.

    Source:
        Tibshirani (1996), section 2.2.

    Example:
        >>> soft_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
        tensor([-1., 0., 2.])
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    return F.relu(a - threshold) - F.relu(-a - threshold)


def sparsity_penalty(a: Tensor, rho: float) -> Tensor:
    r"""Bernoulli KL of each sigmoid unit's mean activity, from the unit's pre-activations.

    Implements :eq:`eq-sparse-kl-gradient`: with :math:`h_{nj} = \sigma(a_{nj})` and
    :math:`\hat\rho_j = \frac1B \sum_n h_{nj}`, the gradient of
    :math:`\mathrm{KL}(\rho \,\|\, \hat\rho_j)` is

    .. math:: \frac{\partial}{\partial a_{nj}} = \frac1B \Big( -\frac{\rho}{\hat\rho_j}
        + \frac{1 - \rho}{1 - \hat\rho_j} \Big) h_{nj} (1 - h_{nj}) .

    Both means are taken in logarithms, so that value and gradient stay finite where the sigmoid
    rounds to zero or one.

    Args:
        a: Pre-activations, shape ``(B, L)``.
        rho: The wanted mean activity, in (0, 1).

    Returns:
        Nats of each unit, shape ``(L,)``: one number for the whole batch.

    Raises:
        ValueError: If ``rho`` lies outside (0, 1).

    Source:
        Ng (2011).

    Example:
        >>> sparsity_penalty(torch.zeros(8, 2), 0.5)
        tensor([0., 0.])
    """
    check_rho(rho)
    return _kl_of_log_rates(rho, _log_rates(a))


def top_k(h: Tensor, k: int, scale: Tensor | float = 1.0) -> Tensor:
    r"""Keep the ``k`` entries of each row that matter most, and set the others to zero.

    Implements :eq:`eq-sparse-top-k`: :math:`h_j` stays where :math:`|h_j| s_j` is among the row's
    ``k`` largest. With :math:`s_j = \|v_j\|`, the norm of the decoder's column, that is the length
    of what unit :math:`j` adds to the reconstruction.

    Args:
        h: Codes, shape ``(B, L)``.
        k: How many to keep.
        scale: Weights :math:`s_j \ge 0`, a number or shape ``(L,)``.

    Returns:
        The thinned codes, shape ``(B, L)``. The gradient flows through the kept entries alone.

    Raises:
        ValueError: If ``k`` is no positive integer or exceeds the width of the code.

    Source:
        Makhzani and Frey (2013).

    Example:
        >>> top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        tensor([[0., 3., 2.]])
    """
    _check_k(k, h.shape[-1])
    kept = (h.detach().abs() * scale).topk(k, dim=-1).indices
    return h * torch.zeros_like(h).scatter(-1, kept, 1.0)


class SparseAutoencoder(nn.Module):
    r"""One layer each way, and a penalty on the activity of the code.

    Implements :eq:`eq-sparse-objective`. With ``penalty="l1"`` the code is
    :math:`h = \max(W x + b, 0)` and the penalty :math:`\sum_j |h_j|`; :meth:`after_step` keeps the
    decoder's columns at norm one, without which shrinking the code would cost nothing. With
    ``penalty="kl"`` the code is :math:`h = \sigma(W x + b)` and the penalty
    :math:`\sum_j \mathrm{KL}(\rho \,\|\, \hat\rho_j)`.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code; it may exceed :math:`D`.
        penalty: ``"l1"`` or ``"kl"``.
        lam: Weight :math:`\lambda \ge 0` of the penalty, beside a reconstruction term and a
            penalty that are both sums.
        rho: Wanted mean activity of each unit, in (0, 1); for ``"kl"``.
        momentum: For ``"kl"``. 0: :math:`\hat\rho` is the batch's mean activity; above, in (0, 1),
            a running average over batches, of window :math:`1 / (1 - m)`; until so many have
            passed, their plain mean.
        likelihood: ``"bernoulli"``: the decoder gives logits; ``"gaussian"``: it gives the mean,
            and the reconstruction term is the squared error.

    Raises:
        ValueError: If a size is not positive, the penalty or the likelihood is none of those
            named, ``lam`` is negative, ``rho`` lies outside (0, 1), ``momentum`` outside [0, 1),
            or it is given for the L1 penalty.

    Source:
        Ng (2011) for the KL penalty; Olshausen and Field (1996) for the norms.

    Example:
        >>> model = SparseAutoencoder(n_inputs=784, n_latents=400, lam=0.5)
        >>> sorted(model.loss(torch.zeros(5, 784)))
        ['loss', 'penalty', 'reconstruction']
    """

    log_rates: Tensor
    n_updates: Tensor

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        penalty: str = "l1",
        lam: float,
        rho: float = 0.05,
        momentum: float = 0.0,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("penalty", penalty, ("l1", "kl"))
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        if not 0 <= lam < math.inf:
            raise ValueError(f"lam must be finite and not negative, got {lam}; 0 is no penalty")
        check_rho(rho)
        if not 0 <= momentum < 1:
            raise ValueError(
                f"momentum must lie in [0, 1), got {momentum}; 0 estimates rho_hat on the batch, "
                "0.9 on about the last ten"
            )
        if momentum and penalty == "l1":
            raise ValueError(f'momentum is for penalty="kl"; with "l1" leave it 0, got {momentum}')
        self.n_inputs, self.n_latents, self.likelihood = n_inputs, n_latents, likelihood
        self.penalty, self.lam, self.rho, self.momentum = penalty, lam, rho, momentum
        self.encoder = nn.Linear(n_inputs, n_latents)
        self.decoder = nn.Linear(n_latents, n_inputs)
        if penalty == "l1":
            _start_as_transposes(self.encoder, self.decoder)
        if momentum:
            # logarithms of the running averages of rho_hat and of 1 - rho_hat
            self.register_buffer("log_rates", torch.zeros(2, n_latents))
            self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``: never negative, in (0, 1) for ``"kl"``."""
        return self._activate(self._before(x))

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("h", h, self.n_latents)
        out: Tensor = self.decoder(h)
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        r"""Implements :eq:`eq-sparse-objective`: ``loss = reconstruction + lam * penalty``.

        ``reconstruction`` is in nats (Bernoulli) or squared units (Gaussian). The L1 ``penalty``
        belongs to the example. The KL one, in nats, belongs to the batch, as ``rho_hat`` does, and
        is the same for all its examples. With ``momentum`` its value is that of the running
        average with this batch in it; its gradient is
        :math:`\mathrm{KL}'(\hat\rho)\, \partial \hat\rho_B`, that of the batch's mean activity
        under the average's slope. In evaluation mode the average is left as training ended it.
        """
        a = self._before(x)
        h = self._activate(a)
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode(h), x)
        if self.penalty == "l1":
            penalty = h.abs().sum(dim=-1)
        else:
            penalty = self._kl(a).sum().expand_as(reconstruction)
        loss = reconstruction + self.lam * penalty
        return {"loss": loss, "reconstruction": reconstruction, "penalty": penalty}

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the decoder's columns back to norm one (L1), or move the running average (KL).

        Implements :eq:`eq-sparse-rescaling`: each column's norm goes into the encoder's row, and
        the reconstruction stays what it was.
        """
        if self.penalty == "l1":
            _norms_into_encoder(self.encoder, self.decoder)
        elif self.momentum:
            self.log_rates.copy_(self._last_log_rates)
            self.n_updates += 1

    def _before(self, x: Tensor) -> Tensor:
        check_width("x", x, self.n_inputs)
        a: Tensor = self.encoder(x)
        return a

    def _activate(self, a: Tensor) -> Tensor:
        return F.relu(a) if self.penalty == "l1" else torch.sigmoid(a)

    def _kl(self, a: Tensor) -> Tensor:
        if not self.momentum:
            return sparsity_penalty(a, self.rho)
        if not self.training and self.n_updates > 0:
            return _kl_of_log_rates(self.rho, self.log_rates)
        # the weight of this batch: 1, 1/2, 1/3, ... down to 1 - momentum
        new = (1.0 / (self.n_updates + 1)).clamp(min=1 - self.momentum)
        log_rates = torch.logaddexp(self.log_rates + torch.log1p(-new), _log_rates(a) + new.log())
        self._last_log_rates = log_rates.detach()
        kl = _kl_of_log_rates(self.rho, log_rates)
        return kl.detach() + (kl - kl.detach()) / new


class TopKAutoencoder(nn.Module):
    r"""One layer each way, and a code of at most ``k`` active units.

    Implements :eq:`eq-sparse-top-k` on the code :math:`\max(W x + b, 0)`: it keeps the ``k`` units
    whose contributions :math:`h_j v_j` to the reconstruction are longest. :meth:`after_step` keeps
    the decoder's columns :math:`v_j` at norm one; the choice is right for any norms.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code; it may exceed :math:`D`.
        k: Units kept for each example, the same in training and afterwards.
        likelihood: ``"bernoulli"``: the decoder gives logits; ``"gaussian"``: it gives the mean.

    Raises:
        ValueError: If a size is not positive, ``k`` exceeds ``n_latents``, or the likelihood is
            neither of the two.

    Source:
        Makhzani and Frey (2013); Gao et al. (2024) for the columns' norms and the ReLU.

    Example:
        >>> model = TopKAutoencoder(n_inputs=784, n_latents=400, k=15)
        >>> int((model.encode(torch.rand(5, 784)) > 0).sum(dim=1).max())
        15
    """

    def __init__(
        self, *, n_inputs: int, n_latents: int, k: int, likelihood: str = "bernoulli"
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        _check_k(k, n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self.n_inputs, self.n_latents, self.k = n_inputs, n_latents, k
        self.likelihood = likelihood
        self.encoder = nn.Linear(n_inputs, n_latents)
        self.decoder = nn.Linear(n_latents, n_inputs)
        _start_as_transposes(self.encoder, self.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)`` with at most ``k`` entries above zero."""
        check_width("x", x, self.n_inputs)
        h = F.relu(self.encoder(x))
        return top_k(h, self.k, self.decoder.weight.detach().norm(dim=0))

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("h", h, self.n_latents)
        out: Tensor = self.decoder(h)
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction``, in nats (Bernoulli) or squared units (Gaussian)."""
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode(self.encode(x)), x)
        return {"loss": reconstruction, "reconstruction": reconstruction}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the norms of the decoder's columns into the encoder; the output stays as it was.

        Implements :eq:`eq-sparse-rescaling`.
        """
        _norms_into_encoder(self.encoder, self.decoder)


@torch.no_grad()
def revive(
    model: SparseAutoencoder | TopKAutoencoder,
    x: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Aim each unit that fires for no example at one that the model reconstructs badly.

    Implements :eq:`eq-sparse-revive`: for an example drawn in proportion to its squared residual
    :math:`\|r\|^2`, :math:`r = x - \hat x`, the dead unit gets the column and the encoder row
    :math:`v = w = r / \|r\|` and the bias :math:`b = -w^\top x + \frac12 \|r\|`: on this example
    it fires with half of what would complete the reconstruction.

    Args:
        model: A model with a ReLU code: TopK, or sparse with ``penalty="l1"``.
        x: Examples, shape ``(N, D)``, enough of them for "never fires" to mean something.
        generator: Source of the choice of examples; torch's global one by default.

    Returns:
        The indices of the units revived, shape ``(n,)``.

    Raises:
        ValueError: If the code is sigmoid: its units are never exactly silent.

    Source:
        After Bricken et al. (2023) and Gao et al. (2024), appendix A.
    """
    if isinstance(model, SparseAutoencoder) and model.penalty == "kl":
        raise ValueError('model has a sigmoid code, penalty="kl", whose units never fall silent')
    h = model.encode(x)
    dead = (h > 0).any(dim=0).logical_not().nonzero().squeeze(1)
    out = model.decode(h)
    residual = x - (out.sigmoid() if model.likelihood == "bernoulli" else out)
    odds = residual.square().sum(dim=1)
    if len(dead) == 0 or not odds.sum() > 0:
        return dead[:0]
    chosen = torch.multinomial(odds, len(dead), replacement=True, generator=generator)
    length = residual[chosen].norm(dim=1, keepdim=True)
    direction = residual[chosen] / length
    model.decoder.weight[:, dead] = direction.T
    model.encoder.weight[dead] = direction
    model.encoder.bias[dead] = 0.5 * length[:, 0] - (direction * x[chosen]).sum(dim=1)
    return dead


def _log_rates(a: Tensor) -> Tensor:
    """Logarithms of the batch's mean activity and mean inactivity, shape ``(2, L)``."""
    each = F.logsigmoid(torch.stack([a, -a]))
    return each.logsumexp(dim=1) - math.log(len(a))


def _kl_of_log_rates(rho: float, log_rates: Tensor) -> Tensor:
    """The KL of :func:`aecore.divergences.bernoulli_kl` from both logarithms, shape ``(L,)``."""
    active, silent = log_rates
    kl: Tensor = rho * (math.log(rho) - active) + (1 - rho) * (math.log1p(-rho) - silent)
    return kl


@torch.no_grad()
def _start_as_transposes(encoder: nn.Linear, decoder: nn.Linear) -> None:
    """Unit columns, and the encoder their transpose: each unit looks for what it draws."""
    decoder.weight.div_(decoder.weight.norm(dim=0))
    encoder.weight.copy_(decoder.weight.T)


def _norms_into_encoder(encoder: nn.Linear, decoder: nn.Linear) -> None:
    norms = decoder.weight.norm(dim=0).clamp(min=1e-12)
    decoder.weight.div_(norms)
    encoder.weight.mul_(norms[:, None])
    encoder.bias.mul_(norms)


def _check_k(k: int, n_latents: int) -> None:
    check_sizes(k=k)
    if k > n_latents:
        raise ValueError(f"k must be at most n_latents, got k = {k} and n_latents = {n_latents}")
