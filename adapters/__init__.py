"""Hosts: what evaluates the denoiser, behind `foreseer.backbone.Backbone`."""

from foreseer.adapters._attach import attach
from foreseer.adapters._detach import detach
from foreseer.adapters.arrays import ArrayBackbone
from foreseer.adapters.attachment import Attachment
from foreseer.adapters.calls import Call
from foreseer.adapters.module_backbone import ModuleBackbone
from foreseer.adapters.wires import Wires

__all__ = ["ArrayBackbone", "Attachment", "Call", "ModuleBackbone", "Wires", "attach", "detach"]
