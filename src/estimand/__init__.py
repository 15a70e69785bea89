"""estimand: write the estimand; get the estimator."""

from estimand.errors import EstimandError as EstimandError
from estimand.estimators.enumerate import Enumerate as Enumerate
from estimand.estimators.measure_valued import MeasureValued as MeasureValued
from estimand.estimators.pathwise import Pathwise as Pathwise
from estimand.estimators.score import Score as Score
from estimand.ppl.expectation import Expectation as Expectation
from estimand.ppl.expectation import expectation as expectation
from estimand.ppl.fit import Fit as Fit
from estimand.ppl.fit import NonFiniteError as NonFiniteError
from estimand.ppl.gen import GenerativeFunction as GenerativeFunction
from estimand.ppl.gen import Trace as Trace
from estimand.ppl.gen import gen as gen
from estimand.ppl.language import assume_continuous as assume_continuous
from estimand.ppl.language import detach as detach
from estimand.ppl.language import draw as draw
from estimand.ppl.language import factor as factor
from estimand.ppl.language import merge as merge
from estimand.ppl.language import sample as sample
from estimand.ppl.language import scope as scope
from estimand.ppl.language import seed as seed
from estimand.ppl.save import load as load
from estimand.ppl.save import save as save
from estimand.ppl.train import maximize as maximize
from estimand.ppl.train import minimize as minimize
from estimand.transforms.strategy import Law as Law
from estimand.transforms.strategy import Strategy as Strategy
