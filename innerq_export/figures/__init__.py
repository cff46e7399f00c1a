"""Figures of the project: one style, each in a light and a dark SVG."""
