"""fedstyle.heap."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from fedstyle.heap import keep_heap

PROGRAM = """
import resource, torch
from fedstyle.heap import keep_heap
keep_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(20):
    if turn == 14:
        before = faults()
    torch.empty(2**22).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(not keep_heap(), reason="only glibc on Linux can be asked")
def test_blocks_that_come_again_are_not_fetched_anew() -> None:
    # 2^22 floats are 16 MB or 4,096 pages of 4 kB: six fresh blocks would be 24,576 pages.
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 6 * 2**24 / resource.getpagesize() / 10


def test_it_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_heap.__wrapped__() is False
