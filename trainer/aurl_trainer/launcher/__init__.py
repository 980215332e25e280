"""PID 1 of every pod: starts torchrun, serves /metrics and /progress, explains the end. Imports no torch."""
