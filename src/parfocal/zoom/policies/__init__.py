"""In which order the fine tiles of a slide are read: a `Policy` in a file of this folder is found by its name.

Another package's is found by its entry point in the group `parfocal.policies`; `parfocal.testing.PolicyContract` says
what it must do.
"""

from parfocal.plugins import Registry
from parfocal.zoom.policies.policy import Policy

__all__ = ["POLICIES", "Policy"]

POLICIES: Registry[Policy] = Registry(Policy, "policy", "parfocal.zoom.policies")
