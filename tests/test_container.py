"""The Dockerfile, as far as that can be seen without Docker."""

import re
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest
from distributions import ROOT, build, copy_of_checkout, installed_names


def copied() -> list[tuple[list[str], str]]:
    """What the Dockerfile copies, and where to."""
    lines = re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [(words[:-1], words[-1]) for words in map(str.split, lines)]


def test_the_dockerfile_passes_its_linter():
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if program is None:
        pytest.skip("hadolint comes with the extra `test` on Linux, x86-64, only")
    result = subprocess.run([program, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_docker_is_sent_what_is_copied_and_nothing_else():
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert kept == [name for names, _ in copied() for name in names]


@pytest.mark.slow
def test_what_is_copied_is_enough_to_install_everything(tmp_path):
    checkout, image = copy_of_checkout(tmp_path / "checkout"), tmp_path / "image"
    for names, target in copied():
        for name in names:
            place = image / target.strip("/")
            if (checkout / name).is_dir():
                shutil.copytree(checkout / name, place)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(checkout / name, place)
    [wheel] = build(image / "source", tmp_path / "dist", "--wheel")
    with zipfile.ZipFile(Path(wheel)) as found:
        assert {name for name in found.namelist() if ".dist-info/" not in name} == installed_names(checkout)
