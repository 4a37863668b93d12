"""Whom a server admits and what it grants them: the options ``admit=`` and ``authorize=``.

Both are asked when a peer connects, ``admit=`` first, and the answers hold for that connection. Credentials that peers bring along are to be judged here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TypeAlias, cast

from aster.trust import endpoint_id_problem
from aster.types import Peer

__all__ = ["Admit", "Authorize", "Policy"]

_Granted: TypeAlias = "str | Iterable[str] | None"

Admit: TypeAlias = "Collection[str] | Callable[[Peer], bool | Awaitable[bool]]"
"""Endpoint ids, or a function that tells whether a peer is admitted."""

Authorize: TypeAlias = "Mapping[str, str | Collection[str]] | Callable[[Peer], _Granted | Awaitable[_Granted]]"
"""What each endpoint id is granted, or a function that tells what a peer is granted."""


class Policy:
    """The two options, checked once and asked for each connection.

    A collection or a mapping is looked at each time, so that what is added to it or taken out holds for the next connection.

    Args:
        admit: who may connect; ``None`` for everyone.
        authorize: what a peer holds; ``None`` for nothing.

    Raises:
        TypeError: one of them is something else, or what is in it.
        ValueError: an endpoint id is malformed, or a role is empty.
    """

    def __init__(self, admit: Admit | None, authorize: Authorize | None) -> None:
        self._admit = _everyone if admit is None else _admission(admit)
        self._authorize = _nothing if authorize is None else _authorization(authorize)

    async def admits(self, peer: Peer) -> bool:
        """Whether a peer may connect.

        Raises:
            Exception: the function raised it, or a TypeError for what it returned: nobody is admitted by mistake.
        """
        answer = await _answer(self._admit(peer))
        if not isinstance(answer, bool):
            raise TypeError(f"the function given as admit must return True or False, not {answer!r}")
        return answer

    async def capabilities_of(self, peer: Peer) -> frozenset[str]:
        """What a peer holds.

        Raises:
            Exception: as ``admits``.
        """
        return _held(await _answer(self._authorize(peer)), f"authorize for {peer.endpoint_id}")


def _everyone(peer: Peer) -> object:
    return True


def _nothing(peer: Peer) -> object:
    return None


async def _answer(answer: object) -> object:
    return await cast("Awaitable[object]", answer) if inspect.isawaitable(answer) else answer


def _admission(admit: object) -> Callable[[Peer], object]:
    if callable(admit):
        return admit
    if isinstance(admit, str | bytes):
        raise TypeError("admit takes a collection of endpoint ids, or a function of a Peer: write [...] around a single id")
    if isinstance(admit, Mapping):
        raise TypeError("admit takes a collection of endpoint ids, or a function of a Peer, not a mapping: roles go into authorize=")
    if not isinstance(admit, Collection):
        raise TypeError(f"admit takes a collection of endpoint ids, such as a list or a set, or a function of a Peer, not {admit!r}")
    admitted = cast("Collection[object]", admit)
    for endpoint_id in admitted:
        _check_id(endpoint_id, "admit")
    return lambda peer: peer.endpoint_id in admitted


def _authorization(authorize: object) -> Callable[[Peer], object]:
    if isinstance(authorize, Mapping):
        holders = cast("Mapping[object, object]", authorize)
        for endpoint_id, roles in holders.items():
            _check_id(endpoint_id, "authorize")
            if not isinstance(roles, Collection):  # an iterator could be read once, and not again for the next connection
                raise TypeError(f"authorize for {endpoint_id} must give a role or a list of roles, not {roles!r}")
            _held(cast("object", roles), f"authorize for {endpoint_id}")
        return lambda peer: holders.get(peer.endpoint_id)
    if callable(authorize):
        return authorize
    raise TypeError(f"authorize takes a mapping of endpoint ids to roles, or a function of a Peer, not {authorize!r}")


def _check_id(endpoint_id: object, option: str) -> None:
    if not isinstance(endpoint_id, str):
        raise TypeError(f"{option}: an endpoint id must be a str, as client.endpoint_id is, not {endpoint_id!r}")
    problem = endpoint_id_problem(endpoint_id)
    if problem:
        raise ValueError(f"{option}: the endpoint id {endpoint_id!r} {problem}")


def _held(roles: object, where: str) -> frozenset[str]:
    """Roles as a set; a ``str`` is one of them, and no collection of letters."""
    if roles is None:
        return frozenset()
    if isinstance(roles, str):
        roles = (roles,)
    if isinstance(roles, Mapping):
        raise TypeError(f"{where} must give a role or a list of roles, not a mapping, all of whose keys would be granted: {roles!r}")
    if not isinstance(roles, Iterable):
        raise TypeError(f"{where} must give a role or a list of roles, not {roles!r}")
    held = tuple(cast("Iterable[object]", roles))
    for role in held:
        if not isinstance(role, str):
            raise TypeError(f"{where} must give roles as str, not {role!r}")
        if not role:
            raise ValueError(f"{where} gives an empty role, which nothing requires: name it, or leave it out")
    return frozenset(cast("tuple[str, ...]", held))
