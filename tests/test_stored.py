"""Stored pixels: every format gives the same numbers for the same date, band and pixel, read in any part; what is
damaged or hostile is refused by name.

Axes: t date, c band, h row, w column.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from geomaestro.data.files import stored as module
from geomaestro.data.files.reader import FileSeries
from geomaestro.errors import GeomaestroError
from geomaestro.grid import Window
from tests.filesets import CORNER, CRS, numbers, open_files, sensor, write_csv, write_picture, write_tif

T, C, H, W = 3, 2, 5, 7
TRUTH = numbers(T, C, H, W)
DAYS = ["20200105", "20200210", "20200615"]
Written = dict[str, Any]  # what a sensor's entry says of the files
Writer = Callable[[Path, np.ndarray], Written]


def tif_by_date(folder: Path, x: np.ndarray) -> Written:
    write_tif(folder / "a.tif", x.reshape(-1, *x.shape[2:]))
    return {"path": "{id}.tif"}


def tif_by_band(folder: Path, x: np.ndarray) -> Written:
    write_tif(folder / "a.tif", x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tiled=True, blockxsize=16, blockysize=16)
    return {"path": "{id}.tif", "axes": ["band", "date", "row", "col"]}


def tif_per_date(folder: Path, x: np.ndarray) -> Written:
    for day, image in zip(DAYS, x, strict=True):
        write_tif(folder / f"a_S2_{day}.tif", image, interleave="pixel", compress="deflate")
    return {"path": "{id}_S2_{date}.tif", "dates": {"field": "date"}}


def tif_per_band(folder: Path, x: np.ndarray) -> Written:
    for band in range(x.shape[1]):
        write_tif(folder / f"a/b{band}.tif", x[:, band])
    return {"path": "{id}/{band}.tif"}


def tif_per_date_and_band(folder: Path, x: np.ndarray) -> Written:
    for day, image in zip(DAYS, x, strict=True):
        for band in range(x.shape[1]):
            write_tif(folder / f"a/S2_{day}_x/b{band}.tif", image[band][None])
    return {"path": "{id}/{name}/{band}.tif", "dates": {"field": "name", "part": 1}}


def npy(folder: Path, x: np.ndarray) -> Written:
    np.save(folder / "a.npy", x)
    return {"path": "{id}.npy"}


def npy_turned(folder: Path, x: np.ndarray) -> Written:
    np.save(folder / "a.npy", np.asfortranarray(x.transpose(3, 1, 0, 2)))
    return {"path": "{id}.npy", "axes": ["col", "band", "date", "row"]}


def npy_per_date(folder: Path, x: np.ndarray) -> Written:
    for day, image in zip(DAYS, x, strict=True):
        np.save(folder / f"a_{day}.npy", image)
    return {"path": "{id}_{date}.npy", "dates": {"field": "date"}}


def npz(folder: Path, x: np.ndarray) -> Written:
    np.savez_compressed(folder / "a.npz", pixels=x, other=np.zeros(3))
    return {"path": "{id}.npz", "array": "pixels"}


def hdf5(folder: Path, x: np.ndarray) -> Written:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("deep/pixels", data=x, chunks=(1, 1, 3, 4), compression="gzip")
    return {"path": "{id}.h5", "array": "deep/pixels"}


def netcdf(folder: Path, x: np.ndarray) -> Written:
    """A variable per band, with a time axis, coordinates and a coordinate system, as xarray writes them."""
    with h5py.File(folder / "a.nc", "w") as file:
        days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in DAYS]
        file["time"] = np.asarray([(day - np.datetime64("1990-01-01")).astype(int) for day in days])
        file["time"].attrs["units"] = "days since 1990-01-01"
        file["x"] = CORNER[0] + 10 * (np.arange(x.shape[3]) + 0.5)
        file["y"] = CORNER[1] - 10 * (np.arange(x.shape[2]) + 0.5)
        file["spatial_ref"] = 0
        file["spatial_ref"].attrs["crs_wkt"] = CRS
        for name in ("time", "x", "y"):
            file[name].make_scale(name)
        for band in range(x.shape[1]):
            data = file.create_dataset(f"band {band}", data=x[:, band])
            for axis, name in enumerate(("time", "y", "x")):
                data.dims[axis].attach_scale(file[name])
    names = [f"band {band}" for band in range(x.shape[1])]
    return {"path": "{id}.nc", "array": names, "axes": ["date", "row", "col"], "dates": {"array": "time"}}


def zarr_folder(folder: Path, x: np.ndarray) -> Written:
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(folder / "a.zarr"), mode="w").create_array("pixels", data=x, chunks=(1, 2, 3, 4))
    return {"path": "{id}.zarr", "array": "pixels"}


def zarr_in_a_zip(folder: Path, x: np.ndarray) -> Written:
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(folder / "a.zarr.zip", mode="w")
    zarr.open_group(store, mode="w").create_array("pixels", data=x, chunks=(1, 2, 3, 4))
    store.close()
    return {"path": "{id}.zarr.zip", "array": "pixels"}


WRITERS: list[Writer] = [
    *(tif_by_date, tif_by_band, tif_per_date, tif_per_band, tif_per_date_and_band, npy, npy_turned, npy_per_date),
    *(npz, hdf5, netcdf, zarr_folder, zarr_in_a_zip),
]
every_format = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def write_table(folder: Path, dates: int = T) -> None:
    write_csv(folder / "table.csv", [{"id": "a", "days": json.dumps(DAYS[:dates])}])


@contextmanager
def opened(
    folder: Path, written: Written, *, bands: int = C, px: tuple[int, int] = (H, W), **changes: Any
) -> Iterator[FileSeries]:
    """The series of the only sample, while its files are open; its dates are in the table unless the files tell."""
    if not (folder / "table.csv").exists():
        write_table(folder)
    values = {"dates": {"column": "days"}, **written, **changes}
    entry = sensor(values.pop("path"), bands, px, T, **values)
    with open_files(folder, sensors={"x": entry}).scenes.scene(0) as scene:
        series = scene.series["x"]
        assert isinstance(series, FileSeries)
        yield series


def refused(folder: Path, written: Written, **changes: Any) -> str:
    """What is said when all of it is read."""
    with pytest.raises(GeomaestroError) as caught, opened(folder, written, **changes) as series:
        height, width = series.shape[2:]
        window = Window(0, 0, height, width)
        assert series.read(None, window).shape == series.shape
        series.state(window)
    return str(caught.value)


# ---- the same numbers ----


@every_format
def test_every_format_gives_the_same_numbers_and_dates(tmp_path: Path, write: Writer) -> None:
    with opened(tmp_path, write(tmp_path, TRUTH)) as series:
        assert series.shape == (T, C, H, W) and series.stored.dtype == np.uint16
        assert (series.read(None, Window(0, 0, H, W)) == TRUTH).all()
        assert series.days.tolist() == [[2020, 5, 0], [2020, 41, 0], [2020, 167, 0]]
        assert series.state(Window(0, 0, H, W)) is None


@every_format
def test_any_dates_and_window_are_a_slice_of_the_whole(tmp_path: Path, write: Writer) -> None:
    written = write(tmp_path, TRUTH)
    rng = np.random.default_rng(0)
    for _ in range(6):
        height, width = int(rng.integers(1, H + 1)), int(rng.integers(1, W + 1))
        window = Window(int(rng.integers(0, H - height + 1)), int(rng.integers(0, W - width + 1)), height, width)
        dates = rng.permutation(T)[: rng.integers(1, T + 1)]
        with opened(tmp_path, written) as series:
            rows, cols = window.slices
            assert (series.read(dates, window) == TRUTH[dates][:, :, rows, cols]).all()
            assert (series.read(None, window) == TRUTH[:, :, rows, cols]).all()
            assert (series.read(dates, window) == TRUTH[dates][:, :, rows, cols]).all()  # from what was read already


@every_format
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_numbers_keep_their_type(tmp_path: Path, write: Writer, dtype: Any) -> None:
    truth = numbers(T, C, H, W, dtype=dtype)
    with opened(tmp_path, write(tmp_path, truth)) as series:
        x = series.read(None, Window(0, 0, H, W))
        assert x.dtype == dtype and (x == truth).all()


@every_format
def test_a_part_of_the_image_is_as_if_it_were_the_whole(tmp_path: Path, write: Writer) -> None:
    with opened(tmp_path, write(tmp_path, TRUTH), px=(3, 4), part=[1, 2, 3, 4]) as series:
        assert series.shape == (T, C, 3, 4)
        assert (series.read(None, Window(0, 0, 3, 4)) == TRUTH[:, :, 1:4, 2:6]).all()
        assert (series.read(np.asarray([2]), Window(1, 1, 2, 2)) == TRUTH[2:, :, 2:4, 3:5]).all()


@every_format
def test_a_part_that_leaves_the_image_is_refused_by_name(tmp_path: Path, write: Writer) -> None:
    text = refused(tmp_path, write(tmp_path, TRUTH), px=(3, 4), part=[3, 2, 3, 4])
    assert text.startswith(str(tmp_path / "a"))
    assert text.endswith("is 5 x 7 pixels, but rows to 6 and columns to 6 are needed")


@pytest.mark.parametrize("write", [tif_by_date, tif_per_date, npy, npy_turned, npz, hdf5, zarr_folder])
@pytest.mark.parametrize("pick", [[2, 0], [1, 2], [2], [0, 1, 2]])
def test_bands_are_picked_in_the_order_asked_for(tmp_path: Path, write: Writer, pick: list[int]) -> None:
    truth = numbers(T, 3, H, W)
    written = write(tmp_path, truth)
    for _ in range(2):
        with opened(tmp_path, written, bands=len(pick), pick=pick) as series:
            assert (series.read(None, Window(0, 0, H, W)) == truth[:, pick]).all()
            assert (series.read(np.asarray([1]), Window(1, 2, 2, 3)) == truth[1:2, pick, 1:3, 2:5]).all()


@pytest.mark.parametrize("write", [tif_by_date, npy, hdf5])
def test_a_band_that_is_not_there_is_refused_by_name(tmp_path: Path, write: Writer) -> None:
    text = refused(tmp_path, write(tmp_path, TRUTH), pick=[0, 2])
    assert text.startswith(str(tmp_path / "a.")) and "`pick` takes band 2, but there are 2" in text


def test_fewer_axes_mean_one_entry(tmp_path: Path) -> None:
    write_table(tmp_path, 1)
    for axes, x in (
        (["row", "col"], TRUTH[0, 0]),
        (["band", "row", "col"], TRUTH[0]),
        (["date", "row", "col"], TRUTH[:1, 0]),
        ([], TRUTH[0, 0]),  # two axes are rows and columns, three begin with the band, four with the date
        ([], TRUTH[0]),
        ([], TRUTH[:1]),
    ):
        np.save(tmp_path / "a.npy", x)
        bands = C if "band" in axes or (not axes and x.ndim > 2) else 1
        with opened(tmp_path, {"path": "{id}.npy", "axes": axes}, bands=bands) as series:
            assert (series.read(None, Window(0, 0, H, W)) == TRUTH[:1, :bands]).all()
    np.save(tmp_path / "a.npy", TRUTH[0, :, 0, 0])
    with opened(tmp_path, {"path": "{id}.npy"}, px=(1, 1)) as series:
        assert series.read(None, Window(0, 0, 1, 1)).ravel().tolist() == TRUTH[0, :, 0, 0].tolist()


def test_coarse_bands_are_repeated_in_the_pixels_of_the_finest(tmp_path: Path) -> None:
    fine, half, third = numbers(1, 6, 12), numbers(1, 3, 6, seed=1), numbers(1, 2, 4, seed=2)
    for name, x in (("b0", half), ("b1", fine), ("b2", third)):
        write_tif(tmp_path / f"a/{name}.tif", x)
    write_table(tmp_path, 1)
    expected = np.concatenate([half.repeat(2, 1).repeat(2, 2), fine, third.repeat(3, 1).repeat(3, 2)])
    with opened(tmp_path, {"path": "{id}/{band}.tif"}, bands=3, px=(6, 12)) as series:
        assert (series.read(None, Window(0, 0, 6, 12))[0] == expected).all()
        assert (series.read(None, Window(1, 3, 4, 5))[0] == expected[:, 1:5, 3:8]).all()
    write_tif(tmp_path / "a/b2.tif", numbers(1, 4, 4))
    assert refused(tmp_path, {"path": "{id}/{band}.tif"}, bands=3, px=(6, 12)) == (
        f"{tmp_path / 'a/b2.tif'}: is 4 x 4 pixels, which does not divide the 6 x 12 of the finest band of its sample"
    )


def test_pictures_in_a_zip_are_read_as_those_in_a_folder(tmp_path: Path) -> None:
    truth = numbers(3, H, W, dtype=np.uint8)
    write_picture(tmp_path / "a.png", truth, "PNG")
    write_picture(tmp_path / "a.jpg", np.full((3, 16, 16), 90, np.uint8), "JPEG", quality=100)
    write_table(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.write(tmp_path / "a.png", "2750/a.png")
        file.write(tmp_path / "a.jpg", "2750/a.jpg")
    for path in ("{id}.png", "all.zip!2750/{id}.png"):
        with opened(tmp_path, {"path": path}, bands=3) as series:
            assert (series.read(None, Window(0, 0, H, W))[0] == truth).all()
            assert (series.read(None, Window(1, 2, 2, 3))[0] == truth[:, 1:3, 2:5]).all()
            assert series.stored.grid() is None
        with opened(tmp_path, {"path": path}, bands=2, pick=[2, 0]) as series:
            assert (series.read(None, Window(0, 0, H, W))[0] == truth[[2, 0]]).all()
    for path in ("{id}.jpg", "all.zip!2750/{id}.jpg"):
        with opened(tmp_path, {"path": path}, bands=3, px=(16, 16)) as series:
            x = series.read(None, Window(0, 0, 16, 16)).astype(int)
            assert np.abs(x - 90).max() <= 2  # a flat picture loses nothing to speak of


def test_a_sensor_whose_tif_is_in_a_zip_keeps_its_place(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", TRUTH[0])
    write_table(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "a.tif", "a.tif")
    with opened(tmp_path, {"path": "all.zip!{id}.tif"}) as series:
        grid = series.stored.grid()
        assert (series.read(None, Window(0, 0, H, W))[0] == TRUTH[0]).all()
        assert grid is not None and grid.transform[2::3] == CORNER


@pytest.mark.parametrize("write", [tif_by_date, tif_per_date, netcdf])
def test_the_place_of_a_part_is_that_of_its_corner(tmp_path: Path, write: Writer) -> None:
    with opened(tmp_path, write(tmp_path, TRUTH), px=(3, 4), part=[1, 2, 3, 4]) as series:
        grid = series.stored.grid()
        assert grid is not None and (grid.height, grid.width) == (3, 4)
        west, south, east, north = grid.bounds
        assert (west, north) == pytest.approx((CORNER[0] + 20, CORNER[1] - 10))
        assert (east, south) == pytest.approx((CORNER[0] + 60, CORNER[1] - 40))


# ---- what is not measured by other means than a number ----


def test_an_alpha_band_says_what_was_not_measured_unless_it_is_taken(tmp_path: Path) -> None:
    alpha = np.full((1, H, W), 255, np.uint16)
    alpha[0, 1, 2:4] = 0
    write_tif(tmp_path / "a.tif", np.concatenate([TRUTH[0], alpha]), alpha=True)
    write_table(tmp_path, 1)
    with opened(tmp_path, {"path": "{id}.tif", "pick": [0, 1]}) as series:
        state = series.state(Window(0, 0, H, W))
        assert state is not None and (state[0] == (alpha[0] == 0)).all()
        assert series.state(Window(2, 0, 3, W)) is None
        part = series.state(Window(1, 3, 2, 2))
        assert part is not None and part.tolist() == [[[1, 0], [0, 0]]]
    with opened(tmp_path, {"path": "{id}.tif"}, bands=3) as series:  # near infrared lies in it in many files
        assert series.state(Window(0, 0, H, W)) is None


# ---- what is wrong with a file ----


def first_file(folder: Path) -> Path:
    """The first file of the sample that holds pixels."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".csv", ".json")]
    return files[0]


@every_format
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, write: Writer, keep: float) -> None:
    written = write(tmp_path, numbers(T, C, 40, 50))
    path = first_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    text = refused(tmp_path, written, px=(40, 50))
    named = tmp_path / "a.zarr" if write is zarr_folder else path
    assert text.startswith(f"{named}: "), text


@every_format
def test_a_missing_file_is_refused_by_name(tmp_path: Path, write: Writer) -> None:
    written = write(tmp_path, TRUTH)
    if write is zarr_folder:
        (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        path.unlink()
    text = refused(tmp_path, written)
    assert "no such file" in text and str(tmp_path) in text and ("'a'" in text or str(tmp_path / "a") in text)


@pytest.mark.parametrize("write", [npz, hdf5, zarr_folder])
def test_an_array_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, write: Writer) -> None:
    text = refused(tmp_path, write(tmp_path, TRUTH), array="pixel")
    assert text.startswith(str(tmp_path / "a.")) and re.search(r"has no (array|dataset) '?pixel'?; it has", text)


@pytest.mark.parametrize("write", [npz, hdf5, zarr_folder])
def test_a_file_of_several_arrays_needs_a_name(tmp_path: Path, write: Writer) -> None:
    text = refused(tmp_path, write(tmp_path, TRUTH), array=None)
    assert text.startswith(str(tmp_path / "a.")) and text.endswith("holds several arrays; name one with `array`")


def test_axes_that_do_not_fit_say_both(tmp_path: Path) -> None:
    written = npy(tmp_path, TRUTH)
    assert refused(tmp_path, written, axes=["date", "row", "col"]) == (
        f"{tmp_path / 'a.npy'}: array has 4 axes (3, 2, 5, 7), `axes` names 3 (date, row, col)"
    )
    np.save(tmp_path / "a.npy", TRUTH[None])
    assert refused(tmp_path, written) == (
        f"{tmp_path / 'a.npy'}: array has 5 axes (1, 3, 2, 5, 7), and `axes` does not name them"
    )


def test_dates_and_images_that_differ_in_number_say_both(tmp_path: Path) -> None:
    write_table(tmp_path, 2)
    assert "a.npy: sensor 'x' has 3 images" in refused(tmp_path, npy(tmp_path, TRUTH))
    write_tif(tmp_path / "a.tif", numbers(5, H, W))
    assert refused(tmp_path, {"path": "{id}.tif"}) == (
        f"{tmp_path / 'a.tif'}: 5 bands are not a whole number for each of 2 dates"
    )


def test_images_of_one_sample_that_differ_in_size_are_named(tmp_path: Path) -> None:
    written = tif_per_date(tmp_path, TRUTH)
    write_tif(tmp_path / f"a_S2_{DAYS[1]}.tif", numbers(C, H, W + 1))
    assert refused(tmp_path, written) == (
        f"{tmp_path / f'a_S2_{DAYS[1]}.tif'}: has (bands, rows, columns) (2, 5, 8), but a_S2_{DAYS[0]}.tif of the same "
        "sample (2, 5, 7)"
    )


def test_dates_that_lack_a_band_are_refused_with_the_counts(tmp_path: Path) -> None:
    written = tif_per_date_and_band(tmp_path, TRUTH)
    (tmp_path / f"a/S2_{DAYS[1]}_x/b1.tif").unlink()
    assert "bands differ in their number of files: {'b0': 3, 'b1': 2}" in refused(tmp_path, written)


def test_bands_of_different_dates_are_refused(tmp_path: Path) -> None:
    written = tif_per_date_and_band(tmp_path, TRUTH)
    (tmp_path / "a/S2_20200211_x").mkdir()
    (tmp_path / f"a/S2_{DAYS[1]}_x/b1.tif").rename(tmp_path / "a/S2_20200211_x/b1.tif")
    text = refused(tmp_path, written)
    assert f"a/S2_{DAYS[1]}_x/b0.tif" in text and "a/S2_20200211_x/b1.tif" in text


def test_several_files_where_one_is_meant_are_refused(tmp_path: Path) -> None:
    write_tif(tmp_path / "a_1.tif", TRUTH[0])
    write_tif(tmp_path / "a_2.tif", TRUTH[0])
    write_table(tmp_path, 1)
    assert refused(tmp_path, {"path": "{id}_*.tif"}) == (
        f"{tmp_path / 'a_1.tif'}: 2 files fit '{{id}}_*.tif'; name them apart, or say in `dates.field` which field of "
        "the path is their date"
    )


def test_objects_in_an_npy_are_never_unpacked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asarray([{"a": 1}] * 4, object))
    assert refused(tmp_path, {"path": "{id}.npy"}).startswith(f"{tmp_path / 'a.npy'}: not a readable npy file")


def test_a_member_that_is_not_in_the_zip_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("x.png", b"")
    write_table(tmp_path, 1)
    written = {"path": "all.zip!{id}.png"}
    assert refused(tmp_path, written).startswith(f"{tmp_path / 'all.zip'}: has no member 'a.png'")
    for content, said in ((b"", "unreadable PNG"), (b"\x89PNG\r\n", "unreadable PNG")):
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
            file.writestr("a.png", content)
        assert refused(tmp_path, written).startswith(f"{tmp_path / 'all.zip'}!a.png: "), said
    (tmp_path / "all.zip").write_bytes((tmp_path / "all.zip").read_bytes()[:40])
    assert refused(tmp_path, written).startswith(f"{tmp_path / 'all.zip'}: not a readable zip")


def test_only_images_are_read_from_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("a.npy", b"")
    text = refused(tmp_path, {"path": "all.zip!{id}.npy"})
    assert text == f"{tmp_path / 'all.zip'}!a.npy: only images are read from a zip; unpack it"


# ---- declared sizes are checked before memory is given ----

HUGE = (T, C, 10**6, 10**6)


def huge_hdf5(folder: Path) -> Written:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("pixels", HUGE, np.uint16, chunks=(1, 1, 64, 64))
    return {"path": "{id}.h5", "array": "pixels"}


def huge_zarr(folder: Path) -> Written:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "a.zarr"), mode="w")
    group.create_array("pixels", shape=HUGE, dtype="uint16", chunks=(1, 1, 64, 64))
    return {"path": "{id}.zarr", "array": "pixels"}


def huge_npy(folder: Path) -> Written:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": HUGE})
    (folder / "a.npy").write_bytes(header.getvalue() + bytes(100))
    return {"path": "{id}.npy"}


def huge_npz(folder: Path) -> Written:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": HUGE})
    with zipfile.ZipFile(folder / "a.npz", "w") as file:
        file.writestr("pixels.npy", header.getvalue() + bytes(100))
    return {"path": "{id}.npz", "array": "pixels"}


def huge_tif(folder: Path) -> Written:
    write_tif(
        folder / "a.tif",
        np.zeros((T * C, 16, 16), np.uint16),
        tiled=True, blockxsize=16, blockysize=16, sparse_ok=True,
    )  # fmt: skip
    content = bytearray((folder / "a.tif").read_bytes())
    entries = struct.unpack_from("<H", content, struct.unpack_from("<I", content, 4)[0])[0]
    start = struct.unpack_from("<I", content, 4)[0] + 2
    for number in range(entries):
        tag, _ = struct.unpack_from("<HH", content, start + 12 * number)
        if tag in (256, 257):  # width and height
            struct.pack_into("<HHII", content, start + 12 * number, tag, 4, 1, 10**6)
    (folder / "a.tif").write_bytes(bytes(content))
    return {"path": "{id}.tif"}


def huge_png(folder: Path) -> Written:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10**6, 10**6, 16, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(content)
    return {"path": "{id}.png"}


@pytest.mark.parametrize("write", [huge_hdf5, huge_zarr, huge_npy, huge_npz, huge_tif, huge_png])
def test_a_hostile_declared_size_is_refused_before_memory_is_given(
    tmp_path: Path, write: Callable[[Path], Written]
) -> None:
    import tracemalloc

    written = write(tmp_path)
    write_table(tmp_path, 1 if write is huge_png else T)
    tracemalloc.start()
    text = refused(tmp_path, written, bands=3 if write is huge_png else C, px=(10**6, 10**6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.startswith(str(tmp_path / "a.")), text
    assert peak < 50e6


def test_a_member_of_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(10**6))
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 10**5)
    text = refused(tmp_path, {"path": "all.zip!{id}.png"})
    assert text.startswith(f"{tmp_path / 'all.zip'}: declares 1000000 bytes") and "more than the 100000" in text
