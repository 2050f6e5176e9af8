"""What the tests share: the real KITTI files, where they are."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MONOSKD_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material, or a skip that says where it was looked for."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED}: set MONOSKD_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def kitti(shared: Path) -> Path:
    """25 real KITTI frames in the object layout."""
    if not (shared / "kitti").is_dir():
        pytest.skip(f"no KITTI frames at {shared / 'kitti'}")
    return shared / "kitti"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rendered frames with depth maps in KITTI layout, four to train on and two to validate. Not to be changed."""
    from monoskd.kitti.prepare import prepare
    from monoskd.synthetic import synthesize

    root = tmp_path_factory.mktemp("scenes") / "data"
    synthesize(root, frames=6, val=1 / 3, seed=3, size=(416, 128), workers=1)
    prepare(root, workers=1)
    return root
