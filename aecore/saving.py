"""Models in files: safetensors with the class and its arguments in the header, never pickle."""

import inspect
import json
import os
import pkgutil
import tempfile
from importlib import import_module
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

import aecore.models
from aecore.nn import check_folder

__all__ = ["load_model", "save"]


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model of ``aecore.models`` to a safetensors file, whole or not at all.

    Args:
        model: A model whose constructor's arguments are attributes of the same names.
        path: The file, replaced if it exists.

    Raises:
        TypeError: If the model's class is not a public one of ``aecore.models``, or an argument is
            a tensor.
        FileNotFoundError: If there is no folder for the file.
    """
    cls = type(model)
    if _classes().get(_name(cls)) is not cls:
        raise TypeError(
            f"model must be an instance of a class of aecore.models, got {_name(cls)}, which "
            "load_model does not know; keep the state_dict of a class of your own by torch.save"
        )
    check_folder("path", path)
    names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    arguments = {name: getattr(model, name) for name in names}
    try:
        header = {"class": _name(cls), "arguments": json.dumps(arguments)}
    except TypeError as error:
        raise TypeError(
            f"model's arguments must be plain numbers and words to be saved, got {arguments}; "
            "set anew what is not, as in model.lam = float(model.lam)"
        ) from error
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        whole = Path(folder, path.name)
        safetensors.torch.save_file(tensors, whole, metadata=header)
        whole.replace(path)


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Read a model written by :func:`save`, on the CPU, in training mode as when constructed.

    Args:
        path: The file.

    Returns:
        The model, of the class named in the file's header, in the floating-point type saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of ours, or names a class outside ``aecore.models``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path {str(path)!r} is no file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"path {str(path)!r} is no whole safetensors file: {error}") from error
    cls = _classes().get(header.get("class", ""))
    if cls is None:
        raise ValueError(
            f"path {str(path)!r} names the class {header.get('class')!r}; expected one of "
            + ", ".join(sorted(_classes()))
        )
    model = cls(**json.loads(header["arguments"]))
    floating = next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
    model.to(floating).load_state_dict(tensors)
    return model


def _classes() -> dict[str, type[nn.Module]]:
    """The public model classes by full name; nothing else is ever looked up."""
    found = {}
    for info in pkgutil.iter_modules(aecore.models.__path__, "aecore.models."):
        module = import_module(info.name)
        for name in module.__all__:
            if inspect.isclass(cls := getattr(module, name)) and issubclass(cls, nn.Module):
                found[_name(cls)] = cls
    return found


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
