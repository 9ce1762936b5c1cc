r"""Pretraining: a greedy stack of denoising layers, and a classifier that can start from it.

Derivations: ``book/pretraining.md``.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.models.denoising import DenoisingAutoencoder
from aecore.nn import (
    ACTIVATIONS,
    as_tuple,
    check_choice,
    check_class_numbers,
    check_sizes,
    check_width,
)
from aecore.training import History, fit

__all__ = ["Classifier", "StackedAutoencoder", "cross_entropy"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Negative log-probability that a softmax of the logits gives to the labels.

    Implements :eq:`eq-pretraining-cross-entropy`: with logits :math:`a \in \mathbb R^K`,

    .. math:: -\log p(y \mid a) = \log \sum_{k=1}^K e^{a_k} - a_y .

    Args:
        logits: Shape ``(B, K)``; *not* probabilities.
        y: Classes in 0 … K − 1, int64, shape ``(B,)``.

    Returns:
        Nats of each example, shape ``(B,)``.

    Raises:
        ValueError: If the shapes do not fit, or a label is out of range.
        TypeError: If the labels are not int64.

    Example:
        >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
        tensor([2.3026, 2.3026])
    """
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            "logits and y must have shapes (B, K) and (B,), "
            f"got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    check_class_numbers(y)
    if len(y) and not (y.min() >= 0 and y.max() < logits.shape[1]):
        raise ValueError(
            f"y must lie in 0 … {logits.shape[1] - 1}, got {y.min().item()} … {y.max().item()}"
        )
    return F.cross_entropy(logits, y, reduction="none")


class StackedAutoencoder(nn.Module):
    r"""Denoising layers on top of each other, each trained on the code of those below.

    Implements :eq:`eq-pretraining-stack`: with :math:`h_0 = x` and
    :math:`h_k = s(W_k h_{k-1} + b_k)`, :meth:`pretrain` lets layer :math:`k` restore
    :math:`h_{k-1}` from a version with entries set to zero, the layers below held fixed. Nothing
    else is trained by it; :meth:`loss` is for training all layers end to end instead.

    Args:
        n_inputs: Width :math:`D` of the data.
        hidden: Widths of the layers, from the input upwards; the last is that of the code.
        likelihood: Of the pixels, ``"bernoulli"`` or ``"gaussian"``.
        activation: The function :math:`s`: ``"relu"``, whose codes are restored under the squared
            error, or ``"sigmoid"``, whose codes lie in [0, 1] and are restored under the
            cross-entropy.
        level: Probability with which masking noise sets an entry to zero, in every layer.

    Raises:
        ValueError: If there is no layer, a size is not positive, a name is none of those listed,
            or the level is out of range.

    Source:
        Bengio et al. (2007); Vincent et al. (2010).

    Example:
        >>> stack = StackedAutoencoder(n_inputs=784, hidden=(200, 100))
        >>> stack.encode(torch.zeros(5, 784)).shape
        torch.Size([5, 100])
    """

    layers: Any  # a ModuleList, of whose members torch knows no type

    def __init__(
        self,
        *,
        n_inputs: int,
        hidden: Sequence[int],
        likelihood: str = "bernoulli",
        activation: str = "relu",
        level: float = 0.2,
    ) -> None:
        super().__init__()
        hidden = as_tuple("hidden", hidden)
        if len(hidden) == 0:
            raise ValueError("hidden must name at least one layer's width, got none")
        check_choice("activation", activation, ("relu", "sigmoid"))
        self.n_inputs, self.hidden, self.n_latents = n_inputs, hidden, hidden[-1]
        self.likelihood, self.activation, self.level = likelihood, activation, level
        above = "gaussian" if activation == "relu" else "bernoulli"
        self.layers = nn.ModuleList(
            DenoisingAutoencoder(
                n_inputs=width,
                n_latents=code,
                likelihood=above if depth else likelihood,
                activation=activation,
                level=level,
            )
            for depth, (width, code) in enumerate(pairwise((n_inputs, *self.hidden)))
        )

    @property
    def encoders(self) -> list[nn.Linear]:
        """The affine map of each layer's encoder, from the input upwards."""
        return [layer.encoder.layers[0] for layer in self.layers]

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``, through all layers."""
        for layer in self.layers:
            x = layer.encode(x)
        return x

    def decode(self, h: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        s = ACTIVATIONS[self.activation]
        *above, bottom = reversed(self.layers)
        for layer in above:
            h = s(layer.decode(h))
        out: Tensor = bottom.decode(h)
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction`` of the clean ``x`` through all layers, end to end.

        In nats (Bernoulli) or squared units (Gaussian). ``x`` is masked afresh at each call.
        """
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        x_tilde = self.layers[0].corrupt(x)
        reconstruction = distance(self.decode(self.encode(x_tilde)), x)
        return {"loss": reconstruction, "reconstruction": reconstruction}

    def pretrain(self, x: Tensor, **how: Any) -> list[History]:
        """Train the layers one after the other, each on the clean code of those below it.

        Args:
            x: Data, shape ``(N, D)``; no labels.
            **how: Passed to :func:`aecore.training.fit` for each layer.

        Returns:
            A history a layer; as each has other data, their losses cannot be compared.
        """
        histories = []
        for layer in self.layers:
            histories.append(fit(layer, x, **how))
            with torch.no_grad():
                x = layer.encode(x.to(next(layer.parameters())))
        return histories


class Classifier(nn.Module):
    r"""Fully connected layers and a linear read-out of class logits, under the cross-entropy.

    Implements :eq:`eq-pretraining-classifier`. With the layers trained it is an ordinary network;
    with :meth:`freeze` only the read-out is trained, a linear probe.

    Args:
        n_inputs: Width :math:`D` of the data.
        hidden: Widths of the layers; none of them: logistic regression.
        n_classes: Number :math:`K` of classes.
        activation: After each layer, ``"relu"`` or ``"sigmoid"``.

    Raises:
        ValueError: If a size is not positive, or the activation is neither of the two.

    Example:
        >>> model = Classifier(n_inputs=784, hidden=(200, 100))
        >>> sorted(model.loss(torch.zeros(5, 784), torch.zeros(5, dtype=torch.int64)))
        ['cross_entropy', 'error', 'loss']
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        hidden: Sequence[int],
        n_classes: int = 10,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_classes=n_classes)
        widths = (n_inputs, *as_tuple("hidden", hidden))
        check_choice("activation", activation, ("relu", "sigmoid"))
        self.n_inputs, self.hidden, self.n_classes = n_inputs, widths[1:], n_classes
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.readout = nn.Linear(widths[-1], n_classes)

    def start_from(self, layers: Iterable[nn.Linear]) -> "Classifier":
        """Copy the weights and biases of an encoder's layers into the lowest layers.

        Args:
            layers: From the input upwards, at most as many as there are, of the same shapes.

        Returns:
            The classifier itself. What it was started from is not touched by training it.

        Raises:
            ValueError: If there are too many layers, or a shape differs.
        """
        sources = list(layers)
        if len(sources) > len(self.layers):
            raise ValueError(f"layers must be at most {len(self.layers)}, got {len(sources)}")
        for depth, (mine, source) in enumerate(zip(self.layers, sources, strict=False)):
            expected, got = tuple(mine.get_parameter("weight").shape), tuple(source.weight.shape)
            if expected != got:
                raise ValueError(f"layers[{depth}] must have a weight of {expected}, got {got}")
            mine.load_state_dict(source.state_dict())
        return self

    def freeze(self, frozen: bool = True) -> "Classifier":
        """Leave the layers below the read-out out of training, or take them in again.

        Args:
            frozen: Whether :func:`aecore.training.fit` is to leave them as they are.

        Returns:
            The classifier itself.
        """
        self.layers.requires_grad_(not frozen)
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to the features below the read-out, ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        for layer in self.layers:
            x = ACTIVATIONS[self.activation](layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to logits ``(B, K)``."""
        out: Tensor = self.readout(self.encode(x))
        return out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = cross_entropy`` in nats; ``error`` is 1 where the guess is wrong, else 0.

        Raises:
            ValueError: If there are no labels, or one is out of range.
        """
        if y is None:
            raise ValueError("y must hold the labels of x, got None")
        logits = self(x)
        nats = cross_entropy(logits, y)
        error = (logits.argmax(dim=1) != y).to(nats)
        return {"loss": nats, "cross_entropy": nats, "error": error}
