"""Teach a camera to see in 3D with the help of a LiDAR."""

__version__ = "0.1.0"
