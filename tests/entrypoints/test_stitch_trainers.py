"""Registration in a stand-in for nnU-Net; tests/test_packaging.py does it with the real one."""

import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_stitch import registration
from nnunetv2_stitch.entrypoints.stitch_trainers import stitch_trainers_entry
from nnunetv2_stitch.errors import StitchError


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `import nnunetv2` would take, with no more in it than registration looks at."""
    folder = tmp_path / "checkout" / "nnunetv2"
    trainers = folder / "training" / "nnUNetTrainer"
    trainers.mkdir(parents=True)
    # Would fail if it were imported: registration must find the folder without.
    (folder / "__init__.py").write_text("raise RuntimeError('nnunetv2 was imported')\n")
    (trainers / "nnUNetTrainer.py").write_text("class nnUNetTrainer:\n    pass\n")
    monkeypatch.delitem(sys.modules, "nnunetv2", raising=False)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_stitch_trainers", *arguments])
    stitch_trainers_entry()


def run_registered(file: Path, statement: str, path: Path | None = None) -> subprocess.CompletedProcess:
    """Load the registered file as `m` in a Python with no site-packages, with `path` on sys.path, and go on."""
    code = "import importlib.util as u, sys\n"
    code += f"sys.path.append({str(path)!r})\n" if path else ""
    code += f"s = u.spec_from_file_location('registered', {str(file)!r})\n"
    code += f"m = u.module_from_spec(s); s.loader.exec_module(m)\n{statement}\n"
    return subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, timeout=300)


def test_prints_the_folder_and_nothing_else(monkeypatch, capsys):
    command(monkeypatch)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert Path(out.strip()).is_absolute()
    assert (Path(out.strip()) / "nnUNetTrainerStitch.py").is_file()


def test_register_twice_then_unregister_restores_the_tree(monkeypatch, capsys, nnunet):
    before = snapshot(nnunet)
    for _ in range(2):
        command(monkeypatch, "--register")
        out, err = capsys.readouterr()
        assert out == ""
        assert str(nnunet) in err
        assert set(snapshot(nnunet)) - set(before) == {"training/nnUNetTrainer/nnUNetTrainerStitchRegistered.py"}
    file = registration.registration_file()
    assert file.stat().st_mode == file.with_name("nnUNetTrainer.py").stat().st_mode
    compiled = file.parent / "__pycache__" / f"{file.stem}.cpython-310.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"bytecode of some Python")
    command(monkeypatch, "--unregister")
    assert "removed" in capsys.readouterr().err
    assert snapshot(nnunet) == before


def test_unregister_when_not_registered_says_so(monkeypatch, capsys, nnunet):
    command(monkeypatch, "--unregister")
    assert "not registered" in capsys.readouterr().err


def test_register_and_unregister_exclude_each_other(monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "--register", "--unregister")
    assert caught.value.code == 2


def test_a_file_of_somebody_else_is_left_alone(nnunet):
    file = registration.registration_file()
    file.write_text("mine = 1\n")
    for act in (registration.register, registration.unregister):
        with pytest.raises(StitchError, match="not written by --register"):
            act()
    assert file.read_text() == "mine = 1\n"


def test_no_permission_is_one_line_and_leaves_nothing(monkeypatch, capsys, nnunet):
    before = snapshot(nnunet)

    def refuse(source, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(registration.os, "replace", refuse)  # tests may run as root, whom no file mode stops
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "--register")
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "no permission to write" in err
    assert "nnUNet_extTrainer" in err
    assert snapshot(nnunet) == before


def test_an_nnunet_of_another_shape_is_refused(nnunet):
    (nnunet / "training" / "nnUNetTrainer" / "nnUNetTrainer.py").unlink()
    with pytest.raises(StitchError, match=r"nnUNetTrainer\.py"):
        registration.register()


def test_registered_file_is_silent_without_our_package(nnunet):
    result = run_registered(
        registration.register(), "print(hasattr(m, 'nnUNetTrainerStitch'), hasattr(m, 'nnUNetTrainer'))"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "False False\n", "")


def test_registered_file_loads_only_the_trainer_asked_for(nnunet, tmp_path):
    package = tmp_path / "site" / "nnunetv2_stitch"
    (package / "trainers").mkdir(parents=True)
    for folder in (package, package / "trainers"):
        (folder / "__init__.py").write_text("")
    (package / "trainers" / "nnUNetTrainerStitch.py").write_text("class nnUNetTrainerStitch:\n    pass\n")
    (package / "trainers" / "nnUNetTrainerStitchBroken.py").write_text("import no_module_of_this_name\n")
    file = registration.register()

    lookup = "print(hasattr(m, 'nnUNetTrainer_5epochs'), 'nnunetv2_stitch' in sys.modules)"
    assert run_registered(file, lookup, package.parent).stdout == "False False\n"
    lookup = "print(m.nnUNetTrainerStitch.__module__, hasattr(m, 'nnUNetTrainerStitchOther'))"
    assert run_registered(file, lookup, package.parent).stdout == (
        "nnunetv2_stitch.trainers.nnUNetTrainerStitch False\n"
    )
    # A trainer of ours that cannot be loaded is not the same as one that is not there.
    result = run_registered(file, "hasattr(m, 'nnUNetTrainerStitchBroken')", package.parent)
    assert result.returncode == 1
    assert "no_module_of_this_name" in result.stderr
    (package / "trainers" / "__init__.py").write_text("import no_other_module_of_this_name\n")
    result = run_registered(file, "hasattr(m, 'nnUNetTrainerStitch')", package.parent)
    assert result.returncode == 1
    assert "no_other_module_of_this_name" in result.stderr
