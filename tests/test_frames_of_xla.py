"""Calls of compiled programs that the handler in C answers, from frames that are made here and without JAX."""

import itertools
import sys

import numpy as np
import pytest
from cases import STATIC_KERNELS, using, walk
from remembered import RememberedReference

import branchsig
from branchsig.quadrature import GaussLobatto
from branchsig.static_kernels.table import TABLE

pytest.importorskip("branchsig._core", reason="no compiled core")
from xla_frames import Frame, ffi, lib


@pytest.fixture
def in_python():
    """A list that grows with every frame that is handed on to Python."""
    frames = []

    @ffi.callback("void *(bs_xla_frame *)")
    def handler(frame):
        frames.append(frame)
        return ffi.NULL

    lib.bs_xla_set_python(handler)
    yield frames
    # Without JAX there are no handlers, even where something has tried to import the file.
    handlers = getattr(sys.modules.get("branchsig.frameworks.jax"), "_handlers", None)
    lib.bs_xla_set_python(ffi.NULL if handlers is None else handlers[0])


class Program:
    """A call site: kernels of pairs or a Gram matrix, or their gradients."""

    def __init__(
        self, kernel, *, gram=False, alone=False, backward=False, ragged=False, wrt_parameters=True, **options
    ):
        self.kernel, self.gram, self.alone, self.backward = kernel, gram, alone, backward
        self.ragged, self.options = ragged, {"depth": 3} | options
        row = TABLE[type(kernel)]
        self.names = [name for name in row.attributes if name != "degree"]
        self.wrt_parameters = wrt_parameters and bool(self.names)
        operands = ["DERIVS"] * backward + ["PATH1"] + ["PATH2"] * (not alone)
        operands += (["LENGTHS1"] + ["LENGTHS2"] * (not alone)) * ragged
        places = {name: place for place, name in enumerate(operands)}
        for k, name in enumerate(self.names):
            places[f"PARAMETERS+{row.attributes.index(name)}"] = len(operands) + k
        if backward:
            results = ["GRAD1"] + ["GRAD2"] * (not alone)
            results += [f"GRAD_PARAMETERS+{k}" for k in range(len(self.names))] if self.wrt_parameters else []
            places |= {name: place for place, name in enumerate(results)}
        planar, quadrature = self.options.get("planar", False), self.options.get("quadrature", "trapezoid")
        rule = GaussLobatto(int(quadrature[-1])) if quadrature.startswith("lobatto") else None
        untruncated = self.options["depth"] == np.inf
        if untruncated and rule is None:
            rule = branchsig.Trapezoid()
        order = self.options.get("dyadic_order", (0, 0))
        kind = "LINEAR" if "Linear" in type(kernel).__name__ else row.name
        places |= {"GRAM": gram, "RANK": 3, "DEPTH": 1 if untruncated else self.options["depth"]}
        places |= {"DYADIC1": order[0], "DYADIC2": order[1], "STATIC_KERNEL": getattr(lib, f"BS_{kind}")}
        places |= {"NODES": rule.p if rule else 0, "UNTRUNCATED": untruncated, "LOG": self.options.get("log", False)}
        places["PLANAR"] = planar * (1 + (quadrature == "left"))
        self.task = np.full(lib.BS_CALL_SIZE, -1)
        for name, value in places.items():
            name, _, further = name.partition("+")
            self.task[getattr(lib, f"BS_CALL_{name}") + int(further or 0)] = value
        self.numbers = np.zeros(4 + 72 + 9)
        values = row.values(kernel) or (1.0,)  # the linear kernel is the scaled one
        self.numbers[: len(values)] = values
        if rule:
            steps, whole = np.ravel(rule.steps), rule.whole[0]
            self.numbers[4 : 4 + len(steps)], self.numbers[76 : 76 + len(whole)] = steps, whole

    def operands(self, paths, lengths, derivs=None):
        """Its operands, as many as it has."""
        held = [getattr(self.kernel, name) for name in self.names]
        arrays = [derivs] * self.backward + list(paths) + list(lengths) * self.ragged
        return arrays + [np.asarray(value, paths[0].dtype) for value in held]

    def results(self, operands, value):
        """Memory for its results, which holds something else before."""
        if not self.backward:
            return [np.full(value.shape, 7.0, operands[0].dtype)]
        of_paths = 1 if self.alone else 2
        arrays = operands[1 : 1 + of_paths] + (operands[-len(self.names) :] if self.wrt_parameters else [])
        return [np.full_like(array, 7.0) for array in arrays]

    def run(self, operands, results, **attributes):
        """Let the handler answer."""
        given = {"call": "of no interest", "numbers": self.numbers, "task": self.task} | attributes
        assert Frame(given, operands, results).run(lib.bs_xla_kernels) == []
        return results

    def wanted(self, paths, lengths, derivs=None):
        """Values, or gradients, by the reference."""
        options = self.options | {"static_kernel": self.kernel}
        x, y = paths[0].astype(np.float64), None if self.alone else paths[1].astype(np.float64)
        if self.ragged:
            options |= {"lengths1": lengths[0]} | ({} if self.alone else {"lengths2": lengths[1]})
        name = "branched_sig_kernel_gram" if self.gram else "branched_sig_kernel"
        with using(RememberedReference()):
            if not self.backward:
                return [getattr(branchsig, name)(x, y, **options)]
            *found, of_parameters = getattr(branchsig, name + "_backprop")(
                derivs.astype(np.float64), x, y, right_deriv=not self.alone, param_deriv=True, **options
            )
        return [one for one in found if one is not None] + list(of_parameters.values()) * self.wrt_parameters


STRUCTURES = {
    "pairs": {},
    "ragged pairs": {"ragged": True},
    "gram": {"gram": True},
    "ragged gram": {"gram": True, "ragged": True, "dyadic_order": (1, 0)},
    "triangle": {"gram": True, "alone": True},
    "ragged triangle": {"gram": True, "alone": True, "ragged": True},
}
RULES = {
    "plain": {},
    "logarithms": {"depth": 2, "log": True, "dyadic_order": (1, 1)},
    "lobatto": {"quadrature": "lobatto3"},
    "untruncated": {"depth": np.inf},
    "nothing": {"depth": 0},
    "ordered": {"depth": 2, "planar": True},
    "ordered, left points": {"depth": 1, "planar": True, "quadrature": "left"},
}
KERNELS = {name: kind(**parameters) for name, (kind, parameters) in STATIC_KERNELS.items()}


def arrays_of(rng, program, dtype, n1=5, n2=5):
    """Paths, valid lengths and derivatives of a program."""
    paths = [(0.2 * walk(rng, n, length, 2)).astype(dtype) for n, length in ((n1, 7), (n2, 6))]
    lengths = [np.array([7, 3, 1, 5, 7], np.int32), np.array([6, 6, 2, 1, 4])]
    if program.alone:
        paths, lengths = paths[:1], lengths[:1]
    shape = (n1, n1 if program.alone else n2) if program.gram else (n1,)
    derivs = rng.standard_normal(shape).astype(dtype)
    derivs[0] = 0.0
    return paths, lengths, derivs


def check(found, wanted, dtype):
    rtol, atol = (1e-12, 1e-14) if dtype == np.float64 else (1e-5, 1e-6)
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=rtol * np.max(np.abs(its)) + atol)


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        *((rule, np.float64) for rule in RULES),
        ("plain", np.float32),
        ("logarithms", np.float32),
        ("ordered", np.float32),
    ],
)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_values_and_gradients_are_those_of_the_reference(structure, rule, dtype, instruction_set, in_python, rng):
    for kernel, backward in itertools.product(KERNELS.values(), (False, True)):
        program = Program(kernel, backward=backward, **RULES[rule] | STRUCTURES[structure])
        paths, lengths, derivs = arrays_of(rng, program, dtype)
        operands = program.operands(paths, lengths, derivs)
        wanted = program.wanted(paths, lengths, derivs)
        check(program.run(operands, program.results(operands, wanted[0])), wanted, dtype)
    assert not in_python


@pytest.mark.parametrize("structure", ["pairs", "gram", "triangle"])
@pytest.mark.parametrize("shared", ["nothing", "the first paths", "the derivatives", "all but the parameters"])
def test_repetitions_are_calls_of_their_own(structure, shared, instruction_set, in_python, rng):
    kernels = [branchsig.RationalQuadraticKernel(0.9, 0.7), branchsig.RationalQuadraticKernel(0.5, 1.7)]
    for backward in (False, True):
        programs = [Program(kernel, backward=backward, **STRUCTURES[structure]) for kernel in kernels]
        many = [arrays_of(rng, programs[0], np.float64) for _ in range(6)]
        which = [k // 3 for k in range(6)]  # two by three repetitions: the kernels change along the first axis
        if shared == "the first paths":
            many = [([many[0][0][0], *paths[1:]], lengths, derivs) for paths, lengths, derivs in many]
        if shared == "the derivatives":
            many = [(paths, lengths, many[0][2]) for paths, lengths, _ in many]
        if shared == "all but the parameters":
            many = [many[0]] * 6
        if shared != "all but the parameters":
            which = [0] * 6
        of_all = [programs[w].operands(*one) for w, one in zip(which, many)]
        operands = []
        for parts in zip(*of_all):
            whole = np.stack(parts).reshape(2, 3, *parts[0].shape)
            for axis in (0, 1):
                first = whole.take([0], axis)
                whole = first if np.array_equal(np.broadcast_to(first, whole.shape), whole) else whole
            operands.append(np.ascontiguousarray(whole))
        wanted = [programs[w].wanted(*one) for w, one in zip(which, many)]
        results = [np.full((2, 3, *np.shape(part)), 7.0) for part in wanted[0]]
        found = programs[0].run(operands, results)
        for k, its in enumerate(wanted):
            check([part[k // 3, k % 3] for part in found], its, np.float64)
    assert not in_python


@pytest.mark.parametrize("structure", ["pairs", "triangle"])
def test_more_pairs_than_the_core_is_given_at_once_are_all_computed(structure, in_python, rng):
    for backward in (False, True):
        program = Program(branchsig.RBFKernel(0.9), backward=backward, **STRUCTURES[structure])
        n = 9001 if structure == "pairs" else 141
        paths = [0.2 * walk(rng, n, 3, 1) for _ in range(1 if program.alone else 2)]
        derivs = rng.standard_normal((n, n) if program.gram else n)
        operands = program.operands(paths, (), derivs)
        wanted = program.wanted(paths, (), derivs)
        check(program.run(operands, program.results(operands, wanted[0])), wanted, np.float64)
    assert not in_python


def test_paths_of_one_point_and_batches_of_none_have_kernels_of_1_and_gradients_of_0(in_python):
    for (n, length), backward in itertools.product([(3, 1), (0, 5)], (False, True)):
        program = Program(branchsig.RBFKernel(0.9), gram=True, backward=backward)
        paths = [np.ones((n, length, 2)), np.ones((2, 4, 2))]
        operands = program.operands(paths, (), np.ones((n, 2)))
        for found in program.run(operands, program.results(operands, np.ones((n, 2)))):
            np.testing.assert_array_equal(found, 0.0 if backward else 1.0)
    assert not in_python


@pytest.mark.parametrize(
    "what",
    [
        "a negative width",
        "a NaN",
        "an overflow",
        "a length of 0",
        "a length beyond the end",
        "integers for paths",
        "a task of another version",
        "numbers of another version",
    ],
)
def test_what_is_out_of_the_ordinary_goes_to_python_with_its_frame(what, in_python, rng):
    overflow = what == "an overflow"
    program = Program(branchsig.LinearKernel() if overflow else branchsig.RBFKernel(0.9), ragged="length" in what)
    paths, lengths, _ = arrays_of(rng, program, np.float64)
    operands = program.operands([1e200 * path for path in paths] if overflow else paths, lengths)
    attributes = {}
    if what == "a negative width":
        operands[-1] = np.asarray(-1.0)
    elif what == "a NaN":
        operands[0][2, 3] = np.nan
    elif what == "a length of 0":
        operands[2][3] = 0
    elif what == "a length beyond the end":
        operands[3][0] = 7
    elif what == "integers for paths":
        operands[0] = operands[0].astype(np.int64)
    elif what == "a task of another version":
        attributes["task"] = program.task[:-1].copy()
    elif what == "numbers of another version":
        attributes["numbers"] = program.numbers.astype(np.float32)
    program.run(operands, [np.zeros(5)], **attributes)
    assert len(in_python) == 1


def test_a_frame_without_a_task_goes_to_python(in_python):
    assert Frame({}, [np.zeros((2, 3, 1))], [np.zeros(2)]).run(lib.bs_xla_kernels) == []
    assert Frame({}, [np.zeros((2, 3, 1))], [np.zeros(2)]).run(lib.bs_xla_any) == []
    assert len(in_python) == 2


def test_where_python_has_no_handler_an_error_says_what_to_import(in_python):
    lib.bs_xla_set_python(ffi.NULL)
    for handler in (lib.bs_xla_kernels, lib.bs_xla_any):
        (message,) = Frame({}, [np.zeros((2, 3, 1))], [np.zeros(2)]).run(handler)
        assert message.endswith("Import branchsig.frameworks.jax")
