"""Process groups: rendezvous, collectives, DDP and FSDP, and errors of broken collectives."""
