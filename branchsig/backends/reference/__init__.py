"""The reference: the branched signature kernel in calls of the array API standard, for arrays of any library.

`recursion` computes levels by depth, `nodes` components by number of nodes, and `untruncated` the kernel of all
forests, each with its adjoint; `bounds` bounds their errors, and `backend` solves a `Problem`.
"""

from branchsig.backends.reference.backend import ReferenceBackend

__all__ = ["ReferenceBackend"]
