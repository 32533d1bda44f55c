"""Handlers for stored keys: names and dates go out, values only in."""

from __future__ import annotations

from groove_trio.api.calls import Call
from groove_trio.words.credentials import CredentialRequest, CredentialView


async def list_credentials(call: Call[None, None]) -> list[CredentialView]:
    """The stored keys, without their values."""
    return await call.groove.credentials()


async def set_credential(call: Call[None, CredentialRequest]) -> CredentialView:
    """Stores a key; answers when it is on disk."""
    body = call.body
    return await call.groove.set_credential(
        call.params["provider"], body.secret, variable=body.variable, actor=call.actor
    )


async def remove_credential(call: Call[None, None]) -> CredentialView:
    """Forgets a key."""
    return await call.groove.remove_credential(call.params["provider"], actor=call.actor)
