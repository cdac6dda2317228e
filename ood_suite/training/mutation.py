"""Mutation of discrete symbols: the perturbation that makes a background model."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("ood_suite")
class Mutation(keras.layers.Layer):
    """Replaces each symbol, independently and with probability `rate`, in training only.

        mutated = (symbol + U{smallest_offset .. num_symbols - 1}) mod num_symbols

    Args:
        rate: probability of a mutation per symbol, in [0, 1].
        num_symbols: 256 for pixels, 4 for bases.
        smallest_offset: 0 lets a mutated symbol stay itself (the images of the paper); 1 never does
            (its bases).
        seed: int; the generator's state is saved with the model, so that a resumed run draws on.

    Input and output: float32 or integer symbols 0 .. num_symbols - 1 of any shape; the dtype is
        kept.

    Reference: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019,
        section 3, and the authors' code for the offset.
    """

    def __init__(self, rate, num_symbols=256, smallest_offset=0, seed=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"`rate` must lie in [0, 1]. Received: rate={rate}.")
        if not 0 <= smallest_offset < num_symbols:
            raise ValueError(
                "`smallest_offset` must lie in [0, num_symbols). "
                f"Received: smallest_offset={smallest_offset}, num_symbols={num_symbols}."
            )
        self.rate = rate
        self.num_symbols = num_symbols
        self.smallest_offset = smallest_offset
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, symbols, training=False):
        if not training or self.rate == 0.0:
            return symbols
        shape = ops.shape(symbols)
        chosen = keras.random.uniform(shape, seed=self.seed_generator) < self.rate
        offset = keras.random.randint(
            shape, self.smallest_offset, self.num_symbols, seed=self.seed_generator
        )
        mutated = ops.mod(ops.cast(symbols, "int32") + ops.cast(offset, "int32"), self.num_symbols)
        return ops.where(chosen, ops.cast(mutated, symbols.dtype), symbols)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "rate": self.rate,
            "num_symbols": self.num_symbols,
            "smallest_offset": self.smallest_offset,
            "seed": self.seed,
        }
