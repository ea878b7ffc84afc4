"""What a run writes besides weights: complete files, metrics, the manifest, the log, and trackers."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.runlog.files import (
        check_name,
        checksum,
        claimed,
        copy_own,
        is_own,
        locked,
        named,
        new_folder,
        one_at_a_time,
        open_new,
        put_in_place,
        read_json,
        read_mapping,
        refuse_link,
        remove_old_claim,
        write_bytes,
        write_json,
        write_text,
    )
    from inheritune.runlog.log import logger
    from inheritune.runlog.manifest import add_lineage, note_start, package_versions, versions
    from inheritune.runlog.metrics import MetricsLog, read_metrics
    from inheritune.runlog.terminal import LiveLine, PlainConsole, duration, log_on_terminal
    from inheritune.runlog.trackers import Trackers, check_trackers

__getattr__, __dir__ = lazy.exports(__name__)
