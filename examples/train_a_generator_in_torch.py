"""Train a generator of paths against data, in PyTorch.

The data are Ornstein–Uhlenbeck paths, dX = a (m − X) dt + s dW. The generator is the
same equation with unknown a, m and s. It learns them by minimising the squared maximum
mean discrepancy between its paths and the data. This is a differentiable function of
tensors like any other, here inside a program that torch.compile makes.
"""

import torch

import branchsig


def paths(parameters, noise, dt):
    """Paths of dX = a (m − X) dt + s dW from 0, differentiable in a, m and s."""
    a, m, s = parameters
    x = torch.zeros_like(noise[:, 0])
    points = [x]
    for k in range(noise.shape[1]):
        x = x + torch.exp(a) * (m - x) * dt + torch.exp(s) * dt**0.5 * noise[:, k]
        points.append(x)
    return torch.stack(points, dim=1)[:, :, None]


def main(number=128, length=20, steps=100, rate=0.05, backend="eager"):
    """Print discrepancies. Return those of fresh paths before and after training."""
    generator = torch.Generator().manual_seed(0)
    dt = 1.0 / length
    truth = torch.tensor([1.0, 0.8, -1.0], dtype=torch.float64)

    def noise():
        return torch.randn(number, length, dtype=torch.float64, generator=generator)

    def discrepancy(parameters, noise, data):
        made = paths(parameters, noise, dt)
        return branchsig.branched_sig_mmd(
            made, data, depth=3, time_aug=True, normalize="dilation"
        )

    loss = torch.compile(discrepancy, fullgraph=True, backend=backend)
    data = paths(truth, noise(), dt)
    parameters = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=rate)
    fresh, unseen = noise(), paths(truth, noise(), dt)
    with torch.no_grad():
        before = float(discrepancy(parameters, fresh, unseen))
    for step in range(steps + 1):
        optimizer.zero_grad()
        value = loss(parameters, noise(), data)
        value.backward()
        optimizer.step()
        if step % max(1, steps // 5) == 0:
            print(f"step {step:4d}: squared discrepancy {float(value.detach()):.6f}")
    with torch.no_grad():
        after = float(discrepancy(parameters, fresh, unseen))
    for name, found, its in zip(
        ("log a", "m", "log s"), parameters.tolist(), truth.tolist()
    ):
        print(f"{name}: {found:.2f} after the training, {its:.2f} in the data")
    return before, after


if __name__ == "__main__":
    main()
