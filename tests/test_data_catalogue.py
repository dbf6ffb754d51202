"""The catalogue of data sets and the commands about it."""

import hashlib
import os
import pty
import re
import select
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from docutils import nodes
from scipy.io import savemat

from reprobook.cli import main
from reprobook.data import catalogue, load_images, load_reviews, store
from reprobook.data.catalogue import CATALOGUE, DataSet, File, data_set
from reprobook.data.loading import DOMAINS, IMAGE_SETS
from reprobook.data.store import find_set
from reprobook.errors import UserError
from reprobook.sphinx_data import _section  # which brings all sets in

ROOT = Path(__file__).resolve().parents[1]
FILES = [f for entry in CATALOGUE.values() for edition in entry.editions for f in edition]


# --------------------------------------------------------------------------- the catalogue


def test_every_listed_file_belongs_to_exactly_one_set_and_has_a_hash_of_its_own():
    assert sorted(f.path for f in FILES if not f.path.startswith("cifar")) == sorted(catalogue._LISTED)
    hashes = [f.sha256 for f in FILES]
    assert all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)
    assert len(set(hashes)) == len(hashes)
    assert all(f.size > 0 and f.path.split("/")[0] in CATALOGUE for f in FILES)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_a_set_says_what_it_is_and_on_what_terms(entry):
    assert all([entry.title, entry.shape, entry.purpose, entry.licence, entry.citation])
    assert re.search(r"\(\d{4}\)", entry.citation)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_a_set_can_be_had_somehow(entry):
    assert entry.homes or all(data_set(part).homes for part in entry.made_from)
    assert entry.homes or entry.made_from
    assert entry.editions or entry.made_from


def test_homes_are_addresses_of_files_each_on_another_host():
    for file in FILES:
        hosts = [urlsplit(home).netloc for home in file.homes]
        assert len(set(hosts)) == len(hosts)
        assert all(home.startswith(("http://", "https://")) for home in file.homes)
        assert all(home.endswith(f"/{file.name}") for home in file.homes)


def test_every_set_of_images_has_a_loader_and_bsds500_and_reviews_have_their_own():
    assert set(IMAGE_SETS) | {"amazon_reviews", "bsds500", "cifar10", "cifar100"} == set(CATALOGUE)


def test_the_package_brings_its_lists_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["reprobook.data"]
    folder = ROOT / "lib" / "reprobook" / "data"
    brought = {path for pattern in patterns for path in folder.glob(pattern)}
    other = {p for p in folder.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert brought == other


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_the_page_about_a_set_says_all_of_it(entry):
    section = _section(entry)
    words = " ".join(section.astext().split())
    told = (entry.name, entry.title, entry.shape, entry.purpose, entry.licence, entry.citation, entry.note)
    assert [fact for fact in told if fact not in words] == []
    links = [node["refuri"] for node in section.findall(nodes.reference)]
    assert links == list(entry.homes)
    assert all(part in words for part in entry.made_from)
    if entry.editions:
        assert f"{entry.size / 1e6:.1f} MB" in words


# --------------------------------------------------------------------------- the loaders

SHAPES = {
    "mnist": ((60000, 1, 28, 28), (10000, 1, 28, 28)),
    "fashion_mnist": ((60000, 1, 28, 28), (10000, 1, 28, 28)),
    "usps": ((7291, 1, 16, 16), (2007, 1, 16, 16)),
    "mnist_m_rebuilt": (None, (10000, 3, 32, 32)),  # the training set is loaded elsewhere
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_set_of_images_has_its_shape_and_ten_classes_none_of_them_rare(name):
    for split, shape in zip(("train", "test"), SHAPES[name], strict=True):
        if shape is None:
            continue
        parts = data_set(name).made_from or (name,)
        if not all(map(find_set, parts)):
            pytest.skip(f"{name} is not on this machine (set REPROBOOK_DATA)")
        data = load_images(name, split)
        assert data.images.shape == shape
        assert data.labels.shape == shape[:1]
        assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
        counts = np.bincount(data.labels)
        assert len(counts) == 10
        assert counts.min() > 0.06 * len(data)


def test_the_mean_image_of_a_digit_looks_like_that_digit_in_another_set():
    """Labels and images belong together: means of USPS are nearest to means of MNIST of the same label."""
    if not (find_set("mnist") and find_set("usps")):
        pytest.skip("mnist and usps are not on this machine (set REPROBOOK_DATA)")

    def means(name: str) -> np.ndarray:
        data = load_images(name, "test")
        if name == "mnist":  # 20 of 28 pixels hold the digit, 4 of 5 of them are kept
            images = data.images[:, 0, 4:24, 4:24].reshape(-1, 4, 5, 4, 5).mean((2, 4))
        else:
            images = data.images[:, 0].reshape(-1, 4, 4, 4, 4).mean((2, 4))
        found = np.stack([images[data.labels == k].mean(0).ravel() for k in range(10)])
        return (found - found.mean(0)) / np.linalg.norm(found - found.mean(0), axis=1, keepdims=True)

    assert ((means("usps") @ means("mnist").T).argmax(1) == np.arange(10)).mean() >= 0.9


@pytest.mark.parametrize("domain", DOMAINS)
def test_reviews_have_their_published_numbers(domain):
    if not find_set("amazon_reviews"):
        pytest.skip("amazon_reviews is not on this machine (set REPROBOOK_DATA)")
    train, labels = load_reviews(domain, "train")
    test, test_labels = load_reviews(domain, "test")
    assert train.shape == (2000, 5000)
    assert test.shape == ({"books": 4465, "dvd": 3586, "electronics": 5681, "kitchen": 5945}[domain], 5000)
    assert labels.sum() == 1000
    assert 0.45 < test_labels.mean() < 0.55
    for table in (train, test):
        assert table.dtype == np.float32
        assert table.min() == 0
        np.testing.assert_array_equal(table.data, np.rint(table.data))  # counts


def test_svhn_in_the_official_format_is_loaded(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    (tmp_path / "svhn").mkdir()
    path = tmp_path / "svhn" / "test_32x32.mat"
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [2], [9]], np.uint8)})
    file = File("svhn/test_32x32.mat", 1, hashlib.sha256(path.read_bytes()).hexdigest())
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    monkeypatch.setitem(CATALOGUE, "svhn", DataSet("svhn", **words, editions=((file,),)))
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))
    data = load_images("svhn", "test")
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_images("mnst", "train"), "unknown image set 'mnst'; allowed: mnist, fashion_mnist,"),
        (lambda: load_images("mnist", "valid"), "unknown split 'valid'; allowed: train, test"),
        (lambda: load_reviews("toys", "train"), "unknown domain 'toys'; allowed: books, dvd, electronics,"),
        (lambda: load_reviews("books", "all"), "unknown split 'all'; allowed: train, test"),
    ],
)
def test_a_wrong_name_is_one_line_that_says_what_is_allowed(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(message)


# --------------------------------------------------------------------------- the commands


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A catalogue of three sets: one that is here, one whose file is wrong, one made from the first."""
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    good, bad = (
        File(f"{name}/a.bin", 2_500_000, hashlib.sha256(b"abc").hexdigest()) for name in ("good", "bad")
    )
    sets = (
        DataSet("good", **words, editions=((good,),)),
        DataSet("bad", **words, editions=((bad,),), note="ask its authors"),
        DataSet("made", **words, made_from=("good",)),
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {entry.name: entry for entry in sets})
    monkeypatch.setattr(store, "_checked", set())
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    for name, content in (("good", b"abc"), ("bad", b"xyz")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "a.bin").write_bytes(content)
    return tmp_path


def test_list_shows_size_licence_and_where_each_set_is(shelf, capsys):
    (shelf / "cache").mkdir()
    (shelf / "mine" / "bad").rename(shelf / "cache" / "bad")
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split(r"\s{2,}", line) for line in lines[:4]]
    assert cells == [
        ["data set", "what it holds", "size", "licence", "here"],
        ["good", "toy", "2.5 MB", "toy", "✓ REPROBOOK_DATA"],
        ["bad", "toy", "2.5 MB", "toy", "✓ cache"],
        ["made", "toy", "–", "toy", "✓ made from good"],
    ]
    assert lines[-2:] == [f"REPROBOOK_DATA: {shelf / 'mine'}", f"cache: {shelf / 'cache'}"]


def test_list_tells_what_is_not_here(shelf, capsys):
    (shelf / "mine" / "good" / "a.bin").unlink()
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("– no")
    assert lines[3].endswith("– made from good")


def test_verify_fails_on_a_wrong_file_and_names_it(shelf, capsys):
    assert main(["data", "verify"]) == 1
    out = capsys.readouterr().out
    assert "✓ 1 file as published" in out
    assert re.search(f"✗ 1 of 1 file wrong +{shelf}/mine/bad/a.bin$", out, re.MULTILINE)


@pytest.mark.parametrize(("name", "code"), [("good", 0), ("bad", 1), ("made", 1)])
def test_verify_of_one_set_fails_unless_it_is_complete(shelf, capsys, name, code):
    assert main(["data", "verify", name]) == code


def test_verify_passes_over_what_is_not_here_unless_it_is_asked_for(shelf, capsys):
    (shelf / "mine" / "bad" / "a.bin").unlink()
    assert main(["data", "verify"]) == 0
    assert "– not here" in capsys.readouterr().out
    assert main(["data", "verify", "bad"]) == 1


def test_fetch_says_where_the_files_are_also_of_a_set_made_from_others(shelf, capsys):
    assert main(["data", "fetch", "good", "made"]) == 0
    where = f"good: 1 file in {shelf / 'mine' / 'good'}"
    assert capsys.readouterr().out.splitlines() == [
        where,
        where,
        "made: is made from good whenever it is loaded",
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data", "fetch", "nope"], 1, "unknown data set 'nope'; the data sets are: good, bad, made"),
        (["data", "verify", "nope"], 1, "unknown data set 'nope'"),
        (["data", "fetch", "bad"], 1, "{shelf}/mine/bad/a.bin is not the published file, its SHA-256"),
        (["data", "fetch"], 2, "Missing argument 'NAME...' (see reprobook data fetch --help)"),
        (["data", "fetsh"], 2, "No such command 'fetsh'"),
    ],
)
def test_a_mistake_is_one_line(shelf, capsys, words, code, message):
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"reprobook: {message.format(shelf=shelf)}")
    assert err.count("\n") == 1


def test_fetch_without_a_network_is_one_line(shelf, capsys, monkeypatch):
    (shelf / "mine" / "bad" / "a.bin").unlink()
    entry = catalogue.CATALOGUE["bad"]
    file = File("bad/a.bin", 3, entry.editions[0][0].sha256, ("http://127.0.0.1:9/a.bin",))
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    monkeypatch.setitem(catalogue.CATALOGUE, "bad", DataSet("bad", **words, editions=((file,),)))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert main(["data", "fetch", "bad"]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("reprobook: cannot download bad/a.bin (127.0.0.1:9: no connection): try again")


@pytest.mark.parametrize("words", [["data"], ["data", "--help"]])
def test_help_names_every_command(capsys, words):
    assert main(words) == 0
    out = capsys.readouterr().out.partition("Commands:")[2]
    assert re.findall(r"^  (\w+) {2,}[A-Z]", out, re.MULTILINE) == ["list", "fetch", "verify"]
    assert "..." not in out


def test_listing_imports_neither_torch_nor_the_readers():
    heavy = {"torch", "scipy", "sklearn", "h5py", "matplotlib", "PIL", "requests"}
    code = "import sys; from reprobook.cli import main; main(['data', 'list']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()


def on_a_terminal(code: str) -> str:
    """Run Python on a pseudo-terminal and return what it showed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(10) == 0, shown
    return shown.decode()


def test_on_a_terminal_the_list_is_framed_and_a_download_has_a_bar():
    framed = on_a_terminal("from reprobook.cli import main; main(['data', 'list'])")
    assert framed.startswith("┏━━")
    assert "data set" in framed.splitlines()[1]
    shown = on_a_terminal(
        "from reprobook.data.showing import download_bar\n"
        "bar = download_bar('toy/a.bin', 0)\n"
        "bar.total = 4_000_000\n"
        "bar.update(1_000_000)\n"
        "bar._bars.refresh()\n"
        "bar.reset(); bar.update(bar.total); bar.close()\n"
    )
    assert "toy/a.bin" in shown
    assert re.search(r"1\.0/4\.0\s*MB", shown)
    assert re.search(r"4\.0/4\.0\s*MB", shown)
