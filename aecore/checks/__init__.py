"""Checks of what you write yourself: each tries a function and says which mistake it looks like.

A check takes your function, tries identities and known values on it, returns nothing if all is
well, and raises :class:`~aecore.checks.mistakes.CheckFailed` otherwise. Where the values are
those of a mistake that people often make, the message names it; ``hints=2`` and ``hints=3`` tell
more.
"""

from aecore.checks import contractive, denoising, linear, sparse, vae, vq_vae
from aecore.checks.contractive import (
    check_bernoulli_noise_cost,
    check_contraction_gradient,
    check_largest_stretch,
    check_row_sample_variance,
    check_small_noise_cost,
    check_tanh_penalty,
    check_two_layer_penalty,
)
from aecore.checks.denoising import (
    check_count_denoiser,
    check_masking_shrinkage,
    check_posterior_covariance,
    check_probe_divergence,
    check_stein_risk,
    check_unmasked_mean,
)
from aecore.checks.linear import (
    check_best_linear_decoder,
    check_decoder_singular_values,
    check_learnt_share,
    check_negative_directions,
    check_principal_axes,
    check_saddle_curvature,
    check_weighted_projector,
)
from aecore.checks.mistakes import CheckFailed
from aecore.checks.sparse import (
    check_accelerated_codes,
    check_amortisation_bound,
    check_batch_top_k,
    check_elastic_answer,
    check_group_threshold,
    check_jackknife_kl,
    check_sparsity_gradient,
)
from aecore.checks.vae import (
    check_arc_point,
    check_correlated_sample,
    check_evidence_error,
    check_free_bits,
    check_full_gaussian_kl,
)
from aecore.checks.vq_vae import (
    check_bigram_bits,
    check_codebook_step,
    check_direction_indices,
    check_expected_codes_seen,
    check_gaussian_distortion,
    check_residual_indices,
    check_rotated_gradient,
    check_straight_through_variance,
)

__all__ = [
    "MISTAKES",
    "CheckFailed",
    "check_accelerated_codes",
    "check_amortisation_bound",
    "check_arc_point",
    "check_batch_top_k",
    "check_bernoulli_noise_cost",
    "check_best_linear_decoder",
    "check_bigram_bits",
    "check_codebook_step",
    "check_contraction_gradient",
    "check_correlated_sample",
    "check_count_denoiser",
    "check_decoder_singular_values",
    "check_direction_indices",
    "check_elastic_answer",
    "check_evidence_error",
    "check_expected_codes_seen",
    "check_free_bits",
    "check_full_gaussian_kl",
    "check_gaussian_distortion",
    "check_group_threshold",
    "check_jackknife_kl",
    "check_largest_stretch",
    "check_learnt_share",
    "check_masking_shrinkage",
    "check_negative_directions",
    "check_posterior_covariance",
    "check_principal_axes",
    "check_probe_divergence",
    "check_residual_indices",
    "check_rotated_gradient",
    "check_row_sample_variance",
    "check_saddle_curvature",
    "check_small_noise_cost",
    "check_sparsity_gradient",
    "check_stein_risk",
    "check_straight_through_variance",
    "check_tanh_penalty",
    "check_two_layer_penalty",
    "check_unmasked_mean",
    "check_weighted_projector",
]

# The mistakes that are recognised, by the function they are made in.
MISTAKES = {
    **contractive.MISTAKES,
    **denoising.MISTAKES,
    **linear.MISTAKES,
    **sparse.MISTAKES,
    **vae.MISTAKES,
    **vq_vae.MISTAKES,
}
