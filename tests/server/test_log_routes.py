"""The log over HTTP: head, proofs and tiles lead to one signed root, and who may have which."""

import hashlib
from base64 import b64decode
from datetime import UTC, datetime

import pytest

from modelreg import checkpoints, log_state, merkle, notes, tiles, trust
from modelreg.canonical import canonical_json
from modelreg.durable import replace_file
from modelreg.errors import NotFound
from modelreg.trust import LogTrust
from modelreg_server import custody, log_keys
from modelreg_server.custody import Actor, Event, EventType
from support.registry import running_registry

ENTRIES = 600  # two full tiles, a partial one, and a level above


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def long(request, tmp_path_factory):
    """A registry whose log has some hundred entries, and what a trust policy pins of it."""
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("long")
    with running_registry(tmp_path_factory.mktemp("long"), **settings) as registry:
        registry.api()
        with registry.parts.database.writing() as session, session.begin():
            for number in range(ENTRIES):
                actor = Actor(f"person:p{number % 3}", None)
                custody.append(session, actor, Event(EventType.TAG_MOVED, detail={"n": number}), datetime.now(UTC))
        yield registry


@pytest.fixture
def trusted(long):
    signer = long.parts.database.log_signer
    return LogTrust(signer.origin, (log_keys.verifier_of(signer),))


def hashes_of(proof):
    return notes.decode_hashes(proof.hashes, merkle.MAX_PROOF_HASHES)


def test_every_entry_is_proved_in_the_signed_head(long, trusted):
    api = long.api()
    api.whoami()  # it notes the token's use, which appends nothing
    head = checkpoints.verify(api.log_checkpoint(), trusted)
    assert head.size > ENTRIES
    for start in range(0, head.size, 256):
        found = api.log_entries(start, head.size)
        for at, text in enumerate(found.entries, start):
            if at % 37 and at not in {255, 256, 511, 512, head.size - 1}:
                continue
            path = hashes_of(api.log_proof(at, head.size))
            merkle.verify_inclusion(merkle.leaf_hash(b64decode(text)), at, head.size, path, head.root)


def test_every_older_log_is_the_beginning_of_the_head(long, trusted):
    api = long.api()
    head = checkpoints.verify(api.log_checkpoint(), trusted)
    read = tiles.reader(head.size, lambda tile: api.log_tile(tile.path))
    for old in (1, 2, 255, 256, 257, 511, 512, 600, head.size):
        proof = hashes_of(api.log_consistency(old, head.size))
        merkle.verify_consistency(old, merkle.root(old, read), head.size, head.root, proof)


def test_the_tiles_make_the_root_and_the_bundles_make_the_tiles(long, trusted):
    api = long.api()
    head = checkpoints.verify(api.log_checkpoint(), trusted)
    read = tiles.reader(head.size, lambda tile: api.log_tile(tile.path))
    assert merkle.root(head.size, read) == head.root
    for tile in tiles.tiles_of(head.size):
        if tile.level is None:
            entries = tiles.split_entries(api.log_tile(tile.path), tile.width)
            assert [merkle.leaf_hash(entry) for entry in entries] == read(tile.nodes())


def test_an_opening_opens_its_commitment_and_an_erased_one_is_missing(long):
    found = long.api().log_entries(10, 20)
    assert found.openings
    for opening in found.openings:
        assert hashlib.sha256(b64decode(opening.salt) + canonical_json(opening.body)).hexdigest() == opening.commitment


def test_entries_are_cut_at_256_and_at_the_end(long, trusted):
    api = long.api()
    size = checkpoints.verify(api.log_checkpoint(), trusted).size
    assert len(api.log_entries(0, 2**62).entries) == 256
    assert len(api.log_entries(size - 3, 2**62).entries) == 3
    assert api.log_entries(size, size + 5).entries == []
    assert api.log_entries(5, 5).entries == api.log_entries(7, 3).entries == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.log_proof(0, 10**6),
        lambda api: api.log_proof(7, 7),
        lambda api: api.log_consistency(2, 10**6),
        lambda api: api.log_consistency(3, 2),
        lambda api: api.log_tile("0/900"),
        lambda api: api.log_tile("entries/900.p/1"),
        lambda api: api.log_tile("1/000"),
    ],
)
def test_what_the_log_does_not_have_is_not_found(long, ask):
    with pytest.raises(NotFound):
        ask(long.api())


@pytest.mark.parametrize(
    "path",
    ["0", "0/1", "0/0000", "00/000", "8/000", "0/x000/000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "entries/../000",
     "0/000.p/1/", "data/000", "7/x999/x999/x999/x999/x999/x999/999"],
)  # fmt: skip
def test_a_path_that_no_tile_has_is_refused(long, http_to, path):
    answer = http_to(long.url)("GET", f"/v1/log/tile/{path}", long.token())
    assert answer.status in {404, 422}, answer


def test_whoever_has_any_token_may_see_hashes_and_only_auditors_of_everything_entries(long, http_to):
    http = http_to(long.url)
    host, some = long.token("workload:w", "pull:demo/x"), long.token("person:some", "audit:demo/*")
    auditor = long.token("person:auditor", "audit:*/*")
    for token in (host, some, auditor):
        for path in ("checkpoint", "tile/0/000", "tile/1/000.p/2", "proof?index=3&size=500", "consistency?old=3&new=5"):
            assert http("GET", f"/v1/log/{path}", token).status == 200
    for path in ("entries?start=0&end=5", "tile/entries/000", "tile/entries/000.p/7"):
        assert http("GET", f"/v1/log/{path}", auditor).status == 200
        for token in (host, some):
            assert (answer := http("GET", f"/v1/log/{path}", token)).status == 403, answer
        assert http("GET", f"/v1/log/{path}").status == 401


def test_the_checkpoint_is_plain_text_and_not_kept_by_caches(long, http_to):
    answer = http_to(long.url)("GET", "/v1/log/checkpoint", long.token())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


def test_an_auditor_verifies_the_whole_log_from_the_registry_and_from_its_copies(own_registry, tmp_path):
    from modelreg_server import log_copies
    from support.registry import cli

    registry = own_registry
    signer = registry.parts.database.log_signer
    table = f'\n[log]\norigin = "{signer.origin}"\nkeys = ["{log_keys.verifier_of(signer)}"]\n'
    unpinned = registry.trust.policy_path.read_text().partition("[log]")[0]
    policies = {"pinned": unpinned + table, "unpinned": unpinned}
    for name, words in policies.items():
        (tmp_path / f"{name}.toml").write_text(words)
    env = {**registry.environment(tmp_path / "home"), "MODELREG_TRUST_POLICY": str(tmp_path / "pinned.toml")}
    without = {**env, "MODELREG_TRUST_POLICY": str(tmp_path / "unpinned.toml")}
    assert cli("log", "verify", env=without).returncode == 1
    with registry.parts.database.writing() as session, session.begin():
        for number in range(300):
            event = Event(EventType.TAG_MOVED, detail={"n": number})
            custody.append(session, Actor("person:a", None), event, datetime.now(UTC))

    verified = cli("log", "verify", "--json", env=env)
    assert verified.returncode == 0, verified.stderr
    assert f'"log": "{signer.origin}"' in verified.stdout
    denied = cli("log", "verify", env={**env, "MODELREG_TOKEN": registry.token("person:o", "pull:demo/*")})
    assert denied.returncode == 30

    copies = log_copies.Copies(registry.parts.store, signer)
    with registry.parts.database.reading() as session:
        log_copies.publish(session, copies, 0)
    folder = registry.parts.settings.data_dir / copies.folder
    copied = {**env, "MODELREG_REGISTRY": "http://127.0.0.1:1"}
    assert cli("log", "verify", "--copies", folder, env=copied).returncode == 0
    state = log_state.folder_of(
        tmp_path / "home" / ".local/state/modelreg", trust.parse((tmp_path / "pinned.toml").read_bytes()).log
    )
    head = checkpoints.parse((folder / "checkpoint").read_bytes())
    for size, root, said in (
        (head.size, head.root, None),
        (head.size - 1, b"\1" * 32, "does not continue"),
        (head.size + 1, b"\1" * 32, f"had {head.size + 1} when this machine looked before"),
    ):
        replace_file(state / "checkpoint", checkpoints.sign(head.origin, size, root, signer.key))
        verified = cli("log", "verify", "--json", env=env)
        assert verified.returncode == (0 if said is None else 32), verified.stderr
        assert (said or f'"continues": {size}') in verified.stdout + verified.stderr
        copies_only = cli("log", "verify", "--copies", folder, env=copied)
        # A copy may be older than what was seen since: it is intact as far as it goes.
        assert copies_only.returncode == (32 if said and size < head.size else 0)
        assert (size > head.size) == ("ends before" in copies_only.stderr)
    (state / "checkpoint").unlink()

    bundle = folder / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"n":17}', b'"n":71}'))
    altered = cli("log", "verify", "--copies", folder, env=copied)
    assert altered.returncode == 32
    assert "entry " in altered.stderr
