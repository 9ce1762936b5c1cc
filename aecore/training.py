"""Training: one function, one loop, and the history it returns."""

import copy
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from aecore.nn import (
    check_choice,
    check_folder,
    check_positive,
    check_rows,
    check_sizes,
    check_tensor,
)
from aecore.plotting import plot_history

__all__ = ["History", "choose_device", "fit"]

Terms = dict[str, float]
OnEpoch = Callable[[int, nn.Module, Terms], object]


@dataclass
class History:
    """What a training run went through: one entry an epoch.

    Attributes:
        train: Mean of each loss term over the epoch's training examples, measured as they passed.
        valid: Mean of each term over the held-out examples after the epoch; empty without any.
        lr: Learning rate at the end of each epoch.
        seconds: Wall-clock seconds of each epoch.
    """

    train: dict[str, list[float]] = field(default_factory=dict)
    valid: dict[str, list[float]] = field(default_factory=dict)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """Epochs run."""
        return len(self.lr)

    @property
    def best_epoch(self) -> int:
        """Epoch, counted from 1, with the lowest held-out loss, or training loss without any."""
        losses = (self.valid or self.train)["loss"]
        return 1 + min(range(len(losses)), key=losses.__getitem__)

    def plot(self, ax: Axes, terms: Iterable[str] = ("loss",)) -> Axes:
        """Draw the named terms against the epoch, training solid and held-out dashed."""
        return plot_history(ax, self.train, self.valid, terms)


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Resolve ``"auto"`` to the best device present: CUDA, then Apple's MPS, then the CPU.

    Args:
        device: ``"auto"``, or anything ``torch.device`` takes.

    Returns:
        The device.

    Raises:
        ValueError: If the device is unknown or not present on this machine; the message lists
            those that are.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *present]
    if str(device) == "auto":
        return torch.device(present[0])
    check_choice("device", str(device), ("auto", *present))
    return torch.device(device)


def fit(
    model: nn.Module,
    x: Tensor,
    *,
    y: Tensor | None = None,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    schedule: str = "one-cycle",
    transform: Callable[[Tensor], Tensor] | None = None,
    valid: Tensor | tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "float32",
    compile: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
    keep: str = "last",
    progress: bool = True,
) -> History:
    """Train a model in place by minimising the batch mean of its ``loss(x, y)["loss"]``.

    The data are moved to the device once, as one tensor; a batch is a selection of its rows. The
    same arguments on the same machine, device and number of threads give the same weights bit for
    bit, and the caller's random state is left as it was.

    Args:
        model: A module whose ``loss(x, y=None)`` returns named terms of shape ``(B,)``; left on the
            device trained on, in training mode. Its ``after_step()``, where it has one, is called
            after each update.
        x: Training data, shape ``(N, D)``.
        y: Labels, shape ``(N,)``, handed to ``loss``.
        epochs: Passes over the data.
        batch_size: Examples an update; the last batch of an epoch may be smaller.
        lr: Learning rate; the peak of the one-cycle schedule.
        optimizer: Called with the parameters, gives the optimiser (``lr`` is then ignored). By
            default fused Adam.
        schedule: ``"one-cycle"`` (up for 30 % of the steps, then down to almost nothing) or
            ``"constant"``.
        transform: Applied to each training batch on the device: ``torch.bernoulli`` binarises
            afresh at each access. Its randomness is seeded along with everything else.
        valid: Held-out data, ``(M, D)``, or such data with labels; scored after each epoch under
            the same noise each time, untransformed.
        seed: Seed of the order of the examples and of all noise.
        device: ``"auto"`` or a device's name; see :func:`choose_device`.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        compile: Whether to compile the loss with ``torch.compile``.
        checkpoint: A file written after each epoch, from which the same call goes on when its
            process was killed; the end result is the same bit for bit.
        on_epoch: Called as ``on_epoch(epoch, model, terms)`` after each epoch, counted from 1, with
            the epoch's mean terms, held-out ones as ``"valid_loss"`` and so on. A true return value
            stops training. A run taken up from a checkpoint calls it again for its last epoch.
        keep: ``"last"`` weights, or the ``"best"``: those of ``History.best_epoch``.
        progress: Whether to show a progress bar with the running terms, on a terminal only.

    Returns:
        The history of the run.

    Raises:
        ValueError: If an argument is out of range, the data hold NaN or infinities, or lie outside
            [0, 1] for a model of Bernoulli pixels.
        TypeError: If the model's ``loss`` does not keep the contract, the data are no tensors, or
            ``optimizer`` cannot be called.
        FileNotFoundError: If there is no folder for the checkpoint.
        FloatingPointError: If a term stops being finite; the message names epoch, step and term.
    """
    check_sizes(epochs=epochs, batch_size=batch_size)
    check_choice("schedule", schedule, ("one-cycle", "constant"))
    check_choice("precision", precision, ("float32", "bfloat16"))
    check_choice("keep", keep, ("last", "best"))
    check_positive(lr=lr)
    if optimizer is not None and not callable(optimizer):
        got = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
        raise TypeError(
            "optimizer must be a function of the parameters that gives the optimiser, such as "
            f"partial(torch.optim.SGD, lr=0.1), got {got}"
        )
    if checkpoint is not None:
        check_folder("checkpoint", checkpoint)
    _check_data(model, x=x, y=y)
    held_x, held_y = valid if isinstance(valid, tuple) and len(valid) == 2 else (valid, None)
    if held_x is not None:
        _check_data(model, valid=held_x, y=held_y)
        if held_x.shape[1] != x.shape[1]:
            raise ValueError(f"valid must be as wide as x, got {held_x.shape[1]} and {x.shape[1]}")
    place = choose_device(device)
    model.to(place)
    x, y = _move(model, x, y)
    held_out = None if held_x is None else _move(model, held_x, held_y)
    make_optimiser = optimizer or partial(torch.optim.Adam, lr=lr, fused=True)
    optimiser = make_optimiser([p for p in model.parameters() if p.requires_grad])
    n_steps = epochs * math.ceil(len(x) / batch_size)
    run = _Run(model, optimiser, _scheduler(schedule, optimiser, n_steps), seed)
    loss_of = torch.compile(run.model.loss) if compile else run.model.loss
    cast = partial(torch.autocast, place.type, torch.bfloat16, enabled=precision == "bfloat16")
    task = f"{type(model).__name__} on {tuple(x.shape)}, {epochs=} {batch_size=} {lr=} "
    task += f"{schedule=} {seed=} {precision=} {keep=}"
    # disable=None shows the bar on a terminal and nowhere else
    bar = tqdm(total=n_steps, unit="step", disable=None if progress else True)
    with _own_randomness(place, seed), bar:
        if checkpoint is not None and run.load(Path(checkpoint), task):
            bar.update(n_steps // epochs * len(run.history))
            stop = run.report(on_epoch, place)
        else:
            stop = False
        model.train()
        while len(run.history) < epochs and not stop:
            began = time.perf_counter()
            bar.set_description(f"epoch {len(run.history) + 1}/{epochs}")
            train_terms = _train_epoch(run, loss_of, x, y, batch_size, transform, cast, bar)
            valid_terms = _score(model, held_out, seed, cast)
            run.close_epoch(train_terms, valid_terms, time.perf_counter() - began, keep)
            if checkpoint is not None:
                run.save(Path(checkpoint), task)
            stop = run.report(on_epoch, place)
    if keep == "best":
        model.load_state_dict(run.best_weights)
    return run.history


@dataclass
class _Run:
    """All that changes while training, so that it can be written down and taken up again."""

    model: Any
    optimiser: torch.optim.Optimizer
    scheduler: LRScheduler
    seed: int
    history: History = field(default_factory=History)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = torch.Generator().manual_seed(self.seed)

    def close_epoch(self, train: Terms, valid: Terms, seconds: float, keep: str) -> None:
        """Write the epoch into the history, and its weights down if they are the best so far."""
        history = self.history
        for terms, kept in ((train, history.train), (valid, history.valid)):
            for name, value in terms.items():
                kept.setdefault(name, []).append(value)
        history.lr.append(self.optimiser.param_groups[0]["lr"])
        history.seconds.append(seconds)
        if keep == "best" and history.best_epoch == len(history):
            self.best_weights = copy.deepcopy(self.model.state_dict())

    def report(self, on_epoch: OnEpoch | None, place: torch.device) -> bool:
        """Call ``on_epoch`` for the last epoch, its randomness kept apart; whether to stop."""
        if on_epoch is None:
            return False
        terms = {name: values[-1] for name, values in self.history.train.items()}
        terms |= {f"valid_{name}": values[-1] for name, values in self.history.valid.items()}
        with _own_randomness(place, self.seed):
            stop = bool(on_epoch(len(self.history), self.model, terms))
        self.model.train()
        return stop

    def save(self, path: Path, task: str) -> None:
        """Write everything to ``path``, whole or not at all."""
        state = {
            "task": task,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": asdict(self.history),
            "best_weights": self.best_weights,
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            whole = Path(folder, path.name)
            torch.save(state, whole)
            whole.replace(path)

    def load(self, path: Path, task: str) -> bool:
        """Take up the run that ``path`` holds, if there is one; whether there was."""
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state["task"]
        except Exception as error:  # torch.load raises nearly anything on a foreign file
            raise ValueError(f"checkpoint {str(path)!r} is no checkpoint of fit") from error
        if found != task:
            raise ValueError(
                f"checkpoint {str(path)!r} is of another run ({found}), this one asks for {task}; "
                "name another file or delete it"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = History(**state["history"])
        self.best_weights = state["best_weights"]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        return True


def _train_epoch(
    run: _Run,
    loss_of: Callable[..., dict[str, Tensor]],
    x: Tensor,
    y: Tensor | None,
    batch_size: int,
    transform: Callable[[Tensor], Tensor] | None,
    cast: Callable[[], AbstractContextManager[Any]],
    bar: "tqdm[Any]",
) -> Terms:
    """One pass over the data; the mean of each term over all examples."""
    log: list[Tensor] = []  # sums of each step's terms, left on the device until the end
    names: list[str] = []
    order = torch.randperm(len(x), generator=run.order).to(x.device)
    refresh = max(1, len(x) // batch_size // 10)
    for step, rows in enumerate(order.split(batch_size), start=1):
        batch = x[rows] if transform is None else transform(x[rows])
        with cast():
            terms = loss_of(batch, None if y is None else y[rows])
        if not names:
            _check_terms(terms, len(rows))
            names = list(terms)
        run.optimiser.zero_grad(set_to_none=True)
        terms["loss"].mean().backward()
        run.optimiser.step()
        run.scheduler.step()
        if hasattr(run.model, "after_step"):
            run.model.after_step()
        log.append(torch.stack([terms[name].detach().sum() for name in names]))
        bar.update()
        if not bar.disable and step % refresh == 0:
            means = (log[-1] / len(rows)).tolist()
            bar.set_postfix({name: f"{mean:.4g}" for name, mean in zip(names, means, strict=True)})
    sums = torch.stack(log).cpu().double()
    _stop_if_not_finite(sums, names, len(run.history) + 1)
    return dict(zip(names, (sums.sum(dim=0) / len(x)).tolist(), strict=True))


@torch.no_grad()
def _score(
    model: Any,
    held_out: tuple[Tensor, Tensor | None] | None,
    seed: int,
    cast: Callable[[], AbstractContextManager[Any]],
) -> Terms:
    """Mean of each term over all held-out examples, under the same noise at each call."""
    if held_out is None:
        return {}
    x, y = held_out
    sums: dict[str, Tensor] = {}
    model.eval()
    with _own_randomness(x.device, seed):
        for rows in torch.arange(len(x), device=x.device).split(1024):
            with cast():
                terms = model.loss(x[rows], None if y is None else y[rows])
            for name, term in terms.items():
                sums[name] = term.sum() + sums.get(name, 0)
    model.train()
    return {name: total.item() / len(x) for name, total in sums.items()}


def _scheduler(schedule: str, optimiser: torch.optim.Optimizer, n_steps: int) -> LRScheduler:
    if schedule == "constant":
        return LambdaLR(optimiser, lambda step: 1.0)
    peaks = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, peaks, total_steps=n_steps, cycle_momentum=False)


@contextmanager
def _own_randomness(place: torch.device, seed: int) -> Iterator[None]:
    """Seed torch inside the block, and leave the caller's random state as it was."""
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _move(model: nn.Module, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The data on the model's device, in its floating-point type."""
    like = next(model.parameters())
    return x.to(like), None if y is None else y.to(like.device)


def _check_data(model: nn.Module, *, y: Tensor | None, **named: Tensor) -> None:
    """Values are validated here once, so that the functions below need not at each step."""
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be an instance of torch.nn.Module, got {got}")
    ((name, x),) = named.items()
    check_rows(name, x)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {x.dtype}")
    if 0 in x.shape:
        raise ValueError(f"{name} must have shape (N, D) with N, D ≥ 1, got {tuple(x.shape)}")
    if not (finite := x.isfinite()).all():
        raise ValueError(f"{name} must be finite, got {(~finite).sum()} NaN or infinite values")
    low, high = x.aminmax()
    if getattr(model, "likelihood", None) == "bernoulli" and (low < 0 or high > 1):
        raise ValueError(
            f"{name} must lie in [0, 1] for a Bernoulli likelihood, got [{low:.4g}, {high:.4g}]"
        )
    if y is not None:
        check_tensor("y", y)
        if len(y) != len(x):
            raise ValueError(
                f"y must have as many labels as {name} rows, got {len(y)} and {len(x)}"
            )


def _check_terms(terms: dict[str, Tensor], n: int) -> None:
    if not isinstance(terms, dict) or "loss" not in terms:
        raise TypeError('model.loss(x, y) must return a dict of tensors with the key "loss"')
    for name, term in terms.items():
        if term.shape != (n,):
            raise TypeError(
                f"model.loss(x, y)[{name!r}] must hold one number an example, shape ({n},), "
                f"got {tuple(term.shape)}: fit takes the mean over the batch, nothing else does"
            )


def _stop_if_not_finite(sums: Tensor, names: list[str], epoch: int) -> None:
    """``sums`` holds a row a step and a column a term."""
    bad = ~sums.isfinite()
    if bad.any():
        step = int(bad.any(dim=1).nonzero()[0])
        guilty = [name for name, is_bad in zip(names, bad[step].tolist(), strict=True) if is_bad]
        # the named terms before their sum: the total is non-finite because one of them is
        guilty.sort(key=lambda name: name == "loss")
        values = ", ".join(f"{name} = {sums[step, names.index(name)]}" for name in guilty)
        raise FloatingPointError(
            f"training diverged in epoch {epoch}, step {step + 1}: {values}; "
            "try a lower lr, and look at the data's scale"
        )
