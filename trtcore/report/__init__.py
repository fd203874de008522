"""What a compile did: the Report as data, text and JSON, and how it is filled."""

from __future__ import annotations

from trtcore.report.data import Report

__all__ = ["Report"]
