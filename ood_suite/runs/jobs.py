"""Runs a list of independent jobs: one after another here, or spread over a Ray cluster.

A job is a function, by its name, with its arguments. It works in a folder of its own, goes on there
with what was cut, and does nothing where it finds itself finished. So a job can be started again at
any time: after an error, on another machine, by another process. Which job runs where and when, and
again when a machine is lost, is Ray's business.

All machines must see the files under the same paths (one machine, or a shared folder such as NFS):
folders are locked with fcntl and files replaced by renaming, which object stores do not offer.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import socket
import sys
import time

import threadpoolctl
from absl import logging

from ood_suite.files import MENDABLE, BusyError, RunError, make_folder, read_json, write_json
from ood_suite.optional import optional, quietly
from ood_suite.progress import progress
from ood_suite.runs.settings import check, setting

RETRIES = 10  # of a job whose worker or machine was lost
PATIENCE_S = 120.0  # for the lock of a folder: a lost machine's may live on for a while
LOOK_EVERY_S = 1.0
CONNECT_S = 5.0  # for a first sign of life of a cluster; Ray itself tries for minutes
# TensorFlow's variable and value for one operation after another. Side by side, which of them ends
# first decides the order of some sums, and now and then a training differs in its last bits
# (benchmarks/repeatability.py counts how often).
ONE_AT_A_TIME = ("TF_NUM_INTEROP_THREADS", "1")
# From this process to those of the jobs.
INHERITED = (
    "JAX_COMPILATION_CACHE_DIR", "KERAS_BACKEND", "ONEDNN_MAX_CPU_ISA", "TF_CPP_MIN_LOG_LEVEL",
    "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", ONE_AT_A_TIME[0],
)  # fmt: skip
THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "NPROC")  # the last is XLA's under JAX
SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass(frozen=True)
class Job:
    """A function and its arguments.

    Attributes:
        name: unique among the jobs; a file name.
        function: "package.module:function".
        arguments: of it, by name; they are pickled on their way to another process.
    """

    name: str
    function: str
    arguments: dict


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where jobs run; the field names are those of the flags.

    Sums of floats depend on the number of threads: with the same `cpus_per_job` both engines give
    the same bits. Several jobs share a GPU with `gpus_per_job` of 0.5 or less.
    """

    engine: str = setting(
        "local", "Where jobs run: in this process in turn, or on Ray.", choices=("local", "ray")
    )
    address: str = setting(
        "auto", "Of the Ray cluster; auto: one that `ray start` started; local: on this machine."
    )
    cpus_per_job: int | None = setting(
        None, "Cores and threads of a job; if not given: all, under Ray 1.", at_least=1
    )
    gpus_per_job: float = setting(0.0, "GPUs that Ray reserves for a job.", at_least=0)

    def __post_init__(self):
        check(self)
        if self.engine == "local" and (self.gpus_per_job or self.address != "auto"):
            raise ValueError(
                "--gpus_per_job and --address are for --engine=ray (one machine: --address=local)."
            )


def prepare(engine):
    """Makes this process ready for an Engine; TensorFlow must not have started yet."""
    if engine.engine == "local":
        _limit_threads(_environment(engine))
    else:  # what this process does with a GPU is little, the jobs need it
        os.environ.update(SHARED_GPU)


def run(jobs, folder, engine=Engine()):
    """Runs all jobs; one that fails does not stop the others.

    A job whose folder another process is writing to is left to that process, with a warning. Under
    Ray each job writes folder/jobs/<name>.log (all its output) and <name>.json (its state).

    Args:
        jobs: list of Job. folder: that the jobs share.

    Returns:
        names of the jobs that were left to other processes.

    Raises:
        RunError: some failed; with the first error, when all others are done.
    """
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"Jobs must have different names. Received: {names}.")
    if engine.engine == "local" and len(jobs) == 1:
        call(jobs[0])  # its error is this one's
        return []
    outcomes = (_in_turn if engine.engine == "local" else _on_ray)(jobs, folder, engine)
    failed = {name: text for name, (state, text) in outcomes.items() if state == "failed"}
    for name, (state, text) in outcomes.items():
        if state == "busy":
            logging.warning("Another process is at work on %s, which is left to it: %s", name, text)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}. The first error: "
            f"{next(iter(failed.values()))}"
        )
    return [name for name, (state, _) in outcomes.items() if state == "busy"]


def attempt(job, patience_s=0.0):
    """Runs a job here: ("done", ""), ("failed", error), or ("busy", error) if another process still
    writes to its folder after `patience_s` seconds.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            call(job)
            return "done", ""
        except BusyError as error:
            if time.monotonic() >= deadline:
                return "busy", str(error)
            time.sleep(1.0)
        except (Exception, SystemExit) as error:
            show = logging.error if isinstance(error, MENDABLE) else logging.exception
            show("%s failed: %s", job.name, error)
            return "failed", f"{type(error).__name__}: {error}"


def call(job):
    """What the job's function returns."""
    module, _, name = job.function.partition(":")
    with quietly():
        function = getattr(importlib.import_module(module), name)
    return function(**job.arguments)


def _in_turn(jobs, folder, engine):
    """{name: outcome}."""
    outcomes = {}
    for position, job in enumerate(jobs, start=1):
        logging.info("Job %d of %d: %s", position, len(jobs), job.name)
        outcomes[job.name] = attempt(job)
        if "keras" in sys.modules:
            sys.modules["keras"].utils.clear_session()
    return outcomes


def _environment(engine):
    """Variables that decide how a job computes."""
    variables: dict[str, str] = {}
    cpus = engine.cpus_per_job or (1 if engine.engine == "ray" else None)
    if cpus:
        variables |= {name: str(cpus) for name in THREADS}
    if engine.gpus_per_job % 1.0:  # jobs that share a GPU must not take all of its memory
        variables |= SHARED_GPU
    return variables


def _limit_threads(environment):
    """Sets the variables, in time for TensorFlow, and limits NumPy's libraries, loaded already."""
    os.environ.update(environment)
    if THREADS[0] in environment:
        threadpoolctl.threadpool_limits(int(environment[THREADS[0]]))


def _on_ray(jobs, folder, engine):
    """{name: outcome}, with live progress."""
    ray = _connected_ray(engine.address)
    need = {"CPU": engine.cpus_per_job or 1, "GPU": engine.gpus_per_job}
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(offer.get(k, 0) >= v for k, v in need.items()) for offer in offers):
        logging.warning("No machine of the cluster has %s: the jobs wait for one that has.", need)
    folder, here = pathlib.Path(folder).absolute() / "jobs", os.getcwd()
    make_folder(folder)
    for job in jobs:
        write_json(folder / f"{job.name}.json", {"state": "waiting"})
    environment = dict([ONE_AT_A_TIME]) | _environment(engine)
    environment |= {name: os.environ[name] for name in INHERITED if name in os.environ}
    remote = ray.remote(
        max_calls=1,  # a process of its own: its threads and its GPU memory end with the job
        max_retries=RETRIES,
        num_cpus=engine.cpus_per_job or 1,
        num_gpus=engine.gpus_per_job,
    )(_work)
    pending = {remote.options(name=j.name).remote(j, folder, here, environment): j for j in jobs}
    outcomes, shown = {}, ""
    logging.info("%d jobs on Ray; what each says is in %s.", len(jobs), folder)
    with progress(total=len(jobs), desc="jobs", unit="job") as bar:
        while pending:
            finished, _ = ray.wait(list(pending), timeout=LOOK_EVERY_S)
            for reference in finished:
                job = pending.pop(reference)
                outcomes[job.name] = _outcome(ray, reference)
                state, text = outcomes[job.name]
                write_json(folder / f"{job.name}.json", {"state": state, "error": text})
                logging.info("%s: %s. %s", job.name, state, text)
                bar.update()
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            if shown != (shown := _summary(folder, jobs, alive)):
                bar.set_postfix_str(shown)
    return outcomes


def _outcome(ray, reference):
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # lost too often, or not to be placed anywhere
        return "failed", f"{type(error).__name__}: {error}"


def _summary(folder, jobs, alive):
    """Such as "2 running: a, b; 1 waiting"; what ran on a lost node waits again."""
    states: dict[str, list[str]] = {}
    for job in jobs:
        with contextlib.suppress(RunError):
            known = read_json(folder / f"{job.name}.json")
            state = "waiting" if known.get("node", "") not in {"", *alive} else known["state"]
            states.setdefault(state, []).append(job.name)
    return "; ".join(
        f"{len(names)} {state}" + (f": {', '.join(names[:4])}" if state != "waiting" else "")
        for state, names in states.items()
        if state != "done"
    )


def _connected_ray(address):
    ray = optional("ray")
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = address.rpartition(":")
    sources = str(pathlib.Path(__file__).parents[2])
    try:
        if host and port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="error",
            job_config=ray.job_config.JobConfig(code_search_path=[sources]),
        )
    except OSError as error:
        raise RunError(
            f"There is no Ray cluster at --address={address} ({error}). Start one with `ray start "
            "--head`, or give --address=local for this machine alone."
        ) from error
    return ray


def _work(job, folder, here, environment):
    """What a Ray worker does: the job, with its output in a file and its state in another.

    Args:
        here: the working directory that the paths of the job start from.
    """
    import ray

    try:
        os.chdir(here)
        log = os.open(folder / f"{job.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        return "failed", f"{os.uname().nodename} does not share the folders of the driver: {error}"
    _limit_threads(environment)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(log, 1), os.dup2(log, 2)
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    host, node = os.uname().nodename, ray.get_runtime_context().get_node_id()
    logging.info("%s starts on %s as process %d.", job.name, host, os.getpid())
    state = {"state": "running", "host": host, "pid": os.getpid(), "node": node}
    write_json(folder / f"{job.name}.json", state)
    outcome = attempt(job, PATIENCE_S)
    sys.stdout.flush(), sys.stderr.flush()
    return outcome
