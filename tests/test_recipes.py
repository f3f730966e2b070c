"""The code of the user guide for other frameworks runs, and its recipes give the gradients they should."""

import re
from pathlib import Path

import numpy as np
import pytest
from cases import walk

import branchsig

PAGE = Path(__file__).parents[1] / "docs" / "user_guide" / "frameworks.md"
MODULES = {"PyTorch": "torch", "JAX": "jax", "Autograd": "autograd", "Dask": "dask.array", "scikit-learn": "sklearn"}


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


@pytest.fixture
def case(rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    weights = rng.standard_normal(3)
    return x, y, weights, branchsig.branched_sig_kernel_backprop(weights, x, y, 3, right_deriv=True)


def test_autograd_has_the_gradients(case):
    autograd = pytest.importorskip("autograd")
    x, y, weights, wanted = case
    kernel = recipe("Autograd")["kernel"]
    for place, its in enumerate(wanted):
        found = autograd.grad(lambda a, b: autograd.numpy.sum(weights * kernel(a, b, 3)), place)(x, y)
        np.testing.assert_allclose(found, its, rtol=1e-13)
