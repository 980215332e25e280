"""Development tools: the local cluster, the demo, the benchmarks, the screenshots."""
