r"""Contractive autoencoder. Derivation: ``book/contractive.md``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import ACTIVATIONS, MLP, TiedMLP, as_tuple, check_choice, check_sizes, check_width

__all__ = [
    "ContractiveAutoencoder",
    "contractive_penalty",
    "hutchinson_penalty",
    "jacobian_penalty",
]


def contractive_penalty(h: Tensor, weight: Tensor) -> Tensor:
    r"""Squared Frobenius norm of the Jacobian of one sigmoid layer, from its activations.

    Implements :eq:`eq-contractive-penalty`: for :math:`h = \sigma(W x + b)`,

    .. math:: \|\partial h / \partial x\|_F^2
        = \sum_j \big(h_j (1 - h_j)\big)^2 \sum_i W_{ji}^2 .

    No Jacobian is formed: :math:`LD` multiplications for the batch and :math:`L` for each example.
    Exact for this layer only. The function sees activations and not the layer that made them: it
    refuses those that no sigmoid gives, but not ReLUs that happen to lie in [0, 1]. Any other
    encoder needs :func:`jacobian_penalty` or :func:`hutchinson_penalty`.

    Args:
        h: Activations of the sigmoid layer, in [0, 1], shape ``(B, L)``.
        weight: The layer's weight :math:`W`, shape ``(L, D)``.

    Returns:
        The penalty of each example, shape ``(B,)``.

    Raises:
        ValueError: If the shapes do not fit, or an activation lies outside [0, 1].

    Source:
        Rifai et al. (2011).

    Example:
        >>> contractive_penalty(torch.full((2, 3), 0.5), torch.ones(3, 4))
        tensor([0.7500, 0.7500])
    """
    if h.ndim != 2 or weight.ndim != 2 or h.shape[1] != weight.shape[0]:
        raise ValueError(
            "h and weight must have shapes (B, L) and (L, D), "
            f"got {tuple(h.shape)} and {tuple(weight.shape)}"
        )
    if ((h < 0) | (h > 1)).any():
        raise ValueError(
            f"h must lie in [0, 1] as sigmoid activations do, got [{h.min():.4g}, {h.max():.4g}]; "
            "use jacobian_penalty or hutchinson_penalty for other activations"
        )
    slope = h * (1 - h)  # (B, L)
    row_norms = weight.square().sum(dim=1)  # (L,)
    return (slope.square() * row_norms).sum(dim=1)


def jacobian_penalty(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Squared Frobenius norm of the Jacobian of any differentiable encoder, by autograd.

    Implements :eq:`eq-contractive-jacobian`:

    .. math:: \|J(x)\|_F^2 = \sum_{j=1}^L \|\nabla_x h_j(x)\|^2 .

    One backward pass for each of the :math:`L` outputs, run side by side, so that the Jacobians of
    the whole batch, :math:`BLD` numbers, stand in memory at once, and several such arrays if the
    result is differentiated. It can be: for training, autograd goes through it to the parameters.
    Backward passes on :math:`L` outputs cost more than forward ones on :math:`D` inputs where
    :math:`L > D`.

    Args:
        encode: Maps ``(B, D)`` to ``(B, L)``, each example by itself; no batch normalisation in
            training mode, and no dropout.
        x: Data, shape ``(B, D)``.

    Returns:
        The penalty of each example, shape ``(B,)``.

    Raises:
        ValueError: If ``x`` is no matrix.

    Example:
        >>> jacobian_penalty(torch.sin, torch.zeros(2, 3))
        tensor([3., 3.])
    """
    _check_batch(x)

    def encode_one(x_i: Tensor) -> Tensor:
        return encode(x_i[None])[0]

    jacobians: Tensor = torch.func.vmap(torch.func.jacrev(encode_one))(x)  # (B, L, D)
    return jacobians.square().flatten(start_dim=1).sum(dim=1)


def hutchinson_penalty(
    encode: Callable[[Tensor], Tensor],
    x: Tensor,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Unbiased estimate of :func:`jacobian_penalty` from a few random projections.

    Implements :eq:`eq-contractive-hutchinson`: with independent random signs :math:`v_s`,

    .. math:: \frac1S \sum_{s=1}^S \|J(x)^\top v_s\|^2 .

    One backward pass a sample, whatever the width of the code, and no Jacobian in memory. Its
    variance is that of :eq:`eq-contractive-hutchinson-variance`, divided by :math:`S`. Autograd
    goes through it to the parameters, as an unbiased estimate of the exact penalty's gradient.

    Args:
        encode: As for :func:`jacobian_penalty`.
        x: Data, shape ``(B, D)``.
        n_samples: Projections :math:`S` an example, each with signs of its own.
        generator: Source of the signs, on the device of ``x``; torch's global one by default.

    Returns:
        The estimate of each example, shape ``(B,)``.

    Raises:
        ValueError: If ``x`` is no matrix, or ``n_samples`` no positive integer.

    Source:
        Hutchinson (1990), for the trace of a matrix.

    Example:
        >>> hutchinson_penalty(torch.sin, torch.zeros(2, 3))
        tensor([3., 3.])
    """
    _check_batch(x)
    check_sizes(n_samples=n_samples)
    h, project = torch.func.vjp(encode, x)[:2]
    total = torch.zeros_like(x[:, 0])
    for _ in range(n_samples):
        signs = torch.empty_like(h).bernoulli_(0.5, generator=generator) * 2 - 1
        (row,) = project(signs)  # J(x)ᵀ v of each example, (B, D)
        total = total + row.square().sum(dim=1)
    return total / n_samples


class ContractiveAutoencoder(nn.Module):
    r"""Autoencoder whose code is paid to stand still when the input moves.

    Implements :eq:`eq-contractive-objective`: with code :math:`h = f(x)`, minimise the negative
    log-likelihood of :math:`x` given :math:`g(h)` plus
    :math:`\lambda \, \|\partial f / \partial x\|_F^2`.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code.
        lam: Weight :math:`\lambda \ge 0` of the penalty; with 0 the penalty is only reported.
        hidden: Widths of the encoder's hidden ReLU layers, from the input inwards; the decoder has
            the same in reverse.
        likelihood: ``"bernoulli"``: the decoder gives logits, the reconstruction term is the
            cross-entropy in nats; ``"gaussian"``: it gives the mean, the term is the squared error.
        activation: Of the code: ``"identity"``, ``"relu"`` or ``"sigmoid"``.
        penalty: ``"closed form"``: :func:`contractive_penalty`, for one sigmoid layer;
            ``"exact"``: :func:`jacobian_penalty`; ``"hutchinson"``: :func:`hutchinson_penalty`
            with one sample, from torch's global generator.
        tied: Whether the decoder's weights are the encoder's transposed; without it a small
            encoder and a large decoder make the penalty as small as one likes.

    Raises:
        ValueError: If a size is not positive, ``lam`` is negative, a word is none of those above,
            or the closed form is asked of an encoder for which it is not exact.

    Source:
        Rifai et al. (2011).

    Example:
        >>> model = ContractiveAutoencoder(n_inputs=784, n_latents=64, lam=0.1)
        >>> model.loss(torch.zeros(5, 784))["penalty"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        lam: float = 0.1,
        hidden: Sequence[int] = (),
        likelihood: str = "bernoulli",
        activation: str = "sigmoid",
        penalty: str = "closed form",
        tied: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("penalty", penalty, ("closed form", "exact", "hutchinson"))
        if not lam >= 0:
            raise ValueError(f"lam must not be negative, got {lam}")
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.lam, self.likelihood, self.tied = lam, likelihood, tied
        self.activation, self.penalty = activation, penalty
        if penalty == "closed form" and (self.hidden or activation != "sigmoid"):
            raise ValueError(
                "penalty must be 'exact' or 'hutchinson' where the encoder is not one sigmoid "
                f"layer, got 'closed form' with hidden={self.hidden}, activation={activation!r}"
            )
        sizes = (n_inputs, *self.hidden, n_latents)
        self.encoder = MLP(sizes)
        self.decoder = TiedMLP(sizes) if tied else MLP(sizes[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        return ACTIVATIONS[self.activation](self.encoder(x))

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("h", h, self.n_latents)
        out: Tensor = self.decoder(h, self.encoder) if self.tied else self.decoder(h)
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        r"""``loss = reconstruction + lam * penalty``.

        ``reconstruction`` is in nats (Bernoulli) or squared units (Gaussian); ``penalty`` is the
        squared Frobenius norm of the encoder's Jacobian at each example, or its estimate.
        """
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        h = self.encode(x)
        reconstruction = distance(self.decode(h), x)
        if self.penalty == "closed form":
            penalty = contractive_penalty(h, self.encoder.layers[0].get_parameter("weight"))
        elif self.penalty == "exact":
            penalty = jacobian_penalty(self.encode, x)
        else:
            penalty = hutchinson_penalty(self.encode, x)
        loss = reconstruction + self.lam * penalty
        return {"loss": loss, "reconstruction": reconstruction, "penalty": penalty}


def _check_batch(x: Tensor) -> None:
    if x.ndim != 2:
        raise ValueError(f"x must have shape (B, D), got {tuple(x.shape)}")
