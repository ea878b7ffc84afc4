"""The log: what a person is told during the work, through Python's `logging`."""

import logging

from inheritune.redaction import without_secrets

logger = logging.getLogger("inheritune")


def _hide(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


logger.addFilter(_hide)  # so that no handler sees credentials, a user's own included
