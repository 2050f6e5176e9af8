"""Formulas; numpy and torch only."""
