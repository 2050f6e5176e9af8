"""MonoCon (Liu et al., AAAI 2022): everything that only this detector knows."""

from monoskd.models.monocon.network import MonoCon as MonoCon
from monoskd.models.monocon.network import MonoConConfig as MonoConConfig
