"""More frames than one machine can do: prediction and depth completion on a Ray cluster (extra `scale`)."""
