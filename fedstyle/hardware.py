"""What the machine is and can do; of kinds, and nothing that names this machine or its user."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are fast on this device; without hardware support they are hundreds of times slower than fp32.

    On a CPU they also take oneDNN, which torch for macOS comes without.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able: Mapping[str, object] = torch.cpu.get_capabilities()
        there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # it has no types
        return there and bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
    return False


def describe() -> dict[str, Any]:
    """What a run ran on, for its record: system, processor, cores that this process may use, memory in GB of 10^9 bytes, and accelerator.

    What is not told is None.
    """
    return {
        "system": platform.system(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory(),
        "accelerator": _accelerator(),
    }


def peak_memory() -> int | None:
    """The most bytes that this process held at once, or None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else 1024 * most


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named[0] if named else "") or platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _accelerator() -> str | None:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "Apple GPU" if torch.backends.mps.is_available() else None
