"""The loss of an ordinary loop, evaluated again at other weights: neither closure nor criterion."""

from surefoot.replay._state import is_measuring
from surefoot.replay.backward import Hearing
from surefoot.replay.loss import Loss, ReplayError, Watched
from surefoot.replay.recorder import Recorder
from surefoot.replay.tape import Tape

__all__ = ["Hearing", "Loss", "Recorder", "ReplayError", "Tape", "Watched", "is_measuring"]
