"""MonoDLE (Ma et al., CVPR 2021): everything that only this detector knows."""

from monoskd.models.monodle.network import MonoDLE as MonoDLE
from monoskd.models.monodle.network import MonoDLEConfig as MonoDLEConfig
