"""Identities of aecore.synthetic; derivations in book/autoencoders.md."""

import math

import pytest
import torch
from scipy.integrate import quad

from aecore.synthetic import swiss_roll


def test_points_lie_on_the_spiral_at_their_height() -> None:
    """eq-autoencoders-swiss-roll."""
    points, coordinates = swiss_roll(300)
    x, height, z = points.T
    t = torch.hypot(x, z)
    torch.testing.assert_close(x, t * t.cos())
    torch.testing.assert_close(z, t * t.sin())
    torch.testing.assert_close(height, coordinates[:, 1])
    assert 1.5 * math.pi <= t.min() < t.max() <= 4.5 * math.pi


def test_arc_length_is_the_integral_of_the_speed() -> None:
    """eq-autoencoders-arc-length."""
    points, coordinates = swiss_roll(20)
    t = torch.hypot(points[:, 0], points[:, 2])
    lengths = [quad(lambda u: math.hypot(1, u), 1.5 * math.pi, end)[0] for end in t.tolist()]
    torch.testing.assert_close(coordinates[:, 0], torch.tensor(lengths))


def test_close_points_are_as_far_apart_as_their_coordinates() -> None:
    """eq-autoencoders-flat."""
    points, coordinates = swiss_roll(4000)
    exact = "donot_use_mm_for_euclid_dist"  # the faster way loses the digits of short distances
    on_sheet, in_space = (torch.cdist(p, p, compute_mode=exact) for p in (coordinates, points))
    near = (on_sheet < 0.3) & (on_sheet > 0)
    assert near.sum() > 500
    # a chord falls short of its arc by about s²/24 of the squared curvature, at most 1/5 here
    torch.testing.assert_close(in_space[near], on_sheet[near], rtol=2e-4, atol=0)
    assert (in_space <= on_sheet + 1e-9).all()


def test_pca_drops_the_height() -> None:
    """eq-autoencoders-pca."""
    points, _ = swiss_roll(200_000)
    values, vectors = torch.linalg.eigh(torch.cov(points.T))
    error = 21**2 * math.sqrt(1 / 180 / len(points))  # standard error of a uniform's variance
    assert abs(values[0] - 21**2 / 12) < 5 * error
    assert vectors[1, 0].abs() > 0.99
    assert values[1] > 1.1 * values[0]


def test_coordinates_are_uniform() -> None:
    n = 100_000
    _, coordinates = swiss_roll(n)
    length = quad(lambda u: math.hypot(1, u), 1.5 * math.pi, 4.5 * math.pi)[0]
    for values, size in zip(coordinates.T, (length, 21.0), strict=True):
        assert 0 <= values.min() < values.max() <= size
        for quantile in (0.1, 0.5, 0.9):
            share = (values < quantile * size).double().mean()
            assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / n)


def test_noise_is_added_to_the_points_only() -> None:
    n = 50_000
    clean, same = swiss_roll(n, generator=torch.Generator().manual_seed(3))
    noisy, coordinates = swiss_roll(n, noise=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(coordinates, same, rtol=0, atol=0)
    noise = noisy - clean
    variance = noise.square().mean()
    assert abs(variance - 0.25) < 5 * 0.25 * math.sqrt(2 / (3 * n))
    assert noise.mean(dim=0).abs().max() < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_default_type_and_agree(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    points, coordinates = swiss_roll(7, generator=torch.Generator().manual_seed(0))
    torch.set_default_dtype(torch.float64)
    expected, _ = swiss_roll(7, generator=torch.Generator().manual_seed(0))
    assert points.dtype == coordinates.dtype == dtype
    assert points.shape == (7, 3)
    assert coordinates.shape == (7, 2)
    torch.testing.assert_close(points, expected.to(dtype))


def test_a_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    swiss_roll(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_bad_sizes_are_named(n: int) -> None:
    with pytest.raises(ValueError, match=f"n must be a positive integer, got {n}"):
        swiss_roll(n)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf])
def test_bad_noise_is_named(noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be a finite number, at least 0, got"):
        swiss_roll(3, noise=noise)
