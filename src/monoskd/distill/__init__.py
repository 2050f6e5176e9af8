"""Rank-correlation distillation between any two modules."""
