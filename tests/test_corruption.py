"""Identities of aecore.corruption; derivations in book/denoising.md."""

import math

import pytest
import torch
from torch import Tensor

from aecore.corruption import (
    CORRUPTIONS,
    corrupt,
    expected_damage,
    gaussian_noise,
    masking_noise,
    matching_level,
    salt_and_pepper,
)

N_DRAWS = 20_000
LEVELS = {"gaussian": 0.7, "masking": 0.3, "salt_and_pepper": 0.4}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_mean(samples: Tensor, exact: Tensor | float) -> None:
    """The mean over the first dimension within five standard errors of its exact value."""
    error = samples.std(dim=0) / len(samples) ** 0.5
    assert ((samples.mean(dim=0) - exact).abs() <= 5 * error).all()


def test_gaussian_noise_is_a_scaled_standard_normal_added() -> None:
    """eq-denoising-gaussian-noise."""
    x = torch.rand(4, 5)
    eps = torch.empty_like(x).normal_(generator=rng())
    torch.testing.assert_close(gaussian_noise(x, 0.3, rng()), x + 0.3 * eps)


def test_gaussian_noise_is_unbiased_has_its_variance_and_is_not_clipped() -> None:
    """eq-denoising-gaussian-noise."""
    x = torch.tensor([0.0, 0.4, 1.0])
    noise = gaussian_noise(x.expand(N_DRAWS, 3), 0.3, rng()) - x
    assert_mean(noise, 0.0)
    assert_mean(noise.square(), 0.09)
    assert_mean(noise[:, :1] * noise[:, 1:], 0.0)  # entries are independent
    assert noise[:, 0].min() < 0 < noise[:, 2].max()


def test_masking_zeroes_with_probability_p_and_leaves_the_rest_as_it_was() -> None:
    """eq-denoising-masking."""
    x = torch.tensor([0.2, 0.7, 1.0])
    x_tilde = masking_noise(x.expand(N_DRAWS, 3), 0.3, rng())
    lost = (x_tilde == 0).double()
    torch.testing.assert_close(x_tilde, (1 - lost) * x)  # no rescaling
    assert_mean(lost, 0.3)
    assert_mean(lost[:, :1] * lost[:, 1:], 0.09)


def test_salt_and_pepper_sets_to_black_or_white_by_a_fair_coin() -> None:
    """eq-denoising-salt-and-pepper."""
    x = torch.tensor([0.2, 0.7])
    x_tilde = salt_and_pepper(x.expand(N_DRAWS, 2), 0.3, rng())
    salt, pepper = (x_tilde == 1).double(), (x_tilde == 0).double()
    torch.testing.assert_close(x_tilde, salt + (1 - salt - pepper) * x)
    assert_mean(salt, 0.15)
    assert_mean(pepper, 0.15)
    assert_mean((salt + pepper).prod(dim=1), 0.09)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_expected_damage_is_the_mean_squared_change(kind: str) -> None:
    """eq-denoising-damage."""
    x = torch.rand(3, 8)
    level = LEVELS[kind]
    drawn = corrupt(x.expand(N_DRAWS, 3, 8), kind, level, rng()).sub(x).square().sum(dim=-1)
    exact = expected_damage(x, kind, level)
    assert exact.shape == (3,)
    assert_mean(drawn, exact)


def test_expected_damage_of_a_vector_by_hand() -> None:
    """eq-denoising-damage."""
    x = torch.tensor([[0.0, 0.5, 1.0]])
    found = [expected_damage(x, kind, level).item() for kind, level in LEVELS.items()]
    assert found == pytest.approx([3 * 0.49, 0.3 * 1.25, 0.2 * (1.25 + 1.25)])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_matching_level_does_the_damage_asked_for(kind: str) -> None:
    """eq-denoising-matched."""
    x = torch.rand(6, 8)
    level = matching_level(x, kind, 0.9)
    torch.testing.assert_close(expected_damage(x, kind, level).mean(), torch.tensor(0.9))
    assert matching_level(x, kind, 0.0) == 0.0
    assert matching_level(torch.zeros(2, 3), kind, 0.0) == 0.0


def test_matching_level_undoes_expected_damage() -> None:
    """eq-denoising-matched."""
    x = torch.rand(6, 8)
    for kind, level in LEVELS.items():
        damage = expected_damage(x, kind, level).mean().item()
        assert matching_level(x, kind, damage) == pytest.approx(level)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corrupt_is_the_function_of_that_name(kind: str) -> None:
    x = torch.rand(4, 5)
    expected = CORRUPTIONS[kind](x, 0.5, rng())
    torch.testing.assert_close(corrupt(x, kind, 0.5, rng()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_input_stays_and_shape_and_type_are_kept(kind: str) -> None:
    x = torch.rand(2, 3, 4, dtype=torch.float32)
    before = x.clone()
    out = corrupt(x, kind, 0.9)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert not torch.equal(out, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_level_zero_changes_nothing(kind: str) -> None:
    x = torch.rand(4, 5)
    assert torch.equal(corrupt(x, kind, 0.0), x)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_call_draws_anew_unless_seeded(kind: str) -> None:
    x = torch.rand(20, 20)
    assert not torch.equal(corrupt(x, kind, 0.5), corrupt(x, kind, 0.5))
    assert torch.equal(corrupt(x, kind, 0.5, rng(3)), corrupt(x, kind, 0.5, rng(3)))


@pytest.mark.parametrize("noise", [masking_noise, salt_and_pepper])
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_probabilities_out_of_range_are_named(noise: object, p: float) -> None:
    with pytest.raises(ValueError, match=rf"p must lie in \[0, 1\], got {p}"):
        noise(torch.zeros(2), p)


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_standard_deviations_out_of_range_are_named(std: float) -> None:
    with pytest.raises(ValueError, match=f"std must be at least 0 and finite, got {std}"):
        gaussian_noise(torch.zeros(2), std)


@pytest.mark.parametrize("call", [corrupt, expected_damage, matching_level])
def test_unknown_kind_is_named_with_what_to_use(call: object) -> None:
    message = "corruption must be one of 'gaussian', 'masking', 'salt_and_pepper'; got 'dropout'"
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3), "dropout", 0.1)


@pytest.mark.parametrize("call", [corrupt, expected_damage])
def test_level_out_of_range_is_named(call: object) -> None:
    with pytest.raises(ValueError, match=r"level must lie in \[0, 1\], got 2"):
        call(torch.ones(2, 3), "masking", 2)
    with pytest.raises(ValueError, match="level must be at least 0 and finite, got -2"):
        call(torch.ones(2, 3), "gaussian", -2)


def test_damage_out_of_reach_is_named() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="damage must be at least 0 and finite, got -1"):
        matching_level(x, "masking", -1.0)
    with pytest.raises(ValueError, match=r"damage must be at most 3\.0, what p = 1 does, got 4"):
        matching_level(x, "masking", 4.0)
