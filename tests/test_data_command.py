"""The command ``data``."""

from __future__ import annotations

import gzip
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases_data import md5, pictures, small_cifar100, small_mnist  # noqa: F401
from compressbench.cli import main as cli
from compressbench.data import cifar, idx
from compressbench.data.dataset import Raw, Split
from compressbench.data.published import Download


def verb(arguments: list[str]) -> int:
    """The exit code of ``compressbench data …``."""
    return cli.run(["data", *arguments])


class Server:
    """Serves bytes by path on the loopback; counts what is asked for."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = blobs.get(self.path)
                self.send_response(200 if body is not None else 404)
                cut = self.path.startswith("/cut")
                self.send_header("Content-Length", str(len(body or b"") + (1000 if cut else 0)))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                return None

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(blobs: dict[str, bytes]) -> Server:
        servers.append(Server(blobs))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def point(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], name: str, *downloads: Download) -> None:
    monkeypatch.setitem(table, name, replace(table[name], downloads=downloads))


def at(server: Server, table: dict[str, Any], name: str, folder: str = "") -> list[Download]:
    return [replace(d, url=f"{server.url}{folder}/{d.url.rpartition('/')[2]}") for d in table[name].downloads]


def test_data_command_fetches_idx_files_only_when_told(
    small_mnist: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve({f"/{name}.gz": gzip.compress(data, mtime=0) for name, data in small_mnist.items()})
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist"))
    arguments = ["mnist", "--data-dir", str(tmp_path)]
    assert verb(arguments) == 1
    said = capsys.readouterr().out
    assert "missing" in said
    assert f"{tmp_path}/MNIST/raw" in said
    assert "Incomplete: 0 of 4 files" in said
    assert f"compressbench data mnist --download --data-dir {tmp_path}" in said
    assert server.asked == []
    assert list(tmp_path.iterdir()) == []

    assert verb([*arguments, "--download"]) == 0
    assert "Complete." in capsys.readouterr().out
    assert len(server.asked) == 4
    assert sorted(p.name for p in (tmp_path / "MNIST/raw").iterdir()) == sorted(
        f"{n}.gz" for n in small_mnist
    )
    assert len(idx.mnist(str(tmp_path)).train) == 60

    assert verb([*arguments, "--download"]) == 0
    assert "Nothing to fetch." in capsys.readouterr().out
    (tmp_path / f"MNIST/raw/{idx.TEST_IMAGES}.gz").write_bytes(b"damaged")
    assert verb(arguments) == 1
    assert "Incomplete: 3 of 4" in capsys.readouterr().out
    assert verb([*arguments, "--download"]) == 0
    assert server.asked[4:] == [f"/{idx.TEST_IMAGES}.gz"]


def tar_of(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_data_command_unpacks_expected_members_only(
    small_cifar100: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = {f"cifar-100-python/{name}": data for name, data in small_cifar100.items()}
    extra = {"../escaped": b"x", "/tmp/escaped": b"x", "cifar-100-python/extra": b"x"}
    tar = tar_of({**extra, **members}, links={"cifar-100-python/meta": "/etc/passwd"})
    server = serve({"/c.tar.gz": tar})
    point(monkeypatch, cifar.PUBLISHED, "cifar100", Download(f"{server.url}/c.tar.gz", md5(tar)))
    home = tmp_path / "data"
    assert verb(["cifar100", "--data-dir", str(home), "--download"]) == 0
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"data/cifar-100-python/{name}" for name in small_cifar100}
    assert len(cifar.cifar100(str(home)).train) == 40

    for part, message in (
        (tar_of({k: v for k, v in members.items() if "test" not in k}), "holds no cifar-100-python/test"),
        (tar[: len(tar) // 2], "truncated or damaged"),
        (b"no tar at all", "truncated or damaged"),
    ):
        server = serve({"/c.tar.gz": part})
        point(monkeypatch, cifar.PUBLISHED, "cifar100", Download(f"{server.url}/c.tar.gz", md5(part)))
        other = tmp_path / "other"
        assert verb(["cifar100", "--data-dir", str(other), "--download"]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not other.exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("", "is not the published file"), ("/none", "answers 404"), ("/cut", "broken off after")],
)
def test_data_command_refuses_what_is_not_as_published(
    small_mnist: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    message: str,
) -> None:
    server = serve({f"{f}/{name}.gz": b"something else" for name in small_mnist for f in ("", "/cut")})
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist", folder))
    assert verb(["mnist", "--data-dir", str(tmp_path / "new"), "--download"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("compressbench: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_data_command_unreachable_host(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve({})
    server.close()
    monkeypatch.setattr(server, "close", lambda: None)
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist"))
    assert verb(["mnist", "--data-dir", str(tmp_path), "--download"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"compressbench: can't fetch {server.url}/")
    assert said.count("\n") == 1


def test_data_command_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["cifar10", "--data-dir", str(tmp_path / "file" / "data"), "--download"], "is not writable"),
        (["cifar11"], "unknown dataset 'cifar11'; did you mean cifar10"),
        (["image_folder"], "set dataset.read.root"),
        (["image_folder", "--download"], "your own"),
    ):
        assert verb(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_data_command_shows_the_embedded_and_ones_own(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(["fashion_mnist"]) == 0
    said = capsys.readouterr().out
    assert "Complete." in said
    assert "MIT" in said
    own = tmp_path / "mine" / "dataset" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# mine: insects\n"
        "defaults: [image_folder]\n"
        "name: mine\n"
        f"read: {{root: {pictures}, size: [4, 4], test_fraction: 0.2}}\n"
    )
    assert verb(["mine", "--config-dir", str(own.parents[1])]) == 0
    assert "Complete: train 14, test 4, validation 2; 2 classes; 3 x 4 x 4." in capsys.readouterr().out
    own.write_text("read: [\n")
    assert verb(["mine", "--config-dir", str(own.parents[1])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_data_command_is_quick_and_needs_neither_torch_nor_hydra() -> None:
    code = (
        "import sys, time; from compressbench.cli.data import main; main(['digits']);"
        "print([m for m in ('torch', 'hydra', 'sklearn') if m in sys.modules], time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("[] ")


def test_split_of_numbers_its_examples() -> None:
    split = Split.of(np.zeros((3, 1, 2, 2), np.uint8), np.array([1, 0, 1], np.uint8))
    assert split.labels.dtype == np.int64
    assert split.rows.tolist() == [0, 1, 2]
    assert Raw(split, split, ("a", "b")).attributes == {}
