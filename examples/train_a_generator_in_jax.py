"""Learn a generator of paths in JAX: a swing with friction.

The data are paths of a swing with friction, d²X = (−k X − c dX) dt + s dW, released at
1. The generator is the same equation with unknown k, c and s. It learns them by
minimising the squared maximum mean discrepancy between its paths and the data. The
whole training is one program: a step with its gradient, Adam by hand, inside lax.scan.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import branchsig

jax.config.update("jax_enable_x64", True)


def paths(parameters, noise, dt):
    """Places and speeds of the swing, differentiable in log k, log c and log s."""
    k, c, s = jnp.exp(parameters)

    def step(state, shock):
        place, speed = state
        speed = speed - (k * place + c * speed) * dt + s * dt**0.5 * shock
        state = (place + speed * dt, speed)
        return state, jnp.stack(state, axis=-1)

    start = jnp.ones(noise.shape[0]), jnp.zeros(noise.shape[0])
    _, points = jax.lax.scan(step, start, noise.T)
    return jnp.concatenate(
        [jnp.stack(start, axis=-1)[:, None], jnp.swapaxes(points, 0, 1)], axis=1
    )


def discrepancy(parameters, noise, data, dt):
    """The squared maximum mean discrepancy of generated paths and data."""
    return branchsig.branched_sig_mmd(
        paths(parameters, noise, dt),
        data,
        depth=3,
        time_aug=True,
        normalize="dilation",
        unbiased=False,
    )


@functools.partial(jax.jit, static_argnames=("number", "length", "steps"))
def train(parameters, data, key, dt, rate, *, number, length, steps):
    """Parameters after so many steps of Adam on fresh noise, and the discrepancies."""

    def step(state, now):
        parameters, mean, square = state
        number_of_step, key = now
        noise = jax.random.normal(key, (number, length))
        value, slope = jax.value_and_grad(discrepancy)(parameters, noise, data, dt)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        unbiased = (
            mean / (1 - 0.9**number_of_step),
            square / (1 - 0.999**number_of_step),
        )
        parameters = parameters - rate * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-8)
        return (parameters, mean, square), value

    nothing = jnp.zeros_like(parameters)
    numbered = (jnp.arange(1, steps + 1), jax.random.split(key, steps))
    (parameters, _, _), values = jax.lax.scan(
        step, (parameters, nothing, nothing), numbered
    )
    return parameters, values


def main(number=128, length=20, steps=150, rate=0.1, picture=None):
    """Print discrepancies. Return those of fresh paths before and after training."""
    of_data, of_training, of_test, of_unseen = jax.random.split(jax.random.key(0), 4)
    dt, truth = 3.0 / length, jnp.log(jnp.asarray([4.0, 0.5, 0.3]))
    data = paths(truth, jax.random.normal(of_data, (number, length)), dt)
    start = jnp.zeros(3)
    found, values = train(
        start, data, of_training, dt, rate, number=number, length=length, steps=steps
    )
    for step in range(0, steps, max(1, steps // 5)):
        print(f"step {step:4d}: squared discrepancy {float(values[step]):.6f}")
    fresh = jax.random.normal(of_test, (number, length))
    unseen = paths(truth, jax.random.normal(of_unseen, (number, length)), dt)
    for name, its, wanted in zip("kcs", jnp.exp(found), jnp.exp(truth)):
        print(
            f"{name}: {float(its):.2f} after the training, "
            f"{float(wanted):.2f} in the data"
        )
    before, after = (
        float(discrepancy(parameters, fresh, unseen, dt))
        for parameters in (start, found)
    )
    print(f"fresh paths: {before:.4f} before the training, {after:.4f} after it")
    if picture:
        generated = [paths(parameters, fresh, dt) for parameters in (start, found)]
        draw(values, [data, *generated], 3.0, picture)
    return before, after


def draw(values, samples, end, picture):
    """The discrepancy by step, and paths of the data, before and after the training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].semilogy(values)
    axes[0].set(xlabel="step", ylabel="squared discrepancy", title="training")
    names = ("data", "generator before", "generator after")
    for panel, name, sample in zip(axes[1:], names, samples):
        times = np.linspace(0, end, sample.shape[1])
        panel.plot(times, np.asarray(sample[:6, :, 0]).T, linewidth=1)
        panel.set(xlabel="time", title=name, ylim=(-1.6, 1.3))
    axes[1].set_ylabel("place")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
