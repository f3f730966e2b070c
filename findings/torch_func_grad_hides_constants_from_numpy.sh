#!/usr/bin/env bash
# torch 2.13.0: inside torch.func.grad, vjp and jvp no tensor can be read by NumPy, not even a constant made outside.
#
# One would guess that a tensor which takes no part in the derivative, like recorded data that a loss closes over, is an
# ordinary tensor inside of torch.func.grad too, and that t.numpy() works on it, as it does inside of torch.vmap and in
# code that backward() differentiates. It raises "Cannot access data pointer of Tensor that doesn't have storage", which
# names neither the transform nor a remedy. numpy.from_dlpack and t.tolist() read the same tensor without complaint. Nothing
# tells such a tensor from one that is differentiated: torch._C._functorch.is_gradtrackingtensor is False for it. It matters
# to every function on NumPy arrays or compiled code that takes tensors and leaves derivatives to an autograd.Function:
# it works with backward() and fails with torch.func, on arguments that nobody differentiates.
# Run: bash findings/torch_func_grad_hides_constants_from_numpy.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import torch

print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, NumPy {np.__version__}")
data = torch.tensor([1.0, 2.0])
x = torch.tensor([3.0, 4.0])

READERS = {
    "data.numpy()": lambda: torch.from_numpy(data.numpy()),
    "numpy.from_dlpack(data)": lambda: torch.from_numpy(np.from_dlpack(data)),
    "data.tolist()": lambda: torch.tensor(data.tolist()),
    "torch.ones(2).numpy()": lambda: torch.from_numpy(torch.ones(2).numpy()),
}
tracked = []


def product_with(read):
    def product(a):
        tracked.append((torch._C._functorch.is_gradtrackingtensor(a), torch._C._functorch.is_gradtrackingtensor(data)))
        return (a * read()).sum()

    return product


def by_backward(f, a):
    a = a.clone().requires_grad_()
    f(a).backward()
    return a.grad


WAYS = {
    "backward()": by_backward,
    "torch.func.grad": lambda f, a: torch.func.grad(f)(a),
    "torch.func.vjp": lambda f, a: torch.func.vjp(f, a)[1](torch.tensor(1.0))[0],
    "torch.func.jvp": lambda f, a: torch.func.jvp(f, (a,), (a,))[1],
    "torch.vmap": lambda f, a: torch.vmap(f)(a[None])[0],
}
seen = {}
for way, run in WAYS.items():
    for name, read in READERS.items():
        try:
            seen[way, name] = str(run(product_with(read), x).tolist())
        except RuntimeError as error:
            seen[way, name] = f"{type(error).__name__}: {error}"
        print(f"{way:16} {name:24} {seen[way, name]}")
refused = "RuntimeError: Cannot access data pointer of Tensor that doesn't have storage"
wrong = [
    place
    for place, found in seen.items()
    if (found == refused) != (place[0].startswith("torch.func") and place[1].endswith(".numpy()"))
]
told_apart = any(of_data for _, of_data in tracked)
if wrong or told_apart:
    sys.exit(f"The behaviour has changed: {wrong}, {told_apart}")
print("As described: inside of torch.func.grad, vjp and jvp a constant cannot be read by .numpy(), though by DLPack.")
PYTHON
