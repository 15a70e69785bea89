"""Expectations under scipy's laws by quadrature, and their derivatives by differences.

Nothing here knows of JAX, nor of the library that it judges.
"""

import numpy as np
from scipy import stats

STEP = 1e-4


def nodes(law, jump=0.5):
    """Points and weights of a scipy law, exact for what is smooth but for a jump.

    Gauss-Legendre between quantiles that close in on both ends, and in powers on zero, where a
    density may be infinite. A vector of three concentrations
    is Dirichlet's, whose first coordinates are broken off a stick.
    """
    if isinstance(law, np.ndarray):
        x, w = nodes(stats.beta(law[0], law[1] + law[2]), jump)
        y, v = nodes(stats.beta(law[1], law[2]))
        x, y = (a.ravel() for a in np.meshgrid(x, y, indexing="ij"))
        return np.stack([x, (1 - x) * y, (1 - x) * (1 - y)], axis=-1), np.outer(w, v).ravel()
    if hasattr(law, "pmf"):
        x = np.arange(200)
        return x, law.pmf(x)
    tail = 10.0 ** np.arange(-16, -1, 2)
    edges = [*law.ppf(tail), *law.ppf(np.linspace(0.05, 0.95, 10)), *law.isf(tail), jump]
    if law.support()[0] == 0:
        edges += [*np.geomspace(law.ppf(1e-16), law.ppf(0.95), 100)]
    edges = np.unique([e for e in edges if law.support()[0] < e < law.support()[1]])
    z, w = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (1 + z)
    return x.ravel(), (half * w * law.pdf(x)).ravel()


def gradient(exact, theta):
    """[..., parameters], of a function that is exact to about ten digits."""
    steps = STEP * np.eye(len(theta))
    ends = [(exact(theta + s) - exact(theta - s)) / (2 * STEP) for s in steps]
    return np.stack(ends, axis=-1)


def hessian(exact, theta):
    return gradient(lambda t: gradient(exact, t), theta)


def truncated(loc, scale, low, high):
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
