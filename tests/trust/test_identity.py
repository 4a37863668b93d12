"""Key pairs and their files."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from aster.errors import KeyFileError
from aster.trust import Identity, identity_from


def _write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_an_identity_is_its_public_key() -> None:
    identity = Identity.generate()
    assert identity.endpoint_id == identity.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    assert identity.endpoint_id != Identity.generate().endpoint_id


def test_a_saved_identity_is_the_same_when_loaded(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "server.key")
    assert Identity.load(tmp_path / "server.key").endpoint_id == identity.endpoint_id
    assert Identity.load(str(tmp_path / "server.key")).endpoint_id == identity.endpoint_id


def test_repr_shows_the_endpoint_id_and_no_secret() -> None:
    identity = Identity.generate()
    assert repr(identity) == f"Identity(endpoint_id={identity.endpoint_id!r})"


def test_a_saved_key_is_for_its_owner_alone_and_leaves_no_draft(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Identity.generate().save(tmp_path / "server.key")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["server.key"]


def test_a_key_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    first, second = Identity.generate(), Identity.generate()
    first.save(tmp_path / "key")
    with pytest.raises(KeyFileError, match=r"exists already.*overwrite=True"):
        second.save(tmp_path / "key")
    assert Identity.load(tmp_path / "key").endpoint_id == first.endpoint_id
    second.save(tmp_path / "key", overwrite=True)
    assert Identity.load(tmp_path / "key").endpoint_id == second.endpoint_id
    assert os.listdir(tmp_path) == ["key"]


def test_of_two_that_save_at_once_one_wins(tmp_path: Path) -> None:
    identities = [Identity.generate() for _ in range(8)]
    saved: list[str] = []

    def save(identity: Identity) -> None:
        try:
            identity.save(tmp_path / "key")
        except KeyFileError:
            return
        saved.append(identity.endpoint_id)

    threads = [threading.Thread(target=save, args=(identity,)) for identity in identities]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert saved == [Identity.load(tmp_path / "key").endpoint_id]
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_cannot_be_saved_where_there_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(KeyFileError, match=rf"there is no folder '.*{folder}' for the key file 'key'"):
            Identity.generate().save(tmp_path / folder / "key")
        with pytest.raises(KeyFileError, match=rf"there is no folder '.*{folder}' for the key file 'key'"):
            Identity.load(tmp_path / folder / "key")


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (errno.EACCES, "this process's user may write to"),
        (errno.EROFS, "not mounted read-only"),
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EIO, "choose another path"),
    ],
)
def test_what_the_system_does_not_write_is_told_with_its_remedy_and_leaves_nothing(
    code: int, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    # Patched, since no disk is filled by a test; a key is whole on the disk before it has its name.
    monkeypatch.setattr("aster.trust.os.fsync", refuse)
    with pytest.raises(KeyFileError, match=f"cannot be written: {os.strerror(code)}; .*{mend}"):
        Identity.generate().save(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("aster.trust.os.link", refuse)
    with pytest.raises(KeyFileError, match="allows hard links"):
        Identity.generate().save(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_key_is_followed_by_load_and_replaced_by_save(tmp_path: Path) -> None:
    first, second = Identity.generate(), Identity.generate()
    first.save(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert Identity.load(tmp_path / "link").endpoint_id == first.endpoint_id
    with pytest.raises(KeyFileError, match="exists already"):
        second.save(tmp_path / "link")
    second.save(tmp_path / "link", overwrite=True)
    assert Identity.load(tmp_path / "key").endpoint_id == first.endpoint_id
    assert Identity.load(tmp_path / "link").endpoint_id == second.endpoint_id


def test_a_link_to_nothing_is_told_from_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone.key")
    with pytest.raises(KeyFileError, match=r"is a symbolic link to 'gone\.key', which does not exist"):
        Identity.load(tmp_path / "link")


def test_a_key_that_is_given_as_text_is_refused_and_not_repeated() -> None:
    pem = Identity.generate().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for use in (identity_from, Identity.load, Identity.generate().save):
        with pytest.raises(KeyFileError, match="a private key itself was given where the path of its file belongs") as caught:
            use(pem)
        assert pem.splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize("given", [b"server.key", 4433, Identity])
def test_an_identity_of_another_type_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=r"identity must be an aster\.Identity or the path of its key file, not"):
        identity_from(given)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"does not exist; make one with Identity.generate\(\).save"):
        Identity.load(tmp_path / "key")


def test_a_file_without_permission_is_told_from_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    # Patched, since the tests may run as a user for whom no file is unreadable.
    monkeypatch.setattr("aster.trust.os.open", refuse)
    with pytest.raises(KeyFileError, match="cannot be read: Permission denied"):
        Identity.load(tmp_path / "key")


def test_a_directory_and_a_pipe_are_no_key_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is a directory; name the PEM file in it"):
        Identity.load(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        Identity.load(tmp_path / "pipe")


def test_what_is_no_key_file_is_closed_again(tmp_path: Path) -> None:
    def lowest_free() -> int:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.close(descriptor)
        return descriptor

    _write(tmp_path / "empty", b"")
    os.mkfifo(tmp_path / "pipe", 0o600)
    before = lowest_free()
    for path in (tmp_path, tmp_path / "empty", tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(KeyFileError):
            Identity.load(path)
    assert lowest_free() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    Identity.generate().save(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
        Identity.load(tmp_path / "key")


def test_a_file_of_narrower_mode_is_taken(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    assert Identity.load(tmp_path / "key").endpoint_id == identity.endpoint_id


def _pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


_KEY = ed25519.Ed25519PrivateKey.generate()
_PEM = _pem(_KEY)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty; make one"),
        (b"\n\n", "is empty; make one"),
        (b"hello", "holds no private key in PEM form; make one"),
        (_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "holds no private key in PEM form; make one"),
        (_PEM[:20], "holds no private key in PEM form; make one"),
        (_PEM[:40], "is cut short: its PRIVATE KEY has a beginning and no end"),
        (_PEM[:-10], "is cut short: its PRIVATE KEY has a beginning and no end"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is damaged: what stands between the lines of its PRIVATE KEY"),
        (_PEM.replace(b"MC4", b"MC5"), "is damaged: what stands between the lines of its PRIVATE KEY"),
        (_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "holds a PEM block named PUBLIC KEY, not a PRIVATE KEY"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a PEM block named CERTIFICATE, not a PRIVATE KEY"),
        (_pem(_KEY, PrivateFormat.OpenSSH), "holds a PEM block named OPENSSH PRIVATE KEY, not a PRIVATE KEY"),
    ],
)
def test_what_is_no_key_is_told_by_what_it_is(content: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=problem):
        Identity.load(_write(tmp_path / "key", content))


@given(start=st.integers(0, len(_PEM)), length=st.integers(0, len(_PEM)))
def test_any_piece_of_a_key_file_is_the_key_or_a_key_file_error(start: int, length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = _write(tmp_path_factory.mktemp("keys") / "key", _PEM[start : start + length])
    try:
        identity = Identity.load(path)
    except KeyFileError:
        assert _PEM.strip() not in path.read_bytes()
    else:
        assert identity.endpoint_id == Identity(_KEY).endpoint_id


@pytest.mark.parametrize(
    ("key", "form"),
    [
        (ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8),
        (ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL),
        (rsa.generate_private_key(65537, 2048), PrivateFormat.PKCS8),
        (rsa.generate_private_key(65537, 2048), PrivateFormat.TraditionalOpenSSL),
    ],
)
def test_another_kind_of_key_is_told_from_no_key(key: Any, form: PrivateFormat, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"holds another kind of key \((EC|RSA)PrivateKey\), not an Ed25519"):
        Identity.load(_write(tmp_path / "key", _pem(key, form)))


def test_an_encrypted_key_says_how_to_decrypt_it(tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(KeyFileError, match=r"is encrypted.*openssl pkey"):
        Identity.load(_write(tmp_path / "key", pem))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="larger than"):
        Identity.load(_write(tmp_path / "key", b"x" * 1_000_000))


@pytest.mark.parametrize("path", ["", ".", "/", "server\0.key", "keys\0/server.key"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(KeyFileError, match="names no file that a key could be in"):
        Identity.generate().save(path)
    with pytest.raises(KeyFileError, match="names no file that a key could be in"):
        Identity.load(path)


@pytest.mark.parametrize("path", [None, 5, b"server.key"])
def test_a_path_of_another_type_is_named_by_its_type(path: Any) -> None:
    for use in (Identity.load, Identity.generate().save):
        with pytest.raises(TypeError, match=f"^the path of a key file must be a str or a Path, not {type(path).__name__}$"):
            use(path)
