"""Maps the top-level folders `trainers` and `entrypoints` into the package; everything else is in pyproject.toml.

They lie at the top of the repository because nnU-Net is pointed at `trainers` and users look for commands, and they
install as `nnunetv2_stitch.trainers` and `nnunetv2_stitch.entrypoints` so that no package of so general a name lands in
anyone's site-packages. `setup.py` rather than pyproject.toml because subpackages are to be found, not listed by hand.
Every file in a package is installed, whatever its kind: MANIFEST.in takes the whole folders.
"""

from setuptools import find_packages, setup

MAPPED_FOLDERS = ("trainers", "entrypoints")


def packages() -> list[str]:
    """Return the dotted names of all packages to install."""
    names = find_packages(include=["nnunetv2_stitch", "nnunetv2_stitch.*"])
    for folder in MAPPED_FOLDERS:
        names.append(f"nnunetv2_stitch.{folder}")
        names += [f"nnunetv2_stitch.{folder}.{name}" for name in find_packages(folder)]
    return names


setup(
    packages=packages(),
    package_dir={f"nnunetv2_stitch.{folder}": folder for folder in MAPPED_FOLDERS},
)
