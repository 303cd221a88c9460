"""Exchange with other tools: Neuronpedia's batches, SAEDashboard's pages, delphi's caches.

What maps to what, field by field, is in docs/methods/exchange.md. Files of others are read
as strangers' files: bounded, typed, and refused by name. No torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from features.exchange.errors import ExchangeError

if TYPE_CHECKING:
    from features.exchange.compare import compare_batch
    from features.exchange.dashboard_file import read_batch
    from features.exchange.delphi import export_delphi
    from features.exchange.delphi_import import import_delphi
    from features.exchange.explanations import import_explanations
    from features.exchange.neuronpedia import export_neuronpedia
    from features.exchange.saedashboard import export_dashboards

_HOMES = {
    "compare_batch": "features.exchange.compare",
    "export_dashboards": "features.exchange.saedashboard",
    "export_delphi": "features.exchange.delphi",
    "export_neuronpedia": "features.exchange.neuronpedia",
    "import_delphi": "features.exchange.delphi_import",
    "import_explanations": "features.exchange.explanations",
    "read_batch": "features.exchange.dashboard_file",
}

__all__ = [
    "ExchangeError",
    "compare_batch",
    "export_dashboards",
    "export_delphi",
    "export_neuronpedia",
    "import_delphi",
    "import_explanations",
    "read_batch",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'features.exchange' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
