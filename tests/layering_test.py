"""The arrows of the design, enforced: who may import whom, and what importing must not load."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BRANCHES = ("images_ood", "genomics_ood", "classifier_ood")
FRAMEWORKS = ("tensorflow", "keras", "tf_keras", "tensorflow_probability", "jax", "torch")
# Module -> packages it may import besides the standard library, wherever in the code.
PURE = {
    "metrics": {"numpy", "scipy"},
    "intervals": {"numpy", "scipy", "ood_suite"},
    "outputs": {"numpy", "ood_suite"},
    "files": {"numpy"},
    "runs/run": {"numpy", "ood_suite"},
    "detector": {"numpy", "ood_suite"},
}


def imports(path):
    """Full names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package):
    return [p for p in (ROOT / package).rglob("*.py") if not p.name.endswith("_test.py")]


def test_the_shared_package_imports_no_branch():
    for path in sources("ood_suite"):
        found = [name for name in imports(path) if name.split(".")[0] in BRANCHES]
        assert not found, f"{path} imports {found}"


@pytest.mark.parametrize("branch", BRANCHES)
def test_no_branch_imports_another(branch):
    for path in sources(branch):
        others = [name for name in imports(path) if name.split(".")[0] in set(BRANCHES) - {branch}]
        assert not others, f"{path} imports {others}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_stay_pure(module):
    for name in imports(ROOT / "ood_suite" / f"{module}.py"):
        top = name.split(".")[0]
        assert top in PURE[module] | set(sys.stdlib_module_names), f"{module} imports {name}"


def test_scores_use_arrays_only():
    for path in sources("ood_suite/scores"):
        allowed = {"numpy", "scipy", "sklearn", "ood_suite"} | set(sys.stdlib_module_names)
        assert {name.split(".")[0] for name in imports(path)} <= allowed


def test_evaluation_loads_no_framework():
    code = (
        "import sys, ood_suite.eval, ood_suite.evaluation.report, ood_suite.data\n"
        f"loaded = [name for name in {FRAMEWORKS!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nothing_reads_flags_or_files_at_import():
    for package in ("ood_suite", *BRANCHES):
        for path in sources(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
                if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If)):
                    continue
                names = {ast.unparse(call.func) for call in calls}
                assert not names & {"open", "np.load"}, path
                assert not any(name.startswith("flags.DEFINE") for name in names), path
