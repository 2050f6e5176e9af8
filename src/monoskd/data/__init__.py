"""Frames to samples, whatever recording they come from."""
