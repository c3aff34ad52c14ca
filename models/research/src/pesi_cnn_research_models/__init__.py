"""Bundles for pesi-cnn that have learned from HAM10000, one a folder of `bundles/`; CC BY-NC 4.0."""
