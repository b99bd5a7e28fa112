"""How many threads PyTorch computes on, and threads that end before their process does."""

import subprocess
import sys

import torch

from fedstyle.threads import threads


def test_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


ENDS = """
import sys, threading, time
from fedstyle.threads import before_the_end
stop = threading.Event()

def work():
    while not stop.is_set():
        time.sleep(0.01)
    time.sleep(0.2)  # the work at hand
    print("ended", flush=True)

thread = threading.Thread(target=work, daemon=True)
thread.start()
before_the_end(thread, stop)
"""


def test_a_process_waits_for_the_work_at_hand():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=600, check=True)
    assert (done.stdout, done.stderr) == ("ended\n", "")
