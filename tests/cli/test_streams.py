"""What becomes of a command's output when stdout or stderr is closed, full, unread or of another encoding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CAR = "Car 0.00 0 0.00 100.00 100.00 200.00 200.00 1.50 1.60 4.00 0.00 1.60 20.00 0.00"
EVALUATE = "evaluate --labels label_2 --predictions results --json out.json --html out.html"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one label and one result."""
    monkeypatch.chdir(tmp_path)
    for folder, line in (("label_2", CAR), ("results", f"{CAR} 0.5")):
        Path(folder).mkdir()
        Path(folder, "000000.txt").write_text(f"{line}\n")
    return tmp_path


def shell(words: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`monoskd WORDS` with shell redirections."""
    command = f"{sys.executable} -m monoskd {words} {redirected}"
    run = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("redirected", "code", "complaint"),
    [
        (">/dev/full", 2, "monoskd: stdout: expected to write the result, got 'No space left on device'"),
        ("| true", 141, ""),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_reports_are_written_whatever_stdout_is(here: Path, redirected: str, code: int, complaint: str) -> None:
    done = shell(EVALUATE, redirected)
    assert done.returncode == code
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == bool(complaint)
    assert '"schema": "monoskd/evaluation/1"' in Path("out.json").read_text()
    assert Path("out.html").read_text().endswith("</html>\n")


@pytest.mark.parametrize(
    ("limit_kib", "words", "table"),
    [(8, EVALUATE, "KITTI average precision"), (4, "doctor {scenes} --html out.html", "fit to use")],
)
def test_a_report_that_cannot_be_written_leaves_the_table(
    here: Path, scenes: Path, limit_kib: int, words: str, table: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {limit_kib}; {sys.executable} -m monoskd {words.format(scenes=scenes)}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    complaints = [line for line in done.stderr.splitlines() if line.startswith("monoskd: ")]
    assert len(complaints) == 1
    assert "out.html: expected to write here, got 'File too large': free some space" in complaints[0]
    assert table in done.stdout
    assert not Path("out.html").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_no_encoding_breaks_the_output(here: Path, environment: dict[str, str]) -> None:
    folder = "日本\udce9"  # the last letter is a byte that is no UTF-8
    Path("results").rename(folder)
    done = shell(f"{EVALUATE.replace('results', folder)} --split nowhere", **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = shell(EVALUATE.replace("results", folder), **environment)
    assert done.returncode == 0, done.stderr
    assert "KITTI average precision" in done.stdout


def test_files_of_others_cannot_command_a_terminal(here: Path) -> None:
    Path("label_2", "000000.txt").write_text(CAR.replace("20.00", "\x1b[2J\x1b]0;title\x07\x9b1m"))
    Path("training").mkdir()
    Path("training", "label_2").symlink_to(here / "label_2")
    for words in (EVALUATE, "doctor ."):
        done = shell(words)
        assert done.returncode == 2
        said = done.stdout + done.stderr
        assert "got '\\x1b[2J\\x1b]0;title\\x07\\x9b1m'" in said
        assert all(letter.isprintable() or letter == "\n" for letter in said)


def test_names_in_files_are_utf8_whatever_the_locale(here: Path) -> None:
    for folder in ("label_2", "results"):
        Path(folder, "000000.txt").rename(Path(folder, "Straße 日.txt"))
    Path("split.txt").write_text("Straße 日\n", encoding="utf-8")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"{EVALUATE} --split split.txt", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "KITTI average precision [%], 1 frames" in done.stdout
    Path("results", "Straße 日.txt").unlink()
    done = shell(f"{EVALUATE} --split split.txt", **environment)
    assert done.returncode == 2
    assert done.stderr.isascii()  # the output keeps its encoding


@pytest.mark.parametrize(("redirected", "code"), [(">/dev/full", 2), ("| true", 141), (">&-", 0)])
def test_help_that_cannot_be_shown_is_no_success(redirected: str, code: int) -> None:
    done = shell("--help", redirected)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_the_working_directory_is_not_on_the_import_path(here: Path) -> None:
    Path("shtab.py").write_text("raise SystemExit('imported from the working directory')\n")
    assert shell("--version").returncode == 0


def test_a_shell_completes_commands_options_and_files(here: Path) -> None:
    script = here / "try.sh"
    script.write_text(
        f'eval "$({sys.executable} -m monoskd --print-completion bash)"\n'
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_monoskd; echo "${COMPREPLY[*]}"; }\n'
        "complete_words monoskd ev\n"
        "complete_words monoskd evaluate --ana\n"
        "complete_words monoskd evaluate --labels lab\n"
    )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["evaluate", "--anatomy", "label_2"]
