"""The Aurl operator: turns an AurlTrainingJob into a torchrun gang of pods and reports what became of it."""

__version__ = "0.2.0"
