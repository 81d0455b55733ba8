"""What a run costs on a cluster that need not be there: tokens, FLOPs, bytes, GPU hours, and what limits it first.

Pure arithmetic on a model's shape and a cluster's figures; docs/scaling.md derives it and says what it leaves out.
"""
