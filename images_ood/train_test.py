"""Training as a user does it: real processes, really killed; and every refusal with its message."""

import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import images_ood.pixelcnn  # noqa: F401 - Keras finds our classes only once they are registered
from ood_suite.data.npz import write_images
from ood_suite.files import RunError, load_npz, read_csv
from ood_suite.runs.extraction import Parts
from ood_suite.runs.run import Run
from ood_suite.training.backend import has_bfloat16
from tests.support import ROOT, assert_same_run, command, final_state

TINY = (
    "--exp=fashion_small", "--num_filters=4", "--num_resnet=1", "--batch_size=8", "--eval_every=4",
    "--eval_images=8", "--background_steps=0",
)  # fmt: skip


def train(data_dir, out_dir, *arguments, **options):
    arguments = (*TINY, f"--data_dir={data_dir}", f"--out_dir={out_dir}", *arguments)
    return command("images_ood.train", *arguments, **options)


@pytest.mark.jax
def test_killed_runs_end_bit_identical(small_data, tmp_path):
    arguments = (
        "--mutation_rate=0.3", "--reg_weight=0.1", "--dropout_p=0.2", "--total_steps=40",
        "--save_every=8",
    )  # fmt: skip
    plain = train(small_data, tmp_path / "plain", *arguments)
    assert plain.returncode == 0, plain.stderr
    name = "fashion_small/reg0.1_mr0.3"
    folder = tmp_path / "cut" / name

    # In the middle of writing the third checkpoint.
    cut = train(small_data, tmp_path / "cut", *arguments, kill_at=("savez", 3))
    assert cut.returncode == -signal.SIGKILL
    assert final_state(folder)[0] == "step_00000008.npz"
    assert list(folder.glob("checkpoints/.partial*"))

    # At some moment of the training.
    process = subprocess.Popen(
        [sys.executable, "-m", "images_ood.train", *TINY, f"--data_dir={small_data}",
         f"--out_dir={tmp_path / 'cut'}", *arguments],
        cwd=ROOT, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while final_state(folder)[0] == "step_00000008.npz" and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (folder / "model.keras").exists()

    continued = train(small_data, tmp_path / "cut", *arguments)
    assert continued.returncode == 0 and "Continuing from" in continued.stderr
    assert_same_run(folder, tmp_path / "plain" / name)
    kept = [f"step_{step}" for step in (8, 16, 24, 32, 40)]
    assert Run.load(folder).checkpoints() == ["last", *kept]
    assert not list(folder.rglob(".partial*"))
    again = train(small_data, tmp_path / "cut", *arguments)
    assert "is finished: nothing to do" in again.stderr


@pytest.fixture
def run_in_process(small_data, tmp_path):
    """Calls density_run.train with a tiny experiment; returns the Run."""
    import dataclasses

    from images_ood import configs
    from images_ood.density_run import train as train_function

    def call(data_dir=small_data, **overrides):
        tiny = {
            "num_filters": 4, "num_resnet": 1, "batch_size": 8, "total_steps": 4, "eval_every": 2,
            "eval_images": 8, "background_steps": 0,
        }  # fmt: skip
        experiment = dataclasses.replace(configs.EXPERIMENTS["fashion_small"], **tiny | overrides)
        return train_function(experiment, "tiny", tmp_path / "out", data_dir)

    return call


def test_options_of_training(run_in_process, tmp_path):
    """Weight norm from data, class condition, no average, raw pixels, the other schedule."""
    run = run_in_process(
        use_weight_norm=True, data_init=True, class_conditional=True, ema=0.0,
        rescale_pixel_value=False, learning_rate_schedule="exponential", dtype="auto",
    )  # fmt: skip
    rows = read_csv(run.folder / "logs/history.csv")
    precision = "mixed_bfloat16" if has_bfloat16() else "float32"
    assert run.settings["dtype"] == precision
    assert [row["step"] for row in rows] == ["2", "4"] and float(rows[1]["val_bits_per_dim"]) > 0
    assert run.config["fingerprints"].keys() == {"fashion_mnist_train", "fashion_mnist_val"}
    with_tensorboard = keras.backend.backend() == "tensorflow"
    assert bool(list((run.folder / "logs").glob("events*"))) == with_tensorboard


def test_training_lowers_the_loss_and_ships_averaged_weights(run_in_process):
    from images_ood.pixelcnn import PixelCNN  # noqa: F401 (registers the class)

    run = run_in_process(total_steps=60, eval_every=30, learning_rate=0.01, ema=0.9)
    rows = read_csv(run.folder / "logs/history.csv")
    assert float(rows[-1]["val_bits_per_dim"]) < 0.98 * float(rows[0]["bits_per_dim"])
    shipped = keras.saving.load_model(run.model_path, compile=False).get_weights()
    state = final_state(run.folder)[1]
    kernels = [v for k, v in state.items() if k.startswith("model/") and v.ndim == 4]
    averages = [v for v in shipped if v.ndim == 4]
    assert len(kernels) == len(averages)
    assert any((a != b).any() for a, b in zip(kernels, averages))


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_damaged_checkpoint_is_named(run_in_process, content):
    run = run_in_process()
    run.model_path.unlink()
    path = run.folder / "checkpoints" / "step_00000004.npz"
    path.write_bytes(path.read_bytes()[:500] if content else b"")
    with pytest.raises(
        RunError, match=r"step_00000004.npz is damaged.*continues from step_00000002"
    ):
        run_in_process()
    path.unlink()
    assert run_in_process().is_finished


def test_a_foreign_checkpoint_is_refused(run_in_process):
    run = run_in_process()
    run.model_path.unlink()
    np.savez(run.folder / "checkpoints" / "step_00000004.npz", **{"model/0000": np.zeros(3)})
    with pytest.raises(RunError, match="is of another model"):
        run_in_process()


def test_a_checkpoint_of_other_settings_is_refused(run_in_process):
    """Such as after config.json was replaced by that of another run; 0.1 wrote no such mark."""
    run = run_in_process()
    run.model_path.unlink()
    path = run.folder / "checkpoints" / "step_00000004.npz"
    state = load_npz(path)
    np.savez(path, **state | {"settings": np.array("0123456789abcdef")})
    with pytest.raises(RunError, match="step_00000004.npz was made with other settings"):
        run_in_process()
    del state["settings"]
    np.savez(path, **state)
    assert run_in_process().is_finished


def test_a_torn_checkpoint_is_refused(run_in_process):
    """Cut, or with a hole, at every 4 KiB, as a disk without power leaves a file."""
    run = run_in_process()
    path = run.folder / "checkpoints" / "step_00000004.npz"
    content = path.read_bytes()
    assert len(content) > 10 * 4096
    for size in range(0, len(content), 4096):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="step_00000004.npz cannot be read"):
            load_npz(path)
        for end in (size + 4096, len(content)):  # zeros where nothing was
            path.write_bytes(content[:size] + bytes(end - size) + content[end:])
            with pytest.raises(ValueError, match="step_00000004.npz cannot be read"):
                load_npz(path)


@pytest.mark.parametrize("content", ["loss\n1.0\n", "step,loss\nx,1\n", "step,loss\n1\n"])
def test_a_damaged_history_is_named(run_in_process, content):
    run = run_in_process()
    run.model_path.unlink()
    (run.folder / "logs/history.csv").write_text(content)
    with pytest.raises(RunError, match="history.csv"):
        run_in_process()


def test_a_loss_that_is_not_finite_stops_the_run(run_in_process):
    with pytest.raises(FloatingPointError, match=r"The loss became (nan|inf).*--learning_rate"):
        run_in_process(learning_rate=1e30, total_steps=40, ema=0.0)


def test_a_refused_start_leaves_no_folder_in_the_way(run_in_process):
    for wrong in ({"num_filters": 0}, {"batch_size": 500}, {"background_steps": -1}, {"ema": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            run_in_process(**wrong)
    assert run_in_process().is_finished


def test_a_class_condition_is_marginalised_when_scoring(run_in_process, small_data):
    """p(x) = mean over classes of p(x | class), whatever the labels of the data say."""
    from scipy.special import logsumexp

    from images_ood.extract import extract, load_model

    run = run_in_process(class_conditional=True, total_steps=30, learning_rate=0.01)
    outputs = extract(run, ("mnist",), "test", data_dir=small_data, parts=Parts(maps=True))
    model = load_model(run)
    by_class = [
        model.predict([outputs.images, np.full(len(outputs), label)], verbose=0).sum((1, 2))
        for label in range(10)
    ]
    expected = logsumexp(by_class, axis=0) - np.log(10)
    assert np.std(by_class, axis=0).min() > 1e-3
    np.testing.assert_allclose(outputs.log_prob, expected, rtol=1e-5)
    np.testing.assert_allclose(outputs.log_prob_map.sum((1, 2)), expected, rtol=1e-5)
    told = command("images_ood.sample", f"--run={run.folder}", "--dataset=mnist", "--num_images=2",
                   f"--data_dir={small_data}")  # fmt: skip
    assert f"image 0: {-expected[0] / np.log(2) / 64:.3f} bits per dimension" in told.stderr
    assert (run.folder / "report/bits_mnist_test.png").exists()


def test_explicit_steps_hold_for_a_background_too():
    from images_ood import configs
    from ood_suite.runs.settings import replaced

    found = replaced(configs.EXPERIMENTS["fashion_small"], {"total_steps": 7})
    assert (found.total_steps, found.background_steps) == (7, 0)
    found = replaced(
        configs.EXPERIMENTS["fashion_small"], {"total_steps": 7, "background_steps": 3}
    )
    assert (found.total_steps, found.background_steps) == (7, 3)


def test_wrong_data_are_refused(run_in_process, small_data):
    write_images(small_data / "fashion_mnist_val.npz", np.zeros((9, 9, 8, 1), np.uint8), [0] * 9)
    with pytest.raises(ValueError, match=r"val.* \(9, 8, 1\).*train.* \(8, 8, 1\)"):
        run_in_process()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--exp=fashon",), "Unknown experiment 'fashon'. Did you mean fashion? Known: cifar,"),
        (("--mutation_rate=1.5",), "--mutation_rate must lie in [0, 1]. Received: 1.5."),
        (("--data_init",), "--data_init has no effect without --use_weight_norm."),
        (("fashion",), "Unexpected argument 'fashion'."),
        (("--out_dir=/dev/null/x",), "Cannot make the folder /dev/null/x"),
        (
            ("--exp=fashion_small", "--learning_rate_decay=0.9", "--out_dir=/dev/null/x"),
            "--learning_rate_decay has no effect with a cosine",
        ),
        (
            ("--exp=fashion_hours", "--ema=0", "--out_dir=/dev/null/x"),
            "--ema_overwrite_frequency has no effect without --ema",
        ),
        (("--exp=fashion_gpu", "--eval_every=500"), "or 0, to keep no model on the way"),
        (
            ("--exp=fashion_gpu", "--eval_every=500", "--save_every=0", "--out_dir=/dev/null/x"),
            "Cannot make the folder /dev/null/x",
        ),
    ],
)
def test_refusals_of_the_binary(arguments, message):
    result = command("images_ood.train", *arguments)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("binary", ["train", "sweep"])
def test_help_explains(binary):
    result = command(f"images_ood.{binary}", "--help")
    for text in ("Experiment: cifar, cifar_small, fashion", "Channels of the residual layers."):
        assert text in result.stdout
