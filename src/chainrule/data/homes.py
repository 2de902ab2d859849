"""Where the files of the named sets come from: the folder CHAINRULE_DATA names, else their public home.

A download happens once, goes to the user's cache, and its SHA-256 is checked before the file gets its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chainrule.data.reading import reason
from chainrule.errors import ChainruleError


@dataclass(frozen=True)
class Home:
    """A file or a folder: its name in CHAINRULE_DATA; the name, address and SHA-256 of its download, if it has one."""

    file: str
    download: str = ""
    url: str = ""
    sha256: str = ""

    def local(self) -> Path | None:
        """The file in CHAINRULE_DATA, when it is there."""
        folder = os.environ.get("CHAINRULE_DATA")
        return Path(folder, self.file) if folder and os.path.lexists(Path(folder, self.file)) else None

    def cached(self) -> Path:
        """Where the download is, or will be."""
        import pooch

        return Path(pooch.os_cache("chainrule")) / self.download

    def find(self) -> Path:
        """A path to read: local, cached, or downloaded now. Its ending tells a download from a local file."""
        return self.local() or self.fetch()

    def fetch(self) -> Path:
        """The checked download; nothing is left behind when it fails. Pooch tells standard error about it."""
        way_out = f"put {self.file} into a folder that CHAINRULE_DATA names"
        if not self.url:
            raise ChainruleError(f"{self.file} is not here, and cannot be fetched: {way_out}")
        import pooch

        path = self.cached()
        try:
            return Path(pooch.retrieve(self.url, f"sha256:{self.sha256}", path.name, path.parent))
        except Exception as error:  # pooch, requests and the disk raise many kinds
            if getattr(error, "response", None) is not None:
                error.response.close()  # type: ignore[attr-defined]  # pooch leaves it open
            raise ChainruleError(f"{self.url} cannot be fetched ({reason(error)}): {way_out}") from error


MNIST = Home(
    "mnist.npz",
    "mnist.npz",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
CIFAR10 = Home(
    "cifar10_first4000.npz",
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
OLIVETTI = Home(
    "olivetti.npz",
    "olivettifaces.mat",
    "https://ndownloader.figshare.com/files/5976027",
    "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",
)
SHAKESPEARE = Home(
    "tinyshakespeare.txt",
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
BSDS = Home("bsds")
CALTECH = Home("caltech101_gray96.npz")
STACKS = Home("stacks.tex.xz")
SST2 = Home("sst2")
MULTI30K = Home("multi30k")
FSDD = Home("fsdd.npz")
PIANO = Home("piano_12khz.npz")
