"""Train one network, write down all of it, go on after a crash."""

from surefoot_lab.train.loop import effective_lr, train

__all__ = ["effective_lr", "train"]
