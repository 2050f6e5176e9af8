import json
import sys
from pathlib import Path

import pytest

from monoskd.engine.launch import Launch, is_finished, train_side_by_side
from monoskd.errors import InputError


def pretend(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let every launch run this program instead of a training; `out` is its first argument."""
    monkeypatch.setattr(Launch, "command", lambda self: [sys.executable, "-c", program, str(self.out)])


FINISH = "import sys, pathlib; (pathlib.Path(sys.argv[1]) / 'manifest.json').write_text('{\"finished\": true}')"


def test_the_command_is_what_a_user_would_type_and_resumes(tmp_path: Path) -> None:
    launch = Launch("demo/teacher.yaml", tmp_path / "run", {"data.root": tmp_path, "sizes": (320, 96), "fast": True})
    words = launch.command()
    assert words[:5] == [sys.executable, "-m", "monoskd", "train", "demo/teacher.yaml"]
    assert dict(zip(words[5::2], words[6::2], strict=True)) == {
        "--data.root": str(tmp_path),
        "--sizes": "[320, 96]",
        "--fast": "true",
        "--out": str(tmp_path / "run"),
    }
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert launch.command()[-2:] == ["--resume", str(tmp_path / "run")]


def test_finished_runs_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, FINISH)
    launches = [Launch("a.yaml", tmp_path / name) for name in ("first", "second")]
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "manifest.json").write_text(json.dumps({"finished": True}))
    done: list[str] = []
    train_side_by_side(launches, finished=lambda launch, manifest: done.append(launch.out.name))
    assert done == ["second"]
    assert is_finished(tmp_path / "second")
    assert not (tmp_path / "first" / "log.txt").exists()


def test_a_failure_names_the_run_and_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, time; time.sleep(60) if 'slow' in sys.argv[1] else sys.exit('monoskd: no such data set')"
    pretend(monkeypatch, program)
    said = r"bad stopped with exit code 1, see .*log\.txt: monoskd: no such data set; with that mended, this command"
    with pytest.raises(InputError, match=said):
        train_side_by_side([Launch("a.yaml", tmp_path / name) for name in ("bad", "slow")])
    assert not is_finished(tmp_path / "slow")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_manifest_is_no_finished_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert not is_finished(tmp_path)
