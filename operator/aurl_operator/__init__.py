"""The Aurl operator: runs each AurlTrainingJob as a torchrun gang of pods and reports how it is doing."""

__version__ = "0.2.0"
