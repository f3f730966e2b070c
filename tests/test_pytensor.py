"""Variables of PyTensor: every operation in a function, its gradients, and what is refused."""

import numpy as np
import pytest
from cases import QuarticKernel, walk
from framework_cases import KERNELS, MORE, SHORT, WITH_PARAMETERS, close

import branchsig

pytensor = pytest.importorskip("pytensor")
pt = pytest.importorskip("pytensor.tensor")


def variable(array, *, known=True):
    """A variable for an array, of known sizes or of unknown ones."""
    array = np.asarray(array)
    return pt.TensorType(str(array.dtype), array.shape if known else (None,) * array.ndim)()


def value_and_gradients(function, *arrays, known=True):
    """The value of a function, and the derivatives of its sum with respect to all arrays of floats, by a program."""
    inputs = [variable(array, known=known) for array in arrays]
    value = function(*inputs)
    floats = [one for one in inputs if one.dtype.startswith("float")]
    gradients = pytensor.grad(value.sum(), floats)
    found = pytensor.function(inputs, [value, *gradients])(*arrays)
    return found[0], found[1:]


@pytest.mark.parametrize(("dtype", "known"), [("float64", True), ("float32", False)])
@pytest.mark.parametrize("case", SHORT + MORE, ids=repr)
def test_values_and_gradients_are_those_of_numpy(case, dtype, known, rng):
    paths = case.paths(rng, dtype)
    wanted = case.value(*paths)
    weights = rng.standard_normal(wanted.shape).astype(dtype)
    found, gradients = value_and_gradients(lambda *a: weights * case.value(*a), *paths, known=known)
    close(found, weights * wanted, dtype)
    for mine, its in zip(gradients, case.gradients(weights, *paths), strict=True):
        close(mine, its, dtype)


@pytest.mark.parametrize(("kind", "values", "fixed"), KERNELS)
@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=repr)
def test_parameters_of_static_kernels_have_gradients(case, kind, values, fixed, rng):
    paths = case.paths(rng)
    kernel = kind(**dict(zip(kind.parameters, values)), **fixed)
    weights = rng.standard_normal(case.value(*paths, static_kernel=kernel).shape)
    alone = case.name == "dilation"
    second = [] if alone else [paths[1] if len(paths) > 1 else None]
    options = {"depth": 3} | case.options | {"static_kernel": kernel, "param_deriv": True}
    wanted = getattr(branchsig, case.name + "_backprop")(weights, paths[0], *second, **options)[-1]

    def function(*arrays):
        held = kind(**dict(zip(kind.parameters, arrays[len(paths) :])), **fixed)
        return weights * case.value(*arrays[: len(paths)], static_kernel=held)

    _, gradients = value_and_gradients(function, *paths, *map(np.asarray, values))
    for mine, name in zip(gradients[len(paths) :], kind.parameters, strict=True):
        np.testing.assert_allclose(mine, wanted[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("known", [True, False])
def test_valid_lengths_and_times_are_variables_too(known, rng):
    x, lengths = walk(rng, 3, 5, 2), np.asarray([5, 1, 3])
    found, (gradient,) = value_and_gradients(
        lambda a, valid: branchsig.branched_sig_kernel_gram(a, None, 3, lengths1=valid), x, lengths, known=known
    )
    close(found, branchsig.branched_sig_kernel_gram(x, None, 3, lengths1=lengths))
    ones = np.ones((3, 3))
    close(gradient, branchsig.branched_sig_kernel_gram_backprop(ones, x, None, 3, lengths1=lengths)[0])
    for times in (rng.uniform(0.05, 0.3, 5).cumsum(), rng.uniform(0.05, 0.3, (3, 5)).cumsum(axis=1)):
        found, gradients = value_and_gradients(
            lambda a, stamps: branchsig.branched_sig_kernel_gram(a, None, 3, times1=stamps), x, times, known=known
        )
        close(found, branchsig.branched_sig_kernel_gram(x, None, 3, times1=times))
        wanted = branchsig.branched_sig_kernel_gram_backprop(ones, x, None, 3, times1=times)
        close(gradients[0], wanted[0])
        close(gradients[1], wanted[2])
        a, stamps = variable(x, known=known), variable(times, known=known)
        *_, of_times, _ = branchsig.branched_sig_kernel_gram_backprop(ones, a, None, 3, times1=stamps)
        close(pytensor.function([a, stamps], of_times)(x, times), wanted[2])


def test_a_static_kernel_of_the_user_has_the_gradients_that_it_defines(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)
    options = {"depth": 3, "static_kernel": QuarticKernel()}
    found, gradients = value_and_gradients(lambda a, b: branchsig.branched_sig_kernel_gram(a, b, **options), x, y)
    close(found, branchsig.branched_sig_kernel_gram(x, y, **options))
    wanted = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2)), x, y, right_deriv=True, **options)
    for mine, its in zip(gradients, wanted, strict=True):
        close(mine, its)


def test_lists_of_paths_are_variables_one_by_one(rng):
    paths = [walk(rng, 1, length, 2)[0] for length in (5, 2, 4)]
    found, gradients = value_and_gradients(lambda *a: branchsig.branched_sig_kernel_gram(list(a), None, 3), *paths)
    close(found, branchsig.branched_sig_kernel_gram(paths, None, 3))
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), paths, None, 3)
    for mine, its in zip(gradients, wanted, strict=True):
        close(mine, its)


def test_pullbacks_and_gradients_are_variables(rng):
    x, weights = walk(rng, 3, 5, 2), rng.standard_normal((3, 3))
    a, w = variable(x), variable(weights)
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(a, None, 3, normalize=True)
    first, _ = pullback(w)
    second, _ = branchsig.branched_sig_kernel_gram_backprop(w, a, None, 3, normalize=True)
    found = pytensor.function([a, w], [value, first, second])(x, weights)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(weights, x, None, 3, normalize=True)
    close(found[0], branchsig.branched_sig_kernel_gram(x, None, 3, normalize=True))
    close(found[1], wanted)
    close(found[2], wanted)


def test_constants_have_no_gradients_computed(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)
    a = variable(x)
    gradient = pytensor.grad(branchsig.branched_sig_kernel_gram(a, pt.constant(y), 3).sum(), a)
    assert len(gradient.owner.outputs) == 1
    assert len(gradient.owner.op.call.places) == 1


def test_known_sizes_are_checked_and_kept(rng):
    x, y = variable(np.zeros((3, 5, 2))), variable(np.zeros((2, 4, 2)))
    assert branchsig.branched_sig_kernel_gram(x, y, 3).type.shape == (3, 2)
    with pytest.raises(ValueError, match=r"path1 has shape \(3, 5, 2\) and path2 \(2, 4, 3\): expected"):
        branchsig.branched_sig_kernel_gram(x, variable(np.zeros((2, 4, 3))), 3)
    unknown = variable(np.zeros((2, 4, 3)), known=False)
    program = pytensor.function([x, unknown], branchsig.branched_sig_kernel_gram(x, unknown, 3))
    with pytest.raises(ValueError, match=r"path1 has shape \(3, 5, 2\) and path2 \(2, 4, 3\): expected"):
        program(np.zeros((3, 5, 2)), np.zeros((2, 4, 3)))


def test_values_of_parameters_are_checked_when_they_are_there(rng):
    sigma = pt.dscalar()
    kernel = branchsig.RBFKernel(sigma)
    program = pytensor.function(
        [sigma], branchsig.branched_sig_kernel_gram(walk(rng, 3, 5, 2), None, 3, static_kernel=kernel)
    )
    with pytest.raises(ValueError, match=r"RBFKernel: sigma is -1.0: expected a finite number > 0"):
        program(-1.0)


@pytest.mark.parametrize("case", SHORT, ids=repr)
def test_second_derivatives_and_those_forward_are_refused(case, rng):
    paths = [variable(path) for path in case.paths(rng)]
    value = case.value(*paths).sum()
    gradient = pytensor.grad(value, paths[0])
    with pytest.raises(NotImplementedError, match="second derivatives"):
        pytensor.grad(gradient.sum(), paths[0])
    forward = getattr(pytensor.gradient, "pushforward", None) or pytensor.gradient.Rop
    with pytest.raises(NotImplementedError, match="forward mode"):
        forward(value, paths[0], pt.ones_like(paths[0]))


def test_warnings_name_the_line_that_asked(rng):
    x = 30.0 * walk(rng, 3, 5, 2)
    a = variable(x)
    program = pytensor.function([a], branchsig.branched_sig_kernel_gram(a, None, 4))
    with pytest.warns(RuntimeWarning, match="of 9 values") as caught:
        program(x)
    assert caught[0].filename == __file__


def test_a_potential_in_pymc_samples_with_nuts(rng):
    pm = pytest.importorskip("pymc")
    data = walk(rng, 8, 6, 2, size=0.5)
    noise = rng.standard_normal((8, 6, 2)).cumsum(axis=1)

    with pm.Model():
        scale = pm.HalfNormal("scale", 1.0)
        distance = branchsig.branched_sig_mmd(0.3 * scale * noise, data, 2, static_kernel=branchsig.RBFKernel(1.0))
        pm.Potential("fit", -50.0 * distance)
        trace = pm.sample(
            30, tune=30, chains=1, random_seed=0, progressbar=False, compute_convergence_checks=False, cores=1
        )
    found = np.asarray(trace.posterior["scale"])
    assert found.shape == (1, 30)
    assert np.all(found > 0.0)
    assert len(np.unique(found)) > 10


def test_the_gradient_of_a_number_has_the_dtype_of_the_paths(rng):
    x, derivs = walk(rng, 3, 5, 2).astype("float32"), np.ones((3, 3), "float32")
    variable = pt.tensor3("x", dtype="float32")
    options = {"static_kernel": branchsig.RBFKernel(0.9), "param_deriv": True}
    found = branchsig.branched_sig_kernel_gram_backprop(derivs, variable, None, 2, **options)[-1]["sigma"]
    wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 2, **options)[-1]["sigma"]
    assert found.dtype == wanted.dtype == "float32"
    np.testing.assert_allclose(found.eval({variable: x}), wanted, rtol=1e-6)
