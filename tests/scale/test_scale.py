"""A local Ray: the same files as without, killed workers, a lost machine, broken frames."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.inference.cameras import CameraSource
from monoskd.inference.predictor import Predictor
from monoskd.scale.predict import predict_on_ray
from monoskd.scale.prepare import prepare_on_ray
from monoskd.scale.spread import spread

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own


@contextmanager
def local_ray(*cores: int) -> Iterator[Any]:
    """A Ray cluster of as many machines as numbers, all of them on this one; the first is its head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # by default its workers wait for whatever else the machine does
        from ray.cluster_utils import Cluster

        head, *others = cores
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
        for number in others:
            cluster.add_node(num_cpus=number)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    pytest.importorskip("ray", reason="needs the extra `scale`")
    with local_ray(2) as two_workers:
        yield two_workers.address


@pytest.fixture
def pictures(scenes: Path, tmp_path: Path) -> Path:
    """Six pictures, one of which is cut off."""
    shutil.copytree(scenes / "training" / "image_2", tmp_path / "pictures")
    broken = tmp_path / "pictures" / "000002.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "pictures"


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if ".ray" not in path.parts}


def words(pictures: Path, model: Path, scenes: Path, out: Path) -> list[str]:
    calibration = ["--calib", str(scenes / "training" / "calib"), "--score", "0", "--draw"]
    return ["predict", str(pictures), "--model", str(model), "--out", str(out), *calibration]


def test_what_a_killed_worker_had_is_done_again(cluster: str, tmp_path: Path) -> None:
    marker = str(tmp_path / "killed")

    def make() -> Callable[[int], int]:
        def square(number: int) -> int:
            import os

            if not os.path.exists(marker):  # noqa: PTH110 - the worker imports no more than it needs
                os.mkdir(marker)  # noqa: PTH102 - the same
                os.kill(os.getpid(), 9)
            return number * number

        return square

    assert sorted(spread(make, range(12), address=cluster)) == [number * number for number in range(12)]
    assert Path(marker).exists()


def test_what_a_lost_machine_had_is_done_again(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `scale`")
    marker = str(tmp_path / "lost")
    with local_ray(1, 1) as two_machines:
        head = two_machines.head_node.node_id

        def make() -> Callable[[int], int]:
            def square(number: int) -> int:
                import os
                import time

                import ray

                time.sleep(0.2)  # there is work left when the second machine joins
                if ray.get_runtime_context().get_node_id() != head and number > 2 and not os.path.exists(marker):  # noqa: PTH110
                    os.mkdir(marker)  # noqa: PTH102
                    os.kill(os.getppid(), 9)  # Ray's own process of this machine: all its workers go with it
                    time.sleep(60)
                return number * number

            return square

        found = sorted(spread(make, range(60), address=two_machines.address))
    assert found == [number * number for number in range(60)]
    assert Path(marker).exists()


def test_predictions_are_those_without_ray_and_are_not_repeated(
    cluster: str, pictures: Path, model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(pictures, model, scenes, tmp_path / "plain")) == 2
    capsys.readouterr()
    on_ray = [*words(pictures, model, scenes, tmp_path / "ray"), "--ray", cluster]
    assert main(on_ray) == 2
    said = capsys.readouterr()
    assert "000002.png" in said.err.splitlines()[-1]
    assert "5 others are done" in said.err.splitlines()[-1]
    assert "5 images" in said.out
    assert files(tmp_path / "ray") == files(tmp_path / "plain")
    assert len(files(tmp_path / "ray")) == 11  # five result files, five drawings and the document

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray" / "kitti").iterdir()}
    shutil.copy(pictures / "000001.png", pictures / "000002.png")
    assert main(on_ray) == 0
    assert "1 images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(files(tmp_path / "ray")) == 13
    assert main([*on_ray, "--score", "0.5"]) == 2
    assert "expected predictions of this model, camera and score" in capsys.readouterr().err


def test_pictures_of_a_killed_worker_are_predicted_again(
    cluster: str, scenes: Path, model: Path, tmp_path: Path
) -> None:
    source, cameras = scenes / "training" / "image_2", CameraSource(focal_px=300.0)
    marker, path = str(tmp_path / "killed"), str(model)

    def make(*, device: str) -> "Predictor":
        import os

        from monoskd.inference.predictor import Predictor

        predictor = Predictor(path, device=device)
        batch = predictor.batch

        def dying(frames: Any) -> Any:
            found = batch(frames)
            if not os.path.exists(marker):  # noqa: PTH110
                os.mkdir(marker)  # noqa: PTH102
                os.kill(os.getpid(), 9)
            return found

        predictor.batch = dying  # type: ignore[method-assign]
        return predictor

    out = tmp_path / "out"
    summary = predict_on_ray(make, source, address=cluster, model=model, cameras=cameras, out=out, score=0.0)
    assert Path(marker).exists()
    assert summary.images == 6
    assert len([*(out / "kitti").iterdir()]) == 6
    assert [path.name for path in (out / ".ray").iterdir()] == ["made_of.json"]


def test_depth_maps_are_those_without_ray(cluster: str, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    shutil.rmtree(root / "training" / "depth_2")
    sweep = root / "training" / "velodyne" / "000003.bin"
    content = sweep.read_bytes()
    sweep.write_bytes(b"")
    with pytest.raises(InputError, match=r"000003.*the other 5 frames are prepared"):
        prepare_on_ray(root, address=cluster)
    sweep.write_bytes(content)
    report = prepare_on_ray(root, address=cluster)
    assert (report.written, report.skipped) == (1, 5)
    assert files(root / "training" / "depth_2") == files(scenes / "training" / "depth_2")


def test_videos_and_other_folders_are_refused(cluster: str, pictures: Path, model: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"address": cluster, "model": model, "cameras": CameraSource(focal_px=300.0)}
    (tmp_path / "out" / "kitti").mkdir(parents=True)
    with pytest.raises(InputError, match="expected a new folder or one of `--ray`, got predictions"):
        predict_on_ray(partial(Predictor, model), pictures, out=tmp_path / "out", **given)
    shutil.copy(pictures / "000001.png", pictures / "000001.jpg")
    with pytest.raises(InputError, match="pictures with names that differ"):
        predict_on_ray(partial(Predictor, model), pictures, out=tmp_path / "new", **given)
