"""What a run leaves on disk besides weights: whole files, metrics, the manifest."""

from inheritune.runlog.files import checksum, new_folder, read_json, write_json, write_text
from inheritune.runlog.manifest import add_lineage, note_start, versions
from inheritune.runlog.metrics import MetricsLog, read_metrics
from inheritune.runlog.terminal import LiveLine, Terminal

__all__ = [
    "LiveLine",
    "MetricsLog",
    "Terminal",
    "add_lineage",
    "checksum",
    "new_folder",
    "note_start",
    "read_json",
    "read_metrics",
    "versions",
    "write_json",
    "write_text",
]
