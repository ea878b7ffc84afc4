"""Methods: how an arm's target starts and how it is trained. Every file here that holds a `Method` adds one."""

from inheritune.experiment.methods.base import Method, Stage
from inheritune.settings.components import subclasses_in

METHODS: dict[str, type[Method]] = {
    method.model_fields["kind"].default: method
    for method in subclasses_in(__name__, __path__, Method, helpers=["base"])
}
"""Every method by the name that suites use."""

__all__ = ["METHODS", "Method", "Stage"]
