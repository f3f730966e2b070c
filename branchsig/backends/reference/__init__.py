"""The reference: the branched signature kernel in calls of the array API standard, for arrays of any library.

`recursion` has the levels by depth, `nodes` the components by number of nodes, `untruncated` the kernel of all forests,
each with its adjoint; `bounds` says which values have lost their digits, and `backend` serves a `Problem`.
"""

from branchsig.backends.reference.backend import ReferenceBackend

__all__ = ["ReferenceBackend"]
