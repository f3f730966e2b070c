"""The code of the user guide for other frameworks runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from cases import walk

import branchsig

PAGE = Path(__file__).parents[1] / "docs" / "user_guide" / "frameworks.md"
MODULES = {
    "PyTorch": "torch",
    "JAX": "jax",
    "Autograd": "autograd",
    "TensorFlow": "tensorflow",
    "PyTensor and PyMC": "pytensor",
    "Dask": "dask.array",
    "Any other framework": "mlx",
    "scikit-learn": "sklearn",
}


def recipe(title):
    """What the code below a heading defines, once it has run."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (code,) = re.findall(r"^```python\n(.*?)^```", section[1], re.M | re.S)
    defined = {"__name__": "recipe"}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), defined)
    return defined


def test_every_recipe_has_its_module_here():
    assert re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.M) == list(MODULES)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize("title", MODULES)
def test_recipes_run(title):
    pytest.importorskip(MODULES[title])
    recipe(title)


def test_the_recipe_has_the_gradients_and_refuses_to_be_differentiated_again(rng):
    mx = pytest.importorskip("mlx.core")
    gram = recipe("Any other framework")["gram"]
    x, y = (walk(rng, n, 5, 2).astype("float32") for n in (3, 2))
    wanted = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2), "float32"), x, y, 3, right_deriv=True)

    def total(a, b):
        return gram(a, b).sum()

    found = mx.grad(total, argnums=(0, 1))(mx.array(x), mx.array(y))
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(mine), its, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        mx.grad(lambda a: (mx.grad(total)(a, mx.array(y)) ** 2).sum())(mx.array(x))


def test_arrays_of_a_library_that_never_says_what_it_differentiates_are_refused(rng):
    mx = pytest.importorskip("mlx.core")
    x = mx.array(walk(rng, 3, 5, 2).astype("float32"))
    for function in (branchsig.branched_sig_kernel_gram, branchsig.branched_sig_mmd):
        with pytest.raises(TypeError, match=r"is of type array of mlx.*numpy.asarray.*_vjp"):
            mx.grad(lambda a, function=function: function(a, a, 3).sum())(x)
