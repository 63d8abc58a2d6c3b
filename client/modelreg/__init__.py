"""modelreg: the chain of custody for model weights. `docs/` is the manual; `modelreg --help` the short one.

import modelreg

with modelreg.open_verified("acme/minilm:prod") as model:
tensors = model.tensors("model.safetensors")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["VerifiedModel", "__version__", "open_verified"]

if TYPE_CHECKING:
    from modelreg.loading import VerifiedModel, open_verified


def __getattr__(name: str) -> Any:
    """Load `loading` when it is asked for: `import modelreg` itself costs nothing."""
    if name in {"VerifiedModel", "open_verified"}:
        from modelreg import loading  # noqa: PLC0415

        return getattr(loading, name)
    raise AttributeError(f"module 'modelreg' has no attribute {name!r}")
