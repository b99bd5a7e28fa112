"""What the machine can do."""

import pytest
import torch

from fedstyle.hardware import has_fast_bf16


@pytest.mark.parametrize(
    ("able", "fast"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx2": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_fast_only_with_hardware_for_it(able, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert has_fast_bf16(torch.device("cpu")) is fast
    assert has_fast_bf16(torch.device("meta")) is False


def test_bfloat16_on_a_cpu_takes_onednn(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert has_fast_bf16(torch.device("cpu")) is False


def test_bfloat16_on_a_gpu_is_asked_for_without_emulation(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert has_fast_bf16(torch.device("cuda")) is False
