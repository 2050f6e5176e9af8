"""What the tests share: reference material and real KITTI files, where they are, and small frames."""

import importlib.util
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

SHARED = Path(os.environ.get("MONOSKD_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure() -> None:
    """Let Ctrl-C interrupt again: as a shell's background job the suite ignores it, and so would what it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
def named_weights(shared: Path) -> ModuleType:
    """The reference's maker of weights and inputs: each tensor a function of its name, its shape and a seed."""
    spec = importlib.util.spec_from_file_location("named_weights", shared / "reference" / "named_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which the system lets no file grow beyond so many bytes: an error in the middle of writing."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def three_frames(tmp_path: Path) -> Path:
    """Three small frames with depth maps in KITTI layout, the split train: a car, nothing, a car."""
    import numpy as np
    from PIL import Image

    from monoskd.kitti.io import Calibration, write_calibration, write_depth, write_objects, write_split
    from monoskd.objects import Objects

    car = Objects(
        names=np.array(["Car"]),
        truncation=np.zeros(1),
        occlusion=np.zeros(1, np.int64),
        alpha=np.array([1.5]),
        boxes_2d=np.array([[87.0, 14.0, 125.0, 47.0]]),
        dimensions=np.array([[1.5, 1.6, 3.9]]),
        bottom=np.array([[0.8, 1.2, 6.0]]),
        yaw=np.array([1.6]),
    )
    calibration = Calibration(P2=np.array([[110.0, 0, 93.0, 4.5], [0, 110.0, 25.0, 0.02], [0, 0, 1, 0.0027]]))
    names, training, rng = ["000000", "000001", "000002"], tmp_path / "training", np.random.default_rng(0)
    (training / "image_2").mkdir(parents=True)
    write_split(tmp_path / "ImageSets" / "train.txt", names)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (58, 190, 3), np.uint8)).save(training / "image_2" / f"{name}.png")
        write_calibration(training / "calib" / f"{name}.txt", calibration)
        write_objects(training / "label_2" / f"{name}.txt", Objects.empty() if name == "000001" else car)
        write_depth(training / "depth_2" / f"{name}.png", rng.uniform(5, 7, (58, 190)))
    return tmp_path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rendered frames with depth maps in KITTI layout, four to train on and two to validate. Not to be changed."""
    from monoskd.kitti.prepare import prepare
    from monoskd.synthetic import synthesize

    root = tmp_path_factory.mktemp("scenes") / "data"
    synthesize(root, frames=6, val=1 / 3, seed=3, size=(416, 128), workers=1)
    prepare(root, workers=1)
    return root


@pytest.fixture(scope="session")
def mixed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered scenes with two of their training frames as frames without labels."""
    from monoskd.kitti.io import read_split, write_split
    from monoskd.kitti.layout import KittiLayout

    root = tmp_path_factory.mktemp("mixed")
    layout = KittiLayout(scenes)
    train = read_split(layout.split("train"))
    for split, names in (("train", train[:2]), ("val", read_split(layout.split("val"))), ("unlabelled", train[2:])):
        write_split(root / "ImageSets" / f"{split}.txt", names)
    for kind in ("image_2", "calib", "depth_2", "label_2"):
        (root / "training" / kind).mkdir(parents=True)
        for path in layout.folder(kind).iterdir():
            if not (kind == "label_2" and path.stem in train[2:]):
                (root / "training" / kind / path.name).symlink_to(path)
    return root
