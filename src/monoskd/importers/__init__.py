"""Other recordings as data sets in KITTI's layout, one file a format."""
