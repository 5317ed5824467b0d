"""foreseer in ComfyUI: any installed policy on any diffusion transformer that ComfyUI runs, as nodes.

Nothing of ComfyUI is in here. Its objects are used through what it offers to custom nodes: wrappers on a model's
handle, and the node list.
"""
