"""MonoDETR (Zhang et al., ICCV 2023): everything that only this detector knows."""

from monoskd.models.monodetr.config import MonoDETRConfig as MonoDETRConfig
from monoskd.models.monodetr.network import MonoDETR as MonoDETR
