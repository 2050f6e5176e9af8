import sys

import pytest

from monoskd.errors import InputError
from monoskd.scale.spread import spread


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray: expected Ray Data, got none: `pip install 'monoskd\[scale\]'`"):
        list(spread(lambda: abs, [1], address="local"))
