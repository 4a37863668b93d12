"""Who an endpoint is, and where it is: ``Identity`` and ``Address``.

An endpoint *is* its Ed25519 key. Its id is the public key in hex, and the id is part of the address, so whoever has the address can check the peer without any
authority, host name or shared secret.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from aster.errors import AddressError, KeyFileError

__all__ = [
    "Address",
    "Identity",
    "check_advertised",
    "check_endpoint_id",
    "endpoint_id_of",
    "endpoint_id_problem",
    "identity_from",
    "join_host_port",
    "parse_listen",
]

_SCHEME = "aster://"
_EXPECTED = "expected aster://<64 hex digits>@host:port; copy server.address whole"
_EXPECTED_LISTEN = 'expected host:port such as "127.0.0.1:0", "[::1]:0" or "localhost:0"'
_EXPECTED_ADVERTISED = 'expected a host alone, without port or brackets, such as "tasks.example", "192.0.2.7" or "2001:db8::7"'

_HEX_ID = re.compile(r"[0-9a-f]{64}")
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_PORT = re.compile(r"[0-9]{1,5}")
_ADVERTISED_PORT = re.compile(r"^[^:]*:[0-9]*$|\]:[0-9]*$")

_QUOTES = "\"'`<>\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
"""What stands around an address in source text, a shell, prose and mail."""

_SHOWN = 160
"""How much of a malformed text an error message repeats: an address with a long host name, but not a pasted file."""

_KEY_FILE_LIMIT = 16 * 1024
"""A PKCS8 file of an Ed25519 key has 119 bytes; comments may stand around it. What is larger is not a key."""

_PEM_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_MAKE_ONE = "make one with Identity.generate().save(path)"

_WRITE_MENDS = {
    errno.EACCES: "choose a folder that this process's user may write to",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.ENOSPC: "make room, or choose a folder on another disk",
    errno.EDQUOT: "make room, or choose a folder on another disk",
    # What a file system says that knows no hard links, by which a key is put in place without replacing another.
    errno.EPERM: "choose a folder on a file system that allows hard links",
}

# Curve25519 in Edwards form: RFC 8032, section 5.1.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P

_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)
"""The y coordinates of the eight points whose order divides 8. Signatures by such a key prove nothing: anyone can make one."""


class Identity:
    """An Ed25519 key pair. Make one with ``generate`` or ``load``.

    Attributes:
        endpoint_id: the public key, 64 lower-case hex digits.
        private_key: the secret half, for transports and for signing; ``repr`` never shows it.
    """

    __slots__ = ("endpoint_id", "private_key")

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.endpoint_id = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @classmethod
    def generate(cls) -> Identity:
        """A new random identity, which lives as long as the process unless it is saved."""
        return cls(Ed25519PrivateKey.generate())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the key to ``path`` as unencrypted PKCS8 PEM, readable by its owner alone (mode 0600).

        The file appears whole or not at all, also when two processes do this at once. A symbolic link counts as a file that exists, and ``overwrite``
        replaces the link rather than what it leads to. Blocks for one small write.

        Raises:
            TypeError: ``path`` is no path.
            KeyFileError: the file exists and ``overwrite`` is false, or it cannot be written; the message tells why.
        """
        target = _key_path(path)
        pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            _write_private(draft, pem)
            try:
                # A hard link fails when the name is taken, where a rename would replace it.
                publish: Callable[[Path, Path], None] = os.replace if overwrite else os.link
                publish(draft, target)
            finally:
                with suppress(FileNotFoundError):
                    draft.unlink()
        except FileExistsError as exc:
            raise KeyFileError(
                f"key file {str(target)!r} exists already; load it with Identity.load, choose another path, or pass overwrite=True to give up the old identity"
            ) from exc
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR):
                raise _no_folder(target) from exc
            mend = _WRITE_MENDS.get(exc.errno or 0, "choose another path")
            raise KeyFileError(f"key file {str(target)!r} cannot be written: {exc.strerror or exc}; {mend}") from exc

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key that ``save`` wrote, or any unencrypted PEM file with an Ed25519 private key.

        Raises:
            TypeError: ``path`` is no path.
            KeyFileError: the file is missing, cannot be read, may be read by others than its owner, or holds no Ed25519 private key; the message tells these
                apart, and what else is in the file.
        """
        target = _key_path(path)
        name = repr(os.fspath(path))
        pem = _read_private(target, name)
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError as exc:
            raise KeyFileError(f"key file {name} is encrypted, and Aster asks for no passphrase; decrypt it with `openssl pkey -in ... -out ...`") from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise KeyFileError(f"key file {name} {_pem_problem(pem)}") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"key file {name} holds another kind of key ({type(key).__name__}), not an Ed25519 private key; {_MAKE_ONE}")
        return cls(key)

    def __repr__(self) -> str:
        return f"Identity(endpoint_id={self.endpoint_id!r})"


def identity_from(identity: object) -> Identity:
    """What an endpoint's ``identity=`` means: an identity, the path of its key file, or ``None`` for a new one.

    Raises:
        TypeError: it is none of these.
        KeyFileError: the key file cannot be used.
    """
    if identity is None:
        return Identity.generate()
    if isinstance(identity, Identity):
        return identity
    if isinstance(identity, str | os.PathLike):
        return Identity.load(os.fsdecode(identity))  # pyright: ignore[reportUnknownArgumentType] (a path of any kind)
    raise TypeError(f"identity must be an aster.Identity or the path of its key file, not {type(identity).__name__}")


def _key_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance] (None, where a variable is not set)
        raise TypeError(f"the path of a key file must be a str or a Path, not {type(path).__name__}")
    target = Path(path)
    if "-----BEGIN " in str(target):  # and the message must not repeat it
        raise KeyFileError("a private key itself was given where the path of its file belongs; save it in a file for its owner alone, and give the path")
    if not target.name or "\0" in str(target):
        raise KeyFileError(f"{os.fspath(path)!r} names no file that a key could be in; choose a path such as 'server.key'")
    return target


def _no_folder(path: Path) -> KeyFileError:
    return KeyFileError(f"there is no folder {str(path.parent)!r} for the key file {path.name!r}; make it, or correct the path")


def _pem_problem(data: bytes) -> str:
    """Why a file holds no private key that can be used."""
    if not data.strip():
        return f"is empty; {_MAKE_ONE}"
    begin = _PEM_BEGIN.search(data)
    if begin is None:
        return f"holds no private key in PEM form; {_MAKE_ONE}"
    label = begin[1].decode()
    if b"-----END " + begin[1] + b"-----" not in data:
        return f"is cut short: its {label} has a beginning and no end; copy it whole"
    if label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
        return f"holds a PEM block named {label}, not a PRIVATE KEY; {_MAKE_ONE}"
    return f"is damaged: what stands between the lines of its {label} is no key; copy it again, or {_MAKE_ONE}"


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; without O_NONBLOCK a named pipe would block until somebody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_private(path: Path, name: str) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(f"key file {name} is not a regular file; name the PEM file itself")
            if os.name == "posix" and mode & 0o077:
                raise KeyFileError(
                    f"key file {name} has mode {stat.S_IMODE(mode):04o}, so that others than its owner may use it; run `chmod 600` on it, "
                    "and make a new key if others had access"
                )
            data = file.read(_KEY_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError) as exc:
        if not path.parent.is_dir():
            raise _no_folder(path) from exc
        if path.is_symlink():
            raise KeyFileError(f"key file {name} is a symbolic link to {os.readlink(path)!r}, which does not exist; mend the link, or name the file") from exc
        raise KeyFileError(f"key file {name} does not exist; {_MAKE_ONE}") from exc
    except IsADirectoryError as exc:
        raise KeyFileError(f"key file {name} is a directory; name the PEM file in it") from exc
    except OSError as exc:
        raise KeyFileError(f"key file {name} cannot be read: {exc.strerror or exc}; it must be a readable PEM file of this process's user") from exc
    if len(data) > _KEY_FILE_LIMIT:
        raise KeyFileError(f"key file {name} is larger than {_KEY_FILE_LIMIT} bytes, so it is no key file; name the PEM file itself")
    return data


@dataclass(frozen=True, slots=True)
class Address:
    """Who to reach, then where: ``aster://<64 hex digits>@host:port``.

    Attributes:
        endpoint_id: the Ed25519 public key that the peer must prove, 64 lower-case hex digits.
        host: an IPv4 or IPv6 address without brackets, or a host name.
        port: 1 to 65535.

    Raises:
        AddressError: a part is malformed.
        TypeError: a part has another type.
    """

    endpoint_id: str
    host: str
    port: int

    def __post_init__(self) -> None:
        for name, expected in (("endpoint_id", str), ("host", str), ("port", int)):
            if not isinstance(getattr(self, name), expected):
                raise TypeError(f"the {name} of an address must be {expected.__name__}, not {getattr(self, name)!r}")
        object.__setattr__(self, "endpoint_id", check_endpoint_id(self.endpoint_id))
        problem = _host_problem(self.host)
        if problem:
            raise AddressError(f"{problem}; {_EXPECTED}")
        if not 1 <= self.port <= 65535:
            raise AddressError(f"port {self.port} is out of range, use 1 to 65535; {_EXPECTED}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read what ``str(address)`` writes; upper-case hex digits are folded.

        Raises:
            AddressError: ``text`` is malformed; the message names the part.
            TypeError: ``text`` is no ``str``.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
            raise TypeError(f"an address must be a str, as server.address is, not {type(text).__name__}")

        def fail(problem: str) -> NoReturn:
            raise AddressError(f"address {_shown(text)}: {problem}; {_EXPECTED}")

        _check_copy(text, fail)
        if text[: len(_SCHEME)].lower() != _SCHEME:
            fail(_scheme_problem(text))
        endpoint_id, at, place = text[len(_SCHEME) :].partition("@")
        if not at:
            fail("the host and the port are missing" if _HEX_ID.fullmatch(endpoint_id.lower()) else "the endpoint id and the @ after it are missing")
        if not endpoint_id:
            fail("the endpoint id before the @ is missing")
        host, port = _split_place(place, lowest_port=1, fail=fail)
        try:
            return cls(endpoint_id, host, port)
        except AddressError as exc:
            raise AddressError(f"address {_shown(text)}: {exc}") from None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.endpoint_id}@{join_host_port(self.host, self.port)}"


def parse_listen(text: str) -> tuple[str, int]:
    """Split a listening address such as ``"127.0.0.1:0"``, ``"[::1]:0"`` or ``"localhost:0"`` into host and port; port 0 lets the system choose.

    The host must be given. To listen on every interface, say so with ``"0.0.0.0:<port>"`` or ``"[::]:<port>"``; a bare ``":0"`` is refused, since it reads
    like a default and would expose the server.

    Raises:
        AddressError: ``text`` is malformed; the message names the part.
        TypeError: ``text`` is no ``str``.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
        raise TypeError(f"listen must be a str, not {type(text).__name__}; {_EXPECTED_LISTEN}")

    def fail(problem: str) -> NoReturn:
        raise AddressError(f"listen address {_shown(text)}: {problem}; {_EXPECTED_LISTEN}")

    _check_copy(text, fail)
    if text.isdecimal():
        fail("it is a port alone; write the host too")
    if text.lower().startswith(_SCHEME):
        fail("it is the address of a server; a server's own key comes from its identity")
    if "://" in text:
        fail("it is a URL; write host:port")
    if text.startswith(":") and text.count(":") == 1:
        fail('the host is missing; to listen on every interface use "0.0.0.0" or "[::]"')
    if text.startswith("*"):
        fail('"*" is no host; to listen on every interface use "0.0.0.0" or "[::]"')
    host, port = _split_place(text, lowest_port=0, fail=fail)
    problem = _host_problem(host)
    if problem:
        fail(problem)
    return host, port


def check_advertised(host: str) -> str:
    """``host``, if an address can name it.

    Raises:
        AddressError: it is neither an IP address nor a host name.
        TypeError: it is no ``str``.
    """
    if not isinstance(host, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
        raise TypeError(f"advertise must be a str, not {type(host).__name__}; {_EXPECTED_ADVERTISED}")

    def fail(problem: str) -> NoReturn:
        raise AddressError(f"advertise: {problem}; {_EXPECTED_ADVERTISED}")

    _check_copy(host, fail)
    if "://" in host:
        fail(f"{_shown(host)} is a URL, and only its host is advertised")
    if _ADVERTISED_PORT.search(host):
        fail(f"{_shown(host)} has a port, and the server's own is advertised")
    if host.startswith("[") and host.endswith("]"):
        fail(f"{_shown(host)} is in brackets, which are for a host beside its port")
    problem = _host_problem(host)
    if problem:
        fail(problem)
    if _is_ip(host) and ipaddress.ip_address(host).is_unspecified:
        fail(f"{host!r} stands for all addresses of a machine, and clients can connect to none of that name")
    return host


def join_host_port(host: str, port: int) -> str:
    """``host:port``, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_endpoint_id(text: str) -> str:
    """``text`` in lower case, if it is the hex form of a usable Ed25519 public key.

    Raises:
        AddressError: it is not 64 hex digits, or no point of the curve, or a point of small order, under which anyone can sign.
    """
    folded = text.lower()
    problem = endpoint_id_problem(folded)
    if problem:
        raise AddressError(f"the endpoint id {problem}; {_EXPECTED}")
    return folded


def endpoint_id_problem(text: str) -> str:
    """Why ``text`` is not the hex form, in lower case, of a usable Ed25519 public key; or nothing."""
    if _HEX_ID.fullmatch(text):
        return _key_problem(bytes.fromhex(text))
    if len(text) != 64:
        return f"has {len(text)} characters instead of 64 hex digits"
    if _HEX_ID.fullmatch(text.lower()):
        return "has digits in upper case; write it in lower case, as endpoint_id has it"
    return f"contains {next(character for character in text.lower() if character not in '0123456789abcdef')!r}, which is no hex digit"


def endpoint_id_of(key: Ed25519PublicKey) -> str:
    """The endpoint id of a public key.

    Raises:
        AddressError: as ``check_endpoint_id``.
    """
    return check_endpoint_id(key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex())


@lru_cache(maxsize=1024)  # about 100 us each; a server sees the same clients again
def _key_problem(raw: bytes) -> str:
    """Why 32 bytes are no usable public key, or nothing. ``cryptography`` takes any 32 bytes, so the check is made here."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P:
        return "is no Ed25519 public key: its number is too large"
    if y in _SMALL_ORDER_Y:
        return "is a public key of small order, which proves nothing"
    # x*x = (y*y - 1) / (d*y*y + 1) has a solution exactly when the product of the two is a square (Euler's criterion).
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    return "" if pow(u * v, (_P - 1) // 2, _P) == 1 else "is no Ed25519 public key: it is not a point of the curve"


def _check_copy(text: str, fail: Callable[[str], NoReturn]) -> None:
    """Name what copying leaves around a text: nothing of it is dropped in silence, since it may not be all that went wrong."""
    if not text.strip():
        fail("it is empty")
    if text != text.strip():
        fail("there is white space around it, such as the end of a line; strip it")
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        fail("there are quotes around it, or a part of them; remove them")


def _scheme_problem(text: str) -> str:
    """What stands where an address should begin with ``aster://``."""
    scheme, separator, _ = text.partition("://")
    if separator:
        return f"it does not begin with aster://, but with {_shown(scheme + separator)}"
    if "@" in text:
        return "it does not begin with aster://"
    if _HEX_ID.fullmatch(text.lower()):
        return "it is an endpoint id alone, without the host and the port"
    return "it has no endpoint id, by which the server proves who it is"


def _split_place(place: str, *, lowest_port: int, fail: Callable[[str], NoReturn]) -> tuple[str, int]:
    """Take ``host:port`` apart; an IPv6 host must be in brackets, since its colons would be ambiguous."""
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        if not closed:
            fail("the bracket around the IPv6 host is not closed")
        if ":" not in host:
            fail(f"brackets are for IPv6 hosts, and {_shown(host)} is none")
        if not rest.startswith(":"):
            fail("the port is missing")
        port = rest[1:]
    else:
        host, colon, port = place.rpartition(":")
        if not colon:
            fail("the port is missing")
        if ":" in host:
            fail("an IPv6 host must be in brackets, as in [::1]:4433")
    if not host:
        fail("the host is missing")
    if not port:
        fail("the port is missing")
    if port == "0" and lowest_port:
        fail("the port 0 lets a server choose one, and its address has the port that was chosen")
    if not _PORT.fullmatch(port) or not lowest_port <= int(port) <= 65535:
        fail(f"the port {_shown(port)} is not a number from {lowest_port} to 65535")
    return host, int(port)


def _host_problem(host: str) -> str:
    """Why ``host`` is neither an IP address nor a host name, or nothing."""
    if ":" in host:
        return "" if _is_ip(host) else f"the host {_shown(host)} is no IPv6 address"
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdecimal():
        return "" if _is_ip(host) else f"the host {_shown(host)} is no IPv4 address"
    if len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels):
        return ""
    return (
        f"the host {_shown(host)} is neither an IP address nor a host name of letters, digits, '-', '_' and '.' (write an international name in its xn-- form)"
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
