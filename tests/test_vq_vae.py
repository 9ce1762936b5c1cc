"""Identities of aecore.models.vq_vae; derivations in book/vq_vae.md."""

import math
import warnings
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from aecore import load_model, save
from aecore.losses import bernoulli_nll, squared_error
from aecore.models.vq_vae import (
    VQVAE,
    CodePrior,
    centroids,
    kmeans,
    nearest_code,
    perplexity,
    straight_through,
)
from aecore.training import fit

SMALL = {"shape": (1, 4, 6), "n_latents": 3, "n_codes": 5, "channels": (4,)}  # a grid of 2 × 3


def blobs(n: int = 200) -> tuple[Tensor, Tensor]:
    """Points close to four corners, and the corners."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    return corners.repeat(n // 4, 1) + 0.1 * torch.randn(n, 2), corners


# Cells


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4)])
def test_nearest_code_is_the_least_distance(shape: tuple[int, ...]) -> None:
    """eq-vq_vae-nearest."""
    h, codes = torch.randn(*shape, 3), torch.randn(6, 3)

    indices = nearest_code(h, codes)

    assert indices.shape == shape
    assert indices.dtype == torch.int64
    distance = (h[..., None, :] - codes).square().sum(dim=-1)
    assert torch.equal(indices, distance.argmin(dim=-1))


def test_quantising_twice_changes_nothing() -> None:
    """eq-vq_vae-nearest: a code is its own nearest code."""
    codes = torch.randn(6, 3)

    indices = nearest_code(torch.randn(40, 3), codes)

    assert torch.equal(nearest_code(codes[indices], codes), indices)
    assert torch.equal(nearest_code(codes, codes), torch.arange(6))


def test_cells_are_convex() -> None:
    """eq-vq_vae-nearest: between two points of one cell lies that cell."""
    codes = torch.randn(5, 2)
    a, b = torch.randn(2, 3000, 2)
    same = nearest_code(a, codes) == nearest_code(b, codes)
    a, b = a[same], b[same]

    between = torch.lerp(a, b, torch.rand(len(a), 1))

    assert len(a) > 100
    assert torch.equal(nearest_code(between, codes), nearest_code(a, codes))


def test_centroids_are_means_and_empty_cells_stay() -> None:
    """eq-vq_vae-centroid."""
    h, codes = torch.randn(50, 2), torch.randn(4, 2)
    codes[3] = 100.0  # nothing is near
    indices = nearest_code(h, codes)
    sums = torch.stack([h[indices == k].sum(dim=0) for k in range(4)])
    counts = torch.bincount(indices, minlength=4).double()

    found = centroids(sums, counts, codes)

    for k in range(3):
        torch.testing.assert_close(found[k], h[indices == k].mean(dim=0))
    assert torch.equal(found[3], codes[3])
    torch.testing.assert_close(centroids(0.01 * sums, 0.01 * counts, codes), found)


def test_a_centroid_minimises_its_cells_distortion() -> None:
    """eq-vq_vae-centroid."""
    h = torch.randn(30, 2)
    mean = centroids(h.sum(dim=0)[None], torch.tensor([30.0]), torch.zeros(1, 2))
    mean.requires_grad_()

    (slope,) = grad((h - mean).square().sum(), mean)

    torch.testing.assert_close(slope, torch.zeros(1, 2), rtol=0.0, atol=1e-12)


def test_lloyds_steps_never_raise_the_distortion() -> None:
    """eq-vq_vae-lloyd."""
    points = torch.randn(300, 2)
    distortions = []
    for n_steps in range(8):
        generator = torch.Generator().manual_seed(1)  # the same start each time
        codes = kmeans(points, 7, n_steps=n_steps, generator=generator)
        q = codes[nearest_code(points, codes)]
        distortions.append((points - q).square().sum().item())

    assert all(b <= a for a, b in pairwise(distortions))
    assert distortions[-1] < 0.9 * distortions[0]


def test_kmeans_finds_clusters_and_leaves_none_out() -> None:
    """eq-vq_vae-lloyd: from whatever start; four points at random often miss a cluster."""
    points, corners = blobs()
    expected = torch.stack([points[k::4].mean(dim=0) for k in range(4)])
    for seed in range(10):
        codes = kmeans(points, 4, generator=torch.Generator().manual_seed(seed))

        order = nearest_code(corners, codes)
        assert order.unique().numel() == 4
        torch.testing.assert_close(codes[order], expected)


def test_kmeans_goes_on_where_points_coincide() -> None:
    """eq-vq_vae-lloyd: blank patches have one and the same encoder output."""
    points = torch.tensor([[0.0], [1.0]]).repeat(10, 1)

    codes = kmeans(points, 5)

    assert codes.isfinite().all()
    assert set(codes.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_perplexity_counts_equally_used_codes(k: int) -> None:
    """eq-vq_vae-perplexity."""
    counts = torch.tensor([3.0] * k + [0.0] * (6 - k))

    torch.testing.assert_close(perplexity(counts).item(), float(k))
    torch.testing.assert_close(perplexity(counts / 7), perplexity(counts))


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    """eq-vq_vae-perplexity."""
    p = torch.rand(9).softmax(dim=0)

    entropy = torch.distributions.Categorical(p).entropy()

    torch.testing.assert_close(perplexity(p), entropy.exp())


# Gradients


def test_straight_through_has_the_codes_value_and_the_identity_as_jacobian() -> None:
    """eq-vq_vae-straight-through."""
    h = torch.randn(4, 3, requires_grad=True)
    codes = torch.randn(6, 3, requires_grad=True)
    q = codes[nearest_code(h, codes)]
    upstream = torch.randn(4, 3)

    out = straight_through(h, q)
    d_h, d_codes = grad(out, (h, codes), upstream, materialize_grads=True)

    torch.testing.assert_close(out, q)
    assert torch.equal(d_h, upstream)
    assert torch.equal(d_codes, torch.zeros(6, 3))


def terms_by_hand(model: VQVAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder outputs, their codes, and what the decoder makes of the codes."""
    h = model.features(x)
    distance = (h.detach()[..., None, :] - model.codes).square().sum(dim=-1)
    q = model.codes[distance.argmin(dim=-1)]
    return h, q, model.decode(distance.argmin(dim=-1))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("codebook", ["gradient", "moving average"])
def test_loss_terms_are_sums_an_example(likelihood: str, codebook: str) -> None:
    """eq-vq_vae-objective."""
    model = VQVAE(**SMALL, likelihood=likelihood, codebook=codebook, beta=0.4)
    x = torch.rand(7, 24)
    h, q, out = terms_by_hand(model, x)

    terms = model.loss(x)

    distance = bernoulli_nll if likelihood == "bernoulli" else squared_error
    squared = (h - q).square().flatten(start_dim=1).sum(dim=1)
    moved = squared if codebook == "gradient" else 0 * squared
    torch.testing.assert_close(terms["reconstruction"], distance(out, x))
    torch.testing.assert_close(terms["commitment"], squared)
    torch.testing.assert_close(terms["codebook"], moved)
    torch.testing.assert_close(terms["loss"], distance(out, x) + moved + 0.4 * squared)


def test_each_term_moves_what_it_should() -> None:
    """eq-vq_vae-objective: codebook term the codes, commitment the encoder, neither both."""
    model = VQVAE(**SMALL)
    x = torch.rand(7, 24)
    parts = {
        "codes": [model.codes],
        "encoder": [*model.encoder.parameters(), *model.to_code.parameters()],
        "decoder": [*model.from_code.parameters(), *model.decoder.parameters()],
    }
    moved = {}
    for term in ("reconstruction", "codebook", "commitment"):
        total = model.loss(x)[term].sum()
        moved[term] = {
            part
            for part, weights in parts.items()
            if any(
                slope.abs().sum() > 0
                for slope in grad(total, weights, retain_graph=True, materialize_grads=True)
            )
        }

    assert moved["reconstruction"] == {"encoder", "decoder"}
    assert moved["codebook"] == {"codes"}
    assert moved["commitment"] == {"encoder"}


def test_the_codebook_terms_gradient_points_from_the_centroid() -> None:
    """eq-vq_vae-objective, eq-vq_vae-centroid: 2 n_k (e_k - mean of the cell)."""
    model = VQVAE(**SMALL)
    x = torch.rand(20, 24)

    (slope,) = grad(model.loss(x)["codebook"].sum(), model.codes)

    h = model.features(x).detach().reshape(-1, 3)
    indices = model.encode(x).flatten()
    for k in range(5):
        mine = h[indices == k]
        expected = 2 * (len(mine) * model.codes[k] - mine.sum(dim=0))
        torch.testing.assert_close(slope[k], expected)


def test_the_encoders_gradient_is_that_at_the_codes() -> None:
    """eq-vq_vae-straight-through."""
    model = VQVAE(**SMALL)
    x = torch.rand(3, 24)
    h = model.features(x)
    q = model.codes[nearest_code(h, model.codes)].detach().requires_grad_()
    weights = list(model.encoder.parameters())

    (at_q,) = grad(bernoulli_nll(model.decode_vectors(q), x).sum(), q)
    expected = grad(h, weights, at_q)

    found = grad(model.loss(x)["reconstruction"].sum(), weights)
    torch.testing.assert_close(found, expected)


# Moving averages


def averages_model(**arguments: object) -> VQVAE:
    model = VQVAE(**SMALL, codebook="moving average", **arguments)
    model.codes.copy_(torch.randn(5, 3))
    return model


def batch(model: VQVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts of a batch under the model's codes as they are."""
    h, indices = model.features(x).detach().reshape(-1, 3), model.encode(x).flatten()
    sums = torch.stack([h[indices == k].sum(dim=0) for k in range(5)])
    return sums, torch.bincount(indices, minlength=5).double()


def test_moving_averages_weigh_batches_by_age() -> None:
    """eq-vq_vae-moving-average, eq-vq_vae-bias-correction."""
    model = averages_model(decay=0.8)
    history = []
    for _ in range(4):
        x = torch.rand(9, 24)
        history.append(batch(model, x))
        model.loss(x)
        model.after_step()

    weights = torch.tensor([0.2 * 0.8 ** (3 - t) for t in range(4)])
    sums = sum(w * s for w, (s, _) in zip(weights, history, strict=True))
    counts = sum(w * n for w, (_, n) in zip(weights, history, strict=True))
    used = counts > 0
    torch.testing.assert_close(model.codes[used], (sums / counts[:, None])[used])
    torch.testing.assert_close(weights.sum().item(), 1 - 0.8**4)
    torch.testing.assert_close(model.usage(), counts / (1 - 0.8**4))


def test_a_moving_average_is_a_step_to_the_batchs_mean() -> None:
    """eq-vq_vae-moving-average: online k-means, at the rate (1 - decay) n / N."""
    model = averages_model(decay=0.8)
    for _ in range(2):
        before, x = model.codes.clone(), torch.rand(9, 24)
        sums, n = batch(model, x)
        model.loss(x)
        model.after_step()
    used = n > 0

    rate = (0.2 * n / model.counts)[used, None]
    expected = before[used] + rate * ((sums / n[:, None])[used] - before[used])
    torch.testing.assert_close(model.codes[used], expected)


def test_the_first_step_leaves_unused_codes_where_they_were() -> None:
    """eq-vq_vae-bias-correction: no code shoots off, and a used one lands on its mean."""
    model = averages_model(decay=0.99)
    model.codes[2] = 50.0
    before, x = model.codes.clone(), torch.rand(9, 24)
    sums, counts = batch(model, x)

    model.loss(x)
    model.after_step()

    unused = counts == 0
    assert unused[2]
    assert torch.equal(model.codes[unused], before[unused])
    torch.testing.assert_close(model.codes[~unused], (sums / counts[:, None])[~unused])
    torch.testing.assert_close(model.usage(), counts)


def test_usage_does_not_depend_on_how_many_steps_there_were() -> None:
    """eq-vq_vae-bias-correction: constant counts have themselves as average."""
    model = VQVAE(**SMALL)
    x = torch.rand(9, 24)
    counts = batch(model, x)[1]
    for _ in range(3):
        model.loss(x)
        model.after_step()
        torch.testing.assert_close(model.usage(), counts)


def test_evaluation_leaves_the_averages_alone() -> None:
    """eq-vq_vae-moving-average."""
    model = averages_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    model.loss(torch.rand(9, 24))
    model.after_step()

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("codebook", ["gradient", "moving average"])
def test_revival_puts_unused_codes_among_the_encoders_outputs(codebook: str) -> None:
    """eq-vq_vae-moving-average: and they stay there until vectors choose them."""
    model = VQVAE(**SMALL, codebook=codebook, revive=0.1)
    with torch.no_grad():
        model.codes[3:] = 100.0
    x = torch.rand(9, 24)
    for _ in range(10):
        model.loss(x)
        model.after_step()

    h = model.features(x).reshape(-1, 3)
    for k in (3, 4):
        assert (h - model.codes[k]).square().sum(dim=1).min() < 1e-20
    if codebook == "moving average":
        revived = centroids(model.sums, model.counts, model.codes)
        torch.testing.assert_close(revived, model.codes)


def test_start_codebook_is_kmeans_of_the_encoders_outputs() -> None:
    """eq-vq_vae-lloyd."""
    model, x = VQVAE(**SMALL), torch.rand(30, 24)

    model.start_codebook(x, torch.Generator().manual_seed(2))

    points = model.features(x).detach().reshape(-1, 3)
    expected = kmeans(points, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model.codes.detach(), expected)
    assert model.encode(x).unique().numel() == 5


# Collapse, told by name


def test_a_collapsed_codebook_is_reported_once() -> None:
    """eq-vq_vae-perplexity."""
    model = VQVAE(**SMALL | {"n_codes": 32})
    with torch.no_grad():
        model.codes[1:] = 100.0
    with pytest.warns(RuntimeWarning, match=r"collapsed, perplexity 1\.0 of n_codes = 32") as all_:
        fit(model, torch.rand(60, 24), epochs=60, batch_size=20, lr=1e-6, device="cpu")

    assert len(all_) == 1


def test_a_healthy_codebook_is_not_reported() -> None:
    """eq-vq_vae-perplexity."""
    model = VQVAE(**SMALL, codebook="moving average", revive=0.1)
    x = torch.rand(200, 24)
    model.start_codebook(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, x, epochs=15, batch_size=50, device="cpu")


def test_too_few_vectors_to_judge_by_are_not_reported() -> None:
    """eq-vq_vae-perplexity: six vectors a batch cannot show 640 codes."""
    model = VQVAE(**SMALL | {"n_codes": 640}, decay=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, torch.rand(60, 24), epochs=1, batch_size=1, device="cpu")


def test_loss_reports_the_batchs_perplexity() -> None:
    """eq-vq_vae-perplexity."""
    model, x = VQVAE(**SMALL), torch.rand(9, 24)
    counts = torch.bincount(model.encode(x).flatten(), minlength=5).double()

    found = model.loss(x)["perplexity"]

    torch.testing.assert_close(found, perplexity(counts).expand(9))
    assert not found.requires_grad


# The prior


def small_prior(**arguments: object) -> CodePrior:
    return CodePrior(n_codes=3, grid=(2, 2), channels=4, **arguments)


@pytest.mark.parametrize(("grid", "kernel_size"), [((4, 4), 7), ((3, 5), 3), ((1, 6), 5)])
def test_changing_an_index_never_changes_logits_there_or_before(
    grid: tuple[int, int], kernel_size: int
) -> None:
    """eq-vq_vae-chain-rule."""
    prior = CodePrior(n_codes=4, grid=grid, channels=6, kernel_size=kernel_size)
    n = math.prod(grid)
    indices = torch.randint(4, (1, *grid))
    before = prior.logits(indices).reshape(n, 4)
    felt = torch.zeros(n, n, dtype=torch.bool)
    for j in range(n):
        changed = indices.flatten().clone()
        changed[j] = (changed[j] + 1) % 4
        after = prior.logits(changed.reshape(1, *grid)).reshape(n, 4)
        felt[j] = (after != before).any(dim=1)

    assert not felt.tril().any()
    assert felt[0, 1:].any()
    if kernel_size >= 2 * max(grid) - 1:
        assert felt.triu(1).sum() == n * (n - 1) // 2  # and every later one


def test_probabilities_of_all_grids_sum_to_one() -> None:
    """eq-vq_vae-chain-rule."""
    prior = small_prior()
    with torch.no_grad():
        prior.place.normal_()
    every = torch.tensor(list(product(range(3), repeat=4))).reshape(-1, 2, 2)

    total = prior.log_prob(every).exp().sum()

    assert len(every) == 81
    torch.testing.assert_close(total.item(), 1.0)


def test_loss_is_minus_the_log_probability() -> None:
    """eq-vq_vae-chain-rule."""
    prior = small_prior()
    indices = torch.randint(3, (6, 2, 2))
    log_p = prior.logits(indices).log_softmax(dim=-1)
    expected = [
        -sum(log_p[b, i, j, indices[b, i, j]] for i in range(2) for j in range(2)) for b in range(6)
    ]

    terms = prior.loss(indices.flatten(start_dim=1).double())

    torch.testing.assert_close(terms["loss"], torch.stack(expected))
    torch.testing.assert_close(terms["rate"], terms["loss"])


def test_samples_have_the_priors_probabilities() -> None:
    """eq-vq_vae-chain-rule."""
    prior = small_prior()
    with torch.no_grad():
        prior.place.normal_()
    every = torch.tensor(list(product(range(3), repeat=4)))
    p = prior.log_prob(every.reshape(-1, 2, 2)).exp().detach()
    n = 20_000

    drawn = prior.sample(n, torch.Generator().manual_seed(1)).reshape(n, 4)

    number = (drawn * torch.tensor([27, 9, 3, 1])).sum(dim=1)
    frequency = torch.bincount(number, minlength=81) / n
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


def test_the_prior_learns_what_indices_tell_of_one_another() -> None:
    """eq-vq_vae-chain-rule: two bits where the marginals have four."""
    left = torch.randint(2, (400, 2, 1))
    indices = left.expand(400, 2, 2).flatten(start_dim=1).double()  # right column = left one
    prior = CodePrior(n_codes=2, grid=(2, 2), channels=8)

    fit(prior, indices, epochs=10, batch_size=50, lr=1e-2, device="cpu")

    rate = prior.loss(indices)["rate"].mean().item() / math.log(2)
    assert 1.9 < rate < 2.2


# Files and errors


@pytest.mark.parametrize("codebook", ["gradient", "moving average"])
def test_saving_keeps_codes_and_averages(codebook: str, tmp_path: Path) -> None:
    """eq-vq_vae-moving-average."""
    model = VQVAE(**SMALL, codebook=codebook, decay=0.9)
    fit(model, torch.rand(40, 24), epochs=2, batch_size=10, device="cpu")

    save(model, tmp_path / "vq_vae.safetensors")
    again = load_model(tmp_path / "vq_vae.safetensors")

    state = again.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    torch.testing.assert_close(again.usage(), model.usage())
    assert (again.codebook, again.decay) == (codebook, 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_codes": 1}, "n_codes must be at least 2: one code says nothing, got 1"),
        ({"n_codes": 0}, "n_codes must be a positive integer, got 0"),
        ({"n_latents": 0}, "n_latents must be a positive integer, got 0"),
        ({"shape": (28, 28)}, r"shape must be three positive integers .*got \(28, 28\)"),
        ({"channels": ()}, r"channels must be a tuple of one or more .*, got \(\)"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'; got 'poi"),
        ({"codebook": "ema"}, "codebook must be one of 'gradient', 'moving average'; got 'ema'"),
        ({"beta": 0.0}, r"beta must be finite and positive, got 0\.0"),
        ({"beta": math.nan}, "beta must be finite and positive, got nan"),
        ({"decay": 1.0}, r"decay must lie in \(0, 1\), got 1\.0"),
        ({"revive": -0.1}, r"revive must lie in \[0, 1\), got -0\.1; 0 is never"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    """eq-vq_vae-objective."""
    with pytest.raises(ValueError, match=message):
        VQVAE(**SMALL | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_codes": 1}, "n_codes must be at least 2, got 1"),
        ({"grid": (4,)}, r"grid must be two positive integers \(H', W'\), got \(4,\)"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"n_layers": 0}, "n_layers must be a positive integer, got 0"),
    ],
)
def test_bad_arguments_of_the_prior_are_named(arguments: dict[str, object], message: str) -> None:
    """eq-vq_vae-chain-rule."""
    with pytest.raises(ValueError, match=message):
        CodePrior(**{"n_codes": 3, "grid": (2, 2)} | arguments)


def test_bad_indices_are_named() -> None:
    """eq-vq_vae-objective, eq-vq_vae-chain-rule."""
    model, prior = VQVAE(**SMALL), small_prior()
    with pytest.raises(ValueError, match=r"indices must lie in 0 to 4, got 0 to 5"):
        model.decode(torch.arange(6).reshape(1, 2, 3))
    with pytest.raises(ValueError, match=r"indices must lie in 0 to 4, got -1 to 0"):
        model.decode(torch.tensor([[[-1, 0, 0], [0, 0, 0]]]))
    with pytest.raises(ValueError, match=r"indices must have shape \(B, 2, 3\), got \(1, 3, 2\)"):
        model.decode(torch.zeros(1, 3, 2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"indices must be whole numbers, got torch\.float64"):
        model.decode(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"indices must lie in 0 to 2, got 0 to 3"):
        prior.log_prob(torch.arange(4).reshape(1, 2, 2))
    with pytest.raises(ValueError, match=r"x must hold indices, got numbers that are not whole"):
        prior.loss(torch.full((1, 4), 0.5))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(1, 5\)"):
        prior.loss(torch.zeros(1, 5))


def test_bad_shapes_are_named() -> None:
    """eq-vq_vae-nearest, eq-vq_vae-lloyd."""
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 24\), got \(3, 25\)"):
        VQVAE(**SMALL).loss(torch.rand(3, 25))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 3\), got \(2, 4\)"):
        nearest_code(torch.zeros(2, 4), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"points must be at least n_codes = 5, got 4"):
        kmeans(torch.zeros(4, 2), 5)
