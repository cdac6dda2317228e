"""Jobs in this process; those on a cluster are in tests/ray_test.py."""

import pytest

from ood_suite.files import RunError, locked, write_json
from ood_suite.runs import jobs
from ood_suite.runs.density_settings import DensityExperiment
from ood_suite.runs.jobs import Engine, Job
from ood_suite.runs.sweep import sweep


def touch(folder, name):
    """A job, by its name "ood_suite.runs.jobs_test:touch"."""
    with locked(folder / name):
        (folder / name / "done").touch()


def fail(text):
    raise ValueError(text)


def listed(folder, *names):
    function = "ood_suite.runs.jobs_test:touch"
    return [Job(name, function, {"folder": folder, "name": name}) for name in names]


def test_a_failure_stops_no_other_job_and_the_first_error_is_told(tmp_path):
    wrong = [Job(n, "ood_suite.runs.jobs_test:fail", {"text": f"of {n}"}) for n in ("x", "y")]
    with pytest.raises(RunError, match="2 of 4 jobs failed: x, y. The first error: .*of x"):
        jobs.run([*wrong, *listed(tmp_path, "a", "b")], tmp_path)
    assert (tmp_path / "a/done").exists() and (tmp_path / "b/done").exists()


def test_one_job_alone_raises_its_own_error():
    with pytest.raises(ValueError, match="^mine$"):
        jobs.run([Job("x", "ood_suite.runs.jobs_test:fail", {"text": "mine"})], ".")


def test_a_job_of_another_process_is_left_to_it(tmp_path):
    with locked(tmp_path / "b"):
        assert jobs.run(listed(tmp_path, "a", "b", "c"), tmp_path) == ["b"]
    assert (tmp_path / "c/done").exists() and not (tmp_path / "b/done").exists()


def test_names_are_unique(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        jobs.run(listed(tmp_path, "a", "a"), tmp_path)


def test_all_runs_of_a_sweep_have_one_precision(tmp_path, monkeypatch):
    """Each worker decided for itself what `auto` is, and machines differ."""
    seen = []
    monkeypatch.setattr(jobs, "run", lambda listed, *_: seen.extend(listed))
    write_json(tmp_path / "e" / "reg0_mr0" / "config.json", {"settings": {"dtype": "float32"}})
    experiment = DensityExperiment(dtype="auto")
    sweep(experiment, train="a:b", exp="e", out_dir=tmp_path, data_dir=None, repeats=2,
          engine=Engine())  # fmt: skip
    found = {job.arguments["experiment"].dtype for job in seen}
    assert len(seen) == 20 and found == {"float32"}  # what a run of it was begun in


@pytest.mark.parametrize(
    "options, message",
    [
        ({"engine": "slurm"}, "--engine must be one of"),
        ({"cpus_per_job": 0}, "--cpus_per_job must be at least 1"),
        ({"engine": "ray", "gpus_per_job": -1.0}, "--gpus_per_job must be 0 or more"),
        ({"gpus_per_job": 1.0}, "are for --engine=ray"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Engine(**options)
