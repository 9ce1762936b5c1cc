"""The shared building blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aecore.nn import MLP, TiedMLP, check_choice, check_sizes, check_width


def test_mlp_is_torch_sequential() -> None:
    mlp = MLP((5, 4, 3, 2))
    a, b, c = mlp.layers
    expected = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c)
    x = torch.randn(7, 5)
    torch.testing.assert_close(mlp(x), expected(x))


def test_mlp_ends_linear() -> None:
    assert (MLP((5, 4, 3))(torch.randn(50, 5)) < 0).any()


def test_tied_mlp_uses_the_transposes_and_its_own_biases() -> None:
    mlp = MLP((5, 4, 2))
    tied = TiedMLP((5, 4, 2))
    for bias in tied.biases:
        nn.init.normal_(bias)
    h = torch.randn(7, 2)
    w1, w2 = (layer.weight for layer in mlp.layers)
    b2, b1 = tied.biases
    torch.testing.assert_close(tied(h, mlp), F.relu(h @ w2 + b2) @ w1 + b1)


def test_tied_mlp_owns_no_weights_but_passes_them_gradients() -> None:
    mlp, tied = MLP((5, 4, 2)), TiedMLP((5, 4, 2))
    assert sum(p.numel() for p in tied.parameters()) == 4 + 5
    tied(torch.randn(3, 2), mlp).square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in mlp.layers)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)])
def test_mlp_refuses_bad_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes must be two or more positive widths, got"):
        MLP(sizes)


def test_checks_name_argument_value_and_expectation() -> None:
    with pytest.raises(ValueError, match=r"n_latents must be a positive integer, got 2\.5"):
        check_sizes(n_inputs=3, n_latents=2.5)
    with pytest.raises(ValueError, match="colour must be one of 'red', 'blue'; got 'green'"):
        check_choice("colour", "green", ("red", "blue"))
    with pytest.raises(ValueError, match=r"z must have shape \(..., 3\), got \(2, 4\)"):
        check_width("z", torch.zeros(2, 4), 3)
