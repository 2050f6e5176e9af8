"""DID-M3D (Peng et al., ECCV 2022): everything that only this detector knows."""

from monoskd.models.did_m3d.network import DidM3D as DidM3D
from monoskd.models.did_m3d.network import DidM3DConfig as DidM3DConfig
