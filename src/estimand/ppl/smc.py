r"""Sequential Monte Carlo over the steps of a program's scans.

n particles run the program side by side, their latent choices drawn from the program itself, and
are weighed by the given choices. Between two steps of a scan they are resampled in proportion to
their weights. With w_t the weights that are reset when resampling for the t-th time,

    Z = prod_t (1/n) sum_i w_t[i],   E[Z] = p(x):

given the particles before, the mean of any function over resampled particles has the mean of the
weighted ones as its expectation, and drawing a step and weighing it is importance sampling.

Where (x, u) is a run of the program, its choices are those of the first particle, which is its
own ancestor at every step (conditional SMC). As for importance sampling, the law of the whole is
Z / p(x) times that of the unconditional particles with one trajectory chosen by the last weights,
so E[1/Z | x] = 1/p(x) (Andrieu, Doucet and Holenstein 2010), for multinomial resampling.
"""

from dataclasses import dataclass, field
from typing import Any

from estimand.errors import error, is_count, source_line
from estimand.ppl.particle_filter import Particles, Value
from estimand.ppl.target import Reading, Target
from estimand.transforms.weights import log_mean_exp

SCHEMES = ("multinomial", "systematic")


@dataclass(frozen=True)
class SMC:
    """Integrate latent choices out by a particle filter over the steps of scans.

    Args:
        n: the number of particles, one vectorised axis.
        resampling: "multinomial", whose ancestors are sites (`name/ancestor`) with strategies, so
            that derivatives are unbiased; or "systematic", which has less variance and refuses
            to be differentiated, and to be conditioned on a run (`simulate` of a marginal).
        threshold: resample only where the effective sample size is below this part of n; 1, for
            always. Below 1 the estimate refuses to be differentiated: it jumps where the
            decision does.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def walk():
        ...     def step(z, _):
        ...         z = em.sample("z", dist.Normal(z, 1.0))
        ...         em.sample("x", dist.Normal(z, 1.0))
        ...         return z, None
        ...     jax.lax.scan(step, 0.0, None, length=3)
        >>> marginal = walk.marginal(keep="x", via=em.SMC(1000))
        >>> x = jax.numpy.array([0.5, 1.0, 2.0])
        >>> log_p = em.seed(marginal.log_density)(jax.random.key(0), {"x": x})
        >>> bool(abs(log_p + 4.5393) < 0.2)
        True
    """

    n: int
    resampling: str = "multinomial"
    threshold: float = 1.0
    where: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"em.SMC ({source_line()})"
        object.__setattr__(self, "where", where)
        if not is_count(self.n) or self.n < 1:
            raise error(
                where,
                "n is a number of particles",
                expected="a positive integer",
                got=repr(self.n),
                remedy="write SMC(100)",
            )
        if self.resampling not in SCHEMES:
            raise error(
                where,
                "no such resampling scheme",
                expected=" or ".join(map(repr, SCHEMES)),
                got=repr(self.resampling),
                remedy="leave it out for multinomial resampling",
            )
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise error(
                where,
                "the threshold is a part of the number of particles",
                expected="a number from 0 (never resample) to 1 (at every step)",
                got=repr(self.threshold),
                remedy="leave it out to resample at every step, or write threshold=0.5",
            )

    @property
    def estimator(self) -> str:
        return f"SMC, n={self.n}, {self.resampling} resampling"

    def log_evidence(self, target: Target, retained: Reading | None = None) -> Any:
        """log Z; a run of the program, if there is one, is the first particle."""
        return self._run(target, retained)[1]

    def choose(self, target: Target) -> tuple[dict[str, Any], Any]:
        """A trajectory in proportion to the last weights, and log p(x, u) - log Z of it."""
        particles, log_z = self._run(target, None)
        index = target.pick(particles.log_weights)
        latent = {k: v[index] for k, v in particles.choices.items()}
        return latent, target.joint(latent) - log_z

    def _run(self, target: Target, retained: Reading | None) -> tuple[Particles, Any]:
        if retained is not None and self.resampling != "multinomial":
            raise error(
                self.where,
                f"{target.name}: {self.resampling} resampling cannot be conditioned on a run of "
                "the program",
                expected="multinomial resampling where the density of a draw is estimated",
                got=repr(self),
                remedy="leave resampling out, or only assess this marginal",
            )
        own = None if retained is None else target.latent_of(retained.choices)
        particles = Particles(self, target.name, target.given, own)
        jaxpr, inputs = target.program.of(target.operands)
        particles.run(jaxpr, list(map(Value, inputs)), ())
        return particles, particles.log_z + log_mean_exp(particles.log_weights)
