"""Where the data files come from and how they are verified."""

import errno
import gzip
import hashlib
import http.server
import os
import socket
import struct
import subprocess
import threading
import zlib
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lenet_study.errors import StoreError, UserError
from lenet_study.training.data_files import (
    DEBIAN_FOLDER,
    ENVIRONMENT_VARIABLE,
    ORIGIN,
    SHA256,
    SOURCES,
    DataFiles,
    download,
    fetch_debian_package,
)


def idx_files(prefix: str, count: int, seed: int) -> dict[str, bytes]:
    """IDX files: https://yann.lecun.com/exdb/mnist (magic number, sizes, bytes)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count, np.uint8)
    return {
        f"{prefix}-images-idx3-ubyte": struct.pack(">4I", 2051, count, 28, 28) + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">2I", 2049, count) + labels.tobytes(),
    }


RAW = idx_files("train", 20, seed=1) | idx_files("t10k", 10, seed=2)
NAMES = list(RAW)


def no_network(folder, names):
    raise OSError("no network")


@pytest.fixture
def files(tmp_path) -> DataFiles:
    """An empty data folder, small files as the expected content, no other source."""
    return DataFiles(
        tmp_path / "data",
        {name: hashlib.sha256(content).hexdigest() for name, content in RAW.items()},
        debian_folder=tmp_path / "debian",
        sources={"a download": no_network, "apt-get": no_network},
    )


def with_sources(files, **sources):
    """The same files from other sources."""
    return replace(files, sources={name.replace("_", " "): source for name, source in sources.items()})


def write(folder: Path, content: dict[str, bytes] = RAW, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in content.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)


def provide(folder, names):
    """A source that has all files."""
    write(folder, {name: RAW[name] for name in names})


def places(files: DataFiles) -> dict[str, tuple[Path, bool]]:
    """Where files may lie, the preferred place first: folder, zipped."""
    return {
        "plain": (files.folder, False),
        "gz": (files.folder, True),
        "torchvision": (files.folder / "FashionMNIST" / "raw", False),
        "torchvision gz": (files.folder / "FashionMNIST" / "raw", True),
        "debian gz": (files.debian_folder, True),
    }


PLACES = list(places(DataFiles(Path())))


def assert_loads(files: DataFiles) -> None:
    for split, prefix in ((files.train(), "train"), (files.test(), "t10k")):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape == (len(split), 28, 28)
        assert split.images.numpy().tobytes() == RAW[f"{prefix}-images-idx3-ubyte"][16:]
        assert bytes(split.labels.tolist()) == RAW[f"{prefix}-labels-idx1-ubyte"][8:]


def assert_one_sentence(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ---- where they lie ----


@pytest.mark.parametrize("layout", PLACES)
def test_reads_every_layout(files, layout):
    folder, zipped = places(files)[layout]
    write(folder, zipped=zipped)
    assert_loads(files)


@pytest.mark.parametrize(("preferred", "other"), list(pairwise(PLACES)))
def test_the_preferred_place_wins(files, preferred, other):
    """Both hold all files, the preferred one the right ones."""
    for layout, content in ((other, dict.fromkeys(RAW, b"wrong")), (preferred, RAW)):
        folder, zipped = places(files)[layout]
        write(folder, content, zipped)
    assert_loads(files)


def test_places_complete_each_other(files):
    write(files.folder, {name: RAW[name] for name in NAMES[:1]})
    write(files.debian_folder, {name: RAW[name] for name in NAMES[1:]}, zipped=True)
    assert files.ensure() == f"{files.folder} and {files.debian_folder}"
    assert_loads(files)


def test_data_dir_comes_before_the_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert DataFiles.at().folder == Path("data")
    monkeypatch.setenv("LENET_STUDY_DATA", "/elsewhere")
    assert DataFiles.at().folder == Path("/elsewhere")
    assert DataFiles.at("here").folder == Path("here")
    monkeypatch.setenv("LENET_STUDY_DATA", "")
    assert DataFiles.at().folder == Path("data")


def test_fashion_mnist_is_the_default():
    files = DataFiles.at("here")
    assert files == DataFiles(Path("here"), SHA256, DEBIAN_FOLDER, SOURCES)
    assert list(files.sources) == ["a download", "apt-get"]


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert DataFiles.at("~/images").folder == Path("/home/someone/images")


def test_an_unknown_home_is_refused():
    with pytest.raises(UserError) as error:
        DataFiles.at("~no-such-user/images")
    assert_one_sentence(error, "data_dir=~no-such-user/images", "write it in full")


# ---- what is damaged or missing ----


def one_wrong_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(one_wrong_byte, id="one wrong byte"),
        pytest.param(truncated, id="truncated"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_is_refused(files, name, damaged):
    write(files.folder)
    (files.folder / name).write_bytes(damaged(RAW[name]))
    load = files.train if name.startswith("train") else files.test
    with pytest.raises(UserError) as error:
        load()
    assert_one_sentence(error, files.folder / name, "wrong SHA-256", "delete it")


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(gzip.compress(one_wrong_byte(RAW[NAMES[0]])), id="one wrong byte inside"),
        pytest.param(one_wrong_byte(gzip.compress(RAW[NAMES[0]])), id="one wrong byte"),
        pytest.param(truncated(gzip.compress(RAW[NAMES[0]])), id="truncated"),
        pytest.param(gzip.compress(RAW[NAMES[0]])[:10] + b"\xff" * 50, id="wrong deflate stream"),
        pytest.param(b"<html>404</html>", id="not gzip"),
        pytest.param(b"", id="empty"),
    ],
)
def test_damaged_gz_is_refused(files, archive):
    write(files.folder, zipped=True)
    path = files.folder / f"{NAMES[0]}.gz"
    path.write_bytes(archive)
    with pytest.raises(UserError) as error:
        files.train()
    assert_one_sentence(error, path, "delete it")


def make_nothing(path):
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, make_nothing], ids=["folder", "pipe", "dangling link"]
)
def test_what_is_in_a_file_s_place_is_refused_though_debian_has_the_file(files, make):
    write(files.debian_folder, zipped=True)
    write(files.folder, {name: RAW[name] for name in NAMES[1:]})
    make(files.folder / NAMES[0])
    with pytest.raises(UserError) as error:
        files.train()
    assert_one_sentence(error, files.folder / NAMES[0], "it is no file", "delete it")


@pytest.mark.parametrize("variable", [True, False])
def test_a_file_in_the_folder_s_place_is_refused_by_the_name_that_was_used(tmp_path, monkeypatch, variable):
    (tmp_path / "file").touch()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError) as error:
        DataFiles.at("" if variable else str(tmp_path / "file"))
    name = ENVIRONMENT_VARIABLE if variable else "data_dir"
    assert_one_sentence(error, f"{name}={tmp_path / 'file'} is no folder", "name another")


def test_verify_checks_all_four_files(files):
    write(files.folder)
    assert files.verify() == str(files.folder)
    for name in NAMES:
        (files.folder / name).write_bytes(one_wrong_byte(RAW[name]))
        with pytest.raises(UserError, match=name):
            files.verify()
        (files.folder / name).write_bytes(RAW[name])


def test_missing_files_are_named_with_the_cures(files):
    with pytest.raises(UserError) as error:
        files.train()
    assert_one_sentence(error, files.folder, *NAMES, "a download: no network", "apt-get: no network")
    assert_one_sentence(error, "data_dir", "LENET_STUDY_DATA", "apt-get install dataset-fashion")
    assert not files_in(files.folder)


def test_only_missing_files_are_named(files):
    write(files.folder, {name: RAW[name] for name in NAMES[1:]})
    with pytest.raises(UserError) as error:
        files.train()
    assert NAMES[0] in str(error.value)
    assert not any(name in str(error.value) for name in NAMES[1:])


def test_folder_that_cannot_be_made(files):
    files.folder.write_text("a file")
    with pytest.raises(UserError) as error:
        files.train()
    assert_one_sentence(error, files.folder, "data_dir", "nothing can be written there")


# ---- sources ----


def test_files_at_hand_are_not_fetched(files):
    def refuse(folder, names):
        pytest.fail("asked for nothing")

    files = with_sources(files, a_download=refuse, apt_get=refuse)
    write(files.debian_folder, zipped=True)
    files.train()
    assert not files.folder.exists()


def test_the_first_source_is_asked_first(files):
    def refuse(folder, names):
        pytest.fail("asked for nothing")

    files = with_sources(files, a_download=provide, apt_get=refuse)
    assert files.ensure() == f"{files.folder} (fetched with a download)"
    assert_loads(files)


@pytest.mark.parametrize(
    "failure",
    [
        URLError("unreachable"),
        TimeoutError("timed out"),
        EOFError("cut short"),
        zlib.error("invalid"),
        subprocess.TimeoutExpired("apt-get", 300),
        subprocess.CalledProcessError(1, "apt-get"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failing_source_falls_through_to_the_next(files, failure):
    def fail(folder, names):
        raise failure

    files = with_sources(files, a_download=fail, apt_get=provide)
    assert files.ensure() == f"{files.folder} (fetched with apt get)"
    assert_loads(files)


def test_a_full_disk_is_named_and_nothing_is_left_there(files):
    def fill(folder, names):
        write(folder, {NAMES[0]: RAW[NAMES[0]][:100]})
        raise OSError(errno.ENOSPC, "No space left on device")

    files = with_sources(files, a_download=fill)
    with pytest.raises(StoreError) as error:
        files.train()
    assert_one_sentence(error, files.folder, "is full: make room", "data_dir")
    assert not files_in(files.folder)


# ---- the download ----


@pytest.fixture
def origin(tmp_path) -> Path:
    """A folder that stands for the one in the internet."""
    folder = tmp_path / "origin"
    write(folder, zipped=True)
    return folder


def downloading(files, folder):
    return with_sources(files, a_download=partial(download, origin=folder.as_uri()))


def test_the_download_is_the_authors():
    assert SOURCES["a download"] is download
    assert ORIGIN.startswith("http://fashion-mnist.")


def test_a_download_brings_the_files_quietly(files, origin, capsys):
    files = downloading(files, origin)
    assert files.ensure() == f"{files.folder} (fetched with a download)"
    assert sorted(path.name for path in files_in(files.folder)) == sorted(NAMES)
    assert_loads(files)
    assert capsys.readouterr() == (
        f"Fetching Fashion-MNIST (30 MB) into {files.folder} with a download\n",
        "",
    )


def test_a_receiver_hears_of_a_fetch_instead_of_the_terminal(files, capsys):
    heard = []
    files = replace(with_sources(files, a_download=no_network, apt_get=provide), report=heard.append)
    files.ensure()
    fetching = f"Fetching Fashion-MNIST (30 MB) into {files.folder} with"
    assert heard == [
        f"{fetching} a download",
        "Not fetched with a download: no network",
        f"{fetching} apt get",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_mistyped_folder_is_not_made(files):
    files = replace(with_sources(files, a_download=provide), folder=files.folder / "nosuch" / "data")
    with pytest.raises(UserError, match=r"nothing can be written there \(No such file or directory\)"):
        files.ensure()
    assert not files.folder.parent.exists()


def test_the_next_run_cures_an_interrupted_download(files, origin):
    files, last = downloading(files, origin), origin / f"{NAMES[3]}.gz"
    whole = last.read_bytes()
    last.write_bytes(truncated(whole))
    with pytest.raises(UserError, match="a download: Compressed file ended"):
        files.train()
    assert not files_in(files.folder)
    last.write_bytes(whole)
    assert_loads(files)


def test_a_file_that_the_origin_lacks_is_a_failed_source(files, origin):
    (origin / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(UserError, match=f"a download: .*{NAMES[1]}"):
        downloading(files, origin).train()
    assert not files_in(files.folder)


def test_a_download_of_something_else_falls_through_to_the_next(files, origin):
    write(origin, {NAMES[3]: one_wrong_byte(RAW[NAMES[3]])}, zipped=True)
    files = downloading(files, origin)
    with pytest.raises(UserError, match=f"a download: {NAMES[3]} has a wrong SHA-256"):
        files.train()
    assert not files_in(files.folder)
    files = with_sources(files, **{"a download": files.sources["a download"], "apt-get": provide})
    assert files.ensure() == f"{files.folder} (fetched with apt-get)"
    assert_loads(files)


class Dying(http.server.BaseHTTPRequestHandler):
    """Announces more than it sends."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, *arguments):
        pass


def test_a_connection_lost_half_way_is_a_failed_source(files, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = partial(download, origin=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match=r"a download: IncompleteRead\(4 bytes read, 996 more"):
            with_sources(files, a_download=source).train()
        server.shutdown()
    assert not files_in(files.folder)


def test_an_origin_that_does_not_answer_is_a_failed_source(files, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        source = partial(download, origin=address, timeout=0.1)
        with pytest.raises(UserError, match=r"a download: .*timed out"):
            with_sources(files, a_download=source).train()


# ---- Debian's package ----


@pytest.fixture
def debian(files, tmp_path, monkeypatch):
    """An apt-get that knows the package only after an update, and a dpkg-deb that unpacks it."""
    package = tmp_path / "package"
    write(package, zipped=True)
    programs = {
        "apt-get": f"""
            case "$*" in
                *update*) touch {tmp_path}/updated;;
                *download\\ dataset-fashion-mnist)
                    test -e {tmp_path}/updated && touch dataset-fashion-mnist_1_all.deb && exit
                    echo "W: something" >&2; echo "E: Unable to locate package" >&2; exit 100;;
            esac
        """,
        "dpkg-deb": f"""
            mkdir -p "$3{DEBIAN_FOLDER}" && cp {package}/* "$3{DEBIAN_FOLDER}"
        """,
    }
    for name, script in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "bin"


def test_debian_package_is_unpacked(files, debian):
    files = with_sources(files, a_download=no_network, apt_get=fetch_debian_package)
    assert "apt get" in files.ensure()
    assert sorted(path.name for path in files_in(files.folder)) == sorted(NAMES)
    assert_loads(files)


def test_apt_gets_last_line_is_the_reason(files, debian):
    (debian / "apt-get").write_text("#!/bin/sh\necho W: w >&2; echo E: no package >&2; exit 100")
    with pytest.raises(UserError) as error:
        with_sources(files, apt_get=fetch_debian_package).ensure()
    assert_one_sentence(error, "apt get: E: no package)")
    assert not files_in(files.folder)


def test_another_system_than_debian_is_a_failed_source(files, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt get: not a Debian machine"):
        with_sources(files, apt_get=fetch_debian_package).ensure()
