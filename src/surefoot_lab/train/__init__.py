"""Train one network, write down all of it, go on after a crash."""

from surefoot_lab.train.loop import train

__all__ = ["train"]
