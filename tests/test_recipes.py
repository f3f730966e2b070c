"""The code of the user guide for other frameworks runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "user_guide" / "frameworks.md"
MODULES = {
    "PyTorch": "torch",
    "JAX": "jax",
    "Autograd": "autograd",
    "TensorFlow": "tensorflow",
    "PyTensor and PyMC": "pytensor",
    "Dask": "dask.array",
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
