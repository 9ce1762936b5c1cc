r"""Convolutional autoencoder. Derivation: ``book/convolutional.md``."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import ConvDecoder, ConvEncoder, as_tuple, check_choice, check_sizes, check_width

__all__ = ["ConvolutionalAutoencoder", "conv_size", "overlap_counts", "transposed_size"]


class ConvolutionalAutoencoder(nn.Module):
    r"""Strided convolutions down, a fully connected code, upsampling stages back.

    Implements :eq:`eq-convolutional-bottleneck`: the last feature map, flattened, is mapped to a
    code of ``n_latents`` numbers and from there to a map of the same shape. Every stage halves
    height and width, rounding up; the decoder doubles them, and what exceeds the image is cut off.

    Args:
        shape: ``(C, H, W)`` of one image; data come flat, ``(B, C·H·W)``.
        n_latents: Width :math:`L` of the code.
        channels: Channels of each stage, from the image inwards.
        likelihood: ``"bernoulli"``: the decoder gives logits; ``"gaussian"``: it gives the mean.
        upsampling: ``"transposed"``: transposed convolutions of kernel 4 and stride 2;
            ``"bilinear"``: bilinear upsampling followed by a convolution of kernel 3.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Source:
        Masci et al. (2011); Odena et al. (2016) for bilinear upsampling.

    Example:
        >>> model = ConvolutionalAutoencoder(n_latents=16)
        >>> model.encode(torch.zeros(5, 784)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        n_latents: int,
        channels: Sequence[int] = (16, 32),
        likelihood: str = "bernoulli",
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        shape = as_tuple("shape", shape, "three positive integers (C, H, W)", least=3, most=3)
        some = "a tuple of one or more positive integers, such as (16,)"
        channels = as_tuple("channels", channels, some, least=1)
        check_sizes(n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self.shape, self.n_inputs, self.n_latents = shape, math.prod(shape), n_latents
        self.channels, self.likelihood, self.upsampling = channels, likelihood, upsampling
        height, width = (-(-size // 2 ** len(channels)) for size in shape[1:])  # rounded up
        self.feature_shape = (channels[-1], height, width)
        widths = (shape[0], *channels)
        self.encoder = ConvEncoder(widths)
        self.to_code = nn.Linear(math.prod(self.feature_shape), n_latents)
        self.from_code = nn.Linear(n_latents, math.prod(self.feature_shape))
        self.decoder = ConvDecoder(widths[::-1], upsampling=upsampling)

    def encode(self, x: Tensor) -> Tensor:
        """Map flat images ``(B, D)`` to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        features = F.relu(self.encoder(x.reshape(-1, *self.shape)))  # (B, C', H', W')
        h: Tensor = self.to_code(features.flatten(start_dim=1))
        return h.reshape(*x.shape[:-1], self.n_latents)

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), flat, ``(B, D)``."""
        check_width("h", h, self.n_latents)
        features = F.relu(self.from_code(h)).reshape(-1, *self.feature_shape)
        _, height, width = self.shape
        out: Tensor = self.decoder(features)[..., :height, :width]
        return out.reshape(*h.shape[:-1], self.n_inputs)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction``, in nats (Bernoulli) or squared units (Gaussian)."""
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode(self.encode(x)), x)
        return {"loss": reconstruction, "reconstruction": reconstruction}


def conv_size(n: int, kernel_size: int, *, stride: int = 1, padding: int = 0) -> int:
    r"""Outputs of a convolution, or of pooling, along one axis.

    Implements :eq:`eq-convolutional-size`: :math:`\lfloor (n + 2P - K) / S \rfloor + 1`.

    Args:
        n: Inputs along the axis.
        kernel_size: Kernel size :math:`K`, at most :math:`n + 2P`.
        stride: Stride :math:`S`.
        padding: Zeros :math:`P` added at each end.

    Returns:
        Their number.

    Raises:
        ValueError: If an argument is out of range, or the kernel exceeds the padded input.

    Example:
        >>> conv_size(28, 3, stride=2, padding=1)
        14
    """
    check_sizes(n=n, kernel_size=kernel_size, stride=stride)
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if kernel_size > n + 2 * padding:
        raise ValueError(
            f"kernel_size must be at most n + 2 padding = {n + 2 * padding}, got {kernel_size}"
        )
    return (n + 2 * padding - kernel_size) // stride + 1


def transposed_size(
    n: int, kernel_size: int, *, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    r"""Outputs of a transposed convolution along one axis.

    Implements :eq:`eq-convolutional-transposed-size`: :math:`(n - 1) S - 2P + K + O`.

    Args:
        n: Inputs along the axis.
        kernel_size: Kernel size :math:`K`.
        stride: Stride :math:`S`.
        padding: Outputs :math:`P` cut off at each end.
        output_padding: Outputs :math:`O` added at the far end, below the stride.

    Returns:
        Their number.

    Raises:
        ValueError: If an argument is out of range, or no output is left.

    Example:
        >>> transposed_size(14, 4, stride=2, padding=1)
        28
    """
    check_sizes(n=n, kernel_size=kernel_size, stride=stride)
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if not 0 <= output_padding < stride:
        raise ValueError(
            f"output_padding must lie in [0, stride) = [0, {stride}), got {output_padding}"
        )
    size = (n - 1) * stride - 2 * padding + kernel_size + output_padding
    if size < 1:
        raise ValueError(f"padding must leave an output, got {padding} for {n=}, {kernel_size=}")
    return size


def overlap_counts(
    n: int, kernel_size: int, *, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Tensor:
    r"""How many inputs of a transposed convolution reach each of its outputs, along one axis.

    Implements :eq:`eq-convolutional-overlap`: input :math:`i` reaches the outputs from
    :math:`iS - P` to :math:`iS - P + K - 1`. In two dimensions the counts multiply.

    Args:
        n: Inputs along the axis.
        kernel_size: Kernel size :math:`K`.
        stride: Stride :math:`S`.
        padding: Padding :math:`P`.
        output_padding: Output padding.

    Returns:
        The counts, whole numbers, shape ``(transposed_size(...),)``.

    Raises:
        ValueError: As for :func:`transposed_size`.

    Source:
        Odena et al. (2016).

    Example:
        >>> overlap_counts(4, 3, stride=2)
        tensor([1, 1, 2, 1, 2, 1, 2, 1, 1])
    """
    size = transposed_size(
        n, kernel_size, stride=stride, padding=padding, output_padding=output_padding
    )
    t = torch.arange(size) + padding
    last = (t // stride).clamp(max=n - 1)
    before = torch.div(t - kernel_size, stride, rounding_mode="floor").clamp(min=-1)
    return (last - before).clamp(min=0)
