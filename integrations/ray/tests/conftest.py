"""Without the extra ``ray`` there is nothing to test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]
