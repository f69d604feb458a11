"""Stage two: selective mixup fine-tuning of the linear head."""
