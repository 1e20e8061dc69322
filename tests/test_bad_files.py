"""Hostile and damaged files end in an error that names them, at once, and without the memory that they declare."""

import io
import json
import resource
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import zarr

from geomaestro.config import check, parse_yaml, read_yaml
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.files.tables import read_table
from geomaestro.data.opening import open_dataset
from geomaestro.errors import DataError, GeomaestroError, SpecError
from geomaestro.samples import Sample

MOST_BYTES = 3 << 30  # more than the process has before a test; what the files declare is far above
IMAGES = np.arange(3 * 2 * 4 * 4, dtype=np.float32).reshape(3, 2, 4, 4)
NAMES = ["S2_20200105", "S2_20200306", "S2_20200507"]


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def spec_of(path: str, table: str = "list.txt", **more: Any) -> FilesSpec:
    """One sensor in files of one sample, `a`, unless more is said."""
    sensor = {
        **{"path": path, "bands": ["B1", "B2"], "gsd_m": 10, "unit": "other", "dates": {"fixed": "2020-01-01"}},
        **{"input": {"size_px": 4, "patch_px": 2, "dates": 3}},
        **more.pop("sensor", {}),
    }
    values = {
        **{"name": "bad", "kind": "files", "reference_date": [2020, 1, 0]},
        **{"samples": {"table": table, "id": "{name}", **more.pop("samples", {})}, "sensors": {"s": sensor}},
        **more,
    }
    return check(FilesSpec, values, "bad.yaml")


def first(folder: Path, spec: FilesSpec) -> Sample[np.ndarray]:
    if not (folder / "list.txt").exists():
        (folder / "list.txt").write_text("a\n")
    return open_dataset(spec, folder, ("train",)).read(0)


def refused(folder: Path, spec: FilesSpec) -> str:
    with pytest.raises((DataError, SpecError)) as caught:
        first(folder, spec)
    return str(caught.value)


def npy(path: Path, shape: tuple[int, ...], dtype: str = "'<f4'", order: bool = False, tail: bytes = b"") -> None:
    """An npy file of a header that may lie."""
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + tail)


def three(**more: Any) -> dict[str, Any]:
    return {"dates": {"array": "days", "part": -1}, **more}


def write_npy_object(folder: Path) -> None:
    # a protocol 0 stream that would call os.system: written out, since nothing here may make one
    npy(folder / "a.npy", (1,), "'|O'", tail=b"cos\nsystem\n(S'touch run'\ntR.")


def write_npy_stream(folder: Path) -> None:
    (folder / "a.npy").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")


def write_npy_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npy", "w") as file:
        file.writestr("x.npy", b"")


def npz_of(folder: Path, content: bytes) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)


def write_npz_huge(folder: Path) -> None:
    npy(folder / "b", (10**15,))
    npz_of(folder, (folder / "b").read_bytes())


def write_npz_bomb(folder: Path) -> None:
    """Its list says 3 GiB, as its content would."""
    write_npz_huge(folder)
    content = (folder / "a.npz").read_bytes()
    size = struct.pack("<I", len((folder / "b").read_bytes()))
    (folder / "a.npz").write_bytes(content.replace(size, struct.pack("<I", 3 << 30)))


def write_npz_object(folder: Path) -> None:
    npy(folder / "b", (1,), "'|O'", tail=b"cos\nsystem\n(S'touch run'\ntR.")
    npz_of(folder, (folder / "b").read_bytes())


def write_npz_cut(folder: Path) -> None:
    write_npz_huge(folder)
    (folder / "a.npz").write_bytes((folder / "a.npz").read_bytes()[:60])


ARRAYS = {
    "objects in npy": ("a.npy", write_npy_object, "not a readable npy"),
    "a stream of objects": ("a.npy", write_npy_stream, "not a readable npy"),
    "an archive called npy": ("a.npy", write_npy_archive, "not a readable npy"),
    "10^15 numbers": ("a.npy", lambda f: npy(f / "a.npy", (10**15,)), "not a readable npy"),
    "more numbers than 64 bits count": ("a.npy", lambda f: npy(f / "a.npy", (2**40, 2**40)), "not a readable npy"),
    "less than no numbers": ("a.npy", lambda f: npy(f / "a.npy", (-1, 2, 4, 4)), "not a readable npy"),
    "code as a type": ("a.npy", lambda f: npy(f / "a.npy", (1,), "__import__('os')"), "not a readable npy"),
    "no content": ("a.npy", lambda f: (f / "a.npy").touch(), "not a readable npy"),
    "records": ("a.npy", lambda f: np.save(f / "a.npy", np.zeros((1, 2, 4, 4), "i4,f8")), "holds values of type"),
    "complex numbers": ("a.npy", lambda f: np.save(f / "a.npy", IMAGES[:1] * 1j), "holds values of type complex64"),
    "text": ("a.npy", lambda f: np.save(f / "a.npy", np.full((1, 2, 4, 4), "x")), "holds values of type <U1"),
    "128-bit numbers": ("a.npy", lambda f: np.save(f / "a.npy", np.zeros((1, 2, 4, 4), np.longdouble)), "float128"),
    "a header of 10^15 in npz": ("a.npz", write_npz_huge, "holds 0 bytes of them"),
    "3 GiB in npz": ("a.npz", write_npz_bomb, "declares 3221225472 bytes"),
    "objects in npz": ("a.npz", write_npz_object, "not a readable npz"),
    "npz cut short": ("a.npz", write_npz_cut, "not a readable npz"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_a_bad_array_file_is_refused(what: str, tmp_path: Path) -> None:
    name, write, said = ARRAYS[what]
    write(tmp_path)
    more = {"array": "x"} if name.endswith("npz") else {}
    message = refused(tmp_path, spec_of(name, sensor=more))
    assert said in message and name in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "<u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_order_in_memory_are_read(dtype: str, order: Any, tmp_path: Path) -> None:
    from geomaestro.samples import collate, to_torch

    x = np.asarray(IMAGES, dtype, order)
    np.save(tmp_path / "a.npy", x)
    (tmp_path / "a.days").write_text("\n".join(NAMES))
    sample = first(tmp_path, spec_of("a.npy", sensor={"dates": {"file": "a.days", "part": -1}}))
    assert (sample.images["s"] == x).all() and sample.images["s"].dtype == np.dtype(dtype).newbyteorder("=")
    batch = to_torch(collate([sample, sample]))
    assert (batch.images["s"][1].numpy() == x).all()


def test_the_chosen_date_hangs_on_no_order_in_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).lognormal(size=(40, 2, 10, 10)).astype(np.float32)
    days = {"dates": {"file": "a.days"}, "input": {"size_px": 10, "patch_px": 2, "dates": 20}}
    (tmp_path / "a.days").write_text("\n".join(f"20200{1 + n // 20}{1 + n % 20:02}" for n in range(40)))
    got = []
    for name, values in (("c.npy", x), ("f.npy", np.asfortranarray(x)), ("p.npy", x[:, ::-1])):
        np.save(tmp_path / name, values)
        got.append(first(tmp_path, spec_of(name, sensor={**days, "pick": [1, 0] if name == "p.npy" else [0, 1]})))
    assert all((sample.dates["s"] == got[0].dates["s"]).all() for sample in got)  # two dates of a bin are equally far


def h5(folder: Path, **arrays: Any) -> h5py.File:
    file = h5py.File(folder / "a.h5", "w")
    for name, values in arrays.items():
        file[name] = values
    return file


def huge_h5(folder: Path, name: str = "x", shape: tuple[int, ...] = (10**6, 2, 10**5, 10**5)) -> None:
    with h5(folder) as file:
        file.create_dataset(name, shape, "f4", chunks=tuple(min(n, 16) for n in shape))


def huge_h5_chunk(folder: Path) -> None:
    with h5(folder) as file:
        shape = (1, 2, 4, 4)
        file.create_dataset("x", shape, "f4", maxshape=(None,) * 4, chunks=(1, 2, 16384, 30000), compression=1)


def external_h5(folder: Path, deep: bool) -> None:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"], file["g/x"] = IMAGES[:1], IMAGES[:1]
    with h5(folder) as file:
        file["y"] = h5py.ExternalLink("secret.h5", "/g" if deep else "/x")
        file["x"] = h5py.SoftLink("/y/x" if deep else "/y")


def raw_h5(folder: Path) -> None:
    (folder / "secret").write_bytes(IMAGES[:1].tobytes())
    with h5(folder) as file:
        file.create_dataset("x", (1, 2, 4, 4), "f4", external=[(str(folder / "secret"), 0, 128)])


def virtual_h5(folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = IMAGES[:1]
    layout = h5py.VirtualLayout((1, 2, 4, 4), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (1, 2, 4, 4))
    with h5(folder) as file:
        file.create_virtual_dataset("x", layout)


def circle_h5(folder: Path) -> None:
    with h5(folder) as file:
        file["x"] = h5py.SoftLink("/y")
        file["y"] = h5py.SoftLink("/x")


def typed_h5(folder: Path, dtype: Any, value: Any = None) -> None:
    with h5(folder) as file:
        data = file.create_dataset("x", (1, 2, 4, 4), dtype)
        if value is not None:
            data[...] = value


H5: dict[str, tuple[Callable[[Path], None], str]] = {
    "a huge shape": (huge_h5, "declares 80000000000000000 bytes"),
    "a huge chunk": (huge_h5_chunk, "a chunk of 'x' has"),
    "a link to another file": (lambda f: external_h5(f, False), "lies in another file, 'secret.h5'"),
    "a path through another file": (lambda f: external_h5(f, True), "lies in another file, 'secret.h5'"),
    "numbers in another file": (raw_h5, "keeps its numbers in another file"),
    "a virtual dataset": (virtual_h5, "keeps its numbers in another file"),
    "a circle of links": (circle_h5, "goes in a circle"),
    "references": (lambda f: typed_h5(f, h5py.ref_dtype), "holds values of type object"),
    "text": (lambda f: typed_h5(f, h5py.string_dtype(), "x"), "holds values of type object"),
    "lists": (lambda f: typed_h5(f, h5py.vlen_dtype(np.int32)), "holds values of type object"),
    "records": (lambda f: typed_h5(f, "i4,f4"), "holds values of type"),
    "complex numbers": (lambda f: typed_h5(f, "c8"), "holds values of type complex64"),
    "a group": (lambda f: h5(f).create_group("x").file.close(), "has no dataset 'x'"),
    "nothing at all": (lambda f: h5(f, x=h5py.Empty("f4")).close(), "has no dataset 'x'"),
    "no such name": (lambda f: h5(f, y=IMAGES).close(), "has no dataset 'x'; it has y"),
    "no HDF5": (lambda f: (f / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 2000), "unreadable HDF5"),
}


@pytest.mark.parametrize("what", H5)
def test_a_bad_hdf5_file_is_refused(what: str, tmp_path: Path) -> None:
    write, said = H5[what]
    write(tmp_path)
    message = refused(tmp_path, spec_of("a.h5", sensor={"array": "x"}))
    assert said in message and "a.h5" in message


def test_links_inside_a_file_and_named_numbers_are_read(tmp_path: Path) -> None:
    with h5(tmp_path) as file:
        file.create_dataset(
            "g/real", data=IMAGES[:1].astype(np.int16), dtype=h5py.enum_dtype({"no": 0, "yes": 1}, "i2")
        )
        file["g/near"] = h5py.SoftLink("real")
        file["x"] = h5py.SoftLink("/g/near")
    assert (first(tmp_path, spec_of("a.h5", sensor={"array": "x"})).images["s"][:1] == IMAGES[:1]).all()


def days_h5(folder: Path, days: Any, units: Any = None) -> None:
    with h5(folder, x=IMAGES) as file:
        if callable(days):
            days(file)
        else:
            file["days"] = days
        if units is not None:
            file["days"].attrs["units"] = units


DAYS: dict[str, tuple[Any, Any, str]] = {
    "too many": (lambda f: f.create_dataset("days", (2**27,), "i4", chunks=(1000,)), None, "declares 134217728 dates"),
    "NaN": (np.array([1.0, np.nan, 2.0]), "days since 2000-01-01", "leave the calendar"),
    "far away": (np.array([1.0, 1e300, 2.0]), "days since 2000-01-01", "leave the calendar"),
    "in no unit": (np.array([1.0, 2.0, 3.0]), "moons since ever", "times are numbers with units 'moons since ever'"),
    "since no date": (np.array([1.0, 2.0, 3.0]), "days since " + "9" * 100_000, "which is no date"),
    "of no type": (np.zeros(3, "c8"), None, "holds dates of type complex64"),
    "records": (np.zeros(3, "i4,i4"), None, "holds dates of type"),
    "no text": (np.array([b"\xff\xfe", b"b", b"c"]), None, "not UTF-8"),
    "no dates": (np.array([b"S2_x", b"S2_y", b"S2_z"]), None, "no date in 'S2_x'"),
    "many units": (np.array([1.0, 2.0, 3.0]), np.zeros(5000), "times are numbers with units '0.0 0.0"),
}


@pytest.mark.parametrize("what", DAYS)
def test_bad_dates_in_a_file_are_refused(what: str, tmp_path: Path) -> None:
    values, units, said = DAYS[what]
    days_h5(tmp_path, values, units)
    message = refused(tmp_path, spec_of("a.h5", sensor=three(array="x")))
    assert said in message and "a.h5" in message and len(message) < 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x" * 20_000_000, "too many for a list of dates"),
        (b"20200230\n", "no date in '20200230'"),
        (b"\x00\n", "no date in"),
    ],
)
def test_a_bad_list_of_dates_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.days").write_bytes(content)
    message = refused(tmp_path, spec_of("a.npy", sensor={"dates": {"file": "a.days"}}))
    assert said in message and "a.days" in message


@pytest.mark.parametrize("cell", ["[" * 100_000, "[" + "9" * 5000 + "]", '{"one": 20200101}', "[1, {", '"'])
def test_a_bad_cell_of_dates_is_refused(cell: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "t.geojson").write_text(json.dumps([{"properties": {"name": "a", "on": cell}}]))
    message = refused(tmp_path, spec_of("a.npy", "t.geojson", sensor={"dates": {"column": "on"}}))
    assert "a.npy" in message and len(message) < 1000


def cube(folder: Path, x: Any, crs: Any) -> None:
    with h5(folder, x_=IMAGES[:1], y=np.arange(4.0, 0, -1)) as file:
        if callable(x):
            x(file)
        else:
            file["x"] = x
        file.attrs["crs_wkt"] = crs


PLACES: dict[str, tuple[Any, Any, str]] = {
    "NaN": (np.array([1, np.nan, 3, 4]), "EPSG:32632", "the coordinates 'x' hold NaN or infinity"),
    "infinity": (np.array([1, 2, 3, np.inf]), "EPSG:32632", "the coordinates 'x' hold NaN or infinity"),
    "text": (np.array([b"a", b"b"]), "EPSG:32632", "has no georeference"),
    "a huge array": (
        lambda f: f.create_dataset("x", (10**12,), "f8", chunks=(10,)),
        "EPSG:32632",
        "has no georeference",
    ),
    "another file": (
        lambda f: f.__setitem__("x", h5py.ExternalLink("b.h5", "/x")),
        "EPSG:32632",
        "lies in another file",
    ),
    "uneven": (np.array([1.0, 2, 30, 4]), "EPSG:32632", "has no georeference"),
    "no system": (np.arange(4.0), "EPSG:none of these", "is no coordinate system"),
    "an empty system": (np.arange(4.0), "", "is no coordinate system"),
    "a list as system": (np.arange(4.0), np.zeros(7000), "is no coordinate system"),
    "a long list as system": (np.arange(4.0), h5py.Empty("f8"), "is no coordinate system"),
}


@pytest.mark.parametrize("what", PLACES)
def test_bad_coordinates_are_refused(what: str, tmp_path: Path) -> None:
    x, crs, said = PLACES[what]
    cube(tmp_path, x, crs)
    message = refused(tmp_path, spec_of("a.h5", sensor={"array": "x_"}, ground={"sensor": "s"}))
    assert said in message and "a.h5" in message and len(message) < 1000


def zarr2(folder: Path, **more: Any) -> None:
    """A Zarr 2 array written by hand, its chunk a stream of objects."""
    (folder / "a.zarr" / "x").mkdir(parents=True)
    (folder / "a.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    about = {
        "zarr_format": 2,
        "shape": [1, 2, 4, 4],
        "chunks": [1, 2, 4, 4],
        "dtype": "<f4",
        "order": "C",
        "fill_value": 0,
    }
    (folder / "a.zarr" / "x" / ".zarray").write_text(json.dumps({**about, "compressor": None, "filters": None, **more}))
    (folder / "a.zarr" / "x" / ".".join("0000")).write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")


ZARRS: dict[str, tuple[dict[str, Any], str]] = {
    "a huge shape": (
        {"shape": [10**6, 2, 10**6, 10**6], "chunks": [1, 2, 16, 16]},
        "declares 8000000000000000000 bytes",
    ),
    "a huge chunk": ({"chunks": [1, 2, 10**6, 10**6]}, "a chunk of 'x' has 8000000000000 bytes"),
    "a shape below nothing": ({"shape": [-1, 2, 4, 4]}, "a.zarr"),
    "a shape of words": ({"shape": ["many"]}, "a.zarr"),
    "chunks of nothing": ({"chunks": [0, 0, 0, 0]}, "a.zarr"),
    "an unknown type": ({"dtype": "<q99"}, "a.zarr"),
    "an unknown codec": ({"compressor": {"id": "rot13"}}, "a.zarr"),
    "objects": ({"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}}, "can run code"),
    "objects as a filter": ({"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}, "can run code"),
    "objects as numbers": ({"compressor": {"id": "pickle"}}, "a.zarr"),
    "text": ({"dtype": "|S4", "fill_value": ""}, "holds values of type |S4"),
    "a short chunk": ({}, "a.zarr"),
    "a broken chunk": ({"compressor": {"id": "zlib", "level": 1}}, "a.zarr"),
}


@pytest.mark.parametrize("what", ZARRS)
def test_a_bad_zarr_array_is_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the stream of objects would leave its trace
    more, said = ZARRS[what]
    zarr2(tmp_path, **more)
    message = refused(tmp_path, spec_of("a.zarr", sensor={"array": "x"}))
    assert said in message and "a.zarr" in message
    assert not (tmp_path / "run").exists()


def test_a_zarr_group_without_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("[" * 100_000)
    assert "a.zarr" in refused(tmp_path, spec_of("a.zarr", sensor={"array": "x"}))
    zarr.open_group(tmp_path / "b.zarr", mode="w").create_array("x", shape=(1, 2, 4, 4), dtype="f4")
    (tmp_path / "b.zarr" / "x" / "zarr.json").write_text("{}")
    assert "b.zarr" in refused(tmp_path, spec_of("b.zarr", sensor={"array": "x"}))


def tif(path: Path, count: int = 2, side: int = 4, **more: Any) -> None:
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": side,
        "width": side,
        "dtype": "float32",
        "crs": "EPSG:32632",
    }
    profile["transform"] = rasterio.Affine(10, 0, 500_000, 0, -10, 5_500_000)
    with rasterio.open(path, "w", **{**profile, **more}) as file:
        if count * side**2 < 10**7:
            file.write(np.ones((count, side, side), file.dtypes[0]))


def png(path: Path, side: int, interlaced: bool) -> None:
    """A PNG that says more pixels than it has."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, int(interlaced))
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def write_vrt(folder: Path) -> None:
    tif(folder / "b.tif")
    inner = '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Float32" band="1">'
    inner += '<SimpleSource><SourceFilename relativeToVRT="1">b.tif</SourceFilename></SimpleSource>'
    (folder / "a.tif").write_text(inner + "</VRTRasterBand></VRTDataset>")


def write_patched(folder: Path, tag: int, value: int) -> None:
    """Change one entry of a GeoTIFF's directory."""
    tif(folder / "a.tif", tiled=True, blockxsize=16, blockysize=16)
    content = bytearray((folder / "a.tif").read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    for n in range(struct.unpack_from("<H", content, start)[0]):
        at = start + 2 + 12 * n
        if struct.unpack_from("<H", content, at)[0] == tag:
            struct.pack_into("<I", content, at + 8, value)
    (folder / "a.tif").write_bytes(content)


RASTERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a VRT called tif": ("a.tif", write_vrt, "unreadable GeoTIFF"),
    "a huge empty image": (
        "a.tif",
        lambda f: tif(f / "a.tif", 2, 100_000, tiled=True, sparse_ok=True),
        "rows",
    ),
    "one huge tile": ("a.tif", lambda f: write_patched(f, 323, 2**31 - 16), "unreadable GeoTIFF"),
    "12,000 bands": ("a.tif", lambda f: tif(f / "a.tif", 12_000, 30, dtype="uint8", sparse_ok=True), "has 12000 bands"),
    "70,000 bands": ("a.tif", lambda f: write_patched(f, 277, 70_000), "a.tif"),
    "an unknown photometric": ("a.tif", lambda f: write_patched(f, 262, 60_000), ""),
    "no pixels": ("a.tif", lambda f: write_patched(f, 256, 0), "unreadable GeoTIFF"),
    "2^31 columns": ("a.tif", lambda f: write_patched(f, 256, 2**31 - 1), "a.tif"),
    "an unknown packing": ("a.tif", lambda f: write_patched(f, 259, 60_000), "unreadable GeoTIFF"),
    "complex numbers": ("a.tif", lambda f: tif(f / "a.tif", dtype="complex64"), "holds complex64 numbers"),
    "a PNG of 10^9 pixels": ("a.png", lambda f: png(f / "a.png", 60_000, False), "unpack to 10800000000 bytes"),
    "an interlaced PNG": ("a.png", lambda f: png(f / "a.png", 60_000, True), "unpack to 10800000000 bytes"),
    "a PNG cut short": ("a.png", lambda f: png(f / "a.png", 4000, False), "a.png"),
    "no JPEG": ("a.jpg", lambda f: (f / "a.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 1000), "unreadable JPEG"),
    "an empty file": ("a.tif", lambda f: (f / "a.tif").touch(), "is empty"),
    "a folder": ("a.tif", lambda f: (f / "a.tif").mkdir(), "no such file"),
    "a place of nothing": ("a.tif", lambda f: tif(f / "a.tif", transform=rasterio.Affine(0, 0, 5, 0, 0, 5)), "a.tif"),
    "a place of NaN": ("a.tif", lambda f: tif(f / "a.tif", transform=rasterio.Affine(np.nan, 0, 5, 0, 1, 5)), "a.tif"),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("what", RASTERS)
def test_a_bad_raster_is_refused(what: str, tmp_path: Path) -> None:
    name, write, said = RASTERS[what]
    write(tmp_path)
    more: dict[str, Any] = {"ground": {"sensor": "s"}} if "place" in what else {}
    if what == "an unknown photometric":  # says nothing of the numbers
        assert (first(tmp_path, spec_of(name)).images["s"][0] == 1).all()
        return
    message = refused(tmp_path, spec_of(name, **more))
    assert said in message and name in message


def zip_of(folder: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)


def test_a_bad_zip_is_refused(tmp_path: Path) -> None:
    tif(tmp_path / "b.tif")
    zip_of(tmp_path, "b.tif", b"\0" * (300 << 20))
    assert "declares 314572800 bytes" in refused(tmp_path, spec_of("a.zip!b.tif"))
    zip_of(tmp_path, "/abs/b.tif", (tmp_path / "b.tif").read_bytes())
    assert "has no member 'b.tif'" in refused(tmp_path, spec_of("a.zip!b.tif"))
    assert (first(tmp_path, spec_of("a.zip!/abs/b.tif")).images["s"][0] == 1).all()  # a name, never a path
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    assert "not a readable zip" in refused(tmp_path, spec_of("a.zip!b.tif"))
    zip_of(tmp_path, "b.npy", b"")
    assert "only images are read from a zip" in refused(tmp_path, spec_of("a.zip!b.npy"))


def gpkg(path: Path, *orders: str) -> None:
    database = sqlite3.connect(path)
    for order in orders:
        database.execute(order)
    database.commit()
    database.close()


CONTENTS = "create table gpkg_contents (table_name text)"
ENDLESS = "with recursive n(name) as (select 'a' union all select name from n) select name from n"
BIG = "create table t (name text, big blob generated always as (zeroblob(900000000)))"
GEOPACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "no contents": (("create table t (name text)",), "has no table gpkg_contents"),
    "no such table": ((CONTENTS, "insert into gpkg_contents values ('t')"), "has no table t"),
    "two tables": ((CONTENTS, "insert into gpkg_contents values ('t'), ('u')"), "has the tables t, u"),
    "an endless view": (
        (CONTENTS, "insert into gpkg_contents values ('t')", f"create view t as {ENDLESS}"),
        "t is computed",
    ),
    "an endless list of contents": ((f"create view gpkg_contents as {ENDLESS}",), "gpkg_contents is computed"),
    "a computed column": ((CONTENTS, "insert into gpkg_contents values ('t')", BIG), "t is computed"),
    "a virtual table": (
        (CONTENTS, "insert into gpkg_contents values ('t')", "create virtual table t using fts5(name)"),
        "t is computed",
    ),
    "other columns": ((CONTENTS, "insert into gpkg_contents values ('gpkg_contents')"), "needs name; a sample has"),
    "no rows": ((CONTENTS, "insert into gpkg_contents values ('t')", "create table t (name text)"), "has no samples"),
}


@pytest.mark.parametrize("what", GEOPACKAGES)
def test_a_bad_geopackage_is_refused(what: str, tmp_path: Path) -> None:
    orders, said = GEOPACKAGES[what]
    gpkg(tmp_path / "t.gpkg", *orders)
    assert said in refused(tmp_path, spec_of("a.npy", "t.gpkg"))


def test_triggers_of_a_geopackage_rest(tmp_path: Path) -> None:
    orders = (
        CONTENTS,
        "insert into gpkg_contents values ('t')",
        "create table t (name text)",
        "insert into t values ('a')",
    )
    gpkg(tmp_path / "t.gpkg", *orders, "create trigger x after insert on t begin delete from t; end")
    assert read_table(tmp_path / "t.gpkg") == [{"name": "a"}]


TABLES: dict[str, tuple[str, bytes, str]] = {
    "a million columns": ("t.csv", b",".join(b"c%d" % n for n in range(10**6)) + b"\n", "1000000 columns"),
    "two columns of one name": ("t.csv", b"name,name\na,b\n", "two columns are named 'name'"),
    "an open quote": ("t.csv", b'name\n"' + b"x" * 200_000, "not a readable CSV"),
    "a short line": ("t.csv", b"name,on\na,b\nc\n", "line 3"),
    "a long line": ("t.csv", b"name,on\na,b,c\n", "line 2"),
    "UTF-16": ("t.csv", "name\na\n".encode("utf-16"), "not UTF-8"),
    "nothing": ("t.csv", b"", "has no samples"),
    "a nested GeoJSON": ("t.geojson", b"[" * 10**6, "not a readable GeoJSON"),
    "a nested object": ("t.geojson", b'{"features":' * 10**5, "not a readable GeoJSON"),
    "a number of 5,000 digits": ("t.geojson", b'{"features": ' + b"9" * 5000 + b"}", "not a readable GeoJSON"),
    "features that are text": ("t.geojson", b'{"features": "many"}', "not a readable GeoJSON"),
    "properties of nothing": ("t.geojson", b'{"features": [{"properties": null}]}', "not a readable GeoJSON"),
    "no JSON": ("t.geojson", b"\x00\x01", "not a readable GeoJSON"),
    "no SQLite": ("t.gpkg", b"\x00" * 200, "not a readable GeoPackage"),
    "no Parquet": ("t.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "not a readable Parquet"),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_bad_table_is_refused(what: str, tmp_path: Path) -> None:
    name, content, said = TABLES[what]
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path, spec_of("a.npy", name))
    assert said in message and name in message and len(message) < 1000


def test_a_bad_parquet_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({f"c{n}": [1] for n in range(10_001)}), path)
    assert "10001 columns of 1 rows" in refused(tmp_path, spec_of("a.npy", path.name))
    one = pa.array(np.zeros(10**6, np.int8))
    many = pa.chunked_array([one] * 210)
    pq.write_table(pa.table({"name": many}), path, row_group_size=10**7)  # 210 million rows in a small file
    assert path.stat().st_size < 10**6
    assert "1 columns of 210000000 rows" in refused(tmp_path, spec_of("a.npy", path.name))
    content = io.BytesIO()
    pq.write_table(pa.table({"name": ["a", "b"]}), content)
    path.write_bytes(content.getvalue()[:-40])
    assert "not a readable Parquet" in refused(tmp_path, spec_of("a.npy", path.name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", b"\xef\xbb\xbfname,on\r\na,x\r\n"),
        ("quoted.csv", b'name,on\na,"two\nlines, x"\n'),
        ("bom.txt", b"\xef\xbb\xbfa\r\n"),
        ("bom.geojson", b'\xef\xbb\xbf[{"properties": {"name": "a"}}]'),
    ],
)
def test_tables_as_other_programs_write_them_are_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    rows = read_table(tmp_path / name)
    assert [row["name"] for row in rows] == ["a"]


def test_a_deep_geometry_is_no_place(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"type": "Point", "coordinates": [10, 50]}
    for _ in range(300):
        deep = {"type": "GeometryCollection", "geometries": [deep]}
    np.save(tmp_path / "a.npy", IMAGES[:1])
    (tmp_path / "t.geojson").write_text(json.dumps([{"properties": {"name": "a"}, "geometry": deep}]))
    spec = spec_of("a.npy", "t.geojson", samples={"place": "geometry"})
    try:
        assert first(tmp_path, spec).place == (10, 50)
    except DataError as error:
        assert "is no geometry" in str(error)


LEADING_OUT = ["../secret", "..", "x/../../secret", "x/../../../secret", "a/..", "a\0b", "b" * 300, "\ud800"]


@pytest.mark.parametrize("value", LEADING_OUT)
@pytest.mark.parametrize("pattern", ["{name}.npy", "in/{name}/x.npy", "in/x_{name}.npy", "{name}"])
def test_a_value_leads_to_no_file_outside_the_folder(value: str, pattern: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "in" / "x_").mkdir(parents=True)
    np.save(tmp_path / "secret.npy", IMAGES[:1])
    (root / "t.geojson").write_text(json.dumps([{"properties": {"name": value}}]))
    message = refused(root, spec_of(pattern, "t.geojson"))
    whole = pattern.format(name=value)
    if ".." in whole.split("/"):
        assert "leads out of the folder of the dataset" in message and "correct the table" in message
    assert len(message) < 1000


def test_an_absolute_value_leads_nowhere(tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", IMAGES[:1])
    (tmp_path / "list.txt").write_text(f"{tmp_path}/secret\n")
    assert "leads out of the folder" in refused(tmp_path, spec_of("{name}.npy"))
    (tmp_path / "list.txt").write_text(".\n")
    assert "leads out of the folder" in refused(tmp_path, spec_of("{name}{name}/secret.npy"))
    assert "leads out of the folder" in refused(
        tmp_path, spec_of("a.npy", sensor={"dates": {"file": "{name}{name}/days"}})
    )


def test_what_the_spec_itself_writes_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "b.npy", IMAGES[:1])
    (tmp_path / "data" / "list.txt").write_text("b\n")
    for pattern in ("../{name}.npy", f"{tmp_path}/{{name}}.npy", "../*.npy"):
        assert (first(tmp_path / "data", spec_of(pattern)).images["s"][0] == IMAGES[0]).all()
    assert "starts in `data.root`" in refused(tmp_path / "data", spec_of(f"{tmp_path}/*.npy"))


def test_a_scan_from_the_root_of_the_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"samples.scan: .* starts with /"):
        open_dataset(
            spec_of("{name}.npy", samples={"table": None, "scan": f"{tmp_path}/{{name}}.npy"}), tmp_path, ("train",)
        )


SPECS: dict[str, tuple[str, str]] = {
    "a key twice": (
        "sensors:\n  s2: {path: a}\n  s1: {path: b}\n  s2: {path: c}\n",
        r"'s2' is given twice(.|\n)*line 4",
    ),
    "a quoted key twice": ('a: 1\n"a": 2\n', r"'a' is given twice(.|\n)*line 2"),
    "a key twice in braces": ("a: {b: 1, b: 2}\n", r"'b' is given twice(.|\n)*line 1"),
    "no date": ("a: 2019-02-30\n", "a value cannot be read: day is out of range"),
    "5,000 digits": (f"a: {'9' * 5000}\n", "a value cannot be read"),
    "nine of nine of nine": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "its anchors stand for more than 1000000 values",
    ),
    "an anchor in itself": ("a: &a [*a]\n", "nested too deeply"),
    "an object": ("a: !!python/object/apply:os.system ['touch run']\n", "could not determine a constructor"),
    "a list as key": ("[1, 2]: 3\n", "unhashable"),
    "NUL": ("a: \0\n", "not valid YAML"),
}


@pytest.mark.parametrize("what", SPECS)
def test_a_bad_spec_is_refused(what: str, tmp_path: Path) -> None:
    text, said = SPECS[what]
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SpecError, match=said) as caught:
        read_yaml(tmp_path / "spec.yaml")
    assert "spec.yaml: not valid YAML" in str(caught.value) and len(str(caught.value)) < 1000


def test_keys_of_a_merge_may_be_given_again() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\n"
    assert parse_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 4, "y": 3}}


def test_every_refusal_is_one_of_our_errors() -> None:
    assert issubclass(DataError, GeomaestroError) and issubclass(SpecError, GeomaestroError)
