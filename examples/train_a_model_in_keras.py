"""Train a classifier of paths in Keras, with a first layer that holds paths that are
learnt.

The first layer has a few prototype paths. Its outputs are the kernels of an input path
with each prototype, and a dense layer takes these as features. The prototypes and the
width of the static kernel are weights like any others.
"""

import keras
import numpy as np
import tensorflow as tf

import branchsig


class Kernels(keras.layers.Layer):
    """Kernels of paths with `number` paths that are learnt."""

    def __init__(self, number, **options):
        super().__init__(**options)
        self.number = number

    def build(self, shape):
        """Make the weights."""
        self.paths = self.add_weight(
            name="paths", shape=(self.number, *shape[1:]), initializer="random_normal"
        )
        self.log_sigma = self.add_weight(
            name="log_sigma", shape=(), initializer="zeros"
        )

    def call(self, paths):
        """Return a Gram matrix, shape (batch, number)."""
        sigma = tf.exp(tf.convert_to_tensor(self.log_sigma))
        return branchsig.branched_sig_kernel_gram(
            paths,
            tf.convert_to_tensor(self.paths),
            depth=2,
            static_kernel=branchsig.RBFKernel(sigma),
        )

    def compute_output_shape(self, shape):
        """Return the shape of the matrix."""
        return shape[0], self.number


def loops(rng, number, length):
    """Noisy circles from the origin, and whether they are run through anticlockwise."""
    labels = rng.integers(2, size=number)
    angle = 2 * np.pi * np.linspace(0, 1, length) * np.where(labels, 1, -1)[:, None]
    paths = np.stack([np.cos(angle) - 1, np.sin(angle)], axis=2) / 2
    return (paths + 0.3 * rng.standard_normal(paths.shape)).astype(np.float32), labels


def main(number=200, length=15, epochs=10, verbose=2):
    """Print the training. Return the accuracies on new paths before and after it."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    train, test = loops(rng, number, length), loops(rng, number, length)
    model = keras.Sequential(
        [
            keras.Input((length, 2)),
            Kernels(4),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.05),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    _, before = model.evaluate(*test, verbose=0)
    model.fit(*train, batch_size=25, epochs=epochs, verbose=verbose)
    _, after = model.evaluate(*test, verbose=0)
    print(
        f"accuracy on new paths: {before:.2f} before the training, {after:.2f} after it"
    )
    return before, after


if __name__ == "__main__":
    main()
