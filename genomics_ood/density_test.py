"""The densities of reads: that they are densities, causal, and what their options say."""

import itertools

import keras
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from genomics_ood.density import LayerNormLSTMCell, ReadDensity, ready_to_score
from genomics_ood.density_run import build_model

SMALL = [
    {"network": "conv", "units": 6, "num_layers": 3},
    {"network": "conv", "units": 6, "num_layers": 9, "layer_norm": True, "kernel_size": 2},
    {"network": "lstm", "units": 5},
    {"network": "lstm", "units": 5, "layer_norm": True, "embedding_dim": 3},
]


def shaken(options, seed=0):
    """A model whose weights are all random, so that nothing is right by being zero."""
    model = ReadDensity(**options, seed=1)
    rng = np.random.default_rng(seed)
    weights = [w + 0.5 * rng.normal(size=w.shape).astype(w.dtype) if w.dtype.kind == "f" else w
               for w in model.get_weights()]  # fmt: skip
    model.set_weights(weights)
    return model


@pytest.mark.jax
@pytest.mark.parametrize("options", SMALL)
@pytest.mark.parametrize("make", [ReadDensity, lambda **options: shaken(options)])
def test_probabilities_of_all_sequences_sum_to_one(options, make):
    model = make(**options)
    every = np.array(list(itertools.product(range(4), repeat=5)), np.uint8)
    log_p = model.predict(every, batch_size=1024, verbose=0).sum(axis=1, dtype=np.float64)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    first = np.exp(model.predict(every[::256], verbose=0)[:, 0])  # the first base is scored too
    assert first.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.jax
@pytest.mark.parametrize("options", SMALL)
@pytest.mark.parametrize("make", [ReadDensity, lambda **options: shaken(options)])
def test_causality(options, make, rng):
    model = make(**options)
    bases = rng.integers(0, 4, (1, 40)).astype(np.uint8)
    one_hot = np.eye(4, dtype=np.float32)[bases]
    before = np.asarray(model.log_probabilities(one_hot))
    for position in (0, 13, 39):
        changed = one_hot.copy()
        changed[0, position] = np.eye(4)[(bases[0, position] + 1) % 4]
        after = np.asarray(model.log_probabilities(changed))
        np.testing.assert_array_equal(before[:, : position + 1], after[:, : position + 1])
        if position + 1 < 40:
            assert not np.array_equal(before[:, position + 1], after[:, position + 1])


def test_the_lstm_is_that_of_the_textbook(rng):
    """A literal rewrite of Hochreiter and Schmidhuber's cell with a forget gate, and the head."""
    model = shaken({"network": "lstm", "units": 5})
    kernel, recurrent, bias, head, head_bias = (
        w.astype(np.float64) for w in model.get_weights() if w.dtype.kind == "f"
    )
    bases = rng.integers(0, 4, (2, 9))
    expected = np.zeros((2, 9))
    for n, read in enumerate(bases):
        h, c, x = np.zeros(5), np.zeros(5), np.zeros(4)
        for i, base in enumerate(read):
            z = x @ kernel + h @ recurrent + bias
            enter, forget, candidate, output = np.split(z, 4)
            c = expit(forget) * c + expit(enter) * np.tanh(candidate)
            h = expit(output) * np.tanh(c)
            expected[n, i] = log_softmax(h @ head + head_bias)[base]
            x = np.eye(4)[base]
    np.testing.assert_allclose(model(bases), expected, rtol=2e-4, atol=2e-5)


def test_the_layer_norm_cell_against_a_rewrite(rng):
    cell = LayerNormLSTMCell(3)
    cell.build((None, 4))
    weights = [w + 0.3 * rng.normal(size=w.shape) for w in cell.get_weights()]
    cell.set_weights(weights)
    kernel, recurrent, bias = weights[:3]
    scales = [(weights[i], weights[i + 1]) for i in range(3, 13, 2)]

    def norm(x, scale):
        centred = x - x.mean(axis=1, keepdims=True)
        return (
            scale[0] * centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-3) + scale[1]
        )

    x, h, c = rng.normal(size=(2, 4)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    z = np.split(x @ kernel + h @ recurrent, 4, axis=1)
    enter, forget, candidate, output = (
        norm(part, scale) + b
        for part, scale, b in zip(z, scales[:4], np.split(bias, 4), strict=True)
    )
    state = expit(forget) * c + expit(enter) * np.tanh(candidate)
    expected = expit(output) * np.tanh(norm(state, scales[4]))
    found, (_, found_state) = cell(x.astype("float32"), [h.astype("float32"), c.astype("float32")])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_state, state, rtol=1e-4, atol=1e-5)


def test_the_convolutions_reach_back_over_a_whole_read(rng):
    model = shaken({"network": "conv", "units": 8, "num_layers": 8})
    one_hot = np.eye(4, dtype=np.float32)[rng.integers(0, 4, (1, 250))]
    louder = one_hot.copy()
    louder[0, 0] *= 1e4  # the way is long, and the answer has 7 digits
    before, after = (np.asarray(model.log_probabilities(x))[0, -1] for x in (one_hot, louder))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("options", SMALL)
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_penalty_counts_kernels_and_no_biases(kind, options, rng):
    bases = rng.integers(0, 4, (3, 20)).astype(np.uint8)
    plain = shaken(options)
    model = shaken(options | {"reg_weight": 0.1, "reg_type": kind})
    kernels = [w for w in model.get_weights() if w.ndim >= 2]
    sums = {
        "l1": sum(np.abs(w).sum() for w in kernels),
        "l2": sum((w**2).sum() for w in kernels) / 2,
    }
    for m in (plain, model):
        m.compile(keras.optimizers.Adam(0.0))
    nats = -plain.predict(bases, verbose=0).mean()
    assert plain.evaluate(bases, verbose=0)[0] == pytest.approx(nats, rel=1e-5)
    assert model.evaluate(bases, verbose=0)[0] == pytest.approx(nats + 0.1 * sums[kind], rel=1e-4)
    bits = model.evaluate(bases, verbose=0, return_dict=True)["bits_per_base"]
    assert bits == pytest.approx(nats / np.log(2.0), rel=1e-5)


@pytest.mark.parametrize("options", SMALL)
def test_dropout_acts_in_training_only(options, rng):
    bases = rng.integers(0, 4, (4, 30)).astype(np.uint8)
    model = shaken(options | {"dropout_p": 0.5})
    plain, floats = shaken(options), (w for w in model.get_weights() if w.dtype.kind == "f")
    plain.set_weights([next(floats) if w.dtype.kind == "f" else w for w in plain.get_weights()])
    np.testing.assert_array_equal(model(bases), plain(bases))
    assert not np.array_equal(model(bases, training=True), model(bases))


def test_mutation_acts_in_training_only(rng):
    bases = rng.integers(0, 4, (20, 250)).astype(np.uint8)
    model = shaken({"network": "conv", "units": 4, "num_layers": 2, "mutation_rate": 0.2})
    mutated = np.asarray(model.mutation(bases.astype("int32"), training=True))
    assert np.mean(mutated != bases) == pytest.approx(0.2, abs=0.02)
    assert not np.array_equal(model(bases, training=True), model(bases))
    np.testing.assert_array_equal(model(bases), model(bases))


@pytest.mark.parametrize("options", SMALL)
def test_saved_models_are_the_same(options, tmp_path, rng):
    model = shaken(options)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    bases = rng.integers(0, 4, (2, 30)).astype(np.uint8)
    np.testing.assert_array_equal(model.predict(bases, verbose=0), loaded.predict(bases, verbose=0))


@pytest.fixture(params=[False, True])
def deterministic(request):
    """Operations as in a process that has trained, or not."""
    from tensorflow.python.framework import config

    def switch(on):
        (config.enable_op_determinism if on else config.disable_op_determinism)()

    before = config.is_op_determinism_enabled()
    switch(request.param)
    yield request.param
    switch(before)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", SMALL)
def test_a_small_lstm_is_scored_by_xla(options, deterministic, rng):
    bases = rng.integers(0, 4, (7, 30)).astype(np.uint8)
    model = shaken(options)
    expected = model.predict_on_batch(bases)
    ready = ready_to_score(shaken(options))
    assert ready.jit_compile == (options["network"] == "lstm" and not deterministic)
    found = ready.predict(bases, batch_size=4, verbose=0)  # the last batch is smaller
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("options", [{"units": 513}, {"units": 5, "dtype": "mixed_bfloat16"}])
def test_where_xla_is_slower_it_is_not_used(options):
    assert not ready_to_score(ReadDensity(network="lstm", **options)).jit_compile


@pytest.mark.parametrize("network", ["conv", "lstm"])
def test_a_period_is_learned(network, rng):
    """A model that learns must come to know reads that repeat with a period of 3."""
    import dataclasses

    from genomics_ood import configs

    bases = np.tile(rng.integers(0, 4, (64, 3)), (1, 10)).astype(np.uint8)
    small = {"network": network, "units": 16, "num_layers": 3, "total_steps": 150}
    model = build_model(
        dataclasses.replace(configs.EXPERIMENTS["bacteria"], **small, learning_rate=1e-2), seed=0
    )
    model.fit(bases, batch_size=64, epochs=150, verbose=0)
    track = -model.predict(bases, verbose=0) / np.log(2.0)
    assert track[:, :3].mean() > 1.2  # the first three bases cannot be known
    assert track[:, 9:].mean() < 1.0  # without a memory it would be 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"network": "gru"}, "--network must be one of conv, lstm"),
        ({"reg_type": "l3"}, "--reg_type must be one of l1, l2"),
        ({"units": 0}, "--units must be at least 1"),
        ({"kernel_size": 1}, "--kernel_size must be at least 2"),
        ({"reg_weight": -1.0}, "--reg_weight must be 0 or more"),
        ({"dropout_p": 1.0}, "--dropout_p must lie in"),
        ({"mutation_rate": 2.0}, "--mutation_rate must lie in"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ReadDensity(**options)
