"""Jobs on a real Ray cluster of three nodes on this machine, with real faults: a worker killed, a
node lost, the driver killed. What comes out is what one process alone computes, to the last bit.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import images_ood.pixelcnn  # noqa: F401 (registers the class)
from images_ood.train_test import TINY
from ood_suite.files import RunError, load_npz
from ood_suite.runs import jobs
from ood_suite.runs.run import Run
from tests.support import ROOT, assert_same_run, command

pytest.importorskip("ray")

VARIABLES = {
    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_memory_monitor_refresh_ms": "0",
}  # fmt: skip
# A head without cores and two nodes with one core each; commands come by standard input.
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
node = {"num_gpus": 0, "object_store_memory": 80 * 2**20}
beat = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500,
        "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
cluster = Cluster(initialize_head=True, head_node_args=node | {
    "num_cpus": 0, "include_dashboard": False, "temp_dir": sys.argv[1], "_system_config": beat})
nodes = {}
def add():
    added = cluster.add_node(num_cpus=1, **node)
    nodes[added.node_id] = added
add(), add()
print(cluster.address, flush=True)
for line in sys.stdin:
    command, _, name = line.strip().partition(" ")
    add() if command == "add" else cluster.remove_node(nodes.pop(name), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""
SWEEP = (*TINY, "--dropout_p=0.2", "--mutation_rates=0.1,0.3", "--reg_weights=0.5")
STEPS = 160
WAIT_S = 600  # of a busy machine


class Cluster:
    """Started in a process of its own, elsewhere, and without our PYTHONPATH."""

    def __init__(self):
        # Not pytest's folder: the paths of Ray's sockets must be short.
        self.folder = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        own = ("PYTHONPATH", "RAY_ADDRESS")
        environment = {k: v for k, v in os.environ.items() if k not in own}
        # Where Ray leaves the address, in a folder that it expects: "/tmp/ray" may not exist yet.
        environment["RAY_TMPDIR"] = self.folder.name
        pathlib.Path(self.folder.name, "ray").mkdir()
        self.errors = pathlib.Path(self.folder.name, "errors")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, self.folder.name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors.open("w"), text=True, cwd="/",
            env=environment | VARIABLES,
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.errors.read_text()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done", self.errors.read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.folder.cleanup()


@pytest.fixture(scope="module")
def cluster():
    started = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        yield started
    started.close()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write_small_data):
    return write_small_data(tmp_path_factory.mktemp("ray") / "data")


def sweep_arguments(data_dir, out_dir, *arguments):
    return (*SWEEP, f"--data_dir={data_dir}", f"--out_dir={out_dir}", *arguments)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, data_dir):
    """Folder of the sweep as one process trains it, evaluated."""
    out_dir = tmp_path_factory.mktemp("local")
    done = command(
        "images_ood.sweep",
        *sweep_arguments(data_dir, out_dir, f"--total_steps={STEPS}", "--cpus_per_job=1"),
    )
    assert done.returncode == 0, done.stderr
    evaluated(out_dir / "fashion_small", data_dir)
    return out_dir / "fashion_small"


def evaluated(folder, data_dir):
    done = command("ood_suite.eval", f"--run={folder}", f"--data_dir={data_dir}", "--resamples=20")
    assert done.returncode == 0, done.stderr
    return (folder / "report/results.csv").read_text()


def driver(cluster, data_dir, out_dir):
    """A sweep on the cluster, started from another folder than the sources'."""
    arguments = sweep_arguments(data_dir, "out", f"--total_steps={STEPS}", "--engine=ray")
    out_dir.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "images_ood.sweep", *arguments, f"--address={cluster.address}"],
        cwd=out_dir, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=(out_dir / "driver").open("a"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def until(condition):
    """Its first value that is true."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("Nothing happened.")


def half_done(folder, known=()):
    """(name, state) of a running job that has a checkpoint, but is far from its end."""
    for path in folder.glob("jobs/*.json"):
        try:
            state = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            continue
        steps = [int(p.stem[5:]) for p in (folder / path.stem).glob("checkpoints/step_*.npz")]
        running = state["state"] == "running" and path.stem not in known
        if running and steps and max(steps) < STEPS / 2:
            return path.stem, state
    return None


def test_faults_change_nothing(cluster, data_dir, expected, tmp_path):
    folder = tmp_path / "out/fashion_small"
    process = driver(cluster, data_dir, tmp_path)

    name, state = until(lambda: half_done(folder))
    os.kill(state["pid"], signal.SIGKILL)  # a worker
    faults = [name]
    other, state = until(lambda: half_done(folder, faults))
    cluster.tell(f"remove {state['node']}")  # a machine
    faults.append(other)
    until(lambda: half_done(folder))
    process.kill()  # the driver, in the middle of what is left
    process.wait()
    cluster.tell("add")

    again = driver(cluster, data_dir, tmp_path)
    assert again.wait(WAIT_S) == 0, (tmp_path / "driver").read_text()
    names = sorted(path.parent.name for path in expected.glob("*/model.keras"))
    for name in names:
        assert_same_run(folder / name, expected / name)
    assert evaluated(folder, data_dir) == (expected / "report/results.csv").read_text()
    for name in names:
        log = (folder / f"jobs/{name}.log").read_text()
        assert log.count("Continuing from") >= (name in faults)
        assert_never_from_scratch_again(log)


def assert_never_from_scratch_again(log):
    """Whoever trains after another has saved goes on from there."""
    evaluations = 0
    for part in re.split(r"starts on \S+ as process", log)[1:]:
        own = part.count("steps/s, ")
        if own and evaluations > 1:  # the first of two was surely saved
            assert "Continuing from" in part
        evaluations += own


def test_a_job_that_fails_does_not_stop_the_others(cluster, data_dir, tmp_path):
    short = "--total_steps=4"
    own = sweep_arguments(data_dir, tmp_path, short, "--engine=ray", f"--address={cluster.address}")
    other = command(
        "images_ood.train", *TINY, "--mutation_rate=0.3", "--reg_weight=0.5", "--total_steps=8",
        f"--data_dir={data_dir}", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    done = command("images_ood.sweep", *own)
    assert done.returncode == 1
    assert "1 of 3 jobs failed: reg0.5_mr0.3. The first error: RunError: " in done.stderr
    assert "total_steps: 8 there, 4 now" in done.stderr and "1 waiting" in done.stderr
    folder = tmp_path / "fashion_small"
    states = {p.stem: json.loads(p.read_text()) for p in folder.glob("jobs/*.json")}
    assert states.pop("reg0.5_mr0.3")["state"] == "failed"
    assert {state["state"] for state in states.values()} == {"done"} and len(states) == 2
    assert len(list(folder.glob("*/model.keras"))) == 3
    assert "other settings" in (folder / "jobs/reg0.5_mr0.3.log").read_text()


def test_shards_on_the_cluster(cluster, data_dir, expected, tmp_path):
    """Bit for bit the outputs of one process, in the same files."""
    run = expected / "reg0_mr0"
    arguments = (f"--run={run}", f"--data_dir={data_dir}", "--batch_size=8")
    expected_paths = {}
    for title, more in (
        ("local", ("--cpus_per_job=1",)),
        ("ray", ("--engine=ray", "--shards=3", f"--address={cluster.address}")),
    ):
        done = command("ood_suite.extract", *arguments, *more)
        assert done.returncode == 0, done.stderr
        outputs = run / "outputs"
        assert not list(outputs.glob("*.shards"))
        expected_paths[title] = {p.name: load_npz(p) for p in outputs.glob("*_maps.npz")}
        assert len(expected_paths[title]) == 4
        outputs.rename(tmp_path / title)
    for name, arrays in expected_paths["local"].items():
        for key, array in expected_paths["ray"][name].items():
            if key != "meta":
                np.testing.assert_array_equal(array, arrays[key], err_msg=f"{name}: {key}")
    states = [json.loads(p.read_text())["state"] for p in (tmp_path / "ray/jobs").glob("*.json")]
    assert states == ["done"] * 12


def test_members_on_the_cluster(cluster, data_dir, tmp_path):
    """Two classifiers at a time, of an ensemble that one process trains in turn."""
    arguments = (
        "--exp=fashion", "--options=width=2,dropout=0.2", "--epochs=1", "--batch_size=8",
        "--splits=2", f"--data_dir={data_dir}",
    )  # fmt: skip
    for name, more in (
        ("local", ("--cpus_per_job=1",)),
        ("ray", ("--engine=ray", f"--address={cluster.address}")),
    ):
        own = (*arguments, *more, f"--out_dir={tmp_path / name}")
        done = command("classifier_ood.train_leave_out", *own)
        assert done.returncode == 0, done.stderr
    for member in ("member0", "member1"):
        runs = [tmp_path / n / "fashion/leave_out_convnet" / member for n in ("ray", "local")]
        assert_same_run(*runs)
        threads = {Run.load(run).config["versions"]["threads"] for run in runs}
        assert threads == {"1"}


def test_a_cluster_that_is_not_there():
    listed = [jobs.Job("a", "time:sleep", {"secs": 0})]
    with pytest.raises(RunError, match="no Ray cluster at --address=127.0.0.1:9 "):
        jobs.run(listed, ".", jobs.Engine("ray", "127.0.0.1:9"))
