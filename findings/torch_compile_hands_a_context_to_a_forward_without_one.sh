#!/usr/bin/env bash
# torch 2.13.0: torch.compile calls the forward of an autograd.Function with a context in front, though it takes none.
#
# A Function with setup_context has a forward without a context, and may be written forward(*tensors). Outside of torch.compile
# it gets what apply was given. Inside, where no tensor requires a gradient, as in evaluation, dynamo tells the two forms of
# forward apart by the number of names in its signature, and *tensors is one name: with two tensors or more the context comes in
# as the first of them. Code that only counts or filters its inputs then returns another number, without a word; with
# gradients, and with one tensor, the program is right. branchsig calls such a Function only where a gradient is asked for.
# Run: bash findings/torch_compile_hands_a_context_to_a_forward_without_one.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys

import torch

print(f"Python {sys.version.split()[0]}, torch {torch.__version__}")


class Mean(torch.autograd.Function):
    """The mean of tensors and of what else may stand among them, which counts as 0."""

    @staticmethod
    def forward(*given):
        return sum(one for one in given if isinstance(one, torch.Tensor)) / len(given)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.number = len(inputs)

    @staticmethod
    def backward(ctx, derivs):
        return (derivs / ctx.number,) * ctx.number


def mean(a, b):
    return Mean.apply(a, b)


compiled = torch.compile(mean, backend="eager", fullgraph=True)
a, b = torch.tensor(1.0), torch.tensor(3.0)
found = {
    "mean of 1 and 3, plain": float(mean(a, b)),
    "the same where gradients are wanted, compiled": float(compiled(a.clone().requires_grad_(), b).detach()),
    "the same where none are, compiled": float(compiled(a, b)),
}
for name, value in found.items():
    print(f"{name}: {value:.4f}")
wanted = [2.0, 2.0, 4.0 / 3.0]
if any(abs(one - other) > 1e-6 for one, other in zip(found.values(), wanted)):
    sys.exit("The behaviour has changed.")
print("As described: the compiled program divides by three, since the context is one of its inputs.")
PYTHON
