r"""Denoising autoencoder. Derivation: ``book/denoising.md``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aecore.corruption import check_corruption, corrupt
from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import ACTIVATIONS, MLP, as_tuple, check_choice, check_sizes, check_width

__all__ = ["DenoisingAutoencoder", "gaussian_denoiser", "psnr"]


class DenoisingAutoencoder(nn.Module):
    r"""Encoder and decoder trained to undo noise: corrupted in, clean out.

    Implements :eq:`eq-denoising-objective`: with :math:`\tilde x` a corruption of :math:`x` drawn
    afresh at each call, minimise the negative log-likelihood of the *clean* :math:`x` under the
    distribution that :math:`g(f(\tilde x))` parametrises.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code; may exceed ``n_inputs``.
        hidden: Widths of the encoder's hidden layers, from the input inwards; the decoder has the
            same in reverse. None of them: an affine map each way.
        likelihood: ``"bernoulli"``: the decoder gives logits, the reconstruction term is the
            cross-entropy in nats; ``"gaussian"``: it gives the mean, the term is the squared error.
        activation: Applied to the code: ``"identity"``, ``"relu"`` or ``"sigmoid"``.
        corruption: ``"gaussian"``, ``"masking"`` or ``"salt_and_pepper"``, as in
            :mod:`aecore.corruption`.
        level: The standard deviation of Gaussian noise, the probability of the other kinds.

    Raises:
        ValueError: If a size is not positive, a name is none of those listed, or the level is out
            of range.

    Source:
        Vincent et al. (2008, 2010).

    Example:
        >>> model = DenoisingAutoencoder(n_inputs=784, n_latents=1000, activation="sigmoid")
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
        activation: str = "identity",
        corruption: str = "masking",
        level: float = 0.2,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_corruption(corruption, level)
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.likelihood, self.activation = likelihood, activation
        self.corruption, self.level = corruption, level
        sizes = (n_inputs, *self.hidden, n_latents)
        self.encoder = MLP(sizes)
        self.decoder = MLP(sizes[::-1])

    def corrupt(self, x: Tensor) -> Tensor:
        """Draw a corruption of ``x``, the shape of ``x``, from torch's global randomness."""
        return corrupt(x, self.corruption, self.level)

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)``, taken as they are, to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        return ACTIVATIONS[self.activation](self.encoder(x))

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("h", h, self.n_latents)
        out: Tensor = self.decoder(h)
        return out

    def denoise(self, x_tilde: Tensor) -> Tensor:
        r"""The answer :math:`r(\tilde x)`, which training draws to :math:`E[x \mid \tilde x]`.

        Args:
            x_tilde: Corrupted data, shape ``(B, D)``.

        Returns:
            Probabilities (Bernoulli) or means (Gaussian), shape ``(B, D)``.
        """
        out = self.decode(self.encode(x_tilde))
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction`` of the clean ``x``, in nats or squared units.

        ``x`` is corrupted here, afresh at each call and in ``eval()`` mode too: a held-out loss
        measures denoising. To score copying, compare ``denoise(x)`` with ``x``.
        """
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode(self.encode(self.corrupt(x))), x)
        return {"loss": reconstruction, "reconstruction": reconstruction}


def gaussian_denoiser(x_tilde: Tensor, mean: Tensor, covariance: Tensor, std: float) -> Tensor:
    r"""Best affine answer to Gaussian noise; for Gaussian data the best of all.

    Implements :eq:`eq-denoising-shrinkage`: for data with mean :math:`\mu` and covariance
    :math:`\Sigma` and noise :math:`\mathcal N(0, s^2 I)`,

    .. math:: r(\tilde x) = \mu + \Sigma (\Sigma + s^2 I)^{-1} (\tilde x - \mu) .

    Args:
        x_tilde: Corrupted data, shape ``(B, D)``.
        mean: Mean :math:`\mu` of the clean data, shape ``(D,)``.
        covariance: Their covariance :math:`\Sigma`, shape ``(D, D)``; singular is fine.
        std: Standard deviation :math:`s > 0` of the noise.

    Returns:
        The denoised data, shape ``(B, D)``.

    Raises:
        ValueError: If ``std`` is not positive.

    Example:
        >>> gaussian_denoiser(torch.ones(1, 2), torch.zeros(2), torch.eye(2), 1.0)
        tensor([[0.5000, 0.5000]])
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    noisy = covariance + std**2 * torch.eye(len(mean)).to(covariance)
    # Σ and Σ + s²I are symmetric and commute: solving from the left is solving from the right
    shrinkage: Tensor = torch.linalg.solve(noisy, covariance)
    return mean + (x_tilde - mean) @ shrinkage


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    r"""Peak signal-to-noise ratio of images whose values reach from 0 to 1, in decibels.

    Implements :eq:`eq-denoising-psnr`:

    .. math:: \mathrm{PSNR} = -10 \log_{10} \Big( \frac1D \|\hat x - x\|^2 \Big) .

    Args:
        x_hat: Reconstructions, shape ``(B, D)``.
        x: Originals, shape ``(B, D)``.

    Returns:
        Decibels of each image, shape ``(B,)``; infinite for a perfect copy.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> psnr(torch.full((1, 4), 0.1), torch.zeros(1, 4))
        tensor([20.])
    """
    return -10 * torch.log10(squared_error(x_hat, x) / x.shape[-1])
