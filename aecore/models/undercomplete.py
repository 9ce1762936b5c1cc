r"""Undercomplete autoencoder. Derivation: ``book/undercomplete.md``."""

from collections.abc import Sequence

from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import MLP, TiedMLP, as_tuple, check_choice, check_sizes, check_width

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    r"""Fully connected encoder and its mirror image, with a linear code between them.

    Implements :eq:`eq-undercomplete-objective`: with code :math:`h = f(x)`, minimise the negative
    log-likelihood of :math:`x` under the distribution that the decoder's output
    :math:`g(h)` parametrises.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code.
        hidden: Widths of the encoder's hidden layers, from the input inwards; the decoder has the
            same in reverse. None of them: an affine map each way.
        likelihood: ``"bernoulli"``: the decoder gives logits, the reconstruction term is the
            cross-entropy in nats; ``"gaussian"``: it gives the mean, the term is the squared error.
        tied: Whether the decoder's weights are the encoder's transposed.

    Raises:
        ValueError: If a size is not positive, or the likelihood is neither of the two.

    Source:
        Hinton and Salakhutdinov (2006).

    Example:
        >>> model = Autoencoder(n_inputs=784, n_latents=64)
        >>> model.loss(torch.zeros(5, 784))["loss"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        hidden: Sequence[int] = (),
        likelihood: str = "bernoulli",
        tied: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.likelihood, self.tied = likelihood, tied
        sizes = (n_inputs, *self.hidden, n_latents)
        self.encoder = MLP(sizes)
        self.decoder = TiedMLP(sizes) if tied else MLP(sizes[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        h: Tensor = self.encoder(x)
        return h

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("h", h, self.n_latents)
        out: Tensor = self.decoder(h, self.encoder) if self.tied else self.decoder(h)
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction``, in nats (Bernoulli) or squared units (Gaussian)."""
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode(self.encode(x)), x)
        return {"loss": reconstruction, "reconstruction": reconstruction}
