"""What a type checker sees: the array of a library in is one of it out. Checked by mypy, and never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import numpy.typing as npt

import branchsig

Float64 = npt.NDArray[np.float64]

if TYPE_CHECKING:

    class Tensor:
        """An array of another library, with what the checker asks of one."""

        @property
        def shape(self) -> tuple[int, ...]: ...

        def __getitem__(self, key: object, /) -> Tensor: ...


def values_have_the_library_of_the_paths(paths: Float64, tensor: Tensor) -> None:
    assert_type(branchsig.branched_sig_kernel(paths, paths, 3), Float64)
    assert_type(branchsig.branched_sig_kernel(tensor, tensor, 3), Tensor)
    assert_type(branchsig.branched_sig_kernel_gram(paths, None, 3), Float64)
    assert_type(branchsig.branched_sig_kernel_gram(tensor, None, 3), Tensor)
    assert_type(branchsig.branched_sig_kernel_stack(paths, paths, 3), Float64)
    assert_type(branchsig.branched_sig_mmd(paths, paths, 3), Float64)
    assert_type(branchsig.branched_sig_score(tensor, tensor, 3), Tensor)
    assert_type(branchsig.expected_branched_sig_score(paths, paths, 3), Float64)
    assert_type(branchsig.dilation(paths, 3), Float64)


def values_have_the_library_of_the_paths_of_a_list(paths: Float64, tensor: Tensor) -> None:
    assert_type(branchsig.branched_sig_kernel([paths, paths], [paths, paths], 3), Float64)
    assert_type(branchsig.branched_sig_kernel_gram([tensor, tensor], None, 3), Tensor)
    assert_type(branchsig.branched_sig_kernel_gram([paths, paths], paths, 3), Float64)
    assert_type(branchsig.pad_paths([tensor, tensor]), tuple[Tensor, Tensor])
    assert_type(branchsig.dilation([paths], 3), Float64)


def a_value_need_not_have_the_number_of_axes_of_the_paths() -> None:
    paths = np.zeros((2, 3, 4))
    assert_type(paths, np.ndarray[tuple[int, int, int], np.dtype[np.float64]])
    assert_type(branchsig.branched_sig_kernel(paths, paths, 3), Float64)


def gradients_have_the_type_of_the_paths(derivs: Float64, paths: Float64, tensor: Tensor) -> None:
    d_paths, d_other = branchsig.branched_sig_kernel_gram_backprop(derivs, paths, [tensor], 3, right_deriv=True)
    assert_type(d_paths, Float64 | None)
    assert_type(d_other, list[Tensor] | None)
    d_whole, nothing = branchsig.branched_sig_kernel_gram_backprop(derivs, paths, None, 3)
    assert_type(d_whole, Float64 | None)
    assert_type(nothing, None)
    assert_type(branchsig.branched_sig_kernel_backprop(tensor, tensor, tensor, 3), tuple[Tensor | None, Tensor | None])
    assert_type(branchsig.branched_sig_mmd_backprop(1.0, tensor, tensor, 3), tuple[Tensor | None, Tensor | None])
    value, pullback = branchsig.branched_sig_kernel_vjp(paths, paths, 3)
    assert_type(value, Float64)
    assert_type(pullback, Callable[[Any], tuple[Float64 | Any, Float64 | Any]])


def transformed_paths_have_the_type_of_the_paths(paths: Float64, tensor: Tensor) -> None:
    assert_type(branchsig.transform_path(paths, time_aug=True), Float64)
    assert_type(branchsig.transform_path([tensor], lead_lag=True), list[Tensor])
    assert_type(branchsig.transform_path_backprop(tensor, time_aug=True), Tensor)


def numbers_and_text_are_no_paths(paths: Float64) -> None:
    branchsig.branched_sig_kernel(1.0, paths, 3)  # type: ignore[arg-type]
    branchsig.branched_sig_kernel_backprop(paths, 1.0, paths, 3)  # type: ignore[type-var]
    branchsig.branched_sig_kernel(paths, paths, 3, quadrature=4)  # type: ignore[arg-type]
    branchsig.branched_sig_kernel(paths, paths, 3, time_augmentation=True)  # type: ignore[call-arg]
