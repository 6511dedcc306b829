"""Step-size rules, one a file. Each turns a line into a place on it."""

from surefoot.searches._search import Search
from surefoot.searches.armijo import ArmijoSearch
from surefoot.searches.exact import ExactSearch
from surefoot.searches.fixed import FixedSearch
from surefoot.searches.gradient_only import GradientOnlySearch
from surefoot.searches.large_batch import LargeBatchSearch
from surefoot.searches.least_squares import LeastSquaresSearch
from surefoot.searches.parabolic import ParabolicSearch
from surefoot.searches.probabilistic import ProbabilisticSearch

__all__ = [
    "ArmijoSearch",
    "ExactSearch",
    "FixedSearch",
    "GradientOnlySearch",
    "LargeBatchSearch",
    "LeastSquaresSearch",
    "ParabolicSearch",
    "ProbabilisticSearch",
    "Search",
]
