r"""Linear autoencoder. Derivation: ``book/linear.md``."""

from torch import Tensor, nn

from aecore.losses import squared_error
from aecore.nn import check_sizes, check_width

__all__ = ["LinearAutoencoder"]


class LinearAutoencoder(nn.Module):
    r"""Affine encoder, affine decoder, squared error: PCA found by gradient descent.

    Implements :eq:`eq-linear-autoencoder`: :math:`h = W_1 x + b_1`,
    :math:`\hat x = W_2 h + b_2`. Tied weights set :math:`W_2 = W_1^\top`.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code.
        tied: Whether the decoder's weight is the encoder's transposed.
        lam: Weight :math:`\lambda \ge 0` of the L2 penalty on both weights.

    Raises:
        ValueError: If a size is not positive or ``lam`` is negative.

    Source:
        Baldi and Hornik (1989); Kunin et al. (2019) for the penalty.

    Example:
        >>> model = LinearAutoencoder(n_inputs=784, n_latents=32)
        >>> model.encode(torch.zeros(5, 784)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self, *, n_inputs: int, n_latents: int, tied: bool = False, lam: float = 0.0
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        if not lam >= 0:
            raise ValueError(f"lam must not be negative, got {lam}")
        self.n_inputs, self.n_latents, self.tied, self.lam = n_inputs, n_latents, tied, lam
        self.encoder = nn.Linear(n_inputs, n_latents)
        self.decoder = nn.Linear(n_latents, n_inputs)
        if tied:
            self.decoder.register_parameter("weight", None)  # decoder_weight gives it

    @property
    def decoder_weight(self) -> Tensor:
        """The decoder's weight, shape ``(D, L)``; the encoder's transposed where tied."""
        return self.encoder.weight.T if self.tied else self.decoder.weight

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        h: Tensor = self.encoder(x)
        return h

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to reconstructions ``(B, D)``."""
        check_width("h", h, self.n_latents)
        return h @ self.decoder_weight.T + self.decoder.bias

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        r"""Implements :eq:`eq-linear-regularised`: ``loss = reconstruction + lam * penalty``.

        ``reconstruction`` is the squared error of each example; ``penalty``,
        :math:`\|W_1\|_F^2 + \|W_2\|_F^2`, belongs to the parameters and is the same for all.
        """
        reconstruction = squared_error(self.decode(self.encode(x)), x)
        norms = self.encoder.weight.square().sum() + self.decoder_weight.square().sum()
        penalty = norms.expand_as(reconstruction)
        loss = reconstruction + self.lam * penalty
        return {"loss": loss, "reconstruction": reconstruction, "penalty": penalty}
