"""`surefoot range-test`: learning rates measured for an experiment, one or a grid of them."""
