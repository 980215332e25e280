"""Typed models of the AurlTrainingJob resource, from which the CRD is generated. Imports no kopf."""
