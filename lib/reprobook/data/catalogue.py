"""Every data set that the book knows, as data: files, hashes, addresses, terms.

Nothing else in this project names an address or a hash. To add a set: an entry in ``CATALOGUE``, its files in
``files.sha256``, and a reader in :mod:`reprobook.data.loading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reprobook.errors import UserError

__all__ = ["File", "Archive", "DataSet", "CATALOGUE", "data_set"]


@dataclass(frozen=True)
class File:
    """A file as its publisher made it.

    Attributes:
        path: where it stands within a data folder, ``set/name``.
        size: its bytes.
        sha256: its hash, in hexadecimal digits.
        homes: addresses that serve exactly this file, tried in this order.
    """

    path: str
    size: int
    sha256: str
    homes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path within the folder of its set."""
        return self.path.partition("/")[2]


@dataclass(frozen=True)
class Archive:
    """A packed folder in which the files of a set are published together.

    Its own hash is not needed, as every file taken out of it is checked.

    Attributes:
        home: its address.
        folder: the folder in it below which the files have the names of :attr:`File.name`.
    """

    home: str
    folder: str


@dataclass(frozen=True)
class DataSet:
    """A data set and how to come by it.

    Attributes:
        name: what the loaders call it.
        title: its full name.
        shape: what is in it.
        purpose: what this book uses it for.
        licence: its terms, as the source states them.
        citation: the work to cite.
        editions: files that hold the whole set; where there are several editions, each does by itself.
        archives: where the files of the first edition can be had packed, tried in this order.
        made_from: the sets that it can be computed from.
        note: what else to know.
    """

    name: str
    title: str
    shape: str
    purpose: str
    licence: str
    citation: str
    editions: tuple[tuple[File, ...], ...] = ()
    archives: tuple[Archive, ...] = ()
    made_from: tuple[str, ...] = ()
    note: str = ""

    @property
    def to_download(self) -> tuple[File, ...] | None:
        """The files of the first edition that has a public address; None if none has."""
        public = (e for e in self.editions if self.archives or all(file.homes for file in e))
        return next(public, None)

    @property
    def size(self) -> int:
        """The bytes of the files that a user needs, downloaded or not."""
        return sum(file.size for file in self.to_download or next(iter(self.editions), ()))

    @property
    def homes(self) -> tuple[str, ...]:
        """The addresses that it is downloaded from, one a site."""
        return (*(self.to_download or [File("", 0, "")])[0].homes, *(a.home for a in self.archives))


def _read_list(path: Path) -> dict[str, tuple[int, str]]:
    """Return size and hash of every file in a list with lines ``sha256 size path``."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {name: (int(size), sha256) for sha256, size, name in rows}


_LISTED = _read_list(Path(__file__).with_name("files.sha256"))


def _files(folder: str, *homes: str, only: tuple[str, ...] = ()) -> tuple[File, ...]:
    """Return the listed files of a folder, each of which every home serves under its own name.

    Args:
        folder: the name of a set.
        homes: addresses, to be completed by a file's name.
        only: the names of the files that are meant; all by default.
    """
    names = [f"{folder}/{name}" for name in only] or [n for n in _LISTED if n.startswith(f"{folder}/")]
    return tuple(File(n, *_LISTED[n], tuple(home + n.partition("/")[2] for home in homes)) for n in names)


#: Every set with files, and every set computed from them, by name.
CATALOGUE: dict[str, DataSet] = {}


def _enter(name: str, title: str, **facts) -> None:
    CATALOGUE[name] = DataSet(name, title, **facts)


_enter(
    "mnist",
    "MNIST, handwritten digits",
    shape="60,000 + 10,000 grey images of 28×28, 10 classes",
    purpose="source of MNIST → MNIST-M",
    licence="CC BY-SA 3.0, as commonly stated",
    citation="LeCun et al. (1998), Gradient-based learning applied to document recognition",
    editions=(
        _files(
            "mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
)
_enter(
    "fashion_mnist",
    "Fashion-MNIST, articles of clothing",
    shape="60,000 + 10,000 grey images of 28×28, 10 classes",
    purpose="another set of MNIST's form",
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf (2017), Fashion-MNIST",
    editions=(
        _files(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
    ),
)
_enter(
    "usps",
    "USPS, digits from envelopes",
    shape="7,291 + 2,007 grey images of 16×16, 10 classes",
    purpose="MNIST ↔ USPS",
    licence="none stated",
    citation="Hull (1994), A database for handwritten text recognition research",
    editions=(
        _files("usps", only=("usps.h5",)),
        _files(
            "usps",
            "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",
            only=("usps.bz2", "usps.t.bz2"),
        ),
    ),
    note="The HDF5 edition has no stable public address; what is downloaded is the edition of LIBSVM.",
)
_enter(
    "amazon_reviews",
    "Amazon reviews, as the DANN authors prepared them",
    shape="4 domains of 2,000 + 3,586 to 5,945 reviews, counts of 5,000 words and word pairs, 2 classes",
    purpose="Table 1 of the DANN paper",
    licence="that of the authors' repository, BSD-style",
    citation="Blitzer, Dredze and Pereira (2007), Biographies, Bollywood, boom-boxes and blenders",
    editions=(
        _files(
            "amazon_reviews",
            "https://raw.githubusercontent.com/GRAAL-Research/domain_adversarial_neural_network/master/data/",
        ),
    ),
)
_enter(
    "mnist_m",
    "MNIST-M as its authors published it, repacked",
    shape="59,000 + 9,000 colour images of 32×32, 10 classes, each with the index of its MNIST digit",
    purpose="target of MNIST → MNIST-M",
    licence="none found; derives from MNIST and BSDS500",
    citation="Ganin et al. (2016), Domain-adversarial training of neural networks",
    editions=(_files("mnist_m"),),
    made_from=("mnist", "bsds500"),
    note="These files have no stable public address; without them, the same images are put together again.",
)
_enter(
    "mnist_m_rebuilt",
    "MNIST-M with other patches, made by this book",
    shape="60,000 + 10,000 colour images of 32×32, 10 classes, each with the index of its MNIST digit",
    purpose="the recipe of MNIST-M, put to the test",
    licence="those of MNIST and BSDS500",
    citation="Ganin et al. (2016), Domain-adversarial training of neural networks",
    made_from=("mnist", "bsds500"),
)
_enter(
    "bsds500",
    "BSDS500, the photographs of the Berkeley segmentation data set",
    shape="200 + 100 + 200 colour photographs of 481×321 or 321×481",
    purpose="backgrounds of MNIST-M",
    licence="non-commercial research and education",
    citation="Arbeláez et al. (2011), Contour detection and hierarchical image segmentation",
    editions=(_files("bsds500"),),
    archives=(
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
            folder="BSR/BSDS500/data/images",
        ),
        Archive(
            "https://github.com/BIDS/BSDS500/archive/refs/heads/master.zip",
            folder="BSDS500-master/BSDS500/data/images",
        ),
    ),
)
_enter(
    "svhn",
    "SVHN, cropped digits of house numbers",
    shape="73,257 + 26,032 colour images of 32×32, 10 classes",
    purpose="SVHN → MNIST",
    licence="non-commercial use only",
    citation="Netzer et al. (2011), Reading digits in natural images with unsupervised feature learning",
    editions=(_files("svhn", "http://ufldl.stanford.edu/housenumbers/"),),
)


def data_set(name: str) -> DataSet:
    """Return a data set by its name.

    Raises:
        UserError: if there is none of that name; the message lists those there are.
    """
    if name not in CATALOGUE:
        raise UserError(f"unknown data set '{name}'; the data sets are: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
