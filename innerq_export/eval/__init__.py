"""Fidelity: what the compression of the cache costs a model's text."""
