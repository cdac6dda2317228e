"""Models of users: features and logits found wherever they are, the model itself never changed."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import softmax

from classifier_ood import models
from classifier_ood.keras_classifier import KerasClassifier
from ood_suite.detector import Detector
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs
from ood_suite.training import input_gradients


def sequential(last):
    return keras.Sequential([
        keras.Input((6, 6, 1)), layers.Rescaling(1 / 255), layers.Conv2D(5, 3, name="maps"),
        layers.GlobalAveragePooling2D(name="pool"), layers.Dropout(0.5), *last,
    ])  # fmt: skip


def nested():
    body = keras.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(5, 3), layers.Flatten()])
    inputs = keras.Input((6, 6, 1))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(body(inputs)))


def with_ops_softmax():
    inputs = keras.Input((6, 6, 1))
    return keras.Model(inputs, keras.ops.softmax(layers.Dense(3)(layers.Flatten()(inputs))))


MODELS = {
    "logits": lambda: sequential([layers.Dense(3)]),
    "softmax inside": lambda: sequential([layers.Dense(3, activation="softmax")]),
    "softmax after": lambda: sequential([layers.Dense(3), layers.Softmax()]),
    "activation after": lambda: sequential([layers.Dense(3), layers.Activation("softmax")]),
    "no bias": lambda: sequential([layers.Dense(3, use_bias=False)]),
    "body in a model": nested,
    "ops softmax": with_ops_softmax,
    "cast after": lambda: sequential([layers.Dense(3), layers.Activation("linear")]),
    "head in a model": lambda: sequential([keras.Sequential([layers.Dense(3)])]),
}


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(5)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, 6, 6, 1)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_features_and_logits(name, images):
    model = MODELS[name]()
    before = json.dumps(model.get_config(), default=str), [w.copy() for w in model.get_weights()]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    view = KerasClassifier(model)
    found = view.network.predict(images, verbose=0)
    again = found["features"] @ view.head["head_kernel"] + view.head["head_bias"]
    np.testing.assert_allclose(again, found["logits"], rtol=1e-5, atol=1e-6)
    plain = model.predict(images, verbose=0)
    ours = found["logits"]
    if "softmax" in name or "activation" in name or "body" in name:
        ours = softmax(ours, axis=1)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    assert json.dumps(model.get_config(), default=str) == before[0]
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for now, then in zip(model.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(now, then)


def test_integer_inputs_have_gradients_too():
    """keras.applications' own example; TensorFlow found no gradient and JAX one of zeros."""
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3)).astype(np.float32)
    body = models.build("convnet", (6, 6, 3), 3, {"width": 4})

    head = layers.Dense(2)

    def classifier(dtype):
        inputs = keras.Input((6, 6, 3), dtype=dtype)
        features = body(keras.ops.cast(inputs, "float32"))["features"]
        return KerasClassifier(keras.Model(inputs, head(features)))

    views = [classifier(dtype) for dtype in ("uint8", "float32")]
    np.testing.assert_array_equal(*(view.outputs(images).logits for view in views))
    moved = [
        input_gradients.odin(view.network, 10.0, [0.0, 0.002])(images).values() for view in views
    ]
    for ours, theirs in zip(*moved, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    plain, stepped = moved[0]
    assert np.all(plain != stepped)


@pytest.mark.parametrize("where", ["in a list", "in a model within", "before a lambda"])
def test_integer_inputs_of_every_kind_are_taken(where):
    inputs = keras.Input((6, 6, 3), dtype="uint8")
    floats = keras.ops.cast(inputs, "float32")
    if where == "before a lambda":
        floats = layers.Lambda(lambda x: x / 255.0)(floats)
    model = keras.Model([inputs], layers.Dense(2)(layers.Flatten()(floats)))
    if where == "in a model within":
        model = keras.Sequential([keras.Input((6, 6, 3)), model, layers.Dense(2)])
    view = KerasClassifier(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    plain = model.predict(images, verbose=0)
    np.testing.assert_allclose(view.outputs(images).logits, plain, rtol=1e-5, atol=1e-5)
    if where == "in a list":
        input_gradients.odin(view.network, 1.0, [0.1])(images.astype(np.float32))
        return
    with pytest.raises(ValueError, match="takes integers, within it or at its input, and has no"):
        input_gradients.odin(view.network, 1.0, [0.1])


def test_any_layer_can_be_the_features(images):
    model = MODELS["logits"]()
    maps = keras.Model(model.inputs, model.get_layer("maps").output).predict(images, verbose=0)
    view = KerasClassifier(model, features_layer="maps", inner_layers=("maps", "pool"))
    found = view.network.predict(images, verbose=0)
    np.testing.assert_allclose(found["features"], maps.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert view.head  # their mean is what the head sees
    assert set(found) == {"features", "logits", "layer_features/maps", "layer_features/pool"}
    other = KerasClassifier(models.build("convnet", (6, 6, 1), 3), features_layer="stage1_bn1")
    assert other.head == {}
    with pytest.raises(ValueError, match=r"no layer 'pol'. Candidates: .*maps \(4, 4, 5\), pool"):
        KerasClassifier(model, features_layer="pol")


def test_layers_of_a_model_within_the_model(images):
    body = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, name="c1"), layers.ReLU(name="r1")],
        name="body",
    )
    model = keras.Sequential([body, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    view = KerasClassifier(model, "body", inner_layers=("body/c1",))
    found = view.network.predict(images, verbose=0)
    maps = body.predict(images, verbose=0)
    np.testing.assert_allclose(found["features"], maps.mean((1, 2)), rtol=1e-5, atol=1e-5)
    before = keras.Model(body.inputs, body.get_layer("c1").output).predict(images, verbose=0)
    inner = found["layer_features/body/c1"]
    np.testing.assert_allclose(inner, before.mean((1, 2)), rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"Candidates: body/c1 \(4, 4, 4\), body/r1"):
        KerasClassifier(model, "c1")


def test_input_ranges(images):
    unscaled = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3)])
    for name, pixels in (("0..255", images), ("0..1", images / 255), ("-1..1", images / 127.5 - 1)):
        found = KerasClassifier(unscaled, input_range=name).network.predict(images, verbose=0)[
            "logits"
        ]
        expected = unscaled.predict(pixels, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="must end in a Dense layer.* It ends in"):
        KerasClassifier(sequential([]))
    with pytest.raises(ValueError, match="leaves its image shape open"):
        inputs = keras.Input((None, None, 1))
        KerasClassifier(
            keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(inputs)))
        )
    with pytest.raises(ValueError, match=r"takes images \(6, 6, 1\). Received: \(5, 5, 1\)"):
        KerasClassifier(MODELS["logits"](), image_shape=(5, 5, 1))

    with pytest.raises(ValueError, match="at least 2. It has 1"):
        KerasClassifier(sequential([layers.Dense(1, activation="sigmoid")]))
    named = keras.Input((6, 6, 1))
    with pytest.raises(ValueError, match=r"must have 'logits'. Received: \['y'\]"):
        KerasClassifier(keras.Model(named, {"y": layers.Dense(2)(layers.Flatten()(named))}))

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be functional or sequential"):
        KerasClassifier(Subclassed())


class Body(keras.Model):
    """What has no graph to look into."""

    def __init__(self):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(4)

    def call(self, x):
        return self.dense(self.flatten(x))


def test_a_subclassed_body_below_a_head(images):
    inputs, body = keras.Input((6, 6, 1)), Body()
    found = KerasClassifier(keras.Model(inputs, layers.Dense(3)(body(inputs)))).outputs(images)
    np.testing.assert_allclose(found.features, body(images), rtol=1e-5)
    with pytest.raises(ValueError, match="must end in a Dense layer"):
        KerasClassifier(keras.Model(inputs, body(inputs)))


def test_which_of_several_outputs_are_the_logits(images):
    inputs = keras.Input((6, 6, 1))
    flat = layers.Flatten()(inputs)
    embedding, logits = layers.Dense(7)(flat), layers.Dense(3)(flat)
    with pytest.raises(ValueError, match=r"has 2 outputs .* Say which are the logits"):
        KerasClassifier(keras.Model(inputs, [embedding, logits]))
    inner = keras.Model(inputs, [embedding, logits])
    outer = keras.Input((6, 6, 1))
    found = KerasClassifier(keras.Model(outer, inner(outer)[1])).outputs(images)
    np.testing.assert_allclose(found.logits, inner(images)[1], rtol=1e-4, atol=1e-3)


def test_images_without_channels_have_a_way_in(images):
    flat = keras.Sequential([keras.Input((6, 6)), layers.Flatten(), layers.Dense(3)])
    for shape in (None, (6, 6), (6, 6, 1)):
        with pytest.raises(ValueError, match=r"takes \(6, 6\). Images without an axis of channels"):
            KerasClassifier(flat, image_shape=shape)
    wrapped = keras.Sequential([keras.Input((6, 6, 1)), layers.Reshape((6, 6)), flat])
    found = KerasClassifier(wrapped).outputs(images)
    np.testing.assert_allclose(found.logits, flat(images[..., 0]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, 65535.0), (0.0, np.nan)])
def test_pixels_beyond_a_byte_are_refused(images, low, high):
    classifier = KerasClassifier(MODELS["logits"]())
    images[0, 0, 0], images[0, 0, 1] = low, high
    with pytest.raises(ValueError, match=r"must be in 0\.\.255. Received: "):
        classifier.outputs(images)


def test_odin_moves_as_the_formula_says(images):
    """Against finite differences of the loss, image by image."""
    view = KerasClassifier(MODELS["logits"]())
    temperature, epsilon = 10.0, 0.01

    def logits(batch):
        return view.network.predict(batch, verbose=0)["logits"].astype(np.float64)

    def loss(batch, label):
        z = logits(batch) / temperature
        return np.log(np.exp(z).sum(1)) - z[:, label]

    found = input_gradients.odin(view.network, temperature, [0.0, epsilon])(images)
    np.testing.assert_allclose(found["T=10,epsilon=0"], logits(images), rtol=1e-6)
    for row, image in enumerate(images):
        label = int(np.argmax(logits(image[None])[0]))
        steps = 20.0 * np.eye(36).reshape(36, 6, 6, 1)
        slope = loss(image + steps, label) - loss(image - steps, label)
        assert np.abs(slope).min() > 1e-6
        moved = image - 255.0 * epsilon * np.sign(slope).reshape(6, 6, 1)
        expected = logits(moved[None])[0]
        np.testing.assert_allclose(found["T=10,epsilon=0.01"][row], expected, rtol=1e-4, atol=1e-5)
        before = loss(image[None], label)
        assert loss(moved[None], label) < before


@pytest.mark.parametrize("rule", input_gradients.RULES)
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_the_sign_of_the_perturbation_by_finite_differences(rule, temperature, rng):
    """A network whose gradient turns with the temperature: x -> logits (3x, x, -2x, 0.5x)."""
    weights = np.array([[3.0, 1.0, -2.0, 0.5], [-1.0, 2.0, 0.3, -0.7], [0.2, -0.4, 1.5, 1.0]])
    inputs = keras.Input((1, 3, 1))
    dense = layers.Dense(4, use_bias=False)
    network = keras.Model(inputs, {"logits": dense(layers.Flatten()(inputs))})
    dense.set_weights([weights.astype(np.float32)])
    x = rng.normal(0.0, 1.5, (40, 1, 3, 1)).astype(np.float32)

    def loss(values):
        p = softmax(
            values.reshape(len(values), 3).astype(np.float64) @ weights / temperature, axis=1
        )
        return -(p * np.log(p)).sum(axis=1) if rule == "entropy" else -np.log(p.max(axis=1))

    found = input_gradients.odin(network, temperature, [0.25], rule, scale=1.0)(x)
    moved = found[input_gradients.odin_key(temperature, 0.25)]
    expected = x.copy().reshape(40, 3)
    for column in range(3):
        step = np.zeros((1, 1, 3, 1))
        step[0, 0, column] = 1e-5
        slope = loss(x.astype(np.float64) + step) - loss(x.astype(np.float64) - step)
        expected[:, column] -= 0.25 * np.sign(slope)
    np.testing.assert_allclose(moved, expected @ weights, rtol=1e-4, atol=1e-4)


def test_mahalanobis_perturbation_shortens_the_distance(images, rng):
    view = KerasClassifier(MODELS["logits"](), inner_layers=("pool",))
    means, white = rng.normal(0, 1, (3, 5)), rng.normal(0, 1, (5, 4))
    precision = white @ white.T
    key = "layer_features/pool"

    def distance(features):
        differences = features[:, None] - means
        return np.einsum("ncd,de,nce->nc", differences, precision, differences).min(1)

    gaussians = {"pool": (means, white)}
    moved = input_gradients.mahalanobis(view.network, gaussians, [0.002])(images)
    before = distance(view.network.predict(images, verbose=0)[key])
    assert (distance(moved["pool,epsilon=0.002"]) < before).all()


def test_a_detector_refuses_another_network_or_range_of_the_same_shape(images):
    def classifier(seed, input_range="0..1", **changes):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([
            keras.Input(images.shape[1:]), keras.layers.Flatten(name="flat"), keras.layers.Dense(3),
        ])  # fmt: skip
        return KerasClassifier(model, input_range=input_range, **changes)

    detector = Detector("energy").fit(classifier(0).outputs(images))
    assert detector.score(classifier(0).outputs(images)).shape == (len(images),)
    with pytest.raises(ValueError, match="fitted to outputs with network_fingerprint"):
        detector.score(classifier(1).outputs(images))
    with pytest.raises(ValueError, match="with input_range '0..1'. Received: '-1..1'"):
        detector.score(classifier(0, "-1..1").outputs(images))
    with pytest.raises(ValueError, match="features_layer 'input of the last layer'. Received: "):
        detector.score(classifier(0, features_layer="flat").outputs(images))
    with pytest.raises(ValueError, match="Received floats in 0..1: times 255"):
        classifier(0).outputs(images / 255.0)
    with pytest.raises(ValueError, match=r"Images must be \(n, "):
        classifier(0).outputs(images[:, 1:])


def pooled_by(*after):
    """A network whose map goes through BatchNorm and ReLU before it is averaged."""
    return keras.Sequential([
        keras.Input((6, 6, 1)), layers.Rescaling(1 / 255), layers.Conv2D(5, 3, name="before"),
        layers.BatchNormalization(beta_initializer="random_normal"), layers.ReLU(name="map"),
        *after, layers.Dense(3),
    ])  # fmt: skip


def in_a_model():
    body = pooled_by(layers.GlobalAveragePooling2D())
    inputs = keras.Input((6, 6, 1))
    pooled = keras.Model(body.inputs, body.layers[-1].input, name="body")
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.1)(pooled(inputs)))), body


@pytest.mark.jax
@pytest.mark.parametrize("where", ("global", "window", "body"))
def test_the_map_under_the_features(where, images):
    if where == "body":
        model, holder = in_a_model()
    else:
        window = (layers.AveragePooling2D(4), layers.Flatten())
        model = pooled_by(*([layers.GlobalAveragePooling2D()] if where == "global" else window))
        holder = model
    view = KerasClassifier(model, input_range="0..1")
    found = view.pooled_map().predict(images, verbose=0)
    expected = keras.Model(holder.inputs, holder.get_layer("map").output).predict(images / 255)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    features = view.network.predict(images, verbose=0)["features"]
    np.testing.assert_allclose(found.mean((1, 2)), features, rtol=1e-4, atol=1e-6)
    if where == "global":
        maps = view.maps(("before", "map")).predict(images, verbose=0)
        assert maps["before"].shape == (4, 4, 4, 5)
        np.testing.assert_allclose(maps["map"], expected, rtol=1e-5, atol=1e-6)


def test_features_without_global_average_pooling_are_refused():
    by_maximum = pooled_by(layers.GlobalMaxPooling2D())
    for model in (
        pooled_by(layers.Flatten()),
        by_maximum,
        pooled_by(layers.Flatten(), layers.Dense(5)),
    ):
        view = KerasClassifier(model)
        with pytest.raises(ValueError, match="a map whose mean over positions are the features"):
            view.pooled_map()


@pytest.mark.jax
def test_the_least_salient_values_move_as_in_openood():
    """tests/references/feature_maps.npz: a torch network, and what AdaSCALE made of it."""
    frozen = load_npz(pathlib.Path(__file__).parents[1] / "tests/references/feature_maps.npz")
    ours = {n.partition("/")[2]: a for n, a in frozen.items() if n.startswith("adascale/")}
    inputs = keras.Input((6, 6, 3))
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu")]
    parts += [layers.Conv2D(120, 1, activation="relu"), layers.GlobalAveragePooling2D()]
    features = inputs
    for layer in parts:
        features = layer(features)
    dense = layers.Dense(6)
    network = keras.Model(inputs, {"features": features, "logits": dense(features)})
    for layer, name in zip((*parts[:2], dense), ("conv1", "conv2", "head"), strict=True):
        layer.set_weights([ours[f"{name}_kernel"], ours[f"{name}_bias"]])
    move = input_gradients.least_salient(network, epsilon=0.5 / 255.0)  # theirs are not in pixels
    parts = {}
    for name in ("held_out", "test"):
        plain = network.predict(ours[name], verbose=0)
        parts[name] = Outputs(
            features=plain["features"], features_perturbed=move(ours[name]),
            head_kernel=ours["head_kernel"], head_bias=ours["head_bias"],
        )  # fmt: skip
    found = parts["held_out"].features_perturbed
    np.testing.assert_allclose(found, ours["held_out_perturbed"], rtol=1e-4, atol=1e-6)
    for repository, moved in (("OpenOOD", 1.0), ("AdaSCALE", 5.0)):
        for letter in "AL":
            name = f"adascale_{letter.lower()}"
            detector = Detector(name, parameters={"moved": moved}).fit(parts["held_out"])
            expected = -ours[f"{repository}_{letter}"]
            np.testing.assert_allclose(detector.score(parts["test"]), expected, rtol=1e-5)
