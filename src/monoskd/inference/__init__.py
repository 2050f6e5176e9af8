"""A model file becomes detections."""
