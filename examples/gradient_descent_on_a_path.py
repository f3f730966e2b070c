"""Pull a straight line onto a loop by gradient descent on the kernel distance.

The distance of two paths is d(x, y)² = k(x, x) − 2 k(x, y) + k(y, y). Its gradient
comes from two pullbacks, the functions that branchsig returns beside a kernel to
differentiate it. A model that produces the path could be trained in the same way.
"""

import numpy as np

import branchsig


def squared_distance(path, target):
    """Squared distance, and its gradient with respect to `path`."""
    options = {"depth": 3, "time_aug": True, "end_time": 0.5}
    with_itself, pullback_itself = branchsig.branched_sig_kernel_vjp(
        path, path, **options
    )
    with_target, pullback_target = branchsig.branched_sig_kernel_vjp(
        path, target, **options
    )
    target_itself = branchsig.branched_sig_kernel(target, target, **options)
    one = np.ones_like(with_itself)
    left, right = pullback_itself(one)
    return float(
        with_itself - 2 * with_target + target_itself
    ), left + right - 2 * pullback_target(one)[0]


def main(length=25, steps=200, rate=0.1):
    """Print the distance on the way, and return the first and the last."""
    angle = np.linspace(0, 1.5 * np.pi, length)
    target = np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1) / 4
    path = np.linspace(target[0], target[-1], length)
    first, _ = squared_distance(path, target)
    velocity = np.zeros_like(path)
    for step in range(steps + 1):
        distance, gradient = squared_distance(path, target)
        if step % max(1, steps // 5) == 0:
            print(f"step {step:4d}: squared distance {distance:.6f}")
        gradient[0] = 0.0  # the start stays where it is
        velocity = 0.8 * velocity - rate * gradient
        path = path + velocity
    return first, distance


if __name__ == "__main__":
    main()
