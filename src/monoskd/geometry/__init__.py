"""Cameras, boxes and angles: formulas in numpy and torch."""
