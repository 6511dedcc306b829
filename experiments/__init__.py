"""Recipes, and the networks that only they use."""
