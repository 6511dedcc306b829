"""For writers of searches: functions with known minima, and what every search must do on them.

Public, like ``torch.testing``. Nothing here is imported by the rest of the library.
"""

from surefoot.testing.functions import FUNCTIONS, FunctionLine, LineFunction, function
from surefoot.testing.search_contract import check_search

__all__ = ["FUNCTIONS", "FunctionLine", "LineFunction", "check_search", "function"]
