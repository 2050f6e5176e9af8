"""The names of the files in a run folder. Needs no torch."""

from pathlib import Path

CONFIG = "config.yaml"
METRICS = "metrics.csv"
MODEL = "model.safetensors"
MANIFEST, MANIFEST_SCHEMA = "manifest.json", "monoskd/run/1"
CHECKPOINT = Path("checkpoints", "last.ckpt")
PSEUDO_LABELS, PSEUDO_LABEL_QUALITY = "detections", "detections.json"
OUTPUT = "log.txt"  # what a training that `launch` has started prints
