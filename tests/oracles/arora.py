"""The convolutional tangent kernel of Arora et al. 2019, section 4.3, pair by pair as their text and code have it.

Images are (channels, height, width). A covariance is indexed by two positions, (h, w, h, w); float64 throughout.
Depth d: d − 1 convolutions of 3×3 with zero padding, and a dense layer.
"""

import math

import numpy as np


def conv3(s):
    """Σ over the nine joint shifts (a, b) of s[i + a, j + b, k + a, l + b], zero outside the images."""
    h, w = s.shape[:2]
    padded = np.pad(s, 1)
    shifts = [(slice(a, a + h), slice(b, b + w)) for a in range(3) for b in range(3)]
    return sum(padded[rows + rows] for rows in shifts)


def first_covariance(x, z):
    return conv3(np.einsum("cij,ckl->ijkl", x, z))


def relu_step(s, left, right):
    """(K, K̇) of ReLU with c_σ = 2 and the ninth of the window: both carry 2/9."""
    size = left[:, :, None, None] * right[None, None]
    c = np.clip(s / size, -1, 1)
    angle = math.pi - np.arccos(c)
    return (c * angle + np.sqrt(1 - c * c)) * size / (9 * math.pi), angle / (9 * math.pi)


def standard_deviations(x, depth):
    """√Σ(x, x) at each position, before each of the d − 1 activations."""
    s, out = first_covariance(x, x), []
    for _ in range(depth - 1):
        h, w = s.shape[:2]
        deviation = np.sqrt(s.reshape(h * w, h * w).diagonal().reshape(h, w))
        out.append(deviation)
        s = conv3(relu_step(s, deviation, deviation)[0])
    return out


def cntk(x, z, depth, gap, fix):
    """Θ(x, z). fix: first and last layer are not trained. gap: mean over all positions, else the trace."""
    left, right = standard_deviations(x, depth), standard_deviations(z, depth)
    s = first_covariance(x, z)
    t = np.zeros_like(s) if fix else s.copy()
    for layer in range(depth - 2):
        k, k_dot = relu_step(s, left[layer], right[layer])
        t = conv3(t * k_dot + k)
        s = conv3(k)
    k, k_dot = relu_step(s, left[-1], right[-1])
    t = t * k_dot + k
    if fix:
        t = t - k
    h, w = t.shape[:2]
    return t.mean() if gap else np.trace(t.reshape(h * w, h * w))


def gram(x1, x2, depth, gap, fix):
    return np.array([[cntk(x, z, depth, gap, fix) for z in x2] for x in x1])
