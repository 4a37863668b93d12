"""Key pairs and their files."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from aster.errors import KeyFileError
from aster.trust import Identity


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
    with pytest.raises(KeyFileError, match="cannot be written: No such file or directory"):
        Identity.generate().save(tmp_path / "missing" / "key")


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
    with pytest.raises(KeyFileError, match=r"not a regular file|Is a directory"):
        Identity.load(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        Identity.load(tmp_path / "pipe")


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


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    for content in (
        b"",
        b"hello",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    ):
        with pytest.raises(KeyFileError, match="holds no private key in PEM form"):
            Identity.load(_write(tmp_path / "key", content))


def test_another_kind_of_key_is_told_from_no_key(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyFileError, match="another kind of key, not an Ed25519"):
        Identity.load(_write(tmp_path / "key", pem))


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
