"""The arrows of docs/architecture.md, enforced by folder: who may import whom, where flags are
read, what stands inside functions, and what must start without a framework.
"""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BRANCHES = ("classifier_ood", "genomics_ood", "images_ood")
PACKAGES = ("ood_suite", *BRANCHES)
FRAMEWORKS = ("tensorflow", "keras", "tf_keras", "tensorflow_probability", "jax", "torch")
# Part of ood_suite -> the other parts that it may import. What has no folder is named by module.
ARRAYS = {
    "optional", "conformal", "detector", "files", "intervals", "metrics", "outputs", "plugins",
    "ranks", "selective", "processors",
    "progress", "shipped", "scores", "data",
}  # fmt: skip
ARROWS = {part: ARRAYS for part in ARRAYS} | {
    "runs": ARRAYS | {"runs"},
    "training": ARRAYS | {"runs", "training"},
    "evaluation": ARRAYS | {"runs", "evaluation", "protocols"},
    "__init__": ARRAYS | {"runs", "evaluation"},
    "__main__": {"optional"},
    "serving": ARRAYS | {"runs", "training", "evaluation", "serving"},
    "benchmark": {"evaluation", "protocols", "runs"},
    "calibrate": ARRAYS | {"runs", "serving"},
    "monitor": ARRAYS | {"runs", "serving"},
    "screen": ARRAYS | {"runs", "serving"},
    "compare": ARRAYS | {"runs", "evaluation"},
    "data_sets": {"data", "runs"},
    "protocols": ARRAYS,
    "eval": ARRAYS | {"runs", "evaluation"},
    "extract": ARRAYS | {"runs"},
}
# What needs NumPy, SciPy and scikit-learn alone.
ALONE = (
    "conformal", "detector", "files", "intervals", "metrics", "outputs", "plugins", "processors",
    "ranks", "scores", "selective",
)  # fmt: skip
# Modules of others that are imported where they are needed, because they are slow to start or not
# always there; of our own only those that load Keras or matplotlib, and in binaries alone.
DEFERRED = ("jax", "matplotlib", "ray", "scipy.stats", "sklearn.linear_model", "tensorflow")


@functools.cache
def sources():
    """{module: (path, tree)} of all code that is no test."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.name.endswith("_test.py"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found[name.removesuffix(".__init__")] = path, tree
    return found


def imports(tree):
    """Full names of what a module imports, wherever in it; of `from a import b` also "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_imports(tree):
    """Those that are modules of ours."""
    return {name for name in imports(tree) if name in sources()}


def is_binary(tree):
    return any(
        isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node.test)
        for node in tree.body
    )


def part(module):
    """detector of ood_suite.detector, runs of ood_suite.runs.run."""
    return (module.split(".") + ["__init__"])[1]


@pytest.mark.parametrize("module", [m for m in sources() if m.split(".")[0] == "ood_suite"])
def test_arrows_within_the_shared_package(module):
    allowed = ARROWS.get(part(module))
    assert allowed is not None, f"Say in ARROWS of {__file__} what {module} may import."
    names = our_imports(sources()[module][1]) - {"ood_suite"}
    assert not [n for n in names if n.split(".")[0] in BRANCHES], "ood_suite imports a branch"
    wrong = {name for name in names if part(name) not in allowed | {part(module)}}
    assert not wrong, f"{module} may import {sorted(allowed)}, and imports {sorted(wrong)}"


@pytest.mark.parametrize("branch", BRANCHES)
def test_no_branch_imports_another(branch):
    for module, (_, tree) in sources().items():
        if module.split(".")[0] == branch:
            tops = {name.split(".")[0] for name in our_imports(tree)}
            assert not tops & set(BRANCHES) - {branch}, module


def test_no_library_imports_a_binary():
    binaries = {module for module, (_, tree) in sources().items() if is_binary(tree)}
    assert len(binaries) > 20
    for module, (_, tree) in sources().items():
        assert not our_imports(tree) & binaries, module


def test_flags_are_read_in_binaries_alone():
    for module, (_, tree) in sources().items():
        uses = {"absl.flags", "absl.app"} & set(imports(tree))
        assert not uses or is_binary(tree) or module == "ood_suite.runs.cli", module


def test_keras_stands_in_training_and_branches_alone():
    for module, (_, tree) in sources().items():
        if module.startswith("ood_suite.") and part(module) != "training":
            tops = {name.split(".")[0] for name in imports(tree)}
            assert not tops & set(FRAMEWORKS), module


@pytest.mark.parametrize("module", ALONE)
def test_scoring_arrays_needs_three_packages(module):
    allowed = {"numpy", "scipy", "sklearn", "ood_suite"} | set(sys.stdlib_module_names)
    for name, (_, tree) in sources().items():
        if name.startswith(f"ood_suite.{module}"):
            assert {n.split(".")[0] for n in imports(tree)} <= allowed, name


def test_imports_stand_at_the_top():
    """Within functions only what defers something slow, or what may be absent."""
    for module, (_, tree) in sources().items():
        inner = [
            name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for name in imports(function)
        ]
        ours = [name for name in inner if name.split(".")[0] in PACKAGES]
        others = [n for n in inner if n.split(".")[0] not in PACKAGES]
        assert not [n for n in others if not n.startswith(DEFERRED)], f"{module}: {others}"
        assert not ours or is_binary(tree), f"{module}: {ours}"


def test_nothing_reads_flags_or_files_at_import():
    for module, (_, tree) in sources().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If):
                continue
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            assert not names & {"open", "np.load"}, module
            assert not any(name.startswith("flags.DEFINE") for name in names), module


def test_binaries_start_without_a_framework():
    """So that --help is quick, and TensorFlow finds its variables set."""
    binaries = [module for module, (_, tree) in sources().items() if is_binary(tree)]
    binaries.remove("ood_suite.__main__")
    code = (
        f"import sys, {', '.join(binaries)}\n"
        f"loaded = [n for n in {(*FRAMEWORKS, 'matplotlib')!r} if n in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_scoring_runs_where_nothing_else_is_installed(tmp_path):
    """A process in which all but NumPy, SciPy and scikit-learn is missing."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("absl", "tqdm", "matplotlib", "PIL", "keras", "tensorflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import numpy as np
from ood_suite import Detector, Outputs, SCORES
assert "sklearn" not in sys.modules and "scipy.stats" not in sys.modules  # slow to start
from ood_suite import intervals, metrics
logits = np.random.default_rng(0).normal(size=(50, 4))
detector = Detector("energy").fit(Outputs(logits=logits))
assert detector.is_ood(Outputs(logits=logits - 9)).all()
assert len(SCORES) > 20 and metrics.evaluate(detector.score(Outputs(logits=logits)), np.ones(3))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
