"""aecore.checks.vae: wrong versions with right values, and right ones that are written oddly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aecore.checks import (
    CheckFailed,
    check_arc_point,
    check_correlated_sample,
    check_evidence_error,
    check_free_bits,
    check_full_gaussian_kl,
)


def straight_through(kl: Tensor, floor: float) -> Tensor:
    mean = kl.mean(dim=0)
    return (mean + (mean.clamp(min=floor) - mean).detach()).sum()


def of_items(kl: Tensor, floor: float) -> Tensor:
    return torch.tensor(sum(max(floor, mean.item()) for mean in kl.mean(dim=0)))


def detached_factor(mu: Tensor, scale_tril: Tensor, eps: Tensor) -> Tensor:
    return mu + (scale_tril.detach() @ eps[..., None])[..., 0]


def one_largest(log_w: Tensor) -> Tensor:
    weights = torch.exp(log_w - log_w.max())
    return weights.std(dim=0) / weights.mean(dim=0) / len(log_w) ** 0.5


@pytest.mark.parametrize(
    ("check", "wrong", "message"),
    [
        (check_free_bits, straight_through, "below the floor must get no gradient"),
        (check_free_bits, of_items, "No gradient gets through"),
        (check_correlated_sample, detached_factor, "must reach the mean and the factor"),
        (check_evidence_error, one_largest, "largest log-weight of each example"),
    ],
)
def test_right_values_are_not_enough(check: Callable, wrong: Callable, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        check(wrong)


def kl_in_place(mu: Tensor, scale_tril: Tensor) -> Tensor:
    log_det = 2 * scale_tril.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    scale_tril.square_()
    return 0.5 * (scale_tril.sum(dim=(1, 2)) + mu.square_().sum(dim=1) - mu.shape[1] - log_det)


def sample_in_place(mu: Tensor, scale_tril: Tensor, eps: Tensor) -> Tensor:
    mu += torch.einsum("bij,bj->bi", scale_tril, eps)
    return mu


def free_bits_in_place(kl: Tensor, floor: float) -> Tensor:
    mean = kl.mean(dim=0)
    mean[mean < floor] = floor
    return mean.sum()


def error_from_sample_size(log_w: Tensor) -> Tensor:
    share = log_w.softmax(dim=0)
    n = len(log_w)
    return ((n * share.square().sum(dim=0) - 1) / (n - 1)).sqrt()


def arc_by_rotation(z_0: Tensor, z_1: Tensor, t: float) -> Tensor:
    """Each row alone: rotate in the plane of the ends, and read the weights off."""
    rows = []
    for first, second in zip(z_0, z_1, strict=True):
        plane, _ = torch.linalg.qr(torch.stack([first, second], dim=1))
        ends = torch.nn.functional.normalize(plane.T @ torch.stack([first, second], dim=1), dim=0)
        cross = ends[0, 0] * ends[1, 1] - ends[1, 0] * ends[0, 1]
        angle = t * torch.atan2(cross, ends[:, 0] @ ends[:, 1])
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
        weights = torch.linalg.solve(ends, turn @ ends[:, 0])
        rows.append(torch.stack([first, second], dim=1) @ weights)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("check", "right"),
    [
        (check_full_gaussian_kl, kl_in_place),
        (check_correlated_sample, sample_in_place),
        (check_free_bits, free_bits_in_place),
        (check_evidence_error, error_from_sample_size),
        (check_arc_point, arc_by_rotation),
    ],
)
def test_what_is_right_passes_however_written(check: Callable, right: Callable) -> None:
    check(right)
