r"""The building blocks that the models share."""

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "TiedMLP", "reparametrise"]

#: What a model may apply to its code, by the name its constructor takes.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": nn.Identity(),
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
}


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, and a linear last layer.

    Args:
        sizes: Widths from input to output, at least two: ``(784, 400, 20)`` is one hidden layer.

    Raises:
        ValueError: If there are fewer than two sizes, or one is below 1.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        sizes = as_tuple("sizes", sizes, "two or more positive widths", least=2)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., sizes[0])`` to ``(..., sizes[-1])``."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


class TiedMLP(nn.Module):
    """An :class:`MLP` run backwards through its transposed weights, with biases of its own.

    The weights stay the encoder's, and are passed in at each call, so that they are trained,
    counted and saved once.

    Args:
        sizes: The widths of the MLP to mirror, from *its* input to *its* output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes[-2::-1])

    def forward(self, h: Tensor, mlp: MLP) -> Tensor:
        """Map ``(..., sizes[-1])`` to ``(..., sizes[0])`` through the transposes of ``mlp``."""
        weights = [layer.get_parameter("weight") for layer in reversed(mlp.layers)]
        for depth, (weight, bias) in enumerate(zip(weights, self.biases, strict=True)):
            h = F.linear(F.relu(h) if depth else h, weight.T, bias)
        return h


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 with ReLU between them, and a linear last one.

    Each has kernel 3 and padding 1, and halves height and width, rounding up: 28 → 14 → 7.

    Args:
        channels: Channels from the image inwards, at least two: ``(1, 16, 32)`` is two stages.

    Raises:
        ValueError: If there are fewer than two, or one is below 1.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        channels = as_tuple("channels", channels, "two or more positive widths", least=2)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to features ``(B, channels[-1], H', W')``."""
        x = x.contiguous(memory_format=torch.channels_last)  # the faster order on a CPU
        for depth, layer in enumerate(self.layers):
            x = layer(F.relu(x) if depth else x)
        return x


class ConvDecoder(nn.Module):
    r"""Stages that double height and width, with ReLU between them, and a linear last one.

    Implements :eq:`eq-convolutional-doubling`: a transposed convolution of kernel :math:`K`,
    stride 2, padding :math:`\lfloor (K - 1) / 2 \rfloor` and output padding :math:`K \bmod 2`
    doubles exactly. So does bilinear upsampling followed by a convolution of odd kernel, stride 1
    and padding :math:`(K - 1) / 2`.

    Args:
        channels: Channels from the features outwards, at least two: ``(32, 16, 1)`` mirrors the
            encoder of ``(1, 16, 32)``.
        upsampling: ``"transposed"`` or ``"bilinear"``.
        kernel_size: Of each stage; by default 4 for transposed convolutions, whose overlap is then
            even, and 3 after bilinear upsampling, which takes odd ones only.

    Raises:
        ValueError: If an argument is none of these.

    Source:
        Odena et al. (2016) for the choice between the two.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        upsampling: str = "transposed",
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        channels = as_tuple("channels", channels, "two or more positive widths", least=2)
        check_choice("upsampling", upsampling, ("transposed", "bilinear"))
        self.upsampling = upsampling
        k = (4 if upsampling == "transposed" else 3) if kernel_size is None else kernel_size
        check_sizes(kernel_size=k)
        padding, odd = (k - 1) // 2, k % 2
        if upsampling == "bilinear" and not odd:
            raise ValueError(f"kernel_size must be odd after bilinear upsampling, got {k}")
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(i, o, k, stride=2, padding=padding, output_padding=odd)
            if upsampling == "transposed"
            else nn.Conv2d(i, o, k, padding=padding)
            for i, o in pairwise(channels)
        )

    def forward(self, h: Tensor) -> Tensor:
        """Map features ``(B, channels[0], H, W)`` to ``(B, channels[-1], 2ˢ H, 2ˢ W)``."""
        h = h.contiguous(memory_format=torch.channels_last)
        for depth, layer in enumerate(self.layers):
            h = F.relu(h) if depth else h
            if self.upsampling == "bilinear":
                h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            h = layer(h)
        return h


def reparametrise(mu: Tensor, log_var: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Sample a diagonal Gaussian as a differentiable function of its parameters.

    Implements :eq:`eq-vae-reparametrisation`: :math:`z = \mu + \sigma \odot \epsilon` with
    :math:`\epsilon \sim \mathcal N(0, I)`.

    Args:
        mu: Means, shape ``(B, L)``.
        log_var: Log-variances :math:`\log \sigma^2`, shape ``(B, L)``; halved before ``exp``,
            which turns it into a standard deviation.
        generator: Source of the noise; torch's global one by default.

    Returns:
        One sample an example, shape ``(B, L)``.

    Source:
        Kingma and Welling (2014), section 2.4; Rezende et al. (2014).
    """
    eps = torch.empty_like(mu).normal_(generator=generator)
    return mu + torch.exp(0.5 * log_var) * eps


def check_sizes(**sizes: int) -> None:
    """Raise a ``ValueError`` that names the first of the sizes that is no positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def check_positive(**values: float) -> None:
    """Raise a ``ValueError`` that names the first of the values that is no positive number."""
    for name, value in values.items():
        if not isinstance(value, Real) or not value > 0:
            raise ValueError(f"{name} must be a positive number, got {value!r}")


def as_tuple(
    name: str,
    values: Sequence[int],
    expected: str = "a tuple of positive integers, such as (400,)",
    *,
    least: int = 0,
    most: float = math.inf,
) -> tuple[int, ...]:
    """Give the values as a tuple; raise a ``ValueError`` if they are not ``expected``."""
    fits = isinstance(values, Sequence) and least <= len(values) <= most
    if not fits or any(not isinstance(n, int) or n < 1 for n in values):
        raise ValueError(f"{name} must be {expected}, got {values!r}")
    return tuple(values)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ``ValueError`` that lists the choices when ``value`` is none of them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}; got {value!r}")


def check_width(name: str, values: Tensor, expected: int) -> None:
    """Raise a ``ValueError`` when the last dimension of ``values`` is not ``expected``."""
    check_tensor(name, values)
    if values.ndim < 1 or values.shape[-1] != expected:
        raise ValueError(f"{name} must have shape (..., {expected}), got {tuple(values.shape)}")


def check_tensor(name: str, values: object) -> None:
    """Raise a ``TypeError`` when ``values`` is no tensor, but what holds one, for example."""
    if not isinstance(values, Tensor):
        hint = "; pass images.x, or images.y for labels" if hasattr(values, "x") else ""
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}{hint}")


def check_rows(name: str, x: Tensor) -> None:
    """Raise an error when ``x`` is no tensor of shape ``(N, D)``."""
    check_tensor(name, x)
    if x.ndim != 2:
        hint = f"; flatten images with {name}.flatten(1)" if x.ndim > 2 else ""
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}{hint}")


def check_class_numbers(y: Tensor) -> None:
    """Raise a ``TypeError`` when the labels are not of the type that a cross-entropy takes."""
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold class numbers of type int64, got {y.dtype}; use y.long()")


def check_folder(name: str, path: str | os.PathLike[str]) -> None:
    """Raise a ``FileNotFoundError`` when the folder that ``path`` lies in does not exist."""
    if not (folder := Path(path).parent).is_dir():
        raise FileNotFoundError(
            f"{name} {str(path)!r} lies in no folder; make {str(folder)!r} first"
        )
