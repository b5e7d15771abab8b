"""Diapir finds salt in seismic images."""

__version__ = "0.1.0"
