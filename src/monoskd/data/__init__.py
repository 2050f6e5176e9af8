"""Files to samples, and samples without files."""
