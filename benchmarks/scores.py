"""Our scores against those of pytorch-ood 0.4.0 and oodeel 0.4.0 on the same arrays, in one run.

    python benchmarks/scores.py --torch_python=A/bin/python --oodeel_python=B/bin/python
    python benchmarks/scores.py --torch_python=A/bin/python --size=imagenet --rounds=1

Each library runs in a process of its own environment, one after the other: A has torch and
pytorch-ood (see tests/make_references.py), B has oodeel, datasets, faiss-cpu, torch and
torchvision. Generated features of a DenseNet's shape: 40000 training and 20000 test examples, 342
features, 10 classes. Medians of several rounds. Also the metrics of each library on 2 x 20000
scores. Without the other environments only ours are measured. Writes benchmarks/scores.json, ours
alone, which docs/scores.md shows; with --only=NAMES measures these, of ours and of pytorch-ood, and
leaves the others as they are, if they are of this machine. With --size=imagenet: 100000 training
and 2000 test examples, 2048 features, 1000 classes, the scores that pytorch-ood has too; writes
benchmarks/scores_imagenet.json, with pytorch-ood alone. (Its Mahalanobis takes minutes for 2000:
--test=50000 is for --only=NAMES, and writes a file of its own.)
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
COSTS = ROOT / "benchmarks" / "scores.json"
TRAIN, TEST, WIDTH, CLASSES = 40_000, 20_000, 342, 10
IMAGENET_TRAIN, IMAGENET_TEST, IMAGENET_WIDTHS = 100_000, 2_000, (2048, 1000)


def arrays(size=(TRAIN, TEST, WIDTH, CLASSES)):
    """Features like a ReLU network's, logits of a head that fits them; float32."""
    training, test, width, classes = size
    rng = np.random.default_rng(0)
    centres = np.maximum(rng.normal(-0.5, 1.0, (classes, width)), 0.0)
    kernel = (0.2 * (centres - centres.mean(0)).T).astype(np.float32)
    bias = rng.normal(0.0, 0.1, classes).astype(np.float32)
    found = {"head_kernel": kernel, "head_bias": bias}
    for name, count in (("train", training), ("test", test)):
        labels = np.arange(count) % classes
        noise = rng.standard_normal((count, width), np.float32)
        features = np.maximum(centres[labels].astype(np.float32) + 0.5 * noise, 0.0)
        found |= {
            name: features,
            f"{name}_logits": features @ kernel + bias,
            f"{name}_labels": labels,
        }
    found["id_scores"], found["ood_scores"] = rng.normal(0, 1, 20_000), rng.normal(1.5, 1, 20_000)
    return found


def timed(rounds, function):
    """(median seconds, last result)."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


def as_outputs(a):
    """(training, test) Outputs of the arrays, with something in the place of what they lack."""
    from ood_suite.outputs import Outputs

    head = {name: a[name] for name in ("head_kernel", "head_bias")}
    found = []
    for n in ("train", "test"):
        features, logits = a[n], a[f"{n}_logits"]
        found.append(Outputs(
            features=features, logits=logits, labels=a[f"{n}_labels"],
            logits_perturbed={"T=1000,epsilon=0.0014": logits},
            features_perturbed=0.9 * features, rank_one=0.1 * features,
            gram_sums={"layer": np.tile(features, 3420 // features.shape[1])},
            layer_features={"layer": features},
            member_logits={f"{member},{rule},T=1000,epsilon=0.002": logits
                           for member in range(5) for rule in ("entropy", "cross_entropy")},
            log_prob=features.sum(axis=1), code_length=features.sum(axis=1),
            background_log_prob=features.mean(axis=1), background_log_probs=features[:, :4],
            **head,
        ))  # fmt: skip
    return found


def ours(a, rounds, only=()):
    sys.path.insert(0, str(ROOT))
    from ood_suite import metrics, scores

    found = _timed_scores(scores, rounds, only, as_outputs(a))
    pair = a["id_scores"], a["ood_scores"]
    if not only or "metrics" in only:
        seconds, _ = timed(rounds, lambda: metrics.evaluate(*pair))
        found["metrics"] = {"fit_s": 0.0, "score_s": seconds}
    return found


def _timed_scores(scores, rounds, only, outputs):
    training, test = outputs
    found = {}
    for name in [name for name in only or scores.ALL if name != "metrics"]:
        entry = scores.get(name)
        if "&" in name:  # costs what its members cost
            continue
        if any(getattr(training, field) is None for field in entry.needs):
            continue
        learner, fit = entry.make(), 0.0
        if entry.learns:
            fit, _ = timed(
                rounds, lambda e=entry, s=learner: s.fit(*training.require(e.fit_needs, ""))
            )
        arrays = test.require(entry.needs, "")
        if hasattr(learner, "fit_held_out"):
            learner.fit_held_out(*arrays)
        if hasattr(learner, "fit_validation"):
            learner.fit_validation(arrays, training.require(entry.needs, ""))
        function = getattr(learner, "score", learner)
        score, _ = timed(rounds, lambda e=entry, f=function: f(*test.require(e.needs, "")))
        found[name] = {"fit_s": fit, "score_s": score}
    return found


def pytorch_ood(a, rounds, only=()):
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from stand_in import stand_in_for_torchvision

    stand_in_for_torchvision()
    from pytorch_ood import detector
    from pytorch_ood.metrics import functional

    t = {name: torch.tensor(array) for name, array in a.items()}
    head = torch.nn.Linear(*a["head_kernel"].shape).requires_grad_(False)
    head.weight.data, head.bias.data = t["head_kernel"].T.contiguous(), t["head_bias"]

    def same(x):
        return x

    def flat(x):
        return head(x.flatten(1))

    w, b = head.weight.detach(), head.bias.detach()
    of_logits = {
        "msp": (None, detector.MaxSoftmax.score), "max_logit": (None, detector.MaxLogit.score),
        "energy": (None, detector.EnergyBased.score), "gen": (None, detector.GEN.score),
        "entropy": (None, detector.Entropy(None).predict_logits),
    }  # fmt: skip
    for name, one in {
        "kl_matching": detector.KLMatching(None),
        "openmax": detector.OpenMax(None, tailsize=20, alpha=3),
    }.items():
        of_logits[name] = (one.fit_logits, one.predict_logits)
    of_features = {
        "mahalanobis": detector.Mahalanobis(None), "relative_mahalanobis": detector.RMD(None),
        "knn": detector.KNN(None, k=50), "vim": detector.ViM(None, len(w[0]) // 2, w, b),
        "she": detector.SHE(same, head), "fdbd": detector.fDBD(same, head),
        "nci": detector.NCI(same, head, 0.001), "nnguide": detector.NNGuide(same, head),
    }  # fmt: skip
    maps = {
        f"ash_{v}+energy": detector.ASH(same, flat, variant=f"ash-{v}", percentile=0.9)
        for v in "pbs"
    }
    maps |= {"scale+energy": detector.SCALE(same, flat, percentile=0.85)}
    found = {}

    def wanted(entries):
        return [(name, entry) for name, entry in entries.items() if not only or name in only]

    with torch.no_grad():
        for name, (fit, score) in wanted(of_logits):
            found[name] = {"fit_s": 0.0}
            if fit:
                arguments = t["train_logits"], t["train_labels"]
                found[name]["fit_s"] = timed(rounds, lambda f=fit, x=arguments: f(*x))[0]
            found[name]["score_s"] = timed(rounds, lambda s=score: s(t["test_logits"]))[0]
        for name, one in wanted(of_features):
            fit = timed(rounds, lambda o=one: o.fit_features(t["train"], t["train_labels"]))[0]
            score = timed(rounds, lambda o=one: o.predict_features(t["test"]))[0]
            found[name] = {"fit_s": fit, "score_s": score}
        for name, one in wanted(maps):
            x = t["test"][:, :, None, None]
            score = timed(rounds, lambda o=one, x=x: o.predict_feature_maps(x))[0]
            found[name] = {"fit_s": 0.0, "score_s": score}
    values = torch.cat([t["id_scores"], t["ood_scores"]])
    labels = torch.cat([torch.zeros(20_000), -torch.ones(20_000)]).long()

    def all_metrics():
        functional.auroc(values, labels)
        functional.aupr(values, labels, positive="ood")
        functional.aupr(values, labels, positive="id")
        functional.fpr_at_tpr(values, labels)

    if not only or "metrics" in only:
        found["metrics"] = {"fit_s": 0.0, "score_s": timed(rounds, all_metrics)[0]}
    return found


def oodeel(a, rounds):
    """Its detectors want a model: here a stack of layers that starts at the features."""
    import torch
    from oodeel.eval.metrics import bench_metrics
    from oodeel.methods import DKNN, GEN, MLS, RMDS, VIM, Energy, Entropy, Mahalanobis

    body, head = torch.nn.Identity(), torch.nn.Linear(WIDTH, CLASSES).requires_grad_(False)
    head.weight.data = torch.tensor(a["head_kernel"]).T.contiguous()
    head.bias.data = torch.tensor(a["head_bias"])
    model = torch.nn.Sequential(body, head).eval()

    def loader(name):
        data = torch.tensor(a[name]), torch.tensor(a[f"{name}_labels"])
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=1000)

    train, test, found = loader("train"), loader("test"), {}
    plain = {"msp": MLS(output_activation="softmax"), "max_logit": MLS(), "energy": Energy(),
             "entropy": Entropy(), "gen": GEN()}  # fmt: skip
    learned = {"mahalanobis": Mahalanobis(eps=0.0), "relative_mahalanobis": RMDS(eps=0.0),
               "vim": VIM(171), "knn": DKNN(nearest=50)}  # fmt: skip
    for name, one in (plain | learned).items():
        options = {"feature_layers_id": [0], "fit_dataset": train} if name in learned else {}
        try:
            fit = timed(rounds, lambda o=one, x=options: o.fit(model, **x))[0]
            score = timed(rounds, lambda o=one: o.score(test))[0]
        except Exception as error:  # their defect, not ours: say it and go on
            print(f"oodeel {name}: {type(error).__name__} {error}", file=sys.stderr)
            continue
        found[name] = {"fit_s": fit if options else 0.0, "score_s": score}
    pair = a["id_scores"], a["ood_scores"]

    def all_metrics():
        bench_metrics(pair, metrics=["auroc", "fpr95tpr"])

    found["metrics"] = {"fit_s": 0.0, "score_s": timed(1, all_metrics)[0]}
    return found


def in_its_environment(python, name, path, rounds, only=()):
    done = subprocess.run(
        [python, __file__, f"--worker={name}", f"--arrays={path}", f"--rounds={rounds}"]
        + [f"--only={','.join(only)}"], stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def of_imagenet_size(python, rounds, known, only, test):
    """Both libraries on the scores that pytorch-ood has, at the size of ImageNet's networks; ours
    alone without its Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "arrays.npz"
        np.savez(path, **arrays((IMAGENET_TRAIN, test, *IMAGENET_WIDTHS)))
        theirs = in_its_environment(python, "pytorch_ood", path, rounds, only) if python else {}
        names = only or list(theirs or known.get("pytorch_ood", {}))
        mine = in_its_environment(sys.executable, "ours", path, rounds, names)
        return {"ours": mine} | ({"pytorch_ood": theirs} if python else {})


def imagenet(flags, only):
    """Measures at ImageNet's size, and writes that down if both sides are there."""
    many = "" if flags.test == IMAGENET_TEST else f"_{flags.test}"
    path = COSTS.with_name(f"scores_imagenet{many}.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    old = known if only else {}
    staying = [name for name in old.get("ours", {}) if name not in only]
    stamp = machine.stamp(known, staying) if flags.torch_python else {}
    found = of_imagenet_size(flags.torch_python, flags.rounds, known, only, flags.test)
    if not flags.torch_python:
        print(f"{table(found)}\n{machine.NOT_WRITTEN}")
        return
    found = {side: old.get(side, {}) | rows for side, rows in found.items()}
    path.write_text(json.dumps(stamp | found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def table(found):
    """Markdown: seconds of each library, and theirs over ours."""
    peers = [name for name in found if name != "ours"]
    titles = ["score", "ours: fit s, score s", *(f"{p}: fit s, score s" for p in peers)]
    titles += [f"{p} / ours, in all" for p in peers]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for name, row in found["ours"].items():
        cells = [f"{row['fit_s']:.3f}, {row['score_s']:.3f}"]
        theirs = [found[p].get(name) for p in peers]
        cells += [f"{t['fit_s']:.3f}, {t['score_s']:.3f}" if t else "" for t in theirs]
        total = row["fit_s"] + row["score_s"]
        cells += [f"{(t['fit_s'] + t['score_s']) / total:.2f}" if t else "" for t in theirs]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(measured, known):
    """Writes the costs of ours, beside those that are known of this machine."""
    stamp = machine.stamp(known, [name for name in known["costs"] if name not in measured])
    costs = known["costs"] | {
        name: {"fit_s": row["fit_s"], "score_ms": row["score_s"] / TEST * 1e6}
        for name, row in measured.items()
    }
    text = stamp | {"costs": costs, "examples": {"fit": TRAIN, "score": TEST}}
    COSTS.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch_python", help="Python with torch and pytorch-ood 0.4.0")
    parser.add_argument("--oodeel_python", help="Python with oodeel 0.4.0")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--only", default="", help="names, with commas: these, added anew")
    parser.add_argument("--size", choices=["cifar", "imagenet"], default="cifar")
    parser.add_argument("--test", type=int, default=IMAGENET_TEST, help="scored, of imagenet")
    parser.add_argument("--worker", choices=["ours", "pytorch_ood", "oodeel"], help="internal")
    parser.add_argument("--arrays", help="internal")
    flags = parser.parse_args()
    only = flags.only.split(",") if flags.only else []
    if flags.worker:
        more = [only] if only else []
        measured = globals()[flags.worker](dict(np.load(flags.arrays)), flags.rounds, *more)
        print(json.dumps(measured))
        return
    if flags.size == "imagenet":
        imagenet(flags, only)
        return
    known = json.loads(COSTS.read_text()) if only else {"costs": {}}
    machine.stamp(known, set(known["costs"]) - set(only))  # refuses before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "arrays.npz"
        np.savez(path, **arrays())
        pythons = {"ours": sys.executable, "pytorch_ood": flags.torch_python}
        pythons |= {"oodeel": None if only else flags.oodeel_python}
        found = {
            name: in_its_environment(python, name, path, flags.rounds, only)
            for name, python in pythons.items()
            if python
        }
    print(table(found))
    write(found["ours"], known)


if __name__ == "__main__":
    main()
