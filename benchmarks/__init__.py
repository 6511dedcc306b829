"""Measurements of this project, and what they compare with."""
