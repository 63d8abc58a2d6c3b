"""witness. It uses no registry and none of the client's settings."""

import argparse
import signal
import sys
from types import FrameType

from modelreg import notes, witness
from modelreg.commands import now, output_of
from modelreg.errors import Invalid, Misconfigured


def run_init(options: argparse.Namespace) -> int:
    """`modelreg witness init --key FILE --name NAME`."""
    key = witness.make_key(options.new_key, options.name)
    output_of(options).result({"key": str(options.new_key), "vkey": str(key.verifier)}, str(key.verifier))
    return 0


def run_serve(options: argparse.Namespace) -> int:
    """`modelreg witness --listen ADDRESS:PORT --key FILE --state DIR --log VKEY…`; ends when it is told to."""
    if options.listen is None or options.witness_key is None or options.state is None:
        raise Invalid("say --listen ADDRESS:PORT --key FILE --state DIR --log VKEY; see `modelreg witness --help`")
    key = witness.read_key(options.witness_key)
    logs = [notes.parse_key(text, "--log", notes.ED25519) for text in options.log]
    watching = witness.Witness(key, options.state, logs, now)
    host, port = _address(options.listen)
    try:
        server = witness.WitnessServer((host, port), watching)
    except OSError as error:
        raise Misconfigured(f"cannot listen on {options.listen}: {error.strerror}") from None
    signal.signal(signal.SIGTERM, _end)
    with server:
        print(f"witness {key.verifier} listens on {host}:{server.server_address[1]}, watching {len(logs)} log keys")
        sys.stdout.flush()
        server.serve_forever()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{text[:200]} is no address to listen on; write 127.0.0.1:8471", field="listen")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
