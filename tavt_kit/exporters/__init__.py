"""From a wrapped model and a schedule to a file that is shipped: ONNX, OpenVINO, int8.

Nothing is imported here: an ONNX export needs no OpenVINO, and neither needs NNCF.
"""

from __future__ import annotations
