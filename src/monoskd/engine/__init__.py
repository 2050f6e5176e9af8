"""A config becomes a run."""
