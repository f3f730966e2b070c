"""Tensors of TensorFlow beyond what `test_frameworks` asks of every framework."""

import os
import warnings

import numpy as np
import pytest
from cases import QuarticKernel, walk

import branchsig

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")


@pytest.fixture
def paths(rng):
    return walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)


def of_paths(*paths, **options):
    return tf.reduce_sum(branchsig.branched_sig_kernel_gram(*paths, 3, **options))


def test_shapes_that_are_known_are_kept_in_a_function(paths):
    seen = []

    @tf.function
    def function(x, y):
        value = branchsig.branched_sig_kernel_gram(x, y, 3, return_grid=True)
        seen.append(value.shape)
        return value

    found = function(*map(tf.constant, paths))
    np.testing.assert_allclose(found, branchsig.branched_sig_kernel_gram(*paths, 3, return_grid=True), rtol=1e-13)
    assert seen == [(3, 2, 5, 4)]


@pytest.mark.parametrize("name", ["branched_sig_kernel_gram", "branched_sig_mmd", "branched_sig_score"])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"normalize": "dilation"}], ids=repr)
def test_sizes_that_are_not_known_may_vary_from_call_to_call(name, options, rng):
    ranks = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, 2), tf.float64)] * 2)
    def value_and_gradients(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            value = getattr(branchsig, name)(x, y, 3, **options)
            total = tf.reduce_sum(value)
        ranks.append(value.shape.rank)
        return (value, *tape.gradient(total, [x, y]))

    for sizes in ((3, 2), (2, 4)):
        x, y = (walk(rng, size, 5, 2) for size in sizes)
        found = value_and_gradients(x, y)
        wanted = getattr(branchsig, name)(x, y, 3, **options)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-12, atol=1e-14)
        backprop = getattr(branchsig, name + "_backprop")
        wanted = backprop(np.ones(wanted.shape), x, y, 3, right_deriv=True, **options)
        for mine, its in zip(found[1:], wanted, strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-11, atol=1e-13)
    assert set(ranks) == {len(np.shape(getattr(branchsig, name)(x, y, 3)))}


def test_a_variable_is_a_parameter(paths):
    x, y = map(tf.constant, paths)
    sigma = tf.Variable(0.9, dtype=tf.float64)
    with tf.GradientTape() as tape:
        value = of_paths(x, y, static_kernel=branchsig.RBFKernel(sigma))
    options = {"static_kernel": branchsig.RBFKernel(0.9), "param_deriv": True}
    *_, wanted = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2)), *paths, 3, **options)
    assert float(tape.gradient(value, sigma)) == pytest.approx(wanted["sigma"], rel=1e-12)


@pytest.mark.parametrize("inside", [False, True])
def test_a_static_kernel_of_the_user_has_the_gradients_that_it_defines(inside, paths):
    x, y = map(tf.constant, paths)
    own = {"static_kernel": QuarticKernel()}

    def value(a, b):
        return of_paths(a, b, **own)

    with tf.GradientTape() as tape:
        tape.watch([x, y])
        total = (tf.function(value) if inside else value)(x, y)
    wanted = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2)), *paths, 3, right_deriv=True, **own)
    for mine, its in zip(tape.gradient(total, [x, y]), wanted, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-12)


def test_a_keras_loop_learns_a_scale_and_a_width(rng):
    keras = pytest.importorskip("keras")
    data = walk(rng, 24, 6, 2, size=0.5).astype(np.float32)
    target = np.full(24, np.float32(1.5))

    class Score(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
            self.sigma = self.add_weight(name="sigma", shape=(), initializer="ones")

        def call(self, paths):
            kernel = branchsig.RBFKernel(tf.convert_to_tensor(self.sigma))
            scaled = self.scale * paths
            return branchsig.branched_sig_kernel(scaled, scaled, 2, static_kernel=kernel)[:, None]

        def compute_output_shape(self, shape):
            return (shape[0], 1)

    model = keras.Sequential([keras.Input((6, 2)), Score()])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
    history = model.fit(data, target[:, None], batch_size=10, epochs=8, verbose=0, shuffle=False)
    losses = history.history["loss"]
    assert losses[-1] < losses[0]
    scale, sigma = (float(weight) for weight in model.get_weights())
    assert scale != 1.0
    assert sigma != 1.0
    found = model.predict(data, verbose=0)[:, 0]
    scaled = np.float32(scale) * data
    wanted = branchsig.branched_sig_kernel(scaled, scaled, 2, static_kernel=branchsig.RBFKernel(sigma))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("inside", [False, True])
def test_times_are_differentiated(inside, rng):
    x, times = walk(rng, 3, 5, 2), rng.uniform(0.05, 0.3, 5).cumsum()
    wanted = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, None, 3, times1=times, lead_lag=True)

    def gradients(paths, stamps):
        with tf.GradientTape() as tape:
            tape.watch([paths, stamps])
            value = of_paths(paths, None, times1=stamps, lead_lag=True)
        return tape.gradient(value, [paths, stamps])

    found = (tf.function(gradients) if inside else gradients)(tf.constant(x), tf.constant(times))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found[1], wanted[2], rtol=1e-10, atol=1e-13)
    weights = tf.ones((3, 3), tf.float64)
    *_, of_times, _ = branchsig.branched_sig_kernel_gram_backprop(
        weights, tf.constant(x), None, 3, times1=tf.constant(times), lead_lag=True
    )
    np.testing.assert_allclose(of_times, wanted[2], rtol=1e-10, atol=1e-13)


def test_a_gradient_that_is_stopped_is_a_number(paths):
    x, y = map(tf.constant, paths)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = of_paths(x, y)
        slope = tf.stop_gradient(inner.gradient(value, x))
        total = tf.reduce_sum(x * slope)
    np.testing.assert_array_equal(outer.gradient(total, x), slope)


def test_a_program_warns_at_the_line_that_was_traced(rng):
    x = tf.constant(30.0 * walk(rng, 3, 5, 2))
    program = tf.function(lambda a: branchsig.branched_sig_kernel_gram(a, None, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program(x)
    said = [one for one in caught if "of 9 values" in str(one.message)]
    assert len(said) == 1
    assert said[0].category is RuntimeWarning


@pytest.mark.parametrize(
    "function",
    [lambda x: branchsig.pad_paths([x[0], x[1]]), lambda x: branchsig.branched_sig_mmd_test(x, x, 3)],
)
def test_what_is_no_operation_asks_for_arrays_of_numpy(function, paths):
    with pytest.raises(TypeError, match=r"EagerTensor: expected an array .*convert it with numpy.asarray"):
        function(tf.constant(paths[0]))
