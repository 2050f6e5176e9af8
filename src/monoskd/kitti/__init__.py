"""KITTI's files and their care: reading, writing, checking, depth maps, raw drives."""
