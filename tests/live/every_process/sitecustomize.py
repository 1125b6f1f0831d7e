"""Run by each Python process of the live tests before anything else: the program's log at its most talkative goes to a file too."""

import logging
import os

_path = os.environ.get("DEBUG_LOG")
if _path:
    _handler = logging.FileHandler(_path, errors="backslashreplace")
    _handler.setFormatter(logging.Formatter("%(process)d %(levelname)s %(name)s %(message)s"))
    for _name in ("tinyp2p", "asyncio", "uvicorn", "zeroconf", "py.warnings"):
        logging.getLogger(_name).addHandler(_handler)
    logging.getLogger("tinyp2p").setLevel(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
