"""Constructions of NumPyro distributions, each a function of one parameter a in (0.2, 0.9): the
claim is "any of them".

`DISTRIBUTIONS` may be sites; `REFUSED` cannot, and say by which field.
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.distributions.flows import InverseAutoregressiveTransform
from scipy.sparse import csr_matrix

EYE, RAMP = jnp.eye(3), jnp.array([0.2, 0.3, 0.5])


def vector(a):
    return a * jnp.array([1.0, -0.5, 0.3])


def covariance(a):
    return EYE + a * jnp.ones((3, 3))


def factor(a):
    return jnp.linalg.cholesky(covariance(a))


def simplex(a):
    return jnp.stack([0.5 * a, 0.5 * a, 1 - a])


def weights(a):
    return jnp.stack([a, 0.5 + 0 * a, 1.5 + 0 * a])


DISTRIBUTIONS = {
    "AsymmetricLaplace": lambda a: dist.AsymmetricLaplace(a, 1.0, 1.5),
    "AsymmetricLaplaceQuantile": lambda a: dist.AsymmetricLaplaceQuantile(a, 1.0, 0.3),
    "Bernoulli probs": lambda a: dist.Bernoulli(probs=a),
    "Bernoulli logits": lambda a: dist.Bernoulli(logits=a),
    "BernoulliLogits": lambda a: dist.BernoulliLogits(a),
    "BernoulliProbs": lambda a: dist.BernoulliProbs(vector(a) ** 2),
    "Beta": lambda a: dist.Beta(a + 1, 2.0),
    "BetaBinomial": lambda a: dist.BetaBinomial(a + 1, 2.0, total_count=4),
    "BetaNegativeBinomial": lambda a: dist.BetaNegativeBinomial(a + 3, 2.0, 4.0),
    "BetaProportion": lambda a: dist.BetaProportion(a, 3.0),
    "Binomial probs": lambda a: dist.Binomial(4, probs=a),
    "Binomial logits": lambda a: dist.Binomial(4, logits=a),
    "Binomial of counts": lambda a: dist.Binomial(jnp.array([2, 5]), probs=a),
    "CAR": lambda a: dist.CAR(0.0, a, 1.0, jnp.array([[0.0, 1.0], [1.0, 0.0]])),
    "Categorical probs": lambda a: dist.Categorical(probs=simplex(a)),
    "Categorical logits": lambda a: dist.Categorical(logits=vector(a)),
    "Categorical batched": lambda a: dist.Categorical(logits=jnp.outer(vector(a), RAMP)),
    "Cauchy": lambda a: dist.Cauchy(a, 1.0),
    "Chi2": lambda a: dist.Chi2(a + 2),
    "CirculantNormal": lambda a: dist.CirculantNormal(vector(a), jnp.array([1.0, 0.2, 0.2])),
    "Dagum": lambda a: dist.Dagum(a + 1, 2.0, 1.0),
    "Delta": lambda a: dist.Delta(a),
    "Delta with a density": lambda a: dist.Delta(vector(a), log_density=a, event_dim=1),
    "Dirichlet": lambda a: dist.Dirichlet(1 + simplex(a)),
    "DirichletMultinomial": lambda a: dist.DirichletMultinomial(1 + simplex(a), total_count=4),
    "DiscreteUniform": lambda a: dist.DiscreteUniform(1, 4),
    "DoublyTruncatedPowerLaw": lambda a: dist.DoublyTruncatedPowerLaw(a, 1.0, 2.0),
    "Expanded": lambda a: dist.Normal(a, 1.0).expand([2, 3]),
    "Exponential": lambda a: dist.Exponential(a),
    "Folded": lambda a: dist.FoldedDistribution(dist.Normal(a, 1.0)),
    "Gamma": lambda a: dist.Gamma(a + 1, 2.0),
    "GammaPoisson": lambda a: dist.GammaPoisson(a + 1, 2.0),
    "GaussianCopula": lambda a: dist.GaussianCopula(
        dist.Normal(vector(a), 1.0), correlation_matrix=EYE
    ),
    "GaussianRandomWalk": lambda a: dist.GaussianRandomWalk(a, num_steps=3),
    "GaussianStateSpace": lambda a: dist.GaussianStateSpace(3, a * EYE, scale_tril=factor(a)),
    "Geometric probs": lambda a: dist.Geometric(probs=a),
    "Geometric logits": lambda a: dist.Geometric(logits=a),
    "Gompertz": lambda a: dist.Gompertz(a + 1, 2.0),
    "Gumbel": lambda a: dist.Gumbel(a, 1.0),
    "HalfCauchy": lambda a: dist.HalfCauchy(a),
    "HalfNormal": lambda a: dist.HalfNormal(a),
    "HurdleGamma": lambda a: dist.HurdleGamma(0.3, a + 1, 2.0),
    "HurdleLogNormal": lambda a: dist.HurdleLogNormal(0.3, a, 1.0),
    "HurdlePoisson": lambda a: dist.HurdlePoisson(0.3, a + 1),
    "Independent": lambda a: dist.Independent(dist.Normal(vector(a), 1.0), 1),
    "InverseGamma": lambda a: dist.InverseGamma(a + 1, 2.0),
    "InverseWishart": lambda a: dist.InverseWishart(a + 4, covariance(a)),
    "Kumaraswamy": lambda a: dist.Kumaraswamy(a + 1, 2.0),
    "Laplace": lambda a: dist.Laplace(a, 1.0),
    "LeftTruncated": lambda a: dist.LeftTruncatedDistribution(dist.Normal(a, 1.0), low=0.0),
    "LeftCensored": lambda a: dist.LeftCensoredDistribution(
        dist.Normal(a, 1.0), censored=jnp.array(0)
    ),
    "Levy": lambda a: dist.Levy(a, 1.0),
    "LKJ": lambda a: dist.LKJ(3, a + 1),
    "LKJCholesky": lambda a: dist.LKJCholesky(3, a + 1),
    "Logistic": lambda a: dist.Logistic(a, 1.0),
    "LogNormal": lambda a: dist.LogNormal(a, 1.0),
    "LogUniform": lambda a: dist.LogUniform(a, 2.0),
    "LowerTruncatedPowerLaw": lambda a: dist.LowerTruncatedPowerLaw(-1 - a, 1.0),
    "LowRankMultivariateNormal": lambda a: dist.LowRankMultivariateNormal(
        vector(a), EYE[:, :2], RAMP
    ),
    "Masked": lambda a: dist.Normal(vector(a), 1.0).mask(jnp.array([True, False, True])),
    "MatrixNormal": lambda a: dist.MatrixNormal(jnp.ones((3, 3)) * a, factor(a), EYE),
    "Mixture": lambda a: dist.Mixture(
        dist.Categorical(probs=jnp.stack([a, 1 - a])), [dist.Normal(a, 1.0), dist.Laplace(0.0, 1.0)]
    ),
    "MixtureSameFamily": lambda a: dist.MixtureSameFamily(
        dist.Categorical(probs=simplex(a)), dist.Normal(vector(a), 1.0)
    ),
    "Multinomial probs": lambda a: dist.Multinomial(4, probs=simplex(a)),
    "Multinomial logits": lambda a: dist.Multinomial(4, logits=vector(a)),
    "MVN covariance": lambda a: dist.MultivariateNormal(vector(a), covariance_matrix=covariance(a)),
    "MVN precision": lambda a: dist.MultivariateNormal(vector(a), precision_matrix=covariance(a)),
    "MVN scale_tril": lambda a: dist.MultivariateNormal(0.0, scale_tril=factor(a)),
    "MVStudentT": lambda a: dist.MultivariateStudentT(4.0, vector(a), factor(a)),
    "NegativeBinomial2": lambda a: dist.NegativeBinomial2(a + 1, 2.0),
    "NegativeBinomialLogits": lambda a: dist.NegativeBinomialLogits(3.0, a),
    "NegativeBinomialProbs": lambda a: dist.NegativeBinomialProbs(3.0, a),
    "Normal": lambda a: dist.Normal(a, 1.0),
    "Normal batched": lambda a: dist.Normal(vector(a), 1.0),
    "Normal validated": lambda a: dist.Normal(a, 1.0, validate_args=True),
    "OrderedLogistic": lambda a: dist.OrderedLogistic(a, jnp.array([-1.0, 0.5])),
    "Pareto": lambda a: dist.Pareto(1.0, a + 2),
    "Poisson": lambda a: dist.Poisson(a + 1),
    "ProjectedNormal": lambda a: dist.ProjectedNormal(vector(a)),
    "RelaxedBernoulli": lambda a: dist.RelaxedBernoulli(jnp.array(0.7), probs=a),
    "RightTruncated": lambda a: dist.RightTruncatedDistribution(dist.Normal(a, 1.0), high=1.0),
    "SineBivariateVonMises": lambda a: dist.SineBivariateVonMises(0.1, a, 2.0, 3.0, 0.5),
    "SineSkewed": lambda a: dist.SineSkewed(
        dist.VonMises(jnp.array([a]), 2.0).to_event(1), 0.3 * jnp.ones(1)
    ),
    "SoftLaplace": lambda a: dist.SoftLaplace(a, 1.0),
    "StudentT": lambda a: dist.StudentT(4.0, a, 1.0),
    "to_event": lambda a: dist.Laplace(vector(a), 1.0).to_event(1),
    "Transformed by exp": lambda a: dist.TransformedDistribution(
        dist.Normal(a, 1.0), transforms.ExpTransform()
    ),
    "Transformed by parameters": lambda a: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [transforms.AffineTransform(a, 2.0), transforms.SigmoidTransform()]
    ),
    "Transformed to a simplex": lambda a: dist.TransformedDistribution(
        dist.Normal(vector(a), 1.0).to_event(1), transforms.StickBreakingTransform()
    ),
    "TruncatedCauchy": lambda a: dist.TruncatedCauchy(a, 1.0, low=0.0),
    "TruncatedNormal": lambda a: dist.TruncatedNormal(a, 1.0, low=-1.0, high=2.0),
    "TruncatedPolyaGamma": lambda a: dist.TruncatedPolyaGamma(),
    "Uniform": lambda a: dist.Uniform(0.0, a),
    "Unit": lambda a: dist.Unit(a),
    "VonMises": lambda a: dist.VonMises(a, 2.0),
    "Weibull": lambda a: dist.Weibull(1.0, a + 1),
    "Wishart": lambda a: dist.Wishart(a + 4, covariance(a)),
    "WishartCholesky": lambda a: dist.WishartCholesky(a + 4, covariance(a)),
    "ZeroInflatedNegativeBinomial2": lambda a: dist.ZeroInflatedNegativeBinomial2(
        a + 1, 2.0, gate=0.3
    ),
    "ZeroInflatedPoisson": lambda a: dist.ZeroInflatedPoisson(0.3, a + 1),
    "ZeroInflated of": lambda a: dist.ZeroInflatedDistribution(dist.Poisson(a + 1), gate=0.3),
    "ZeroSumNormal": lambda a: dist.ZeroSumNormal(a, (3,)),
}

WITHOUT_SAMPLE = {"ImproperUniform": lambda a: dist.ImproperUniform(constraints.real, (), (3,))}

# NumPyro's own densities of these are not those of its draws
REPAIRED = {
    "Categorical weights": lambda a: dist.Categorical(probs=weights(a), validate_args=False),
    "Multinomial weights": lambda a: dist.Multinomial(4, probs=weights(a), validate_args=False),
    "Delta of a moving density": lambda a: dist.Delta(0.0, log_density=a),
}

REFUSED = {
    "CAR with a sparse matrix": (lambda a: sparse_car(a), "CAR", "adj_matrix"),
    "EulerMaruyama": (lambda a: euler_maruyama(a), "EulerMaruyama", "sde_fn"),
    "a closure over a parameter": (
        lambda a: autoregressive(a),
        "TransformedDistribution",
        "transforms",
    ),
}


def sparse_car(a):
    return dist.CAR(0.0, a, 1.0, csr_matrix([[0.0, 1.0], [1.0, 0.0]]), is_sparse=True)


def euler_maruyama(a):
    return dist.EulerMaruyama(jnp.arange(3.0), lambda x, t: (-a * x, 1.0), dist.Normal(0.0, 1.0))


def autoregressive(a):
    flow = InverseAutoregressiveTransform(lambda x: (a * x, jnp.zeros_like(x)))
    return dist.TransformedDistribution(dist.Normal(jnp.zeros(3), 1.0).to_event(1), flow)
