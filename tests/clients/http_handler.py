"""Logs a line of each level with the standard library's HTTPHandler, which
posts forms, does not read the answers and raises nothing."""

import logging
import logging.handlers
import sys
import urllib.parse

url, site = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2]


class Handler(logging.handlers.HTTPHandler):
    def mapLogRecord(self, record):
        return vars(record) | {
            "site": site,
            "log_message": record.getMessage(),
            "log_level": f"{record.levelname:<8}",
            "timestamp": record.created,
        }


logger = logging.getLogger("telescope")
logger.setLevel(logging.DEBUG)
logger.addHandler(Handler(url.netloc, url.path, method="POST", secure=url.scheme == "https"))
for number, level in enumerate(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]):
    logger.log(getattr(logging, level), "%d & more: %s°C, “R” = 100 %%", number, -5.5)
