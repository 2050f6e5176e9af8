"""Detectors, their losses and their files."""
