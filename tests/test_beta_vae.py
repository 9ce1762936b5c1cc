"""Identities of aecore.models.beta_vae and of what its chapter adds to other modules.

Derivations in book/beta_vae.md.
"""

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.distributions import kl_divergence as torch_kl

from aecore import load_model, save
from aecore.divergences import (
    aggregate_log_density,
    gaussian_kl,
    gaussian_total_correlation,
    kl_decomposition,
)
from aecore.evaluation import (
    elbo,
    factor_vae_score,
    mutual_information,
    mutual_information_gap,
)
from aecore.models.beta_vae import BetaVAE
from aecore.models.vae import VAE
from aecore.synthetic import SPRITE_FACTORS, draw_sprites, sprites
from aecore.training import fit

SIZES = {"n_inputs": 4, "n_latents": 2, "hidden": (6,)}
ESTIMATORS = ["stratified", "weighted", "naive"]

# The model


@pytest.mark.parametrize("beta", [0, 0.25, 4.0])
def test_loss_is_distortion_plus_the_price_of_the_rate(beta: float) -> None:
    """eq-beta_vae-lagrangian: the terms are the VAE's and unweighted."""
    plain, model = VAE(**SIZES), BetaVAE(**SIZES, beta=beta)
    model.load_state_dict(plain.state_dict())
    x = torch.rand(5, 4)

    torch.manual_seed(1)
    terms = model.loss(x)
    torch.manual_seed(1)
    expected = plain.loss(x)

    assert set(terms) == {"loss", "reconstruction", "kl"}
    torch.testing.assert_close(terms["reconstruction"], expected["reconstruction"])
    torch.testing.assert_close(terms["kl"], expected["kl"])
    combined = expected["reconstruction"] + beta * expected["kl"]
    torch.testing.assert_close(terms["loss"], combined)


def test_elbo_does_not_know_beta() -> None:
    """eq-beta_vae-elbo."""
    plain, model = VAE(**SIZES), BetaVAE(**SIZES, beta=7.0)
    model.load_state_dict(plain.state_dict())
    x = torch.bernoulli(torch.rand(5, 4))

    ours, theirs = (
        elbo(m, x, n_samples=3, generator=torch.Generator().manual_seed(0)) for m in (model, plain)
    )

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_minus_elbo_is_rate_plus_distortion_on_average() -> None:
    """eq-beta_vae-elbo."""
    model = BetaVAE(**SIZES, beta=7.0)
    x = torch.bernoulli(torch.rand(1, 4)).expand(20_000, 4)

    terms = {name: term.detach() for name, term in model.loss(x).items()}
    gap = terms["reconstruction"] + terms["kl"] + elbo(model, x)

    assert gap.mean().abs() < 5 * gap.std() / math.sqrt(len(x))
    assert gap.std() > 0


def test_a_schedule_changes_beta_and_a_file_keeps_it(tmp_path: Path) -> None:
    """eq-beta_vae-lagrangian."""
    model = BetaVAE(**SIZES, beta=0.0)
    seen = []

    def raise_beta(epoch: int, model: BetaVAE, terms: dict[str, float]) -> None:
        gap = terms["loss"] - terms["reconstruction"]
        seen.append(gap / terms["kl"])
        model.beta = epoch / 2

    fit(model, torch.rand(8, 4), epochs=3, batch_size=4, device="cpu", on_epoch=raise_beta)
    save(model, tmp_path / "m")

    torch.testing.assert_close(torch.tensor(seen), torch.tensor([0.0, 0.5, 1.0]))
    assert load_model(tmp_path / "m").beta == 1.5


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf, "4", None])
def test_bad_beta_is_named_when_given_and_when_set(beta: object) -> None:
    """eq-beta_vae-lagrangian."""
    message = f"beta must be a finite number, at least 0, got {beta!r}"
    with pytest.raises(ValueError, match=message):
        BetaVAE(**SIZES, beta=beta)
    model = BetaVAE(**SIZES, beta=1.0)
    with pytest.raises(ValueError, match=message):
        model.beta = beta
    assert model.beta == 1.0


def test_linear_model_is_stationary_at_the_water_level() -> None:
    """eq-beta_vae-water: rate, distortion and the optimum, for data of a known spectrum."""
    beta, noise = 2.0, 0.3
    eigenvalues = torch.tensor([4.0, 1.5, 0.9, 0.4, 0.1])
    level = beta * noise
    n = 40
    u = torch.linalg.svd(_centred(torch.randn(n, 5)), full_matrices=False).U
    x = math.sqrt(n) * u * eigenvalues.sqrt()
    model = BetaVAE(
        n_inputs=5,
        n_latents=4,
        beta=beta,
        hidden=(),
        likelihood="gaussian",
        log_var=math.log(noise),
    )
    kept = eigenvalues[:4].clamp(min=level)
    columns = (kept - level).sqrt()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.layers[0].weight[:4] = columns.diag()
        model.encoder.layers[0].weight[:4, :4] = (columns / kept).diag()
        model.encoder.layers[0].bias[4:] = (level / kept).log()

    mu, log_var = model.encode(x)
    weights = model.decoder.layers[0].weight.square().sum(dim=0)
    error = (x - model.decode(mu)).square().sum(dim=1) + log_var.exp() @ weights
    rate = gaussian_kl(mu, log_var).mean()
    constant = 2.5 * math.log(2 * math.pi * noise)
    distortion = 0.5 * error.mean() / noise + constant
    slopes = torch.autograd.grad(distortion + beta * rate, list(model.parameters()))

    torch.testing.assert_close(rate, 0.5 * (kept / level).log().sum())
    left = eigenvalues[:4].clamp(max=level).sum() + eigenvalues[4]
    torch.testing.assert_close(distortion, 0.5 * left / noise + constant)
    for slope in slopes:
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)


# The decomposition of the mean KL


def _batch(n: int, n_latents: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    mu, log_var = 2 * torch.randn(n, n_latents), torch.randn(n, n_latents) - 1
    return mu + torch.exp(0.5 * log_var) * torch.randn(n, n_latents), mu, log_var


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n_data", [None, 50])
def test_parts_add_up_whatever_the_estimator(estimator: str, n_data: int | None) -> None:
    """eq-beta_vae-decomposition."""
    z, mu, log_var = _batch(9, 3)
    parts = kl_decomposition(z, mu, log_var, n_data=n_data, estimator=estimator)
    log_q = Normal(mu, torch.exp(0.5 * log_var)).log_prob(z).sum(dim=1)
    log_p = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(sum(parts.values()), log_q - log_p)


def test_density_of_all_the_data_is_the_mixture() -> None:
    """eq-beta_vae-stratified, eq-beta_vae-decomposition: with torch's densities, M = N."""
    z, mu, log_var = _batch(7)
    joint, marginals = aggregate_log_density(z, mu, log_var)
    each = Normal(mu, torch.exp(0.5 * log_var)).log_prob(z[:, None])  # (7, 7, 2)
    torch.testing.assert_close(joint, each.sum(-1).exp().mean(1).log())
    torch.testing.assert_close(marginals, each.exp().mean(1).log())
    naive = aggregate_log_density(z, mu, log_var, estimator="naive")
    torch.testing.assert_close(naive, (joint, marginals))
    parts = kl_decomposition(z, mu, log_var)
    torch.testing.assert_close(parts["total_correlation"], joint - marginals.sum(dim=1))


def _mean_over_batches(estimator: str, n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean density of the first example's sample over all batches with it; own term; mixture."""
    z, mu, log_var = _batch(n)
    found = []
    for others in combinations(range(1, n), m - 1):
        rows = [0, *others]
        batch = (t[rows] for t in (z, mu, log_var))
        joint, marginals = aggregate_log_density(*batch, n_data=n, estimator=estimator)
        found.append(torch.cat([joint[:1], marginals[0]]).exp())
    each = Normal(mu, torch.exp(0.5 * log_var)).log_prob(z[0])  # (n, 2)
    each = torch.cat([each.sum(dim=1, keepdim=True), each], dim=1).exp()
    return torch.stack(found).mean(dim=0), each[0], each.mean(dim=0)


def test_stratified_density_has_no_bias_over_all_batches() -> None:
    """eq-beta_vae-stratified."""
    mean, _, mixture = _mean_over_batches("stratified", 7, 3)
    torch.testing.assert_close(mean, mixture)


@pytest.mark.parametrize(("estimator", "shrunk"), [("naive", 1), ("weighted", 7)])
def test_other_densities_have_the_derived_bias(estimator: str, shrunk: int) -> None:
    """eq-beta_vae-naive: own term too heavy; with the weighted one all of it divided by N."""
    n, m = 7, 3
    mean, own, mixture = _mean_over_batches(estimator, n, m)
    others = (n * mixture - own) / (n - 1)
    torch.testing.assert_close(mean, (own + (m - 1) * others) / m / shrunk)


def test_naive_information_cannot_exceed_the_log_of_the_batch() -> None:
    """eq-beta_vae-naive: isolated codes, where the truth is log N."""
    n, m = 400, 20
    mu = 100.0 * torch.arange(m)[:, None]
    z = mu + torch.randn(m, 1)
    zeros = torch.zeros_like(mu)
    for estimator, expected in (("naive", math.log(m)), ("stratified", math.log(n))):
        parts = kl_decomposition(z, mu, zeros, n_data=n, estimator=estimator)
        torch.testing.assert_close(parts["information"], torch.full((m,), expected))
    parts = kl_decomposition(z, mu, zeros, n_data=n, estimator="weighted")
    torch.testing.assert_close(parts["information"], torch.full((m,), math.log(n * m)))


def test_gaussian_total_correlation_is_torchs_divergence() -> None:
    """eq-beta_vae-gaussian-tc."""
    root = torch.randn(4, 3, 3)
    covariance = root @ root.mT + 0.1 * torch.eye(3)
    product = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    zeros = torch.zeros(4, 3)
    expected = torch_kl(MultivariateNormal(zeros, covariance), MultivariateNormal(zeros, product))
    torch.testing.assert_close(gaussian_total_correlation(covariance), expected)
    zero = gaussian_total_correlation(product)
    torch.testing.assert_close(zero, torch.zeros(4), rtol=0, atol=1e-12)


def test_decomposition_of_a_gaussian_aggregate() -> None:
    """eq-beta_vae-gaussian-parts, eq-beta_vae-gaussian-tc: Monte Carlo over 3,000 examples."""
    n, noise = 3000, torch.tensor([0.3, 0.5])
    mixing = torch.tensor([[0.9, 0.0], [0.6, 0.7]])
    aggregate = mixing @ mixing.T + noise.diag()
    mu = torch.randn(n, 2) @ mixing.T
    z = mu + noise.sqrt() * torch.randn(n, 2)
    parts = kl_decomposition(z, mu, noise.log().expand(n, 2))
    variances = aggregate.diagonal()
    exact = {
        "information": 0.5 * (torch.logdet(aggregate) - noise.log().sum()),
        "total_correlation": gaussian_total_correlation(aggregate),
        "dimension_wise": 0.5 * (variances - 1 - variances.log()).sum(),
    }
    for name, part in parts.items():
        # 0.01 for the finite mixture, which is not quite the Gaussian
        error = 5 * part.std() / math.sqrt(n) + 0.01
        assert (part.mean() - exact[name]).abs() < error, name
        assert exact[name] > 0.02, name


def test_bad_batches_are_named() -> None:
    """eq-beta_vae-stratified."""
    z, mu, log_var = _batch(4)
    with pytest.raises(ValueError, match=r"same shape .* z \(3, 2\)"):
        kl_decomposition(z[:3], mu, log_var)
    with pytest.raises(ValueError, match="estimator must be one of 'stratified', 'weighted'"):
        kl_decomposition(z, mu, log_var, estimator="exact")
    with pytest.raises(ValueError, match="n_data must be at least the batch size, .* got 3 and 4"):
        kl_decomposition(z, mu, log_var, n_data=3)
    with pytest.raises(ValueError, match="two or more, got 5 and 1"):
        kl_decomposition(z[:1], mu[:1], log_var[:1], n_data=5)
    with pytest.raises(ValueError, match=r"covariance must have shape \(..., L, L\), got \(2, 3\)"):
        gaussian_total_correlation(torch.ones(2, 3))


# Information with factors


def _factors(n: int, counts: tuple[int, ...] = (3, 4)) -> Tensor:
    return torch.stack([torch.randint(count, (n,)) for count in counts], dim=1)


def test_mutual_information_of_a_known_table() -> None:
    """eq-beta_vae-mutual-information: a binary channel that errs once in four."""
    factor = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).repeat(50)
    code = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]).repeat(50).double()
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    found = mutual_information(code[:, None], factor[:, None], n_bins=2)
    torch.testing.assert_close(found, torch.tensor([[expected]]))


def test_mutual_information_keeps_latents_in_rows_and_factors_in_columns() -> None:
    """eq-beta_vae-mutual-information."""
    factors = torch.cartesian_prod(*(torch.arange(c) for c in (2, 3, 5))).repeat(40, 1)
    codes = factors[:, [2, 0]].double()
    table = mutual_information(codes, factors)
    expected = torch.zeros(2, 3)
    expected[0, 2], expected[1, 0] = math.log(5), math.log(2)
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-12)


def test_mutual_information_does_not_change_under_monotone_maps() -> None:
    """eq-beta_vae-mutual-information."""
    factors = _factors(500)
    codes = factors.double() + torch.randn(500, 2)
    bent = torch.stack([codes[:, 0].exp(), codes[:, 1] ** 3], dim=1)
    torch.testing.assert_close(
        mutual_information(bent, factors), mutual_information(codes, factors)
    )


def test_bias_of_counts_is_that_of_a_chi_square() -> None:
    """eq-beta_vae-bias: independent codes and factors."""
    n, n_bins, n_values = 2000, 10, 6
    codes = torch.randn(n, 100)
    factors = torch.randint(n_values, (n, 4))
    found = mutual_information(codes, factors, n_bins=n_bins).flatten()
    expected = (n_bins - 1) * (n_values - 1) / (2 * n)
    assert (found.mean() / expected - 1).abs() < 0.05
    freedom = (n_bins - 1) * (n_values - 1)
    assert (found.std() / (math.sqrt(2 * freedom) / (2 * n)) - 1).abs() < 0.2


@pytest.mark.parametrize("n_bins", [12, 20])
def test_gap_is_one_for_aligned_codes(n_bins: int) -> None:
    """eq-beta_vae-gap: in any order and with any sign; useless latents do no harm."""
    factors = torch.cartesian_prod(*(torch.arange(c) for c in (3, 4, 12))).repeat(30, 1)
    codes = torch.cat([-factors[:, [2, 0, 1]].double(), torch.zeros(len(factors), 1)], dim=1)
    gaps = mutual_information_gap(codes, factors, n_bins=n_bins)
    torch.testing.assert_close(gaps, torch.ones(3))


def test_gap_is_near_zero_for_rotated_and_for_doubled_codes() -> None:
    """eq-beta_vae-gap."""
    factors = _factors(20_000, (12, 12))
    codes = factors.double() + 0.5 * torch.rand(20_000, 2)
    c = math.sqrt(0.5)
    rotated = _centred(codes) @ torch.tensor([[c, -c], [c, c]])
    assert mutual_information_gap(codes, factors).min() > 0.85  # 20 bins cut across 12 values
    assert mutual_information_gap(rotated, factors).max() < 0.02
    torch.testing.assert_close(
        mutual_information_gap(codes.repeat(1, 2), factors), torch.zeros(2), rtol=0, atol=1e-12
    )


def test_gap_is_divided_by_the_factors_own_entropy() -> None:
    """eq-beta_vae-gap: a factor of unequal shares."""
    factors = torch.tensor([0] * 300 + [1] * 100)[:, None]
    codes = torch.cat([factors.double(), torch.zeros(400, 1)], dim=1)
    torch.testing.assert_close(mutual_information_gap(codes, factors, n_bins=8), torch.ones(1))


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(4, 2, dtype=torch.int64), r"same N above 0, got \(5, 2\)"),
        (torch.zeros(5), torch.zeros(5, 2, dtype=torch.int64), r"got \(5,\) and \(5, 2\)"),
        (torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int64), "the same N above 0"),
        (torch.full((5, 2), math.nan), torch.zeros(5, 2, dtype=torch.int64), "must be finite"),
        (torch.zeros(5, 2), torch.zeros(5, 2), "factors must be integers from 0"),
        (torch.zeros(5, 2), -torch.ones(5, 2, dtype=torch.int64), "factors must be integers"),
    ],
)
def test_bad_codes_and_factors_are_named(codes: Tensor, factors: Tensor, message: str) -> None:
    """eq-beta_vae-gap, eq-beta_vae-vote."""
    for score in (mutual_information, mutual_information_gap, factor_vae_score):
        with pytest.raises(ValueError, match=message):
            score(codes, factors)


def test_scores_that_make_no_sense_are_refused() -> None:
    """eq-beta_vae-gap, eq-beta_vae-vote."""
    factors = _factors(50)
    with pytest.raises(ValueError, match="two or more latents for a gap, got one"):
        mutual_information_gap(torch.randn(50, 1), factors)
    with pytest.raises(ValueError, match="factors must vary, got one value of factor 1"):
        mutual_information_gap(torch.randn(50, 2), factors * torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="n_bins must be a positive integer, got 0"):
        mutual_information(torch.randn(50, 2), factors, n_bins=0)
    with pytest.raises(ValueError, match="codes must vary"):
        factor_vae_score(torch.ones(50, 2), factors)
    with pytest.raises(ValueError, match="n_votes must be even .* got 7 and 64"):
        factor_vae_score(torch.randn(50, 2), factors, n_votes=7)


def test_vote_is_sure_for_aligned_codes_of_any_scale() -> None:
    """eq-beta_vae-vote: relative variances; a constant latent never wins."""
    factors = _factors(3000, (3, 4, 12))
    noise = 0.1 * torch.randn(3000, 3)
    codes = (factors + noise)[:, [1, 2, 0]] * torch.tensor([1e-3, 1.0, 1e3])
    codes = torch.cat([torch.zeros(3000, 1), codes, torch.randn(3000, 1)], dim=1)
    assert factor_vae_score(codes, factors) == 1.0


def test_vote_fixes_the_value_of_a_random_example() -> None:
    """eq-beta_vae-vote: latents that stand still at the value 0 of their factor only."""
    factors = (torch.rand(2000, 2) > 0.75).long()
    score = factor_vae_score(factors * torch.randn(2000, 2), factors, n_votes=2000)
    share = (factors == 0).double().mean().item()
    assert abs(score - share) < 5 * math.sqrt(share * (1 - share) / 1000) < 0.1


def test_vote_is_at_chance_for_codes_that_know_nothing() -> None:
    """eq-beta_vae-vote: 1/K on the held-out half; on the half that assigns, it would be 0.6."""
    scores = []
    for _ in range(100):
        codes, factors = torch.randn(500, 20), _factors(500, (3, 4, 5, 6))
        scores.append(factor_vae_score(codes, factors, n_votes=40, group_size=8))
    found = torch.tensor(scores)
    assert abs(found.mean() - 0.25) < 5 * found.std() / math.sqrt(len(found)) < 0.1


def test_vote_is_reproducible() -> None:
    """eq-beta_vae-vote."""
    factors = _factors(200)
    codes = factors + torch.randn(200, 2)
    first, second = (
        factor_vae_score(codes, factors, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert first == second < 1


# Sprites


def _grid() -> Tensor:
    return torch.cartesian_prod(*(torch.arange(count) for count in SPRITE_FACTORS.values()))


def test_no_two_sprites_are_equal() -> None:
    grid = _grid()
    images = draw_sprites(grid)
    assert images.shape == (6912, 1024)
    assert images.to(torch.uint8).unique(dim=0).shape[0] == len(grid)
    assert set(images.unique().tolist()) == {0.0, 1.0}


def test_sprites_lie_inside_the_image_at_their_places_with_their_areas() -> None:
    size = 128
    grid = _grid()[::7]
    images = draw_sprites(grid, size=size).view(-1, size, size)
    area = images.mean(dim=(1, 2))
    side = 0.24 + 0.14 * grid[:, 1] / 3
    # pixels along the edge are in or out as a whole
    torch.testing.assert_close(area, side.square(), rtol=0.06, atol=0)
    pixel = (torch.arange(size) + 0.5) / size
    for axis, column in ((1, 3), (2, 4)):  # x: mean over rows leaves columns
        mass = images.mean(dim=axis)
        centre = (mass * pixel).sum(dim=1) / mass.sum(dim=1)
        expected = 0.335 + 0.33 * grid[:, column] / 11
        torch.testing.assert_close(centre, expected, rtol=0, atol=0.5 / size)
        assert mass[:, 0].max() == mass[:, -1].max() == 0


def test_shapes_differ_as_their_names_say() -> None:
    size = 200
    factors = torch.tensor([[shape, 3, 0, 6, 6] for shape in range(3)])
    square, ellipse, triangle = draw_sprites(factors, size=size).view(-1, size, size)
    widths = [image.any(dim=0).sum().item() / size for image in (square, ellipse, triangle)]
    heights = [image.any(dim=1).sum().item() / size for image in (square, ellipse, triangle)]
    tolerance = 2 / size
    a = math.sqrt(2 / math.pi)
    edge = 2 / 3**0.25
    expected = [1, 2 * a, edge], [1, a, edge * math.sqrt(3) / 2]
    for found, sides in zip((widths, heights), expected, strict=True):
        for value, side in zip(found, sides, strict=True):
            assert abs(value - 0.38 * side) <= tolerance


def test_orientation_turns_the_sprite() -> None:
    """A square at 67.5° is the mirror image of one at 22.5°."""
    factors = torch.tensor([[0, 3, turn, 0, 0] for turn in (1, 3)])
    size = 96
    one, three = draw_sprites(factors, size=size).view(-1, size, size)
    assert (one - three.T).abs().mean() < 0.01 < (one - three).abs().mean()


def test_factors_are_uniform_and_independent() -> None:
    n = 20_000
    _, factors = sprites(n, size=1)
    for k, count in enumerate(SPRITE_FACTORS.values()):
        shares = torch.bincount(factors[:, k], minlength=count) / n
        assert len(shares) == count
        error = 5 * math.sqrt((1 - 1 / count) / count / n)
        assert (shares - 1 / count).abs().max() < error
    correlation = torch.corrcoef(factors.T.double()) - torch.eye(5)
    assert correlation.abs().max() < 5 / math.sqrt(n)


def test_sprites_are_reproducible_in_every_type() -> None:
    images, factors = sprites(6, generator=torch.Generator().manual_seed(1))
    torch.set_default_dtype(torch.float32)
    again, same = sprites(6, generator=torch.Generator().manual_seed(1))
    assert again.dtype == torch.float32
    assert torch.equal(factors, same)
    assert torch.equal(images, again.double())
    assert torch.equal(images, draw_sprites(factors))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), r"factors must have shape \(N, 5\), got \(3, 4\)"),
        (torch.tensor([[3, 0, 0, 0, 0]]), r"factors must lie below \[3, 4, 4, 12, 12\]"),
        (torch.tensor([[0, 0, -1, 0, 0]]), "and not below 0"),
    ],
)
def test_bad_factors_are_named(factors: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_sprites(factors)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        sprites(0)
    with pytest.raises(ValueError, match="size must be a positive integer, got 0"):
        sprites(3, size=0)
