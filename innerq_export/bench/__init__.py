"""Measurements of the kernels: correct first, then timed beside their peers in one process."""
