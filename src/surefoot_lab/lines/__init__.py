"""`surefoot lines`: what the loss looks like along the steps of a training run."""
