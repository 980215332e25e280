"""The machine underneath: files that survive a crash, cgroups, memory, devices, random state."""
