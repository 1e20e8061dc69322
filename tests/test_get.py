"""Downloads against a hub on 127.0.0.1: resumed, verified, unpacked safely. The network is never touched."""

import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from geomaestro.config import check
from geomaestro.data import get as module
from geomaestro.data.get import LEDGER, Download, get, get_dataset
from geomaestro.errors import DataError, SpecError
from geomaestro.runs import lock

REPO, COMMIT = "owner/trees", "0123456789abcdef0123456789abcdef01234567"
DOWNLOAD = Download(hub=REPO)
BIG = bytes(range(256)) * 800  # 204,800 bytes, no two neighbours alike
HELLO = b"hello world\n"
HELLO_SHA1 = "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"  # printf 'hello world\n' | git hash-object --stdin


@dataclass
class Sent:
    """A request for a file, and the answer."""

    path: str
    range: str | None
    authorised: bool
    body_bytes: int = 0


@dataclass
class Hub:
    """What the server has, how it fails, and what it was asked. A fault takes part in one answer, in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    status: tuple[int, str] | None = None
    ranges: bool = True
    elsewhere: str | None = None
    sent: list[Sent] = field(default_factory=list)
    url: str = ""

    def entries(self) -> list[dict[str, object]]:
        """The tree as the hub lists it: SHA-256 of files of 1,000 bytes or more, git's SHA-1 of the others."""
        found: list[dict[str, object]] = [{"type": "directory", "path": "some", "oid": "0" * 40, "size": 0}]
        for path, content in {**self.files, **self.listed}.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            entry: dict[str, object] = {"type": "file", "path": path, "oid": blob, "size": len(content)}
            if len(content) >= 1000:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            found.append(entry)
        return found


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, 1 << 16  # else each answer waits 40 ms for an acknowledgement

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if self.hub.status:
            self.answer(
                self.hub.status[0], b"{}", **({"X_Error_Code": self.hub.status[1]} if self.hub.status[1] else {})
            )
        elif path == f"/api/datasets/{REPO}/revision/main":
            self.answer(200, json.dumps({"id": REPO, "sha": COMMIT}).encode(), Content_Type="application/json")
        elif path == f"/api/datasets/{REPO}/tree/{COMMIT}":
            self.tree(int(parse_qs(url.query).get("page", ["0"])[0]))
        elif path.startswith(prefix := f"/datasets/{REPO}/resolve/{COMMIT}/"):
            self.file(path.removeprefix(prefix))
        else:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    def tree(self, page: int) -> None:
        pages = [self.hub.entries()[:2], self.hub.entries()[2:]]
        link = {"Link": f'<{self.hub.url}{urlsplit(self.path).path}?recursive=True&page=1>; rel="next"'}
        self.answer(200, json.dumps(pages[page]).encode(), **(link if page == 0 else {}))

    def file(self, path: str) -> None:
        wanted, fault = self.headers["Range"], self.hub.faults.pop(0) if self.hub.faults else ""
        self.hub.sent.append(sent := Sent(path, wanted, "Authorization" in self.headers))
        if self.hub.elsewhere:
            return self.answer(302, b"", Location=f"{self.hub.elsewhere}{self.path}")
        if fault.startswith("status "):
            return self.answer(int(fault.split()[1]), b"busy")
        content = self.hub.files[path]
        start, end = (int(n) for n in wanted.removeprefix("bytes=").split("-")) if wanted else (0, len(content) - 1)
        if wanted and self.hub.ranges and start >= len(content):
            return self.answer(416, b"")
        partial = bool(wanted) and self.hub.ranges
        body = content[start : end + 1] if partial else content
        body = body[:-1] + b"?" if fault == "corrupt" else body
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: int(fault.split()[1])] if fault.startswith("drop ") else body
        self.wfile.write(body)
        sent.body_bytes = len(body)
        self.close_connection = fault.startswith("drop ")


@pytest.fixture
def start_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Hub]]:
    """Start hubs on 127.0.0.1; waits between retries take no time."""
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.close_session()
    servers: list[ThreadingHTTPServer] = []

    def start() -> Hub:
        hub = Hub()
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfOneHub", (Handler,), {"hub": hub}))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        hub.url = f"http://127.0.0.1:{server.server_port}"
        return hub

    yield start
    huggingface_hub.close_session()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(start_hub: Callable[[], Hub]) -> Hub:
    return start_hub()


def fetch(hub: Hub, out: Path, download: Download = DOWNLOAD) -> list[Path]:
    return get(download, out, endpoint=hub.url)


def zipped(files: dict[str, bytes]) -> bytes:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return box.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", **kind: object) -> bytes:
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in kind.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return box.getvalue()


def visible(folder: Path) -> dict[str, bytes]:
    """Content of all files but the ledger and the lock; hidden leftovers are in it."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in (LEDGER, ".lock"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def room(free: int) -> Callable[[object], object]:
    return lambda _: SimpleNamespace(free=free)


# --- Whole downloads ---


def test_all_files_arrive_and_a_second_run_asks_for_none_of_them(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"a/big.bin": BIG, "hello.txt": HELLO, "empty": b"", "b/#2 é.txt": b"x"}
    seen: list[tuple[str, str, int, int]] = []
    paths = get(DOWNLOAD, tmp_path, endpoint=hub.url, report=lambda *row: seen.append(row))
    assert visible(tmp_path) == hub.files
    assert paths == [tmp_path / name for name in hub.files]
    total = sum(map(len, hub.files.values()))
    assert seen[-1] == ("download", "b/#2 é.txt", total, total)
    hub.sent.clear()
    assert fetch(hub, tmp_path) == paths
    assert hub.sent == []


def test_the_ledger_holds_the_digests_that_git_and_sha256_give(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"hello.txt": HELLO, "big.bin": BIG}
    fetch(hub, tmp_path)
    ledger = json.loads((tmp_path / LEDGER).read_text())
    assert ledger["files"]["hello.txt"][:2] == [f"git-sha1:{HELLO_SHA1}", 12]
    assert ledger["files"]["big.bin"][0] == f"sha256:{hashlib.sha256(BIG).hexdigest()}"


def test_a_file_with_another_time_is_read_again_and_fetched_only_if_it_changed(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"same": BIG, "changed": BIG[::-1]}
    fetch(hub, tmp_path)
    hub.sent.clear()
    os.utime(tmp_path / "same", (1, 1))
    (tmp_path / "changed").write_bytes(b"!" * len(BIG))
    fetch(hub, tmp_path)
    assert [sent.path for sent in hub.sent] == ["changed"]
    assert visible(tmp_path) == hub.files


@pytest.mark.parametrize("content", [b"not json", b'{"files": 3}'])
def test_without_a_readable_ledger_files_are_verified_again_and_not_fetched(
    hub: Hub, tmp_path: Path, content: bytes
) -> None:
    hub.files = {"big.bin": BIG}
    fetch(hub, tmp_path)
    hub.sent.clear()
    (tmp_path / LEDGER).write_bytes(content)
    fetch(hub, tmp_path)
    assert hub.sent == []


def test_a_file_that_was_there_before_is_never_overwritten(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"notes.txt": HELLO}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt: is not the published file; move it away, or choose another OUT"):
        fetch(hub, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_only_files_that_match_a_pattern_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"train/a.txt": b"1", "train/deep/b.txt": b"2", "val/c.txt": b"3", "README.md": b"4"}
    fetch(hub, tmp_path, Download(hub=REPO, files=("train/*.txt", "README.md")))
    assert set(visible(tmp_path)) == {"train/a.txt", "train/deep/b.txt", "README.md"}
    with pytest.raises(DataError, match=r"owner/trees: none of its 4 files matches 'test/\*'; it holds train/a.txt, "):
        fetch(hub, tmp_path, Download(hub=REPO, files=("val/*", "test/*")))


def test_a_dataset_may_be_named_by_its_hub_id(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"hello.txt": HELLO}
    assert get_dataset(f"{REPO}@main", tmp_path, endpoint=hub.url) == [tmp_path / "hello.txt"]
    assert get_dataset(DOWNLOAD, tmp_path, endpoint=hub.url) == [tmp_path / "hello.txt"]
    with pytest.raises(SpecError, match=r"'no-owner' as owner/name@revision: 1 error\n  hub: "):
        get_dataset("no-owner", tmp_path, endpoint=hub.url)


def test_a_download_of_a_spec_is_strict() -> None:
    with pytest.raises(SpecError, match="file: unknown key; did you mean 'files'"):
        check(Download, {"hub": REPO, "file": ["*.zip"]}, "spec.yaml")


# --- Broken connections ---


def test_after_a_dropped_connection_only_the_rest_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"big.bin": BIG}, ["drop 100000"]
    fetch(hub, tmp_path)
    assert visible(tmp_path) == hub.files
    assert [sent.range for sent in hub.sent] == [None, "bytes=100000-204799"]
    assert sum(sent.body_bytes for sent in hub.sent) == len(BIG)


def test_after_ctrl_c_the_next_run_asks_only_for_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"a.bin": BIG[::-1], "big.bin": BIG}, ["", "drop 100000"]

    def stop(stage: str, name: str, done: int, total: int) -> None:
        if (stage, name, done) == ("download", "big.bin", len(BIG) + 100_000):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(DOWNLOAD, tmp_path, endpoint=hub.url, report=stop)
    hub.sent.clear()
    fetch(hub, tmp_path)
    assert [(sent.path, sent.range) for sent in hub.sent] == [("big.bin", "bytes=100000-204799")]
    assert visible(tmp_path) == hub.files


def test_large_files_come_in_pieces(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 150_000)
    hub.files = {"big.bin": BIG}
    fetch(hub, tmp_path)
    assert [sent.range for sent in hub.sent] == ["bytes=0-149999", "bytes=150000-204799"]
    assert visible(tmp_path) == hub.files


def test_a_server_that_knows_no_ranges_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults, hub.ranges = {"big.bin": BIG}, ["drop 100000"], False
    fetch(hub, tmp_path)
    assert visible(tmp_path) == hub.files


def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"big.bin": BIG}, ["status 503", "status 429", "drop 5", "status 500"]
    fetch(hub, tmp_path)
    assert visible(tmp_path) == hub.files


def test_a_connection_that_never_works_again_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"big.bin": BIG}, ["drop 100000"] + ["status 503"] * 8
    said = (
        r"big\.bin: the connection broke 8 times in a row \(HTTP 503\); 100000 of 204800 bytes are kept: run the same"
    )
    with pytest.raises(DataError, match=said):
        fetch(hub, tmp_path)
    fetch(hub, tmp_path)
    assert hub.sent[-1].range == "bytes=100000-204799"


def test_a_token_goes_to_the_hub_but_not_where_it_redirects(
    start_hub: Callable[[], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_invented")
    first, store = start_hub(), start_hub()
    first.files, first.elsewhere = {"big.bin": BIG}, store.url
    store.files, store.faults = first.files, ["drop 100000"]
    fetch(first, tmp_path)
    assert [sent.authorised for sent in first.sent] == [True, True]
    assert [(sent.authorised, sent.range) for sent in store.sent] == [(False, None), (False, "bytes=100000-204799")]
    assert visible(tmp_path) == first.files


# --- Wrong content ---


def test_a_corrupted_file_is_fetched_once_more(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"big.bin": BIG, "hello.txt": HELLO}, ["corrupt"]
    fetch(hub, tmp_path)
    assert visible(tmp_path) == hub.files
    assert [sent.path for sent in hub.sent] == ["big.bin", "big.bin", "hello.txt"]


@pytest.mark.parametrize(
    ("served", "got_bytes"), [(BIG[:-1] + b"?", 204_800), (BIG[:-9], 204_791), (BIG + b"more", 204_804)]
)
def test_a_file_that_is_wrong_twice_is_refused(hub: Hub, tmp_path: Path, served: bytes, got_bytes: int) -> None:
    hub.files, hub.listed = {"big.bin": served}, {"big.bin": BIG}
    expected, got = (hashlib.sha256(content).hexdigest() for content in (BIG, served))
    with pytest.raises(DataError) as error:
        fetch(hub, tmp_path)
    assert f"expected 204800 bytes of sha256:{expected}, got {got_bytes} of sha256:{got}; try" in str(error.value)
    assert visible(tmp_path) == {}


# --- The disk ---


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"big.bin": BIG}
    monkeypatch.setattr(module.shutil, "disk_usage", room(30_000_000))
    with pytest.raises(DataError, match=r"owner/trees needs 0\.05 GB more, but 0\.03 GB are free; make room"):
        fetch(hub, tmp_path, Download(hub=REPO, bytes=50_000_000))
    monkeypatch.setattr(module.shutil, "disk_usage", room(len(BIG) - 1))
    with pytest.raises(DataError, match=r"needs 0\.00 GB more"):
        fetch(hub, tmp_path)
    assert hub.sent == []
    monkeypatch.setattr(module.shutil, "disk_usage", room(len(BIG)))
    fetch(hub, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"hello.txt": HELLO}
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="out: File exists; what was downloaded is kept"):
        fetch(hub, tmp_path / "out")


def test_two_downloads_into_one_folder_exclude_each_other(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"hello.txt": HELLO}
    with lock(tmp_path), pytest.raises(DataError, match="another process downloads into it"):
        fetch(hub, tmp_path)


# --- Refusals ---


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "", "refused (401): check the name, accept the licence on URL/datasets/owner/trees, and set HF_TOKEN"),
        (403, "GatedRepo", "refused (403): check the name, accept the licence on URL/datasets/owner/trees, and set"),
        (404, "RepoNotFound", "owner/trees: no such dataset on URL (404); check `hub`"),
        (404, "RevisionNotFound", "owner/trees: no revision 'main'; see URL/datasets/owner/trees"),
        (418, "", "owner/trees: HTTP 418 from URL/api/datasets/owner/trees/revision/main; what was downloaded is kept"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, tmp_path: Path, status: int, code: str, said: str) -> None:
    hub.status = (status, code)
    with pytest.raises(DataError) as error:
        fetch(hub, tmp_path)
    assert said.replace("URL", hub.url) in str(error.value)


def test_a_gated_file_is_refused_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.faults = {"big.bin": BIG}, ["status 403"]
    with pytest.raises(DataError, match=r"refused \(403\): check the name, accept the licence"):
        fetch(hub, tmp_path)
    assert len(hub.sent) == 1


def test_a_hub_that_can_not_be_reached_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"owner/trees: http://127.0.0.1:1 can't be reached \(.*\); check the connection"
    ):
        get(DOWNLOAD, tmp_path, endpoint="http://127.0.0.1:1")


def test_offline_mode_says_how_to_leave_it(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"offline mode is enabled.*unset the `HF_HUB_OFFLINE`"):
        fetch(hub, tmp_path)


# --- Archives ---


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar"])
@pytest.mark.parametrize("wrapper", ["", "trees/", "./"])
def test_an_archive_is_unpacked_into_a_folder_of_its_name(hub: Hub, tmp_path: Path, ending: str, wrapper: str) -> None:
    inside = {f"{wrapper}a.txt": b"1", f"{wrapper}deep/b.txt": b"2"}
    content = zipped(inside) if ending == "zip" else tarred(inside, "w" if ending == "tar" else "w:gz")
    hub.files = {f"data/trees.{ending}": content, "hello.txt": HELLO}
    assert fetch(hub, tmp_path) == [tmp_path / "hello.txt", tmp_path / "data" / "trees"]
    assert visible(tmp_path / "data" / "trees") == {"a.txt": b"1", "deep/b.txt": b"2"}


def test_an_archive_is_unpacked_once_and_may_then_be_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"trees.zip": zipped({"a.txt": b"1" * 1000})}
    fetch(hub, tmp_path)
    (tmp_path / "trees.zip").unlink()
    (tmp_path / "trees" / "a.txt").write_text("changed by hand")
    hub.sent.clear()
    fetch(hub, tmp_path)
    assert hub.sent == []
    assert visible(tmp_path) == {"trees/a.txt": b"changed by hand"}
    (tmp_path / "trees" / "a.txt").unlink()
    (tmp_path / "trees").rmdir()
    fetch(hub, tmp_path)
    assert visible(tmp_path / "trees") == {"a.txt": b"1" * 1000}


def test_a_new_version_of_an_archive_replaces_its_folder(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"trees.zip": zipped({"old.txt": b"1"})}
    fetch(hub, tmp_path)
    hub.files = {"trees.zip": zipped({"new.txt": b"2"})}
    fetch(hub, tmp_path)
    assert visible(tmp_path / "trees") == {"new.txt": b"2"}


def test_an_interrupted_unpacking_begins_again(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"trees.zip": zipped({"a.txt": b"1", "b.txt": b"2"})}

    def stop(stage: str, *_: object) -> None:
        if stage == "unpack":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(DOWNLOAD, tmp_path, endpoint=hub.url, report=stop)
    assert visible(tmp_path) == hub.files
    hub.sent.clear()
    fetch(hub, tmp_path)
    assert hub.sent == []
    assert visible(tmp_path / "trees") == {"a.txt": b"1", "b.txt": b"2"}


def test_a_folder_that_was_there_before_is_not_unpacked_over(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"trees.zip": zipped({"a.txt": b"1"})}
    (tmp_path / "trees").mkdir()
    with pytest.raises(DataError, match=r"trees: is there, and not unpacked from trees\.zip; move it away, or set"):
        fetch(hub, tmp_path)
    fetch(hub, tmp_path, Download(hub=REPO, unpack=False))
    hub.files["trees/b.txt"] = HELLO
    with pytest.raises(DataError, match=r"trees\.zip: would be unpacked over trees/b\.txt; narrow `files`, or set"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_the_parts_of_an_archive_are_put_together(hub: Hub, tmp_path: Path, first: int) -> None:
    whole = zipped({"a.bin": hashlib.shake_128(b"seed").digest(3000)})
    parts = [whole[:1500], whole[1500:2500], whole[2500:]]
    hub.files = {f"trees.zip.{first + i:03d}": part for i, part in enumerate(parts)}
    assert fetch(hub, tmp_path) == [tmp_path / "trees"]
    assert visible(tmp_path / "trees") == {"a.bin": hashlib.shake_128(b"seed").digest(3000)}
    del hub.files[f"trees.zip.{first + 1:03d}"]
    with pytest.raises(DataError, match=r"trees\.zip: some parts are wanted, and others not; widen `files`"):
        fetch(hub, tmp_path)


def test_a_split_zip_is_refused_with_the_way_round(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"trees.zip": HELLO, "trees.z01": HELLO}
    with pytest.raises(DataError, match=r"trees\.z01: a split zip .*`unpack: false`, join it with `zip -s 0 NAME\.zip"):
        fetch(hub, tmp_path)
    fetch(hub, tmp_path, Download(hub=REPO, unpack=False))
    assert visible(tmp_path) == hub.files


def symlink_in_a_zip() -> bytes:
    box, link = io.BytesIO(), zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(box, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    return box.getvalue()


def damaged_zip() -> bytes:
    whole = bytearray(zipped({"a.bin": BIG}))
    whole[60] ^= 255
    return bytes(whole)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.zip", zipped({"../evil": b"x"}), "the file name '../evil' could lead out of its folder"),
        ("t.zip", zipped({"a/../../evil": b"x"}), "the file name 'a/../../evil' could lead out of its folder"),
        ("t.zip", zipped({"/evil": b"x"}), "the file name '/evil' could lead out of its folder"),
        ("t.zip", zipped({"..\\evil": b"x"}), "could lead out of its folder"),
        ("t.zip", zipped({"C:/evil": b"x"}), "the file name 'C:/evil' could lead out of its folder"),
        ("t.zip", symlink_in_a_zip(), "'link' is a link or a device; set `unpack: false`"),
        ("t.zip", damaged_zip(), "t.zip: can't be unpacked ("),
        ("t.zip", b"no archive at all", "t.zip: can't be unpacked ("),
        ("t.tar", tarred({"../evil": b"x"}, "w"), "the file name '../evil' could lead out of its folder"),
        ("t.tar.gz", tarred({"/evil": b"x"}), "the file name '/evil' could lead out of its folder"),
        ("t.tar", tarred({"a": b""}, "w", type=tarfile.SYMTYPE, linkname="/etc"), "'a' is a link or a device"),
        ("t.tar", tarred({"a": b""}, "w", type=tarfile.LNKTYPE, linkname="../b"), "'a' is a link or a device"),
        ("t.tar", tarred({"a": b""}, "w", type=tarfile.CHRTYPE), "'a' is a link or a device"),
        ("t.tar", tarred({"a": b""}, "w", type=tarfile.FIFOTYPE), "'a' is a link or a device"),
        ("t.tar.gz", b"no archive at all", "t.tar.gz: can't be unpacked ("),
    ],
    ids=range(15),
)
def test_a_hostile_or_damaged_archive_writes_nothing(
    hub: Hub, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    hub.files = {name: content}
    with pytest.raises(DataError) as error:
        fetch(hub, tmp_path / "out")
    assert said in str(error.value)
    assert visible(tmp_path) == {f"out/{name}": content}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.zip", zipped({"a": b"0" * 900_000})), ("t.tar.gz", tarred({"a": b"0" * 900_000}))],
    ids=["zip", "tar.gz"],
)
def test_an_archive_that_declares_more_than_the_disk_holds_is_not_begun(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    hub.files = {name: content}
    monkeypatch.setattr(module.shutil, "disk_usage", room(899_999))
    with pytest.raises(DataError, match=rf"{name} needs 0\.00 GB more, but 0\.00 GB are free"):
        fetch(hub, tmp_path)
    assert visible(tmp_path) == hub.files


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b", "..\\evil"])
def test_a_hostile_repository_writes_nothing(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files = {name: HELLO}
    with pytest.raises(DataError, match=r"owner/trees: the file name .* could lead out of its folder"):
        fetch(hub, tmp_path / "out")
    assert visible(tmp_path) == {}
