"""KITTI average precision."""
