"""Optimizers that papers compare with and few people train with, each in an adapter of a few lines.

By import path from the root of the repository: `optimizer: {class_path: benchmarks.rivals.alig.AliG}`.
What was adapted stands in docs/rivals.md.
"""
