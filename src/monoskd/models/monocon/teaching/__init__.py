"""The distillation terms that read MonoCon's heads."""

from monoskd.models.dense import HeadLoss as HeadLoss
from monoskd.models.monocon.teaching.response import ResponseLoss as ResponseLoss
