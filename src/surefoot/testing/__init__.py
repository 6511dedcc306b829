"""For writers of searches and optimizers: functions with known minima, and two contracts.

Public, like ``torch.testing``. Nothing here is imported by the rest of the library.
"""

from surefoot.testing._optimizer_contract import OPTIMIZER_CONTRACTS, check_optimizer
from surefoot.testing._search_contract import check_search
from surefoot.testing.functions import FUNCTIONS, FunctionLine, LineFunction, function

__all__ = [
    "FUNCTIONS",
    "OPTIMIZER_CONTRACTS",
    "FunctionLine",
    "LineFunction",
    "check_optimizer",
    "check_search",
    "function",
]
