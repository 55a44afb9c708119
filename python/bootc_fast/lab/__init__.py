"""A whole bootc host in a directory, to try things out on and to test with.

No privileges are needed. As root, owners, device nodes and all extended attributes are as in the source tree;
otherwise every file's owner is the caller, in the image as in /etc, and what only root may create is left out.
"""

from bootc_fast.lab.build import LabDir, LabFile, LabFiles, LabLink, make_host, stage_files, write_files
from bootc_fast.lab.commands import create, stage
from bootc_fast.lab.edits import Edit, apply_edits
from bootc_fast.lab.firmware import Bootup, boot, read_boot_menu
from bootc_fast.lab.forms import LabForms
from bootc_fast.lab.layout import LabHost, open_lab

__all__ = [
    "Bootup",
    "Edit",
    "LabDir",
    "LabFile",
    "LabFiles",
    "LabForms",
    "LabHost",
    "LabLink",
    "apply_edits",
    "boot",
    "create",
    "make_host",
    "open_lab",
    "read_boot_menu",
    "stage",
    "stage_files",
    "write_files",
]
