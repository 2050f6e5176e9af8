"""Detectors, their losses and their files."""

from monoskd.models.did_m3d import DidM3D as DidM3D
from monoskd.models.did_m3d import DidM3DConfig as DidM3DConfig
