"""The tutorial as a reader would run it, in an empty folder, with fewer frames and epochs."""

import json
import re
import shlex
from pathlib import Path

import pytest

from monoskd.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
SHORTER = {"synth": ["--frames", "8", "--workers", "1"], "prepare": ["--workers", "1"], "train": ["--epochs", "1"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_its_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("monoskd ")]
    assert [command.split()[1] for command in commands] == [
        *("synth", "doctor", "prepare", "train", "train", "train", "evaluate", "predict")
    ]
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, *SHORTER.get(words[0], [])]) == 0, command
    assert Path("result.json").is_file()
    assert len(list(Path("predictions").rglob("*.txt"))) == 8


def test_its_snippet_writes_a_frame_that_the_doctor_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    exec(snippet, {})
    assert main(["doctor", "data/written", "--json", "findings.json"]) == 0
    findings = json.loads(Path("findings.json").read_text())["findings"]
    said = sorted((finding["severity"], finding["check"]) for finding in findings)
    assert said == [("note", "no depth_2"), ("warning", "no split")]  # it has no val.txt
