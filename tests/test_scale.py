"""Many clients on one machine: memory and disk do not grow with rounds, and a round costs what its cohort costs."""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import flower_fakes as fakes
import pytest

from fedstyle.base import Base
from fedstyle.client import Client
from fedstyle.config import Config, Server, Training
from fedstyle.flower.engine import run_federation
from fedstyle.net import is_norm
from fedstyle.style import Style

ROOT = Path(__file__).parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says there what a process holds")


def measure(folder, clients, cohort, rounds):
    """What tests/scale_run.py says of such a run."""
    command = [sys.executable, str(ROOT / "tests" / "scale_run.py"), str(folder), *map(str, (clients, cohort, rounds))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_proc
@pytest.mark.soak
def test_memory_and_disk_of_a_few_clients_are_bounded(tmp_path):
    found = measure(tmp_path, clients=20, cohort=0, rounds=6)
    assert found["homes"] == 20
    assert found["memory"][-1] <= 1.05 * found["memory"][1]  # [0] is before the first round
    assert found["largest_home"] < 2e6


@needs_proc
@pytest.mark.soak
def test_1000_clients_for_20_rounds(tmp_path):
    found = measure(tmp_path, clients=1000, cohort=0, rounds=20)
    assert found["homes"] == 1000
    assert found["memory"][-1] <= 1.05 * found["memory"][1]
    assert found["largest_home"] < 2e6


@needs_proc
@pytest.mark.soak
def test_10000_registered_clients_of_whom_50_are_asked(tmp_path):
    found = measure(tmp_path, clients=10_000, cohort=50, rounds=20)
    assert found["homes"] == 10_000
    assert found["memory"][-1] <= 1.05 * found["memory"][1]
    each = [b - a for a, b in itertools.pairwise(found["seconds"][1:])]
    assert statistics.median(each) < 10  # a round costs what 50 clients cost


@dataclasses.dataclass(frozen=True)
class Idle:
    """A method that trains nothing, and keeps as much as one with Adam: what is left of a client's round is the framework's."""

    def shares(self, name):
        return not is_norm(name)

    def fit(self, net, task, memory):
        for name, value in net.named_parameters():
            memory |= {f"adam/{moment}/{name}": value.detach().clone() for moment in ("exp_avg", "exp_avg_sq")}
        return iter(())


@dataclasses.dataclass(frozen=True)
class Idlers:
    folder: Path
    clients: tuple = ()

    def home(self, partition):
        return self.folder / f"{partition}"

    def __call__(self, partition):
        return self.clients[partition]


@pytest.mark.soak
def test_framework_overhead_of_a_client_and_round_stays_small(tmp_path, photo_folder, style_image):
    """A guard against growth: the goal, a twentieth of half a second, is for a core of its own."""
    count, times = 10, []
    training = Training(size=32, batch=1, crops=1, device="cpu")
    devices = [
        Client(tmp_path / f"{k}", photo_folder, Style(style_image, density=64), method=Idle(), training=training) for k in range(count)
    ]
    config = Config(server=Server(rounds=4, workers=1), training=Training(seed=7))
    times.append(time.process_time())
    # Base, messages, updates and private state of the full cnnLite; processor time, for the machine may be busy with other things.
    run_federation(config, Base.new(), Idlers(tmp_path, tuple(devices)), count, on_round=lambda _: times.append(time.process_time()))
    each = min(b - a for a, b in itertools.pairwise(times[1:])) / count
    assert each <= 0.06


CLUSTER = """
import os, pathlib, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
import flower_fakes as fakes
from fedstyle.flower import cohort
from fedstyle.flower.engine import run_federation
cohort.PATIENCE = 900.0  # two nodes on a busy machine take their time
config = fakes.config(engine="ray", cohort=3, timeout=900.0)
print(run_federation(config, fakes.small_base(), fakes.Placed(pathlib.Path(sys.argv[1])), 4).sha256)
cluster.shutdown()
"""


@pytest.mark.soak
def test_a_cluster_of_two_nodes_on_loopback_gives_the_base_that_inline_gives(tmp_path):
    command = [sys.executable, "-c", CLUSTER, str(tmp_path / "ray")]
    # The nodes' actors have the environment that the cluster was started in, as on any other machine.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "ray").glob("node-*"))) == 2
    inline = run_federation(fakes.config(cohort=3), fakes.small_base(), fakes.Fakes(tmp_path / "inline"), 4)
    assert done.stdout.splitlines()[-1] == inline.sha256
