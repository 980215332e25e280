"""The machine: durable files, cgroups, memory, devices, random state."""
