"""Detectors, their losses and their files."""

from monoskd.models.did_m3d import DidM3D as DidM3D
from monoskd.models.did_m3d import DidM3DConfig as DidM3DConfig
from monoskd.models.did_m3d.published import convert as convert
from monoskd.models.did_m3d.teaching import ResponseLoss as ResponseLoss
from monoskd.models.teaching import DepthMapLoss as DepthMapLoss
from monoskd.models.teaching import HeatmapLoss as HeatmapLoss
from monoskd.models.weights import describe_model as describe_model
from monoskd.models.weights import load_model as load_model
from monoskd.models.weights import save_model as save_model
