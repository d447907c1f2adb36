"""From a wrapped model and a schedule to a file that is shipped: ONNX, OpenVINO, int8.

``artifact`` is the standard library only, so that an edge box can read what a file carries; everything else is
imported by the verb that exports.
"""

from __future__ import annotations
