"""What an installation leaves behind, in a virtual environment of its own beside an editable nnU-Net."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributions import (
    COMMANDS,
    FOLDERS,
    ROOT,
    build,
    copy_of_checkout,
    files_of,
    installed_names,
    without_tests_variables,
)

import nnunetv2_stitch

MOST_BYTES, MOST_SECONDS = 8_000_000, 0.5  # of the wheel; of the processor's time for help
HEAVY = ("torch", "nnunetv2", "numpy", "matplotlib", "batchgenerators")
LOOK_UP = """
import os, sys, nnunetv2
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
for asked in sys.argv[1:]:
    name, _, folder = asked.partition("@")
    if folder:
        os.environ["nnUNet_extTrainer"] = folder
    try:
        print("FOUND", find(name).__module__)
    except RuntimeError as error:
        print("MISSING" if "Could not find" in str(error) else repr(error))
print("NNUNET", nnunetv2.__file__)
"""


def modules() -> list[str]:
    """Return the dotted names, as installed, of all modules and packages of the source tree."""
    names = []
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return names


@dataclass(frozen=True)
class Environment:
    """A virtual environment with this package and an editable nnU-Net in it."""

    folder: Path
    source: Path
    nnunet: Path
    installs: tuple[str, ...]
    editable: bool

    @property
    def site(self) -> Path:
        """Its site-packages."""
        base = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", scheme="posix_prefix", vars=base))

    def run(self, *command: str, cwd: Path | None = None, ok: bool = True, **variables: str) -> str:
        """Run a program of the environment; return its stdout."""
        env = without_tests_variables()
        result = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]], cwd=cwd or self.folder, env=env | variables,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert not ok or result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def pip(self, *arguments: str) -> None:
        """Run pip offline, with what is installed already."""
        self.run("python", "-m", "pip", "--disable-pip-version-check", "-q", *arguments)

    def pip_install(self, *what: str) -> None:
        """Install what lies on this machine, without its dependencies."""
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *what)

    def look_up(self, *trainers: str) -> list[str]:
        """Ask the real nnU-Net for trainers; return one line each. From `trainer@folder` on, nnUNet_extTrainer is this
        folder."""
        lines = self.run("python", "-c", LOOK_UP, *trainers).splitlines()
        assert lines[-1] == f"NNUNET {self.nnunet / '__init__.py'}"
        return [line for line in lines if line.startswith(("FOUND", "MISSING"))]


@pytest.fixture(scope="module")
def borrowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to all installed packages but nnU-Net and ours.

    The virtual environments read it through a .pth file. To pip such packages lie outside the environment, so nothing
    that these tests do can change the real ones.
    """
    links = tmp_path_factory.mktemp("borrowed")
    for folder in map(Path, sys.path):
        if folder.name not in ("site-packages", "dist-packages") or not folder.is_dir():
            continue
        for entry in folder.iterdir():
            hidden = re.match(r"(__editable__\W*_?)?nnunetv2", entry.name, re.IGNORECASE)
            if not hidden and entry.name != "__pycache__" and not (links / entry.name).exists():
                (links / entry.name).symlink_to(entry)
    return links


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_checkout(tmp_path_factory.mktemp("source") / "stitch_checkout")


@pytest.fixture(scope="module")
def distributions(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`.gz`: the source distribution; `.whl`: the wheel that was built from it."""
    return {path.suffix: path for path in build(checkout, tmp_path_factory.mktemp("built") / "dist")}


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(
    request, borrowed: Path, checkout: Path, distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Our package, from its wheel and editable, after nnU-Net was installed editable as its developers do."""
    base = tmp_path_factory.mktemp(request.param)
    spec = importlib.util.find_spec("nnunetv2")
    checkout_of_nnunet = base / "nnunet_checkout"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", ".*_cache", "nnUNetTrainerStitchRegistered*")
    shutil.copytree(next(iter(spec.submodule_search_locations)), checkout_of_nnunet / "nnunetv2", ignore=skip)
    version = importlib.metadata.version("nnunetv2")
    (checkout_of_nnunet / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "nnunetv2"\nversion = "{version}"\n'
        '[tool.setuptools.packages.find]\ninclude = ["nnunetv2*"]\n'
    )
    venv.create(base / "venv", with_pip=False, symlinks=True)
    editable = request.param == "editable"
    installs = ("-e", str(checkout)) if editable else (str(distributions[".whl"]),)
    result = Environment(base / "venv", checkout, checkout_of_nnunet / "nnunetv2", installs, editable)
    (result.site / "_borrowed.pth").write_text(f"{borrowed}\n")
    result.pip_install("-e", str(checkout_of_nnunet))
    before = set(os.listdir(result.site))
    result.pip_install(*installs)
    new = set(os.listdir(result.site)) - before
    assert new
    assert all(re.match(r"(__editable__[_.]*)?nnunetv2_stitch", name) for name in new - {"__pycache__"}), new
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    module, function = COMMANDS[command]
    code = (
        f"import sys; from {module} import {function} as entry\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n    entry()\n"
        f"except SystemExit as e:\n    sys.exit(e.code or str([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stderr.splitlines()[-1] == "[]"  # above it, an old name says the new one
    assert "usage: " in result.stdout


def test_version_is_a_literal():
    """So that a build reads it without importing the package."""
    tree = ast.parse((ROOT / "nnunetv2_stitch" / "__init__.py").read_text())
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert [type(ast.literal_eval(value)) for value in values] == [str]


def test_the_version_is_the_same_wherever_it_is_written():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE).group(1)
    logged = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [cited, *logged[:1]] == [nnunetv2_stitch.__version__] * (1 + len(logged[:1]))


@pytest.mark.slow
def test_both_distributions_hold_all_files_and_no_others(checkout, distributions):
    """Kind: a file of a new sort, or in a new folder, is there in the checkout and missing where it is installed."""
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
        [entries] = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert found == installed_names(checkout)
    assert set(re.findall(r"^(\w+) = ([\w.]+):(\w+)$", entries, re.MULTILINE)) == {
        (name, *where) for name, where in COMMANDS.items()}
    with tarfile.open(distributions[".gz"]) as source:
        names = {member.name.partition("/")[2] for member in source.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in names if ".egg-info/" not in name} - made == files_of(checkout)


@pytest.mark.slow
def test_the_wheel_is_small(distributions):
    assert distributions[".whl"].stat().st_size <= MOST_BYTES


@pytest.mark.slow
def test_a_registry_would_accept_both(distributions):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions.values())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.count("PASSED") == 2, result.stdout + result.stderr


@pytest.mark.slow
def test_every_module_is_installed(environment):
    """And every data file: Python files say where the package lies, the others must lie there too."""
    code = (
        "import importlib.util as u, sys\n"
        "for name in sys.argv[1:]:\n    print(u.find_spec(name).origin)"  # imports the packages that a module is in
    )
    origins = environment.run("python", "-c", code, *modules()).splitlines()
    assert len(origins) == len(modules())
    expected = environment.source if environment.editable else environment.site / "nnunetv2_stitch"
    assert all(Path(origin).is_relative_to(expected) for origin in origins)
    package = environment.source / "nnunetv2_stitch"
    data = [p.relative_to(package) for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert data
    missing = [str(name) for name in data if not environment.editable and not (expected / name).is_file()]
    assert not missing


@pytest.mark.slow
def test_works_in_the_root_of_the_checkout(environment):
    """There the folder `nnunetv2_stitch` hides the installed package, and has no `trainers` in it."""
    code = "from nnunetv2_stitch import trainers; import nnunetv2_stitch.entrypoints.common as common\n"
    code += "print(trainers.__file__, common.__file__)"
    files = environment.run("python", "-c", code, cwd=environment.source).split()
    assert files == [str(environment.source / name) for name in ("trainers/__init__.py", "entrypoints/common.py")]
    tests = ("-q", "-p", "no:cacheprovider", "tests/entrypoints/test_stitch_trainers.py")
    assert " passed" in environment.run("python", "-m", "pytest", *tests, cwd=environment.source)


@pytest.mark.slow
def test_the_pytest_command_tests_what_is_installed(environment):
    """`pytest` is not `python -m pytest`: the checkout's root is not on its sys.path."""
    script = environment.folder / "bin" / "pytest_command.py"
    script.write_text("import sys, pytest\nsys.exit(pytest.console_main())\n")
    probe = environment.source / "tests" / "test_probe.py"
    probe.write_text("import nnunetv2_stitch\n\n\ndef test_it():\n    assert nnunetv2_stitch.__file__ == 0\n")
    try:
        out = environment.run(
            "python", str(script), "-q", "-p", "no:cacheprovider", str(probe), cwd=environment.source, ok=False
        )
    finally:
        probe.unlink()
    expected = environment.source if environment.editable else environment.site
    assert f"assert '{expected / 'nnunetv2_stitch' / '__init__.py'}' == 0" in out


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_installed(environment, command):
    """And answers at once. Of several runs the shortest counts: what else the machine does only adds to the time."""
    name_now = f"nnUNetv2_{COMMANDS[command][0].rpartition('.')[2]}"
    seconds = []
    while not seconds or (min(seconds) > MOST_SECONDS and len(seconds) < 3):
        before = processor_seconds()
        assert f"usage: {name_now} " in environment.run(command, "--help")
        seconds.append(processor_seconds() - before)
    assert min(seconds) <= MOST_SECONDS


def processor_seconds() -> float:
    """Of all processes that were started and ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def sources(folder: Path) -> dict[str, bytes]:
    """Return all files below `folder` but bytecode, which Python may write at any import."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_nnunet_finds_the_trainers_and_survives_without_us(environment):
    """The last test in the file: it uninstalls the package, and installs it again."""
    ours, stock = "nnUNetTrainerStitch", "nnUNetTrainer_5epochs"  # the search for `stock` passes the registered file
    found = f"FOUND nnunetv2_stitch.trainers.{ours}"
    found_stock = "FOUND nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs"
    before = sources(environment.nnunet)

    folder = environment.run("nnUNetv2_stitch_trainers").strip()
    assert environment.look_up(stock, ours, f"{ours}@{folder}") == [found_stock, "MISSING", f"FOUND {ours}"]

    environment.run("nnUNetv2_stitch_trainers", "--register")
    new = set(sources(environment.nnunet)) - set(before)
    assert new == {os.path.join("training", "nnUNetTrainer", "nnUNetTrainerStitchRegistered.py")}
    merged, adapted = "nnUNetTrainerFromMerged", "nnUNetTrainerAdapted"
    assert environment.look_up(ours, "nnUNetTrainer", stock, merged, adapted) == [
        found, "FOUND nnunetv2.training.nnUNetTrainer.nnUNetTrainer", found_stock,
        f"FOUND nnunetv2_stitch.trainers.{merged}", f"FOUND nnunetv2_stitch.trainers.{adapted}",
    ]  # fmt: skip

    environment.pip("uninstall", "-y", "nnunetv2-stitch")
    assert environment.look_up(stock, ours) == [found_stock, "MISSING"]

    environment.pip_install(*environment.installs)
    environment.run("nnUNetv2_stitch_trainers", "--unregister")
    assert sources(environment.nnunet) == before
    assert not list(environment.nnunet.rglob("nnUNetTrainerStitchRegistered*"))
