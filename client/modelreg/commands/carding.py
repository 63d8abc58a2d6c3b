"""The model card of `show --card`: its bytes as the manifest names them, from the local store or under a grant."""

import argparse

from blake3 import blake3

from modelreg import cards, grants, pinned
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.commands import now, output_of, settings_of
from modelreg.manifests import FileEntry, Manifest
from modelreg.ranges import GrantedBytes
from modelreg.references import Reference

_MAX_LOCAL_BYTES = 16 * 1024 * 1024  # a larger card is fetched by the chunk, as far as it is shown


def card_text(options: argparse.Namespace, api: Api, reference: Reference, manifest: Manifest, card: FileEntry) -> str:
    """A card's first bytes, measured; where they are not on this machine, a pull is granted, verified and recorded.

    Raises:
        Untrusted: the artifact's signature does not hold, or the bytes are others.
        Refused: the registry's answer.
    """
    settings = settings_of(options)
    try:
        local = Cache(settings.cache_dir).blob_path(card.blake3)
        raw = local.read_bytes() if card.size <= _MAX_LOCAL_BYTES else b""
        if blake3(raw).hexdigest() == card.blake3:
            return cards.text_of(raw)
    except OSError:
        pass  # not here, or not to be read
    reference = Reference(reference.repository, reference.tag, manifest.digest)
    granted = grants.request(
        api,
        pinned.policy_of(settings, output_of(options).note),
        reference,
        purpose="pull",
        host=settings.host_name,
        state_dir=settings.state_dir,
        now=now(),
    )
    return cards.text_of(GrantedBytes(api, granted.grant, granted.verified).read(card.path, 0, cards.MAX_CARD_BYTES))


def lines_of(card: FileEntry, text: str | None) -> list[str]:
    """The card for people; what its author wrote."""
    if text is None:
        return [f"card        {card.path} (--card shows it)"]
    more = ["  …"] if card.size > cards.MAX_CARD_BYTES else []
    return [f"card        {card.path}, as its author wrote it:", *[f"  {line}" for line in text.splitlines()], *more]
