"""The EmberNet family: SigLIP -> compressor -> pooler -> projector -> ternary mixture-of-experts decoder."""
