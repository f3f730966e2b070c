"""What a framework needs beyond its arrays, imported on demand: nothing here is imported until an array of it comes in.

The public functions take the arrays of every framework. Those that a framework records, traces or defers are handed to
its file, which knows nothing of kernels: it runs a `Call` in whatever way the framework has for foreign functions.
"""
