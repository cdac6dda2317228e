"""Writes tests/references/: what other libraries compute, frozen for the tests, which need none of
them.

    pip install torch==2.13.0 numpy scipy scikit-learn safetensors
    pip install --no-deps pytorch-ood==0.4.0
    python tests/make_references.py

pytorch-ood imports torchvision, of which the functions used here need nothing: an empty package
stands in for it. Everything is drawn from fixed seeds; versions are kept in the files.
"""

import json
import pathlib

import numpy as np
import safetensors.torch
import sklearn
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from stand_in import stand_in_for_torchvision
from torch import nn
from torch.nn import functional

FOLDER = pathlib.Path(__file__).parent / "references"
CLASSES, WIDTH, TRAIN, TEST = 5, 24, 400, 60


def classifier_arrays():
    """Features (ReLU of class means with noise), a head, and labels; float32, as extracted."""
    rng = np.random.default_rng(20)
    centres = rng.normal(0.3, 1.0, (CLASSES, WIDTH))

    def features(count, spread):
        labels = np.arange(count) % CLASSES
        noise = rng.normal(0.0, spread, (count, WIDTH)) * np.linspace(0.3, 1.0, WIDTH)
        return np.maximum(centres[labels] + noise, 0.0).astype(np.float32), labels

    train, labels = features(TRAIN, 1.8)
    test, _ = features(TEST, 2.5)
    kernel = (0.4 * (centres - centres.mean(0)).T).astype(np.float32)
    bias = rng.normal(0.0, 0.3, CLASSES).astype(np.float32)
    return {
        "train": train, "labels": labels, "test": test, "head_kernel": kernel, "head_bias": bias,
        "train_logits": train @ kernel + bias, "test_logits": test @ kernel + bias,
    }  # fmt: skip


def scores(a):
    """{name: (TEST,)} of pytorch-ood and scikit-learn, higher = more OOD, not rescaled."""
    stand_in_for_torchvision()
    from pytorch_ood import detector

    t = {name: torch.tensor(array) for name, array in a.items()}
    head = nn.Linear(WIDTH, CLASSES)
    head.weight.data, head.bias.data = t["head_kernel"].T.contiguous(), t["head_bias"]

    def identity(x):
        return x

    def maps(x):
        return x[:, :, None, None]

    def flat_head(x):
        return head(x.flatten(1))

    logits, train_logits = t["test_logits"].double(), t["train_logits"].double()
    found = {
        "msp": detector.MaxSoftmax.score(logits),
        "max_logit": detector.MaxLogit.score(logits),
        "energy": detector.EnergyBased.score(logits),
        "energy_T2": detector.EnergyBased.score(logits, 2.0),
        "entropy": detector.Entropy(None).predict_logits(logits),
        "gen_mean": detector.GEN.score(logits, gamma=0.1, M=None),
        "kl_matching": detector.KLMatching(None)
        .fit_logits(train_logits, t["labels"])
        .predict_logits(logits),
    }
    correct = train_logits.argmax(1) == t["labels"]
    openmax = detector.OpenMax(None, tailsize=20, alpha=3)
    openmax.fit_logits(train_logits[correct], t["labels"][correct])
    found["openmax"] = openmax.predict_logits(logits)
    scaling = detector.TemperatureScaling(None)
    for _ in range(20):  # one call stops early
        scaling.fit_logits(train_logits, t["labels"])
    found["temperature"] = torch.as_tensor(scaling.t).detach().reshape(1)
    train, test, labels = t["train"], t["test"], t["labels"]
    fitted = {
        "mahalanobis_half_scatter": detector.Mahalanobis(None),
        "relative_mahalanobis": detector.RMD(None),
        "knn_50": detector.KNN(None, k=50),
        "knn_1": detector.KNN(None, k=1),
        "vim_12": detector.ViM(None, 12, head.weight.detach(), head.bias.detach()),
        "she": detector.SHE(identity, head),
        "fdbd": detector.fDBD(identity, head),
        "nci": detector.NCI(identity, head, alpha=0.01),
        "nnguide_10": detector.NNGuide(identity, head, k=10),
    }
    for name, one in fitted.items():
        found[name] = one.fit_features(train, labels).predict_features(test)
    for variant in "pbs":
        shaper = detector.ASH(maps, flat_head, variant=f"ash-{variant}", percentile=0.65)
        found[f"ash_{variant}+energy"] = shaper.predict_feature_maps(maps(test))
    shaper = detector.SCALE(maps, flat_head, percentile=0.85)
    found["scale+energy"] = shaper.predict_feature_maps(maps(test))
    found["gradnorm"] = gradnorm(head, test)
    a64 = {name: array.astype(np.float64) for name, array in a.items()}
    means = np.stack([a64["train"][a["labels"] == c].mean(0) for c in range(CLASSES)])
    tied = EmpiricalCovariance(assume_centered=True).fit(a64["train"] - means[a["labels"]])
    distances = [((a64["test"] - m) @ tied.precision_ * (a64["test"] - m)).sum(1) for m in means]
    found["sklearn_mahalanobis"] = torch.tensor(np.min(distances, axis=0))
    found |= oscr(t["test_logits"])
    unit = {k: a64[k] / np.linalg.norm(a64[k], axis=1, keepdims=True) for k in ("train", "test")}
    neighbours = NearestNeighbors(n_neighbors=50).fit(unit["train"])
    found["sklearn_knn_50"] = torch.tensor(neighbours.kneighbors(unit["test"])[0][:, -1])
    return {f"score/{name}": np.asarray(v.detach(), np.float64) for name, v in found.items()}


def oscr(logits):
    """pytorch-ood's OSCR of the energy: the first 40 examples are ID with labels i % CLASSES."""
    from pytorch_ood.detector import EnergyBased
    from pytorch_ood.metrics import functional

    labels = torch.arange(TEST) % CLASSES
    labels[40:] = -1
    area = functional.oscr_score(EnergyBased.score(logits), logits.argmax(1), labels)
    return {"oscr_of_energy": torch.as_tensor(area).reshape(1)}


def gradnorm(head, features):
    """-L1 norm of the gradient of KL(uniform || softmax) by the head's weights, by autograd."""
    found = []
    for row in features:
        head.zero_grad()
        loss = -functional.log_softmax(head(row), dim=0).mean()
        loss.backward()
        found.append(-head.weight.grad.abs().sum())
    return torch.stack(found)


class Bottleneck(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(functional.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.bn2(y)))], 1)


class Block(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layer = nn.Sequential(*layers)

    def forward(self, x):
        return self.layer(x)


class Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return functional.avg_pool2d(self.conv1(functional.relu(self.bn1(x))), 2)


class Classifier(nn.Module):
    """Body, last BatchNorm and ReLU, pooling, head: returns (features, logits)."""

    def forward(self, x):
        x = self.body(self.conv1(x))
        x = functional.relu(self.bn1(x)) if self.last_norm else x
        features = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return features, self.fc(features)


class DenseNet(Classifier):
    last_norm = True

    def __init__(self, growth=4, layers=2, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
        channels = 2 * growth
        for block in (1, 2, 3):
            made = [Bottleneck(channels + i * growth, growth) for i in range(layers)]
            setattr(self, f"block{block}", Block(made))
            channels += layers * growth
            if block < 3:
                setattr(self, f"trans{block}", Transition(channels))
                channels //= 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def body(self, x):
        return self.block3(self.trans2(self.block2(self.trans1(self.block1(x)))))


class WideBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = None
        if before != after:
            self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        active = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return y + (self.convShortcut(active) if self.convShortcut is not None else x)


class WideResNet(Classifier):
    last_norm = True

    def __init__(self, layers=2, classes=3, width=1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels = 16
        for block, after in ((1, 16 * width), (2, 32 * width), (3, 64 * width)):
            made = []
            for i in range(layers):
                made.append(WideBlock(channels, after, 2 if block > 1 and i == 0 else 1))
                channels = after
            setattr(self, f"block{block}", Block(made))
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def body(self, x):
        return self.block3(self.block2(self.block1(x)))


class Residual(nn.Module):
    def __init__(self, before, planes, stride, bottleneck):
        super().__init__()
        sizes, outputs = ((1, 3, 1), 4 * planes) if bottleneck else ((3, 3), planes)
        channels = before
        for i, size in enumerate(sizes, 1):
            after = outputs if i == len(sizes) else planes
            step = stride if size == 3 and (bottleneck or i == 1) else 1
            conv = nn.Conv2d(channels, after, size, step, size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
            channels = after
        self.count = len(sizes)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != outputs:
            conv = nn.Conv2d(before, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = functional.relu(y) if i < self.count else y
        return functional.relu(y + self.shortcut(x))


class ResNet(Classifier):
    last_norm = False

    def __init__(self, blocks, width, bottleneck, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for group, count in enumerate(blocks):
            made = []
            for i in range(count):
                planes = width * 2**group
                made.append(Residual(channels, planes, 2 if group and not i else 1, bottleneck))
                channels = planes * (4 if bottleneck else 1)
            setattr(self, f"layer{group + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(channels, classes)

    def body(self, x):
        x = functional.relu(self.bn1(x))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def randomised(model, seed):
    """Weights and BatchNorm statistics that leave no parameter without effect."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean = 0.3 * torch.randn(shape, generator=generator)
            module.running_var = 0.2 + torch.rand(shape, generator=generator)
            module.weight.data = 0.6 + 0.8 * torch.rand(shape, generator=generator)
            module.bias.data = 0.3 * torch.randn(shape, generator=generator)
    return model.eval()


def torchvision_names(state):
    """The names of torchvision's DenseNet for the same weights."""
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "conv1":
            name = "features.conv0.weight"
        elif parts[0].startswith("block"):
            kind = parts[3].replace("bn", "norm")
            layer = f"denselayer{int(parts[2]) + 1}"
            name = f"features.dense{parts[0]}.{layer}.{kind}.{parts[4]}"
        elif parts[0].startswith("trans"):
            name = f"features.transition{parts[0][-1]}.{parts[1].rstrip('1').replace('bn', 'norm')}"
            name += f".{parts[2]}"
        elif parts[0] == "bn1":
            name = f"features.norm5.{parts[1]}"
        else:
            name = f"classifier.{parts[1]}"
        found[name] = value
    return found


def checkpoints():
    """Writes tiny networks in the formats and namings found in the wild; {name: outputs}."""
    torch.manual_seed(3)
    models = {
        "densenet": randomised(DenseNet(), 1),
        "wide_resnet": randomised(WideResNet(layers=1), 2),
        "resnet18": randomised(ResNet((2, 2, 2, 2), 4, False), 3),
        "resnet50": randomised(ResNet((3, 4, 6, 3), 2, True), 4),
    }
    images = np.random.default_rng(9).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    mean, std = torch.tensor((125.3, 123.0, 113.9)), torch.tensor((63.0, 62.1, 66.7))
    pixels = ((torch.tensor(images).float() - mean) / std).permute(0, 3, 1, 2)
    found = {"images": images}
    with torch.no_grad():
        for name, model in models.items():
            features, logits = model(pixels)
            found |= {f"{name}/features": features.numpy(), f"{name}/logits": logits.numpy()}
    state = models["densenet"].state_dict()
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": parallel, "lr": 0.1}, FOLDER / "densenet.pth.tar")
    torch.save(state, FOLDER / "densenet_legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(torchvision_names(state), FOLDER / "densenet.safetensors")
    torch.save(models["wide_resnet"].state_dict(), FOLDER / "wide_resnet.pt")
    torch.save({"net": models["resnet18"].state_dict()}, FOLDER / "resnet18.pth")
    renamed = {
        name.replace("shortcut", "downsample").replace("fc.", "linear."): value
        for name, value in models["resnet50"].state_dict().items()
    }
    torch.save(renamed, FOLDER / "resnet50.pth")
    torch.save({"state_dict": models["densenet"].bn1}, FOLDER / "whole_module.pth")
    return found


def coupled_sgd():
    """Six steps of torch.optim.SGD with weight decay on a fixed gradient sequence, lr changing."""
    rng = np.random.default_rng(4)
    start, gradients = rng.normal(size=7), rng.normal(size=(6, 7))
    rates = [0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
    found = {"sgd/start": start, "sgd/gradients": gradients, "sgd/rates": np.array(rates)}
    for nesterov in (False, True):
        weights = torch.tensor(start, requires_grad=True)
        optimizer = torch.optim.SGD(
            [weights], lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.02
        )
        for gradient, rate in zip(gradients, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            weights.grad = torch.tensor(gradient)
            optimizer.step()
        found[f"sgd/nesterov_{nesterov}"] = weights.detach().numpy()
    return found


def main():
    FOLDER.mkdir(exist_ok=True)
    versions = {"torch": torch.__version__, "scikit-learn": sklearn.__version__}
    versions |= {"numpy": np.__version__, "pytorch-ood": "0.4.0"}
    arrays = classifier_arrays()
    np.savez_compressed(
        FOLDER / "scores.npz", versions=json.dumps(versions), **arrays, **scores(arrays)
    )
    np.savez_compressed(
        FOLDER / "networks.npz", versions=json.dumps(versions), **checkpoints(), **coupled_sgd()
    )


if __name__ == "__main__":
    main()
