"""Methods: how an arm's target starts and how it is trained. Every `Method` in a file of this folder is one."""

from inheritune.experiment.methods.base import Method
from inheritune.settings.components import subclasses_in

_FOUND = subclasses_in(__name__, __path__, Method, helpers=["base"])
METHODS: dict[str, type[Method]] = dict(sorted((method.model_fields["kind"].default, method) for method in _FOUND))
"""Every method by the name that suites use."""
