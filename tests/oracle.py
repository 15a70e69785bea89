"""Exact expectations by brute force, in numpy: every path of a program, weighted by its
probability.

A program is a function of a `World` and of theta (a vector). The world hands out its random
values; running the program once per path, with the weights the world has gathered, is its
expectation. Gradients are central differences in float64, good to about nine digits. Nothing
here knows of JAX, nor of the library that it judges.
"""

import numpy as np
from scipy import special

STEP = 1e-5


class World:
    """One path through a program: which point every draw takes, and the probability of all of
    them.
    """

    def __init__(self, path, theta):
        self.path, self.widths, self.weight, self.theta = path, [], 1.0, theta

    def choose(self, values, probabilities):
        """One draw from finitely many values: the only source of randomness."""
        position = len(self.widths)
        self.widths.append(len(values))
        if position == len(self.path):
            self.path.append(0)
        index = self.path[position]
        self.weight = self.weight * probabilities[index]
        return values[index]

    def flip(self, p):
        return self.choose((0.0, 1.0), (1.0 - p, p))

    def categorical(self, probabilities):
        return self.choose(range(len(probabilities)), probabilities)

    def normal(self, loc, scale, order=24):
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        return self.choose(loc + scale * nodes, weights / weights.sum())

    def gamma(self, concentration, rate, order=32):
        nodes, weights = special.roots_genlaguerre(order, concentration - 1.0)
        return self.choose(nodes / rate, weights / weights.sum())

    def beta(self, a, b, order=32):
        nodes, weights = special.roots_jacobi(order, b - 1.0, a - 1.0)
        return self.choose((nodes + 1.0) / 2.0, weights / weights.sum())

    def poisson(self, rate, most=60):
        counts = np.arange(most)
        return self.choose(
            counts.astype(float), np.exp(counts * np.log(rate) - rate - special.gammaln(counts + 1))
        )

    def geometric(self, p, most=200):
        counts = np.arange(most)
        return self.choose(counts.astype(float), p * (1.0 - p) ** counts)

    def next_path(self):
        """The path after this one in the order of an odometer, or None after the last."""
        path = self.path[: len(self.widths)]
        while path:
            path[-1] += 1
            if path[-1] < self.widths[len(path) - 1]:
                return path
            path.pop()
        return None


def expectation(program, theta, frozen=None):
    """E[program(world, theta)]; `world.theta` is `frozen`: the theta that a detached use sees."""
    total, path = 0.0, []
    while path is not None:
        world = World(path, theta if frozen is None else frozen)
        value = program(world, theta)
        if world.weight != 0.0:
            total = total + world.weight * value
        path = world.next_path()
    return total


def gradient(program, theta):
    """The gradient of `expectation` in the vector theta."""
    theta = np.asarray(theta, np.float64)
    steps = STEP * np.eye(len(theta))
    return np.array(
        [
            (expectation(program, theta + s, theta) - expectation(program, theta - s, theta))
            / (2 * STEP)
            for s in steps
        ]
    )


def sigmoid(x):
    return special.expit(x)


def softmax(x):
    return special.softmax(np.asarray(x))


def normal_logpdf(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2.0 * np.pi)


def flip_logpmf(x, p):
    return np.log(p) if x == 1.0 else np.log(1.0 - p)
