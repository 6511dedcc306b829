"""Train one network, write down all of it, go on after a crash."""

from surefoot_lab.training.loop import train

__all__ = ["train"]
