"""Named tensors: split, merge, difference, identity, and safetensors on disk.

Everything goes by name and is strict: a missing, extra or reshaped tensor is an error, never a silent skip.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save as _dump
from safetensors.torch import load as _parse
from torch import Tensor

from fedstyle.errors import ParamsError
from fedstyle.files import write_bytes

Params = Mapping[str, Tensor]


def split(params: Params, shares: Callable[[str], bool]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part tensors by name into those that `shares` accepts and the rest."""
    shared = {name: value for name, value in params.items() if shares(name)}
    private = {name: value for name, value in params.items() if name not in shared}
    return shared, private


def merge(*parts: Params) -> dict[str, Tensor]:
    """Join disjoint sets of tensors; a name that stands in two of them raises ParamsError."""
    whole: dict[str, Tensor] = {}
    for part in parts:
        if twice := sorted(whole.keys() & part.keys()):
            raise ParamsError(f"the tensor {twice[0]!r} stands in two parts: split them by name first")
        whole.update(part)
    return whole


def check_alike(params: Params, like: Params, what: str = "parameters") -> None:
    """Raise ParamsError unless both have the same names and shapes and `params` is finite."""
    if missing := sorted(like.keys() - params.keys()):
        raise ParamsError(f"{what}: {len(missing)} tensors are missing, {missing[0]!r} first")
    if extra := sorted(params.keys() - like.keys()):
        raise ParamsError(f"{what}: {len(extra)} tensors are not expected, {extra[0]!r} first")
    for name, value in params.items():
        if value.shape != like[name].shape:
            found, wanted = tuple(value.shape), tuple(like[name].shape)
            raise ParamsError(f"{what}: {name!r} has shape {found}, expected {wanted}")
    if (damaged := infinite(params)) is not None:
        raise ParamsError(f"{what}: {damaged!r} holds a value that is not finite")


def infinite(params: Params) -> str | None:
    """The name of a tensor with a value that is not finite, or None.

    Sums are finite but for such a value, or an overflow; only where they are not is each tensor looked at on its own.
    """
    sums = [value.detach().sum(dtype=torch.float32) for value in params.values()]
    if not sums or math.isfinite(torch.stack(sums).sum()):
        return None
    return next((name for name, value in params.items() if not math.isfinite(largest(value))), None)


def largest(value: Tensor) -> float:
    """The largest magnitude in a tensor, and NaN where there is a NaN; 0 for none. It makes no copy, as abs and isfinite do."""
    low, high = torch.aminmax(value.detach()) if value.numel() else (0.0, 0.0)
    return max(-float(low), float(high))


def subtract(new: Params, old: Params) -> dict[str, Tensor]:
    """The update new - old, tensor by tensor, in fp32."""
    check_alike(new, old, "the update")
    return {name: new[name].float() - old[name].float() for name in sorted(new)}


def add(base: Params, update: Params) -> dict[str, Tensor]:
    """The sum base + update, tensor by tensor, in fp32."""
    check_alike(update, base, "the update")
    return {name: base[name].float() + update[name].float() for name in sorted(base)}


def fingerprint(params: Params) -> str:
    """The SHA-256 over sorted names, types, shapes and bytes (little endian), in hexadecimal; metadata does not count."""
    digest = hashlib.sha256()
    for name in sorted(params):
        value = params[name].detach().cpu()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        if value.dtype == torch.bfloat16:  # which numpy has not
            value = value.view(torch.int16)
        digest.update(np.ascontiguousarray(value.numpy()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def size(params: Params) -> int:
    """The number of bytes that the tensors' values take."""
    return sum(value.numel() * value.element_size() for value in params.values())


def save(params: Params, path: Path) -> None:
    """Write a safetensors file atomically: names sorted, no metadata, so that equal tensors give equal bytes."""
    write_bytes(path, _dump({name: params[name].detach().cpu().contiguous().numpy() for name in sorted(params)}))


def load(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises ParamsError when the file is absent or corrupt, or its bytes do not hash to `sha256`.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ParamsError(f"cannot read {path}: {error.strerror or error}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ParamsError(f"{path} was altered or damaged: its hash is not the recorded one. Make it again, or take a copy")
    try:
        return _parse(content)
    except SafetensorError as error:
        raise ParamsError(f"{path} is no safetensors file, or a damaged one ({error})") from error


SEAL = "sha256"
"""The name of the tensor that holds a sealed file's fingerprint."""


def seal(params: Params) -> dict[str, Tensor]:
    """The tensors and their fingerprint as one more: a file that carries its own hash is replaced, and checked, as a whole."""
    return {**params, SEAL: torch.tensor(list(bytes.fromhex(fingerprint(params))), dtype=torch.uint8)}


def unseal(params: Params, where: Path) -> dict[str, Tensor]:
    """The tensors of a sealed file, without the seal; raises ParamsError when they are not those that were sealed."""
    inside = {name: value for name, value in params.items() if name != SEAL}
    if SEAL not in params or bytes(params[SEAL].tolist()).hex() != fingerprint(inside):
        raise ParamsError(f"{where} was altered or damaged: its tensors do not hash to its seal")
    return inside
