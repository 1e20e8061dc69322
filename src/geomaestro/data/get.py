"""Published datasets from the Hugging Face hub: listed, fetched with resume, verified, unpacked safely.

Own range requests, since `hf_hub_download` throws a partial file away when it is interrupted (read in huggingface_hub
2.4). A file has a hidden name with its digest until that digest is right, and is then noted in a ledger: a stop at any
moment loses nothing, and a second `get` reads no file again that has kept its size and time.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_IFMT, S_IFREG
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from geomaestro.config import Strict, check
from geomaestro.errors import DataError, RunError
from geomaestro.runs import lock, write_atomically

LEDGER = ".geomaestro-get.json"
CHUNK_BYTES = 1 << 20
PIECE_BYTES = 8 << 30  # assumed; the hub refuses a request of more than 50 GB, and its signed links expire
SAVED_BYTES = 64 << 20  # assumed; after a kill, smaller files may have to be read once more
TIMEOUT_S = 60.0  # assumed; for one read, not for a file
RETRIES = 7  # assumed; in a row without a new byte: their waits outlast the hub's rate limit of five minutes
RETRIED = (408, 429, 500, 502, 503, 504)
ARCHIVE = re.compile(r"(.+\.(?:zip|tar|tar\.gz|tgz))(?:\.\d{3})?")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError)

Report = Callable[[str, str, int, int], None]
"""Called with the stage ("check", "download" or "unpack"), a name, and the bytes done and in all of that stage."""


class Download(Strict):
    """Where a dataset is published on the Hugging Face hub.

    `files` are patterns of the files wanted, all if empty; `*` also matches `/`. `bytes` is about how much disk the
    dataset takes in the end, archives and what is unpacked of them together.
    """

    hub: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
    revision: str = Field(default="main", min_length=1)
    repo: Literal["dataset", "model"] = "dataset"
    files: tuple[str, ...] = ()
    unpack: bool = True
    bytes: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class _Wanted:
    """A file to fetch; `digest` is "sha256:..." of a large file, "git-sha1:..." of a small one."""

    path: str
    size: int
    digest: str


class _Ledger(BaseModel):
    """Digest, size and time of each verified file; digest of each unpacked archive, empty while it is unpacked."""

    files: dict[str, tuple[str, int, int]] = {}
    unpacked: dict[str, str] = {}


def get_dataset(
    wanted: Download | str, out: Path, *, endpoint: str | None = None, report: Report = lambda *_: None
) -> list[Path]:
    """Download a dataset by its `Download`, or all of a hub dataset by "owner/name" or "owner/name@revision"."""
    if isinstance(wanted, str):
        hub, _, revision = wanted.partition("@")
        wanted = check(Download, {"hub": hub, "revision": revision or "main"}, f"{wanted!r} as owner/name@revision")
    return get(wanted, out, endpoint=endpoint, report=report)


def get(download: Download, out: Path, *, endpoint: str | None = None, report: Report = lambda *_: None) -> list[Path]:
    """Fetch, verify and unpack into `out`; gives the files, and for each archive the folder of what was in it.

    `a/b.zip` is unpacked into the folder `a/b`; where all of it lies in a folder `b`, that is not repeated.

    Raises:
        DataError: if the hub or the disk refuses, a file is wrong twice, or an archive is damaged or not safe.
    """
    from huggingface_hub import hf_hub_url

    with _explained(download, endpoint), ExitStack() as stack:
        commit, wanted = _list_files(download, endpoint)
        out.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(lock(out))
        except RunError:
            raise DataError(f"{out}: another process downloads into it; wait for it, or choose another OUT") from None
        ledger = _read_ledger(out)
        stack.callback(_save, out, ledger)
        archives = _archives(wanted) if download.unpack else {}
        missing = _missing(wanted, archives, out, ledger, report)
        _check_space(download, wanted, missing, out)
        url = partial(hf_hub_url, download.hub, repo_type=download.repo, revision=commit, endpoint=endpoint)
        _fetch_all(url, missing, out, ledger, report)
        for name, parts in archives.items():
            _unpack(name, parts, out, ledger, report)
        packed = {part for parts in archives.values() for part in parts}
        return [out / f.path for f in wanted if f not in packed] + [_folder(out, name) for name in archives]


def _list_files(download: Download, endpoint: str | None) -> tuple[str, list[_Wanted]]:
    """The commit that `revision` names now, and the wanted files of it."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api, kind = HfApi(endpoint=endpoint), download.repo
    commit = api.repo_info(download.hub, revision=download.revision, repo_type=kind, timeout=TIMEOUT_S).sha
    tree = api.list_repo_tree(download.hub, recursive=True, revision=commit, repo_type=kind)
    found = [file for file in tree if isinstance(file, RepoFile)]
    for pattern in download.files:
        if not any(fnmatch.fnmatchcase(file.path, pattern) for file in found):
            some = ", ".join(file.path for file in found[:8])
            raise DataError(f"{download.hub}: none of its {len(found)} files matches {pattern!r}; it holds {some}")
    wanted = []
    for file in found:
        if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in download.files or ("*",)):
            digest = f"sha256:{file.lfs.sha256}" if file.lfs else f"git-sha1:{file.blob_id}"
            wanted.append(_Wanted(_checked_name(file.path, download.hub), file.size, digest))
    return commit or download.revision, wanted


def _checked_name(name: str, where: str) -> str:
    """The name of a file or archive member; DataError if it could lead out of its folder."""
    parts = name.split("/")
    if name.startswith("/") or {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or ":" in parts[0]:
        raise DataError(f"{where}: the file name {name!r} could lead out of its folder; don't trust what holds it")
    return name


def _read_ledger(out: Path) -> _Ledger:
    try:
        return _Ledger.model_validate_json((out / LEDGER).read_bytes())
    except (FileNotFoundError, ValidationError):
        return _Ledger()  # a damaged ledger costs reading the files once more


def _save(out: Path, ledger: _Ledger) -> None:
    write_atomically(out / LEDGER, ledger.model_dump_json(indent=1).encode())


def _stamp(out: Path, file: _Wanted) -> tuple[str, int, int]:
    status = (out / file.path).stat()
    return file.digest, status.st_size, status.st_mtime_ns


def _digest_of(path: Path, like: _Wanted) -> str:
    """SHA-256 of the content, or git's SHA-1 of "blob", the size, a zero byte and the content; as `like` has it."""
    kind, size = like.digest.partition(":")[0], path.stat().st_size
    start = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, lambda: start).hexdigest()}"


def _missing(
    wanted: Sequence[_Wanted], archives: dict[str, list[_Wanted]], out: Path, ledger: _Ledger, report: Report
) -> list[_Wanted]:
    """The files that are not there as published; an archive may be deleted once it is unpacked."""
    done = {file for name, parts in archives.items() if _unpacked(name, parts, out, ledger) for file in parts}
    total, before, missing = sum(file.size for file in wanted), 0, []
    for file in wanted:
        path = out / file.path
        there, known = path.is_file(), ledger.files.get(file.path)
        if not (there and known == _stamp(out, file)) and not (file in done and not there):
            if there and path.stat().st_size == file.size and _digest_of(path, file) == file.digest:
                ledger.files[file.path] = _stamp(out, file)
            elif path.exists() and known is None:
                raise DataError(f"{path}: is not the published file; move it away, or choose another OUT")
            else:
                missing.append(file)
        before += file.size
        report("check", file.path, before, total)
    return missing


def _check_space(download: Download, wanted: Sequence[_Wanted], missing: Sequence[_Wanted], out: Path) -> None:
    kept = sum(path.stat().st_size for path in (_partial(out, file) for file in missing) if path.is_file())
    to_come = sum(file.size for file in missing) - kept
    present = sum(file.size for file in wanted) - to_come
    _need(out, max(to_come, (download.bytes or 0) - present) if missing else 0, download.hub)


def _need(out: Path, need: int, what: str) -> None:
    """Raise DataError if the disk of `out` has no room for `need` bytes."""
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(f"{out}: {what} needs {need / 1e9:.2f} GB more, but {free / 1e9:.2f} GB are free; make room")


def _partial(out: Path, file: _Wanted) -> Path:
    return (out / file.path).with_name(f".{Path(file.path).name[:150]}.{file.digest[-16:]}.partial")


def _fetch_all(url: Callable[..., str], missing: Sequence[_Wanted], out: Path, ledger: _Ledger, report: Report) -> None:
    total, before = sum(file.size for file in missing), 0
    for file in missing:
        (out / file.path).parent.mkdir(parents=True, exist_ok=True)

        def step(done: int, path: str = file.path, before: int = before) -> None:
            report("download", path, before + done, total)

        _fetch(url(file.path), file, out, step)
        ledger.files[file.path] = _stamp(out, file)
        if file.size >= SAVED_BYTES:
            _save(out, ledger)
        before += file.size


def _fetch(url: str, wanted: _Wanted, out: Path, step: Callable[[int], None]) -> None:
    path, got, size = _partial(out, wanted), "", 0
    for _ in range(2):
        _complete(url, wanted, path, step)
        got, size = _digest_of(path, wanted), path.stat().st_size
        if got == wanted.digest and size == wanted.size:
            os.replace(path, out / wanted.path)
            return
        path.unlink()
    raise DataError(
        f"{wanted.path}: fetched twice, and wrong twice: expected {wanted.size} bytes of {wanted.digest}, got {size} "
        f"of {got}; try again later"
    )


def _complete(url: str, wanted: _Wanted, path: Path, step: Callable[[int], None]) -> None:
    """Receive the rest of a file, however often the connection breaks, as long as new bytes come."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    failures, said = 0, "no bytes came"
    with path.open("ab") as file:
        best = file.tell()
        while file.tell() < wanted.size:
            try:
                _receive(url, wanted, file, step)
            except HfHubHTTPError as error:
                if error.response.status_code == 416:
                    break  # the file is shorter than it was listed; its digest will tell
                if error.response.status_code not in RETRIED:
                    raise
                said = f"HTTP {error.response.status_code}"
            except HTTPError as error:
                said = str(error) or type(error).__name__
            failures = 0 if file.tell() > best else failures + 1
            best = max(best, file.tell())
            if failures > RETRIES:
                raise DataError(
                    f"{wanted.path}: the connection broke {failures} times in a row ({said}); {best} of {wanted.size} "
                    "bytes are kept: run the same command again to go on"
                )
            time.sleep(min(4.0**failures, 60.0) if failures else 0.0)
        file.flush()
        os.fsync(file.fileno())


def _receive(url: str, wanted: _Wanted, file: Any, step: Callable[[int], None]) -> None:
    """Receive one piece, from where the partial file ends; a server that knows no ranges makes it begin again."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    start, end = file.tell(), min(file.tell() + PIECE_BYTES, wanted.size)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    if (start, end) == (0, wanted.size):
        del headers["Range"]
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if start and response.status_code == 200:
            file.seek(0)
            file.truncate()
        for chunk in response.iter_bytes():
            file.write(chunk)
            step(min(file.tell(), wanted.size))
            if file.tell() > wanted.size:
                return  # longer than it was listed; its digest will tell


def _archives(wanted: Sequence[_Wanted]) -> dict[str, list[_Wanted]]:
    """Name of each archive -> the files it consists of, in order: one, or the parts `.001`, `.002`, ..."""
    archives: dict[str, list[_Wanted]] = {}
    for file in sorted(wanted, key=lambda file: file.path):
        if match := ARCHIVE.fullmatch(file.path):
            archives.setdefault(match[1], []).append(file)
        elif re.fullmatch(r".+\.z\d\d", file.path):
            join = "join it with `zip -s 0 NAME.zip --out whole.zip`, and unzip that"
            raise DataError(f"{file.path}: a split zip can't be unpacked here; set `unpack: false`, {join}")
    for name, parts in archives.items():
        first = int(parts[0].path[-3:]) if parts[0].path != name else 0
        if first > 1 or [p.path for p in parts[1:]] != [f"{name}.{first + i:03d}" for i in range(1, len(parts))]:
            raise DataError(f"{name}: some parts are wanted, and others not; widen `files`, or set `unpack: false`")
        if inside := [file.path for file in wanted if file.path.startswith(f"{_folder(Path(), name)}/")]:
            raise DataError(f"{name}: would be unpacked over {inside[0]}; narrow `files`, or set `unpack: false`")
    return archives


def _folder(out: Path, name: str) -> Path:
    return out / re.sub(r"\.(zip|tar|tar\.gz|tgz)$", "", name)


def _unpacked(name: str, parts: Sequence[_Wanted], out: Path, ledger: _Ledger) -> bool:
    return ledger.unpacked.get(name) == " ".join(part.digest for part in parts) and _folder(out, name).is_dir()


def _unpack(name: str, parts: Sequence[_Wanted], out: Path, ledger: _Ledger, report: Report) -> None:
    """Unpack into a hidden folder beside, then rename it: the folder is there whole or not at all."""
    target = _folder(out, name)
    if _unpacked(name, parts, out, ledger):
        return
    if target.exists() and name not in ledger.unpacked:
        raise DataError(f"{target}: is there, and not unpacked from {name}; move it away, or set `unpack: false`")
    hidden = target.with_name(f".{target.name[:150]}.unpacking")
    shutil.rmtree(hidden, ignore_errors=True)
    ledger.unpacked[name] = ""
    _save(out, ledger)
    try:
        (hidden / target.name).mkdir(parents=True)
        path = out / parts[0].path if len(parts) == 1 else _joined(parts, out, hidden / "archive")
        _extract(path, hidden / target.name, name, report)
        inside = list((hidden / target.name).iterdir())
        only = inside[0] if [p.name for p in inside if p.is_dir()] == [target.name] and len(inside) == 1 else None
        if target.exists():
            os.replace(target, hidden / "old")
        os.replace(only or hidden / target.name, target)
    except DAMAGED as error:
        raise DataError(f"{out / name}: can't be unpacked ({error}); set `unpack: false` to do it by hand") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    ledger.unpacked[name] = " ".join(part.digest for part in parts)
    _save(out, ledger)


def _joined(parts: Sequence[_Wanted], out: Path, path: Path) -> Path:
    _need(out, sum(part.size for part in parts), path.name)
    with path.open("wb") as whole:
        for part in parts:
            with (out / part.path).open("rb") as file:
                shutil.copyfileobj(file, whole, CHUNK_BYTES)
    return path


def _extract(path: Path, into: Path, name: str, report: Report) -> None:
    """Write the plain files of an archive; anything but plain files and folders is refused, not followed."""
    with zipfile.ZipFile(path) if name.endswith(".zip") else tarfile.open(path) as box:
        members: list[tuple[Any, str, int, bool]]
        if isinstance(box, zipfile.ZipFile):
            files = [member for member in box.infolist() if not member.is_dir()]
            members = [(m, m.filename, m.file_size, S_IFMT(m.external_attr >> 16) in (0, S_IFREG)) for m in files]
        else:
            members = [(m, m.name, m.size, m.isreg()) for m in box.getmembers() if not m.isdir()]
        total, done = sum(size for _, _, size, _ in members), 0
        _need(into, total, name)
        for member, inner, size, plain in members:
            if not plain:
                raise DataError(f"{name}: {inner!r} is a link or a device; set `unpack: false` to unpack it by hand")
            place = into / _checked_name(inner.removeprefix("./"), name)
            place.parent.mkdir(parents=True, exist_ok=True)
            content = box.open(member) if isinstance(box, zipfile.ZipFile) else box.extractfile(member)
            assert content is not None, inner
            with content, place.open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK_BYTES)
            done += size
            report("unpack", name, done, total)


@contextmanager
def _explained(download: Download, endpoint: str | None) -> Iterator[None]:
    """Turn what the hub's client and the disk raise into one DataError that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, RevisionNotFoundError

    hub, where = download.hub, (endpoint or constants.ENDPOINT).rstrip("/")
    page = f"{where}/{'datasets/' * (download.repo == 'dataset')}{hub}"
    kept = "what was downloaded is kept: run the same command again to go on"
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = f"HTTP {status} from {error.response.url}; {kept}"
        if isinstance(error, RevisionNotFoundError):
            said = f"no revision {download.revision!r}; see {page}"
        elif status in (401, 403):
            said = f"refused ({status}): check the name, accept the licence on {page}, and set HF_TOKEN to your token"
        elif status == 404:
            said = f"no such {download.repo} on {where} (404); check `hub`"
        raise DataError(f"{hub}: {said}") from None
    except HTTPError as error:
        raise DataError(f"{hub}: {where} can't be reached ({error}); check the connection; {kept}") from None
    except OSError as error:
        raise DataError(f"{error.filename or hub}: {error.strerror or error}; {kept}") from None  # offline mode too
