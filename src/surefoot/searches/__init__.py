"""Step-size rules, one a file. Each turns a line into a place on it."""

from surefoot.searches._search import Search
from surefoot.searches.large_batch import LargeBatchSearch
from surefoot.searches.parabolic import ParabolicSearch

__all__ = ["LargeBatchSearch", "ParabolicSearch", "Search"]
