"""Sweeps: many runs of one experiment, on Ray, whose outcome does not depend on interruptions."""
