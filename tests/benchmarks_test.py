"""Benchmarks that nothing else runs: the accelerator on a toy, and what others make of numbers."""

import itertools
import json
import os
import subprocess
import sys
import types
from unittest import mock

import keras
import numpy as np
import pytest
from absl import flags

from ood_suite.runs.run import Run
from tests.docs_test import script
from tests.support import ROOT, opening


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """Benchmarks import each other, as scripts of one folder do."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """benchmarks/machine.py, on a machine of known processor and two cores."""
    import machine

    lines = ["processor\t: 0", "cpu family\t: 25", "model\t\t: 17", "model name\t: An EPYC", ""]
    path = tmp_path / "cpuinfo"
    path.write_text("\n".join([*lines, "processor\t: 1", "model name\t: none"]))
    monkeypatch.setattr(machine, "CPUINFO", path)
    monkeypatch.setattr("ood_suite.processors.usable", lambda: 2)
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return machine


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    module.main()


@pytest.mark.jax
def test_the_accelerators_benchmark_runs_on_a_toy(tmp_path):
    """Under the backend of this environment, as on the day that a card is there."""
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--toy", "--only=wrn_28_10", "--only=lstm_2000",
         "--dtypes=float32", "--steps_per_execution=1", f"--out={tmp_path / 'gpu.json'}"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["case"], row["feed"]) for row in rows] == [
        (case, feed) for case in ("wrn_28_10", "lstm_2000") for feed in ("host", "device")
    ]
    assert all(row["steps_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponents_are_slopes_of_the_last_decade(power):
    growth = script("benchmarks/growth.py")
    sizes = (10, 100, 1000, 3000, 10_000)
    points = [{"size": s, "seconds": 2.0 * s**power if s > 500 else 9.0} for s in sizes]
    assert growth.exponent(points) == pytest.approx(power, abs=1e-9)


def test_ratios_of_extraction_are_over_the_best_of_the_other_side():
    extraction = script("benchmarks/extraction.py")
    found = {"a net": {"ours": 30.0, "eager": 10.0, "compile": 20.0, "ours, ODIN": 4.0}
             | {"eager, ODIN": 2.0, "channels_last, ODIN": 8.0}}  # fmt: skip
    assert extraction.table(found).splitlines()[-1] == (
        "| a net | 30 | 10 |  |  | 20 |  |  | 1.50 | 4 | 8 | 0.50 |  |  |  |"
    )


def test_a_mark_tells_processors_and_their_limits_apart(machine, monkeypatch):
    assert machine.mark() == "An EPYC, cpu family 25, model 17, cores 2"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.mark().endswith("cores 2, ONEDNN_MAX_CPU_ISA=AVX2")
    machine.CPUINFO.unlink()
    assert machine.mark().endswith(", cores 2, ONEDNN_MAX_CPU_ISA=AVX2")


def test_a_record_holds_rows_of_one_machine(machine):
    here = {"machine": machine.mark()}
    other = {"machine": "a Xeon"}
    assert machine.stamp({}, []) == machine.stamp(here, ["a"]) == machine.stamp(other, []) == here
    assert machine.stamp({"rows": {}}, ["a"]) == here | {"unmarked": ["a"]}
    assert machine.stamp(here | {"unmarked": ["a", "b"]}, ["b", "c"]) == here | {"unmarked": ["b"]}
    with pytest.raises(SystemExit, match="a Xeon.* An EPYC.*another file"):
        machine.stamp(other, ["a"])


@pytest.mark.parametrize("platform, unit", [("darwin", 1), ("linux", 1024)])
def test_a_peak_is_in_the_unit_of_its_system(machine, platform, unit):
    usage = types.SimpleNamespace(ru_maxrss=3 * 2**20 // unit)
    with mock.patch("sys.platform", platform):
        assert machine.peak_mib(usage) == 3.0


@pytest.fixture
def recorded(machine, monkeypatch, tmp_path):
    """Function (name, settings) -> (a benchmark that measures nothing, its flags, its record)."""

    def of(name, settings):
        benchmark, found = script(f"benchmarks/{name}.py"), flags.FlagValues()
        for flag, value in settings.items():
            define = flags.DEFINE_list if isinstance(value, list) else flags.DEFINE_integer
            define(flag, value, "", flag_values=found)
        found.mark_as_parsed()
        clock = itertools.count(1.0)
        functions = dict.fromkeys(("rows", "whole images", "TFP"), lambda: None)
        for function, stand_in in {
            "one_seed": lambda _: {}, "print_tables": lambda _: None,
            "write_reads": lambda *_: None, "contestants": lambda *_: functions,
            "screened": lambda *_: {"seconds": next(clock), "cpu": 1.0, "peak_mib": 1.0},
        }.items():  # fmt: skip
            monkeypatch.setattr(benchmark, function, stand_in, raising=False)
        monkeypatch.setattr(benchmark, "ROOT", tmp_path)
        monkeypatch.setattr(benchmark, "FLAGS", found)
        (tmp_path / "benchmarks").mkdir()
        return benchmark, found, tmp_path / "benchmarks" / f"{name}.json"

    return of


@pytest.mark.parametrize(
    "name, main, settings, other",
    [
        ("genomes", "main", {"order": 8, "seeds": 2}, {"order": 7, "seeds": 1}),
        (
            "reads",
            "screening",
            {"sizes": ["1", "2", "3"], "threads": 2},
            {"sizes": ["4", "5", "6"]},
        ),
        ("sampling", "main", {"num_images": 2, "rounds": 1}, {"num_images": 3}),
    ],
)
def test_other_settings_leave_the_record(recorded, capsys, name, main, settings, other):
    benchmark, found, record = recorded(name, settings)
    arguments = () if main == "screening" else (None,)
    for flag, value in other.items():
        found[flag].value = value
        getattr(benchmark, main)(*arguments)
        assert not record.exists()
        assert f"Nothing was written: the record is of the default --{flag}.\n" in (
            capsys.readouterr().out
        )
        found[flag].value = settings[flag]
    getattr(benchmark, main)(*arguments)
    assert record.exists() and "Nothing was written" not in capsys.readouterr().out


def test_a_size_of_the_catalogue_is_of_one_machine(machine, monkeypatch, tmp_path):
    catalogue, row = script("benchmarks/catalogue.py"), {"fit_s": 1.0, "score_s": 2.0, "mib": 3.0}
    monkeypatch.setattr(catalogue, "FOUND", tmp_path / "catalogue.json")
    monkeypatch.setattr(catalogue, "measure", lambda _, wanted: [(wanted[-1], row)])
    known = {size: {"msp": row, "energy": row} for size in catalogue.SIZES}
    catalogue.FOUND.write_text(json.dumps(known))
    run_main(catalogue, monkeypatch, "--only=msp")
    stamps = {"cifar": {"machine": machine.mark(), "unmarked": ["energy"]}}
    assert json.loads(catalogue.FOUND.read_text()) == known | {"stamps": stamps}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(SystemExit, match="of another machine"):
        run_main(catalogue, monkeypatch, "--only=msp")
    run_main(catalogue, monkeypatch, "--size=imagenet")
    found = json.loads(catalogue.FOUND.read_text())
    assert found["stamps"] == stamps | {"imagenet": {"machine": machine.mark()}}
    assert list(found["imagenet"]) == [catalogue.scores.ALL[-1]]  # none of before


def test_an_axis_of_growth_knows_its_machine(machine, monkeypatch, tmp_path, capsys):
    growth = script("benchmarks/growth.py")
    monkeypatch.setattr(growth, "FOUND", tmp_path / "growth.json")
    monkeypatch.setattr(growth, "AXES", {"scores": ((10, 100), ("metrics",))})
    point = types.SimpleNamespace(stdout='{"size": 10, "seconds": 1.0, "mib": 2.0}\n')
    monkeypatch.setattr(growth.subprocess, "run", lambda *_, **__: point)
    monkeypatch.setattr(growth, "exponent", lambda _: 1.0)
    run_main(growth, monkeypatch, "--axis=scores")
    found = json.loads(growth.FOUND.read_text())
    assert found["machines"] == {"scores": machine.mark()}
    assert "| metrics | 1 (2) | 1 (2) | 1.00 |" in capsys.readouterr().out


def test_engines_are_handed_pixels_that_are_prepared(monkeypatch):
    extraction, handed = script("benchmarks/extraction.py"), []
    monkeypatch.setitem(sys.modules, "torch", mock.MagicMock())
    monkeypatch.setattr(extraction, "_torch_network", lambda _: mock.MagicMock())
    monkeypatch.setattr(extraction, "_engines", lambda _: {"an engine": handed.append})
    monkeypatch.setattr(extraction, "seconds", lambda function, _: function)
    timed = extraction.theirs("ResNet-18, CIFAR")["an engine"]
    timed(), timed()
    assert handed[0] is handed[1]  # nothing is made in time
    assert handed[0].dtype == np.float32 and handed[0].flags.c_contiguous
    expected = (extraction.images("ResNet-18, CIFAR")[3, 4, 5] - 120.0) / 60.0
    np.testing.assert_allclose(handed[0][3, :, 4, 5], expected, rtol=1e-6)


def test_extraction_writes_the_record_that_is_named(machine, monkeypatch, tmp_path, capsys):
    extraction = script("benchmarks/extraction.py")
    row = {"ours": 3.0, "ours, ODIN": 1.0, "eager": 2.0, "eager, ODIN": 1.0}
    monkeypatch.setattr(extraction, "measured", lambda *_: row)
    path = tmp_path / "avx2.json"
    one = ["--only=WRN-28-10", f"--record={path}"]
    run_main(extraction, monkeypatch, *one)
    assert not path.exists() and machine.NOT_WRITTEN in capsys.readouterr().out
    run_main(extraction, monkeypatch, *one, "--torch_python=python")
    written = {"machine": machine.mark(), "images_per_second": {"WRN-28-10": row}}
    assert json.loads(path.read_text()) == written
    path.write_text(json.dumps({"images_per_second": {"ResNet-18, CIFAR": row}}))
    run_main(extraction, monkeypatch, *one, "--torch_python=python")
    assert json.loads(path.read_text())["unmarked"] == ["ResNet-18, CIFAR"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(SystemExit, match="of another machine"):
        run_main(extraction, monkeypatch, *one, "--torch_python=python")


def test_scores_of_one_side_have_no_ratio_and_no_record(machine, monkeypatch, tmp_path, capsys):
    costs = script("benchmarks/scores.py")
    monkeypatch.setattr(costs, "COSTS", tmp_path / "scores.json")
    monkeypatch.setattr(costs, "arrays", lambda *_: {})
    path = tmp_path / "scores_imagenet.json"
    row = {"fit_s": 1.0, "score_s": 2.0}
    known = {side: {"msp": row, "energy": row} for side in ("ours", "pytorch_ood")}
    path.write_text(json.dumps(known))
    monkeypatch.setattr(costs, "in_its_environment", lambda *_: {"msp": {"fit_s": 0, "score_s": 1}})
    run_main(costs, monkeypatch, "--size=imagenet", "--only=msp")
    assert json.loads(path.read_text()) == known
    assert capsys.readouterr().out.splitlines() == [
        "| score | ours: fit s, score s |", "|---|---|", "| msp | 0.000, 1.000 |",
        machine.NOT_WRITTEN,
    ]  # fmt: skip
    run_main(costs, monkeypatch, "--size=imagenet", "--only=msp", "--torch_python=python")
    sides = {side: {"msp": {"fit_s": 0, "score_s": 1}, "energy": row} for side in known}
    assert json.loads(path.read_text()) == sides | {
        "machine": machine.mark(), "unmarked": ["energy"]
    }  # fmt: skip


def test_costs_of_two_machines_do_not_mix(machine, monkeypatch, tmp_path):
    costs = script("benchmarks/scores.py")
    monkeypatch.setattr(costs, "COSTS", tmp_path / "scores.json")
    monkeypatch.setattr(costs, "arrays", lambda *_: {})
    monkeypatch.setattr(costs, "in_its_environment", lambda *_: {"msp": {"fit_s": 0, "score_s": 1}})
    run_main(costs, monkeypatch)
    assert json.loads(costs.COSTS.read_text())["machine"] == machine.mark()
    costs.COSTS.write_text(json.dumps({"machine": "a Xeon", "costs": {"energy": {}}}))
    monkeypatch.setattr(costs, "in_its_environment", None)  # refused before anything is measured
    with pytest.raises(SystemExit, match="a Xeon"):
        run_main(costs, monkeypatch, "--only=msp")


@pytest.mark.parametrize("name", ["read_networks", "training"])
def test_without_a_peer_the_record_stays(machine, name, monkeypatch, tmp_path, capsys):
    benchmark = script(f"benchmarks/{name}.py")
    monkeypatch.setattr(benchmark, "FOUND", tmp_path / "record.json")
    monkeypatch.setattr(benchmark, "measured", lambda *_: {})
    monkeypatch.setattr(benchmark, "table", lambda _: "a table")
    run_main(benchmark, monkeypatch)
    assert not benchmark.FOUND.exists()
    assert capsys.readouterr().out.splitlines() == ["a table", machine.NOT_WRITTEN]
    run_main(benchmark, monkeypatch, "--torch_python=python")
    assert benchmark.FOUND.exists()


def test_decoding_without_torchvision_writes_nothing(machine, monkeypatch, tmp_path, capsys):
    decoding = script("benchmarks/decoding.py")
    settings = {"images": 200, "timed": 200, "rounds": 1}
    monkeypatch.setattr(decoding, "PATH", tmp_path / "record.json")
    monkeypatch.setattr(decoding, "write_folder", lambda _: 1.0)
    monkeypatch.setattr(decoding, "measured", lambda *_: ["4.0", "2.0", "1", "1"])
    monkeypatch.setattr(decoding, "FLAGS", types.SimpleNamespace(**settings, torch_python=None))
    decoding.main(None)
    assert not decoding.PATH.exists() and machine.NOT_WRITTEN in capsys.readouterr().out
    decoding.FLAGS.torch_python = "python"
    decoding.main(None)
    found = json.loads(decoding.PATH.read_text())
    assert found["machine"] == machine.mark() and len(found["rates"]) == 4
    assert found["rates"]["ours, 1 thread"]["images_a_second"] == 4


def test_torchvisions_workers_start_before_the_clock(monkeypatch, capsys):
    """A second a batch, and a thousand for the start of workers."""
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def loader(rows, batch_size, num_workers):
        clock.now += 1000.0
        for first in range(0, len(rows), batch_size):
            clock.now += 1.0
            yield rows[first : first + batch_size], None

    torch = mock.MagicMock(__version__="2")
    torch.utils.data.DataLoader, torch.utils.data.Subset = loader, lambda _, rows: rows
    names = {"torch": torch, "time": clock, "torchvision": mock.MagicMock(__version__="0")}
    for name, module in (names | {"torchvision.transforms": mock.MagicMock()}).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "argv", ["-c", "a folder", "400", "2"])
    monkeypatch.setattr(os, "times", lambda: (clock.now / 2, 0.0, 0.0, 0.0))
    exec(script("benchmarks/decoding.py").TORCH, {})
    assert capsys.readouterr().out.split() == ["100.0", "200.0", "2", "0"]


def test_two_workers_of_torchvision_have_as_many_batches():
    command = [sys.executable, "benchmarks/decoding.py", "--timed=500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "--timed" in done.stderr and "multiple of 200" in done.stderr


def test_tfp_draws_by_a_program_that_each_round_compiles(monkeypatch):
    import tensorflow as tf
    import tensorflow_probability as tfp

    compiled = []

    def network(shape, **_):
        def sample(count, seed, training):
            compiled.append(not tf.executing_eagerly())
            return tf.zeros((count, *shape))

        return types.SimpleNamespace(sample=sample)

    monkeypatch.setattr(tfp.distributions, "PixelCNN", network)
    monkeypatch.setattr("images_ood.pixelcnn.PixelCNN", mock.MagicMock())
    draw = script("benchmarks/sampling.py").contestants(1, 4, 2)["TFP"]
    assert draw().shape == draw().shape == (2, 28, 28, 1)
    assert compiled == [True, True]


def test_quick_ratios_are_compared_with_those_of_the_same_machine(
    machine, monkeypatch, tmp_path, capsys
):
    import quick

    monkeypatch.setattr(quick, "RECORD", tmp_path / "quick.json")
    for group in ("of_scores", "of_metrics", "of_decision", "of_density"):
        monkeypatch.setattr(quick, group, lambda: {"a, b": (None, None, 1)})
    ratio = iter([1.0, 2.0, 1.5, 1.0])
    monkeypatch.setattr(quick, "turns", lambda *_: now)
    records = {"a Xeon": {"a, b": 9.0}}
    quick.RECORD.write_text(json.dumps(records))
    now = next(ratio)
    run_main(quick, monkeypatch)
    assert "--record" in capsys.readouterr().out
    now = next(ratio)
    run_main(quick, monkeypatch, "--record")
    assert json.loads(quick.RECORD.read_text()) == records | {machine.mark(): {"a, b": 2.0}}
    now = next(ratio)
    run_main(quick, monkeypatch)
    now = next(ratio)
    with pytest.raises(SystemExit, match="Below 0.7 of the record: a, b"):
        run_main(quick, monkeypatch)


def test_only_the_start_of_help_may_end_with_1():
    start = script("benchmarks/start.py")
    start.measure("raise SystemExit(1)", "module", "--help")
    with pytest.raises(SystemExit, match="a mendable error"):
        start.measure("raise SystemExit('a mendable error')", "module", "--run=x")


@pytest.fixture
def study():
    return script("benchmarks/likelihood_ratio.py")


def test_a_report_replaces_rows_and_no_choice_among_more_backgrounds(study, capsys):
    def rows(foreground, backgrounds, **own):
        likelihood = {"foreground": foreground, "step": 1} | own
        return [
            likelihood,
            *(likelihood | {"background": b, "background_step": 2} for b in backgrounds),
        ]

    known = {
        "chosen": [{"foreground": name, "mnist": 0.5} for name in "ab"],
        "rows": rows("a", "xy", mnist=0.5) + rows("b", "x", mnist=0.5),
    }
    assert study.merged({}, known) == known
    again = {"chosen": [{"foreground": "a", "mnist": 0.7}], "rows": rows("a", "x", mnist=0.7)}
    found = study.merged(known, again)
    assert found["chosen"] == known["chosen"]
    assert [row["mnist"] for row in found["rows"]] == [0.7, 0.7, 0.5, 0.5, 0.5]
    assert capsys.readouterr().out.endswith("not scored here: y.\n")
    assert study.merged(known, again | {"chosen": []})["chosen"] == known["chosen"]
    again["rows"] = rows("a", "xy", mnist=0.7)
    assert study.merged(known, again)["chosen"] == again["chosen"] + known["chosen"][1:]
    half = {"chosen": [], "rows": rows("a", "", mnist=0.2, dtype="mixed_bfloat16")}
    assert study.merged(known, half) == known | {"rows": known["rows"] + half["rows"]}


def test_a_name_of_a_case_is_that_case_alone(study):
    def names(only):
        return [case.name for case in study.wanted(only)]

    assert names("r5_s0_mr0.1_reg10") == ["r5_s0_mr0.1_reg10"]
    assert names("r1_s0_fg,") == ["r1_s0_fg"]
    assert names("r1_s0_mr0.3") == ["r1_s0_mr0.3_reg10", "r1_s0_mr0.3_reg100"]
    assert names(None) == list(study.cases()) and names("") == names("nothing") == []


def test_a_foreground_without_backgrounds_borrows_the_shipped_one(study, tmp_path):
    rng = np.random.default_rng(0)
    titles = [title for title, *_ in study.SETS]
    (tmp_path / "scores").mkdir()
    for name, start in (("r1_s0_fg", 10), ("r2_s0_fg", 10), ("r2_s0_mr0.1_reg10", 4), ("lent", 2)):
        drawn = {f"{start}/{title}": rng.normal(size=20).astype(np.float32) for title in titles}
        np.savez(tmp_path / "scores" / f"{name}.npz", **drawn)
    bits = {title: np.ones(20, np.float32) for title in titles}
    np.savez(tmp_path / "scores" / "complexity.npz", **bits)
    found = study.report(tmp_path)
    pairs = {row["foreground"]: row for row in found["rows"] if row["score"] == "ratio"}
    assert pairs["r1_s0_fg"]["background"] == study.LENT
    assert pairs["r2_s0_fg"]["background"] == "r2_s0_mr0.1_reg10"
    assert [row["foreground"] for row in found["chosen"]] == ["r2_s0_fg"]
    known = study.read_scores(tmp_path / "scores" / "r1_s0_fg.npz")[1][10]
    lent = study.read_scores(tmp_path / "scores" / "lent.npz")[1][2]
    ours = {title: lent[title] - known[title] for title in titles}
    above = np.mean(ours["mnist"][:, None] > ours["id_test"])
    assert pairs["r1_s0_fg"]["mnist"] == pytest.approx(above)
    own = {"foreground": "r1_s0_fg", "background": "mine", "mnist": 0.9}
    later = {"chosen": [own], "rows": [own]}  # once it has some of its own
    assert own in study.merged(study.merged(found, later), later)["chosen"]


def test_precisions_are_kept_apart(study, tmp_path, capsys):
    rng = np.random.default_rng(0)
    titles = [title for title, *_ in study.SETS]
    scores = {f"10/{title}": rng.normal(0, 1, 20).astype(np.float32) for title in titles}
    (tmp_path / "scores").mkdir()
    for name, own in {
        "complexity": {title: np.ones(20, np.float32) for title in titles},
        "r1_s0_fg": scores | {"dtype": np.array("mixed_bfloat16")},
        "r1_s0_mr0.1_reg10": scores | {"dtype": np.array("mixed_bfloat16")},
        "r1_s0_mr0.3_reg10": scores,  # of before files said it
    }.items():
        np.savez(tmp_path / "scores" / f"{name}.npz", **own)
    found = study.report(tmp_path)
    pairs = [row["background"] for row in found["rows"] if row["score"] == "ratio"]
    assert pairs == ["r1_s0_mr0.1_reg10"] == [row["background"] for row in found["chosen"]]
    assert {row["dtype"] for row in found["rows"]} == {"mixed_bfloat16"}
    assert "no pair: r1_s0_mr0.3_reg10" in capsys.readouterr().out
    settings = {"dtype": "mixed_bfloat16"}  # the run knows, where its scores do not say
    Run.open(tmp_path / "r1/reg10_mr0.3", **opening(settings))
    assert study.read_scores(tmp_path / "scores/r1_s0_mr0.3_reg10.npz")[0] == settings["dtype"]
    study.train(study.cases()["r1_s0_fg"], tmp_path, None)
    assert "is of mixed_bfloat16, and stays" in capsys.readouterr().out


def test_scores_say_their_precision(study, tmp_path, monkeypatch):
    class Done:
        folder = tmp_path
        settings = {"dtype": "mixed_bfloat16", "total_steps": 7}

        def checkpoints(self):
            return ["last"]

    monkeypatch.setattr(study, "Run", mock.MagicMock())
    # In this order: images_ood.extract must be imported with the true read_model.
    monkeypatch.setattr("images_ood.extract.log_prob_map", lambda *_: np.ones((2, 3, 3)))
    monkeypatch.setattr("ood_suite.training.stored_model.read_model", mock.MagicMock())
    study.score(Done(), {"mnist": None}, tmp_path / "scores.npz")
    dtype, steps = study.read_scores(tmp_path / "scores.npz")
    assert dtype == "mixed_bfloat16" and list(steps) == [7]
    np.testing.assert_array_equal(steps[7]["mnist"], [9.0, 9.0])
