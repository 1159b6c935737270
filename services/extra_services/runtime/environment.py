"""Repairs of an environment in which Python's libraries would fail or hang.

A temporary folder with a long path: `multiprocessing` makes sockets below it, whose paths the kernel limits
to 107 bytes. A user without an entry in the password file, as containers have: `getpass.getuser`, which
torch's compiler calls, then needs a variable.
"""

import os
import pwd
import tempfile

#: Longest path of the temporary folder, in bytes: room remains for "/pymp-xxxxxxxx/listener-xxxxxxxx".
LONGEST_FOLDER = 70
SHORT_FOLDER = "/tmp"


def prepare() -> None:
    """Repair the environment of this process and of its children.

    Raises:
        SystemExit: The path of the temporary folder is too long, and /tmp cannot be used instead.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        if not os.access(SHORT_FOLDER, os.W_OK):
            raise SystemExit(
                f"the path of the temporary folder, {folder}, is too long for sockets in it, and"
                f" {SHORT_FOLDER} cannot be written: set TMPDIR to a folder of at most {LONGEST_FOLDER} bytes"
            )
        os.environ["TMPDIR"] = tempfile.tempdir = SHORT_FOLDER
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", f"uid-{os.getuid()}")
