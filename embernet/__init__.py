"""embernet: ternary vision-language models, from PyTorch to a 512 MB computer.

`embernet.runtime` answers questions about images and needs no torch; `embernet.models` holds the PyTorch side;
`embernet.export` turns a checkpoint into a bundle; `embernet.device` looks at the board.
"""

from pathlib import Path

from embernet.errors import EmbernetError

__version__ = "0.1.0"
__all__ = ["EmbernetError", "__version__"]

# In a checkout, `export/`, `runtime/` and `device/` lie beside this folder; an installed package holds them inside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "runtime" / "bundle.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
