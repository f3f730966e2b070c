"""Tensors of PyTorch: its own differentiation through the library, and what happens where it records nothing."""

import math
import subprocess
import sys

import numpy as np
import pytest

import branchsig

torch = pytest.importorskip("torch")

# Of its own, when torch.compile meets an autograd.Function, and when it makes dual numbers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

OPTIONS = [
    {},
    {"log": True},
    {"normalize": True},
    {"normalize": "dilation"},
    {"normalize": "dilation", "log": True},
    {"normalize": "dilation", "static_kernel": branchsig.RBFKernel(1.0)},
    {"normalize": "dilation", "depth": math.inf, "order": 3},
    {"depth": math.inf, "quadrature": "lobatto2"},
    {"static_kernel": branchsig.Matern12Kernel(1.0)},
    {"static_kernel": branchsig.Matern52Kernel(1.0)},
]


def paths(rng, *shape):
    return torch.asarray(np.cumsum(0.15 * rng.standard_normal(shape), axis=-2))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("itself", [False, True])
def test_its_own_derivatives_are_those_of_the_pullback(options, itself, rng):
    options = {"depth": 3, **options}
    x = paths(rng, 3, 6, 2)
    y = None if itself else paths(rng, 2, 5, 2)
    if y is not None:
        y[0, 0] = x[0, 0]  # where two points coincide Matern 1/2 has no derivative, and 0 in its place
    recorded = [p if p is None else p.clone().requires_grad_() for p in (x, y)]
    value = branchsig.branched_sig_kernel_gram(*recorded, **options)
    wanted, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, **options)
    torch.testing.assert_close(value.detach(), wanted, rtol=1e-12, atol=1e-13)
    weights = torch.asarray(rng.standard_normal(tuple(wanted.shape)))
    value.backward(weights)
    for path, gradient in zip(recorded, pullback(weights)):
        if path is not None:
            torch.testing.assert_close(path.grad, gradient, rtol=1e-10, atol=1e-12)


def test_factors_of_dilation_have_derivatives_too(rng):
    x = paths(rng, 2, 6, 2)
    x[1] = 1.0  # a path that does not move has the factor 1, through which nothing flows
    recorded = x.clone().requires_grad_()
    branchsig.dilation(recorded, 3)[0].backward()
    step = torch.zeros_like(x)
    step[0, 2, 1] = 1e-6
    ahead, behind = branchsig.dilation(x + step, 3)[0], branchsig.dilation(x - step, 3)[0]
    torch.testing.assert_close(recorded.grad[0, 2, 1], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-9)
    assert not recorded.grad[1].any()


def test_where_nothing_is_recorded_the_core_serves(monkeypatch, rng):
    x = paths(rng, 2, 6, 2).requires_grad_()

    def refuse(*_, **__):
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(branchsig.backends.reference.ReferenceBackend, "solve", refuse)
    monkeypatch.setattr(branchsig.backends.reference.ReferenceBackend, "adjoint", refuse)
    with torch.no_grad():
        assert branchsig.branched_sig_kernel(x, x, 3).shape == (2,)

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, path1, path2):
            value, ctx.pullback = branchsig.branched_sig_kernel_vjp(path1, path2, 3)
            return value

        @staticmethod
        def backward(ctx, derivs):
            return ctx.pullback(derivs)

    y = paths(rng, 2, 5, 2)
    Kernel.apply(x, y).sum().backward()
    wanted, _ = branchsig.branched_sig_kernel_backprop(torch.ones(2, dtype=torch.float64), x.detach(), y, 3)
    torch.testing.assert_close(x.grad, wanted)


def test_what_vmap_hands_over_has_no_memory_and_is_not_asked_for_values(rng):
    x, y = paths(rng, 4, 6, 2), paths(rng, 5, 2)
    found = torch.vmap(lambda one: branchsig.branched_sig_kernel(one, y, 3))(x)
    torch.testing.assert_close(found, branchsig.branched_sig_kernel_gram(x, y[None], 3)[:, 0], rtol=1e-12, atol=0.0)
    gradients = torch.vmap(torch.func.grad(lambda one: branchsig.branched_sig_kernel(one, y, 3)))(x)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(torch.ones(4, 1, dtype=torch.float64), x, y[None], 3)
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-13)


def test_a_compiled_step_goes_around_a_call_that_is_kept_out_of_it(rng):
    x, y = paths(rng, 3, 6, 2), paths(rng, 3, 5, 2)
    kernel = torch.compiler.disable(branchsig.branched_sig_kernel)
    compiled = torch.compile(lambda path: 2.0 * kernel(1.0 * path, y, 3), backend="eager")
    torch.testing.assert_close(compiled(x), 2.0 * branchsig.branched_sig_kernel(x, y, 3))


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"depth": math.inf, "order": 3, "log": True}])
def test_gradients_are_linear_in_derivatives_of_zero(options, rng):
    options = {"depth": 3, **options}
    x, y = paths(rng, 3, 6, 2), paths(rng, 2, 5, 2)
    weights = torch.asarray(rng.standard_normal((3, 6, 2)))
    derivs = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, **options)
    (gradient * weights).sum().backward()
    for place in ((0, 0), (2, 1)):
        one = torch.zeros(3, 2, dtype=torch.float64)
        one[place] = 1.0
        of_one, _ = branchsig.branched_sig_kernel_gram_backprop(one, x, y, **options)
        torch.testing.assert_close(derivs.grad[place], (of_one * weights).sum(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_one_of_two_stacks_of_paths_may_be_recorded(rng, normalize, side):
    stacks = [paths(rng, 3, 5, 2), paths(rng, 3, 6, 2)]
    wanted = branchsig.branched_sig_kernel_gram_backprop(
        torch.ones(3, 3, dtype=torch.float64), *stacks, 2, normalize=normalize, right_deriv=True
    )[side]
    stacks[side] = stacks[side].clone().requires_grad_()
    branchsig.branched_sig_kernel_gram(*stacks, 2, normalize=normalize).sum().backward()
    torch.testing.assert_close(stacks[side].grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"normalize": True}, {"normalize": "dilation"}, {"depth": math.inf, "order": 3}]
)
def test_gradcheck_finds_no_fault_and_nor_does_that_of_second_derivatives(options, rng):
    options = {"depth": 2, **options}
    x, y = paths(rng, 2, 4, 2).requires_grad_(), paths(rng, 2, 3, 2).requires_grad_()
    function = lambda a, b: branchsig.branched_sig_kernel_gram(a, b, **options)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, y), atol=1e-6)
    assert torch.autograd.gradgradcheck(function, (x, y), atol=1e-5)


def test_gradcheck_of_parameters_finds_no_fault(rng):
    x = paths(rng, 2, 4, 2)
    parameters = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.9, 0.7)]

    def function(sigma, alpha):
        kernel = branchsig.RationalQuadraticKernel(sigma, alpha)
        return branchsig.branched_sig_mmd(x, 2.0 * x, 3, static_kernel=kernel)

    assert torch.autograd.gradcheck(function, parameters)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off_nothing_is_recorded(mode, rng):
    x = paths(rng, 3, 5, 2).requires_grad_()
    sigma = torch.tensor(0.9, requires_grad=True)
    with mode():
        found = branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=branchsig.RBFKernel(sigma))
    assert not found.requires_grad
    wanted = branchsig.branched_sig_kernel_gram(
        x.detach().numpy(), None, 3, static_kernel=branchsig.RBFKernel(float(sigma.detach()))
    )
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_jacobians_by_reverse_mode_have_every_row(rng):
    x, y = paths(rng, 3, 5, 2), paths(rng, 2, 4, 2)
    found = torch.func.jacrev(lambda a: branchsig.branched_sig_kernel_gram(a, y, 3, normalize=True))(x)
    for i in range(3):
        for j in range(2):
            derivs = torch.zeros(3, 2, dtype=torch.float64)
            derivs[i, j] = 1.0
            wanted, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, normalize=True)
            torch.testing.assert_close(found[i, j], wanted, rtol=1e-10, atol=1e-13)


def test_an_operand_that_was_written_to_after_the_call_is_noticed(rng):
    x = paths(rng, 3, 5, 2)
    recorded = x.clone().requires_grad_()
    moved = 1.0 * recorded
    value = branchsig.branched_sig_kernel_gram(moved, None, 3).sum()
    moved.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_writing_to_a_stack_does_not_change_its_gradient(rng):
    x = paths(rng, 2, 4, 2).requires_grad_()
    y = paths(rng, 2, 4, 2)
    stack = branchsig.branched_sig_kernel_stack(x, y, 3)
    stack.mul_(2.0)
    (found,) = torch.autograd.grad(stack.sum(), x)
    derivs = torch.full(stack.shape, 2.0, dtype=torch.float64)
    wanted, _ = branchsig.branched_sig_kernel_stack_backprop(derivs, x.detach(), y, 3)
    torch.testing.assert_close(found, wanted)


def test_one_tensor_in_both_places_has_the_gradients_of_both(rng):
    x = paths(rng, 3, 5, 2)
    for function, second in ((branchsig.branched_sig_kernel, True), (branchsig.branched_sig_kernel_gram, True)):
        weights = torch.asarray(rng.standard_normal(function(x, x, 3).shape))
        recorded = x.clone().requires_grad_()
        (weights * function(recorded, recorded, 3)).sum().backward()
        backprop = getattr(branchsig, function.__name__ + "_backprop")
        parts = backprop(weights, x, x, 3, right_deriv=second)
        torch.testing.assert_close(recorded.grad, parts[0] + parts[1], rtol=1e-10, atol=1e-13)


def test_views_that_are_not_contiguous_and_gradients_that_are_expanded(rng):
    base = paths(rng, 5, 6, 2)
    view = base.transpose(0, 1)[::2].requires_grad_()
    branchsig.branched_sig_kernel(view, view.detach(), 3).sum().backward()  # the derivative is one expanded number
    wanted, _ = branchsig.branched_sig_kernel_backprop(
        np.ones(3), view.detach().numpy().copy(), view.detach().numpy().copy(), 3
    )
    np.testing.assert_allclose(view.grad.numpy(), wanted, rtol=1e-13)


def test_dual_numbers_and_parameters_that_are_differentiated_do_not_mix_in_silence(rng):
    x = paths(rng, 3, 5, 2)
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        sigma = forward_ad.make_dual(torch.tensor(0.9), torch.tensor(1.0))
        with pytest.raises(RuntimeError, match="sigma is an array that is differentiated.*Give sigma as a number"):
            branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=branchsig.RBFKernel(sigma))


class Square(branchsig.StaticKernel):
    """<weights, x y>**2 with weights of its own, whose derivatives PyTorch is to find."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, ctx, x, y):
        products = (self.weights * x) @ y.transpose(1, 2)
        return products.square().diff(dim=1).diff(dim=2)


def test_kernels_of_the_users_own_are_recorded_parameters_included(rng):
    x = paths(rng, 3, 5, 2)
    weights = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    recorded = x.clone().requires_grad_()

    def function(a, w):
        return branchsig.branched_sig_kernel_gram(a, None, 2, static_kernel=Square(w)).sum()

    assert torch.autograd.gradcheck(function, (recorded, weights))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # which torch looks at where it splits
def test_a_program_is_split_at_a_kernel_of_the_users_own(rng):
    x = paths(rng, 3, 5, 2)
    kernel = Square(torch.tensor([0.5, 0.8], dtype=torch.float64))

    def function(a):
        return 2.0 * branchsig.branched_sig_kernel_gram(1.0 * a, None, 2, static_kernel=kernel).sum()

    recorded, alike = x.clone().requires_grad_(), x.clone().requires_grad_()
    function(recorded).backward()
    torch.compile(function, backend="aot_eager")(alike).backward()
    torch.testing.assert_close(alike.grad, recorded.grad)


def test_programs_serve_all_shapes_and_all_numbers_that_are_parameters(rng):
    x = paths(rng, 6, 8, 2)

    def function(a, sigma):
        return branchsig.branched_sig_kernel_gram(a, None, 3, static_kernel=branchsig.RBFKernel(sigma)).sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for part, sigma in ((x, 0.9), (x[:4], 1.3), (x[:, :5], 0.7)):
        recorded, alike = part.clone().requires_grad_(), part.clone().requires_grad_()
        function(recorded, sigma).backward()
        compiled(alike, sigma).backward()
        torch.testing.assert_close(alike.grad, recorded.grad)


def test_the_first_call_of_a_process_may_be_that_of_a_program():
    code = (
        "import sys, torch, branchsig; x = torch.linspace(0, 1, 10, dtype=torch.float64).reshape(1, 5, 2);"
        "x.requires_grad_(); assert 'branchsig.frameworks.torch' not in sys.modules;"
        "kernel = lambda a: branchsig.branched_sig_kernel(a, a, 2).sum();"
        "torch.compile(kernel, fullgraph=True, backend='aot_eager')(x).backward(); print(float(x.grad.norm()).hex())"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    x = np.linspace(0, 1, 10).reshape(1, 5, 2)
    wanted = sum(branchsig.branched_sig_kernel_backprop(np.ones(1), x, x, 2, right_deriv=True))
    assert float.fromhex(ran.stdout.splitlines()[-1]) == pytest.approx(np.linalg.norm(wanted), rel=1e-12)


def test_one_tensor_may_be_several_operands_of_a_program(rng):
    x, length, size = paths(rng, 3, 5, 2), torch.asarray([5, 2, 3]), torch.tensor(0.9, dtype=torch.float64)

    def function(a, valid, s):
        kernel = branchsig.RationalQuadraticKernel(s, s)
        pairs = branchsig.branched_sig_kernel(a, a, 3, lengths1=valid, lengths2=valid, static_kernel=kernel)
        return (
            pairs.sum() + branchsig.branched_sig_kernel_gram([a[0], a[0]], [a[1], a[1]], 3, static_kernel=kernel).sum()
        )

    found = []
    for way in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        recorded, number = x.clone().requires_grad_(), size.clone().requires_grad_()
        value = way(recorded, length, number)
        value.backward()
        found.append((value.detach(), recorded.grad, number.grad))
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)


def test_a_program_has_no_second_derivatives(rng):
    x = paths(rng, 3, 5, 2).requires_grad_()
    compiled = torch.compile(
        lambda a: branchsig.branched_sig_kernel_gram(a, None, 3).sum(), fullgraph=True, backend="aot_eager"
    )
    (gradient,) = torch.autograd.grad(compiled(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward|second derivatives"):
        torch.autograd.grad(gradient.sum(), x)


def test_an_exported_program_finds_its_function_in_another_process(rng, tmp_path):
    class Module(torch.nn.Module):
        def forward(self, a, b):
            kernel = branchsig.RBFKernel(0.9)
            return branchsig.branched_sig_kernel_gram(a, b, 3, static_kernel=kernel, normalize=True)

    x, y = paths(rng, 3, 5, 2), paths(rng, 2, 4, 2)
    torch.export.save(torch.export.export(Module(), (x, y)), tmp_path / "program.pt2")
    torch.save((x, y), tmp_path / "paths.pt")
    code = (
        "import sys, torch, branchsig.frameworks.torch;"
        "program = torch.export.load(sys.argv[1] + '/program.pt2').module();"
        "print(float(program(*torch.load(sys.argv[1] + '/paths.pt')).sum()).hex())"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    wanted = branchsig.branched_sig_kernel_gram(x, y, 3, static_kernel=branchsig.RBFKernel(0.9), normalize=True)
    assert float.fromhex(ran.stdout.splitlines()[-1]) == float(wanted.sum())


def test_tensors_without_memory_get_shapes_alone():
    x = torch.empty(3, 5, 2, device="meta", dtype=torch.float32)
    found = branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation")
    assert found.shape == (3, 3)
    assert found.dtype == torch.float32
    assert found.device.type == "meta"


def test_a_tensor_beside_an_array_of_numpy_is_an_error(rng):
    x = paths(rng, 3, 5, 2).requires_grad_()
    with pytest.raises(TypeError, match="path2 is an array of numpy and path1 of torch: expected one library"):
        branchsig.branched_sig_kernel(x, x.detach().numpy(), 3)


def test_a_parameter_that_is_recorded_beside_an_array_of_numpy_is_an_error(rng):
    kernel = branchsig.RBFKernel(torch.tensor(0.9, requires_grad=True))
    with pytest.raises(TypeError, match="static_kernel holds a tensor of torch, and a path is an array of another"):
        branchsig.branched_sig_kernel_gram(paths(rng, 3, 5, 2).numpy(), None, 3, static_kernel=kernel)


def test_checkpoints_run_the_call_again(rng):
    x = paths(rng, 3, 5, 2)
    recorded, alike = x.clone().requires_grad_(), x.clone().requires_grad_()

    def function(a):
        return branchsig.branched_sig_kernel_gram(a, None, 3, normalize=True)

    function(recorded).sum().backward()
    torch.utils.checkpoint.checkpoint(function, alike, use_reentrant=False).sum().backward()
    torch.testing.assert_close(alike.grad, recorded.grad)
