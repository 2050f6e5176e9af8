"""The distillation terms that read MonoDLE's heads."""

from monoskd.models.dense import HeadLoss as HeadLoss
from monoskd.models.monodle.teaching.response import ResponseLoss as ResponseLoss
