"""The one training story: fit a Keras model in a run folder, so that a kill at any moment loses
nothing but time.

A run advances in intervals of `eval_every` steps. After each: validation with the averaged weights,
one row of logs/history.csv, one checkpoint. A checkpoint holds every variable of the model
(weights, random states) and of the optimiser (moments, step, averages) as plain npz; batches are a
function of the step number. So an interrupted run that is started again ends bit-identical to one
that never stopped.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import time

import keras
import numpy as np
from absl import logging

from ood_suite.files import RunError, atomic_path, load_npz, read_csv, write_csv
from ood_suite.progress import progress
from ood_suite.training import backend, devices

KEPT_CHECKPOINTS = 2
LOOK_EVERY_S = 0.2  # at the loss: each look waits for the device, which could be at the next step


def batches(arrays, batch_size, seed, start_step=0, targets=None):
    """Endless shuffled batches, the same for the same seed wherever one starts.

    Epoch e visits all examples in the order of a permutation drawn from (seed, e); a last
    incomplete batch of an epoch is left out.

    Args:
        arrays: list of arrays with examples first.
        batch_size: at most the number of examples.
        start_step: number of the first batch to give.
        targets: array with examples first, or None.

    Yields:
        tuple of inputs (one array, or a tuple), and targets if there are any, as `keras.Model.fit`
        wants them.
    """
    count = len(arrays[0])
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"`batch_size` must lie in 1..{count}, the number of examples. Received: {batch_size}."
        )
    per_epoch = count // batch_size
    epoch, order = -1, None
    step = start_step
    while True:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng([seed, epoch]).permutation(count)
        start = (step % per_epoch) * batch_size
        rows = np.sort(order[start : start + batch_size])
        inputs = tuple(array[rows] for array in arrays)
        inputs = inputs if len(inputs) > 1 else inputs[0]
        yield (inputs,) if targets is None else (inputs, targets[rows])
        step += 1


@dataclasses.dataclass
class History:
    """Rows of logs/history.csv: step, loss and the metrics, one row per evaluation."""

    path: pathlib.Path
    rows: list

    @classmethod
    def until(cls, path, step):
        """What the file says up to `step`; later rows belong to a part that will be trained
        again.
        """
        rows = read_csv(path)
        if not all(row.get("step", "").isdecimal() for row in rows):
            raise RunError(f"{path} is damaged: every row must have a step. Put back a whole one.")
        return cls(path, [row for row in rows if int(row["step"]) <= step])

    def add(self, row):
        self.rows.append(row)
        write_csv(self.path, self.rows)


def fit(
    model, stream, run, *, total_steps, eval_every, validation, batch_size, monitor, saved=None,
    keep=None,
):  # fmt: skip
    """Trains a compiled model for `total_steps`, continuing from the run's last checkpoint, and
    writes model.keras.

    Args:
        model: compiled keras.Model with an optimiser that may average weights (use_ema=True).
        stream: function(step) -> iterator of the batches from that step on, such as `batches`;
            the step must decide them.
        run: Run, whose lock the caller holds.
        eval_every: steps between evaluations and checkpoints.
        validation: inputs (array, list, or images that give slices) for `model.evaluate`, or with
            targets the pair (inputs, targets).
        batch_size: of the validation, if more than 100.
        monitor: name of the metric shown as progress, such as "bits_per_dim".
        saved: function() -> the keras.Model that becomes model.keras; default: `model`.
        keep: function(step, rows of the history so far), called before the first step and after
            each evaluation, to keep models on the way; it may be called again with the same
            arguments after a kill.

    Returns:
        the rows of the history.

    Raises:
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stays.
        RunError: a damaged or foreign checkpoint.
    """
    # Stage 1: the state of the last checkpoint, if there is one; what could fail fails now.
    model.optimizer.build(model.trainable_variables)
    devices.decorrelate(model)
    _evaluation_batch(validation, batch_size)  # before the first steps, if it cannot be
    step = restore(model, run)
    history = History.until(run.folder / "logs" / "history.csv", step)
    bar, raw = _Progress(total_steps, step, monitor), _RawWeights()
    if keep and step == 0:
        keep(0, [])
    # Stage 2: interval by interval: train, validate, record, keep, save. A kill costs the interval
    # that it is in: the checkpoint comes last, and rows behind it are written again.
    with backend.summary_writer(run.folder / "logs") as write_summary:
        while step < total_steps:
            count = min(eval_every, total_steps - step)
            started = time.perf_counter()
            logs = model.fit(
                devices.stream(functools.partial(stream, step)),
                steps_per_epoch=count,
                verbose=0,
                shuffle=False,
                callbacks=[bar, raw],
            ).history
            raw.restore()
            bar.look()
            seconds = time.perf_counter() - started
            step += count
            row = {"step": step} | {name: values[-1] for name, values in logs.items()}
            row |= evaluate(model, validation, batch_size)
            if not all(math.isfinite(value) for value in row.values()):
                raise FloatingPointError(_not_finite(f"The validation gave {row}", step))
            write_summary(step, row)
            history.add(row)
            bar.show(row, count / seconds)
            if keep:
                keep(step, history.rows)
            save(model, run, step)
    bar.close()
    # Stage 3: the finished model, with averaged weights and without its optimiser.
    write_model(model, run.model_path, saved)
    return history.rows


def write_model(model, path, saved=None):
    """Writes the model, or the one that `saved` gives, with averaged weights and without its
    optimiser.
    """
    with averaged_weights(model), atomic_path(path) as temporary:
        optimizer, model.optimizer = model.optimizer, None
        devices.save(saved() if saved else model, temporary)
        model.optimizer = optimizer


def keep_every(model, run, save_every):
    """function(step, rows) for `fit` that keeps checkpoints/step_<n>.keras every `save_every` steps
    (0 or None: never) at which an evaluation falls.
    """

    def keep(step, rows):
        if step and save_every and step % save_every == 0:
            write_model(model, run.folder / "checkpoints" / f"step_{step}.keras")

    return keep


def evaluate(model, validation, batch_size):
    """Metrics on validation data with the averaged weights: {"val_<name>": float}."""
    parts = validation if isinstance(validation, tuple) else (validation,)
    size = _evaluation_batch(validation, batch_size)
    how = {"batch_size": size}
    if not isinstance(parts[0], (list, np.ndarray)):  # images that are read when asked for
        starts = range(0, len(parts[0]), size)
        how = {"steps": len(starts)}

    def batches_of_parts():
        return (tuple(array[i : i + size] for array in parts) for i in starts)

    with averaged_weights(model):
        on_demand = "steps" in how
        given = (devices.stream(batches_of_parts, whole=False),) if on_demand else parts
        results = model.evaluate(*given, **how, verbose=0, return_dict=True)
    return {f"val_{name}": float(value) for name, value in results.items()}


def _evaluation_batch(validation, batch_size):
    inputs = validation[0] if isinstance(validation, tuple) else validation
    rows = len(inputs[0] if isinstance(inputs, list) else inputs)
    return devices.evaluation_batch(rows, max(batch_size, 100))


@contextlib.contextmanager
def averaged_weights(model):
    """Within the block the model has its exponentially averaged weights, if its optimiser keeps
    them.
    """
    if not (model.optimizer and model.optimizer.use_ema):
        yield
        return
    raw = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for variable in model.trainable_variables:
        # A copy: JAX would go on to donate the average itself.
        variable.assign(np.array(keras.ops.convert_to_numpy(variable)))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)


def _state(model):
    """All variables that decide how training goes on, by a stable name."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{part}/{i:04d}": variable
        for part, variables in parts.items()
        for i, variable in enumerate(variables)
    }


def save(model, run, step):
    """Writes checkpoints/step_<step>.npz atomically and removes all but the newest two."""
    arrays = {
        name: keras.ops.convert_to_numpy(variable) for name, variable in _state(model).items()
    }
    arrays["settings"] = np.array(run.mark)
    folder = run.folder / "checkpoints"
    with atomic_path(folder / f"step_{step:08d}.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    for old in _checkpoints(folder)[:-KEPT_CHECKPOINTS]:
        old.unlink()


def restore(model, run):
    """Loads the newest checkpoint into model and optimiser; returns its step, 0 if there is
    none.
    """
    found = _checkpoints(run.folder / "checkpoints")
    if not found:
        return 0
    path = found[-1]
    try:
        arrays = load_npz(path)
    except ValueError as error:
        raise RunError(
            f"The checkpoint {path} is damaged ({error}). Move it away: the run then continues "
            f"from {found[-2].name if len(found) > 1 else 'its beginning'}."
        ) from error
    if str(arrays.pop("settings", run.mark)) != run.mark:  # version 0.1 wrote none
        raise RunError(
            f"The checkpoint {path} was made with other settings or data than {run.folder}'s "
            "config.json says. Put back the one that belongs to it, or choose another --out_dir."
        )
    state = _state(model)
    wrong = sorted(set(state) ^ set(arrays)) or [
        name
        for name in state
        if tuple(state[name].shape) != arrays[name].shape or arrays[name].dtype.kind not in "biufV"
    ]
    if wrong:
        raise RunError(
            f"The checkpoint {path} is of another model: {len(wrong)} variables differ, the first "
            f"is {wrong[0]}."
        )
    for name, variable in state.items():
        variable.assign(arrays[name])
    step = int(path.stem.removeprefix("step_"))
    logging.info("Continuing from %s.", path)
    return step


def _not_finite(what, step):
    return (
        f"{what} at step {step}. The last checkpoint is good. Try a lower --learning_rate, or look "
        "for damaged inputs."
    )


def _checkpoints(folder):
    paths = pathlib.Path(folder).glob("step_*.npz")
    return sorted(path for path in paths if re.fullmatch(r"step_\d{1,12}", path.stem))


class _RawWeights(keras.callbacks.Callback):
    """Undoes what `fit` does at its end with use_ema: overwriting the weights with their average.

    Without this, how often one evaluates would change how the model is trained.
    """

    def on_epoch_end(self, epoch, logs=None):
        self.values = [keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables]

    def restore(self):
        for variable, value in zip(self.model.trainable_variables, self.values, strict=True):
            variable.assign(value)


class _Progress(keras.callbacks.Callback):
    """Progress bar over the whole training; stops at a loss that is not finite. Keras reports the
    mean loss of an interval, so that one bad step is seen by every later look.
    """

    def __init__(self, total_steps, step, monitor):
        super().__init__()
        self.step = self.looked = step
        self.monitor = monitor
        self.bar = progress(total=total_steps, initial=step, unit="step", smoothing=0.05)
        self.shown, self.logs, self.last = {}, {}, -math.inf

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.logs = logs
        if time.monotonic() - self.last >= LOOK_EVERY_S:
            self.look()

    def look(self):
        """Waits for the loss of the last step, checks and shows it."""
        loss = float(self.logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(_not_finite(f"The loss became {loss}", self.step))
        self.shown["train"] = f"{float(self.logs.get(self.monitor, loss)):.4f}"
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(self.step - self.looked)
        self.looked, self.last = self.step, time.monotonic()

    def show(self, row, steps_per_second):
        """Keeps the validation figure on screen until the next."""
        self.shown["validation"] = f"{row[f'val_{self.monitor}']:.4f} {self.monitor}"
        self.bar.set_postfix(self.shown, refresh=True)
        shown = ", ".join(f"{title} {value}" for title, value in self.shown.items())
        logging.info("step %d, %.2f steps/s, %s", row["step"], steps_per_second, shown)

    def close(self):
        self.bar.close()
