"""Saving a compiled module to one file and loading it again.

The file is torch's own ``.pt2`` archive of an ExportedProgram in which every engine is an ``execute_engine`` call
whose plan tensor is the engine's file. So ``torch.export.load`` reads it too, once trtcore is imported, with torch's
own trust rules. `load` does not trust, and does not ask torch: the archive's member ``extra/trtcore.json`` has the
graph and the calling contract as plain data (`trtcore.ir.graph_json`, `trtcore.runtime.contract`), and the weights are
mapped where they lie in the file.
"""

from __future__ import annotations

from trtcore.archive.loading import is_saved_module, load
from trtcore.archive.members import FORMAT
from trtcore.archive.saving import example_inputs, save

__all__ = ["FORMAT", "example_inputs", "is_saved_module", "load", "save"]
