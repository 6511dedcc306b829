"""Optimizers that papers compare with and few people train with: by import path from this folder's root,
`optimizer: {class_path: benchmarks.rivals.alig.AliG}`. What was adapted stands in docs/rivals.md.
"""
