"""Fidelity: what a cache scheme costs a model, measured against the same model with a full-precision cache."""
