"""The modelreg registry server (extra `server`)."""


def main() -> int:
    """Console script. Says how to install the server's dependencies when they are absent."""
    try:
        from modelreg_server.cli import main as run  # noqa: PLC0415
    except ImportError as error:
        import sys  # noqa: PLC0415

        print(f"modelreg-server needs {error.name}: pip install 'modelreg[server]'", file=sys.stderr)  # noqa: T201
        return 1
    return run()
