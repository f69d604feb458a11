"""Backbones: the frozen map from an image to its feature, and how to name one (docs/backbones.md)."""

from selmix.backbones.backbone import Backbone, checksum
from selmix.backbones.load import load_backbone, load_backbone_folder
from selmix.backbones.models import build_model
from selmix.backbones.preprocessing import Preprocessing

__all__ = ["Backbone", "Preprocessing", "build_model", "checksum", "load_backbone", "load_backbone_folder"]
