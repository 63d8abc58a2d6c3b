"""modelreg: the chain of custody for model weights. `docs/` is the manual; `modelreg --help` the short one."""

__version__ = "0.1.0"
