"""What every check is made of: known values, and the wrong versions that people write."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CheckFailed", "Mistake", "compare", "recognise", "takes_function"]


class CheckFailed(AssertionError):
    """A function gives a wrong answer; the message says what it looks like."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, for the way through the check helps nobody."""
        return [f"CheckFailed: {self}"]


@dataclass(frozen=True)
class Mistake:
    """A wrong version of a function, and what to tell whoever wrote it.

    Args:
        wrong: The wrong version itself, with the arguments of the right one.
        hints: Up to three hints, each more detailed than the one before. The first names the
            mistake.
    """

    wrong: Callable[..., Tensor]
    hints: tuple[str, ...]

    def message(self, hints: int = 1) -> str:
        """The first hints, and how to see another."""
        lines = ["This looks like a classic:", *self.hints[:hints]]
        if hints < len(self.hints):
            lines.append(f"(For another hint, call the check yourself, with hints={hints + 1}.)")
        return "\n".join(lines)


def takes_function(check: Callable[..., None]) -> Callable[..., None]:
    """Let a check say so where it gets no function, or a number of hints that makes no sense.

    Args:
        check: A check of a function, which it takes first.

    Returns:
        The same check, which looks at its arguments before it starts.
    """

    @functools.wraps(check)
    def wrapped(fn: object, *, hints: int = 1) -> None:
        if not callable(fn):
            raise CheckFailed(
                f"There is no function to check, but {fn!r}: run the cell that defines it first."
            )
        if hints not in (1, 2, 3):
            raise ValueError(f"hints must be 1, 2 or 3, not {hints!r}")
        check(fn, hints=hints)

    return wrapped


def _close(value: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, NaN included: single precision is rounded more."""
    if value.shape != other.shape:
        return False
    rtol, atol = (1e-5, 1e-5) if value.dtype == torch.float32 else (1e-6, 1e-9)
    return torch.allclose(value.to(other.dtype), other, rtol, atol, equal_nan=True)


def recognise(
    value: Tensor, inputs: Mapping[str, object], mistakes: Sequence[Mistake]
) -> Mistake | None:
    """The mistake that gives exactly this value, if one does.

    Args:
        value: What a function returned.
        inputs: The arguments that it was given, by name.
        mistakes: The wrong versions to try on the same arguments.

    Returns:
        The first that gives the value, or None.
    """
    for mistake in mistakes:
        try:
            wrong = mistake.wrong(**inputs)
        except (ValueError, RuntimeError):  # it may not even run on inputs of every shape
            continue
        if _close(value, wrong):
            return mistake
    return None


def compare(
    value: object,
    right: Tensor,
    *,
    inputs: Mapping[str, object],
    mistakes: Sequence[Mistake] = (),
    hints: int = 1,
) -> None:
    """Compare what a function returned with what it should have.

    Args:
        value: What the function returned.
        right: What it should have returned.
        inputs: The arguments that it was given, by name.
        mistakes: The wrong versions to recognise.
        hints: How many hints to give, 1 to 3.

    Raises:
        CheckFailed: If it returned something else.

    Example:
        >>> double = Mistake(lambda x: 2 * x, ("you doubled; the square is a product",))
        >>> x = torch.tensor([3.0])
        >>> compare(2 * x, x * x, inputs={"x": x}, mistakes=[double])
        Traceback (most recent call last):
            ...
        aecore.checks.mistakes.CheckFailed: This looks like a classic:
        you doubled; the square is a product
    """
    if value is None:
        raise CheckFailed("The function returns nothing.")
    if not isinstance(value, Tensor):
        name = type(value).__name__
        raise CheckFailed(f"The function must return a tensor, and it returned a {name}: {value!r}")
    value = value.detach()
    if _close(value, right):
        return
    if mistake := recognise(value, inputs, mistakes):
        raise CheckFailed(mistake.message(hints))
    value = value.to(right.dtype)
    if value.shape != right.shape:
        raise CheckFailed(
            f"The result must have the shape {tuple(right.shape)}, and has {tuple(value.shape)}."
        )
    if not value.isfinite().all():
        raise CheckFailed("The result contains NaN or infinite values.")
    worst = int((value - right).abs().argmax())
    raise CheckFailed(
        f"The values differ, at worst {value.flatten()[worst]:.6g} where "
        f"{right.flatten()[worst]:.6g} is right. No known mistake gives this value."
    )
