"""The process of one node: `python -m remotemedia.core.multiprocess.runner`."""
