"""Files of data sets: where they are looked for, how they are downloaded, and everything that can go wrong.

The homes are servers on this machine, which misbehave in one way each.
"""

import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reprobook.data import catalogue, store
from reprobook.data.catalogue import Archive, DataSet, File
from reprobook.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Home(ThreadingHTTPServer):
    """Serves pages; a page may be cut off, held back in its middle, or missing."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Visit)
        self.pages: dict[str, bytes] = {}
        self.cut: set[str] = set()  # half of it comes, then the connection ends
        self.held: set[str] = set()  # half of it comes, the rest only after ``go``
        self.go = threading.Event()
        self.visits: Counter[str] = Counter()

    def at(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Visit(BaseHTTPRequestHandler):
    server: Home

    def do_GET(self):
        name = self.path[1:]
        self.server.visits[name] += 1
        if name not in self.server.pages:
            return self.send_error(404)
        page = self.server.pages[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        half = len(page) // 2
        self.wfile.write(page[:half])
        if name in self.server.held:
            self.server.go.wait(20)
        if name not in self.server.cut:
            self.wfile.write(page[half:])

    def log_message(self, *_):
        pass


@pytest.fixture
def home():
    server = Home()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A cache and a data folder of our own, and nothing remembered."""
    for name in ("cache", "mine"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(store, "_checked", set())
    return tmp_path


def toy(monkeypatch, *homes: str, content: bytes = CONTENT, **facts) -> File:
    """Enter a data set of one file into the catalogue."""
    file = File("toy/numbers.bin", len(content), hashlib.sha256(content).hexdigest(), homes)
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    facts.setdefault("editions", ((file,),))
    monkeypatch.setitem(catalogue.CATALOGUE, "toy", DataSet("toy", **words, **facts))
    return file


def kept(folder: Path) -> list[str]:
    """Return every file below a folder except locks."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"
    )


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --------------------------------------------------------------------------- where files are looked for


def test_a_file_is_taken_from_the_data_folder_before_the_cache_and_nothing_is_downloaded(
    home, folders, monkeypatch
):
    file = toy(monkeypatch, home.at("numbers.bin"))
    for name in ("mine", "cache"):
        (folders / name / "toy").mkdir()
        (folders / name / file.path).write_bytes(CONTENT)
    assert store.fetch("toy") == {"numbers.bin": folders / "mine" / file.path}
    (folders / "mine" / file.path).unlink()
    assert store.fetch("toy") == {"numbers.bin": folders / "cache" / file.path}
    assert not home.visits


def test_a_download_goes_to_the_cache_and_happens_once(home, folders, monkeypatch):
    file = toy(monkeypatch, home.at("numbers.bin"))
    home.pages["numbers.bin"] = CONTENT
    for _ in range(2):
        assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT
    assert home.visits == {"numbers.bin": 1}
    assert kept(folders) == [f"cache/{file.path}"]


def test_a_wrong_file_in_the_data_folder_is_named_and_left_alone(home, folders, monkeypatch):
    file = toy(monkeypatch, home.at("numbers.bin"))
    (folders / "mine" / "toy").mkdir()
    (folders / "mine" / file.path).write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    assert one_line(error).startswith(f"{folders / 'mine' / file.path} is not the published file")
    assert kept(folders) == [f"mine/{file.path}"]
    assert not home.visits


def test_a_wrong_file_in_the_cache_is_replaced(home, folders, monkeypatch):
    file = toy(monkeypatch, home.at("numbers.bin"))
    home.pages["numbers.bin"] = CONTENT
    (folders / "cache" / "toy").mkdir()
    (folders / "cache" / file.path).write_bytes(CONTENT[:1000])
    assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT


def test_a_file_that_changed_since_it_was_checked_is_checked_again(folders, monkeypatch):
    file = toy(monkeypatch)
    path = folders / "mine" / file.path
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    store.fetch("toy")
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="not the published file"):
        store.fetch("toy")


def test_the_edition_that_is_here_is_used_and_else_the_first_that_has_a_home(home, folders, monkeypatch):
    rare = File("toy/rare.bin", 3, hashlib.sha256(b"abc").hexdigest())
    common = File("toy/common.bin", 3, hashlib.sha256(b"xyz").hexdigest(), (home.at("common.bin"),))
    toy(monkeypatch, editions=((rare,), (common,)))
    home.pages["common.bin"] = b"xyz"
    assert list(store.fetch("toy")) == ["common.bin"]
    (folders / "mine" / "toy").mkdir()
    (folders / "mine" / rare.path).write_bytes(b"abc")
    assert list(store.fetch("toy")) == ["rare.bin"]


def test_a_set_without_address_says_where_its_files_belong(folders, monkeypatch):
    toy(monkeypatch, note="ask its authors")
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    line = one_line(error)
    assert "put toy/numbers.bin into the folder that REPROBOOK_DATA names" in line
    assert "ask its authors" in line


def test_an_unknown_set_and_a_data_folder_that_is_none_are_one_line(folders, monkeypatch):
    with pytest.raises(UserError, match="unknown data set 'minst'; the data sets are: mnist, "):
        store.fetch("minst")
    monkeypatch.setenv("REPROBOOK_DATA", str(folders / "nowhere"))
    with pytest.raises(UserError, match="nowhere is not a folder"):
        store.fetch("mnist")


# --------------------------------------------------------------------------- homes that misbehave


def misbehave(home: Home, how: str) -> str:
    """Make a page wrong in one way and return its address."""
    home.pages["bad.bin"] = {"short": CONTENT[: len(CONTENT) // 2], "other": CONTENT[::-1]}.get(how, CONTENT)
    if how == "cut":
        home.cut.add("bad.bin")
    if how == "missing":
        del home.pages["bad.bin"]
    return "http://127.0.0.1:9/bad.bin" if how == "nobody" else home.at("bad.bin")


WRONG = {
    "cut": "the connection broke off",
    "short": f"is cut off after {len(CONTENT) // 2} of {len(CONTENT)} bytes",
    "other": "is not the published file, its SHA-256 differs",
    "missing": "HTTP status 404",
    "nobody": "no connection",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_home_that_misbehaves_is_one_line_and_leaves_nothing(home, folders, monkeypatch, how):
    toy(monkeypatch, misbehave(home, how))
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    line = one_line(error)
    assert line.startswith("cannot download toy/numbers.bin (127.0.0.1:")
    assert WRONG[how] in line
    assert kept(folders) == []


@pytest.mark.parametrize("how", WRONG)
def test_the_second_home_stands_in_for_one_that_misbehaves(home, folders, monkeypatch, how):
    file = toy(monkeypatch, misbehave(home, how), home.at("good.bin"))
    home.pages["good.bin"] = CONTENT
    assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT
    assert kept(folders) == [f"cache/{file.path}"]


def test_a_home_that_falls_silent_is_given_up(home, folders, monkeypatch):
    monkeypatch.setattr(store, "_TIMEOUT", 0.3)
    toy(monkeypatch, home.at("slow.bin"), home.at("good.bin"))
    home.pages |= {"slow.bin": CONTENT, "good.bin": CONTENT}
    home.held.add("slow.bin")
    assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT
    assert home.visits["good.bin"] == 1


def test_every_home_that_was_tried_is_named(home, monkeypatch):
    toy(monkeypatch, home.at("a"), "http://127.0.0.1:9/b")
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    line = one_line(error)
    assert "HTTP status 404; 127.0.0.1:9: no connection" in line
    assert line.endswith("try again later, or put the file into the folder that REPROBOOK_DATA names")


# --------------------------------------------------------------------------- this machine misbehaves


def test_a_disk_without_room_is_told_before_anything_is_asked_for(home, folders, monkeypatch):
    toy(monkeypatch, home.at("numbers.bin"))
    usage = shutil.disk_usage(folders)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**19))
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    assert "0 MiB are free, 2 MiB are needed" in one_line(error)
    assert not home.visits


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_and_asks_no_other_home(home, folders, monkeypatch):
    import pooch

    toy(monkeypatch, home.at("numbers.bin"), home.at("again.bin"))

    def fill(self, url, output_file, *_):
        Path(output_file).write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fill)
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    assert one_line(error) == f"cannot store toy/numbers.bin in {folders / 'cache'}: No space left on device"
    assert kept(folders) == []


def test_a_cache_that_cannot_be_written_is_one_line(home, folders, monkeypatch):
    toy(monkeypatch, home.at("numbers.bin"))
    monkeypatch.setenv("REPROBOOK_CACHE", "/dev/null/cache")
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    assert one_line(error) == "cannot write to the cache /dev/null/cache: Not a directory"


def test_ctrl_c_leaves_nothing(home, folders, monkeypatch):
    import pooch

    toy(monkeypatch, home.at("numbers.bin"))

    def stop(self, url, output_file, *_):
        Path(output_file).write_bytes(CONTENT[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        store.fetch("toy")
    assert kept(folders) == []


# --------------------------------------------------------------------------- other processes

FETCH = f"""
from reprobook.data import catalogue, store
file = catalogue.File("toy/numbers.bin", {len(CONTENT)}, "{hashlib.sha256(CONTENT).hexdigest()}", (HOME,))
catalogue.CATALOGUE["toy"] = catalogue.DataSet("toy", "", "", "", "", "", editions=((file,),))
print(store.fetch("toy")["numbers.bin"].stat().st_size)
"""


def start_fetching(address: str) -> subprocess.Popen:
    code = FETCH.replace("HOME", repr(address))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_process_killed_in_the_middle_leaves_no_file_and_the_next_one_tidies_up(home, folders, monkeypatch):
    file = toy(monkeypatch, home.at("numbers.bin"))
    home.pages["numbers.bin"] = CONTENT
    home.held.add("numbers.bin")
    process = start_fetching(home.at("numbers.bin"))
    wait_for(lambda: any((folders / "cache").rglob("tmp*")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert len(kept(folders)) == 1  # the torn part, where nobody takes it for the file
    assert store.find(file) is None
    home.held.clear()
    assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT
    assert kept(folders) == [f"cache/{file.path}"]


def test_what_another_run_left_in_the_side_room_is_not_used(home, folders, monkeypatch):
    file = toy(monkeypatch, home.at("numbers.bin"))
    home.pages["numbers.bin"] = CONTENT
    room = folders / "cache" / ".incoming" / "toy--numbers.bin"
    (room / "files").mkdir(parents=True)
    (room / "download").write_bytes(CONTENT[:1000])
    assert store.fetch("toy")["numbers.bin"].read_bytes() == CONTENT
    assert kept(folders) == [f"cache/{file.path}"]


def test_two_processes_at_once_download_once(home, folders):
    home.pages["numbers.bin"] = CONTENT
    home.held.add("numbers.bin")
    first = start_fetching(home.at("numbers.bin"))
    wait_for(lambda: home.visits["numbers.bin"])
    second = start_fetching(home.at("numbers.bin"))
    said = second.stderr.readline()
    home.go.set()
    assert "another process is downloading it; waiting" in said
    for process in (first, second):
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, f"{len(CONTENT)}\n"), err
    assert home.visits == {"numbers.bin": 1}
    assert kept(folders) == ["cache/toy/numbers.bin"]


# --------------------------------------------------------------------------- archives

MEMBERS = {"one.txt": b"first", "sub/two.txt": b"second"}


def packed(kind: str, members: dict[str, bytes]) -> bytes:
    """Return a zip or gzipped tar file whose members stand below ``top``, with one file more."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in {**members, "more.txt": b"not asked for"}.items():
                archive.writestr(f"top/{name}", content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in {**members, "more.txt": b"not asked for"}.items():
                member = tarfile.TarInfo(f"top/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed_set(monkeypatch, *homes: str) -> None:
    files = tuple(File(f"toy/{n}", len(c), hashlib.sha256(c).hexdigest()) for n, c in MEMBERS.items())
    toy(monkeypatch, editions=(files,), archives=tuple(Archive(h, "top") for h in homes))


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_files_come_out_of_an_archive_checked_and_nothing_else_stays(home, folders, monkeypatch, kind):
    packed_set(monkeypatch, home.at("archive"))
    home.pages["archive"] = packed(kind, MEMBERS)
    for _ in range(2):
        assert {n: p.read_bytes() for n, p in store.fetch("toy").items()} == MEMBERS
    assert kept(folders) == ["cache/toy/one.txt", "cache/toy/sub/two.txt"]
    assert home.visits == {"archive": 1}


def test_only_the_files_that_are_asked_for_are_unpacked(home, folders, monkeypatch):
    packed_set(monkeypatch, home.at("archive"))
    home.pages["archive"] = packed("zip", MEMBERS)
    assert list(store.fetch("toy", only=["one.txt"])) == ["one.txt"]
    assert kept(folders) == ["cache/toy/one.txt"]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("how", ["short", "a member changed", "a member missing", "no archive"])
def test_a_bad_archive_puts_no_file_in_place_and_the_next_home_is_asked(
    home, folders, monkeypatch, kind, how
):
    changed = {**MEMBERS, "sub/two.txt": b"secund"}
    home.pages["bad"] = {
        "short": packed(kind, MEMBERS)[:-60],
        "a member changed": packed(kind, changed),
        "a member missing": packed(kind, {"one.txt": b"first"}),
        "no archive": b"<html>moved</html>",
    }[how]
    packed_set(monkeypatch, home.at("bad"))
    with pytest.raises(UserError) as error:
        store.fetch("toy")
    assert one_line(error).startswith("cannot download toy (127.0.0.1:")
    assert kept(folders) == []
    packed_set(monkeypatch, home.at("bad"), home.at("good"))
    home.pages["good"] = packed(kind, MEMBERS)
    assert {n: p.read_bytes() for n, p in store.fetch("toy").items()} == MEMBERS


# --------------------------------------------------------------------------- what is shown


def test_without_a_terminal_a_download_is_told_in_lines(home, monkeypatch, capsys):
    toy(monkeypatch, home.at("numbers.bin"))
    home.pages["numbers.bin"] = CONTENT
    store.fetch("toy")
    assert capsys.readouterr().err == "toy/numbers.bin: downloading 1.0 MB\n"


def test_a_log_line_follows_when_the_last_one_is_long_enough_ago(capsys):
    from reprobook.data.showing import Lines

    lines = Lines("a", 4_000_000, pause=0)
    lines.update(1_000_000)
    lines.update(1_000_000)
    said = ["a: downloading 4.0 MB", "a: 1.0 MB of 4.0 MB", "a: 2.0 MB of 4.0 MB"]
    assert capsys.readouterr().err.splitlines() == said
