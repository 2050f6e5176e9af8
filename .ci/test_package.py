"""Build the sdist, build the wheel from it, install the wheel into a fresh environment, and check what a user gets.

Run it with the Python of an environment that has `build` and the dependencies of the package: torch is not installed
twice. The fresh environment sees those dependencies, but its own copy of monoskd comes first.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "monoskd"

INSTALLED = """
import sys
from pathlib import Path
import monoskd
from monoskd.engine.load import load_config

package = Path(monoskd.__file__).parent
assert package.is_relative_to(sys.prefix), f"expected the installed wheel, got {package}"
for name in sys.argv[1:]:
    load_config(Path(name))
print(f"{len(sys.argv) - 1} configs load from {package}")
"""


def main() -> None:
    """Every step fails with an exception that says what is missing."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], cwd=ROOT)
        (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
        check_files(wheel, sdist)
        check_readme(wheel)
        check_install(wheel, out / "environment")


def run(command: list[str], *, cwd: Path, expect: int = 0) -> str:
    """What the command prints on both streams; RuntimeError for another exit code."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != expect:
        raise RuntimeError(f"{' '.join(command)}: expected exit code {expect}, got {done.returncode}\n{done.stdout}")
    return done.stdout


def package_files() -> set[str]:
    """Every file of the package in git, as `monoskd/...`; all of them belong into the wheel."""
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", str(SOURCE)], cwd=ROOT)
    return {str(Path(line).relative_to("src")) for line in listed.splitlines() if (ROOT / line).is_file()}


def check_files(wheel: Path, sdist: Path) -> None:
    """The sdist and the wheel hold the whole package."""
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/src/")[2] for name in archive.getnames()}
    for archive_name, names in ((sdist.name, in_sdist), (wheel.name, set(zipfile.ZipFile(wheel).namelist()))):
        missing = sorted(package_files() - names)
        if missing:
            raise RuntimeError(f"{archive_name}: expected every file of src/monoskd, missing {', '.join(missing)}")


def check_readme(wheel: Path) -> None:
    """A package index shows the description without the repository: a relative link or picture would be broken."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    description = message_from_bytes(archive.read(metadata)).get_payload()
    for part in description.split("](")[1:]:
        if not part.startswith(("https://", "#")):
            raise RuntimeError(f"README in the wheel: expected no relative link, got {part.partition(')')[0]!r}")


def check_install(wheel: Path, environment: Path) -> None:
    """The installed wheel is what is imported, and it finds and reads every shipped config."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], cwd=environment)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    configs = sorted(str(path.relative_to(SOURCE / "configs")) for path in (SOURCE / "configs").rglob("*.yaml"))
    if not configs:
        raise RuntimeError(f"{SOURCE / 'configs'}: expected the shipped configs, found none")
    print(run([str(python), "-c", INSTALLED, *configs], cwd=environment), end="")
    command = str(environment / "bin" / "monoskd")
    print(run([command, "--version"], cwd=environment), end="")
    answer = run([command, "train", "kitti/none.yaml"], cwd=environment, expect=2)
    if "kitti/baseline.yaml" not in answer:
        raise RuntimeError(f"monoskd train: expected the list of shipped configs, got {answer!r}")


if __name__ == "__main__":
    main()
