"""Weights by reference: a spec, which holds no arrays, names the file that a network's parameters come from, and `nnkit.compile` reads it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import attrs
import numpy as np

from nnkit.spec import Spec, is_of_family, spec

if TYPE_CHECKING:
    from nnkit.network import Container
    from nnkit.nodes import Graph

__all__ = ["Pretrained", "data_folder", "pretrained_networks", "weights_field"]

Names = tuple[tuple[str, str], ...]

HASH = re.compile("md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,64}")
URL = re.compile(r"https?://[^/\s]+/\S*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
FILE_NAME = re.compile(r"[\w+-][\w.+-]*")                # of a URL: it becomes the name of a file here


def _refuse(instance: Any, attribute: Any, rule: str, value: object) -> ValueError:
    return ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {value!r}")


def _as_path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_path(instance: Any, attribute: Any, value: Any) -> None:
    good = isinstance(value, str) and bool(value) and "\0" not in value
    if good and SCHEME.match(value):
        good = bool(URL.fullmatch(value) and FILE_NAME.fullmatch(_file_name(value)))
    if not good:
        raise _refuse(instance, attribute, "the path of a file or the https:// address of one", value)


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _check_hash(instance: Any, attribute: Any, value: object) -> None:
    if value is not None and not (isinstance(value, str) and HASH.fullmatch(value)):
        raise _refuse(instance, attribute, "'md5:' with 32 digits, 'sha256:' with the first 8 to 64 digits, in lower case, or None", value)


def _as_pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(value.items())
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value) if isinstance(value, (list, tuple)) else value


def _check_names(instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    pairs = isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
                                             for pair in value)
    if not pairs or len({own for own, _ in value}) < len(value):
        raise _refuse(instance, attribute, "pairs (own name of a layer, its name in the file), each own name once, or None", value)


@spec()
class Pretrained(Spec):
    """The file that the parameters of a network come from: `Sequential(layers, weights=Pretrained("base.nnkit"))`.

    `nnkit.compile` reads it, also where the network is a layer of a larger one. The file must hold every parameter of the network; what it holds
    besides is left there. Any file that nnkit reads will do: its own, Keras' .weights.h5, .keras and .h5, PyTorch's .pt and .pth, safetensors.

    path: of the file; or an address, https://.../name: then the file of that name in the folder of data (`data_folder`) where there is one, else it
    is fetched into that folder, with pooch.
    hash: "md5:" with 32 hexadecimal digits, or "sha256:" with 8 to 64: the first ones, as names of PyTorch's files carry them. It is checked before
    anything else of the file is looked at. None (default): not checked.
    names: pairs (own name of a layer, its name in the file), or a dict; in both names one `*` stands for the same text. Layers that are not named
    there have the same name in the file. torch_names: the same, in place of `names` where the file has the names of PyTorch's modules (.pt, .pth,
    and safetensors that nnkit did not write), so that one reference fits either kind.

    Raises ValueError for a field that is none of these. What compile raises: FileNotFoundError where there is no file; `FormatError` for a file
    with another hash or that is damaged; ValueError, with the first ten names and shapes, for one of another network; ImportError without the
    package that reads or fetches it; OSError where it cannot be fetched.

    >>> Pretrained("vgg16-397923af.pth", hash="sha256:397923af", names={"conv*": "features.*"})
    Pretrained('vgg16-397923af.pth', hash='sha256:397923af', names=(('conv*', 'features.*'),))
    """

    family: ClassVar[str] = "weights"

    path: str = attrs.field(converter=_as_path, validator=_check_path)
    hash: str | None = attrs.field(default=None, validator=_check_hash, kw_only=True)
    names: Names | None = attrs.field(default=None, converter=_as_pairs, validator=_check_names, kw_only=True)
    torch_names: Names | None = attrs.field(default=None, converter=_as_pairs, validator=_check_names, kw_only=True)

    @property
    def is_url(self) -> bool:
        """Whether the path is an address."""
        return bool(SCHEME.match(self.path))

    def locate(self) -> Path:
        """The file here, with the right hash; fetched where it has to be. Raises as the class says."""
        path = data_folder() / _file_name(self.path) if self.is_url else Path(self.path).expanduser()
        if self.is_url and not path.exists():
            self._fetch(path)
            return path
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of weights {str(path)!r}")
        self._check(path, str(path))
        return path

    def read(self, graph: Graph, what: str) -> dict[str, np.ndarray]:
        """Arrays for all parameters of the graph by name, but for states of stateful layers. what: the network in messages. Raises as the class."""
        from nnkit.io.report import compare
        from nnkit.io.weights import has_torch_names, kind_of, read_weights

        path = self.locate()
        names = self.torch_names if self.torch_names is not None and has_torch_names(path, kind_of(path)) else self.names
        found, unused = read_weights(path, graph, dict(names) if names is not None else None)
        own = {name: declared.shape for name, declared in graph.parameters().items() if not declared.is_state}
        compare(own, found, unused).check(f"{what}: the file {str(path)!r}")
        return {name: found[name] for name in own}

    def _fetch(self, path: Path) -> None:
        """Fetch the file; it gets its name only when it is whole and its hash right."""
        try:
            from pooch import HTTPDownloader
        except ImportError:
            raise ImportError(f"{self.path} is fetched with pooch, which is not installed: pip install 'nnkit[io]', or put the file at "
                              f"{str(path)!r}") from None
        if not os.environ.get("NNKIT_QUIET"):
            print(f"nnkit: fetching {self.path} into {path.parent}", file=sys.stderr)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            HTTPDownloader()(self.path, str(part), None)
            self._check(part, self.path)
            os.replace(part, path)
        except OSError as error:                         # those of requests are OSErrors, too
            raise OSError(f"{self.path} could not be fetched: put the file at {str(path)!r}, or give the path of one "
                          f"({type(error).__name__}: {str(error)[:120]})") from None
        finally:
            with contextlib.suppress(OSError):           # gone already, or never begun
                part.unlink()

    def _check(self, path: Path, what: str) -> None:
        """Raise FormatError for a file with another hash."""
        if self.hash is None:
            return
        from nnkit.io.report import FormatError

        kind, _, expected = self.hash.partition(":")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
        if not digest.startswith(expected):
            raise FormatError(f"{what!r} must have the hash {self.hash}, received {kind}:{digest[:len(expected)]}: it is damaged or another file")


def data_folder() -> Path:
    """Where files are looked for that an address names, and where they are kept: $NNKIT_DATA, or the folder "weights" in the user's cache folder."""
    from nnkit.runtime.store import default_folder

    root = os.environ.get("NNKIT_DATA")
    return Path(root).expanduser() if root else default_folder() / "weights"


def pretrained_networks(network: Container, prefix: str = "") -> Iterator[tuple[str, Container, Pretrained]]:
    """Networks that name a file, the one itself or within: (what the names of their parameters begin with, network, its reference). Those inside of
    another one that names a file are passed over: its file holds their parameters, too."""
    from nnkit.network import unique_names

    if network.weights is not None:
        yield prefix, network, network.weights
        return
    for name, layer in zip(unique_names(network.layers), network.layers, strict=True):
        if is_of_family(layer, "network"):
            yield from pretrained_networks(layer, f"{prefix}{name}/")  # type: ignore[arg-type]


def weights_field() -> Any:
    """The field `weights` of a network: a Pretrained, a path, or None."""
    def check(instance: Any, attribute: Any, value: object) -> None:
        if value is not None and not is_of_family(value, "weights"):
            raise _refuse(instance, attribute, "a Pretrained, a path or None", value)
    return attrs.field(default=None, validator=check, kw_only=True,
                       converter=lambda value: Pretrained(os.fspath(value)) if isinstance(value, (str, os.PathLike)) else value)
